from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llamaindex_code_retrieval.index.vector_file import VectorFile

DIM = 16
Numbers = NDArray[np.int64]
Vectors = NDArray[np.float32]


def _unit(rows: Vectors) -> Vectors:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _random(n: int, *, seed: int = 0) -> Vectors:
    return _unit(np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32))


def _clustered(n: int) -> Vectors:
    """Return vectors around 40 centres, in the order of the centres: neighbours in the file are alike."""
    rng = np.random.default_rng(1)
    centres = _random(40)[np.sort(rng.integers(0, 40, size=n))]
    return _unit(centres + rng.normal(scale=0.15, size=(n, DIM)).astype(np.float32))


def _batches(numbers: Numbers, vectors: Vectors, *, size: int = 500) -> Callable[[], Iterator[tuple[Numbers, Vectors]]]:
    return lambda: ((numbers[i : i + size], vectors[i : i + size]) for i in range(0, len(numbers), size))


def _build(path: Path, vectors: Vectors, numbers: Numbers | None = None, *, exact_limit: int = 10_000) -> VectorFile:
    numbers = np.arange(len(vectors)) if numbers is None else numbers
    count = len(vectors)
    VectorFile.build(path, _batches(numbers, vectors), dim=DIM, count=count, token="t", exact_limit=exact_limit)
    return VectorFile.open(path, dim=DIM, token="t")


def _brute_force(vectors: Vectors, numbers: Numbers, query: Vectors, top_k: int) -> list[int]:
    """Return the numbers of the nearest vectors, as fp16 keeps them; ties by number."""
    scores = np.round(vectors.astype(np.float16).astype(np.float64) @ query, 6)
    return numbers[np.lexsort((numbers, -scores))[:top_k]].tolist()


def _numbers(values: set[int]) -> Numbers:
    return np.asarray(sorted(values), dtype=np.int64)


NUMBERS = st.sets(st.integers(0, 60))


@settings(deadline=None, max_examples=100)
@given(NUMBERS, st.integers(0, 70), st.none() | NUMBERS, st.none() | NUMBERS)
def test_searches_like_brute_force(
    tmp_path_factory: pytest.TempPathFactory,
    held: set[int],
    top_k: int,
    allowed: set[int] | None,
    removed: set[int] | None,
) -> None:
    """Also with vectors that are equal."""
    numbers = _numbers(held)
    vectors = _random(7)[numbers % 7]
    file = _build(tmp_path_factory.mktemp("vectors") / "v", vectors, numbers)
    selection = file.select(
        allowed=None if allowed is None else _numbers(allowed), removed=None if removed is None else _numbers(removed)
    )
    kept = np.isin(numbers, _numbers((held if allowed is None else allowed) - (removed or set())))
    assert selection.count == kept.sum()
    query = _random(1, seed=9)[0]
    hits, scores = file.search(query, top_k=top_k, selection=selection)
    assert hits.tolist() == _brute_force(vectors[kept], numbers[kept], query, top_k)
    np.testing.assert_allclose(scores, vectors[np.searchsorted(numbers, hits)] @ query, atol=1e-3)
    if allowed is removed is None:
        assert file.search(query, top_k=top_k)[0].tolist() == hits.tolist()


def test_in_cells_most_of_the_nearest_are_found(tmp_path: Path) -> None:
    vectors = _clustered(4_000)
    file = _build(tmp_path / "v", vectors, exact_limit=1_000)
    assert not file.is_exact
    queries = _unit(vectors[::80] + 0.05 * _random(50, seed=3))
    numbers = np.arange(4_000)
    for removed in (None, np.arange(0, 4_000, 2)):
        kept = numbers if removed is None else numbers[1::2]
        selection = file.select(removed=removed)
        found = [set(file.search(query, top_k=10, selection=selection)[0].tolist()) for query in queries]
        best = [set(_brute_force(vectors[kept], kept, query, 10)) for query in queries]
        assert sum(len(a & b) for a, b in zip(found, best, strict=True)) >= 0.95 * 10 * len(queries)


@pytest.mark.parametrize("exact_limit", [100, 10_000])
def test_every_filtered_search_is_full(exact_limit: int, tmp_path: Path) -> None:
    """Vectors that a filter leaves far from the query, too: those of the last clusters only."""
    vectors = _clustered(4_000)
    file = _build(tmp_path / "v", vectors, exact_limit=exact_limit)
    for allowed in (np.arange(3_900, 4_000), np.arange(0, 4_000, 40), np.arange(7), np.arange(2_000)):
        selection = file.select(allowed=allowed)
        for query in vectors[::500]:
            hits, scores = file.search(query, top_k=60, selection=selection)
            assert len(set(hits.tolist())) == min(60, len(allowed))
            assert np.isin(hits, allowed).all()
            assert (np.diff(scores) <= 0).all()


def test_scores_are_those_of_fp16_vectors(tmp_path: Path) -> None:
    vectors = _random(1_000)
    query = _random(1, seed=1)[0]
    hits, scores = _build(tmp_path / "v", vectors).search(query, top_k=1_000)
    np.testing.assert_allclose(scores, vectors.astype(np.float16).astype(np.float32)[hits] @ query, atol=1e-6)
    np.testing.assert_allclose(scores, vectors[hits] @ query, atol=5e-4)


@pytest.mark.parametrize("exact_limit", [100, 10_000])
def test_a_cut_file_is_refused(exact_limit: int, tmp_path: Path) -> None:
    path = tmp_path / "v"
    _build(path, _random(300), exact_limit=exact_limit)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for size in (0, 1, 19, 20, 21, *rng.integers(0, len(content), size=200), len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"v is not a file of this index's vectors: .*; build it again"):
            VectorFile.open(path, dim=DIM, token="t")


@pytest.mark.parametrize("exact_limit", [100, 10_000])
def test_damage_outside_of_the_vectors_is_refused(exact_limit: int, tmp_path: Path) -> None:
    path, vectors = tmp_path / "v", _random(300)
    _build(path, vectors, exact_limit=exact_limit)
    content = path.read_bytes()
    lists = 300 * (2 * DIM + 8)
    end = content.rindex(b'{"')
    head = content.index(b"ilar")
    for position in (*range(0, head + 40, 7), *range(end, len(content), 5)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="v is not a file of this index's vectors"):
            VectorFile.open(path, dim=DIM, token="t")
    assert end - head > lists
