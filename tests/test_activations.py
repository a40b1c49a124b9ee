"""Adapters on the upper layers alone, and the cache of what the layers below compute."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.training import Pair, train_adapter
from llamaindex_code_retrieval.training.activations import above_cached_layers
from llamaindex_code_retrieval.training.adapters import attach_adapter, save_adapter
from llamaindex_code_retrieval.training.batches import Batches
from llamaindex_code_retrieval.training.config import AdapterConfig, TrainConfig
from llamaindex_code_retrieval.training.contrastive import Contrastive
from llamaindex_code_retrieval.training.processes import Processes
from llamaindex_code_retrieval.training.recipes import Recipe

UPPER = AdapterConfig(first_layer=1)
TEXTS = ["read the file", "def add(a, b):\n    return a + b", "x", "sort a list of numbers by their sum"]
PAIRS = [
    Pair(query=f"{verb} the {noun}", code=f"def {verb}_{noun}(x):\n    return x.{verb}({i})", path=f"{i}.py")
    for i, (verb, noun) in enumerate((v, n) for v in ("read", "sort", "add", "close") for n in ("file", "list", "tree"))
]
BASES = ("bert_folder", "roberta_folder", "mpnet_folder")


def encoder_of(folder: Path) -> Encoder:
    return Encoder.from_pretrained(folder, precision="fp32", max_query_tokens=16, max_code_tokens=32)


def adapted(folder: Path) -> Encoder:
    """Return an encoder whose adapter, on the upper layer, changes vectors."""
    model = attach_adapter(encoder_of(folder), UPPER)
    with torch.no_grad():
        for i, p in enumerate(p for p in model.backbone.parameters() if p.requires_grad):
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
    return model


def rows_of(model: Encoder) -> list[list[int]]:
    return model.tokenize(TEXTS, side="code")


def test_layers_before_the_first_one_get_no_adapter(bert_folder: Path) -> None:
    trained = [name for name, p in adapted(bert_folder).backbone.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 6  # of the second layer: query, key, value and three dense ones
    assert all(".layer.1." in name for name in trained)
    everything = attach_adapter(encoder_of(bert_folder), AdapterConfig())
    assert sum(p.requires_grad for p in everything.backbone.parameters()) == 2 * len(trained)


def test_an_adapter_of_upper_layers_is_saved_and_used(bert_folder: Path, tmp_path: Path) -> None:
    model = adapted(bert_folder)
    save_adapter(model, tmp_path)
    for runtime in ("torch", "openvino"):
        embedding = CodeEmbedding(str(bert_folder), adapter=str(tmp_path), runtime=runtime, precision="fp32")
        np.testing.assert_allclose(embedding.encoder.encode_codes(TEXTS), model.encode_codes(TEXTS), atol=1e-4)
    assert np.abs(model.encode_codes(TEXTS) - encoder_of(bert_folder).encode_codes(TEXTS)).max() > 0.01


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("gigabytes", [1.0, 1e-6])  # room for all rows; for the shortest one
def test_cached_layers_give_the_vectors_of_the_whole_model(
    base: str, gigabytes: float, request: pytest.FixtureRequest
) -> None:
    model = adapted(request.getfixturevalue(base))
    upper = above_cached_layers(model, 1, rows_of(model), gigabytes=gigabytes)
    expected = model.embed(rows_of(model)).detach()
    for _ in range(2):  # computed, then looked up
        torch.testing.assert_close(upper.embed(rows_of(model)).detach(), expected, atol=2e-3, rtol=0)
    one_by_one = torch.cat([upper.embed([row], length=32) for row in rows_of(model)]).detach()
    torch.testing.assert_close(one_by_one, expected, atol=2e-3, rtol=0)


def test_lower_layers_are_computed_once_where_there_is_room(bert_folder: Path) -> None:
    """Seen by changing the weights of the lower layer, as no training does."""
    model = adapted(bert_folder)
    roomy, full = (above_cached_layers(model, 1, rows_of(model), gigabytes=size) for size in (1.0, 1e-9))
    first = roomy.embed(rows_of(model)).detach()
    torch.testing.assert_close(full.embed(rows_of(model)).detach(), first)
    with torch.no_grad():
        model.base.encoder.layer[0].output.dense.weight.mul_(-20)  # type: ignore[union-attr, index]
    again, changed = roomy.embed(rows_of(model)).detach(), full.embed(rows_of(model)).detach()
    torch.testing.assert_close(again, first)
    assert float((changed - first).abs().max()) > 0.01


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("grad_cache", [False, True])
def test_gradients_are_those_of_the_whole_model(base: str, grad_cache: bool, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(base)
    config = TrainConfig(batch_size=12, forward_tokens=64, precision="fp32", grad_cache=grad_cache)
    gradients = []
    for cached in (False, True):
        model = adapted(folder)
        settings = config.replace(activation_gigabytes=float(cached))
        run = Contrastive(model, Batches(PAIRS, settings), UPPER, settings, Processes.join(cpu=True))
        assert (run.trained_part is model) != cached
        run.backward_batch(run.batches.texts(run.batches.next(), 0), torch.zeros(0, 0))
        gradients.append(torch.cat([p.grad.flatten() for p in run.parameters.values() if p.grad is not None]))
    assert float(gradients[0].norm()) > 1e-3
    assert len(gradients[0]) == len(gradients[1])
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.02


def test_a_training_on_cached_layers_learns_and_is_saved(bert_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe(
        base=str(bert_folder),
        max_query_tokens=16,
        max_code_tokens=32,
        held_out=0.0,
        adapter=AdapterConfig(first_layer=1, rank=8),
    )
    losses = []
    for name, gigabytes in (("whole", 0.0), ("cached", 1.0)):
        config = TrainConfig(
            batch_size=6, epochs=8, learning_rate=0.02, activation_gigabytes=gigabytes, precision="fp32"
        )
        run = train_adapter(PAIRS, tmp_path / name, recipe=recipe, config=config)
        losses.append([entry["loss"] for entry in run.history if "loss" in entry])
    assert {path.name for path in (tmp_path / "cached").iterdir()} == {p.name for p in (tmp_path / "whole").iterdir()}
    np.testing.assert_allclose(losses[1][:8], losses[0][:8], rtol=0.03)
    assert losses[1][-1] < 0.8 * losses[1][0]


def test_refuses_what_cannot_be_cached(bert_folder: Path, t5_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="first_layer must be below 2, the layers of this base, got 2"):
        attach_adapter(encoder_of(bert_folder), AdapterConfig(first_layer=2))
    with pytest.raises(ValueError, match="first_layer has no effect on the method 'ia3'"):
        AdapterConfig(method="ia3", first_layer=1)
    with pytest.raises(ValueError, match="activation_gigabytes caches the layers before first_layer, which is 0"):
        Recipe(train=TrainConfig(activation_gigabytes=1.0))
    recipe = Recipe(base=str(t5_folder), adapter=UPPER, train=TrainConfig(activation_gigabytes=1.0, batch_size=4))
    with pytest.raises(ValueError, match=r"activations of a 't5' model cannot be cached, only those of bert.*mpnet"):
        train_adapter(PAIRS, tmp_path / "out", recipe=recipe)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no space on disk")
def test_too_little_disk_is_reported_before_the_training(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model = adapted(bert_folder)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"needs 0\.0 GB in .*No space left.*lower activation_gigabytes"):
        above_cached_layers(model, 1, rows_of(model), gigabytes=1.0, folder=tmp_path / "run")
