"""Vectors that are cut to their first numbers: embedding, index, and the training for it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Shell

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.training import Pair, train_adapter
from llamaindex_code_retrieval.training.config import TrainConfig
from llamaindex_code_retrieval.training.losses import contrastive_loss, matryoshka_loss
from llamaindex_code_retrieval.training.recipes import Recipe

TEXTS = ["read the file", "def add(a, b):\n    return a + b"]
PAIRS = [
    Pair(query=f"{verb} the {noun}", code=f"def {verb}_{noun}(x):\n    return x.{verb}({i})", path=f"{i}.py")
    for i, (verb, noun) in enumerate((v, n) for v in ("read", "sort", "add", "close") for n in ("file", "list", "tree"))
]


def test_short_vectors_are_the_first_numbers_of_unit_length(bert_folder: Path, tmp_path: Path) -> None:
    whole = CodeEmbedding(bert_folder)
    short = CodeEmbedding(bert_folder, dimensions=8, cache_folder=tmp_path)
    expected = whole.embed_codes(TEXTS, ["", ""])[:, :8]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert short.dim == 8
    for _ in range(2):  # computed, then from the cache
        np.testing.assert_allclose(short.embed_codes(TEXTS, ["", ""]), expected, atol=1e-6)
    queries = whole.embed_queries(TEXTS)[:, :8]
    np.testing.assert_allclose(
        short.embed_queries(TEXTS), queries / np.linalg.norm(queries, axis=1, keepdims=True), atol=1e-6
    )
    np.testing.assert_allclose(short.get_query_embedding(TEXTS[0]), short.embed_queries(TEXTS[:1])[0], atol=1e-6)


def test_the_length_is_part_of_all_fingerprints(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    fingerprints = set()
    for dimensions in (None, 8, 16):
        embedding = CodeEmbedding(bert_folder, dimensions=dimensions, adapters={"java": adapter_folders["lora"]})
        fingerprints |= {embedding.fingerprint, *embedding.fingerprints.values()}
        again = CodeEmbedding.from_dict(embedding.to_dict())
        assert (again.dimensions, again.fingerprint) == (dimensions, embedding.fingerprint)
        embedding.use_adapter("java", None)
        assert embedding.fingerprint == CodeEmbedding(bert_folder, dimensions=dimensions).fingerprint
    assert len(fingerprints) == 9


def test_a_query_encoder_of_the_whole_vectors_is_cut_too() -> None:
    whole = CodeEmbedding(query_encoder="auto")
    short = CodeEmbedding(query_encoder="auto", dimensions=64)
    vectors = whole.embed_queries(TEXTS)[:, :64]
    np.testing.assert_allclose(
        short.embed_queries(TEXTS), vectors / np.linalg.norm(vectors, axis=1, keepdims=True), atol=1e-6
    )
    assert short.query_encoder == whole.query_encoder
    assert CodeEmbedding.from_dict(short.to_dict()).embed_queries(TEXTS).shape == (2, 64)


@pytest.mark.parametrize("dimensions", [0, 33])
def test_refuses_lengths_that_the_vectors_do_not_have(bert_folder: Path, tmp_path: Path, dimensions: int) -> None:
    with pytest.raises(ValueError, match=f"dimensions must be from 1 to 32, .*, got {dimensions}"):
        CodeEmbedding(bert_folder, dimensions=dimensions)
    recipe = Recipe(base=str(bert_folder), max_code_tokens=32, max_query_tokens=16)
    config = TrainConfig(dimensions=(8, 32), batch_size=4)
    with pytest.raises(ValueError, match=r"dimensions must be below 32, the length of this base's vectors, got 32"):
        train_adapter(PAIRS, tmp_path / "out", recipe=recipe, config=config)


def test_an_index_of_short_vectors_is_searched_with_them(
    shell: Shell, repository: Path, bert_folder: Path, tmp_path: Path
) -> None:
    for name, options in (("whole", []), ("short", ["--dimensions", "8"])):
        shell("index", repository, "--out", tmp_path / name, "--model", bert_folder, *options)
    assert shell("info", "--index", tmp_path / "short", "--json")["dim"] == 8
    assert shell("update", "--index", tmp_path / "short", "--json")["embedded"] == 0
    for options in ([], ["--refresh"], ["--mode", "dense"]):
        assert shell("search", "add numbers", "--index", tmp_path / "short", "--json", *options)
    shell.fails(
        "index", repository, "--model", bert_folder, "--dimensions", "99", "--out", tmp_path / "x", says="to 32"
    )


def test_a_short_index_is_searched_by_a_query_encoder(shell: Shell, repository: Path, tmp_path: Path) -> None:
    shell("index", repository, "--out", tmp_path / "short", "--dimensions", "64")
    for encoder in ("auto", "embedded-general-layers"):
        assert shell("search", "add numbers", "--fast-query", encoder, "--index", tmp_path / "short", "--json")
    shell.fails(
        "search", "add numbers", "--fast-query", "embedded-bare-static", "--index", tmp_path / "short", says="d"
    )


def test_the_loss_is_the_mean_over_the_lengths() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, codes = (F.normalize(torch.randn(4, 6, generator=generator), dim=1) for _ in range(2))
    target = torch.arange(4)
    by_hand = [
        contrastive_loss(F.normalize(queries[:, :d], dim=1), F.normalize(codes[:, :d], dim=1), target, hardness=0.5)
        for d in (6, 2, 3)
    ]
    loss = matryoshka_loss(queries, codes, target, dimensions=[2, 3], hardness=0.5)
    assert float(loss) == pytest.approx(float(torch.stack(by_hand).mean()))
    whole = matryoshka_loss(queries, codes, target, dimensions=[])
    assert float(whole) == pytest.approx(float(contrastive_loss(queries, codes, target)))


def test_training_for_short_vectors_makes_them_rank_better(
    bert_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On the training pairs themselves: the loss of vectors cut to 4 numbers, after equal steps."""
    recipe = Recipe(base=str(bert_folder), max_query_tokens=16, max_code_tokens=32, held_out=0.0)
    losses = {}
    for name, dimensions in (("plain", ()), ("short", (4,))):
        config = TrainConfig(batch_size=12, epochs=15, learning_rate=0.02, dimensions=dimensions, precision="fp32")
        train_adapter(PAIRS, tmp_path / name, recipe=recipe, config=config)
        encoder = Encoder.from_pretrained(bert_folder, adapter=tmp_path / name, precision="fp32")
        queries, codes = encoder([p.query for p in PAIRS], side="query"), encoder([p.code for p in PAIRS], side="code")
        cut = [F.normalize(vectors[:, :4], dim=1).detach() for vectors in (queries, codes)]
        losses[name] = float(contrastive_loss(cut[0], cut[1], torch.arange(len(PAIRS))))
    assert losses["short"] < 0.9 * losses["plain"]
    with caplog.at_level(logging.WARNING):
        CodeEmbedding(bert_folder, adapter=tmp_path / "short", dimensions=4)
        assert "was not trained" not in caplog.text
        CodeEmbedding(bert_folder, adapter=tmp_path / "plain", dimensions=4)
    assert "plain was not trained for vectors of 4 numbers" in caplog.text
