"""``CodeIndex``: build, update, search, save and load the index of a code base."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Unpack, cast

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from typing_extensions import TypeVar

from llamaindex_code_retrieval._io import Progress, no_progress
from llamaindex_code_retrieval._settings import check_is_list
from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.index import storage
from llamaindex_code_retrieval.index.embedders import AnyEmbedding, Embedder, embedder_of
from llamaindex_code_retrieval.index.faiss_store import FaissStore
from llamaindex_code_retrieval.index.file_state import SourceCounts
from llamaindex_code_retrieval.index.leave_out import describe_left_out
from llamaindex_code_retrieval.index.records import FileRecord
from llamaindex_code_retrieval.index.snapshot import AdapterGroup, Snapshot
from llamaindex_code_retrieval.index.source_options import SourceOptions, options_of
from llamaindex_code_retrieval.index.source_roots import path_prefixes
from llamaindex_code_retrieval.index.sources import walk
from llamaindex_code_retrieval.index.update import (
    IndexReport,
    bounded_parser,
    files_of_nodes,
    next_snapshot,
    parse_texts,
    stable_copy,
)

if TYPE_CHECKING:
    from llama_index.core.llms import LLM
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers import ResponseMode

    from llamaindex_code_retrieval.retriever import CodeRetriever, RetrieverOptions

EmbeddingT = TypeVar("EmbeddingT", bound=BaseEmbedding, default=CodeEmbedding)


class CodeIndex(Generic[EmbeddingT]):
    """A searchable code base: build it, update it, save it, load it, and search it with a ``CodeRetriever``.

    >>> from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeRetriever
    >>> index = CodeIndex(CodeEmbedding())
    >>> report = index.update_texts({"greet.py": "def hello(name):\\n    return f'Hello, {name}!'\\n"})
    >>> CodeRetriever(index).retrieve("say hello")[0].node.metadata["scope"]
    'hello'

    ``embedding`` may be any LlamaIndex embedding model. No node has more tokens than a ``CodeEmbedding`` reads; for
    another model pass a parser with ``max_tokens`` and its tokenizer. A ``CodeEmbedding`` with several adapters embeds
    every node with the adapter of its language. After ``embedding.use_adapter(…)``, searches and :meth:`save` use the
    previous adapter and its vectors until the next update, which embeds the nodes of that language again.

    ``vector_store`` may be any LlamaIndex vector store; the default is a :class:`FaissStore`. :meth:`save` does not
    write the vectors of another store: pass the store to :meth:`load`. Several indexes may share a store.

    Searches may run in other threads during an update: each sees the index before or after it. With a store other than
    ``FaissStore``, a search during an update may miss nodes that are being replaced. Updates run one after the other.
    """

    def __init__(
        self,
        embedding: EmbeddingT,
        *,
        parser: CodeNodeParser | None = None,
        vector_store: BasePydanticVectorStore | None = None,
    ) -> None:
        embedder = embedder_of(embedding)
        store = FaissStore(embedder.dim) if vector_store is None else vector_store
        snapshot = Snapshot(vectors=stable_copy(store), embedder=copy.deepcopy(embedder))
        self._set(embedder, parser or CodeNodeParser(), store, snapshot)

    def _set(
        self, embedder: Embedder, parser: CodeNodeParser, vector_store: BasePydanticVectorStore, snapshot: Snapshot
    ) -> None:
        if isinstance(vector_store, FaissStore) and vector_store.dim != embedder.dim:
            raise ValueError(
                f"the vector store has {vector_store.dim} dimensions, the embedding {embedder.dim}; "
                f"pass FaissStore({embedder.dim}), or leave vector_store out"
            )
        self._embedder = embedder
        self.parser = parser
        self.vector_store = vector_store
        self._snapshot = snapshot
        self._updating = threading.Lock()

    @property
    def embedding(self) -> EmbeddingT:
        """The embedding model. If it is replaced by another model, the next update embeds all nodes again."""
        embedder = self._embedder
        return cast(EmbeddingT, embedder.embedding if isinstance(embedder, AnyEmbedding) else embedder)

    @embedding.setter
    def embedding(self, embedding: EmbeddingT) -> None:
        embedder = embedder_of(embedding)
        if embedder.dim != self._embedder.dim:
            raise ValueError(
                f"the vectors of the index have {self._embedder.dim} dimensions, those of the new embedding "
                f"{embedder.dim}; build another index with it"
            )
        self._embedder = embedder

    @property
    def snapshot(self) -> Snapshot:
        """The current state. Later updates do not change it."""
        return self._snapshot

    def __len__(self) -> int:
        return len(self._snapshot.records)

    @property
    def files(self) -> int:
        """Number of files indexed."""
        return len(self._snapshot.files)

    @property
    def languages(self) -> dict[str, int]:
        """Number of nodes by language."""
        return {language: len(ids) for language, ids in self._snapshot.by_language.items()}

    @property
    def roots(self) -> list[str]:
        """The folders of the last :meth:`update`."""
        return list(self._snapshot.roots)

    @property
    def sources(self) -> SourceOptions:
        """Which files the last :meth:`update` read, and in which language."""
        return self._snapshot.sources

    @property
    def updated(self) -> str:
        """Time of the last update, ISO 8601 in UTC; empty before the first one."""
        return self._snapshot.updated

    # --- building and updating ---------------------------------------------------------------------------------------

    def update(
        self,
        roots: Sequence[str | Path] | None = None,
        *,
        sources: SourceOptions | None = None,
        on_progress: Progress | None = None,
    ) -> IndexReport:
        """Update the index to the content of the folders ``roots``, by default those of the last update.

        Only what changed is embedded: files by content hash, and inside a changed file the nodes whose text is new.
        Nodes of files that are gone are removed. With several roots a path begins with its root's folder name.

        ``sources`` says which files are read and in which language, by default as in the last update. What it leaves
        open is read from the settings file of each root; see :func:`.source_options.options_of`.

        Raises:
            TypeError: ``roots`` is a single path.
            ValueError: no roots, a root that is not a folder or has wrong settings, or nothing to read when the roots
                are indexed for the first time.
        """
        check_is_list(roots, "roots")
        with self._updating:
            folders = [Path(root).expanduser().resolve() for root in (self.roots if roots is None else roots)]
            if not folders:
                raise ValueError("there is nothing to index: name at least one folder")
            sources = self.sources if sources is None else sources
            for folder in folders:
                options_of(folder, sources)  # fails before the files of another root are read
            counts = SourceCounts()
            texts: dict[str, str] = {}
            languages: dict[str, str] = {}
            for prefix, folder in zip(path_prefixes(folders), folders, strict=True):
                for file in walk(folder, counts, sources):
                    texts[prefix + file.path], languages[prefix + file.path] = file.text, file.language
            if not texts and not self.files and list(map(str, folders)) != self.roots:
                raise ValueError(
                    f"no file to index in {', '.join(map(str, folders))} ({describe_left_out(counts.left_out)}); "
                    "name another folder, or other source options"
                )
            report = self._update_texts(
                texts, languages, roots=tuple(map(str, folders)), sources=sources, progress=on_progress or no_progress
            )
        report.left_out = {reason: dict(files.most_common()) for reason, files in sorted(counts.left_out.items())}
        report.encodings = {how: dict(files.most_common()) for how, files in sorted(counts.encodings.items())}
        report.unknown = dict(counts.unknown.most_common())
        return report

    def update_texts(self, texts: Mapping[str, str], *, on_progress: Progress | None = None) -> IndexReport:
        """Update the index to ``texts``, source by path. Paths that are not in ``texts`` are removed."""
        with self._updating:
            return self._update_texts(
                texts, {}, roots=self._snapshot.roots, sources=self.sources, progress=on_progress or no_progress
            )

    def update_nodes(self, nodes: Sequence[TextNode], *, on_progress: Progress | None = None) -> IndexReport:
        """Update the index to these nodes. Other nodes are removed.

        As in LlamaIndex, a node's vector is that of its text with the metadata that ``excluded_embed_metadata_keys``
        does not exclude. Only nodes whose id or embedded text is new are embedded; other changes cost nothing.

        Raises:
            TypeError: a node that cannot be saved: a document, a custom node class, metadata that is not JSON.
            ValueError: two nodes have the same id, or an ``IndexNode`` holds an object.
        """
        start = time.perf_counter()
        with self._updating:
            old = self._snapshot
            report = self._replace_snapshot(
                files_of_nodes(nodes),
                nodes,
                roots=old.roots,
                sources=self.sources,
                parser_settings=old.parser_settings,
                progress=on_progress or no_progress,
            )
        report.seconds = time.perf_counter() - start
        return report

    def _update_texts(
        self,
        texts: Mapping[str, str],
        languages: Mapping[str, str],
        *,
        roots: tuple[str, ...],
        sources: SourceOptions,
        progress: Progress,
    ) -> IndexReport:
        start = time.perf_counter()
        old, settings = self._snapshot, self.parser.to_dict()
        # Another model may read fewer tokens, and another version or setting of the parser makes other nodes.
        is_current = old.embedder.fingerprint == self._embedder.fingerprint and old.parser_settings == settings
        files, nodes = parse_texts(
            texts,
            bounded_parser(self.parser, self._embedder),
            languages=languages,
            known=old.files if is_current else {},
            progress=progress,
        )
        report = self._replace_snapshot(
            files, nodes, roots=roots, sources=sources, parser_settings=settings, progress=progress
        )
        report.seconds = time.perf_counter() - start
        return report

    def _replace_snapshot(
        self,
        files: Mapping[str, FileRecord],
        nodes: Sequence[TextNode],
        *,
        roots: tuple[str, ...],
        sources: SourceOptions,
        parser_settings: Mapping[str, Any],
        progress: Progress,
    ) -> IndexReport:
        old, store = self._snapshot, self.vector_store
        self._snapshot, report = next_snapshot(
            old,
            files,
            nodes,
            embedder=self._embedder,
            store=store,
            roots=roots,
            sources=sources,
            parser_settings=parser_settings,
            progress=progress,
        )
        removed = [node_id for node_id in old.records if node_id not in self._snapshot.records]
        if removed and not isinstance(store, FaissStore):
            store.delete_nodes(removed)
        return report

    # --- searching ---------------------------------------------------------------------------------------------------

    def as_retriever(self, **options: Unpack[RetrieverOptions]) -> CodeRetriever:
        """Return a ``CodeRetriever`` of this index, with its options."""
        from llamaindex_code_retrieval.retriever import CodeRetriever

        return CodeRetriever(self, **options)

    def as_query_engine(
        self,
        llm: LLM | None = None,
        *,
        response_mode: ResponseMode | None = None,
        node_postprocessors: Sequence[BaseNodePostprocessor] = (),
        streaming: bool = False,
        **options: Unpack[RetrieverOptions],
    ) -> RetrieverQueryEngine:
        """Return a LlamaIndex query engine over this index; ``options`` are those of ``CodeRetriever``.

        Without ``llm`` it is LlamaIndex's ``Settings.llm``.
        """
        from llama_index.core.query_engine import RetrieverQueryEngine
        from llama_index.core.response_synthesizers import ResponseMode

        return RetrieverQueryEngine.from_args(
            self.as_retriever(**options),
            llm=llm,
            response_mode=response_mode or ResponseMode.COMPACT,
            node_postprocessors=list(node_postprocessors),
            streaming=streaming,
        )

    def node(self, node_id: str) -> TextNode:
        """Return a copy of a node; an unknown id is a KeyError."""
        return self._snapshot.node(node_id)

    def nodes(self) -> Iterator[TextNode]:
        """Yield all nodes by path and line."""
        return self._snapshot.nodes()

    def file_of(self, path: str) -> Path:
        """Return where the file of a node's ``path`` lies on this machine."""
        folders = [Path(root) for root in self._snapshot.roots]
        for prefix, folder in zip(path_prefixes(folders), folders, strict=True):
            if path.startswith(prefix):
                return folder / path.removeprefix(prefix)
        return Path(path)

    def adapter_groups(
        self, languages: Collection[str] | None = None, *, snapshot: Snapshot | None = None
    ) -> list[AdapterGroup]:
        """Group the index's languages (those of ``languages``, if given) by the adapter that made their vectors.

        ``snapshot`` selects another state of the index than the current one.
        """
        return (snapshot or self._snapshot).adapter_groups(self._embedder, languages)

    # --- saving, loading and copying ---------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write the index into ``folder``, atomically: a kill at any moment leaves the old index or the new one.

        Hold :func:`update_lock` when another process may save to this folder.
        """
        storage.save(folder, self._snapshot, self.parser)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        embedding: EmbeddingT | None = None,
        parser: CodeNodeParser | None = None,
        vector_store: BasePydanticVectorStore | None = None,
        query_encoder: str | Path | None = None,
        cache_folder: str | Path | None = None,
        device: str | None = None,
        words_only: bool = False,
    ) -> CodeIndex[EmbeddingT]:
        """Read an index; without ``embedding`` the model that it was built with is loaded, with ``query_encoder``.

        With ``words_only`` no model is loaded: the index can be searched in the mode "bm25", and not be updated.
        ``parser`` is needed only if the index was built by a parser with an ``id_func`` or by a subclass, and must have
        the same settings.

        Raises:
            ValueError: there is no index in ``folder``; it is damaged, incomplete or of another format; ``embedding``
                has another fingerprint, or ``parser`` other settings, than those that built it; ``vector_store`` holds
                none of its nodes; the query encoder was not distilled from the index's model.
        """
        loaded = storage.load(
            folder,
            embedding=embedding,
            parser=parser,
            vector_store=vector_store,
            query_encoder=query_encoder,
            cache_folder=cache_folder,
            device=device,
            words_only=words_only,
        )
        return cls._restore(*loaded)

    @classmethod
    def _restore(
        cls, embedder: Embedder, parser: CodeNodeParser, vector_store: BasePydanticVectorStore, snapshot: Snapshot
    ) -> CodeIndex[EmbeddingT]:
        index = cls.__new__(cls)
        vectors, saved_embedder = stable_copy(vector_store), copy.deepcopy(snapshot.embedder)
        index._set(embedder, parser, vector_store, replace(snapshot, vectors=vectors, embedder=saved_embedder))
        return index

    def __deepcopy__(self, memo: dict[int, Any]) -> CodeIndex[EmbeddingT]:
        embedder, store = copy.deepcopy((self._embedder, self.vector_store), memo)
        return self._restore(embedder, self.parser, store, self._snapshot)

    def __reduce__(self) -> tuple[Any, ...]:
        embedder = self._snapshot.embedder
        if embedder.fingerprint == self._embedder.fingerprint:
            embedder = self._embedder  # an object that occurs twice is pickled once, and loads its model once
        snapshot = replace(self._snapshot, vectors=self.vector_store, embedder=embedder)
        return self._restore, (self._embedder, self.parser, self.vector_store, snapshot)
