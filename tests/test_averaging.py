"""The mean of LoRA adapters, and the reduction of their rank."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Shell
from safetensors.torch import load_file, save_file

from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.training import average_adapters
from llamaindex_code_retrieval.training.adapters import attach_adapter, save_adapter
from llamaindex_code_retrieval.training.config import AdapterConfig

TEXTS = ["read the file", "def add(a, b):\n    return a + b"]


def adapter(base: Path, folder: Path, *, seed: int, rank: int = 2, **settings: object) -> Path:
    """Save an adapter with random weights."""
    config = AdapterConfig(rank=rank, **settings)  # type: ignore[arg-type]
    model = attach_adapter(Encoder.from_pretrained(base, precision="fp32"), config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.backbone.parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=generator) * 0.2)
    save_adapter(model, folder)
    return folder


def changes(folder: Path) -> dict[str, torch.Tensor]:
    """Return the change of the weight of each module."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    modules = {name.rpartition(".lora_")[0] for name in tensors}
    return {m: scale * tensors[f"{m}.lora_B.weight"] @ tensors[f"{m}.lora_A.weight"] for m in modules}


def test_the_mean_is_exact_at_the_sum_of_the_ranks(bert_folder: Path, tmp_path: Path) -> None:
    one = adapter(bert_folder, tmp_path / "one", seed=1, rank=2)
    two = adapter(bert_folder, tmp_path / "two", seed=2, rank=3, alpha=1.5)
    record = average_adapters([one, two], tmp_path / "mean", rank=5)
    assert record["kept"] == pytest.approx(1.0)
    first, second = changes(one), changes(two)
    for module, mean in changes(tmp_path / "mean").items():
        torch.testing.assert_close(mean, (first[module] + second[module]) / 2, atol=1e-5, rtol=1e-4)
    base = Encoder.from_pretrained(bert_folder, precision="fp32")
    assert np.abs(base.with_adapter(tmp_path / "mean").encode_codes(TEXTS) - base.encode_codes(TEXTS)).max() > 0.01


def test_a_smaller_rank_keeps_the_largest_singular_values(bert_folder: Path, tmp_path: Path) -> None:
    """Compared with NumPy's SVD of the dense change."""
    whole = adapter(bert_folder, tmp_path / "whole", seed=1, rank=6)
    record = average_adapters([whole], tmp_path / "small", rank=2)
    kept = total = 0.0
    small = changes(tmp_path / "small")
    for module, change in changes(whole).items():
        u, values, vt = np.linalg.svd(change.numpy())
        np.testing.assert_allclose(small[module].numpy(), u[:, :2] * values[:2] @ vt[:2], atol=1e-5)
        kept, total = kept + float((values[:2] ** 2).sum()), total + float((values**2).sum())
    assert record["kept"] == pytest.approx(kept / total, abs=1e-5)
    assert 0.2 < record["kept"] < 0.95


def test_the_mean_of_an_adapter_with_itself_is_the_adapter(bert_folder: Path, tmp_path: Path) -> None:
    one = adapter(bert_folder, tmp_path / "one", seed=1)
    record = average_adapters([one, one, one], tmp_path / "mean")
    assert (record["rank"], [each["name"] for each in record["averaged"]]) == (2, ["one"] * 3)
    base = Encoder.from_pretrained(bert_folder, precision="fp32")
    vectors = [base.with_adapter(folder).encode_codes(TEXTS) for folder in (one, tmp_path / "mean")]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=1e-5)
    again = average_adapters([one], tmp_path / "wide", rank=4)  # a larger rank adds zeros
    assert again["kept"] == pytest.approx(1.0)
    np.testing.assert_allclose(base.with_adapter(tmp_path / "wide").encode_codes(TEXTS), vectors[0], atol=1e-5)


def test_refuses_what_cannot_be_averaged(bert_folder: Path, roberta_folder: Path, tmp_path: Path) -> None:
    one = adapter(bert_folder, tmp_path / "one", seed=1)
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="no adapter to average"):
        average_adapters([], out)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        average_adapters([one], out, rank=0)
    with pytest.raises(ValueError, match="is not empty"):
        average_adapters([one], one)
    with pytest.raises(ValueError, match="one and roberta are adapters of different bases"):
        average_adapters([one, adapter(roberta_folder, tmp_path / "roberta", seed=1)], out)
    upper = adapter(bert_folder, tmp_path / "upper", seed=1, first_layer=1)
    with pytest.raises(ValueError, match=r"one and upper differ in .*layer\.0.*\(32, 32\) and None"):
        average_adapters([one, upper], out)
    ia3 = tmp_path / "ia3"
    base = Encoder.from_pretrained(bert_folder, precision="fp32")
    save_adapter(attach_adapter(base, AdapterConfig(method="ia3")), ia3)
    with pytest.raises(ValueError, match="the adapter ia3 is IA3; only plain LoRA can be averaged"):
        average_adapters([one, ia3], out)
    weights = load_file(one / "adapter_model.safetensors")
    save_file({name: torch.full_like(w, torch.nan) for name, w in weights.items()}, one / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="NaN or infinite"):
        average_adapters([one], out)
    assert not out.exists()


def test_the_command_averages_shipped_adapters(shell: Shell, tmp_path: Path) -> None:
    out = tmp_path / "mean"
    reduced = shell("average", "embedded-general", "--rank", "4", "--out", tmp_path / "reduced", "--json")
    assert 0.1 < reduced["kept"] < 0.9
    record = shell("average", "embedded-general", tmp_path / "reduced", "--rank", "68", "--out", out, "--json")
    assert record["kept"] == pytest.approx(1.0)
    assert [each["name"] for each in record["averaged"]] == ["embedded-general", "reduced"]
    assert record["base"]["name"] == "embedded"
    assert "mean of" in (out / "README.md").read_text()
    assert "100.00%" in shell("average", out, "--out", tmp_path / "again")
    shell.fails("average", "embedded-general", "nonsense", "--out", tmp_path / "x", says="unknown adapter 'nonsense'")
