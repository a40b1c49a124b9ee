"""``CodeIndex``: build, open, update and search the index of a code base."""

from __future__ import annotations

import copy
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, Unpack, cast

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from typing_extensions import TypeVar

from llamaindex_code_retrieval._io import Progress, check_is_list, no_progress
from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.index.caches import copy_index, make_caches
from llamaindex_code_retrieval.index.contents import IndexContents
from llamaindex_code_retrieval.index.embedders import (
    AdapterGroup,
    AnyEmbedding,
    Embedder,
    embedder_of,
    group_by_adapter,
)
from llamaindex_code_retrieval.index.external import ExternalVectors, check_dim, check_store
from llamaindex_code_retrieval.index.file_state import FileState
from llamaindex_code_retrieval.index.folder import check_folder, ignore_by_git, open_storage
from llamaindex_code_retrieval.index.locate import store_root
from llamaindex_code_retrieval.index.lock import update_lock
from llamaindex_code_retrieval.index.rank import Nearest
from llamaindex_code_retrieval.index.restore import (
    model_settings,
    new_settings,
    restore_embedder,
    restore_parser,
)
from llamaindex_code_retrieval.index.source_files import SourceFiles, files_of_nodes, files_of_texts, has_same_nodes
from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.index.source_roots import source_roots
from llamaindex_code_retrieval.index.storage import DATABASE, Storage
from llamaindex_code_retrieval.index.update import FileNodes, IndexReport, Update, bounded_parser
from llamaindex_code_retrieval.index.view import IndexReader, View
from llamaindex_code_retrieval.models.catalog import Runtime

if TYPE_CHECKING:
    from llama_index.core.llms import LLM
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers import ResponseMode

    from llamaindex_code_retrieval.retriever import CodeRetriever, RetrieverOptions

EmbeddingT = TypeVar("EmbeddingT", bound=BaseEmbedding, default=CodeEmbedding)

_WAIT_SECONDS = 600.0


class CodeIndex(IndexContents, Generic[EmbeddingT]):
    """A searchable code base in a folder: build it, open it, update it, and search it.

    >>> from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
    >>> with CodeIndex(CodeEmbedding()) as index:
    ...     report = index.update_texts({"greet.py": "def hello(name):\\n    return f'Hello, {name}!'\\n"})
    ...     index.search("say hello")[0].node.metadata["scope"]
    'hello'

    The index is a database on disk: opening it reads nothing, every update is saved at once, and a kill loses the
    batch of files under way at most. Without ``folder`` it is in a temporary folder, which is removed with the object;
    :meth:`save` copies it.

    The first update writes all nodes before their vectors, so that a search finds them by words within seconds, and by
    vectors as these are made; :attr:`missing_vectors` counts the others. After a kill, the next update makes them.

    ``embedding`` may be any LlamaIndex embedding model. No node has more tokens than a ``CodeEmbedding`` reads; for
    another model pass a parser with ``max_tokens`` and its tokenizer. A ``CodeEmbedding`` with several adapters embeds
    every node with the adapter of its language. After ``embedding.use_adapter(…)``, searches use the previous adapter
    and its vectors until the next update, which embeds the nodes of that language again.

    ``vector_store`` may be any LlamaIndex vector store; the vectors are then kept there and not in the folder. Several
    indexes may share a store.

    Searches may run in other threads and processes during an update: each sees one state of the index. Updates run one
    after the other.

    Raises:
        ValueError: ``folder`` is a file, holds other things than an index, or an index that this version cannot read.
    """

    def __init__(
        self,
        embedding: EmbeddingT,
        folder: str | Path | None = None,
        *,
        parser: CodeNodeParser | None = None,
        vector_store: BasePydanticVectorStore | None = None,
    ) -> None:
        embedder = embedder_of(embedding)
        check_dim(vector_store, embedder.dim)
        parser = parser or CodeNodeParser()
        temporary = None
        if folder is None:
            temporary = _temporary_folder()
            folder = temporary.name
        target = Path(folder)
        check_folder(target)
        target.mkdir(parents=True, exist_ok=True)
        ignore_by_git(target)
        storage = Storage.create(target, new_settings(embedder, parser, vector_store))
        self._set(embedder, parser, vector_store, storage, temporary=temporary)

    def _set(
        self,
        embedder: Embedder,
        parser: CodeNodeParser,
        vector_store: BasePydanticVectorStore | None,
        storage: Storage,
        *,
        temporary: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self._embedder = embedder
        self._made_by = copy.deepcopy(embedder)
        self.parser = parser
        self.vector_store = vector_store
        self._external = None if vector_store is None else ExternalVectors(vector_store)
        self._storage = storage
        device = embedder.device if isinstance(embedder, CodeEmbedding) else None
        self._reader = IndexReader(storage, use_gpu=(device or "").startswith("cuda"))
        self._temporary = temporary
        self._updating = threading.RLock()

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        embedding: EmbeddingT | None = None,
        parser: CodeNodeParser | None = None,
        vector_store: BasePydanticVectorStore | None = None,
        query_encoder: str | Path | None = None,
        cache_folder: str | Path | None = None,
        device: str | None = None,
        runtime: Runtime | None = None,
        words_only: bool = False,
    ) -> CodeIndex[EmbeddingT]:
        """Open an index; without ``embedding`` the model that it was built with is loaded, with ``query_encoder``.

        On a ``device`` such as "cuda" the vectors are searched on the GPU too, if faiss-gpu is installed. With
        ``words_only`` no model is loaded: the index can be searched in the mode "bm25", and not be updated.

        ``parser`` is needed only if the index was built by a parser with an ``id_func`` or by a subclass, and must have
        the same settings.

        Raises:
            ValueError: there is no index in ``folder``; it is damaged or of another format; ``embedding`` has another
                fingerprint, or ``parser`` other settings, than those that built it; ``vector_store`` holds none of its
                nodes; the query encoder was not distilled from the index's model.
        """
        target = Path(folder)
        storage = open_storage(target)
        try:
            with storage.reading() as reading:
                settings = reading.settings()
                check_store(target, settings, reading, vector_store)
            options = {
                "query_encoder": query_encoder,
                "cache_folder": cache_folder,
                "device": device,
                "runtime": runtime,
            }
            embedder = restore_embedder(target, settings, embedding, options, words_only=words_only)
            restored = restore_parser(target, settings, parser)
        except BaseException:
            storage.close()
            raise
        index = cls.__new__(cls)
        index._set(embedder, restored, vector_store, storage)
        return index

    @property
    def embedding(self) -> EmbeddingT:
        """The embedding model. If it is replaced by another model, the next update embeds all nodes again."""
        embedder = self._embedder
        return cast(EmbeddingT, embedder.embedding if isinstance(embedder, AnyEmbedding) else embedder)

    @embedding.setter
    def embedding(self, embedding: EmbeddingT) -> None:
        embedder = embedder_of(embedding)
        if self.vector_store is not None and embedder.dim != self._embedder.dim:
            raise ValueError(
                f"the vectors in the vector store have {self._embedder.dim} dimensions, those of the new embedding "
                f"{embedder.dim}; build another index with it"
            )
        self._embedder = embedder

    # --- building and updating ---------------------------------------------------------------------------------------

    def update(
        self,
        roots: Sequence[str | Path] | None = None,
        *,
        sources: SourceOptions | None = None,
        on_progress: Progress | None = None,
    ) -> IndexReport:
        """Update the index to the content of the folders ``roots``, by default those of the last update.

        Only files whose size, times or inode have changed are read; inside a changed file only nodes whose text is new
        are embedded. Nodes of files that are gone are removed. With several roots a path begins with its root's name.

        ``sources`` says which files are read and in which language, by default as in the last update. What it leaves
        open is read from the settings file of each root; see :func:`.source_options.options_of`.

        Raises:
            TypeError: ``roots`` is a single path.
            ValueError: no roots, a root that is not a folder or has wrong settings, or nothing to read when the roots
                are indexed for the first time.
            TimeoutError: another process has been updating the index for ten minutes.
            OSError: the index cannot be written.
        """
        check_is_list(roots, "roots")
        with self._locked():
            folders = [Path(root).expanduser().resolve() for root in (self.roots if roots is None else roots)]
            if not folders:
                raise ValueError(
                    f"there is no index of a folder in {self.folder} yet, so there is nothing to update; name at least "
                    f"one folder: code-retrieval index PATH --out {self.folder}"
                )
            sources = self.sources if sources is None else sources
            walk = SourceFiles(
                source_roots(folders, sources), self._storage, self.parser, self._embedder, on_progress or no_progress
            )
            report = self._run(
                walk.files,
                removed=walk.removed,
                refreshed=lambda: walk.touched,
                progress=on_progress,
                settings={
                    # A copy of a temporary index may lie elsewhere.
                    "roots": [
                        store_root(root, self.folder) if self._temporary is None else str(root) for root in folders
                    ],
                    "sources": sources.given(),
                    "rules": walk.rules,
                    "unfinished": walk.read_all,
                },
                final_settings={"unfinished": False},
            )
        return walk.add_counts(report)

    def update_texts(self, texts: Mapping[str, str], *, on_progress: Progress | None = None) -> IndexReport:
        """Update the index to ``texts``, source by path. Paths that are not in ``texts`` are removed."""
        with self._locked():
            with self._storage.reading() as reading:
                known = reading.files()
                is_current = has_same_nodes(reading, self.parser, self._embedder)
            parser = bounded_parser(self.parser, self._embedder)

            files = partial(
                files_of_texts, texts, known if is_current else {}, parser, on_progress=on_progress or no_progress
            )
            return self._run(files, removed=lambda: known.keys() - texts.keys(), progress=on_progress)

    def update_nodes(self, nodes: Sequence[TextNode], *, on_progress: Progress | None = None) -> IndexReport:
        """Update the index to these nodes. Other nodes are removed.

        As in LlamaIndex, a node's vector is that of its text with the metadata that ``excluded_embed_metadata_keys``
        does not exclude. Only nodes whose id or embedded text is new are embedded; other changes cost nothing.

        Raises:
            TypeError: a node that cannot be saved: a document, a custom node class, metadata that is not JSON.
            ValueError: two nodes have the same id, or an ``IndexNode`` holds an object.
        """
        files = files_of_nodes(nodes)
        with self._locked():
            with self._storage.reading() as reading:
                known = reading.files()
            return self._run(
                lambda: files,
                removed=lambda: known.keys() - {file.state.path for file in files},
                progress=on_progress,
            )

    def _run(
        self,
        files: Callable[[], Iterable[FileNodes]],
        *,
        removed: Callable[[], Collection[str]],
        refreshed: Callable[[], Iterable[FileState]] = tuple,
        progress: Progress | None,
        settings: Mapping[str, Any] | None = None,
        final_settings: Mapping[str, Any] | None = None,
    ) -> IndexReport:
        """Run an update; an interrupted one that has written files leaves ``settings``, with which the next goes on."""
        start = time.perf_counter()
        report = IndexReport()
        embedder = copy.deepcopy(self._embedder)  # use_adapter may change it meanwhile
        update = Update(self._storage, embedder, sink=self._external, report=report, progress=progress or no_progress)
        update.run(
            files,
            removed=removed,
            refreshed=refreshed,
            first_settings=settings or {},
            settings={**model_settings(embedder), "parser": self.parser.to_dict(), **(final_settings or {})},
        )
        self._made_by = embedder
        report.seconds = time.perf_counter() - start
        return report

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._updating, update_lock(self.folder, seconds=_WAIT_SECONDS):
            yield

    # --- searching ---------------------------------------------------------------------------------------------------

    def search(self, query: str, **options: Unpack[RetrieverOptions]) -> list[NodeWithScore]:
        """Return the nodes that :class:`.CodeRetriever` with these ``options`` finds for a query."""
        return self.as_retriever(**options).retrieve(query)

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

    def nearest_in(self, view: View) -> Nearest:
        """Return the search for the nearest nodes of ``view``: in the vector store if there is one."""
        return view.nearest if self._external is None else partial(self._external.nearest, view)

    def adapter_groups(
        self, view: View | None = None, *, languages: Collection[str] | None = None
    ) -> list[AdapterGroup]:
        """Group the index's languages (those of ``languages``, if given) by the adapter that made their vectors.

        Queries of a group are embedded by the current embedding, unless its adapter was replaced after the last update.

        Raises:
            ValueError: neither it nor the embedding of the last update made them.
        """
        if view is None:
            with self.view(words=False) as view:
                return self.adapter_groups(view, languages=languages)
        embedders = (self._embedder, self._made_by)
        return group_by_adapter(view.models, embedders, languages=languages, folder=self.folder)

    # --- closing, copying --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the index; a temporary one is removed. Closing again does nothing."""
        self._reader.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, folder: str | Path) -> None:
        """Copy the index to another folder, which must be new or empty.

        Raises:
            ValueError: ``folder`` is a file, or holds something.
            OSError: the copy cannot be written; then ``folder`` holds no index.
        """
        target = Path(folder)
        check_folder(target)
        if (target / DATABASE).exists():
            raise ValueError(f"{target} holds an index; name a new folder")
        copy_index(self._storage, target)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        embedder, store = copy.deepcopy((self._embedder, self.vector_store), memo)
        content = None if self._temporary is None else self._storage.to_bytes()
        return self._restore(embedder, self.parser, store, self.folder if content is None else content)

    def __reduce__(self) -> tuple[Any, ...]:
        content = None if self._temporary is None else self._storage.to_bytes()
        place = self.folder.absolute() if content is None else content
        return self._restore, (self._embedder, self.parser, self.vector_store, place)

    @classmethod
    def _restore(
        cls,
        embedder: Embedder,
        parser: CodeNodeParser,
        vector_store: BasePydanticVectorStore | None,
        place: Path | bytes,
    ) -> Self:
        """Return an index on a folder, or one in a temporary folder with this database."""
        temporary = None
        if isinstance(place, bytes):
            temporary = _temporary_folder()
            (Path(temporary.name) / DATABASE).write_bytes(place)
            place = Path(temporary.name)
        storage = Storage(place)
        if temporary is not None:
            make_caches(storage)
        index = cls.__new__(cls)
        index._set(embedder, parser, vector_store, storage, temporary=temporary)
        return index


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="code-retrieval-", ignore_cleanup_errors=True)
