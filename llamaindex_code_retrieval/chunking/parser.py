"""``CodeNodeParser``: split documents into nodes of functions, classes and sections, and of what is between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from llama_index.core.bridge.pydantic import Field, field_validator, model_validator
from llama_index.core.callbacks import CallbackManager
from llama_index.core.node_parser.interface import NodeParser
from llama_index.core.node_parser.node_utils import default_id_func
from llama_index.core.schema import BaseNode, Document, TextNode
from llama_index.core.utils import get_tqdm_iterable

from llamaindex_code_retrieval._settings import PlainErrors
from llamaindex_code_retrieval.chunking.names import Names
from llamaindex_code_retrieval.chunking.relations import Leaf, add_parents, link_neighbours, set_headers
from llamaindex_code_retrieval.chunking.source import NodeIds, Source
from llamaindex_code_retrieval.languages.bounds import Bounds, Measure, Part, Tokenizer
from llamaindex_code_retrieval.languages.outline import Item, Outline
from llamaindex_code_retrieval.languages.pages import page_outline
from llamaindex_code_retrieval.languages.spans import spans_of
from llamaindex_code_retrieval.languages.syntax import parse
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, known_language
from llamaindex_code_retrieval.languages.text import outline_text

_VERSION = 5
"""Saved with the settings: another version makes other nodes of the same file."""
_MAX_OVERLAP = 6  # lines of the default overlap
_LEAST_TOKENS = 16


class CodeNodeParser(PlainErrors, NodeParser):
    """Split documents into one node per function or method, and nodes for class headers and the code between.

    Text documents become nodes by headings and keys. Texts of an unknown kind, and code with syntax errors in more
    than half of its lines, become overlapping windows. A document without text, such as an image, has no nodes. A
    notebook is read as the sources of its code and Markdown cells: ``start_line`` and ``end_line`` point into the file,
    ``cell`` and ``cell_start_line`` to ``last_cell`` and ``cell_end_line`` into the cells, all from 1; its nodes have
    no character positions.

    **Size.** A node has at most ``max_lines`` lines and 100 characters for each of them, and at most ``max_tokens`` of
    what ``tokenizer`` returns for its embedded text. ``CodeIndex`` sets both to those of a ``CodeEmbedding``; elsewhere
    pass ``max_tokens=embedding.max_code_tokens, tokenizer=embedding.tokenize_code``, else an embedding model may read
    only the beginning of a node. What is larger is cut between statements into parts of similar size, with ``part`` and
    ``parts`` in their metadata, that overlap by up to ``overlap_lines``; a function of more than ``max_lines`` lines
    that contains functions is first divided like a class. Every line that is not blank is in at least one node, and a
    node is whole lines: ``start_line`` to ``end_line`` of ``text.split("\\n")``. Only a line that is too long for a
    node is cut inside, and of a line that would need more than 50 parts only the first 50 are kept.

    **Path and language.** The path is the document's metadata ``path``, ``file_path`` or ``file_name``, else its id.
    The language is its metadata ``language`` if that is a known one, else that of the path or of the ``#!`` line, else
    ``language``, else "text".

    **Metadata.** As in other node parsers, nodes have the metadata of their document, with its templates and excluded
    keys: unless it is excluded, it is embedded with the code and shown to an LLM. Of the keys that this parser adds, an
    LLM sees path, scope and lines, and only ``names`` is embedded: the words of the last two parts of the path and of
    the scope, at most a tenth of ``max_tokens``. It is left out if the document names it in
    ``excluded_embed_metadata_keys``, or has a key ``names`` of its own. ``file_path`` and ``file_name`` are shown as
    ``path`` only.

    **Ids** depend on path, place, text, metadata and a chosen document id, so that parsing an unchanged file again
    gives the same ids. A random document id, dates and the file size do not change them. Equal documents of one call
    get different ids.

    **Relations.** ``header_id`` in the metadata is the id of the node with which the definition around a node begins:
    the header of a method's class, or the first part of a function. ``max_parent_lines`` adds nodes with the whole text
    of divided classes, functions and sections, as parents of their nodes; keep all in the document store of an
    ``AutoMergingRetriever``, and embed only LlamaIndex's ``get_leaf_nodes``. The nodes of another ``CodeNodeParser``
    can be divided further, as in a ``HierarchicalNodeParser``; their nodes have their places and scopes in the file.

    >>> document = Document(text="import os\\n\\ndef cwd():\\n    return os.getcwd()\\n", metadata={"path": "a.py"})
    >>> [(n.metadata["kind"], n.metadata["scope"]) for n in CodeNodeParser().get_nodes_from_documents([document])]
    [('module', ''), ('function', 'cwd')]
    """

    max_lines: int = Field(frozen=True, strict=True, description="Lines of the longest node.")
    overlap_lines: int = Field(frozen=True, strict=True, description="Lines that a part repeats of the part before it.")
    max_tokens: int | None = Field(
        default=None, frozen=True, strict=True, description="Tokens of the longest node; None: not bounded."
    )
    tokenizer: Tokenizer | None = Field(
        default=None, frozen=True, exclude=True, description="Returns the tokens of a text."
    )
    language: str | None = Field(
        frozen=True, description="Language of documents whose metadata and path do not tell it."
    )
    max_parent_lines: int | None = Field(
        default=None, frozen=True, strict=True, description="Lines of the longest parent node; None: no parent nodes."
    )

    def __init__(
        self,
        *,
        max_lines: int = 60,
        overlap_lines: int | None = None,
        max_tokens: int | None = None,
        tokenizer: Tokenizer | None = None,
        language: str | None = None,
        max_parent_lines: int | None = None,
        include_metadata: bool = True,
        include_prev_next_rel: bool = True,
        id_func: Callable[[int, BaseNode], str] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Check the settings.

        Args:
            max_lines: lines of the longest node, at least 2.
            overlap_lines: lines that a part of a split node repeats of the part before it, under half of
                ``max_lines``; by default a quarter of ``max_lines``, at most 6. Fewer are repeated if they are more
                than a quarter of the largest node's tokens or characters.
            max_tokens: tokens of the longest node, at least 16.
            tokenizer: returns the tokens of a text; needed with ``max_tokens``, and not part of ``to_dict``.
            language: language of documents whose metadata and path do not tell it.
            max_parent_lines: add nodes with the whole text of divided definitions and sections, the outermost that have
                up to so many lines.
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
            "max_tokens": max_tokens,
            "tokenizer": tokenizer,
            "language": language,
            "max_parent_lines": max_parent_lines,
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

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Return the settings, without ``tokenizer``, and the version of the parser."""
        return super().to_dict(**kwargs) | {"version": _VERSION}

    @classmethod
    def from_dict(cls, data: dict[str, Any], **kwargs: Any) -> Self:
        """Make a parser of settings; with ``max_tokens`` pass ``tokenizer`` too. It is of this version."""
        return super().from_dict({name: value for name, value in data.items() if name != "version"}, **kwargs)

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
        if self.max_tokens is not None and self.max_tokens < _LEAST_TOKENS:
            raise ValueError(f"max_tokens must be at least {_LEAST_TOKENS}, got {self.max_tokens}")
        if self.max_tokens is not None and self.tokenizer is None:
            raise ValueError(
                f"max_tokens={self.max_tokens} needs the tokenizer that counts them; pass tokenizer=, "
                "for a CodeEmbedding its tokenize_code"
            )
        if self.tokenizer is not None and self.max_tokens is None:
            raise ValueError("tokenizer has no effect without max_tokens; pass max_tokens=, or leave it out")
        if self.max_parent_lines is not None and self.max_parent_lines <= self.max_lines:
            raise ValueError(
                f"max_parent_lines must be more than max_lines ({self.max_lines}), got {self.max_parent_lines}"
            )
        if self.language is not None:
            known_language(self.language)
        return self

    def with_token_bound(self, max_tokens: int, tokenizer: Tokenizer) -> Self:
        """Return a copy whose nodes have at most ``max_tokens`` tokens."""
        return self.model_copy(update={"max_tokens": max_tokens, "tokenizer": tokenizer})

    def _parse_nodes(self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> list[BaseNode]:
        ids = NodeIds()
        return [
            node
            for document in get_tqdm_iterable(nodes, show_progress, "Parsing nodes")
            for node in self._nodes_of(document, ids)
        ]

    def _postprocess_parsed_nodes(self, nodes: list[BaseNode], parent_doc_map: dict[str, Document]) -> list[BaseNode]:
        # The base class would search the document for the text of each node, which may stand elsewhere as well, and
        # link parents to leaves. Nodes are complete.
        return nodes

    def _nodes_of(self, document: BaseNode, ids: NodeIds) -> list[TextNode]:
        """Return the parents among the nodes of a document and then the others, each in the order of their places."""
        source = Source(document, default_language=self.language, include_metadata=self.include_metadata)
        names = Names(source, self.max_tokens, self.tokenizer)
        measure = self._measure(source, max_tokens=names.max_code_tokens)
        outline = _outline(source)
        numbers = iter(range(len(measure.text) + 1))

        def new_id(part: Part, *, is_whole: bool = False) -> str:
            if self.id_func is default_id_func:
                return ids.make(source.content(part, is_whole=is_whole))
            new: str = self.id_func(next(numbers), document)
            return new

        def whole_node(item: Item) -> TextNode:
            part = measure.whole(*(measure.without_blank_ends(item.first, item.last) or (item.first, item.last)))
            return source.node(part, item, id_=new_id(part, is_whole=True), is_start=True)

        leaves: list[Leaf] = []
        known: set[Part] = set()  # two functions may share a line
        for span in spans_of(outline, measure):
            parts = [part for part in measure.parts(span.first, span.last, outline.depths) if part not in known]
            known.update(parts)
            for number, part in enumerate(parts, start=1):
                node = source.node(part, span.item, id_=new_id(part), is_start=span.is_start)
                names.add_to(node, part, measure)
                if len(parts) > 1:
                    node.metadata |= {"part": number, "parts": len(parts)}
                leaves.append(Leaf(node, span.item, span.is_start))
        set_headers(leaves, outer=source.header_id)
        if self.include_prev_next_rel:
            link_neighbours(leaves)
        nodes = [leaf.node for leaf in leaves]
        if self.max_parent_lines is None:
            return nodes
        return [*add_parents(outline.top, leaves, max_lines=self.max_parent_lines, whole_node=whole_node), *nodes]

    def _measure(self, source: Source, *, max_tokens: int | None) -> Measure:
        bounds = Bounds(self.max_lines, self.overlap_lines, max_tokens, self.tokenizer)
        if not source.embeds_metadata:
            return Measure(source.text, bounds)
        measure = Measure(source.text, bounds, embedded=source.embedded)
        if self.max_tokens is not None and measure.tokens_without_code > self.max_tokens // 2:
            raise ValueError(
                f"the metadata of document {source.document.node_id!r} that is embedded with the code is over half of "
                f"max_tokens={self.max_tokens}; name some of its keys in excluded_embed_metadata_keys"
            )
        return measure


def _outline(source: Source) -> Outline:
    """Return the outline of a source; code that cannot be parsed is one item of kind "window"."""
    if source.notebook is not None:
        return source.notebook.outline
    if source.language not in CODE_LANGUAGES:
        return outline_text(source.text, source.language)
    parsed = parse(source.text, source.language)
    if parsed is None:
        return outline_text(source.text, "text")
    return page_outline(parsed) if source.language == "html" else parsed
