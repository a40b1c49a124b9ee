"""Teach an embedding model what larger ones know: their vectors of all texts, computed once and kept on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llamaindex_code_retrieval._io import Progress, default_cache_folder, no_progress
from llamaindex_code_retrieval.cache import EmbeddingCache
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.models.catalog import NO_ADAPTER, Side, default_adapter
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.training.pairs import Pair

_CACHE_BYTES = 2**36
"""A million vectors of 768 numbers take 3 GB, so nothing is dropped."""
_CHUNK, _CHUNK_ON_GPU = 1024, 16384
"""Texts whose vectors are written at once; what an interruption loses."""


def load_teachers(
    names: Sequence[str],
    *,
    device: str | None = None,
    max_query_tokens: int | None = None,
    max_code_tokens: int | None = None,
) -> list[CodeEmbedding]:
    """Load the teachers of a recipe, each named ``BASE`` or ``BASE=ADAPTER``.

    They read as many tokens as their student does, where that is given.

    Raises:
        ValueError: a name without a base, or a model that cannot be loaded.
    """
    teachers = []
    for name in names:
        base, equals, adapter = name.partition("=")
        if not base or (equals and not adapter):
            raise ValueError(f"a teacher is named BASE or BASE=ADAPTER, got {name!r}")
        teachers.append(
            CodeEmbedding(
                base,
                adapter=adapter or default_adapter(base) or NO_ADAPTER,
                device=device,
                max_query_tokens=max_query_tokens,
                max_code_tokens=max_code_tokens,
            )
        )
    return teachers


class TeacherVectors:
    """The vectors that teachers have of the queries and codes of pairs, in half precision."""

    def __init__(
        self,
        teachers: Sequence[CodeEmbedding],
        pairs: Sequence[Pair],
        *,
        cache_folder: Path | None = None,
        on_progress: Progress = no_progress,
    ) -> None:
        """Embed all texts of the pairs, their negatives included, or read their vectors from the cache.

        Args:
            teachers: embedding models.
            pairs: with the texts that a training embeds.
            cache_folder: where vectors are kept for the next run; by default in the user's cache folder.
            on_progress: called with the stage "teach".
        """
        self.fingerprints = [teacher.fingerprint for teacher in teachers]
        queries = dict.fromkeys(text for pair in pairs for text in (pair.query, *pair.negative_queries))
        codes = dict.fromkeys(text for pair in pairs for text in (pair.code, *pair.negatives))
        self._rows: dict[Side, dict[str, int]] = {
            "query": {text: row for row, text in enumerate(queries)},
            "code": {text: row for row, text in enumerate(codes)},
        }
        total = len(teachers) * (len(queries) + len(codes))
        self._vectors: list[dict[Side, NDArray[np.float16]]] = []
        with EmbeddingCache(cache_folder or default_cache_folder() / "teachers", max_bytes=_CACHE_BYTES) as cache:
            done = 0
            for teacher in teachers:
                by_side: dict[Side, NDArray[np.float16]] = {}
                for side, rows in self._rows.items():
                    by_side[side] = np.empty((len(rows), teacher.dim), dtype=np.float16)
                    texts = list(rows)
                    size = _CHUNK_ON_GPU if _is_on_gpu(teacher) else _CHUNK
                    for start in range(0, len(texts), size):
                        part = texts[start : start + size]
                        by_side[side][start : start + size] = _embed(teacher, side, part, cache)
                        done += len(part)
                        on_progress("teach", done, total)
                self._vectors.append(by_side)

    def cosines(self, queries: Sequence[str], codes: Sequence[str]) -> list[Tensor]:
        """Return the cosines of queries and codes by each teacher, ``(queries, codes)``."""
        places = [[self._rows["query"][text] for text in queries], [self._rows["code"][text] for text in codes]]
        return [
            torch.from_numpy(
                by_side["query"][places[0]].astype(np.float32) @ by_side["code"][places[1]].astype(np.float32).T
            )
            for by_side in self._vectors
        ]


def _is_on_gpu(teacher: CodeEmbedding) -> bool:
    return isinstance(teacher.encoder, Encoder) and teacher.encoder.device.type != "cpu"


def _embed(teacher: CodeEmbedding, side: Side, texts: list[str], cache: EmbeddingCache) -> NDArray[np.float32]:
    encoder = teacher.encoder
    model = f"{encoder.fingerprint}-{encoder.precision}"
    return cache.get_or_embed(model, side, texts, lambda missing: encoder.encode(missing, side=side))
