"""``CodeEmbedding``: a code encoder as a LlamaIndex embedding model."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import BaseNode, MetadataMode
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import check_is_list
from llamaindex_code_retrieval._settings import PlainErrors
from llamaindex_code_retrieval.cache import EmbeddingCache
from llamaindex_code_retrieval.languages.table import known_language
from llamaindex_code_retrieval.models.adapter_set import (
    AdapterSet,
    AdapterSettings,
    LazyAdapterSet,
    adapter_name,
    adapter_names,
)
from llamaindex_code_retrieval.models.catalog import (
    EMBEDDED,
    NO_ADAPTER,
    Pooling,
    Precision,
    Runtime,
    Side,
    default_adapter,
)
from llamaindex_code_retrieval.models.locate import is_static_model
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.models.short_vectors import short_fingerprint, shortened

if TYPE_CHECKING:  # a query encoder that is a table works without torch, which is slow to import
    from llamaindex_code_retrieval.models.encoder import Encoder
    from llamaindex_code_retrieval.models.text_encoder import TextEncoder


class CodeEmbedding(PlainErrors, BaseEmbedding):
    """Embed queries and code with a base encoder and, optionally, PEFT adapters.

    >>> from llamaindex_code_retrieval import CodeEmbedding
    >>> embedding = CodeEmbedding("embedded")
    >>> len(embedding.get_query_embedding("read a file line by line"))
    384

    Everything that changes a vector is a field and so part of LlamaIndex's ingestion hash: the base and the adapters
    (``fingerprint`` covers their weights), pooling, precision and token limits, each with the value in force. These
    fields cannot be assigned; :meth:`use_adapter` replaces an adapter. Several
    threads may use one embedding at the same time; the async methods leave the event loop free. A forked process, such
    as a worker of ``IngestionPipeline.arun(num_workers=2)``, computes with one thread.

    **Adapters by language.** ``adapters={"python": "python-lora", "java": "java-lora"}`` embeds each *node* with the
    adapter of its ``metadata["language"]`` and all other nodes with ``adapter``, in an ``IngestionPipeline`` and in
    ``CodeIndex``. All adapters share the base's weights. Vectors of two adapters cannot be compared, so
    ``CodeRetriever`` embeds a query with each adapter. Methods that take a text without metadata
    (``get_text_embedding``, ``get_query_embedding``, and therefore ``VectorStoreIndex``) use the default adapter; give
    such an index the nodes of one language and the embedding of :meth:`for_language`.

    **Static model.** ``CodeEmbedding("embedded-static")`` looks vectors up in a table, without a transformer and
    without torch. It takes no adapters, query encoder or cache.

    **Query encoder.** ``query_encoder`` names a small student of this model that embeds the queries instead; ``"auto"``
    is the one that comes with the package for this model. Vectors of code, the fingerprint and indexes do not change,
    so it can be added to an index that is already built.

    ``to_dict`` and ``to_json`` hold all settings except ``device``, ``runtime`` and ``cache_folder``, which belong to
    one machine; pass those to ``from_dict`` again. A copy that is sent to another process keeps them.
    """

    model_config = ConfigDict(validate_assignment=True)

    model_name: str = Field(
        frozen=True, description="The base: a known name, hub name (org/name[@revision]) or folder."
    )
    adapter: str = Field(
        frozen=True, description="Default adapter: a folder, hub name or shipped name in PEFT's format, or 'none'."
    )
    adapters: dict[str, str] = Field(
        default_factory=dict, frozen=True, description="Adapters by the language of a node."
    )
    pooling: Pooling = Field(frozen=True, description="'cls' or 'mean'.")
    precision: Precision = Field(
        frozen=True, description="'fp32' or 'bf16', the one in force; 'auto' until the base is loaded."
    )
    max_query_tokens: int = Field(
        frozen=True, description="Maximum tokens of a query, special tokens included; the rest is cut."
    )
    max_code_tokens: int = Field(
        frozen=True, description="Maximum tokens of a code, special tokens included; the rest is cut."
    )
    dimensions: int | None = Field(default=None, frozen=True, description="Numbers of a vector to keep; None: all.")
    fingerprint: str = Field(frozen=True, description="Hash over weights, adapters, tokenizer, pooling and limits.")
    device: str | None = Field(
        default=None, frozen=True, exclude=True, description="Torch device; None: a GPU if there is one."
    )
    query_encoder: str | None = Field(default=None, frozen=True, description="A student that embeds the queries.")
    cache_folder: str | None = Field(
        default=None, frozen=True, exclude=True, description="Folder of an EmbeddingCache."
    )
    merge_adapter: bool = Field(
        default=True, frozen=True, description="Merge adapters into copies of the weights they change."
    )
    runtime: Runtime = Field(
        default="auto",
        frozen=True,
        exclude=True,
        description="'openvino', 'torch', or 'auto': OpenVINO on a CPU where it can, else torch.",
    )

    _lazy_adapters: LazyAdapterSet = PrivateAttr()
    _student: QueryEncoder | None = PrivateAttr(default=None)
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)  # held while fields are replaced or copied
    _cache: EmbeddingCache | None = PrivateAttr(default=None)
    _on_batch: Callable[[int], object] | None = PrivateAttr(default=None)  # set in copies that embed one call's texts

    def __init__(
        self,
        model_name: str | Path = EMBEDDED,
        *,
        adapter: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        pooling: Pooling | None = None,
        precision: Precision = "auto",
        max_query_tokens: int | None = None,
        max_code_tokens: int | None = None,
        dimensions: int | None = None,
        query_encoder: str | Path | None = None,
        device: str | None = None,
        cache_folder: str | Path | None = None,
        merge_adapter: bool = True,
        runtime: Runtime = "auto",
        embed_batch_size: int = 512,
        fingerprint: str | None = None,
        callback_manager: CallbackManager | None = None,
        num_workers: int | None = None,
        embeddings_cache: Any = None,
        **base_fields: Any,
    ) -> None:
        """Load the model.

        ``adapter=None`` is the adapter that comes with the package for this base, if there is one; ``"none"`` is the
        bare base. With ``merge_adapter=False`` adapters are computed beside the base's weights, which saves memory and
        costs time. A model with another ``fingerprint`` than the given one is refused; with all serialised settings and
        a static query encoder, the base is loaded and checked only when something else than a query is embedded.

        Raises:
            ValueError: see :meth:`Encoder.from_pretrained`; an unknown language; a query encoder of another model; an
                option without effect on a static model; a LlamaIndex ``embeddings_cache``, whose key is the text alone.
        """
        _check_base_fields(embeddings_cache, base_fields)
        settings = AdapterSettings(
            model_name=str(model_name),
            adapter=str(default_adapter(str(model_name), pooling=pooling) if adapter is None else adapter),
            adapters=_known_adapters({} if adapters is None else adapters),
            pooling=pooling,
            precision=precision,
            max_query_tokens=max_query_tokens,
            max_code_tokens=max_code_tokens,
            dimensions=dimensions,
            device=device,
            merge_adapter=merge_adapter,
            runtime=runtime,
            fingerprint=fingerprint,
        )
        lazy_adapters = LazyAdapterSet(settings)
        student = _load_student(query_encoder, lazy_adapters)
        fields: dict[str, Any] = asdict(lazy_adapters.settings) | {
            "query_encoder": None if student is None else student.name,
            "cache_folder": None if cache_folder is None else str(cache_folder),
            "callback_manager": callback_manager or CallbackManager([]),
        }
        super().__init__(**fields, embed_batch_size=embed_batch_size, num_workers=num_workers, **base_fields)
        self._lazy_adapters = lazy_adapters
        self._student = student
        self._cache = _open_cache(cache_folder, model_name=settings.model_name)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "CodeEmbedding"

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process (a worker of IngestionPipeline) loads the model itself; an open database cannot be sent.
        own = {"device": self.device, "runtime": self.runtime, "cache_folder": self.cache_folder}
        return type(self).from_dict, (self.to_dict() | own,)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> CodeEmbedding:
        with self._lock:
            return self.model_copy()  # encoders and cache are shared: use does not change them

    @property
    def _adapter_set(self) -> AdapterSet:
        """The loaded encoders. The set never changes, so reading the property once is a consistent snapshot."""
        return self._lazy_adapters.load()

    @property
    def encoder(self) -> TextEncoder:
        """The encoder with the default adapter; for inference only, because other embeddings may share it."""
        return self._adapter_set.default

    @property
    def torch_encoder(self) -> Encoder:
        """The same encoder as a torch module, for rerankers on its base and for students; loaded where needed.

        Raises:
            ValueError: the model is a static one.
        """
        return self._adapter_set.torch_default()

    @property
    def query_fingerprint(self) -> str:
        """The fingerprint, followed by the query encoder's if there is one: equal for equal rankings."""
        return self.fingerprint if self._student is None else f"{self.fingerprint}+{self._student.fingerprint}"

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each language's encoder; ``""`` stands for every language not named."""
        if not self._lazy_adapters.is_loaded:  # then there is one adapter
            return {"": self.fingerprint}
        encoders = self._adapter_set.encoders
        return {language: short_fingerprint(e.fingerprint, self.dimensions) for language, e in encoders.items()}

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.dimensions or (self.encoder.dim if self._student is None else self._student.dim)

    def for_language(self, language: str) -> CodeEmbedding:
        """Return an embedding that uses the adapter of ``language``, or the default one, for all texts and queries.

        It shares the encoder and keeps it when :meth:`use_adapter` replaces the adapter of this embedding.
        """
        view = copy.deepcopy(self)
        if view._lazy_adapters.is_loaded:  # else there is one adapter
            view._use(view._adapter_set.only(language))
            if view._student is not None and view._student.teacher != view.encoder.fingerprint:
                view._student = None  # the student of another adapter
                view._set_fields(query_encoder=None)
        return view

    def uncached(self) -> CodeEmbedding:
        """Return an embedding that shares the encoders and has no cache, to measure time."""
        view = copy.deepcopy(self)
        view._cache = None
        view._set_fields(cache_folder=None)
        return view

    def use_adapter(self, language: str, adapter: str | Path | None) -> None:
        """Replace the adapter of ``language`` (``""``: the default adapter) without loading the base again.

        ``None`` removes the adapter: the language gets the default adapter, and the default becomes the bare base. If
        the adapter is refused, nothing changes. Calls in other threads finish with the adapter that they started with.
        A ``CodeIndex`` is searched with the adapters that made its vectors until its next update, which embeds the
        nodes of this language again.

        Raises:
            ValueError: an unknown language; an adapter that does not fit, see :meth:`Encoder.with_adapter`; another
                default adapter while a query encoder is in use, which is a student of the current one.
        """
        if self._student is not None and not language:
            raise ValueError(
                f"the query encoder {self.query_encoder} is a student of the adapter {self.adapter!r}, so the default "
                "adapter cannot be replaced; make an embedding without query_encoder, or with another one"
            )
        if language:
            known_language(language)
        if adapter is None and language:
            with self._lock:
                self._use(self._adapter_set.without(language))
            return
        name = NO_ADAPTER if adapter is None else adapter_name(adapter, language)
        encoder = self._adapter_set.load_adapter(name, language)
        with self._lock:  # not while loading, because every call takes its snapshot under this lock
            self._use(self._adapter_set.with_encoder(language, encoder, name))

    def _use(self, adapter_set: AdapterSet) -> None:
        settings = adapter_set.settings
        self._lazy_adapters = LazyAdapterSet.of(adapter_set)
        self._set_fields(
            adapter=settings.adapter,
            adapters=dict(settings.adapters),
            fingerprint=settings.fingerprint,
        )

    def _set_fields(self, **values: Any) -> None:
        self.__dict__.update(values)  # frozen for callers, who would change the name of a model and not the model

    def embed_codes(
        self, codes: Sequence[str], languages: Sequence[str], *, on_batch: Callable[[int], object] | None = None
    ) -> NDArray[np.float32]:
        """Return the vectors, shape ``(codes, dim)``, of codes and the language of each, in the order given.

        ``on_batch`` is called after each call of the model with its number of codes; to stop early, it may raise.

        Raises:
            ValueError: not as many languages as codes.
        """
        check_is_list(codes, "codes")
        check_is_list(languages, "languages")
        if len(codes) != len(languages):
            raise ValueError(f"there must be one language for each code, got {len(languages)} for {len(codes)} codes")
        vectors = np.empty((len(codes), self.dim), dtype=np.float32)
        for embedding, rows in self._by_adapter(languages):
            embedding._on_batch = on_batch
            vectors[rows] = embedding.get_text_embedding_batch([codes[row] for row in rows])
        return vectors

    def embed_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors, shape ``(queries, dim)``, of queries by the default adapter, in the order given.

        A query encoder's vectors are not cached, because the cache would be slower.
        """
        check_is_list(queries, "queries")
        whole = self._embed(queries, "query") if self._student is None else self._student.encode_queries(queries)
        return shortened(whole, self.dimensions)

    def tokenize_code(self, code: str) -> list[int]:
        """Return the token ids of a code of any length, special tokens included: the ``tokenizer`` of a node parser.

        >>> from llamaindex_code_retrieval import CodeNodeParser
        >>> embedding = CodeEmbedding("embedded")
        >>> parser = CodeNodeParser(max_tokens=embedding.max_code_tokens, tokenizer=embedding.tokenize_code)
        """
        return self.encoder.tokenize([code], side="code", truncate=False)[0]

    def truncated_codes(self, codes: Sequence[str]) -> int:
        """Return how many codes are longer than ``max_code_tokens``, so that their end is not embedded."""
        return int(self.encoder.is_truncated(codes, side="code").sum())

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Set the embedding of each node by the adapter of its language, and return the nodes in their order."""
        for embedding, group, texts in self._node_groups(nodes):
            _set_embeddings(group, embedding.get_text_embedding_batch(texts, **kwargs))
        return nodes

    async def acall(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Embed nodes as ``__call__`` does."""
        for embedding, group, texts in self._node_groups(nodes):
            _set_embeddings(group, await embedding.aget_text_embedding_batch(texts, **kwargs))
        return nodes

    def _node_groups(self, nodes: Sequence[BaseNode]) -> Iterator[tuple[CodeEmbedding, list[BaseNode], list[str]]]:
        """Yield for each adapter in use an embedding with it alone, its nodes and their texts."""
        for embedding, rows in self._by_adapter([node_language(node.metadata) for node in nodes]):
            group = [nodes[row] for row in rows]
            yield embedding, group, [node.get_content(metadata_mode=MetadataMode.EMBED) for node in group]

    def _by_adapter(self, languages: Sequence[str]) -> list[tuple[CodeEmbedding, list[int]]]:
        """Return for each adapter in use an embedding with it alone, and the positions of its languages."""
        snapshot = copy.deepcopy(self)
        adapter_set = snapshot._adapter_set
        views: dict[str, tuple[CodeEmbedding, list[int]]] = {}  # by fingerprint: two languages may share an adapter
        for row, language in enumerate(languages):
            fingerprint = adapter_set.encoder_for(language).fingerprint
            if fingerprint not in views:
                views[fingerprint] = (snapshot.for_language(language), [])
            views[fingerprint][1].append(row)
        return list(views.values())

    def _embed(self, texts: Sequence[str], side: Side) -> NDArray[np.float32]:
        encoder = self.encoder
        encode = partial(encoder.encode, side=side, on_progress=self._on_batch)
        if self._cache is None:
            return encode(texts)
        # Precision is not part of the fingerprint, but a cached vector must be the one that this model would compute.
        # The fingerprint is the encoder's own, so that a new adapter of another language leaves these vectors valid.
        model = f"{encoder.fingerprint}-{encoder.precision}"
        return self._cache.get_or_embed(model, side, texts, encode)

    def _get_query_embedding(self, query: str) -> Embedding:
        vector: Embedding = self.embed_queries([query])[0].tolist()
        return vector

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        vectors: list[Embedding] = shortened(self._embed(texts, "code"), self.dimensions).tolist()
        return vectors

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)


def node_language(metadata: Mapping[str, Any]) -> str:
    """Return the programming language in a node's metadata, or ``""``."""
    return str(metadata.get("language") or "")


def _check_base_fields(embeddings_cache: object, base_fields: Mapping[str, object]) -> None:
    if embeddings_cache is not None:
        raise ValueError(
            "embeddings_cache is keyed by the text alone and returns another model's vectors; "
            "use cache_folder=…, which is keyed by (fingerprint, query|code, text)"
        )
    unknown = set(base_fields) - set(BaseEmbedding.model_fields) - {"class_name"}
    if unknown:
        raise TypeError(f"CodeEmbedding has no option {', '.join(sorted(unknown))}")


def _known_adapters(adapters: Mapping[str, str | Path]) -> dict[str, str]:
    """Return the names of adapters by language; an unknown language is refused."""
    return {known_language(language): name for language, name in adapter_names(adapters).items()}


def _open_cache(cache_folder: str | Path | None, *, model_name: str) -> EmbeddingCache | None:
    if cache_folder is None:
        return None
    if is_static_model(model_name):
        reason = "which embeds a text faster than a cache finds its vector; leave cache_folder out"
        raise ValueError(f"{model_name} is a static embedding model, {reason}")
    return EmbeddingCache(cache_folder)


def _load_student(query_encoder: str | Path | None, lazy_adapters: LazyAdapterSet) -> QueryEncoder | None:
    """Load the query encoder, and the adapters unless the student works without its teacher."""
    if query_encoder is None:
        lazy_adapters.load()
        return None
    model_name = lazy_adapters.settings.model_name
    if is_static_model(model_name):
        raise ValueError(
            f"{model_name} is a static embedding model, which embeds its queries as fast as a query encoder; leave "
            "query_encoder out"
        )
    return QueryEncoder.load_for(query_encoder, teachers=lazy_adapters)


def _set_embeddings(nodes: Sequence[BaseNode], vectors: Sequence[Embedding]) -> None:
    for node, vector in zip(nodes, vectors, strict=True):
        node.embedding = vector
