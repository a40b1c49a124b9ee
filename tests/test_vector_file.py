from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from conftest import is_killed_at_step
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
            assert len(file.search(query, top_k=5_000, selection=selection)[0]) == len(allowed)
    assert len(file.search(vectors[0], top_k=5_000)[0]) == 4_000


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


@pytest.mark.parametrize("exact_limit", [100, 10_000])
def test_the_same_vectors_give_the_same_file(exact_limit: int, tmp_path: Path) -> None:
    for name in ("a", "b"):
        _build(tmp_path / name, _clustered(500), exact_limit=exact_limit)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_batches_may_be_of_any_size_and_of_fp16(tmp_path: Path) -> None:
    vectors, numbers = _random(300).astype(np.float16), np.arange(1, 601, 2)
    for size in (1, 7, 300):
        batches = _batches(numbers, vectors.astype(np.float16), size=size)
        VectorFile.build(tmp_path / str(size), batches, dim=DIM, count=300, token="t", exact_limit=100)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "7").read_bytes() == (tmp_path / "300").read_bytes()
    np.testing.assert_array_equal(VectorFile.open(tmp_path / "7", dim=DIM, token="t").numbers, numbers)


def test_another_index_or_dimension_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v"
    _build(path, _random(3))
    with pytest.raises(
        ValueError, match="v is not a file of this index's vectors: it belongs to the index 't', not 'u'"
    ):
        VectorFile.open(path, dim=DIM, token="u")
    with pytest.raises(ValueError, match="its vectors have 16 dimensions, not 384; build it again"):
        VectorFile.open(path, dim=384, token="t")
    faiss.write_index(faiss.IndexFlatIP(DIM), str(path))
    with pytest.raises(ValueError, match="it is cut off, or was written by another program"):
        VectorFile.open(path, dim=DIM, token="t")
    with pytest.raises(FileNotFoundError):
        VectorFile.open(tmp_path / "missing", dim=DIM, token="t")


def test_an_open_file_is_searched_after_it_was_deleted_or_replaced(tmp_path: Path) -> None:
    path, vectors = tmp_path / "v", _random(2_000)
    old = _build(path, vectors, exact_limit=100)
    new = _build(path, vectors[:50])
    path.unlink()
    query = vectors[1_000]
    assert old.search(query, top_k=1)[0].tolist() == [1_000]
    assert new.search(query, top_k=50)[0].tolist() == _brute_force(vectors[:50], np.arange(50), query, 50)


def test_paths_that_are_not_utf_8(tmp_path: Path) -> None:
    file = _build(tmp_path / os.fsdecode(b"caf\xe9 \xe2\x9c\x93"), _random(3))
    assert file.search(_random(3)[2], top_k=1)[0].tolist() == [2]


def test_threads_and_forked_processes_search_one_file(tmp_path: Path) -> None:
    vectors = _clustered(2_000)
    file = _build(tmp_path / "v", vectors, exact_limit=100)
    selection = file.select(removed=np.arange(0, 2_000, 3))
    queries = list(vectors[::50])

    def hits(query: Vectors) -> list[int]:
        return file.search(query, top_k=20, selection=selection)[0].tolist()

    expected = [hits(query) for query in queries]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(hits, queries * 5)) == expected * 5
    _Searcher.hits = hits
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as processes:
        assert list(processes.map(_Searcher.search, queries)) == expected


class _Searcher:
    """Where forked processes find a function that cannot be pickled."""

    hits: Callable[[Vectors], list[int]]

    @classmethod
    def search(cls, query: Vectors) -> list[int]:
        return cls.hits(query)


def test_a_kill_while_building_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path, step = tmp_path / "v", 1
    _build(path, _random(5))
    while is_killed_at_step(step, lambda: _build(path, _random(9))):
        step += 1
        assert len(VectorFile.open(path, dim=DIM, token="t")) in (5, 9)
    assert step > 2
    assert len(VectorFile.open(path, dim=DIM, token="t")) == 9


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def failing() -> Iterator[tuple[Numbers, Vectors]]:
        yield np.arange(3), _random(3)
        raise OSError("the database is gone")

    with pytest.raises(OSError, match="the database is gone"):
        VectorFile.build(tmp_path / "v", failing, dim=DIM, count=5, token="t")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("numbers", "count", "dim", "reason"),
    [
        ([0, 1, 2], 2, DIM, "the batches hold more than 2 vectors"),
        ([0, 1, 2], 4, DIM, "the batches hold 3 vectors, not 4"),
        ([0, 2, 1], 3, DIM, r"the numbers of vectors must ascend from 0, got 1 after 2"),
        ([0, 1, 1], 3, DIM, r"the numbers of vectors must ascend from 0, got 1 after 1"),
        ([-1, 1, 2], 3, DIM, r"the numbers of vectors must ascend from 0, got -1 first"),
        ([0, 1, 2], 3, 8, r"expected vectors of shape \(2, 8\), got \(2, 16\)"),
    ],
)
@pytest.mark.parametrize("exact_limit", [1, 10])
def test_wrong_batches(exact_limit: int, numbers: list[int], count: int, dim: int, reason: str, tmp_path: Path) -> None:
    batches = _batches(np.asarray(numbers), _random(3), size=2)
    with pytest.raises(ValueError, match=reason):
        VectorFile.build(tmp_path / "v", batches, dim=dim, count=count, token="t", exact_limit=exact_limit)


def test_wrong_queries(tmp_path: Path) -> None:
    file = _build(tmp_path / "v", _random(3))
    for query in (_random(1), np.ones(8, dtype=np.float32), np.full(DIM, np.nan, dtype=np.float32)):
        with pytest.raises(ValueError, match="a query must be 16 finite numbers"):
            file.search(query, top_k=1)


def test_progress_reaches_the_number_of_vectors(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    batches = _batches(np.arange(300), _random(300), size=100)
    VectorFile.build(
        tmp_path / "v",
        batches,
        dim=DIM,
        count=300,
        token="t",
        exact_limit=10,
        on_progress=lambda stage, done, total: calls.append((stage, done, total)),
    )
    assert [call for call in calls if call[0] == "vectors"] == [("vectors", done, 300) for done in (100, 200, 300)]


def test_a_gpu_is_asked_for(tmp_path: Path) -> None:
    _build(tmp_path / "v", _random(3))
    if faiss.get_num_gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="FAISS finds no GPU; install faiss-gpu"):
        VectorFile.open(tmp_path / "v", dim=DIM, token="t", device="cuda")


@pytest.mark.skipif(not faiss.get_num_gpus(), reason="needs faiss-gpu and a GPU")
@pytest.mark.parametrize("exact_limit", [1_000, 10_000])
def test_a_gpu_finds_what_the_cpu_finds(exact_limit: int, tmp_path: Path) -> None:
    vectors = _clustered(4_000)
    cpu = _build(tmp_path / "v", vectors, exact_limit=exact_limit)
    gpu = VectorFile.open(tmp_path / "v", dim=DIM, token="t", device="cuda")
    for removed in (np.empty(0, dtype=np.int64), np.arange(0, 4_000, 40), np.arange(3_990)):
        selection = cpu.select(removed=removed)
        for query in _unit(vectors[::400] + 0.05 * _random(10, seed=3)):
            numbers, scores = gpu.search(query, top_k=100, selection=selection)
            expected, expected_scores = cpu.search(query, top_k=100, selection=selection)
            assert len(set(numbers.tolist()) & set(expected.tolist())) >= 0.98 * len(expected)
            np.testing.assert_allclose(scores, expected_scores, atol=1e-3)
