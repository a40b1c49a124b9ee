"""``CodeEmbedding``: the encoder as a LlamaIndex embedding model."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from numpy.typing import NDArray

from llamaindex_code_retrieval.cache import EmbeddingCache
from llamaindex_code_retrieval.encoder import Encoder, Precision, Side
from llamaindex_code_retrieval.models import EMBEDDED, Pooling


class CodeEmbedding(BaseEmbedding):
    """Embeds queries and codes with a base and, if given, a PEFT adapter.

    >>> from llamaindex_code_retrieval import CodeEmbedding
    >>> embedding = CodeEmbedding("embedded")
    >>> len(embedding.get_query_embedding("read a file line by line"))
    384

    All that changes a vector is a field and so enters LlamaIndex's ingestion hash: the base and adapter (through
    ``fingerprint``, which covers their weights), pooling, precision and token limits, each with the value in force.
    Calls are safe from several threads; the async methods leave the event loop free.
    """

    adapter: str | None = Field(default=None, description="Folder or hub name of an adapter in PEFT's format.")
    pooling: str = Field(description="'cls' or 'mean'.")
    precision: str = Field(description="'fp32' or 'bf16', the one in force.")
    max_query_tokens: int = Field(description="Tokens of a query that are read, special tokens included.")
    max_code_tokens: int = Field(description="Tokens of a code that are read, special tokens included.")
    fingerprint: str = Field(description="Hash over weights, adapter, tokenizer, pooling and limits.")
    device: str | None = Field(default=None, exclude=True, description="A torch device; default: CUDA if there is one.")
    cache_folder: str | None = Field(default=None, exclude=True, description="Folder of an EmbeddingCache.")

    _encoder: Encoder = PrivateAttr()
    _cache: EmbeddingCache | None = PrivateAttr(default=None)

    def __init__(
        self,
        model_name: str = EMBEDDED,
        *,
        adapter: str | Path | None = None,
        pooling: Pooling | None = None,
        precision: Precision = "auto",
        max_query_tokens: int | None = None,
        max_code_tokens: int | None = None,
        device: str | None = None,
        cache_folder: str | Path | None = None,
        embed_batch_size: int = 512,
        fingerprint: str | None = None,
        callback_manager: CallbackManager | None = None,
        num_workers: int | None = None,
        embeddings_cache: Any = None,
        **base_fields: Any,
    ) -> None:
        """Load the model.

        ``fingerprint`` may name the one expected, as a serialised embedding does; another one is refused.
        ``embed_batch_size`` texts go to the encoder at a time, which cuts them into token-budget batches itself.

        Raises:
            ValueError: see :meth:`Encoder.from_pretrained`; or a LlamaIndex ``embeddings_cache``, which is keyed by
                text alone, so that a query gets a code's vector and one adapter another one's.
        """
        if embeddings_cache is not None:
            raise ValueError(
                "embeddings_cache is keyed by the text alone and returns another model's vectors; "
                "use cache_folder=…, which is keyed by (fingerprint, query|code, text)"
            )
        unknown = set(base_fields) - set(BaseEmbedding.model_fields) - {"class_name"}
        if unknown:
            raise TypeError(f"CodeEmbedding has no option {', '.join(sorted(unknown))}")
        encoder = Encoder.from_pretrained(
            model_name,
            adapter=adapter,
            device=device,
            precision=precision,
            pooling=pooling,
            max_query_tokens=max_query_tokens,
            max_code_tokens=max_code_tokens,
        )
        if fingerprint not in (None, encoder.fingerprint):
            raise ValueError(
                f"model {model_name!r} now has fingerprint {encoder.fingerprint}, but {fingerprint} is asked for: "
                "its weights, adapter, tokenizer or limits have changed; leave fingerprint out to take it as it is"
            )
        super().__init__(  # type: ignore[call-arg]  # mypy sees the base's fields only
            model_name=str(model_name),
            adapter=None if adapter is None else str(adapter),
            pooling=encoder.pooling,
            precision=encoder.precision,
            max_query_tokens=encoder.max_query_tokens,
            max_code_tokens=encoder.max_code_tokens,
            fingerprint=encoder.fingerprint,
            device=device,
            cache_folder=None if cache_folder is None else str(cache_folder),
            embed_batch_size=embed_batch_size,
            callback_manager=callback_manager or CallbackManager([]),
            num_workers=num_workers,
            **base_fields,
        )
        self._encoder = encoder
        self._cache = None if cache_folder is None else EmbeddingCache(cache_folder)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "CodeEmbedding"

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process (IngestionPipeline's workers) loads the model itself; an open database does not travel.
        options = self.model_dump(exclude={"callback_manager", "embeddings_cache", "rate_limiter"})
        options |= {"device": self.device, "cache_folder": self.cache_folder}
        return _rebuild, (options,)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> CodeEmbedding:
        return self.model_copy()  # the encoder and the cache are shared: neither is changed by use

    @property
    def encoder(self) -> Encoder:
        """The loaded encoder."""
        return self._encoder

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._encoder.dim

    def truncated_codes(self, codes: Sequence[str]) -> int:
        """Return how many codes are longer than ``max_code_tokens``, so that their end is not embedded."""
        return int(self._encoder.is_truncated(codes, side="code").sum())

    def _embed(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        if self._cache is None:
            return self._encoder.encode(texts, side=side)
        # Precision is no part of the fingerprint, but a cached vector must be the one this model would compute.
        model = f"{self.fingerprint}-{self.precision}"
        keys = [EmbeddingCache.key(model, side, text) for text in texts]
        found = self._cache.get(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            new = dict(zip(missing, self._encoder.encode(list(missing.values()), side=side), strict=True))
            self._cache.put(new)
            found |= new
        return np.stack([found[key] for key in keys]) if keys else np.empty((0, self.dim), dtype=np.float32)

    def _get_query_embedding(self, query: str) -> Embedding:
        vector: Embedding = self._embed([query], "query")[0].tolist()
        return vector

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        vectors: list[Embedding] = self._embed(texts, "code").tolist()
        return vectors

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


def _rebuild(options: dict[str, Any]) -> CodeEmbedding:
    return CodeEmbedding(**options)
