"""``CodeNodeParser``: split source files into one node per function, and nodes for the code between functions."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

from llama_index.core.bridge.pydantic import Field, field_validator, model_validator
from llama_index.core.callbacks import CallbackManager
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

from llamaindex_code_retrieval._settings import PlainErrors
from llamaindex_code_retrieval.languages.spans import Span, line_windows, spans_of, split_span
from llamaindex_code_retrieval.languages.syntax import parse
from llamaindex_code_retrieval.languages.table import LANGUAGES, known_language, language_of
from llamaindex_code_retrieval.languages.text import outline_text

_MAX_OVERLAP = 6  # lines of the default overlap
_MAX_DOCSTRING = 2000  # characters kept in the metadata
_LLM_KEYS = frozenset({"path", "scope", "start_line", "end_line"})


class CodeNodeParser(PlainErrors, NodeParser):
    """Split source files into one node per function or method, and nodes for class headers and the code between.

    Every line that is not blank is in at least one node, and a node is whole lines: ``start_line`` to ``end_line``
    of ``text.split("\\n")``. A node longer than ``max_lines`` is split between statements into parts that overlap
    by about ``overlap_lines``; a long function that contains functions is first divided like a class. Documents and
    configuration become nodes by headings and keys. Texts of an unknown kind, and code with syntax errors in more than
    half of its lines, become overlapping line windows.

    The path is the document's metadata ``path``, ``file_path`` or ``file_name``, else its id. The language is its
    metadata ``language`` if that is a known one, else that of the path, else ``language``. The embedded text is the
    code alone; an LLM also sees path, scope and lines. Node ids depend on path, lines and text only (unless
    ``id_func`` is given), so that parsing an unchanged file again gives the same ids.

    >>> document = Document(text="import os\\n\\ndef cwd():\\n    return os.getcwd()\\n", metadata={"path": "a.py"})
    >>> [(n.metadata["kind"], n.metadata["scope"]) for n in CodeNodeParser().get_nodes_from_documents([document])]
    [('module', ''), ('function', 'cwd')]
    """

    max_lines: int = Field(frozen=True, strict=True, description="Lines of the longest node.")
    overlap_lines: int = Field(frozen=True, strict=True, description="Lines that a part repeats of the part before it.")
    language: str | None = Field(
        frozen=True, description="Language of documents whose metadata and path do not tell it."
    )

    def __init__(
        self,
        *,
        max_lines: int = 60,
        overlap_lines: int | None = None,
        language: str | None = None,
        include_metadata: bool = True,
        include_prev_next_rel: bool = True,
        id_func: Callable[[int, BaseNode], str] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Check the settings.

        Args:
            max_lines: lines of the longest node, at least 2.
            overlap_lines: lines that a part of a split node repeats of the part before it, under half of
                ``max_lines``; by default a quarter of ``max_lines``, at most 6.
            language: language of documents whose metadata and path do not tell it.
            include_metadata: copy the document's metadata to its nodes.
            include_prev_next_rel: link each node to the nodes before and after it.
            id_func: makes the id of a node from its number and its document.
            callback_manager: receives LlamaIndex events for parsed documents.

        Raises:
            ValueError: a value breaks its rule; the message names both.
        """
        if overlap_lines is None:
            overlap_lines = min(_MAX_OVERLAP, max_lines // 4) if isinstance(max_lines, int) else 0
        fields: dict[str, Any] = {
            "max_lines": max_lines,
            "overlap_lines": overlap_lines,
            "language": language,
            "include_metadata": include_metadata,
            "include_prev_next_rel": include_prev_next_rel,
            "id_func": id_func or default_id_func,
            "callback_manager": callback_manager or CallbackManager(),
        }
        super().__init__(**fields)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "CodeNodeParser"

    @field_validator("id_func", mode="before")
    @classmethod
    def _restore_id_func(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if value.get("id_func_name") != default_id_func.__name__:  # to_dict writes only the name
            raise ValueError(f"{value.get('id_func_name')!r} cannot be restored from its name; pass id_func=")
        return default_id_func

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_lines < 2:
            raise ValueError(f"max_lines must be at least 2, got {self.max_lines}")
        if not 0 <= self.overlap_lines < self.max_lines // 2:
            raise ValueError(
                f"overlap_lines must be at least 0 and under half of max_lines ({self.max_lines} // 2), "
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
        source = _Source.of(document, self.language)
        is_code = bool(LANGUAGES[source.language].grammars)
        parsed = parse(source.text, source.language) if is_code else outline_text(source.text, source.language)
        if parsed is None:
            spans = line_windows(source.lines, max_lines=self.max_lines, overlap_lines=self.overlap_lines)
        else:
            spans = spans_of(parsed, max_lines=self.max_lines)
        origin = _source_reference(document)
        chunks: list[TextNode] = []
        tree = _ChunkTree()
        seen: set[tuple[int, int]] = set()  # two functions on one line become one node
        for span in spans:
            if parsed is None:
                parts = [(span.first, span.last)]
            else:
                parts = split_span(span, parsed, max_lines=self.max_lines, overlap_lines=self.overlap_lines)
            parts = [part for part in parts if part not in seen]
            seen.update(parts)
            for number, (first, last) in enumerate(parts, start=1):
                code = source.code(first, last)
                if self.id_func is default_id_func:
                    id_ = _node_id(source.path, first + 1, last + 1, code)
                else:
                    id_ = self.id_func(len(chunks), document)
                metadata = _metadata(source, span, first, last)
                if len(parts) > 1:
                    metadata |= {"part": number, "parts": len(parts)}
                chunk = TextNode(
                    id_=id_,
                    text=code,
                    metadata=metadata,
                    start_char_idx=source.offsets[first],
                    end_char_idx=source.offsets[first] + len(code),
                    relationships={NodeRelationship.SOURCE: origin},
                )
                chunks.append(chunk)
                tree.add(chunk, span)
        tree.link_children()
        return chunks

    def _postprocess_parsed_nodes(self, nodes: list[BaseNode], parent_doc_map: dict[str, Document]) -> list[BaseNode]:
        chunks = [node for node in nodes if isinstance(node, TextNode)]
        places = [(chunk.start_char_idx, chunk.end_char_idx) for chunk in chunks]
        processed = super()._postprocess_parsed_nodes(nodes, parent_doc_map)
        for chunk, (start, end) in zip(chunks, places, strict=True):
            # the base class searches the document for the text, and may find the same text elsewhere
            chunk.start_char_idx, chunk.end_char_idx = start, end
            chunk.excluded_embed_metadata_keys = list(chunk.metadata)
            chunk.excluded_llm_metadata_keys = [key for key in chunk.metadata if key not in _LLM_KEYS]
        return processed


@dataclass(frozen=True, slots=True)
class _Source:
    """The text of a document, its path and language; ``offsets`` are the characters at which the lines start."""

    path: str
    language: str
    text: str
    lines: list[str]
    offsets: list[int]

    @classmethod
    def of(cls, document: BaseNode, default_language: str | None) -> _Source:
        metadata = document.metadata
        path = next((metadata[key] for key in ("path", "file_path", "file_name") if metadata.get(key)), None)
        path = document.node_id if path is None else str(path)
        language = metadata.get("language")
        if not isinstance(language, str) or language not in LANGUAGES:
            language = language_of(path) or default_language or "text"
        text = document.get_content(metadata_mode=MetadataMode.NONE)
        lines = text.split("\n")
        return cls(path, language, text, lines, list(accumulate((len(line) + 1 for line in lines), initial=0)))

    def code(self, first: int, last: int) -> str:
        return self.text[self.offsets[first] : self.offsets[last + 1] - 1]


class _ChunkTree:
    """Links the nodes of a document to the node that starts the definition around them."""

    def __init__(self) -> None:
        self._starts: dict[int, TextNode] = {}  # id() of an item -> the node that starts it
        self._children: dict[str, list[RelatedNodeInfo]] = {}  # id of a node -> its children

    def add(self, chunk: TextNode, span: Span) -> None:
        if span.item is None:
            return
        if span.is_start:
            self._starts.setdefault(id(span.item), chunk)
        parent = self._starts.get(id(span.item.parent if span.is_start else span.item))
        if parent is not None:
            chunk.relationships[NodeRelationship.PARENT] = _reference(parent)
            self._children.setdefault(parent.node_id, []).append(_reference(chunk))

    def link_children(self) -> None:
        for node in self._starts.values():
            if node.node_id in self._children:
                node.relationships[NodeRelationship.CHILD] = self._children[node.node_id]


def _metadata(source: _Source, span: Span, first: int, last: int) -> dict[str, Any]:
    item = span.item
    return {
        "path": source.path,
        "language": source.language,
        "symbol": item.symbol if item else "",
        "scope": item.scope if item else "",
        "kind": span.kind,
        "start_line": first + 1,
        "end_line": last + 1,
        "docstring": item.docstring[:_MAX_DOCSTRING] if item and span.is_start else "",
    }


def _source_reference(document: BaseNode) -> RelatedNodeInfo:
    try:
        return document.as_related_node_info()
    except UnicodeEncodeError:  # LlamaIndex cannot hash the text of nodes with lone surrogates
        return RelatedNodeInfo(node_id=document.node_id, node_type=document.get_type(), metadata=document.metadata)


def _node_id(path: str, start_line: int, end_line: int, text: str) -> str:
    content = f"{path}\0{start_line}\0{end_line}\0{text}".encode(errors="surrogatepass")
    return str(uuid.UUID(bytes=hashlib.sha256(content).digest()[:16]))


def _reference(node: TextNode) -> RelatedNodeInfo:
    return RelatedNodeInfo(node_id=node.node_id, node_type=ObjectType.TEXT)
