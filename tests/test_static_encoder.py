"""Static query encoders: a table worked out by hand, laws of its rows, what int8 keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from llamaindex_code_retrieval import Encoder
from llamaindex_code_retrieval.models.static_encoder import StaticEncoder, static_tensors, table_rows
from llamaindex_code_retrieval.training.config import StudentConfig
from llamaindex_code_retrieval.training.students import StaticStudent

QUERIES = ["read a file", "", "x", "how to sum numbers in a list", "\udcff read", "Größe der Datei", "read " * 40]


def _array(*rows: list[float]) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32)


def _two_words(*, hidden: bool = False, max_tokens: int = 64) -> StaticEncoder:
    """A table of two words, (3, 3) and (0, 1), which int8 holds exactly; the vector is the sum itself."""
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()
    inner, bias, outer = np.zeros((2, 0)), np.zeros(0), np.zeros((0, 2))
    if hidden:  # GELU(10) is 10: the layer adds 10 * (0, -0.125) times the sum's length, whatever its direction
        inner, bias, outer = np.zeros((2, 1)), _array([10])[0], _array([0, -0.125])
    tensors = static_tensors(_array([3, 3], [0, 1]), np.eye(2, dtype=np.float32), inner, bias, outer)
    return StaticEncoder(tokenizer, tensors, max_tokens=max_tokens)


def test_a_table_by_hand() -> None:
    vectors = _two_words().encode_queries(["a b", "b", "b a b", ""])
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 1], _unit(3, 5), [0, 0]], atol=1e-6)


def test_the_hidden_layer_by_hand() -> None:
    # "a b" adds up to (3, 4), whose length is 5: (3, 4) + 5 * 10 * (0, -0.125) = (3, -2.25).
    np.testing.assert_allclose(_two_words(hidden=True).encode_queries(["a b"]), [[0.8, -0.6]], atol=1e-6)


def _unit(*numbers: float) -> NDArray[np.float64]:
    return np.array(numbers) / np.linalg.norm(numbers)


def test_what_is_beyond_max_tokens_is_not_read() -> None:
    cut = _two_words(max_tokens=3)
    np.testing.assert_array_equal(cut.encode_queries(["a b b a a"]), cut.encode_queries(["a b b"]))
    assert not np.allclose(_two_words().encode_queries(["a b b a a"]), cut.encode_queries(["a b b"]))


def test_int8_keeps_rows_to_half_a_127th_of_their_largest_entry() -> None:
    table = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32) * 10.0 ** np.arange(-25, 25)[:, None]
    table[7] = 0
    nothing = np.zeros((16, 0), dtype=np.float32)
    tensors = static_tensors(table.astype(np.float32), nothing, nothing, nothing[0], nothing.T)
    kept = tensors["table"].astype(np.float64) * tensors["scales"][:, None]
    assert (np.abs(kept - table) <= np.abs(table).max(axis=1, keepdims=True) / 127 * 0.5001).all()


@given(st.lists(st.integers(0, 99), max_size=20), st.integers(1, 1000))
def test_rows_of_pairs(ids: list[int], buckets: int) -> None:
    rows = table_rows(ids, words=100, buckets=buckets)
    tokens, pairs = rows[: len(ids)], rows[len(ids) :]
    assert tokens == ids
    assert len(pairs) == (len(ids) + 1 if ids else 0)  # with both ends
    assert all(100 <= row < 100 + buckets for row in pairs)
    assert table_rows(ids, words=100, buckets=0) == ids


def test_pairs_tell_orders_apart() -> None:
    def rows(*ids: int) -> list[int]:
        return sorted(table_rows(ids, words=30000, buckets=16384))

    assert rows(5, 9) != rows(9, 5)
    assert rows(5, 9, 7) != rows(7, 5, 9)


@pytest.fixture(scope="module", params=["bert", "codet5p"])
def student(request: pytest.FixtureRequest, bert_folder: Path, codet5p_folder: Path) -> StaticStudent:
    teacher = Encoder.from_pretrained(bert_folder if request.param == "bert" else codet5p_folder, precision="fp32")
    student = StaticStudent(teacher, StudentConfig(table_rank=8, buckets=64, hidden=16), max_tokens=32, seed=0)
    with torch.no_grad():
        student.outer.normal_(std=0.1)  # a new one adds nothing
        student.table.weight.normal_(std=0.5)
    return student


def test_quantization_changes_little(student: StaticStudent) -> None:
    queries = [query for query in QUERIES if query]
    cosines = (student.to_static_encoder().encode_queries(queries) * student.encode_queries(queries)).sum(axis=1)
    assert cosines.min() > 0.999
    vectors = student.encode_queries(queries)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors @ vectors.T - np.eye(len(queries))).max() < 0.999  # they are not all one vector


@pytest.mark.parametrize("form", ["learning", "frozen"])
def test_a_batch_is_its_queries_one_by_one(form: str, student: StaticStudent) -> None:
    encoder = student if form == "learning" else student.to_static_encoder()
    together = encoder.encode_queries(QUERIES)
    assert np.isfinite(together).all()
    alone = np.concatenate([encoder.encode_queries([query]) for query in QUERIES])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert encoder.encode_queries([]).shape == (0, together.shape[1])


def test_an_empty_query_is_the_zero_vector_of_pairs_too(student: StaticStudent) -> None:
    for encoder in (student, student.to_static_encoder()):
        assert not encoder.encode_queries([""]).any()
    np.testing.assert_array_equal(
        *(student.to_static_encoder().encode_queries([query]) for query in ("\udcff read", "? read"))
    )


def test_order_matters_with_pairs_only(bert_folder: Path) -> None:
    teacher = Encoder.from_pretrained(bert_folder, precision="fp32")
    for buckets in (0, 64):
        student = StaticStudent(teacher, StudentConfig(table_rank=8, buckets=buckets), max_tokens=32, seed=0)
        with torch.no_grad():
            student.table.weight.normal_(generator=torch.Generator().manual_seed(0))
        one, other = student.encode_queries(["read file", "file read"])
        assert np.allclose(one, other, atol=1e-6) == (buckets == 0)
