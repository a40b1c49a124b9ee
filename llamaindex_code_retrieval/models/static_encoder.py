"""``StaticEncoder``: embed a query by table look-up, in a fraction of a millisecond and with NumPy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import clean_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MULTIPLIERS = (1_000_003, 7_919)


class StaticEncoder:
    """Adds the table rows of a query's tokens and of its pairs of neighbouring tokens, and projects the sum.

    The projection is linear, plus a hidden layer over the direction of the sum. A row of the table is int8 with its own
    scale; its length is the weight of the token. A pair of neighbours is hashed to one of ``buckets`` rows behind those
    of the vocabulary.
    """

    def __init__(
        self, tokenizer: Tokenizer, tensors: Mapping[str, NDArray[Any]], *, buckets: int = 0, max_tokens: int = 64
    ) -> None:
        """Use a tokenizer of the package ``tokenizers`` and the tensors that :func:`static_tensors` returns."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._table = tensors["table"]  # (rows, rank), int8
        self._scales = tensors["scales"]  # (rows,)
        self._projection, self._inner, self._bias, self._outer = (
            tensors[name].astype(np.float32) for name in ("projection", "inner", "bias", "outer")
        )
        self._words = len(self._table) - buckets
        self._buckets = buckets
        self.max_query_tokens = max_tokens
        self.dim: int = self._projection.shape[1]

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(queries, dim)``; the vector of a query without tokens is zero."""
        sums = np.zeros((len(queries), self._table.shape[1]), dtype=np.float32)
        for i, query in enumerate(queries):
            clean = clean_text(query)  # tokenizers refuse lone surrogates
            ids = self._tokenizer.encode(clean, add_special_tokens=False).ids[: self.max_query_tokens]
            if ids:
                rows = table_rows(ids, words=self._words, buckets=self._buckets)
                sums[i] = self._scales[rows] @ self._table[rows].astype(np.float32)
        vectors: NDArray[np.float32] = sums @ self._projection
        if self._outer.size:
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            directions = sums / np.maximum(lengths, 1e-12) * np.float32(sums.shape[1] ** 0.5)
            vectors += lengths * (_gelu(directions @ self._inner + self._bias) @ self._outer)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors


def load_tokenizer(path: Path, *, remedy: str) -> Tokenizer:
    """Read a ``tokenizer.json`` with the package ``tokenizers`` alone.

    Raises:
        ValueError: it is missing or damaged; the message ends with ``remedy``.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare exceptions
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from error


def _gelu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return GELU in its tanh form (Hendrycks and Gimpel 2016, section 2)."""
    inside = np.float32((2 / np.pi) ** 0.5) * (x + np.float32(0.044715) * x * x * x)
    activated: NDArray[np.float32] = np.float32(0.5) * x * (1 + np.tanh(inside))
    return activated


def static_tensors(
    table: NDArray[np.float32],
    projection: NDArray[np.float32],
    inner: NDArray[np.float32],
    bias: NDArray[np.float32],
    outer: NDArray[np.float32],
) -> dict[str, NDArray[Any]]:
    """Return the tensors to save of a table (rows, rank), a projection (rank, dim) and a layer (rank, hidden, dim)."""
    rows, scales = quantize_rows(table)
    half = {"projection": projection, "inner": inner, "bias": bias, "outer": outer}
    return {  # in C order, because safetensors writes the memory without regard to strides
        "table": rows,
        "scales": scales,
        **{name: tensor.astype(np.float16, order="C") for name, tensor in half.items()},
    }


def quantize_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the rows of a table in int8, and the scale of each.

    The error of a number is at most half a 127th of the largest one in its row.
    """
    scales = np.abs(table).max(axis=1) / 127
    rows = np.round(table / np.maximum(scales, 1e-30)[:, None])
    return rows.astype(np.int8, order="C"), scales.astype(np.float32)


def static_shapes(tensors: Mapping[str, NDArray[Any]], *, rows: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of a table with ``rows``; projection and hidden layer set the other sizes."""
    matrices = (tensors.get(name, np.empty((0, 0))) for name in ("projection", "inner"))
    (rank, dim), (_, hidden) = (matrix.shape if matrix.ndim == 2 else (0, 0) for matrix in matrices)
    return {
        "table": (rows, rank),
        "scales": (rows,),
        "projection": (rank, dim),
        "inner": (rank, hidden),
        "bias": (hidden,),
        "outer": (hidden, dim),
    }


def table_rows(ids: Sequence[int], *, words: int, buckets: int) -> list[int]:
    """Return the table rows of token ids and, with ``buckets``, of their neighbouring pairs, both ends included.

    >>> table_rows([3, 4], words=10, buckets=0)
    [3, 4]
    """
    if not buckets or not ids:
        return list(ids)
    first, second = _MULTIPLIERS
    end = words  # the id of no token
    pairs = zip([end, *ids], [*ids, end], strict=True)
    return [*ids, *(words + (one * first + two * second) % buckets for one, two in pairs)]
