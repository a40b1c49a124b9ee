"""``StaticModel``: embed queries and codes by table look-up, thousands of functions in a second and without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval._code_words import code_words
from llamaindex_code_retrieval._io import check_is_list, clean_text, json_hash, read_json, sha256
from llamaindex_code_retrieval.models.catalog import EMBEDDED, EMBEDDED_STATIC, NO_ADAPTER, SIDES, Side
from llamaindex_code_retrieval.models.files import DAMAGED, STATIC_CONFIG, STATIC_WEIGHTS, TOKENIZER
from llamaindex_code_retrieval.models.locate import locate_static_model
from llamaindex_code_retrieval.models.static_encoder import load_tokenizer
from llamaindex_code_retrieval.models.text_encoder import EncodedBatch, TextEncoder
from llamaindex_code_retrieval.models.weights import check_weights, read_arrays

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from llamaindex_code_retrieval.models.encoder import Encoder
    from llamaindex_code_retrieval.models.query_encoder_config import QueryEncoderConfig

FORMAT = 1
_MOST_WORDS = 200_000
"""Words whose tokens are remembered; with more of them the memory starts anew."""


class StaticModel(TextEncoder):
    """Adds the table rows of a text's tokens and divides the sum by its length.

    The text is divided into words as for BM25, identifiers into their parts, and the words into the tokens of a
    WordPiece vocabulary. A row of the table is int8 with its own scale; its length is the weight of the token. A token
    that occurs n times counts 1 + log(n) times, because code repeats its names. The order of the words has no effect,
    and the vector of a text without words is zero.
    """

    runtime = "numpy"

    def __init__(
        self,
        tokenizer: Tokenizer,
        table: NDArray[np.int8],
        scales: NDArray[np.float32],
        *,
        name: str,
        fingerprint: str,
        max_query_tokens: int,
        max_code_tokens: int,
    ) -> None:
        """Use a tokenizer of the package ``tokenizers`` and a table (tokens, dim) with the scale of each row."""
        self.name = name
        self.adapter = None
        self.pooling = "mean"  # a sum has the direction of the mean
        self.precision = "fp32"
        self.dim = table.shape[1]
        self.max_query_tokens = max_query_tokens
        self.max_code_tokens = max_code_tokens
        limits = {"max_query_tokens": max_query_tokens, "max_code_tokens": max_code_tokens}
        self.fingerprint = json_hash({"model": fingerprint, **limits})
        self._base_fingerprint = fingerprint
        self._tokens = WordTokens(tokenizer)
        self._table = table
        self._scales = scales
        self._warned = False

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = EMBEDDED_STATIC,
        *,
        max_query_tokens: int | None = None,
        max_code_tokens: int | None = None,
    ) -> Self:
        """Load a static model by known name or folder.

        Raises:
            ValueError: no such model, damaged files, or a token limit below 8.
        """
        folder = locate_static_model(name_or_path)
        config = read_json(folder / STATIC_CONFIG, remedy=DAMAGED, keys=("format", "max_tokens"))
        if config["format"] != FORMAT:
            raise ValueError(
                f"{folder / STATIC_CONFIG} has format {config['format']} and this version reads format {FORMAT}; "
                "take a model of this version"
            )
        limits = {"max_query_tokens": max_query_tokens, "max_code_tokens": max_code_tokens}
        for name, limit in limits.items():
            if limit is not None and limit < 8:
                raise ValueError(f"{name} must be at least 8, got {limit}")
        tokenizer = load_tokenizer(folder / TOKENIZER, remedy=DAMAGED)
        tensors = read_arrays(folder / STATIC_WEIGHTS, remedy=DAMAGED)
        table = tensors.get("table", np.empty((0, 0)))
        rows, dim = tokenizer.get_vocab_size(), table.shape[-1]
        check_weights(
            tensors, {"table": (rows, dim), "scales": (rows,)}, source=folder / STATIC_WEIGHTS, remedy=DAMAGED
        )
        files = [sha256(folder / file) for file in (STATIC_WEIGHTS, TOKENIZER)]
        return cls(
            tokenizer,
            table,
            tensors["scales"],
            name=str(name_or_path),
            fingerprint=json_hash({"kind": "static", "format": FORMAT, "files": files}),
            **{name: config["max_tokens"] if limit is None else limit for name, limit in limits.items()},
        )

    @property
    def base_fingerprint(self) -> str:
        """16 hex digits over table and tokenizer, without the token limits."""
        return self._base_fingerprint

    @property
    def positions(self) -> int | None:
        """Return ``None``: the sum has no limit."""
        return None

    def _tokenize(
        self, texts: Sequence[str], side: Side, *, truncate: bool = True
    ) -> tuple[list[list[int]], NDArray[np.bool_]]:
        check_is_list(texts, "texts")
        if side not in SIDES:
            raise ValueError(f"side must be 'query' or 'code', got {side!r}")
        limit = self._max_tokens(side)
        rows = list(self._tokens.ids(texts))
        truncated = np.fromiter((len(row) > limit for row in rows), dtype=np.bool_, count=len(rows))
        return [row[:limit] for row in rows] if truncate else rows, truncated

    def _encode_rows(
        self, rows: Sequence[Sequence[int]], token_budget: int | None
    ) -> Generator[EncodedBatch, None, None]:
        vectors = np.zeros((len(rows), self.dim), dtype=np.float32)
        for vector, row in zip(vectors, rows, strict=True):
            ids, weights = repetition_weights(row)
            vector += (self._scales[ids] * weights) @ self._table[ids].astype(np.float32)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        yield list(range(len(rows))), vectors


class StaticBase:
    """A static model as the base of an :class:`~llamaindex_code_retrieval.models.adapter_set.AdapterSet`."""

    def __init__(self, model: StaticModel) -> None:
        self._model = model

    def with_adapter(self, adapter: str | Path, *, merge: bool) -> TextEncoder:
        """Return the model for "none".

        Raises:
            ValueError: any other adapter, because there is no transformer to adapt.
        """
        if adapter != NO_ADAPTER:
            raise ValueError(
                f"{self._model.name} is a static embedding model and takes no adapter, got {adapter}; leave it out"
            )
        return self._model

    def torch_encoder(self, adapter: str | Path, *, merge: bool) -> Encoder:
        """Refuse.

        Raises:
            ValueError: always.
        """
        raise self._refusal()

    def student(
        self,
        folder: Path,
        config: QueryEncoderConfig,
        *,
        load_torch: Callable[[QueryEncoderConfig, Encoder], TextEncoder],
    ) -> TextEncoder:
        """Refuse; see :meth:`torch_encoder`."""
        raise self._refusal()

    def _refusal(self) -> ValueError:
        return ValueError(
            f"{self._model.name} is a static embedding model, a table that has no transformer; use an embedding of a "
            f"base here, such as CodeEmbedding({EMBEDDED!r})"
        )


def repetition_weights(ids: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the distinct tokens of a text, and 1 + log(n) for each that occurs n times.

    >>> repetition_weights([7, 5, 7])
    (array([7, 5]), array([1.6931472, 1.       ], dtype=float32))
    """
    counts = Counter(ids)
    rows = np.fromiter(counts, np.int64, len(counts))
    return rows, 1 + np.log(np.fromiter(counts.values(), np.float32, len(counts)))


class WordTokens:
    """The tokens of words, remembered because code repeats its words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Use a tokenizer of the package ``tokenizers``, which is not called for a word that it has seen."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._ids: dict[str, list[int]] = {}

    def ids(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """Yield the token ids of all words of each text."""
        for text in texts:
            words = code_words(clean_text(text))  # tokenizers refuse lone surrogates
            ids = self._ids_of(words)
            yield list(chain.from_iterable(map(ids.__getitem__, words)))

    def _ids_of(self, words: Sequence[str]) -> Mapping[str, list[int]]:
        """Return a mapping that has the token ids of these words."""
        ids = self._ids  # several threads may add to it, and another one may replace it
        if len(ids) > _MOST_WORDS:
            ids = self._ids = {}
        for word in words:
            if word not in ids:
                ids[word] = self._tokenizer.encode(word, add_special_tokens=False).ids
        return ids
