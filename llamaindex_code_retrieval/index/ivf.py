"""The FAISS indexes of this package: unit vectors in the cells of an inverted file (IVF), by inner product.

Up to ``EXACT_LIMIT`` vectors there is one cell, so that a search compares every vector. Above, there are 3·√n cells, of
which a search visits the 7·√cells that are nearest to the query. The recall
that this reaches stands in ``benchmarks/README.md``, "Cost by size".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

EXACT_LIMIT = 100_000
"""Up to this many vectors a search compares every one; above, those in the nearest cells only."""

_SAMPLE_PER_CELL = 40
_ITERATIONS = 6
_GPU_LIMIT = 2048  # FAISS returns at most this many hits from a GPU
_SEED = 0


def number_of_cells(count: int, *, exact_limit: int = EXACT_LIMIT) -> int:
    """Return the number of cells for ``count`` vectors: 1, so that every search is exact, or 3·√count.

    >>> number_of_cells(100_000), number_of_cells(1_000_000)
    (1, 3000)
    """
    return 1 if count <= exact_limit else min(count, round(3 * math.sqrt(count)))


def number_of_probes(cells: int, *, share: float = 1.0) -> int:
    """Return how many cells a search visits: 7·√cells, or 7·√(cells / share) if a filter leaves a share of the vectors.

    With a filter the best hits are further down in the list of all, and so in more cells. Recall then does not fall.

    >>> [number_of_probes(3000, share=share) for share in (1, 0.5, 0.1, 0.01)]
    [384, 543, 1213, 3000]
    """
    return min(cells, math.ceil(7 * math.sqrt(cells / share)))


def new_index(dim: int, cells: int, *, half: bool = False) -> Any:
    """Return an empty ``IndexIVFFlat``, or with ``half`` an ``IndexIVFScalarQuantizer`` of fp16 numbers.

    One cell needs no training: the index is exact. More have to be trained with :func:`train`.
    """
    faiss = import_faiss()
    quantizer = faiss.IndexFlatIP(dim)
    if half:
        kind, is_residual = faiss.ScalarQuantizer.QT_fp16, False
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, cells, kind, faiss.METRIC_INNER_PRODUCT, is_residual)
    else:
        index = faiss.IndexIVFFlat(quantizer, dim, cells, faiss.METRIC_INNER_PRODUCT)
    if cells == 1:
        quantizer.add(np.zeros((1, dim), dtype=np.float32))
        index.is_trained = True
    return index


def sample_rows(count: int, *, cells: int) -> NDArray[np.int64]:
    """Return the ascending rows of the vectors, of ``count``, from which :func:`train` learns; always the same."""
    size = min(count, cells * _SAMPLE_PER_CELL)
    return np.sort(np.random.default_rng(_SEED).choice(count, size, replace=False))


def train(index: Any, sample: NDArray[np.float32]) -> None:
    """Find the centroids of the cells by k-means over unit vectors; the same sample gives the same cells."""
    index.cp.seed = _SEED
    index.cp.niter = _ITERATIONS
    index.cp.min_points_per_centroid = 1  # FAISS would print a warning for a small sample
    index.cp.max_points_per_centroid = len(sample)  # else FAISS samples again
    index.train(sample)


def search(
    index: Any, query: NDArray[np.float32], *, top_k: int, selector: Any = None, matching: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the ids and cosines of the ``top_k`` best vectors, and of those that tie with the last; ties by id.

    ``selector`` is a FAISS ``IDSelector`` and ``matching`` the number of vectors that it selects; without them all
    match. If the nearest cells hold fewer than ``top_k`` of those, all cells are searched.
    """
    faiss = import_faiss()
    matching = index.ntotal if matching is None else matching
    top_k = min(top_k, matching)
    if top_k < 1:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
    probes = number_of_probes(index.nlist, share=matching / index.ntotal)
    limit = min(top_k + 1, matching)  # one more shows whether the last one ties
    while True:
        parameters = faiss.SearchParametersIVF(nprobe=probes, sel=selector)
        (scores,), (ids,) = index.search(query[np.newaxis], limit, params=parameters)
        found = int((ids >= 0).sum())  # FAISS fills up with -1
        if found < top_k and probes < index.nlist:
            probes = index.nlist
        elif top_k < found == limit < matching and scores[-1] == scores[top_k - 1]:
            limit = min(2 * limit, matching)
        else:
            break
    order = np.lexsort((ids[:found], -scores[:found]))
    return ids[order], scores[order]


def has_gpu() -> bool:
    """Return whether the installed FAISS finds a GPU."""
    return bool(import_faiss().get_num_gpus())


def copy_to_gpu(index: Any) -> Any:
    """Return a copy of an index on the first GPU, for :func:`search_on_gpu`.

    Raises:
        ValueError: FAISS finds no GPU.
    """
    faiss = import_faiss()
    if not has_gpu():
        raise ValueError("FAISS finds no GPU; install faiss-gpu on a machine with CUDA, or use the device 'cpu'")
    copy = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    copy.nprobe = min(_GPU_LIMIT, number_of_probes(index.nlist))
    return copy


def search_on_gpu(
    index: Any, query: NDArray[np.float32], *, top_k: int, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    """Return what :func:`search` returns, of the ids in ``mask`` if given; ``None`` if the CPU has to search.

    FAISS's GPU indexes have no selectors and return at most 2048 hits, so more hits are fetched and filtered here.
    """
    limit = min(2 * top_k + 16, index.ntotal)
    if not 0 < top_k < limit <= _GPU_LIMIT:
        return None
    (scores,), (ids,) = index.search(query[np.newaxis], limit)
    is_wanted = ids >= 0 if mask is None else (ids >= 0) & mask[ids]
    ids, scores = ids[is_wanted], scores[is_wanted]
    if len(ids) <= top_k or scores[-1] == scores[top_k - 1]:  # vectors are missing, or may tie with the last
        return None
    order = np.lexsort((ids, -scores))
    return ids[order], scores[order]


def import_faiss() -> Any:
    """Import and return FAISS.

    Raises:
        ImportError: FAISS is not installed; the message names both packages that provide it.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "FAISS is not installed; run: pip install faiss-cpu (or faiss-gpu on a machine with CUDA), "
            "or pass another LlamaIndex vector store"
        ) from error
    return faiss
