"""``CodeNodeParser``: source files to one node per function, with tree-sitter; and ``definitions`` behind it."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Self

import tree_sitter
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

_MAX_DEPTH = 50  # definitions nested deeper than this stay inside; bounds the recursion and the length of a scope
_MAX_DOCSTRING = 2000  # characters kept in the metadata
_LLM_KEYS = frozenset({"path", "scope", "start_line", "end_line"})

# A line that says nothing alone: closing tokens with perhaps a call or a comment behind, a label, a preprocessor end.
_GLUE = re.compile(
    r"""(?: [^\w'"`#@$<\\/*]+ (?: \([\w$.,\s()]*\)+;? | while\s*\(.*\); )? \s* (?: //.* | /\*.*\*/ )? )?
      | (?: end | else | begin | private | protected | public ) \s* :? \s* (?: \#.* )?
      | \# \s* (?: endif | else ) \b .*""",
    re.VERBOSE,
)
_DIRECTIVE = re.compile(r"(?://|/\*|#)\s*(?:go:|nolint|eslint|prettier-|@ts-|rubocop:|clang-format|NOLINT|istanbul |!)")
_RULE = re.compile(r"[-=*#/~_+.]{3,}$")
_XML_REFERENCE = re.compile(r"""<\w+\s+(?:cref|name|langword)=["']([^"']*)["']\s*/>""")
_XML_TAG = re.compile(r"</?\w+(?:\s[^<>]*)?/?>")
# the API of `class API Name : Base {`: a macro that the C++ grammar takes for the name
_CPP_MACRO = re.compile(rb"\b((?:class|struct)\s+)([A-Z][A-Z0-9_]+)(?=\s+\w+\s*(?:final\s*)?[:{<])")
_UNESCAPED = {"\n": "", "n": "\n", "t": "\t"}
_PYTHON_ESCAPE = re.compile(r"""\\([\n\\'"nt])""")
_JS_OBJECTS = frozenset({"module", "exports", "this", "self", "window", "globalThis", "global", "prototype"})


@dataclass(frozen=True, slots=True)
class _Grammar:
    """A wheel's grammar and the query that finds what counts in it.

    Captures: ``@function`` (a method when directly in a class), ``@method``, ``@class``, ``@scope`` (adds its name to
    scopes, nothing else) with their ``@name`` and perhaps ``@owner`` or, in C, ``@declarator``; ``@comment`` and
    ``@attribute`` (they belong to the definition below them); ``@outer`` starts where its ``@inner`` starts.
    A function without a body is no definition: it stays with the code around it.
    """

    module: str
    function: str
    query: str


def _named(kind: str, types: str) -> str:
    return "".join(f"({type_} name: (_) @name) @{kind}\n" for type_ in types.split())


_C_QUERY = """
(function_definition declarator: (_) @declarator body: (_)) @function
([(struct_specifier name: (_) @name body: (_)) (union_specifier name: (_) @name body: (_))
  (enum_specifier name: (_) @name body: (_))]) @class
(type_definition type: [(struct_specifier !name body: (_)) (union_specifier !name body: (_))
  (enum_specifier !name body: (_))] declarator: (type_identifier) @name) @class
(comment) @comment
"""
_CPP_QUERY = """
(class_specifier name: (_) @name body: (_)) @class
(template_declaration (_) @inner) @outer
"""
_JS_QUERY = (
    _named("function", "function_declaration generator_function_declaration")
    + """
(class_declaration name: (_) @name) @class
(method_definition name: (_) @name) @method
(variable_declarator name: (identifier) @name
  value: [(arrow_function) (function_expression) (generator_function)]) @function
(variable_declarator name: (identifier) @name value: (class)) @class
(assignment_expression left: [(identifier) (member_expression)] @name
  right: [(arrow_function) (function_expression) (generator_function)]) @function
(assignment_expression left: [(identifier) (member_expression)] @name right: (class)) @class
(pair key: (_) @name value: [(arrow_function) (function_expression) (generator_function)]) @method
(export_statement "default" @name value: [(arrow_function) (function_expression)]) @function
(export_statement "default" @name value: (class)) @class
(comment) @comment
(decorator) @attribute
"""
)
_TS_QUERY = (
    _JS_QUERY
    + _named("class", "abstract_class_declaration interface_declaration enum_declaration type_alias_declaration")
    + _named("scope", "internal_module module")
    + "(public_field_definition name: (_) @name value: [(arrow_function) (function_expression)]) @method"
)
_PYTHON_QUERY = """
(function_definition name: (_) @name) @function
(class_definition name: (_) @name) @class
(decorated_definition definition: (_) @inner) @outer
(comment) @comment
"""
_JAVA_QUERY = (
    _named("class", "class_declaration interface_declaration enum_declaration record_declaration")
    + _named("class", "annotation_type_declaration")
    + _named("method", "constructor_declaration compact_constructor_declaration")
    + "(method_declaration name: (_) @name body: (_)) @method [(line_comment) (block_comment)] @comment"
)
_GO_QUERY = """
(function_declaration name: (_) @name body: (_)) @function
(method_declaration receiver: (parameter_list (parameter_declaration type: (_) @owner))
  name: (_) @name body: (_)) @method
(type_spec name: (_) @name) @class
(type_alias name: (_) @name) @class
(var_spec name: (_) @name value: (expression_list . (func_literal) .)) @function
(comment) @comment
"""
_PHP_QUERY = (
    _named("class", "class_declaration interface_declaration trait_declaration enum_declaration")
    + _named("function", "function_definition")
    + "(method_declaration name: (_) @name body: (_)) @method (comment) @comment"
)
_RUBY_QUERY = _named("function", "method singleton_method") + _named("class", "class module") + "(comment) @comment"
_RUST_QUERY = (
    _named("class", "trait_item struct_item enum_item union_item")
    + """
(function_item name: (_) @name) @function
(impl_item type: (_) @owner) @class
(mod_item name: (_) @name body: (_)) @scope
[(line_comment) (block_comment)] @comment
(attribute_item) @attribute
"""
)
_CSHARP_QUERY = (
    _named("class", "class_declaration struct_declaration record_declaration interface_declaration enum_declaration")
    + _named("method", "constructor_declaration")
    + _named("function", "local_function_statement")
    + """
(method_declaration name: (_) @name body: (_)) @method
(destructor_declaration "~" @owner name: (_) @name) @method
(operator_declaration operator: _ @name) @method
(comment) @comment
"""
)
_GRAMMARS: Mapping[str, _Grammar] = {
    "python": _Grammar("tree_sitter_python", "language", _PYTHON_QUERY),
    "java": _Grammar("tree_sitter_java", "language", _JAVA_QUERY),
    "javascript": _Grammar(
        "tree_sitter_javascript",
        "language",
        _JS_QUERY + "(field_definition property: (_) @name value: [(arrow_function) (function_expression)]) @method",
    ),
    "typescript": _Grammar("tree_sitter_typescript", "language_typescript", _TS_QUERY),
    "tsx": _Grammar("tree_sitter_typescript", "language_tsx", _TS_QUERY),
    "go": _Grammar("tree_sitter_go", "language", _GO_QUERY),
    "php": _Grammar("tree_sitter_php", "language_php", _PHP_QUERY),
    "ruby": _Grammar("tree_sitter_ruby", "language", _RUBY_QUERY),
    "rust": _Grammar("tree_sitter_rust", "language", _RUST_QUERY),
    "c": _Grammar("tree_sitter_c", "language", _C_QUERY),
    "cpp": _Grammar("tree_sitter_cpp", "language", _C_QUERY + _CPP_QUERY),
    "csharp": _Grammar("tree_sitter_c_sharp", "language", _CSHARP_QUERY),
}


@dataclass(frozen=True, slots=True)
class Language:
    """A language by its file extensions, and the grammars to try: the first one that reads a file best is used."""

    extensions: tuple[str, ...]
    grammars: tuple[str, ...]


LANGUAGES: Mapping[str, Language] = MappingProxyType(
    {
        "python": Language(("py", "pyi", "pyw"), ("python",)),
        "java": Language(("java",), ("java",)),
        "javascript": Language(("js", "mjs", "cjs", "jsx"), ("javascript",)),
        "typescript": Language(("ts", "mts", "cts", "tsx"), ("typescript", "tsx")),
        "go": Language(("go",), ("go",)),
        "php": Language(("php", "phtml"), ("php",)),
        "ruby": Language(("rb", "rake", "gemspec"), ("ruby",)),
        "rust": Language(("rs",), ("rust",)),
        "c": Language(("c", "h"), ("c", "cpp")),  # a .h may be C++
        "cpp": Language(("cc", "cpp", "cxx", "c++", "hpp", "hh", "hxx", "h++", "ipp", "inl", "tpp"), ("cpp",)),
        "csharp": Language(("cs", "csx"), ("csharp",)),
    }
)
_BY_EXTENSION = {extension: name for name, language in LANGUAGES.items() for extension in language.extensions}


def language_of(path: str | PurePath) -> str | None:
    """Return the language of a file by its extension, ``None`` if it is not one of ``LANGUAGES``.

    >>> language_of("src/Main.java"), language_of("include/list.h"), language_of("README.md")
    ('java', 'c', None)
    """
    return _BY_EXTENSION.get(PurePath(path).suffix[1:].lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A function, method or class of a source. Lines count from 1, both ends included, doc comment and all.

    ``scope`` is the qualified name: ``Outer.Inner.method``. C++, C# and PHP namespaces are not part of it.
    ``code_without_docstring`` says ``pass`` where a Python docstring was the whole body.
    """

    kind: str  # "function", "method" or "class"
    symbol: str
    scope: str
    start_line: int
    end_line: int
    docstring: str
    code_without_docstring: str


def definitions(source: str, language: str) -> list[Definition]:
    """Return the definitions of ``source`` in its order, nested ones after the one around them.

    A source that cannot be parsed has none.

    >>> [(d.scope, d.docstring) for d in definitions("class A:\\n    def f(self):\\n        'Do it.'", "python")]
    [('A', ''), ('A.f', 'Do it.')]
    """
    parsed = _parse(source, _known(language))
    return [] if parsed is None else [_definition(item, parsed) for item in _descendants(parsed.top)]


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
            _known(self.language)
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
        parsed = None if language is None else _parse(text, language)
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

    def _pieces(self, parsed: _Parsed) -> list[_Piece]:
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

    def _open(self, item: _Item) -> Iterator[_Piece]:
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

    def _split(self, piece: _Piece, parsed: _Parsed) -> list[tuple[int, int]]:
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


@dataclass(slots=True, eq=False)
class _Item:
    """A definition as rows (from 0, both ends included); the top of the tree is the whole file."""

    kind: str
    symbol: str
    scope: str
    row: int  # where the code starts: below the doc comment
    first: int
    last: int
    end_byte: float
    node: tree_sitter.Node
    parent: _Item | None
    docstring: str = ""
    doc_rows: list[tuple[int, int]] = field(default_factory=list)  # of doc comments
    doc_node: tree_sitter.Node | None = None  # the statement that is a Python docstring
    children: list[_Item] = field(default_factory=list)


@dataclass(slots=True)
class _Piece:
    """Rows that become one node, or several if they are too many; ``is_head``: they start the definition."""

    first: int
    last: int
    item: _Item | None
    kind: str
    is_head: bool


@dataclass
class _Parsed:
    lines: list[str]
    root: tree_sitter.Node
    top: _Item

    @cached_property
    def depths(self) -> dict[int, int]:
        """Row -> depth of the shallowest node that starts in it."""
        depths: dict[int, int] = {}
        stack = [(self.root, 0)]
        while stack:
            node, depth = stack.pop()
            for child in node.children:
                row = child.start_point.row
                if child.is_named and depth < depths.get(row, depth + 1):
                    depths[row] = depth
                if child.end_point.row > row:
                    stack.append((child, depth + 1))
        return depths


@cache
def _grammar(name: str) -> tuple[tree_sitter.Language, tree_sitter.Query]:
    grammar = _GRAMMARS[name]
    language = tree_sitter.Language(getattr(importlib.import_module(grammar.module), grammar.function)())
    return language, tree_sitter.Query(language, grammar.query)


@cache
def _error_query(name: str) -> tree_sitter.Query:
    return tree_sitter.Query(_grammar(name)[0], "(ERROR) @error")


def _known(language: str) -> str:
    if language not in LANGUAGES:
        raise ValueError(f"unknown language {language!r}; known are {', '.join(LANGUAGES)}")
    return language


def _parse(source: str, language: str) -> _Parsed | None:
    """Parse with the grammar that leaves the fewest lines in error; ``None`` if that is more than half of them.

    A line is in error when the innermost of the definitions and ERROR nodes around it is an ERROR node.
    """
    lines = source.split("\n")
    raw = source.encode(errors="replace")  # a lone surrogate becomes "?": rows and characters stay what they were
    solid = {row for row, line in enumerate(lines) if line.strip()}
    best: _Parsed | None = None
    fewest = len(solid) / 2
    for name in LANGUAGES[language].grammars:
        if name == "cpp":
            raw = _CPP_MACRO.sub(lambda match: match[1] + b" " * len(match[2]), raw)
        root = tree_sitter.Parser(_grammar(name)[0]).parse(raw).root_node
        parsed = _Parsed(lines, root, _outline(name, root, lines, raw))
        if not root.has_error:
            return parsed
        errors = tree_sitter.QueryCursor(_error_query(name)).captures(root).get("error", [])
        spans = [(error, _rows(error), True) for error in errors]
        spans += [(item.node, range(item.first, item.last + 1), False) for item in _descendants(parsed.top)]
        bad: set[int] = set()
        for _, rows, is_error in sorted(spans, key=lambda span: (span[0].start_byte, -span[0].end_byte)):
            (bad.update if is_error else bad.difference_update)(rows)
        wrong = len(bad & solid)
        if wrong < fewest or (best is None and wrong == fewest):
            best, fewest = parsed, wrong
    return best


def _rows(node: tree_sitter.Node) -> range:
    """Return the rows of a node; a line break at its end does not add one."""
    first, (last, column) = node.start_point.row, node.end_point
    return range(first, max(first, last - (column == 0)) + 1)


def _outline(grammar: str, root: tree_sitter.Node, lines: Sequence[str], raw: bytes) -> _Item:
    """Return the tree of definitions, whatever lies between them left out."""
    found: dict[int, tuple[str, dict[str, list[tree_sitter.Node]], tree_sitter.Node]] = {}
    outer: dict[int, tree_sitter.Node] = {}
    above: dict[int, tuple[int, tree_sitter.Node | None]] = {}  # last row -> first row, comment
    raw_lines = raw.split(b"\n")
    for _, captures in tree_sitter.QueryCursor(_grammar(grammar)[1]).matches(root):
        for kind in ("function", "method", "class", "scope"):
            if kind in captures:
                found[captures[kind][0].id] = kind, captures, captures[kind][0]
        for kind in ("comment", "attribute"):
            for node in captures.get(kind, ()):
                rows = _rows(node)
                behind = raw_lines[node.end_point.row][node.end_point.column :] if node.end_point.column else b""
                if not raw_lines[rows[0]][: node.start_point.column].strip() and not behind.strip():
                    above[rows[-1]] = rows[0], node if kind == "comment" else None
        if "outer" in captures:
            outer[captures["inner"][0].id] = captures["outer"][0]

    top = _Item("module", "", "", -1, 0, len(lines) - 1, float("inf"), root, None)
    stack = [top]  # with the scopes, which are in nobody's children
    for kind, captures, node in sorted(found.values(), key=lambda each: (each[2].start_byte, -each[2].end_byte)):
        names = _names(captures)
        while stack[-1].end_byte <= node.start_byte:
            stack.pop()
        if not names or len(stack) > _MAX_DEPTH:
            continue
        parent = next(item for item in reversed(stack) if item.kind != "scope")
        if kind == "function" and (parent.kind == "class" or len(names) > 1):
            kind = "method"
        start = node
        while start.id in outer:
            start = outer[start.id]
        row = first = start.start_point.row
        floor = max(parent.row, parent.children[-1].last if parent.children else -1)
        comments: list[tree_sitter.Node] = []
        while first - 1 in above and above[first - 1][0] > floor:
            first, comment = above[first - 1]
            if comment is not None:
                comments.append(comment)
        last = min(_rows(node)[-1], parent.last)
        scope = ".".join([*([stack[-1].scope] if stack[-1].scope else []), *names])
        item = _Item(kind, names[-1], scope, row, max(first, parent.first), last, node.end_byte, node, parent)
        if grammar == "python":
            item.doc_node, item.docstring = _python_docstring(node, raw)
        else:
            item.docstring = _comment_text([_text(comment) for comment in reversed(comments)], xml=grammar == "csharp")
            item.doc_rows = [(rows[0], rows[-1]) for rows in map(_rows, comments)]
        if kind != "scope":
            parent.children.append(item)
        stack.append(item)
    return top


def _names(captures: Mapping[str, list[tree_sitter.Node]]) -> list[str]:
    """Return the parts of a definition's name, its own name last; none if it turns out to be no definition."""
    if "declarator" in captures:
        return _declared(captures["declarator"][0])
    owner = [_text(node) for node in captures.get("owner", ())]
    if "name" not in captures:  # a Rust impl
        return [_type_name(owner[0])]
    node = captures["name"][0]
    text = " ".join(_text(node).split())
    if owner == ["~"]:
        return ["~" + text]
    if owner:  # the receiver of a Go method
        return [_type_name(owner[0]), text]
    match node.type:
        case "string":
            return [text[1:-1] or text]
        case "member_expression" if re.fullmatch(r"[\w$#. ]+", text) is None:  # getObject().name = function () {}
            property_ = node.child_by_field_name("property")
            return [_text(property_)] if property_ else []
        case "member_expression":
            parts = [part for part in text.split(".") if part not in _JS_OBJECTS]
            return parts or [text]
        case "scope_resolution" | "nested_identifier":
            return [part for part in re.split(r"::|\.", text) if part]
        case "template_type":
            return [text.partition("<")[0].strip()]
        case type_ if not type_[0].isalpha() or type_ in ("true", "false"):  # an operator of C#
            return ["operator " + text]
    return [text] if text else []


def _declared(node: tree_sitter.Node) -> list[str]:
    """Return the parts of the name in a C or C++ declarator, none if it does not declare a function."""
    is_function = False
    while node.type.endswith("_declarator"):
        is_function = is_function or node.type == "function_declarator"
        inner = node.child_by_field_name("declarator") or next(
            (child for child in node.named_children if child.type.endswith(("declarator", "identifier"))), None
        )
        if inner is None:
            return []
        node = inner
    parts: list[str] = []
    while node.type == "qualified_identifier":
        scope, name = node.child_by_field_name("scope"), node.child_by_field_name("name")
        if scope is not None:
            parts.append(_text(scope).partition("<")[0].strip())
        if name is None:
            return []
        node = name
    text = " ".join(_text(node).split())
    if node.type == "operator_cast":
        return [*parts, text.partition("(")[0].strip()]
    if node.type == "template_function":
        text = text.partition("<")[0].strip()
    return [*parts, text] if is_function and text else []


def _type_name(text: str) -> str:
    """Return the name in a type without its path, arguments and reference signs.

    >>> _type_name("*Stack[T]"), _type_name("&'a mut fmt::Wrapper<Vec<T>>"), _type_name("[T]")
    ('Stack', 'Wrapper', '[T]')
    """
    words = re.findall(r"\w+", re.sub(r"[<\[].*", "", text, flags=re.DOTALL))
    return words[-1] if words else " ".join(text.split())


def _text(node: tree_sitter.Node) -> str:
    return (node.text or b"").decode(errors="replace")


def _python_docstring(node: tree_sitter.Node, raw: bytes) -> tuple[tree_sitter.Node | None, str]:
    """Return the statement that is the docstring and its clean text."""
    body = node.child_by_field_name("body")
    statement = next((each for each in body.named_children if each.type != "comment"), None) if body else None
    if statement is None or statement.type != "expression_statement" or statement.child_count != 1:
        return None, ""
    literal = statement.children[0]
    if literal.type not in ("string", "concatenated_string"):
        return None, ""
    text = ""
    for string in [literal] if literal.type == "string" else literal.named_children:
        if string.type != "string":  # a comment among concatenated ones
            continue
        start, end = string.children[0], string.children[-1]
        prefix = _text(start).lower()
        if "f" in prefix or "b" in prefix or "t" in prefix:
            return None, ""
        content = raw[start.end_byte : end.start_byte].decode(errors="replace")
        if "r" not in prefix:
            content = _PYTHON_ESCAPE.sub(lambda match: _UNESCAPED.get(match[1], match[1]), content)
        text += content
    return statement, inspect.cleandoc(text.replace("\r\n", "\n"))


def _comment_text(comments: Sequence[str], *, xml: bool) -> str:
    """Return what comments say, without their markers and rulers.

    >>> _comment_text(["/**", " * Adds.", " *   Fast.", " */"], xml=False)
    'Adds.\\n  Fast.'
    """
    lines: list[str] = []
    for comment in comments:
        if _DIRECTIVE.match(comment):
            continue
        for line in re.split(r"\r?\n", comment.rstrip()):
            line = line.strip()
            if line in ("=begin", "=end"):  # Ruby
                continue
            line = re.sub(r"^(?:/\*+!?|///?!?|#+|\*+(?!/))|\*+/$", "", line)
            line = re.sub(r"\*+/$", "", line)  # both marks on one line
            if xml:
                line = _XML_TAG.sub("", _XML_REFERENCE.sub(r"\1", line))
            lines.append("" if _RULE.match(line.strip()) else line.rstrip())
    return inspect.cleandoc("\n" + "\n".join(lines)).strip()


def _definition(item: _Item, parsed: _Parsed) -> Definition:
    lines = parsed.lines[item.first : item.last + 1]
    if item.doc_node is not None:
        lines = _without_statement(item, item.doc_node, parsed)
    elif item.docstring:
        gone = {row for first, last in item.doc_rows for row in range(first, last + 1)}
        lines = [line for row, line in enumerate(lines, start=item.first) if row not in gone]
    return Definition(
        kind=item.kind,
        symbol=item.symbol,
        scope=item.scope,
        start_line=item.first + 1,
        end_line=item.last + 1,
        docstring=item.docstring,
        code_without_docstring="\n".join(lines),
    )


def _without_statement(item: _Item, statement: tree_sitter.Node, parsed: _Parsed) -> list[str]:
    """Return the lines of a Python definition without its docstring, or with ``pass`` for it if it is the body."""
    first, last = statement.start_point.row, statement.end_point.row
    ahead, behind = (  # columns count bytes
        len(parsed.lines[row].encode(errors="replace")[:column].decode())
        for row, column in (statement.start_point, statement.end_point)
    )
    before, after = parsed.lines[first][:ahead], parsed.lines[last][behind:]
    body = statement.parent
    if body is not None and body.named_child_count == 1:
        middle = [f"{before}pass{after}"]
    else:
        rest = before + after.lstrip(" \t;")
        middle = [rest] if rest.strip() else []
    return [*parsed.lines[item.first : first], *middle, *parsed.lines[last + 1 : item.last + 1]]


def _descendants(item: _Item) -> Iterator[_Item]:
    for child in item.children:
        yield child
        yield from _descendants(child)


def _has_function(item: _Item) -> bool:
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
