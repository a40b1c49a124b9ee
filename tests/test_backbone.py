"""Vectors of each architecture agree with independent computations; checkpoints that do not fit are refused."""

from __future__ import annotations

import inspect
import json
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import CODES, Weights, t5_config, unit_rows
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, BertModel, RobertaModel, RobertaTokenizerFast, T5EncoderModel

from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.locate import locate


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
    np.testing.assert_allclose(encoder.encode_codes(CODES), unit_rows(rows), atol=1e-5)


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
    np.testing.assert_allclose(encoder.encode_codes(CODES), unit_rows(rows), atol=1e-5)


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
    np.testing.assert_allclose(encoder.encode_codes(CODES), unit_rows(rows), atol=1e-5)


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
    np.testing.assert_allclose(encoder.encode_codes(CODES), unit_rows(rows), atol=1e-5)


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
    np.testing.assert_allclose(encoder.encode_codes(CODES), unit_rows(rows), atol=1e-5)


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
