"""``CodeIndex``: build, open, update and search the index of a code base."""

from __future__ import annotations

import copy
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, Unpack, cast

import numpy as np
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores.types import BasePydanticVectorStore
from numpy.typing import NDArray
from typing_extensions import TypeVar

from llamaindex_code_retrieval._io import Progress, no_progress
from llamaindex_code_retrieval._settings import check_is_list
from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.index.caches import make_caches
from llamaindex_code_retrieval.index.changes import ChangeCounts, count_changes
from llamaindex_code_retrieval.index.embedders import AnyEmbedding, Embedder, embedder_of
from llamaindex_code_retrieval.index.external import ExternalVectors
from llamaindex_code_retrieval.index.faiss_store import FaissStore
from llamaindex_code_retrieval.index.file_state import FileState, text_digest
from llamaindex_code_retrieval.index.folder import check_folder, ignore_by_git, open_storage, rebuild_command
from llamaindex_code_retrieval.index.locate import restore_root, store_root
from llamaindex_code_retrieval.index.lock import update_lock
from llamaindex_code_retrieval.index.rank import Nearest
from llamaindex_code_retrieval.index.records import to_node
from llamaindex_code_retrieval.index.restore import (
    check_model,
    load_model,
    model_settings,
    restore_parser,
    restore_source_options,
    unloaded_model,
)
from llamaindex_code_retrieval.index.source_files import SourceFiles, has_same_nodes
from llamaindex_code_retrieval.index.source_options import SourceOptions
from llamaindex_code_retrieval.index.source_roots import file_of, saved_roots, source_roots
from llamaindex_code_retrieval.index.storage import DATABASE, Storage
from llamaindex_code_retrieval.index.tables import Reading
from llamaindex_code_retrieval.index.update import FileNodes, IndexReport, Update, bounded_parser, parse_text
from llamaindex_code_retrieval.index.view import IndexReader, View

if TYPE_CHECKING:
    from llama_index.core.llms import LLM
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers import ResponseMode

    from llamaindex_code_retrieval.retriever import CodeRetriever, RetrieverOptions

logger = logging.getLogger(__name__)

EmbeddingT = TypeVar("EmbeddingT", bound=BaseEmbedding, default=CodeEmbedding)

_WAIT_SECONDS = 600.0
_NO_STATUS = (-2, 0, 0, 0, 0)
"""Size, times and inode of what is no file on disk: no status equals it."""


class AdapterGroup(NamedTuple):
    """The languages whose vectors one adapter made. Vectors of two groups cannot be compared with each other."""

    embedder: Embedder
    """Embeds queries with this adapter."""
    languages: list[str]
    fingerprint: str


class CodeIndex(Generic[EmbeddingT]):
    """A searchable code base in a folder: build it, open it, update it, and search it.

    >>> from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
    >>> with CodeIndex(CodeEmbedding()) as index:
    ...     report = index.update_texts({"greet.py": "def hello(name):\\n    return f'Hello, {name}!'\\n"})
    ...     index.search("say hello")[0].node.metadata["scope"]
    'hello'

    The index is a database on disk: opening it reads nothing, every update is saved at once, and a kill loses the
    batch of files under way at most. Without ``folder`` it is in a temporary folder, which is removed with the object;
    :meth:`save` copies it.

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
        _check_dim(vector_store, embedder.dim)
        parser = parser or CodeNodeParser()
        temporary = None
        if folder is None:
            temporary = _temporary_folder()
            folder = temporary.name
        target = Path(folder)
        check_folder(target)
        target.mkdir(parents=True, exist_ok=True)
        ignore_by_git(target)
        settings = {
            **model_settings(embedder),
            "parser": parser.to_dict(),
            "vector_store": None if vector_store is None else vector_store.class_name(),
            "roots": [],
            "sources": {},
            "rules": [],
            "updated": "",
        }
        storage = Storage.create(target, settings)
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
        options = {"query_encoder": query_encoder, "cache_folder": cache_folder, "device": device}
        model_options = [name for name, value in options.items() if value is not None]
        if embedding is not None and model_options:
            raise ValueError(f"give {', '.join(model_options)} to the embedding, or leave the embedding out")
        if words_only and (embedding is not None or model_options):
            raise ValueError(f"words_only loads no model; leave out {', '.join(model_options) or 'embedding'}")
        target = Path(folder)
        storage = open_storage(target)
        try:
            with storage.reading() as reading:
                settings = reading.settings()
                if vector_store is None and settings["vector_store"] is not None:
                    raise ValueError(
                        f"{target} keeps its vectors in a {settings['vector_store']}; pass it as vector_store"
                    )
                if vector_store is not None:
                    _check_store(target, settings, reading, vector_store)
            embedder: Embedder
            if embedding is not None:
                embedder = embedder_of(embedding)
            elif words_only:
                embedder = unloaded_model(settings)
            else:
                embedder = load_model(
                    target, settings, query_encoder=query_encoder, cache_folder=cache_folder, device=device
                )
            check_model(target, settings, embedder)
            restored = restore_parser(target, settings, parser)
        except BaseException:
            storage.close()
            raise
        index = cls.__new__(cls)
        index._set(embedder, restored, vector_store, storage)
        return index

    @property
    def folder(self) -> Path:
        """Where the index is."""
        return self._storage.folder

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

    def __len__(self) -> int:
        with self._storage.reading() as reading:
            return reading.count("nodes")

    @property
    def files(self) -> int:
        """Number of files indexed."""
        with self._storage.reading() as reading:
            return reading.file_count()

    @property
    def languages(self) -> dict[str, int]:
        """Number of nodes by language."""
        with self._storage.reading() as reading:
            return reading.languages()

    @property
    def roots(self) -> list[str]:
        """The folders of the last :meth:`update`."""
        return [str(restore_root(root, self.folder)) for root in self._setting("roots")]

    @property
    def sources(self) -> SourceOptions:
        """Which files the last :meth:`update` read, and in which language."""
        return restore_source_options(self.folder, {"sources": self._setting("sources")})

    @property
    def updated(self) -> str:
        """Time of the last update, ISO 8601 in UTC; empty before the first one."""
        updated: str = self._setting("updated")
        return updated

    def _setting(self, name: str) -> Any:
        with self._storage.reading() as reading:
            return reading.settings(name)[name]

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
                raise ValueError("there is nothing to index: name at least one folder")
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
                },
                final_settings={"rules": walk.rules},
            )
        counts = walk.counts
        report.left_out = {reason: dict(files.most_common()) for reason, files in sorted(counts.left_out.items())}
        report.encodings = {how: dict(files.most_common()) for how, files in sorted(counts.encodings.items())}
        report.unknown = dict(counts.unknown.most_common())
        return report

    def update_texts(self, texts: Mapping[str, str], *, on_progress: Progress | None = None) -> IndexReport:
        """Update the index to ``texts``, source by path. Paths that are not in ``texts`` are removed."""
        with self._locked():
            with self._storage.reading() as reading:
                known = reading.files()
                is_current = has_same_nodes(reading, self.parser, self._embedder)
            parser = bounded_parser(self.parser, self._embedder)

            def files() -> Iterator[FileNodes]:
                for done, path in enumerate(sorted(texts), start=1):
                    state = FileState(path, *_NO_STATUS, text_digest(texts[path]))
                    if not (is_current and path in known and known[path].has_content_of(state)):
                        yield parse_text(texts[path], state, parser, language=None)
                    (on_progress or no_progress)("parse", done, len(texts))

            return self._run(files, removed=lambda: known.keys() - texts.keys(), progress=on_progress)

    def update_nodes(self, nodes: Sequence[TextNode], *, on_progress: Progress | None = None) -> IndexReport:
        """Update the index to these nodes. Other nodes are removed.

        As in LlamaIndex, a node's vector is that of its text with the metadata that ``excluded_embed_metadata_keys``
        does not exclude. Only nodes whose id or embedded text is new are embedded; other changes cost nothing.

        Raises:
            TypeError: a node that cannot be saved: a document, a custom node class, metadata that is not JSON.
            ValueError: two nodes have the same id, or an ``IndexNode`` holds an object.
        """
        files = _files_of_nodes(nodes)
        with self._locked():
            with self._storage.reading() as reading:
                known = reading.files()
            return self._run(
                lambda: files,
                removed=lambda: known.keys() - {file.state.path for file in files},
                progress=on_progress,
                may_move=True,
            )

    def changes(self, *, limit_seconds: float = 0.5) -> ChangeCounts:
        """Count the files that the next :meth:`update` would find changed, within a time limit.

        Raises:
            ValueError: a root is not a folder.
        """
        with self._storage.reading() as reading:
            known, settings = reading.files(), reading.settings("roots", "rules")
        folders = [restore_root(root, self.folder) for root in settings["roots"]]
        return count_changes(saved_roots(folders, settings["rules"]), known, limit_seconds=limit_seconds)

    def _run(
        self,
        files: Callable[[], Iterable[FileNodes]],
        *,
        removed: Callable[[], Collection[str]],
        refreshed: Callable[[], Iterable[FileState]] = tuple,
        progress: Progress | None,
        settings: Mapping[str, Any] | None = None,
        final_settings: Mapping[str, Any] | None = None,
        may_move: bool = False,
    ) -> IndexReport:
        """Run an update; an interrupted one leaves ``settings``, by which another one can go on."""
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
            may_move=may_move,
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

    def view(self, *, words: bool = True) -> AbstractContextManager[View]:
        """Return the current state of the index, for a ``with`` block; see :meth:`.IndexReader.view`."""
        return self._reader.view(words=words)

    def nearest_in(self, view: View) -> Nearest:
        """Return the search for the nearest nodes of ``view``: in the vector store if there is one."""
        return view.nearest if self._external is None else partial(self._external.nearest, view)

    def node(self, node_id: str) -> TextNode:
        """Return a copy of a node; an unknown id is a KeyError."""
        with self._storage.reading() as reading:
            number = reading.numbers_of([node_id])[node_id]
            return to_node(reading.rows([number])[number])

    def nodes(self) -> Iterator[TextNode]:
        """Yield all nodes by path and line."""
        with self._storage.reading() as reading:
            yield from map(to_node, reading.all_rows())

    def vectors(self, node_ids: Sequence[str]) -> NDArray[np.float32]:
        """Return the nodes' vectors, shape ``(node_ids, dim)``, as saved in half precision.

        Raises:
            KeyError: an unknown id, or a node whose vector is in an external vector store.
        """
        with self._storage.reading() as reading:
            numbers = reading.numbers_of(node_ids)
            vectors = reading.vectors(numbers.values())
            if not node_ids:
                return np.empty((0, self._embedder.dim), dtype=np.float32)
            return np.stack([vectors[numbers[node_id]] for node_id in node_ids])

    def file_of(self, path: str) -> Path:
        """Return where the file of a node's ``path`` lies on this machine."""
        return file_of(path, [Path(root) for root in self.roots])

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
        groups = []
        for fingerprint, group in view.models.items():
            if languages is not None and not set(group) & set(languages):
                continue
            for embedder in (self._embedder, self._made_by):
                adapted = embedder.for_language(group[0])
                if adapted.fingerprint == fingerprint:
                    break
            else:
                raise ValueError(
                    f"the vectors of the index in {self.folder} are of a model with fingerprint {fingerprint}, the "
                    f"embedding has {adapted.fingerprint}; call update(), or open the index again"
                )
            groups.append(AdapterGroup(adapted, group, fingerprint))
        return groups

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
        target.mkdir(parents=True, exist_ok=True)
        self._storage.copy_to(target)
        copied = Storage(target)
        try:
            with copied.writing() as writing:
                roots = [restore_root(root, self.folder) for root in writing.settings("roots")["roots"]]
                writing.put_settings({"roots": [store_root(root, target) for root in roots]})
            make_caches(copied)
        finally:
            copied.close()

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


def _check_dim(vector_store: BasePydanticVectorStore | None, dim: int) -> None:
    if isinstance(vector_store, FaissStore) and vector_store.dim != dim:
        raise ValueError(
            f"the vector store has {vector_store.dim} dimensions, the embedding {dim}; pass FaissStore({dim}), or "
            "leave vector_store out"
        )


def _check_store(
    folder: Path, settings: Mapping[str, Any], reading: Reading, vector_store: BasePydanticVectorStore
) -> None:
    """Check that a vector store is that of an index.

    Raises:
        ValueError: the index keeps its vectors itself, or the store holds none of its nodes.
    """
    if settings["vector_store"] is None:
        raise ValueError(f"the index in {folder} keeps its vectors itself; leave vector_store out")
    _check_dim(vector_store, settings["dim"])
    nodes = reading.count("nodes")
    missing = ExternalVectors(vector_store).missing(reading, settings["dim"])
    if nodes and missing == nodes:
        raise ValueError(
            f"the {vector_store.class_name()} holds none of the {nodes} nodes of the index in {folder}; pass the store "
            f"that was in use when the index was made, or rebuild it with: {rebuild_command(folder, settings)}"
        )
    if missing:
        logger.warning(
            "the %s lacks %d of the %d nodes of the index in %s; remove the index and build it again",
            *(vector_store.class_name(), missing, nodes, folder),
        )


def _files_of_nodes(nodes: Sequence[TextNode]) -> list[FileNodes]:
    """Return the nodes by their files: those that their metadata names, else one for each node.

    Raises:
        ValueError: two nodes have the same id.
    """
    repeated = len(nodes) - len({node.node_id for node in nodes})
    if repeated:
        raise ValueError(f"{repeated} of {len(nodes)} nodes repeat the id of another one")
    by_path: dict[str, list[TextNode]] = {}
    for node in nodes:
        by_path.setdefault(str(node.metadata.get("path") or node.node_id), []).append(node)
    return [FileNodes(FileState(path, *_NO_STATUS, ""), group) for path, group in by_path.items()]
