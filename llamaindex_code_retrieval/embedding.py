"""``CodeEmbedding``: the encoder as a LlamaIndex embedding model."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode, MetadataMode
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import json_hash
from llamaindex_code_retrieval.cache import EmbeddingCache
from llamaindex_code_retrieval.models.catalog import (
    BASES,
    DEFAULT_ADAPTERS,
    EMBEDDED,
    NO_ADAPTER,
    Pooling,
    Precision,
    Side,
)
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder

if TYPE_CHECKING:  # a query encoder that is a table answers without torch, which is slow to import
    from llamaindex_code_retrieval.models.encoder import Encoder


class CodeEmbedding(BaseEmbedding):
    """Embeds queries and codes with a base and, if given, a PEFT adapter, or one for each programming language.

    >>> from llamaindex_code_retrieval import CodeEmbedding
    >>> embedding = CodeEmbedding("embedded")
    >>> len(embedding.get_query_embedding("read a file line by line"))
    384

    All that changes a vector is a field and so enters LlamaIndex's ingestion hash: the base and adapter (through
    ``fingerprint``, which covers their weights), pooling, precision and token limits, each with the value in force.
    Calls are safe from several threads; the async methods leave the event loop free.

    ``adapters={"python": "python-lora", "java": "java-lora"}`` embeds each *node* with the adapter of its
    ``metadata["language"]``, and with ``adapter`` those of any other language: as a transformation of an
    ``IngestionPipeline``, and in ``CodeIndex``. All share the base's weights. Vectors of two adapters cannot be
    compared, so ``CodeRetriever`` asks with each. Methods that get a bare text (``get_text_embedding``,
    ``get_query_embedding``, and with them a ``VectorStoreIndex``, which passes texts alone) know no language and take
    the default adapter; give such an index the nodes of one language and the embedding of :meth:`for_language`.

    ``query_encoder`` names a small student of this model that embeds the queries in its place, ``"auto"`` the one that
    comes with the package for it. Vectors of code, fingerprint and indexes stay as they are, so it can be given to an
    embedding whose index is already built.

    ``to_dict`` and ``to_json`` hold all settings except ``device`` and ``cache_folder``, which belong to one machine;
    pass those to ``from_dict`` again. A copy that is sent to another process keeps them.
    """

    adapter: str = Field(description="Folder, hub name or shipped name of an adapter in PEFT's format, or 'none'.")
    adapters: dict[str, str] = Field(default_factory=dict, description="Adapter by the language of a node.")
    pooling: str = Field(description="'cls' or 'mean'.")
    precision: str = Field(description="'fp32' or 'bf16', the one in force.")
    max_query_tokens: int = Field(description="Tokens of a query that are read, special tokens included.")
    max_code_tokens: int = Field(description="Tokens of a code that are read, special tokens included.")
    fingerprint: str = Field(description="Hash over weights, adapters, tokenizer, pooling and limits.")
    device: str | None = Field(default=None, exclude=True, description="A torch device; default: CUDA if there is one.")
    query_encoder: str | None = Field(default=None, description="A student that embeds the queries.")
    cache_folder: str | None = Field(default=None, exclude=True, description="Folder of an EmbeddingCache.")
    merge_adapter: bool = Field(default=True, description="Copy weights for speed; False saves memory.")

    _held: _Held = PrivateAttr()
    _student: QueryEncoder | None = PrivateAttr(default=None)
    _swap: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _cache: EmbeddingCache | None = PrivateAttr(default=None)

    def __init__(
        self,
        model_name: str = EMBEDDED,
        *,
        adapter: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        pooling: Pooling | None = None,
        precision: Precision = "auto",
        max_query_tokens: int | None = None,
        max_code_tokens: int | None = None,
        query_encoder: str | Path | None = None,
        device: str | None = None,
        cache_folder: str | Path | None = None,
        merge_adapter: bool = True,
        embed_batch_size: int = 512,
        fingerprint: str | None = None,
        callback_manager: CallbackManager | None = None,
        num_workers: int | None = None,
        embeddings_cache: Any = None,
        **base_fields: Any,
    ) -> None:
        """Load the model.

        ``adapter=None`` takes the adapter that comes with the package for this base, if there is one, and ``"none"``
        the bare base. ``fingerprint`` may name the one expected, as a serialised embedding does; another is refused.
        With that and a static query encoder of it the base is loaded only when something else than a query is embedded,
        and refused only then.
        With ``merge_adapter=False`` an adapter's weights are computed beside those of the base, which saves copies of
        all that it changes and costs time; vectors are the same up to rounding.
        ``embed_batch_size`` texts go to the encoder at a time, which cuts them into token-budget batches itself.

        Raises:
            ValueError: see :meth:`Encoder.from_pretrained`, for each adapter; or a LlamaIndex ``embeddings_cache``,
                which is keyed by text alone, so that a query gets a code's vector and one adapter another one's.
        """
        if embeddings_cache is not None:
            raise ValueError(
                "embeddings_cache is keyed by the text alone and returns another model's vectors; "
                "use cache_folder=…, which is keyed by (fingerprint, query|code, text)"
            )
        unknown = set(base_fields) - set(BaseEmbedding.model_fields) - {"class_name"}
        if unknown:
            raise TypeError(f"CodeEmbedding has no option {', '.join(sorted(unknown))}")
        names = _adapter_names(adapters)
        if adapter is None:
            known = BASES.get(str(model_name))
            other_pooling = known is not None and pooling not in (None, known.pooling)
            adapter = NO_ADAPTER if other_pooling else DEFAULT_ADAPTERS.get(str(model_name), NO_ADAPTER)

        def load() -> dict[str, Encoder]:
            from llamaindex_code_retrieval.models.encoder import Encoder

            encoder = Encoder.from_pretrained(
                model_name,
                adapter=None if adapter == NO_ADAPTER else adapter,
                device=device,
                precision=precision,
                pooling=pooling,
                max_query_tokens=max_query_tokens,
                max_code_tokens=max_code_tokens,
                merge_adapter=merge_adapter,
            )
            encoders = {"": encoder}
            loaded = {str(adapter): encoder}
            for language, name in names.items():
                if name not in loaded:
                    loaded[name] = _adapted(encoders, name, language, merge=merge_adapter)
                encoders[language] = loaded[name]
            now = _fingerprint(encoders)
            if fingerprint not in (None, now):
                raise ValueError(
                    f"model {model_name!r} now has fingerprint {now}, but {fingerprint} is asked for: "
                    "its weights, adapter, tokenizer or limits have changed; leave fingerprint out to take it as it is"
                )
            return encoders

        held = _Held(load)
        student = None
        said = None not in (pooling, max_query_tokens, max_code_tokens)  # what else only the encoder knows
        if query_encoder is not None and fingerprint is not None and said and not names:
            student = QueryEncoder.load_static(query_encoder, teacher=fingerprint)
        facts: dict[str, Any] = {"pooling": pooling, "precision": precision, "fingerprint": fingerprint}
        facts |= {"max_query_tokens": max_query_tokens, "max_code_tokens": max_code_tokens}
        if student is None:
            encoder = held.encoders[""]
            student = None if query_encoder is None else QueryEncoder.load(query_encoder, teacher=encoder)
            facts = {name: getattr(encoder, name) for name in facts} | {"fingerprint": _fingerprint(held.encoders)}
        super().__init__(  # type: ignore[call-arg]  # mypy sees the base's fields only
            model_name=str(model_name),
            adapter=str(adapter),
            adapters=names,
            **facts,
            device=device,
            query_encoder=None if student is None else student.name,
            cache_folder=None if cache_folder is None else str(cache_folder),
            merge_adapter=merge_adapter,
            embed_batch_size=embed_batch_size,
            callback_manager=callback_manager or CallbackManager([]),
            num_workers=num_workers,
            **base_fields,
        )
        self._held = held
        self._student = student
        self._cache = None if cache_folder is None else EmbeddingCache(cache_folder)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "CodeEmbedding"

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process (IngestionPipeline's workers) loads the model itself; an open database does not travel.
        return type(self).from_dict, (self.to_dict() | {"device": self.device, "cache_folder": self.cache_folder},)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> CodeEmbedding:
        with self._swap:
            return self.model_copy()  # the encoders and the cache are shared: neither is changed by use

    @property
    def _encoders(self) -> dict[str, Encoder]:
        """By language, "" the default. Replaced as a whole and never changed, so that reading it once is a snapshot."""
        return self._held.encoders

    @property
    def encoder(self) -> Encoder:
        """The encoder with the default adapter."""
        return self._encoders[""]

    @property
    def query_fingerprint(self) -> str:
        """The fingerprint, and behind it that of the query encoder where there is one: equal for equal rankings."""
        return self.fingerprint if self._student is None else f"{self.fingerprint}+{self._student.fingerprint}"

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each language's encoder; that of ``""`` is for every language not named."""
        if not self._held.loaded:
            return {"": self.fingerprint}
        return {language: encoder.fingerprint for language, encoder in self._encoders.items()}

    @property
    def dim(self) -> int:
        """Length of a vector."""
        if self._student is not None:
            return self._student.dim
        return self.encoder.dim

    def for_language(self, language: str) -> CodeEmbedding:
        """Return an embedding with the adapter of ``language``, or the default one, for all texts and queries.

        It shares the encoder and keeps it when :meth:`use_adapter` gives this one another.
        """
        with self._swap:
            if not self._held.loaded:  # then there is one adapter
                return self.model_copy()
            encoder = self._encoders.get(language, self.encoder)
            return self._only(encoder, self.adapters.get(language, self.adapter))

    def uncached(self) -> CodeEmbedding:
        """Return an embedding that shares the encoders and computes each vector anew, as a measurement of time must."""
        with self._swap:
            view = self.model_copy(update={"cache_folder": None})
        view._cache = None
        return view

    def use_adapter(self, language: str, adapter: str | Path | None) -> None:
        """Swap the adapter of ``language`` (``""``: the default one) without loading the base again.

        ``None`` takes the adapter away, so that the language gets the default one, and the default is the bare base.
        An adapter that is refused leaves all as it was. Calls under way in other threads finish with the adapter they
        began with. A ``CodeIndex`` is searched with the adapters that made its vectors until its next update, which
        embeds the nodes of this language anew.

        Raises:
            ValueError: the adapter does not fit, see :meth:`Encoder.with_adapter`; another default adapter while a
                query encoder is in use, which is not its student.
        """
        if self._student is not None and not language:
            raise ValueError(
                f"the query encoder {self.query_encoder} is a student of the adapter {self.adapter!r}, so the default "
                "adapter cannot be swapped under it; make an embedding without query_encoder, or with another one"
            )
        if adapter is not None:
            _adapter_names({language or "other languages": adapter})  # refuses a wrong type
        new: Encoder | None = None
        if adapter is not None:
            new = _adapted(self._encoders, adapter, language, merge=self.merge_adapter)
        elif not language:
            new = self.encoder.without_adapter()
        with self._swap:  # held for no longer than this, since every call takes its snapshot under it
            encoders, names = dict(self._encoders), dict(self.adapters)
            if new is not None:
                encoders[language] = new
            else:
                encoders.pop(language, None)
            if not language:
                self.adapter = NO_ADAPTER if adapter is None else str(adapter)
            elif adapter is not None:
                names[language] = str(adapter)
            else:
                names.pop(language, None)
            self._held, self.adapters, self.fingerprint = _Held.of(encoders), names, _fingerprint(encoders)

    def embed_codes(self, codes: Sequence[str], languages: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors, shape ``(codes, dim)``, of codes each written in its language, in the order given."""
        vectors = np.empty((len(codes), self.dim), dtype=np.float32)
        for embedding, rows in self._by_adapter(languages):
            vectors[rows] = embedding.get_text_embedding_batch([codes[row] for row in rows])
        return vectors

    def embed_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors, shape ``(queries, dim)``, of queries by the default adapter, in the order given.

        Those of a query encoder, where there is one, are computed anew each time: a cache would be slower.
        """
        return self._embed(queries, "query") if self._student is None else self._student.encode_queries(queries)

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Embed nodes, those of each adapter in one go, and return them in their order."""
        for embedding, rows in self._by_adapter([language_of(node.metadata) for node in nodes]):
            texts = [nodes[row].get_content(metadata_mode=MetadataMode.EMBED) for row in rows]
            for row, vector in zip(rows, embedding.get_text_embedding_batch(texts, **kwargs), strict=True):
                nodes[row].embedding = vector
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Embed nodes as ``__call__`` does."""
        for embedding, rows in self._by_adapter([language_of(node.metadata) for node in nodes]):
            texts = [nodes[row].get_content(metadata_mode=MetadataMode.EMBED) for row in rows]
            for row, vector in zip(rows, await embedding.aget_text_embedding_batch(texts, **kwargs), strict=True):
                nodes[row].embedding = vector
        return nodes

    def _by_adapter(self, languages: Sequence[str]) -> list[tuple[CodeEmbedding, list[int]]]:
        """Return for each adapter in use an embedding with it alone, and the positions of its languages."""
        now = copy.deepcopy(self)
        rows: dict[str, list[int]] = {}  # by fingerprint: two languages may share an adapter
        view: dict[str, CodeEmbedding] = {}
        for row, language in enumerate(languages):
            encoder = now._encoders.get(language, now.encoder)
            if encoder.fingerprint not in view:
                view[encoder.fingerprint] = now._only(encoder, now.adapters.get(language, now.adapter))
            rows.setdefault(encoder.fingerprint, []).append(row)
        return [(view[fingerprint], positions) for fingerprint, positions in rows.items()]

    def _only(self, encoder: Encoder, adapter: str) -> CodeEmbedding:
        changes: dict[str, Any] = {"adapter": adapter, "adapters": {}, "fingerprint": encoder.fingerprint}
        view = self.model_copy(update=changes)
        view._held = _Held.of({"": encoder})
        if self._student is not None and self._student.teacher != encoder.fingerprint:
            view._student = view.query_encoder = None  # this adapter's queries are embedded in full
        return view

    def truncated_codes(self, codes: Sequence[str]) -> int:
        """Return how many codes are longer than ``max_code_tokens``, so that their end is not embedded."""
        return int(self.encoder.is_truncated(codes, side="code").sum())

    def _embed(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        encoder = self.encoder
        if self._cache is None:
            return encoder.encode(texts, side=side)
        # Precision is no part of the fingerprint, but a cached vector must be the one this model would compute. The
        # fingerprint is the encoder's own, so that another language's new adapter leaves this one's vectors usable.
        model = f"{encoder.fingerprint}-{self.precision}"
        keys = [EmbeddingCache.key(model, side, text) for text in texts]
        found = self._cache.get(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            new = dict(zip(missing, encoder.encode(list(missing.values()), side=side), strict=True))
            self._cache.put(new)
            found |= new
        return np.stack([found[key] for key in keys]) if keys else np.empty((0, self.dim), dtype=np.float32)

    def _get_query_embedding(self, query: str) -> Embedding:
        vector: Embedding = self.embed_queries([query])[0].tolist()
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


class _Held:
    """Encoders that are loaded when they are first asked for, once for all copies of an embedding."""

    def __init__(self, load: Callable[[], dict[str, Encoder]]) -> None:
        self._load = load
        self._found: dict[str, Encoder] | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, encoders: dict[str, Encoder]) -> _Held:
        held = cls(lambda: encoders)
        held._found = encoders
        return held

    @property
    def loaded(self) -> bool:
        return self._found is not None

    @property
    def encoders(self) -> dict[str, Encoder]:
        with self._lock:
            if self._found is None:
                self._found = self._load()
            return self._found


def language_of(metadata: Mapping[str, Any]) -> str:
    """Return the programming language that a node's metadata names, or ``""``."""
    return str(metadata.get("language") or "")


def _adapter_names(adapters: Mapping[str, str | Path] | None) -> dict[str, str]:
    if adapters is not None and not isinstance(adapters, Mapping):
        raise ValueError(f"adapters must map languages to adapters, {{'python': 'folder'}}, got {adapters!r}")
    names: dict[str, str] = {}
    for language, adapter in (adapters or {}).items():
        if not isinstance(language, str) or not language:
            raise ValueError(
                f"a language must be a word such as 'python', got {language!r}; use adapter= for the default"
            )
        if not isinstance(adapter, str | Path) or not str(adapter):
            raise ValueError(f"the adapter for {language!r} must be a folder or a hub name, got {adapter!r}")
        names[language] = str(adapter)
    return names


def _adapted(encoders: Mapping[str, Encoder], adapter: str | Path, language: str, *, merge: bool) -> Encoder:
    """Return an encoder with ``adapter``, an equal one of ``encoders`` if there is one."""
    try:
        base = encoders[""]
        new = base.without_adapter() if adapter == NO_ADAPTER else base.with_adapter(adapter, merge=merge)
    except ValueError as error:
        if not language:
            raise
        raise ValueError(f"{error} (the adapter for {language!r})") from error
    return next((encoder for encoder in encoders.values() if encoder.fingerprint == new.fingerprint), new)


def _fingerprint(encoders: Mapping[str, Encoder]) -> str:
    """Return the default's fingerprint if no language has another one, else a hash over all that differ from it."""
    default = encoders[""].fingerprint
    own = {language: e.fingerprint for language, e in encoders.items() if e.fingerprint != default}
    if not own:
        return default
    return json_hash(own | {"": default})
