"""Packed attention: the hidden states of each text by itself, for BERT-like models only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    CamembertConfig,
    CamembertModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from llamaindex_code_retrieval import Encoder
from llamaindex_code_retrieval.models.packed_attention import by_runs, enable_packed_attention, packing_for
from llamaindex_code_retrieval.training import AdapterConfig
from llamaindex_code_retrieval.training.adapters import attach_adapter

PADDING = 1
ROWS = [[5, 6, 7, 8, 9], [10, 11], [12, 13], [14, PADDING, 16, 17], [18]]
"""Two neighbours of equal length, and one text that holds the padding token."""
TYPES = [[0, 0, 0, 1, 1], [0, 1], [0, 0], [0, 1, 1, 1], [0]]
KINDS = [
    (BertModel, BertConfig),
    (CamembertModel, CamembertConfig),
    (RobertaModel, RobertaConfig),
    (XLMRobertaModel, XLMRobertaConfig),
]


def _model(cls: Any, config: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 24,
        "type_vocab_size": 2,
        "pad_token_id": PADDING,
        "initializer_range": 0.5,
    }
    return cls(config(**settings | changes)).eval()


@pytest.mark.parametrize(("cls", "config"), KINDS)
def test_states_are_those_of_each_text_by_itself(cls: Any, config: Any) -> None:
    model = _model(cls, config)

    def alone(row: list[int], types: list[int]) -> Tensor:
        states: Tensor = model(input_ids=torch.tensor([row]), token_type_ids=torch.tensor([types])).last_hidden_state[0]
        return states

    with torch.inference_mode():
        expected = [alone(*each) for each in zip(ROWS, TYPES, strict=True)]
        padded = {
            "input_ids": torch.tensor([row + [0] * (5 - len(row)) for row in ROWS]),
            "attention_mask": torch.tensor([[1] * len(row) + [0] * (5 - len(row)) for row in ROWS]),
            "token_type_ids": torch.tensor([types + [0] * (5 - len(types)) for types in TYPES]),
        }
        before = model(**padded).last_hidden_state
        assert packing_for(model) is None
        assert enable_packed_attention(model)
        packing = packing_for(model)
        assert packing is not None
        inputs = packing.inputs(ROWS, TYPES)
        (found,) = model(**inputs).last_hidden_state
        after = model(**padded).last_hidden_state
    assert inputs["runs"] == [(1, 5), (2, 2), (1, 4), (1, 1)]
    assert found.shape == (14, 32)
    for states, text in zip(found.split([len(row) for row in ROWS]), expected, strict=True):
        torch.testing.assert_close(states, text, atol=1e-5, rtol=1e-5)
    assert torch.equal(before, after), "padded batches are computed as before"


def test_runs_keep_the_order_of_texts() -> None:
    states = torch.arange(2 * 9 * 3.0).view(1, 2, 9, 3)  # (1, heads, tokens, width)
    two, one = by_runs(states, [(2, 3), (1, 3)])
    assert (two.shape, one.shape) == ((2, 2, 3, 3), (1, 2, 3, 3))
    assert torch.equal(two[1], states[0, :, 3:6])
    assert torch.equal(one[0], states[0, :, 6:])


def test_other_models_are_not_changed(t5_folder: Path, codesage_folder: Path) -> None:
    for changes in ({"attn_implementation": "eager"}, {"is_decoder": True}):
        model = _model(BertModel, BertConfig, **changes)
        assert not enable_packed_attention(model)
        assert packing_for(model) is None
    for folder in (t5_folder, codesage_folder):
        encoder = Encoder.from_pretrained(folder, precision="fp32")
        assert not encoder.packs


@pytest.mark.parametrize("folder", ["bert_folder", "roberta_folder", "unixcoder_folder"])
def test_an_encoder_packs_in_inference_and_pads_in_training(folder: str, request: pytest.FixtureRequest) -> None:
    encoder = Encoder.from_pretrained(request.getfixturevalue(folder), precision="fp32", device="cpu")
    texts = ["def add(a, b): return a + b", "x", "y", "class File: pass"]
    seen: list[dict[str, Any]] = []
    encoder.backbone.register_forward_pre_hook(lambda _module, _args, inputs: seen.append(inputs), with_kwargs=True)
    assert encoder.packs
    vectors = encoder.encode_codes(texts)
    assert seen[-1]["input_ids"].shape[0] == 1
    assert "runs" in seen[-1]
    encoder.train()
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert not encoder.packs
    trained = encoder(texts, side="code")
    assert seen[-1]["input_ids"].shape[0] == 4
    np.testing.assert_allclose(trained.detach().numpy(), vectors, atol=1e-5)


def test_an_adapter_is_trained_without_padding(bert_folder: Path) -> None:
    encoder = Encoder.from_pretrained(bert_folder, precision="fp32", device="cpu")
    assert attach_adapter(encoder, AdapterConfig(rank=2)).packs


def test_a_backbone_without_packed_attention_pads_its_texts(bert_folder: Path) -> None:
    """It would compute a row of texts as one text, even if the base supports packing."""
    backbone = _model(BertModel, BertConfig, vocab_size=1000, max_position_embeddings=64)
    encoder = Encoder.from_pretrained(bert_folder, precision="fp32", device="cpu").with_backbone(lambda base: backbone)
    assert not encoder.packs
    texts = ["def add(a, b): return a + b", "x"]
    alone = np.concatenate([encoder.encode_codes([text]) for text in texts])
    np.testing.assert_allclose(encoder.encode_codes(texts), alone, atol=1e-5)


def test_texts_of_equal_length_are_not_packed(bert_folder: Path) -> None:
    encoder = Encoder.from_pretrained(bert_folder, precision="fp32", device="cpu")
    seen: list[dict[str, Any]] = []
    encoder.backbone.register_forward_pre_hook(lambda _module, _args, inputs: seen.append(inputs), with_kwargs=True)
    encoder.encode_queries(["read"])
    encoder.encode_queries(["read", "read"])
    assert ["runs" in inputs for inputs in seen] == [False, False]
