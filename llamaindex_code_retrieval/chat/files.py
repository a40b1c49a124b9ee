"""The files of hits: their definitions, read from the index where it still has the hits, else made of the hits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from llama_index.core.schema import NodeWithScore, TextNode

from llamaindex_code_retrieval.chat.outline import Chunk, FileOutline
from llamaindex_code_retrieval.chat.stubs import LANGUAGES_WITH_PROTOTYPES
from llamaindex_code_retrieval.index.records import to_node
from llamaindex_code_retrieval.index.related import definitions_of, find_used
from llamaindex_code_retrieval.index.tables import NodeRow
from llamaindex_code_retrieval.index.view import View
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES

_FUNCTIONS = ("function", "method")
_USED = 20
"""Definitions that a passage uses that are considered."""


class Definition(NamedTuple):
    """A definition of a file, and a node that it is found by."""

    outline: FileOutline
    id: str
    """That of its first node."""
    source: TextNode


class HitFiles:
    """The outlines of the files of ``hits``; of files that ``view`` has with all of their nodes."""

    def __init__(self, hits: Sequence[NodeWithScore], view: View | None) -> None:
        self._view = view
        self._hits = hits
        self._rows: dict[str, dict[str, NodeRow]] = {}
        self._outlines: dict[tuple[str, bool], FileOutline] = {}

    def definition_of(self, node: TextNode) -> Definition | None:
        """Return the definition that a hit is a part of; ``None`` if its text is not known to be lines of a file."""
        path = node.metadata.get("path")
        if not isinstance(path, str):
            return None
        return _definition(self._outline(path, is_indexed=node.node_id in self._rows_of(path)), node)

    def declared(self, stub: Definition, name: str) -> Definition | None:
        """Return the function that a stub of this name declares: of its file, else the only one of the index.

        Of several in other files the one is taken whose file has the name of the stub's file, as ``cart.c`` of
        ``cart.h``.
        """
        outline, chunk = stub.outline, stub.outline.chunks[stub.source.node_id]
        scopes = (name, f"{chunk.scope}.{name}")
        for other in outline.chunks.values():
            if other.symbol == name and other.scope in scopes and other.kind in _FUNCTIONS and other.id != chunk.id:
                return self.indexed(outline.path, other.id) or self._among_hits(outline, other.id)
        if self._view is None or outline.language not in LANGUAGES_WITH_PROTOTYPES:
            return None
        nodes = definitions_of(self._view, name, language=outline.language)
        rows = self._view.reading.rows(node.number for node in nodes if node.kind in _FUNCTIONS)
        places = [(row.path, row.id) for row in rows.values() if "{" in row.text and row.path != outline.path]
        beside = [place for place in places if _stem(place[0]) == _stem(outline.path)]
        chosen = beside or places
        return self.indexed(*chosen[0]) if len(chosen) == 1 else None

    def used_by(self, definition: Definition) -> list[NodeRow]:
        """Return the nodes of functions and classes of the index that a definition calls or uses, the surest first."""
        rows = self._rows_of(definition.outline.path)
        own = [rows[part.id] for part in definition.outline.parts_of(definition.id) if part.id in rows]
        if self._view is None or not own or definition.outline.language not in CODE_LANGUAGES:
            return []
        numbers = find_used(self._view, own)[:_USED]
        used = self._view.rows(numbers)
        return [used[number] for number in numbers]

    def indexed(self, path: str, id_: str) -> Definition | None:
        """Return the definition of a node of the index."""
        row = self._rows_of(path).get(id_)
        return None if row is None else _definition(self._outline(path, is_indexed=True), to_node(row))

    def _among_hits(self, outline: FileOutline, id_: str) -> Definition | None:
        nodes = [hit.node for hit in self._hits if hit.node_id == id_ and isinstance(hit.node, TextNode)]
        return _definition(outline, nodes[0]) if nodes else None

    def _rows_of(self, path: str) -> dict[str, NodeRow]:
        if path not in self._rows:
            rows = [] if self._view is None else self._view.reading.rows_of_file(path)
            self._rows[path] = {row.id: row for row in rows}
        return self._rows[path]

    def _outline(self, path: str, *, is_indexed: bool) -> FileOutline:
        key = path, is_indexed
        if key not in self._outlines:
            if is_indexed:
                nodes = [(row.id, row.text, row.metadata) for row in self._rows_of(path).values()]
            else:
                found = [hit for hit in self._hits if hit.node.metadata.get("path") == path]
                nodes = [(hit.node_id, hit.node.get_content(), hit.node.metadata) for hit in found]
            chunks = (Chunk.of(*node) for node in nodes)
            language = next((str(metadata.get("language") or "") for _, _, metadata in nodes), "")
            self._outlines[key] = FileOutline(path, language or "text", filter(None, chunks), is_complete=is_indexed)
        return self._outlines[key]


def _definition(outline: FileOutline, node: TextNode) -> Definition | None:
    if node.node_id not in outline.chunks:
        return None
    return Definition(outline, outline.definition_of(node.node_id), node)


def _stem(path: str) -> str:
    return path.rpartition("/")[2].partition(".")[0]
