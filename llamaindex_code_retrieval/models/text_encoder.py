"""``TextEncoder``: what all encoders do alike, from texts to token ids and from batches to vectors."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import check_is_list, json_hash
from llamaindex_code_retrieval.models.catalog import SIDES, Pooling, Side
from llamaindex_code_retrieval.models.fingerprint import adapter_metadata, without_token_limits
from llamaindex_code_retrieval.models.spec import EncoderSpec
from llamaindex_code_retrieval.models.tokenization import Tokenization

logger = logging.getLogger(__name__)

EncodedBatch = tuple[list[int], NDArray[np.float32]]
"""The positions of texts and their unit vectors, (texts, dim)."""


class TextEncoder(ABC):
    """Maps queries and codes to unit vectors, so that a dot product is a cosine.

    ``Encoder`` computes them with torch, ``GraphEncoder`` with OpenVINO. Vectors do not depend on the other texts of a
    batch (to 1e-5 in fp32), and several threads may encode at once.
    """

    runtime: ClassVar[Literal["numpy", "openvino", "torch"]]
    precision: Literal["fp32", "bf16"]
    dim: int
    """Length of a vector."""

    def describe(
        self,
        tokenization: Tokenization,
        spec: EncoderSpec,
        metadata: dict[str, Any],
        *,
        name: str,
        adapter: Path | None,
    ) -> None:
        """Set what all encoders have; ``metadata`` is everything that decides a vector of the base."""
        self.tokenization = tokenization
        self.spec = spec
        self.name = name
        self.adapter = adapter
        self.pooling: Pooling = spec.pooling
        self.max_query_tokens = spec.max_query_tokens
        self.max_code_tokens = spec.max_code_tokens
        self.fingerprint: str = json_hash(
            metadata if adapter is None else metadata | {"adapter": adapter_metadata(adapter)}
        )
        """16 hex digits over all that decides a vector, except the runtime, the precision and the device.

        An index built in bf16 on a GPU answers queries that a laptop encodes in fp32.
        """
        self._metadata = metadata
        self._warned = False

    @property
    def base_fingerprint(self) -> str:
        """16 hex digits over the base's weights, tokenizer and pooling, without the adapter and the token limits."""
        return json_hash(without_token_limits(self._metadata))

    @property
    def metadata(self) -> dict[str, Any]:
        """Everything that decides a vector of the base."""
        return self._metadata

    @property
    def positions(self) -> int | None:
        """The largest number of tokens that the backbone reads; ``None`` where it has no limit."""
        return self.spec.positions

    def tokenize(self, texts: Sequence[str], *, side: Side, truncate: bool = True) -> list[list[int]]:
        """Return the token ids of each text, special tokens included, truncated to the limit of the side."""
        return self._tokenize(texts, side, truncate=truncate)[0]

    def is_truncated(self, texts: Sequence[str], *, side: Side) -> NDArray[np.bool_]:
        """Return for each text whether it is longer than the token limit, so that its end is not embedded."""
        return self._tokenize(texts, side)[1]

    def count_tokens(self, texts: Sequence[str], *, side: Side) -> int:
        """Return the number of tokens that are read of all texts together, special tokens included."""
        return sum(map(len, self.tokenize(texts, side=side)))

    def _tokenize(
        self, texts: Sequence[str], side: Side, *, truncate: bool = True
    ) -> tuple[list[list[int]], NDArray[np.bool_]]:
        check_is_list(texts, "texts")
        if side not in SIDES:
            raise ValueError(f"side must be 'query' or 'code', got {side!r}")
        prompt = self.spec.query_prompt if side == "query" else self.spec.code_prompt
        return self.tokenization.rows(texts, max_tokens=self._max_tokens(side) if truncate else None, prompt=prompt)

    def _max_tokens(self, side: Side) -> int:
        return self.max_query_tokens if side == "query" else self.max_code_tokens

    def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(queries, dim)`` in the order given."""
        return self.encode(queries, side="query")

    def encode_codes(self, codes: Sequence[str]) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(codes, dim)`` in the order given."""
        return self.encode(codes, side="code")

    def encode(
        self,
        texts: Sequence[str],
        *,
        side: Side,
        token_budget: int | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(texts, dim)``, without gradient.

        Batches have at most ``token_budget`` tokens, padding included. By default they are of the size at which
        throughput stops growing: larger ones do not fit a CPU's cache. ``on_progress`` is called after each batch with
        its number of texts.
        """
        if token_budget is not None and token_budget < 1:
            raise ValueError(f"token_budget must be at least 1, got {token_budget}")
        rows, truncated = self._tokenize(texts, side)
        self._warn_once(truncated, side)
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        with closing(self._encode_rows(rows, token_budget)) as encoded:
            for batch, batch_vectors in encoded:
                vectors[batch] = batch_vectors
                if on_progress is not None:
                    on_progress(len(batch))
        return vectors

    @abstractmethod
    def _encode_rows(
        self, rows: Sequence[Sequence[int]], token_budget: int | None
    ) -> Generator[EncodedBatch, None, None]:
        """Yield the vectors of token rows, batch by batch."""

    def _warn_once(self, truncated: NDArray[np.bool_], side: Side) -> None:
        if truncated.any() and not self._warned:
            self._warned = True
            message = "%d of %d texts are longer than %d tokens; their end is not embedded (logged once per encoder)"
            logger.warning(message, truncated.sum(), len(truncated), self._max_tokens(side))
