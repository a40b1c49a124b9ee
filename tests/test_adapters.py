"""Adapters of every method on every architecture: shapes, shares, saving, reloading, merging."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CODES
from peft import PeftModel
from safetensors.torch import save_file
from torch.nn import Parameter
from transformers import T5Config, T5EncoderModel

from llamaindex_code_retrieval.models.catalog import EMBEDDED
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.training.adapters import attach_adapter, mean_rank, save_adapter, trained_share
from llamaindex_code_retrieval.training.config import METHODS, AdapterConfig, Method
from llamaindex_code_retrieval.training.targets import adapter_targets

FOLDERS = ["bert_folder", "roberta_folder", "unixcoder_folder", "t5_folder", "codet5p_folder", "codesage_folder"]
PEFT_METHODS: list[Method] = [method for method in METHODS if method != "full"]


def shaken(encoder: Encoder, *, seed: int = 0) -> Encoder:
    """Move every trained parameter, so that the adapter changes vectors."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return encoder


def _encoder(folder: Path) -> Encoder:
    return Encoder.from_pretrained(folder, precision="fp32", max_query_tokens=32, max_code_tokens=32)


@pytest.mark.parametrize("fixture", FOLDERS)
@pytest.mark.parametrize("method", METHODS)
def test_saves_and_reloads(method: Method, fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    base = _encoder(request.getfixturevalue(fixture))
    bare = base.encode_codes(CODES)
    adapted = shaken(attach_adapter(base, AdapterConfig.preset(method), total_steps=100))
    vectors = adapted.encode_codes(CODES)
    assert np.abs(vectors - bare).max() > 1e-3
    np.testing.assert_array_equal(base.encode_codes(CODES), bare)  # training changed a copy, or added modules

    out = tmp_path / ("unixcoder" if fixture == "unixcoder_folder" else "out")
    save_adapter(adapted, out)
    again = _encoder(out) if method == "full" else base.with_adapter(out)
    np.testing.assert_allclose(again.encode_codes(CODES), vectors, atol=5e-6)  # merged now, so rounded otherwise
    assert not list(out.glob("*.bin"))
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("method", ["lora", "adalora", "ia3"])
def test_merges_into_the_base(method: Method, bert_folder: Path) -> None:
    adapted = shaken(attach_adapter(_encoder(bert_folder), AdapterConfig.preset(method), total_steps=100))
    vectors = adapted.encode_codes(CODES)
    own = adapted.with_backbone(lambda _: adapted.backbone)
    own.backbone = own.backbone.merge_and_unload()
    np.testing.assert_allclose(own.encode_codes(CODES), vectors, atol=1e-6)


@pytest.mark.parametrize("method", PEFT_METHODS)
def test_saved_adapters_load_with_plain_peft(method: Method, t5_folder: Path, tmp_path: Path) -> None:
    adapted = shaken(attach_adapter(_encoder(t5_folder), AdapterConfig.preset(method), total_steps=100))
    save_adapter(adapted, tmp_path / "a")
    assert len({file.stat().st_mode for file in (tmp_path / "a").iterdir()}) == 1  # who may read one may read all
    plain = PeftModel.from_pretrained(T5EncoderModel.from_pretrained(t5_folder), str(tmp_path / "a")).eval()
    ids = torch.tensor(adapted.tokenize(["def f(x): return x"], side="code"))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        ours = adapted.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        theirs = plain(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("fixture", ["bert_folder", "t5_folder"])
def test_prompt_tuning_pools_text_only(fixture: str, request: pytest.FixtureRequest) -> None:
    encoder = shaken(attach_adapter(_encoder(request.getfixturevalue(fixture)), AdapterConfig.preset("prompt")))
    alone = torch.cat([encoder([text], side="code") for text in CODES])
    together = encoder(CODES, side="code")  # padded to the longest
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fixture", FOLDERS)
def test_targets_name_the_linear_layers_of_the_blocks(fixture: str, request: pytest.FixtureRequest) -> None:
    encoder = _encoder(request.getfixturevalue(fixture))
    adapted = attach_adapter(encoder, AdapterConfig(targets="linear", rank=1))
    found = [name for name, _ in adapted.backbone.named_parameters() if "lora_A" in name]
    per_block = {"bert_folder": 6, "roberta_folder": 6, "unixcoder_folder": 6, "codesage_folder": 4}.get(fixture, 6)
    assert len(found) == 2 * per_block  # two blocks
    assert not any("pooler" in name for name in found)
    attention = attach_adapter(encoder, AdapterConfig(targets="attention", rank=1))
    found = [name for name, _ in attention.backbone.named_parameters() if "lora_A" in name]
    assert len(found) == 2 * (1 if fixture == "codesage_folder" else 2)


def test_share_counted_by_hand(bert_folder: Path) -> None:
    encoder = _encoder(bert_folder)
    # Rank 2 on query and value, 32 -> 32, in two blocks: 2 * 2 * 2 * (32 + 32).
    trained, base = trained_share(attach_adapter(encoder, AdapterConfig(rank=2, targets="attention")))
    assert trained == 512
    assert base == sum(p.numel() for p in encoder.backbone.parameters())
    # (IA)3: 32 keys, 32 values, 64 inputs of the second feed-forward layer, in two blocks.
    assert trained_share(attach_adapter(encoder, AdapterConfig(method="ia3")))[0] == 256
    assert trained_share(attach_adapter(encoder, AdapterConfig(method="prompt", virtual_tokens=3)))[0] == 96


@pytest.fixture(scope="module")
def full_size_codet5p(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CodeT5+ 110M embedding in its real shapes with its real tokenizer; all weights are zero."""
    root = os.environ.get("CODE_RETRIEVAL_DATA")
    tokenizer = Path(root or "", "codet5_tokenizer")
    if root is None or not tokenizer.is_dir():
        pytest.skip("needs $CODE_RETRIEVAL_DATA/codet5_tokenizer, the vocabulary of CodeT5")
    folder = tmp_path_factory.mktemp("full")
    config = T5Config(
        vocab_size=32103,
        d_model=768,
        d_kv=64,
        d_ff=3072,
        num_layers=12,
        num_heads=12,
        feed_forward_proj="relu",
        pad_token_id=0,
        eos_token_id=2,
    )
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in T5EncoderModel(config).state_dict().items()}
    shapes |= {"proj.weight": torch.Size([256, 768]), "proj.bias": torch.Size([256])}
    weights = {key: torch.zeros(shape, dtype=torch.float16) for key, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors")
    settings = json.loads(config.to_json_string()) | {"model_type": "codet5p_embedding", "embed_dim": 256}
    (folder / "config.json").write_text(json.dumps(settings))
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    return folder


def test_presets_train_little_of_codet5p_110m(full_size_codet5p: Path) -> None:
    encoder = Encoder.from_pretrained(full_size_codet5p, precision="fp32")
    shares = {}
    for method in PEFT_METHODS:
        trained, base = trained_share(attach_adapter(encoder, AdapterConfig.preset(method), total_steps=100))
        assert 109e6 < base < 111e6
        shares[method] = trained / base
    assert max(shares.values()) <= 0.004, shares
    assert min(shares.values()) > 0


def test_adalora_starts_with_orthonormal_singular_vectors(bert_folder: Path) -> None:
    adapted = attach_adapter(_encoder(bert_folder), AdapterConfig.preset("adalora"), total_steps=10)
    vectors = {
        name: p.detach() for name, p in adapted.backbone.named_parameters() if "lora_A" in name or "lora_B" in name
    }
    assert len(vectors) == 8  # two layers, query and value
    for name, p in vectors.items():
        rows = p if "lora_A" in name else p.T
        torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(adapted.encode_codes(["x = 1"]), _encoder(bert_folder).encode_codes(["x = 1"]))


def test_adalora_needs_room_to_prune(bert_folder: Path) -> None:
    with pytest.raises(ValueError, match="at least 10 steps"):
        attach_adapter(_encoder(bert_folder), AdapterConfig.preset("adalora"), total_steps=9)
    adapted = attach_adapter(_encoder(bert_folder), AdapterConfig.preset("adalora"), total_steps=10)
    assert mean_rank(shaken(adapted)) == AdapterConfig.preset("adalora").initial_rank


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "dora"}, "method must be 'lora', 'adalora'"),
        ({"rank": 0}, "rank must be greater than or equal to 1, got 0"),
        ({"method": "adalora", "rank": 4, "initial_rank": 4}, "initial_rank must be the larger"),
        ({"dropout": 1.0}, "dropout must be less than 1"),
    ],
)
def test_refuses_nonsense(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterConfig(**settings)  # type: ignore[arg-type]


def test_refuses_what_does_not_fit(bert_folder: Path, t5_folder: Path, tmp_path: Path) -> None:
    encoder = _encoder(bert_folder)
    with pytest.raises(ValueError, match="no module of this base matches targets='nothing'"):
        attach_adapter(encoder, AdapterConfig(targets="nothing"))
    with pytest.raises(ValueError, match="are not known; name them with targets="):
        adapter_targets("mamba")
    save_adapter(attach_adapter(encoder, AdapterConfig(rank=3)), tmp_path / "three")
    with pytest.raises(ValueError, match="already has the adapter"):
        attach_adapter(encoder.with_adapter(tmp_path / "three"), AdapterConfig())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 8}, "rank is 3 there and 8 here, alpha is 6 there and 16 here; train with the same settings, or"),
        ({"rank": 3, "alpha": 3}, "alpha is 6 there and 3"),
        ({"rank": 3, "targets": "attention"}, "targets is '.*' there and '.*query"),
        ({"method": "ia3"}, "method is 'LORA' there and 'IA3' here"),
        ({"method": "prompt"}, "method is 'LORA' there and 'PROMPT_TUNING' here, virtual_tokens is None there and 8"),
        ({"method": "adalora"}, "AdaLoRA chooses its ranks anew"),
        ({"method": "full"}, "full training starts from a base: name its folder as the base"),
    ],
)
def test_a_start_of_another_shape_is_refused(
    settings: dict[str, Any], message: str, bert_folder: Path, tmp_path: Path
) -> None:
    encoder = _encoder(bert_folder)
    save_adapter(attach_adapter(encoder, AdapterConfig(rank=3)), tmp_path / "three")
    with pytest.raises(ValueError, match=message):
        attach_adapter(encoder, AdapterConfig(**settings), start=tmp_path / "three")


def test_goes_on_from_an_adapter(bert_folder: Path, tmp_path: Path) -> None:
    encoder = _encoder(bert_folder)
    first = shaken(attach_adapter(encoder, AdapterConfig()))
    save_adapter(first, tmp_path / "first")
    second = attach_adapter(encoder, AdapterConfig(), start=tmp_path / "first")
    np.testing.assert_allclose(second.encode_codes(CODES), first.encode_codes(CODES), atol=1e-6)
    assert trained_share(second) == trained_share(first)
    assert all(isinstance(p, Parameter) for p in second.backbone.parameters())


def test_adapters_of_another_base_or_pooling_are_refused(
    bert_folder: Path, roberta_folder: Path, tmp_path: Path
) -> None:
    encoder = _encoder(bert_folder)
    save_adapter(attach_adapter(encoder, AdapterConfig()), tmp_path)
    record = {"name": "mine", "fingerprint": encoder.base_fingerprint, "pooling": "mean", "architecture": "bert"}
    (tmp_path / "train_config.json").write_text(json.dumps({"base": record}))
    assert encoder.with_adapter(tmp_path).adapter == tmp_path
    longer = Encoder.from_pretrained(bert_folder, precision="fp32", max_code_tokens=16)
    assert longer.with_adapter(tmp_path).fingerprint != encoder.with_adapter(tmp_path).fingerprint
    with pytest.raises(ValueError, match=r"trained for pooling 'mean'.*pass pooling='mean'"):
        Encoder.from_pretrained(bert_folder, pooling="cls").with_adapter(tmp_path)
    with pytest.raises(ValueError, match="was trained on 'mine' with base fingerprint"):
        _encoder(roberta_folder).with_adapter(tmp_path)


def test_a_saved_adapter_names_its_base_as_the_hub_does(bert_folder: Path, tmp_path: Path) -> None:
    encoder = Encoder.from_pretrained(EMBEDDED, precision="fp32")
    save_adapter(attach_adapter(encoder, AdapterConfig(rank=1)), tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    assert encoder.with_adapter(tmp_path / "a").adapter == tmp_path / "a"
    encoder = _encoder(bert_folder)
    encoder.name = "org/model@1a2b"
    save_adapter(attach_adapter(encoder, AdapterConfig(rank=1)), tmp_path / "b")
    config = json.loads((tmp_path / "b" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/model", "1a2b")
