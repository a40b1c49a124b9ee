"""Adapters loaded on an encoder: agreement with PEFT, merging, and those that do not fit."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CODES, Weights, unit_rows
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from llamaindex_code_retrieval.models.catalog import PRECISIONS
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.locate import locate_adapter


def _adapter(kind: str) -> PeftConfig:
    task = TaskType.FEATURE_EXTRACTION
    if kind == "lora":
        return LoraConfig(task_type=task, r=4, target_modules=["query", "value"], init_lora_weights=False)
    if kind == "adalora":
        return AdaLoraConfig(task_type=task, init_r=4, target_r=2, total_step=10, target_modules=["query", "value"])
    if kind == "ia3":
        return IA3Config(
            task_type=task, target_modules=["key", "value"], feedforward_modules=[], init_ia3_weights=False
        )
    return PromptTuningConfig(task_type=task, num_virtual_tokens=5)


@pytest.mark.parametrize("kind", ["lora", "adalora", "ia3", "prompt"])
def test_adapters_saved_by_peft(kind: str, bert_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    model = get_peft_model(AutoModel.from_pretrained(bert_folder), _adapter(kind))
    for name, weight in model.named_parameters():
        if "lora_" in name or "ia3_" in name or "prompt" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(tmp_path)

    limits: dict[str, Any] = {"precision": "fp32", "max_query_tokens": 32, "max_code_tokens": 32}
    base = Encoder.from_pretrained(bert_folder, **limits)
    adapted = Encoder.from_pretrained(bert_folder, adapter=tmp_path, **limits)
    assert adapted.fingerprint != base.fingerprint
    assert abs(adapted.encode_codes(CODES) - base.encode_codes(CODES)).max() > 0.001

    reference = PeftModel.from_pretrained(AutoModel.from_pretrained(bert_folder), str(tmp_path)).eval()
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    virtual = 5 if kind == "prompt" else 0
    rows = []
    for code in CODES:
        tokens = tokenizer(code, truncation=True, max_length=32, return_tensors="pt")
        with torch.no_grad():
            output = reference(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        rows.append(output.last_hidden_state[0, virtual:].mean(0))
    # In one padded batch: neither virtual nor padding tokens may enter the mean.
    np.testing.assert_allclose(adapted.encode_codes(CODES), unit_rows(rows), atol=1e-5)


@pytest.mark.parametrize("folder", ["codet5p_folder", "codesage_folder"])
def test_prompt_tuning_on_the_native_architectures(folder: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = request.getfixturevalue(folder)
    limits: dict[str, Any] = {"precision": "fp32", "max_query_tokens": 32, "max_code_tokens": 32}
    base = Encoder.from_pretrained(path, **limits)
    config = PromptTuningConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=4)
    model = get_peft_model(base.backbone, config)
    model.save_pretrained(tmp_path)
    adapted = Encoder.from_pretrained(path, adapter=tmp_path, **limits)
    together = adapted.encode_codes(CODES)
    np.testing.assert_allclose(together, np.concatenate([adapted.encode_codes([c]) for c in CODES]), atol=1e-5)
    assert together.shape[1] == adapted.dim == base.dim


def _unmerged(base: Encoder, folder: Path) -> Encoder:
    def attach(backbone: Any) -> Any:
        return PeftModel.from_pretrained(copy.deepcopy(backbone), str(folder)).eval()

    return base.with_backbone(attach)


MERGEABLE: dict[str, list[str]] = {
    "bert_folder": ["query", "dense"],
    "t5_folder": ["q", "wo"],
    "codet5p_folder": ["q", "wo"],
    "codesage_folder": ["c_attn", "c_proj"],
}


@pytest.mark.parametrize("kind", ["lora", "adalora", "ia3"])
@pytest.mark.parametrize("folder", MERGEABLE)
def test_merged_equals_unmerged_and_the_base_stays(
    folder: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    path, targets, task = request.getfixturevalue(folder), MERGEABLE[folder], TaskType.FEATURE_EXTRACTION
    base = Encoder.from_pretrained(path, precision="fp32")
    before = {name: (w.data_ptr(), w.clone()) for name, w in base.backbone.named_parameters()}
    vectors = base.encode_codes(CODES)
    config: PeftConfig
    if kind == "lora":
        config = LoraConfig(
            task_type=task, r=2, target_modules=targets, bias="lora_only" if "bert" in folder else "none"
        )
    elif kind == "adalora":
        config = AdaLoraConfig(task_type=task, init_r=4, target_r=2, total_step=10, target_modules=targets)
    else:
        config = IA3Config(task_type=task, target_modules=targets, feedforward_modules=targets[1:])
    model = get_peft_model(copy.deepcopy(base.backbone), config)
    torch.manual_seed(8)
    for name, weight in model.named_parameters():
        if "lora_" in name or "bias" in name:
            torch.nn.init.normal_(weight, std=0.1)
        elif "ia3_" in name:
            torch.nn.init.uniform_(weight, 0.2, 1.8)
    model.save_pretrained(tmp_path)

    adapted = base.with_adapter(tmp_path)
    assert not any("lora_" in name or "ia3_" in name for name, _ in adapted.backbone.named_parameters())
    got = adapted.encode_codes(CODES)
    assert abs(got - vectors).max() > 0.001
    np.testing.assert_allclose(got, _unmerged(base, tmp_path).encode_codes(CODES), atol=1e-6)

    for name, weight in base.backbone.named_parameters():
        pointer, value = before[name]
        assert weight.data_ptr() == pointer
        assert torch.equal(weight, value)
    np.testing.assert_array_equal(base.encode_codes(CODES), vectors)
    np.testing.assert_array_equal(adapted.without_adapter().encode_codes(CODES), vectors)
    shared = {pointer for pointer, _ in before.values()}
    copied = [n for n, w in adapted.backbone.named_parameters() if w.data_ptr() not in shared]
    changed = (*targets, "bias") if kind == "lora" and "bert" in folder else targets
    assert copied
    assert all(any(part in changed for part in name.split(".")) for name in copied)

    beside = base.with_adapter(tmp_path, merge=False)
    assert beside.fingerprint == adapted.fingerprint
    np.testing.assert_allclose(beside.encode_codes(CODES), got, atol=1e-6)
    own = {name for name, weight in beside.backbone.named_parameters() if weight.data_ptr() not in shared}
    assert own
    assert all(any(part in name for part in ("lora_", "ranknum", "ia3_", "bias")) for name in own)


def test_bf16_adapters_are_merged_in_fp32(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    for kind in ("lora", "ia3", "prompt"):
        options: dict[str, Any] = {"adapter": adapter_folders[kind], "max_query_tokens": 32, "max_code_tokens": 32}
        exact = Encoder.from_pretrained(bert_folder, precision="fp32", **options)
        rough = Encoder.from_pretrained(bert_folder, precision="bf16", **options)
        assert {weight.dtype for weight in rough.backbone.parameters()} == {torch.bfloat16}
        cosines = (exact.encode_codes(CODES) * rough.encode_codes(CODES)).sum(1)
        assert cosines.min() > 0.99


def test_virtual_tokens_need_room(bert_folder: Path, tmp_path: Path) -> None:
    get_peft_model(AutoModel.from_pretrained(bert_folder), _adapter("prompt")).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="64 tokens and the adapter's 5 virtual ones do not fit the model's 64 positions"
    ):
        Encoder.from_pretrained(bert_folder, adapter=tmp_path)
    encoder = Encoder.from_pretrained(bert_folder, adapter=tmp_path, max_query_tokens=59, max_code_tokens=59)
    assert encoder.encode_codes(["a " * 100]).shape == (1, 32)


QUERY_A = "base_model.model.encoder.layer.0.attention.self.query.lora_A.weight"
EMBEDDINGS = "base_model.model.embeddings.word_embeddings.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {f"x.{key}": v for key, v in w.items()}, "22 of 22 tensors are missing: .*22 .*unexpected: x.base"),
        (lambda w: {k: v for k, v in w.items() if "layer.1." not in k}, r"10 of 22 tensors are missing: .*layer\.1\."),
        (lambda w: {k: v for k, v in w.items() if k != QUERY_A}, f"1 of 22 tensors are missing: {QUERY_A}"),
        (
            lambda w: w | {QUERY_A.replace("layer.0", "layer.2"): w[QUERY_A] + 1},
            r"1 tensors are unexpected: .*layer\.2\.",
        ),
        (lambda w: w | {EMBEDDINGS: torch.zeros(5, 32)}, f"1 tensors are unexpected: {EMBEDDINGS}"),
        (lambda w: w | {QUERY_A: torch.zeros(3, 32)}, rf"{QUERY_A} is \(3, 32\), expected \(2, 32\)"),
        (lambda w: w | {QUERY_A: torch.full((2, 32), torch.nan)}, f"NaN or infinite values in 1 tensors: {QUERY_A}"),
        (lambda w: w | {QUERY_A: torch.full((2, 32), -torch.inf)}, f"NaN or infinite values in 1 tensors: {QUERY_A}"),
    ],
)
def test_adapters_that_do_not_fit_are_refused(
    change: Callable[[Weights], Weights],
    message: str,
    bert_folder: Path,
    adapter_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(adapter_folders["lora"], tmp_path / "adapter"))
    save_file(change(load_file(folder / "adapter_model.safetensors")), folder / "adapter_model.safetensors")
    base = Encoder.from_pretrained(bert_folder, precision="fp32")
    before = {name: weight.clone() for name, weight in base.base.named_parameters()}
    with pytest.raises(ValueError, match=f"{message}.*the adapter was made for"):
        base.with_adapter(folder)
    assert all(torch.equal(weight, before[name]) for name, weight in base.base.named_parameters())


@pytest.mark.parametrize("kind", ["adalora", "ia3", "prompt"])
def test_each_method_lacking_a_tensor_is_refused(
    kind: str, bert_folder: Path, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(adapter_folders[kind], tmp_path / "adapter"))
    weights = load_file(folder / "adapter_model.safetensors")
    lost = sorted(weights)[-1]
    del weights[lost]
    save_file(weights, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=f"tensors are missing: {lost}"):
        Encoder.from_pretrained(bert_folder, adapter=folder, max_query_tokens=32, max_code_tokens=32)


def test_embeddings_saved_beside_an_adapter_must_be_those_of_the_base(bert_folder: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["word_embeddings"], init_lora_weights=False)
    model = get_peft_model(AutoModel.from_pretrained(bert_folder), config)
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    weights = load_file(tmp_path / "adapter_model.safetensors")
    (saved,) = (name for name in weights if "base_layer" in name)
    for precision in PRECISIONS:
        base = Encoder.from_pretrained(bert_folder, precision=precision)
        assert abs(base.with_adapter(tmp_path).encode_codes(CODES) - base.encode_codes(CODES)).max() > 0.001
    save_file(weights | {saved: weights[saved] + 1}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=f"1 tensors are unexpected: {saved}"):
        base.with_adapter(tmp_path)


@pytest.mark.parametrize("name", ["embedded", "sentence-transformers/all-MiniLM-L6-v2"])
def test_adapters_of_the_embedded_base_may_say_its_hub_name(name: str, tmp_path: Path) -> None:
    shipped = Path(shutil.copytree(locate_adapter("embedded-general"), tmp_path / "adapter"))
    (shipped / "train_config.json").unlink()
    settings = json.loads((shipped / "adapter_config.json").read_text())
    base = Encoder.from_pretrained(name)
    expected = Encoder.from_pretrained(adapter="embedded-general").fingerprint
    for made_for in ("embedded", "sentence-transformers/all-MiniLM-L6-v2", "/home/someone/all-MiniLM-L6-v2"):
        (shipped / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": made_for}))
        assert base.with_adapter(shipped).fingerprint == expected
    (shipped / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": "BAAI/bge-small"}))
    with pytest.raises(ValueError, match=f"was made for 'BAAI/bge-small', not for '{name}'"):
        base.with_adapter(shipped)


def test_what_is_no_adapter_is_refused(
    bert_folder: Path, roberta_folder: Path, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(adapter_folders["lora"], tmp_path, dirs_exist_ok=True)
    for config in ({}, {"peft_type": "NEW"}, {"peft_type": "LORA", "r": "two"}):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=rf"{tmp_path}"):
            Encoder.from_pretrained(bert_folder, adapter=tmp_path)
    with pytest.raises(ValueError, match=r"adapter_config\.json"):
        Encoder.from_pretrained(bert_folder, adapter=roberta_folder)
    with pytest.raises(ValueError, match="unknown adapter 'nowhere'"):
        Encoder.from_pretrained(bert_folder, adapter="nowhere")
