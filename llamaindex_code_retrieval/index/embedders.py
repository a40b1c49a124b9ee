"""The interface of embedding models to an index, and a wrapper for any LlamaIndex model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import json_hash
from llamaindex_code_retrieval.embedding import CodeEmbedding, node_language

_PROBE = "def add(a, b):\n    return a + b\n"
_SAME_MODEL = 0.99  # cosine; one model differs less between machines and precisions

_UNLOADED = "the index was loaded with words_only=True, without its model; load it without that to embed or update"


class Embedder(Protocol):
    """An embedding model, perhaps with an adapter for each language. ``CodeEmbedding`` is one."""

    @property
    def dim(self) -> int:
        """Length of a vector."""

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the model with all its adapters."""

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """Fingerprint of the model for each language that has an adapter of its own, and ``""`` for the others."""

    def embed_codes(
        self, codes: Sequence[str], languages: Sequence[str], *, on_batch: Callable[[int], object] | None = None
    ) -> NDArray[np.float32]:
        """Return the vectors, shape ``(codes, dim)``, of codes each written in its language.

        ``on_batch`` is called after each call of the model with its number of codes; to stop early, it may raise.
        """

    def truncated_codes(self, codes: Sequence[str]) -> int:
        """Return how many codes are longer than the model reads."""

    def for_language(self, language: str) -> Embedder:
        """Return an embedder that uses the adapter of ``language`` for everything."""

    def get_query_embedding(self, query: str) -> list[float]:
        """Return a query's vector by the default adapter."""

    async def aget_query_embedding(self, query: str) -> list[float]:
        """Return a query's vector by the default adapter."""

    def to_dict(self) -> dict[str, Any]:
        """Return the description that an index saves: ``class_name``, ``model_name`` and perhaps settings."""


@dataclass(frozen=True, slots=True)
class AnyEmbedding:
    """Any LlamaIndex embedding model as an :class:`Embedder`.

    Other models than ``CodeEmbedding`` have no fingerprint of their weights. They are identified by class, name and
    dimension and, when an index is loaded, by the vector of a fixed text.
    """

    embedding: BaseEmbedding
    probe: tuple[float, ...]
    """The vector of a fixed text."""

    @classmethod
    def of(cls, embedding: BaseEmbedding) -> AnyEmbedding:
        """Embed the fixed text."""
        return cls(embedding, tuple(embedding.get_text_embedding(_PROBE)))

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return len(self.probe)

    @property
    def fingerprint(self) -> str:
        """Hash of class, name and dimension."""
        return json_hash([self.embedding.class_name(), self.embedding.model_name, self.dim])

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """The same for all languages."""
        return {"": self.fingerprint}

    def embed_codes(
        self, codes: Sequence[str], languages: Sequence[str], *, on_batch: Callable[[int], object] | None = None
    ) -> NDArray[np.float32]:
        """Return the vectors, shape ``(codes, dim)``, of codes in any languages; see :meth:`Embedder.embed_codes`."""
        vectors: list[list[float]] = []
        for start in range(0, len(codes), self.embedding.embed_batch_size):
            batch = list(codes[start : start + self.embedding.embed_batch_size])
            vectors += self.embedding.get_text_embedding_batch(batch)
            if on_batch is not None:
                on_batch(len(batch))
        return np.asarray(vectors, dtype=np.float32)

    def truncated_codes(self, codes: Sequence[str]) -> int:
        """Return 0: LlamaIndex models do not report truncation."""
        return 0

    def for_language(self, language: str) -> AnyEmbedding:
        """Return this embedder: it has no adapters."""
        return self

    def get_query_embedding(self, query: str) -> list[float]:
        """Return a query's vector."""
        return self.embedding.get_query_embedding(query)

    async def aget_query_embedding(self, query: str) -> list[float]:
        """Return a query's vector."""
        return await self.embedding.aget_query_embedding(query)

    def to_dict(self) -> dict[str, Any]:
        """Return class and name only: other settings may contain API keys."""
        return {"class_name": self.embedding.class_name(), "model_name": self.embedding.model_name}

    def is_like(self, probe: Sequence[float]) -> bool:
        """Return whether this model may have computed ``probe``, up to rounding."""
        saved, computed = np.asarray(probe), np.asarray(self.probe)
        if saved.shape != computed.shape:
            return False
        return bool(saved @ computed >= _SAME_MODEL * np.linalg.norm(saved) * np.linalg.norm(computed))

    def __deepcopy__(self, memo: dict[int, Any]) -> AnyEmbedding:
        return self  # it is immutable, and a model may not be copyable


@dataclass(frozen=True, slots=True)
class UnloadedModel:
    """The model of an index that was loaded for BM25 alone: known by the index's manifest, it embeds nothing."""

    settings: Mapping[str, Any]
    """The description of the model that the index saved."""
    dim: int
    fingerprint: str
    fingerprints: Mapping[str, str]

    def embed_codes(
        self, codes: Sequence[str], languages: Sequence[str], *, on_batch: Callable[[int], object] | None = None
    ) -> NDArray[np.float32]:
        """Refuse."""
        raise ValueError(_UNLOADED)

    def truncated_codes(self, codes: Sequence[str]) -> int:
        """Refuse."""
        raise ValueError(_UNLOADED)

    def for_language(self, language: str) -> UnloadedModel:
        """Return the model."""
        return self

    def get_query_embedding(self, query: str) -> list[float]:
        """Refuse."""
        raise ValueError(_UNLOADED)

    async def aget_query_embedding(self, query: str) -> list[float]:
        """Refuse."""
        raise ValueError(_UNLOADED)

    def to_dict(self) -> dict[str, Any]:
        """Return the description that the index saved."""
        return dict(self.settings)


def embedder_of(embedding: BaseEmbedding) -> Embedder:
    """Return an embedder for an embedding model. A model other than ``CodeEmbedding`` embeds one short text.

    Raises:
        TypeError: it is not a LlamaIndex embedding model.
    """
    if isinstance(embedding, CodeEmbedding):
        return embedding
    if not isinstance(embedding, BaseEmbedding):
        raise TypeError(f"embedding must be a LlamaIndex embedding model, got a {type(embedding).__name__}")
    return AnyEmbedding.of(embedding)


def fingerprint_of(fingerprints: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """Return the fingerprint of the model that embeds a node with this metadata."""
    return fingerprints.get(node_language(metadata), fingerprints[""])


class AdapterGroup(NamedTuple):
    """The languages whose vectors one adapter made. Vectors of two groups cannot be compared with each other."""

    embedder: Embedder
    """Embeds queries with this adapter."""
    languages: list[str]
    fingerprint: str


def group_by_adapter(
    models: Mapping[str, list[str]],
    embedders: Sequence[Embedder],
    *,
    languages: Collection[str] | None,
    folder: Path,
) -> list[AdapterGroup]:
    """Group the languages of an index (those of ``languages``, if given) by the adapter that made their vectors.

    ``models`` are the languages by the fingerprint of the model that made their vectors. The first of ``embedders``
    that has the model embeds the queries.

    Raises:
        ValueError: none of them has it.
    """
    groups = []
    for fingerprint, group in models.items():
        if languages is not None and not set(group) & set(languages):
            continue
        for embedder in embedders:
            adapted = embedder.for_language(group[0])
            if adapted.fingerprint == fingerprint:
                break
        else:
            raise ValueError(
                f"the vectors of the index in {folder} are of a model with fingerprint {fingerprint}, the "
                f"embedding has {adapted.fingerprint}; call update(), or open the index again"
            )
        groups.append(AdapterGroup(adapted, group, fingerprint))
    return groups
