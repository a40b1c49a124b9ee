"""The text of a document with its path, language and place in a file, and the nodes and ids of its parts."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from dataclasses import asdict, fields
from typing import Any

from llama_index.core.schema import BaseNode, Document, MetadataMode, NodeRelationship, RelatedNodeInfo, TextNode

from llamaindex_code_retrieval.languages.bounds import Part
from llamaindex_code_retrieval.languages.notebooks import CellLines, read_notebook
from llamaindex_code_retrieval.languages.outline import Item
from llamaindex_code_retrieval.languages.table import LANGUAGES, language_of_text

HEADER_ID = "header_id"
"""The metadata key for the id of the node with which the definition around a node begins."""
NAMES = "names"
"""The metadata key for the words of path and scope, which are embedded with the code."""
_MAX_DOCSTRING = 2000  # characters kept in the metadata
_PATH_KEYS = ("path", "file_path", "file_name")
_LLM_KEYS = ("path", "scope", "start_line", "end_line", "cell")
_CELL_KEYS = ("cell_start_line", "last_cell", "cell_end_line")
_OF_ONE_NODE = ("part", "parts", HEADER_ID)
_OWN_KEYS = (*_LLM_KEYS, "language", "symbol", "kind", "docstring", *_CELL_KEYS, *_OF_ONE_NODE)
_VOLATILE_KEYS = ("creation_date", "last_accessed_date", "last_modified_date", "file_size")
_NOT_IN_IDS = frozenset((*_OWN_KEYS, *_VOLATILE_KEYS))


class Source:
    """A document to be parsed: a file, or a node of a ``CodeNodeParser`` that is divided further.

    The nodes of such a node have their lines and characters in the file, and scopes inside the scope of the node; of a
    node of a notebook they have its lines. The text of a notebook is that of its cells.
    """

    def __init__(self, document: BaseNode, *, default_language: str | None, include_metadata: bool) -> None:
        given = document.metadata
        self.document = document
        path = next((given[key] for key in _PATH_KEYS if given.get(key)), None)
        self.path = str(path or document.node_id)
        self.named_path = "" if path is None or _is_random(str(path)) else str(path)
        """The path, or "" if it is only the random id of a document without a path."""
        text = document.get_content(metadata_mode=MetadataMode.NONE)
        language = given.get("language")
        if not isinstance(language, str) or language not in LANGUAGES:
            language = language_of_text(self.path, text) or default_language or "text"
        self.language: str = language
        self.notebook = read_notebook(text) if language == "notebook" else None
        self.text = text if self.notebook is None else self.notebook.text
        self._cell_lines = None if isinstance(document, Document) else _cell_lines(given)
        self.header_id: str | None = None if isinstance(document, Document) else given.get(HEADER_ID)
        not_copied = (*_OF_ONE_NODE, NAMES) if _has_our_names(document) else _OF_ONE_NODE
        self._metadata = {key: value for key, value in given.items() if include_metadata and key not in not_copied}
        self._display = _display(document, self._metadata)
        self.adds_names = NAMES not in (*self._metadata, *document.excluded_embed_metadata_keys)
        self._origin = document.source_node or _reference(document)
        self._first_line, self._first_character, self._outer = _place(document)
        lasting = {key: value for key, value in self._metadata.items() if key not in _NOT_IN_IDS}
        self._identity = json.dumps([_chosen_id(document), self.path, lasting], sort_keys=True, default=str)

    @property
    def embeds_metadata(self) -> bool:
        """Whether metadata of the document is embedded with the code."""
        return self.embedded("x") != "x"

    def embedded(self, code: str, *, names: str = "") -> str:
        """Return the text that is embedded for a node with this code."""
        metadata = self._metadata | ({NAMES: names} if names else {})
        return TextNode(text=code, metadata=metadata, **self._display).get_content(MetadataMode.EMBED)

    def node(self, part: Part, item: Item, *, id_: str, is_start: bool) -> TextNode:
        """Return the node of a part; ``is_start`` tells that the item starts with it."""
        own = {
            "path": self.path,
            "language": self.language,
            **self._names(item),
            **self._lines(part),
            "docstring": item.docstring[:_MAX_DOCSTRING] if is_start else "",
        }
        has_place = self.notebook is None and self._cell_lines is None  # a notebook's cells are escaped in the file
        return TextNode(
            id_=id_,
            text=self.text[part.start : part.end],
            metadata={**self._metadata, **own},
            start_char_idx=self._first_character + part.start if has_place else None,
            end_char_idx=self._first_character + part.end if has_place else None,
            relationships={NodeRelationship.SOURCE: self._origin},
            **self._display,
        )

    def content(self, part: Part, *, is_whole: bool) -> bytes:
        """Return what tells a node from others; ``is_whole`` marks the node above the nodes of a definition.

        Its place is not part of it, so that an edit above a node does not give it another id.
        """
        return f"{self._identity}\0{is_whole}\0{self.text[part.start : part.end]}".encode(errors="surrogatepass")

    def _lines(self, part: Part) -> dict[str, int]:
        """Return the lines of a part in the file, and in the cells of a notebook."""
        if self.notebook is not None:
            return asdict(self.notebook.locate(part.first, part.last))
        if self._cell_lines is not None:
            return self._cell_lines
        return {"start_line": self._first_line + part.first, "end_line": self._first_line + part.last}

    def _names(self, item: Item) -> dict[str, str]:
        """Return symbol, scope and kind of an item."""
        names = {"symbol": item.symbol, "scope": item.scope, "kind": item.kind}
        if self._outer is None:
            return names
        if item.parent is None:
            return self._outer
        outermost = item
        while outermost.parent is not None and outermost.parent.parent is not None:
            outermost = outermost.parent
        inside = item.scope
        if outermost.symbol == self._outer["symbol"]:  # the definition that the node begins with
            if outermost is item:
                return self._outer
            inside = item.scope[len(outermost.scope) + 1 :]
        return names | {"scope": ".".join(filter(None, (self._outer["scope"], inside)))}


class NodeIds:
    """Makes ids of content: the same whenever a file is parsed again, and different for all nodes of one call."""

    def __init__(self) -> None:
        self._repeated: Counter[bytes] = Counter()

    def make(self, content: bytes) -> str:
        """Return the id of the next node with this content."""
        digest = hashlib.sha256(content).digest()
        number = self._repeated[digest]
        self._repeated[digest] += 1
        if number:
            digest = hashlib.sha256(digest + str(number).encode()).digest()
        return str(uuid.UUID(bytes=digest[:16], version=5))


def _display(document: BaseNode, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of nodes that say how metadata is shown: those of the document, with our keys excluded."""
    excluded = document.excluded_llm_metadata_keys
    aliases = [key for key in _PATH_KEYS[1:] if key in metadata]  # "path" says the same
    hidden = [key for key in _OWN_KEYS if key not in _LLM_KEYS] + aliases
    if NAMES not in metadata:
        hidden.append(NAMES)
    if next((key for key in _PATH_KEYS if metadata.get(key)), "path") in excluded:
        hidden.append("path")
    shown = {
        "excluded_embed_metadata_keys": _distinct(*document.excluded_embed_metadata_keys, *_OWN_KEYS, *aliases),
        "excluded_llm_metadata_keys": _distinct(*excluded, *hidden),
        "metadata_template": document.metadata_template,
        "metadata_separator": document.metadata_separator,
    }
    template = getattr(document, "text_template", None)
    return shown if template is None else shown | {"text_template": template}


def _has_our_names(document: BaseNode) -> bool:
    """Return whether the names of a document are those that a ``CodeNodeParser`` has made for a node."""
    return not isinstance(document, Document) and NAMES in document.excluded_llm_metadata_keys


def _distinct(*keys: str) -> list[str]:
    return list(dict.fromkeys(keys))


def _place(document: BaseNode) -> tuple[int, int, dict[str, str] | None]:
    """Return first line, first character and names of a node of a ``CodeNodeParser``; (1, 0, None) for a file."""
    names = {key: document.metadata.get(key) for key in ("symbol", "scope", "kind")}
    line, character = document.metadata.get("start_line"), getattr(document, "start_char_idx", None)
    if _cell_lines(document.metadata):
        character = 0
    if isinstance(document, Document) or not isinstance(line, int) or not isinstance(character, int):
        return 1, 0, None
    return line, character, {key: str(name or "") for key, name in names.items()}


def _cell_lines(metadata: dict[str, Any]) -> dict[str, int] | None:
    """Return the lines of a node of a notebook."""
    keys = [field.name for field in fields(CellLines)]
    return {key: metadata[key] for key in keys} if all(isinstance(metadata.get(key), int) for key in keys) else None


def _reference(document: BaseNode) -> RelatedNodeInfo:
    try:
        return document.as_related_node_info()
    except UnicodeEncodeError:  # LlamaIndex cannot hash the text of documents with lone surrogates
        return RelatedNodeInfo(node_id=document.node_id, node_type=document.get_type(), metadata=document.metadata)


def _chosen_id(document: BaseNode) -> str:
    """Return the id of a document, or "" for a random one."""
    return "" if _is_random(document.node_id) else document.node_id


def _is_random(node_id: str) -> bool:
    """Return whether an id is a random UUID, which LlamaIndex gives to a document without an id."""
    try:
        return uuid.UUID(node_id).version == 4
    except ValueError:
        return False
