"""Update an index: parse files, embed new nodes, and write them in batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
from llama_index.core.node_parser import get_leaf_nodes
from llama_index.core.schema import Document, TextNode
from numpy.typing import NDArray

from llamaindex_code_retrieval._io import Progress
from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.embedding import CodeEmbedding, node_language
from llamaindex_code_retrieval.index.caches import Caches
from llamaindex_code_retrieval.index.embedders import Embedder, fingerprint_of
from llamaindex_code_retrieval.index.file_state import FileState
from llamaindex_code_retrieval.index.missing_vectors import MissingVectors
from llamaindex_code_retrieval.index.node_vectors import embed_nodes, vector_key
from llamaindex_code_retrieval.index.records import embedded_text, keep_ids_of_relations, to_row
from llamaindex_code_retrieval.index.storage import Storage
from llamaindex_code_retrieval.index.tables import NodeRow, Reading, Writing
from llamaindex_code_retrieval.index.view import word_document
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES

_BATCH_NODES = 512
"""Nodes that are written in one transaction, apart from those of a single file: an interruption loses no more."""
_BATCH_FILES = 256
_SPARE_NUMBERS = 10_000
"""Reserved for nodes that come into the files between the two times that an update reads them."""


@dataclass(slots=True)
class IndexReport:
    """Counts of a build or an update. ``files``, ``nodes`` and ``unparsed_files`` count the whole index."""

    files: int = 0
    nodes: int = 0
    added: int = 0
    """Nodes that were not in the index before, or had another text."""
    removed: int = 0
    """Nodes that are no longer in it."""
    embedded: int = 0
    """Nodes that went to the embedding model or its cache: their text was not in the index before, or their language
    has another adapter now."""
    truncated: int = 0
    """Nodes of this run's ``embedded`` that are longer than the model's token limit: nodes that were given to
    ``update_nodes`` or made by a parser with another ``max_tokens``."""
    unparsed_files: int = 0
    """Files of a known language that could not be parsed and are indexed by line windows."""
    left_out: dict[str, dict[str, int]] = field(default_factory=dict)
    """Files that were left out: by reason, then by extension."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Files of no known kind, read as plain text: by extension."""
    encodings: dict[str, dict[str, int]] = field(default_factory=dict)
    """Files that are not UTF-8: by how their encoding was found ("byte order mark", "declared", "guessed"), then by
    encoding; "replaced" counts those with U+FFFD in place of the bytes that are not UTF-8."""
    seconds: float = 0.0


class FileNodes(NamedTuple):
    """A file that is new or changed, with its nodes."""

    state: FileState
    nodes: Sequence[TextNode]
    parsed: bool = True


class VectorSink(Protocol):
    """Where vectors go that are not kept in the database."""

    def put(self, nodes: Sequence[TextNode], vectors: NDArray[np.float32], *, replaced: Collection[str]) -> None:
        """Add the vectors of nodes, ``replaced`` of which are there already."""

    def remove(self, node_ids: Collection[str]) -> None:
        """Remove nodes."""


def bounded_parser(parser: CodeNodeParser, embedder: Embedder) -> CodeNodeParser:
    """Return a parser whose nodes the embedding reads to their end, unless ``parser`` has a bound of its own."""
    if parser.max_tokens is None and isinstance(embedder, CodeEmbedding):
        return parser.with_token_bound(embedder.max_code_tokens, embedder.tokenize_code)
    return parser


def parse_text(text: str, state: FileState, parser: CodeNodeParser, *, language: str | None) -> FileNodes:
    """Return the nodes of a file; parents of nodes are left out, because an index returns all of its nodes."""
    metadata = {"path": state.path} if language is None else {"path": state.path, "language": language}
    document = Document(text=text, id_=state.path, metadata=metadata)
    leaves = get_leaf_nodes(parser.get_nodes_from_documents([document]))
    nodes = [node for node in leaves if isinstance(node, TextNode)]
    for node in nodes:
        keep_ids_of_relations(node)
    return FileNodes(state, nodes, parsed=not any(map(_is_unparsed, nodes)))


class Update:
    """One update of an index. The caller holds the lock of the index.

    Files are written in batches, each in one transaction; a kill loses the batch under way. The first update writes all
    nodes and their words without waiting for their vectors, so that they can be searched by words within seconds; see
    :class:`.MissingVectors`. Later ones write the vectors of new nodes with them, so that a search finds a changed file
    as it was or as it is.

    If other models make the vectors than before, all files are written in one transaction, so that a search never meets
    vectors of two models for one language; the new vectors are kept while they are made, and an update after a kill
    uses them.
    """

    def __init__(
        self, storage: Storage, embedder: Embedder, *, sink: VectorSink | None, report: IndexReport, progress: Progress
    ) -> None:
        self._storage = storage
        self._embedder = embedder
        self._fingerprints = embedder.fingerprints
        self._sink = sink
        self._report = report
        self._progress = progress
        self._caches = Caches(storage)
        self._outer: Writing | None = None
        self._missing = MissingVectors(storage, embedder, on_progress=progress, on_write=self._renew_grown_vectors)
        self._has_words_first = False
        """Whether new nodes are written without their vectors."""
        self._numbers: Iterator[int] | None = None
        self._first_settings: Mapping[str, Any] = {}
        self._written: set[str] = set()
        """Paths of the files that this update has written."""
        self._left: set[str] = set()
        """Paths of files, not written yet, from which nodes have moved to files that are."""

    def run(
        self,
        files: Callable[[], Iterable[FileNodes]],
        *,
        removed: Callable[[], Collection[str]],
        refreshed: Callable[[], Iterable[FileState]],
        first_settings: Mapping[str, Any],
        settings: Mapping[str, Any],
    ) -> None:
        """Write ``files``, remove the files of the paths ``removed``, and set ``settings``.

        ``removed``, and ``refreshed``, the new states of files whose content is as before, are called after the files
        have been read. ``first_settings`` are set with the first files that are written, so that an interrupted update
        leaves what the next one needs; one that writes nothing changes nothing. Where the index has no files yet, they
        are set before any file is read.

        Raises:
            ValueError: two nodes have one id, or a vector is not finite.
            OSError: the index cannot be written.
        """

        def finish() -> None:
            self._finish(removed(), refreshed(), settings)

        with self._caches, self._missing:
            self._caches.check_words()
            with self._storage.reading() as reading:
                is_new = not reading.count("files")
                is_first = is_new or reading.settings("unembedded").get("unembedded") is not None
            self._first_settings = {**(settings if is_new else {}), **first_settings}
            if is_new:
                with self._storage.writing() as writing:
                    writing.put_settings(self._first_settings)
            if self._has_other_models():
                count = 2 * self._stage(files()) + _SPARE_NUMBERS
                first = self._storage.reserve(count)
                self._numbers = iter(range(first, first + count))
                with self._storage.writing() as self._outer:
                    self._write(files())
                    finish()
                    self._outer.put_settings({"vectors": None})
                    for table in ("removed", "staged"):
                        self._outer.clear(table)
                self._outer = None
            else:
                self._has_words_first = is_first and self._sink is None
                self._write(files())
                finish()
            self._caches.purge()
            self._missing.finish()
        self._report.embedded += self._missing.embedded
        self._report.truncated += self._missing.truncated
        self._caches.renew_vectors(self._progress)
        self._caches.clean()

    def _has_other_models(self) -> bool:
        with self._storage.reading() as reading:
            return any(
                fingerprint_of(self._fingerprints, {"language": language}) != fingerprint
                for fingerprint, languages in reading.models().items()
                for language in languages
            )

    def _write(self, files: Iterable[FileNodes]) -> None:
        for batch in _batches(files):
            self._write_batch(batch)
            if self._has_words_first:
                self._missing.advance()
            elif self._outer is None:
                self._renew_grown_vectors()

    def _renew_grown_vectors(self) -> None:
        self._caches.renew_vectors(self._progress, grown_only=True)

    def _finish(self, removed: Iterable[str], refreshed: Iterable[FileState], settings: Mapping[str, Any]) -> None:
        """Remove files, set what is left to set, and count."""
        removed = set(removed)
        _check_repeated(len(self._left - removed))
        with self._transaction() as writing:
            gone: list[NodeRow] = []
            for path in removed:
                gone += writing.rows_of_file(path)
                writing.remove_file(path)
            writing.remove_nodes([row.number for row in gone])
            for state in refreshed:
                writing.refresh_file(state)
            writing.put_settings(
                {**self._first_settings, **settings, "updated": datetime.now(UTC).isoformat(timespec="seconds")}
            )
            self._report.files, self._report.nodes = writing.file_count(), writing.count("nodes")
            self._report.unparsed_files = writing.unparsed()
        self._report.removed += len(gone)
        if self._sink is not None and gone:
            self._sink.remove([row.id for row in gone])

    def _transaction(self) -> AbstractContextManager[Writing]:
        return self._storage.writing() if self._outer is None else nullcontext(self._outer)

    # --- one batch ---------------------------------------------------------------------------------------------------

    def _write_batch(self, batch: Sequence[FileNodes]) -> None:
        with ExitStack() as stack:
            reading = self._outer or stack.enter_context(self._storage.reading())
            changes = [self._changes(file, reading) for file in batch]
            moved = self._moved(changes, reading)
            new = [row for change in changes for row in change.new]
            vectors = self._known_vectors(new, reading)
        if not self._has_words_first:
            self._add_vectors(vectors, new)
        first = self._first_number(len(new))
        new = [row._replace(number=first + i) for i, row in enumerate(new)]
        opstamp = self._caches.add_words(map(word_document, new))
        gone = [row for change in changes for row in change.gone]
        if self._sink is not None and new:
            replaced = {row.id for row in (*gone, *moved)} & {row.id for row in new}
            by_id = {node.node_id: node for file in batch for node in file.nodes}
            by_place = np.stack([vectors[place] for place in range(len(new))])
            self._sink.put([by_id[row.id] for row in new], by_place, replaced=replaced)
        with self._transaction() as writing:
            writing.remove_nodes([row.number for row in (*gone, *moved)])
            writing.forget_content({row.path for row in moved})
            rows = iter(new)
            for change in changes:
                number = writing.put_file(change.state, parsed=change.parsed)
                writing.update_nodes(change.kept)
                writing.insert_nodes(number, [next(rows) for _ in change.new])
            if self._sink is None:
                writing.put_vectors({new[place].number: vector for place, vector in vectors.items()})
            if len(vectors) < len(new) and writing.settings("unembedded").get("unembedded") is None:
                writing.put_settings({"unembedded": first})
            if opstamp is not None:
                writing.put_settings({"words": opstamp})
            writing.put_settings(self._first_settings)
        lost = {row.id for row in gone} - {row.id for row in new}
        if self._sink is not None and lost:
            self._sink.remove(sorted(lost))
        self._report.removed += len(lost)
        paths = {file.state.path for file in batch}
        self._written |= paths
        self._left = (self._left | {row.path for row in moved}) - paths

    def _first_number(self, count: int) -> int:
        if not count:
            return 0
        if self._numbers is None:
            return self._storage.reserve(count)
        numbers = list(islice(self._numbers, count))
        if len(numbers) < count:
            raise OSError("the files have grown while the index was updated; update it again")
        return numbers[0]

    def _changes(self, file: FileNodes, reading: Reading) -> _Changes:
        """Compare the nodes of a file with those in the index."""
        old = {row.id: row for row in reading.rows_of_file(file.state.path)}
        kept: list[NodeRow] = []
        new: list[NodeRow] = []
        for position, node in enumerate(file.nodes):
            model = fingerprint_of(self._fingerprints, node.metadata)
            row = to_row(node, path=file.state.path, position=position, model=model)
            before = old.get(row.id)
            if before is not None and _is_equally_found(before, row):
                kept.append(row._replace(number=before.number))
            else:
                new.append(row)
            if before is None or (before.text, before.embedded) != (row.text, row.embedded):
                self._report.added += 1
        numbers = {row.number for row in kept}
        gone = [row for row in old.values() if row.number not in numbers]
        changed = [row for row in kept if old[row.id] != row]
        return _Changes(file.state, file.parsed, changed, new, gone)

    def _moved(self, changes: Sequence[_Changes], reading: Reading) -> list[NodeRow]:
        """Return those new nodes that are in the index as nodes of other files.

        Raises:
            ValueError: two nodes have one id.
        """
        new = {row.id: row for change in changes for row in change.new}
        own = {row.number for change in changes for row in (*change.gone, *change.kept)}
        found = [number for number in reading.numbers_of(new).values() if number not in own]
        moved = list(reading.rows(found).values())
        ids = [row.id for change in changes for row in (*change.new, *change.kept)]
        _check_repeated(len(ids) - len(set(ids)) + sum(row.path in self._written for row in moved))
        self._report.added -= sum((row.text, row.embedded) == (new[row.id].text, new[row.id].embedded) for row in moved)
        return moved

    # --- vectors -----------------------------------------------------------------------------------------------------

    def _known_vectors(self, rows: Sequence[NodeRow], reading: Reading) -> dict[int, NDArray[np.float32]]:
        """Return the vectors that the same models made of equal texts, by place in ``rows``."""
        keys = [vector_key(row) for row in rows]
        staged = {} if self._outer is None else reading.staged(keys, dim=self._embedder.dim)
        vectors: dict[int, NDArray[np.float32]] = {}
        for place, (row, key) in enumerate(zip(rows, keys, strict=True)):
            vector = staged.get(key)
            if vector is None and self._sink is None:
                vector = reading.vector_of(row.digest, embedded_text(row), row.model)
            if vector is not None:
                vectors[place] = vector
        return vectors

    def _add_vectors(self, vectors: dict[int, NDArray[np.float32]], rows: Sequence[NodeRow]) -> None:
        """Embed the rows whose places are not in ``vectors``, and add their vectors to it."""
        missing: dict[bytes, list[int]] = {}
        for place, row in enumerate(rows):
            if place not in vectors:
                missing.setdefault(vector_key(row), []).append(place)
        if missing:
            made = self._embed([rows[places[0]] for places in missing.values()])
            for vector, places in zip(made, missing.values(), strict=True):
                vectors.update(dict.fromkeys(places, vector))
            self._report.embedded += sum(len(places) - 1 for places in missing.values())

    def _embed(self, rows: Sequence[NodeRow]) -> NDArray[np.float32]:
        vectors, truncated = embed_nodes(self._embedder, rows)
        self._report.truncated += truncated
        self._report.embedded += len(rows)
        return vectors

    def _stage(self, files: Iterable[FileNodes]) -> int:
        """Make the vectors of all nodes that no node of the index has, keep them, and return the number of nodes."""
        nodes = 0
        for batch in _batches(files):
            rows = [
                to_row(node, path=file.state.path, position=0, model=fingerprint_of(self._fingerprints, node.metadata))
                for file in batch
                for node in file.nodes
            ]
            nodes += len(rows)
            with self._storage.reading() as reading:
                known = reading.staged(map(vector_key, rows), dim=self._embedder.dim)
                missing = {
                    vector_key(row): row
                    for row in rows
                    if vector_key(row) not in known
                    and (self._sink is not None or reading.vector_of(row.digest, embedded_text(row), row.model) is None)
                }
            if missing:
                made = self._embed(list(missing.values()))
                with self._storage.writing() as writing:
                    writing.stage(dict(zip(missing, made, strict=True)))
        return nodes


class _Changes(NamedTuple):
    """What changes in a file."""

    state: FileState
    parsed: bool
    kept: list[NodeRow]
    """Nodes that keep their vector and words and change in something else."""
    new: list[NodeRow]
    gone: list[NodeRow]
    """The nodes of before that are not kept."""


def _check_repeated(count: int) -> None:
    if count:
        raise ValueError(f"{count} nodes repeat the id of another one; the parser's id_func must make ids unique")


def _is_equally_found(before: NodeRow, row: NodeRow) -> bool:
    """Return whether vector and words of a node stay as they are."""
    return (before.model, before.embedded) == (row.model, row.embedded) and word_document(before)[1:] == word_document(
        row
    )[1:]


def _batches(files: Iterable[FileNodes]) -> Iterator[list[FileNodes]]:
    batch: list[FileNodes] = []
    nodes = 0
    for file in files:
        batch.append(file)
        nodes += len(file.nodes)
        if nodes >= _BATCH_NODES or len(batch) >= _BATCH_FILES:
            yield batch
            batch, nodes = [], 0
    if batch:
        yield batch


def _is_unparsed(node: TextNode) -> bool:
    return node.metadata["kind"] == "window" and node_language(node.metadata) in CODE_LANGUAGES
