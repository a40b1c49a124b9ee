"""``CodeNodeParser``: source files to one node per function and nodes for the code between."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from llama_index.core.bridge.pydantic import Field, field_validator, model_validator
from llama_index.core.node_parser.interface import NodeParser
from llama_index.core.node_parser.node_utils import default_id_func
from llama_index.core.schema import (
    BaseNode,
    Document,
    MetadataMode,
    NodeRelationship,
    ObjectType,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.utils import get_tqdm_iterable

from llamaindex_code_retrieval.languages.syntax import Item, Parsed, parse
from llamaindex_code_retrieval.languages.table import LANGUAGES, known_language, language_of

_MAX_DOCSTRING = 2000  # characters kept in the metadata
_LLM_KEYS = frozenset({"path", "scope", "start_line", "end_line"})

# A line that says nothing alone: closing tokens with perhaps a call or a comment behind, a label, a preprocessor end.
_GLUE = re.compile(
    r"""(?: [^\w'"`#@$<\\/*]+ (?: \([\w$.,\s()]*\)+;? | while\s*\(.*\); )? \s* (?: //.* | /\*.*\*/ )? )?
      | (?: end | else | begin | private | protected | public ) \s* :? \s* (?: \#.* )?
      | \# \s* (?: endif | else ) \b .*""",
    re.VERBOSE,
)


class CodeNodeParser(NodeParser):
    """One node per function or method, and nodes for the class headers, class bodies and module code between them.

    Every line that is not blank is in at least one node, and a node is whole lines: ``start_line`` to ``end_line``
    of ``text.split("\\n")``. A node longer than ``max_lines`` is split between statements into parts that overlap
    by about ``overlap_lines``; a long function with functions inside is opened like a class first. A document in no
    known language, and one where more than half of the lines are syntax errors, becomes overlapping line windows.

    The path is the document's metadata ``path``, ``file_path`` or ``file_name``, else its id. The language is its
    metadata ``language`` if that is a known one, else the path's, else ``language``. The embedded text is the code
    alone; an LLM also sees path, scope and lines. Node ids depend on path, lines and text only (``id_func`` can
    say otherwise), so the same file parsed again has the same ids.

    >>> document = Document(text="import os\\n\\ndef cwd():\\n    return os.getcwd()\\n", metadata={"path": "a.py"})
    >>> [(n.metadata["kind"], n.metadata["scope"]) for n in CodeNodeParser().get_nodes_from_documents([document])]
    [('module', ''), ('function', 'cwd')]
    """

    max_lines: int = Field(default=60, frozen=True, description="Lines of the longest node.")
    overlap_lines: int = Field(default=6, frozen=True, description="Lines that a part repeats of the one before it.")
    language: str | None = Field(
        default=None, frozen=True, description="Language of documents that do not tell theirs."
    )

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex saves it."""
        return "CodeNodeParser"

    @field_validator("id_func", mode="before")
    @classmethod
    def _restore_id_func(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if value.get("id_func_name") != default_id_func.__name__:  # to_dict writes no more than the name
            raise ValueError(f"id_func {value.get('id_func_name')!r} cannot be restored from its name; pass id_func=")
        return default_id_func

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_lines < 2:
            raise ValueError(f"max_lines must be at least 2, got {self.max_lines}")
        if not 0 <= self.overlap_lines < self.max_lines // 2:
            raise ValueError(
                f"overlap_lines must be from 0 to under half of max_lines ({self.max_lines} // 2), "
                f"got {self.overlap_lines}; lower it or raise max_lines"
            )
        if self.language is not None:
            known_language(self.language)
        return self

    def _parse_nodes(self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> list[BaseNode]:
        return [
            chunk
            for document in get_tqdm_iterable(nodes, show_progress, "Parsing nodes")
            for chunk in self._chunk(document)
        ]

    def _chunk(self, document: BaseNode) -> list[TextNode]:
        told = document.metadata
        path = str(next((told[key] for key in ("path", "file_path", "file_name") if told.get(key)), document.node_id))
        language: str | None = told.get("language")
        if not isinstance(language, str) or language not in LANGUAGES:
            language = language_of(path) or self.language
        text = document.get_content(metadata_mode=MetadataMode.NONE)
        parsed = None if language is None else parse(text, language)
        lines = text.split("\n")
        if parsed is None:
            pieces = [_Piece(*rows, None, "window", False) for rows in self._windows(lines)]
        else:
            pieces = self._pieces(parsed)

        starts = [0]
        for line in lines:
            starts.append(starts[-1] + len(line) + 1)
        try:
            source = document.as_related_node_info()
        except UnicodeEncodeError:  # LlamaIndex hashes nodes with lone surrogates, but not documents
            source = RelatedNodeInfo(
                node_id=document.node_id, node_type=document.get_type(), metadata=document.metadata
            )
        chunks: list[TextNode] = []
        heads: dict[int, TextNode] = {}  # id of an item -> the node that starts it
        children: dict[str, list[RelatedNodeInfo]] = {}
        seen: set[tuple[int, int]] = set()  # two functions on one line are one node
        for piece in pieces:
            item = piece.item
            parts = [(piece.first, piece.last)] if parsed is None else self._split(piece, parsed)
            parts = [rows for rows in parts if rows not in seen]
            seen.update(parts)
            for number, (first, last) in enumerate(parts, start=1):
                code = text[starts[first] : starts[last + 1] - 1]
                if self.id_func is default_id_func:
                    id_ = _node_id(path, first + 1, last + 1, code)
                else:
                    id_ = self.id_func(len(chunks), document)
                metadata: dict[str, Any] = {
                    "path": path,
                    "language": language or "",
                    "symbol": item.symbol if item else "",
                    "scope": item.scope if item else "",
                    "kind": piece.kind,
                    "start_line": first + 1,
                    "end_line": last + 1,
                    "docstring": item.docstring[:_MAX_DOCSTRING] if item and piece.is_head else "",
                }
                if len(parts) > 1:
                    metadata |= {"part": number, "parts": len(parts)}
                chunk = TextNode(
                    id_=id_,
                    text=code,
                    metadata=metadata,
                    start_char_idx=starts[first],
                    end_char_idx=starts[first] + len(code),
                    relationships={NodeRelationship.SOURCE: source},
                )
                chunks.append(chunk)
                if item is None:
                    continue
                if piece.is_head:
                    heads.setdefault(id(item), chunk)
                above = item.parent if piece.is_head else item
                head = heads.get(id(above))
                if head is not None:
                    chunk.relationships[NodeRelationship.PARENT] = _reference(head)
                    children.setdefault(head.node_id, []).append(_reference(chunk))
        for head in heads.values():
            if head.node_id in children:
                head.relationships[NodeRelationship.CHILD] = children[head.node_id]
        return chunks

    def _postprocess_parsed_nodes(self, nodes: list[BaseNode], parent_doc_map: dict[str, Document]) -> list[BaseNode]:
        chunks = [node for node in nodes if isinstance(node, TextNode)]
        places = [(chunk.start_char_idx, chunk.end_char_idx) for chunk in chunks]
        processed = super()._postprocess_parsed_nodes(nodes, parent_doc_map)
        for chunk, (start, end) in zip(chunks, places, strict=True):
            # the base class searches the document for the text, and may find an equal one elsewhere
            chunk.start_char_idx, chunk.end_char_idx = start, end
            chunk.excluded_embed_metadata_keys = list(chunk.metadata)
            chunk.excluded_llm_metadata_keys = [key for key in chunk.metadata if key not in _LLM_KEYS]
        return processed

    def _windows(self, lines: Sequence[str]) -> list[tuple[int, int]]:
        windows: list[tuple[int, int]] = []
        for first in range(0, len(lines), self.max_lines - self.overlap_lines):
            window = _trim(lines, first, min(first + self.max_lines, len(lines)) - 1)
            if window and not (windows and window[1] <= windows[-1][1]):
                windows.append(window)
        return windows

    def _pieces(self, parsed: Parsed) -> list[_Piece]:
        """Return the pieces in the order of their lines, before any is split; two may be the same lines."""
        pieces: list[_Piece] = []
        for piece in self._open(parsed.top):
            rows = _trim(parsed.lines, piece.first, piece.last)
            if rows is None:
                continue
            first, last = rows
            if pieces and not piece.is_head and all(map(_is_glue, parsed.lines[first : last + 1])):
                pieces[-1].last = max(pieces[-1].last, last)
            else:
                pieces.append(_Piece(first, last, piece.item, piece.kind, piece.is_head))
        return pieces

    def _open(self, item: Item) -> Iterator[_Piece]:
        is_top = item.parent is None
        owner = None if is_top else item
        children = item.children
        if item.kind in ("function", "method") and (
            item.last - item.first < self.max_lines or not any(_has_function(child) for child in children)
        ):
            children = []
        row = item.first
        for child in children:
            if row < child.first:
                yield _Piece(row, child.first - 1, owner, item.kind, not is_top and row == item.first)
            elif row == item.first and not is_top:  # code on the first line of a class still gives it a header
                yield _Piece(row, row, owner, item.kind, True)
            yield from self._open(child)
            row = max(row, child.last + 1)
        if row <= item.last:
            yield _Piece(row, item.last, owner, item.kind, not is_top and row == item.first)

    def _split(self, piece: _Piece, parsed: Parsed) -> list[tuple[int, int]]:
        parts: list[tuple[int, int]] = []
        first = piece.first
        while piece.last - first >= self.max_lines:
            window = range(first + self.max_lines // 2 + 1, first + self.max_lines + 1)
            # the last one of the shallowest; where no statement starts, the end of the window
            cut = min(reversed(window), key=lambda row: parsed.depths.get(row, 1 << 30))
            parts.append((first, cut - 1))
            first = cut - self.overlap_lines
        parts.append((first, piece.last))
        return [rows for part in parts if (rows := _trim(parsed.lines, *part))]


@dataclass(slots=True)
class _Piece:
    """Rows that become one node, or several if they are too many; ``is_head``: they start the definition."""

    first: int
    last: int
    item: Item | None
    kind: str
    is_head: bool


def _has_function(item: Item) -> bool:
    return item.kind != "class" or any(_has_function(child) for child in item.children)


def _is_glue(line: str) -> bool:
    line = line.strip()
    return len(line) < 100 and _GLUE.fullmatch(line) is not None


def _trim(lines: Sequence[str], first: int, last: int) -> tuple[int, int] | None:
    """Return the rows without the blank ones at both ends, ``None`` if all are blank."""
    while first <= last and not lines[first].strip():
        first += 1
    while first <= last and not lines[last].strip():
        last -= 1
    return (first, last) if first <= last else None


def _node_id(path: str, start_line: int, end_line: int, text: str) -> str:
    content = f"{path}\0{start_line}\0{end_line}\0{text}".encode(errors="surrogatepass")
    return str(uuid.UUID(bytes=hashlib.sha256(content).digest()[:16]))


def _reference(node: TextNode) -> RelatedNodeInfo:
    return RelatedNodeInfo(node_id=node.node_id, node_type=ObjectType.TEXT)
