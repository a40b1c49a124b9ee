"""Parse source code with tree-sitter: the functions, methods and classes of a file, and where they are."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property

import tree_sitter

from llamaindex_code_retrieval.languages.table import GRAMMARS, LANGUAGES, known_language

_MAX_DEPTH = 50  # definitions nested deeper are not extracted: bounds the recursion and the length of a scope
_DIRECTIVE = re.compile(r"(?://|/\*|#)\s*(?:go:|nolint|eslint|prettier-|@ts-|rubocop:|clang-format|NOLINT|istanbul |!)")
_RULE = re.compile(r"[-=*#/~_+.]{3,}$")
_XML_REFERENCE = re.compile(r"""<\w+\s+(?:cref|name|langword)=["']([^"']*)["']\s*/>""")
_XML_TAG = re.compile(r"</?\w+(?:\s[^<>]*)?/?>")
# a macro before the name, as in `class API Name : Base {`: the C++ grammar parses it as the name
_CPP_MACRO = re.compile(rb"\b((?:class|struct)\s+)([A-Z][A-Z0-9_]+)(?=\s+\w+\s*(?:final\s*)?[:{<])")
_UNESCAPED = {"\n": "", "n": "\n", "t": "\t"}
_PYTHON_ESCAPE = re.compile(r"""\\([\n\\'"nt])""")
_JS_OBJECTS = frozenset({"module", "exports", "this", "self", "window", "globalThis", "global", "prototype"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A function, method or class. Lines count from 1, both ends included; the doc comment is part of it.

    ``scope`` is the qualified name: ``Outer.Inner.method``. C++, C# and PHP namespaces are not part of it.
    ``code_without_docstring`` has ``pass`` for a Python docstring that is the whole body.
    """

    kind: str  # "function", "method" or "class"
    symbol: str
    scope: str
    start_line: int
    end_line: int
    docstring: str
    code_without_docstring: str


def definitions(source: str, language: str) -> list[Definition]:
    """Return the definitions of ``source`` in the order of the file, each before those nested in it.

    The list is empty if the source cannot be parsed.

    >>> [(d.scope, d.docstring) for d in definitions("class A:\\n    def f(self):\\n        'Do it.'", "python")]
    [('A', ''), ('A.f', 'Do it.')]
    """
    parsed = parse(source, known_language(language))
    return [] if parsed is None else [_definition(item, parsed) for item in _descendants(parsed.top)]


@dataclass(slots=True, eq=False)
class Item:
    """A node in the tree of definitions, with its rows (from 0, both ends included); the root is the whole file."""

    kind: str
    symbol: str
    scope: str
    row: int  # where the code starts: below the doc comment
    first: int
    last: int
    end_byte: float
    node: tree_sitter.Node
    parent: Item | None
    docstring: str = ""
    doc_rows: list[tuple[int, int]] = field(default_factory=list)  # of doc comments
    doc_node: tree_sitter.Node | None = None  # the statement that is a Python docstring
    children: list[Item] = field(default_factory=list)


@dataclass
class Parsed:
    """A parsed source: its lines, its syntax tree and its tree of definitions."""

    lines: list[str]
    root: tree_sitter.Node
    top: Item

    @cached_property
    def depths(self) -> dict[int, int]:
        """The depth in the syntax tree of the outermost node that starts in each row."""
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
    grammar = GRAMMARS[name]
    language = tree_sitter.Language(getattr(importlib.import_module(grammar.module), grammar.function)())
    return language, tree_sitter.Query(language, grammar.query)


@cache
def _error_query(name: str) -> tree_sitter.Query:
    return tree_sitter.Query(_grammar(name)[0], "(ERROR) @error")


def parse(source: str, language: str) -> Parsed | None:
    """Parse with the grammar that leaves the fewest lines in error; return ``None`` if that is over half of them.

    A line is in error if the innermost definition or ERROR node around it is an ERROR node.
    """
    lines = source.split("\n")
    raw = source.encode(errors="replace")  # a lone surrogate becomes "?": positions stay the same
    solid = {row for row, line in enumerate(lines) if line.strip()}
    best: Parsed | None = None
    fewest = len(solid) / 2
    for name in LANGUAGES[language].grammars:
        if name == "cpp":
            raw = _CPP_MACRO.sub(lambda match: match[1] + b" " * len(match[2]), raw)
        root = tree_sitter.Parser(_grammar(name)[0]).parse(raw).root_node
        parsed = Parsed(lines, root, _outline(name, root, lines, raw))
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


def _outline(grammar: str, root: tree_sitter.Node, lines: Sequence[str], raw: bytes) -> Item:
    """Return the root of the tree of definitions."""
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

    top = Item("module", "", "", -1, 0, len(lines) - 1, float("inf"), root, None)
    stack = [top]  # includes scopes, which are not in the tree
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
        item = Item(kind, names[-1], scope, row, max(first, parent.first), last, node.end_byte, node, parent)
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
    """Return the parts of the qualified name, its own name last; empty if the node is not a definition."""
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
    """Return the parts of the name in a C or C++ declarator; empty if it does not declare a function."""
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
    """Return the statement that is the docstring, and its text without indentation."""
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
    """Return the text of comments without their markers and ruler lines.

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


def _definition(item: Item, parsed: Parsed) -> Definition:
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


_WRAPPERS = ("{}", "class X {{\n{}\n}}", "<?php\n{}", "<?php\nclass X {{\n{}\n}}")  # a method alone is not a valid file


def without_signature_and_returns(source: str, language: str) -> str:
    """Return the body of the first function of ``source``, dedented and without return statements.

    The result is empty if there is no function, it cannot be parsed, or nothing is left of its body.

    >>> without_signature_and_returns("def f(x):\\n    y = x + 1\\n    return y", "python")
    'y = x + 1'
    """
    known_language(language)
    is_php = language == "php" and "<?" not in source
    best: tuple[tree_sitter.Node, bytes] | None = None
    for wrapper in _WRAPPERS[2:] if is_php else _WRAPPERS[:2]:
        if language in ("python", "ruby", "go", "c", "rust") and wrapper != "{}":
            continue
        wrapped = wrapper.format(source)
        parsed = parse(wrapped, language)
        functions = [] if parsed is None else [item for item in _descendants(parsed.top) if item.kind != "class"]
        body = _body(functions[0].node) if functions else None
        if parsed is None or body is None:
            continue
        if best is None or not parsed.root.has_error:
            best = body, wrapped.encode(errors="replace")
        if not parsed.root.has_error:
            break
    return "" if best is None else _without_returns(*best)


def _body(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Return the block that is the body of the function in ``node``, searching level by level."""
    level = [node]
    while level:
        for each in level:
            body = each.child_by_field_name("body")
            if body is not None:
                is_block = body.type in ("block", "body_statement") or _text(body).startswith("{")
                return body if is_block else None
        level = [child for each in level for child in each.named_children]
    return None


def _without_returns(body: tree_sitter.Node, raw: bytes) -> str:
    start, end = body.start_byte, body.end_byte
    if raw[start : start + 1] == b"{":
        start, end = start + 1, end - 1
    cuts: list[tuple[int, int]] = []
    stack = [body]
    while stack:
        node = stack.pop()
        if node.is_named and node.type in ("return_statement", "return_expression", "return"):
            whole = node.parent if node.parent is not None and node.parent.type == "expression_statement" else node
            cuts.append((whole.start_byte, whole.end_byte))
        else:
            stack.extend(node.children)
    text = b" " * body.start_point.column if raw[start : start + 1] not in (b"\n", b"\r") else b""
    for first, last in sorted(cuts):
        text += raw[start:first] + b"\0"  # marks the lines from which something was removed
        start = last
    lines = (text + raw[start:end]).decode(errors="replace").split("\n")
    kept = [line.replace("\0", "").rstrip() for line in lines if "\0" not in line or line.strip("\0 \t\r;")]
    code = inspect.cleandoc("\n" + "\n".join(kept)).strip()
    return code if re.search(r"\w", code) else ""


def _without_statement(item: Item, statement: tree_sitter.Node, parsed: Parsed) -> list[str]:
    """Return the lines of a Python definition without its docstring, with ``pass`` if it is the whole body."""
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


def _descendants(item: Item) -> Iterator[Item]:
    for child in item.children:
        yield child
        yield from _descendants(child)
