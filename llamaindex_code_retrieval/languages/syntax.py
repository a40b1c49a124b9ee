"""Parse source code with tree-sitter: the functions, methods and classes of a file, and where they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import tree_sitter

from llamaindex_code_retrieval.languages.blocks import without_broken_blocks
from llamaindex_code_retrieval.languages.conditionals import resolve_directives
from llamaindex_code_retrieval.languages.grammars import without_macros
from llamaindex_code_retrieval.languages.markup import markup_depths, only_scripts
from llamaindex_code_retrieval.languages.outline import Item, Outline, descendants
from llamaindex_code_retrieval.languages.parser import BoundedParser
from llamaindex_code_retrieval.languages.patterns import outline_by_patterns
from llamaindex_code_retrieval.languages.repair import close_brackets
from llamaindex_code_retrieval.languages.table import GRAMMARS, LANGUAGES, known_language
from llamaindex_code_retrieval.languages.tree import SyntaxItem, TreeBuilder, rows_of

_FEW_ERRORS = 20  # no other grammar is tried if fewer than one in so many lines is in error
_MAX_BLANKED = 4  # attempts to parse a file without the lines of its first error
_MAX_LINE = 5_000
"""Characters of a line: a source with a longer one is not repaired. It has no layout, and takes long to parse again."""
_BLOCK = re.compile(rb"\s*\{")
_NOT_LINE_BREAK = re.compile(rb"[^\r\n]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A function, method or class. Lines count from 1, both ends included; the doc comment is part of it.

    ``scope`` is the qualified name: ``Outer.Inner.method``. C++, C# and PHP namespaces are not part of it.
    ``name_line`` is the line of the name. ``is_prototype`` tells that a function has no body, as in an interface.
    ``code_without_docstring`` has ``pass`` for a Python docstring that is the whole body.
    """

    kind: str  # "function", "method" or "class"
    symbol: str
    scope: str
    start_line: int
    end_line: int
    name_line: int
    docstring: str
    code_without_docstring: str
    is_prototype: bool = False


def definitions(source: str, language: str) -> list[Definition]:
    """Return the definitions of ``source`` in the order of the file, each before those nested in it.

    The list is empty if the source cannot be parsed. A prototype is listed if the file does not define it.

    >>> [(d.scope, d.docstring) for d in definitions("class A:\\n    def f(self):\\n        'Do it.'", "python")]
    [('A', ''), ('A.f', 'Do it.')]
    """
    parsed = parse(source, known_language(language))
    return [] if parsed is None else [_definition(item, parsed) for item in descendants(parsed.top)]


@dataclass(kw_only=True)
class Parsed(Outline):
    """The outline of a parsed source, with its syntax tree and how many of its lines are in error."""

    raw: bytes
    """What was parsed; it has the rows of the source, and may have other bytes in them."""
    root: tree_sitter.Node
    errors: int = 0


def parse(source: str, language: str) -> Outline | None:
    """Return the outline of a source; ``None`` if over half of its lines are in error, or no parse ends in a bounded
    time, or its language is text.

    The grammar that leaves the fewest lines in error is used, or the patterns of a language without grammars.

    A line is in error if the innermost definition or ERROR node around it is an ERROR node. Where no grammar parses
    a file without errors, brackets are closed where its layout says so and lines in error are left out, as long as
    that leaves fewer lines in error; then the blocks that do not parse, as long as that finds more definitions.
    """
    if LANGUAGES[language].patterns:
        return outline_by_patterns(source, language)
    lines = source.split("\n")
    raw = source.encode(errors="replace")  # a lone surrogate becomes "?": positions stay the same
    if not raw.endswith(b"\n"):
        raw += b"\n"  # the scanner of Perl never ends where a heredoc is cut off in the middle of a line
    if LANGUAGES[language].scripts:
        raw = only_scripts(raw)
    parser = BoundedParser(len(raw))
    attempts: list[tuple[str, Parsed]] = []
    for grammar in LANGUAGES[language].grammars:
        if attempts and not re.search(GRAMMARS[grammar].sign, source):
            continue
        parsed = _parse(parser, without_macros(raw, grammar), grammar, lines, language)
        if parsed is not None:
            if not parsed.root.has_error:
                return parsed
            attempts.append((grammar, parsed))
    code_lines = sum(1 for line in lines if line.strip())
    has_layout = max(map(len, lines)) <= _MAX_LINE
    best: Parsed | None = None
    for grammar, parsed in sorted(attempts, key=lambda attempt: attempt[1].errors):
        parsed = _recover(parser, raw, grammar, parsed, language) if parsed.errors and has_layout else parsed
        if best is None or parsed.errors < best.errors:
            best = parsed
        if _FEW_ERRORS * best.errors <= code_lines:
            break
    return best if best is not None and 2 * best.errors <= code_lines else None


def _parse(parser: BoundedParser, raw: bytes, grammar: str, lines: list[str], language: str) -> Parsed | None:
    root = parser.parse(raw, grammar)
    if root is None:
        return None
    top = TreeBuilder(parser, grammar, raw, lines, LANGUAGES[language].comments).build(root)
    parsed = Parsed(lines=lines, top=top, find_depths=lambda: _depths(root), raw=raw, root=root)
    if LANGUAGES[language].scripts:
        parsed.find_depths = lambda: markup_depths(lines, _depths(root))
    if root.has_error:
        parsed.errors = _count_errors(parsed)
    return parsed


def _recover(parser: BoundedParser, raw: bytes, grammar: str, parsed: Parsed, language: str) -> Parsed:
    """Return the best parse of a source with errors after repairs that keep its rows."""
    raw = without_macros(raw, grammar)
    for repair in (resolve_directives, close_brackets):
        repaired = repair(raw.decode(), LANGUAGES[language].comments).encode()
        if repaired != raw:
            closed = _parse(parser, repaired, grammar, parsed.lines, language)
            if closed is not None and closed.errors < parsed.errors:
                raw, parsed = repaired, closed
    for _ in range(_MAX_BLANKED):
        row = _smallest_error(parsed.root)
        if row is None:
            break
        raw_lines = raw.split(b"\n")
        raw_lines[row] = _NOT_LINE_BREAK.sub(b" ", raw_lines[row])
        shorter = b"\n".join(raw_lines)
        blanked = _parse(parser, shorter, grammar, parsed.lines, language)
        if blanked is None or blanked.errors + 1 >= parsed.errors:  # the blanked line is lost too
            break
        raw, parsed = shorter, blanked
    return _leave_out_blocks(parser, raw, grammar, parsed, language)


def _leave_out_blocks(parser: BoundedParser, raw: bytes, grammar: str, parsed: Parsed, language: str) -> Parsed:
    """Return the parse of a source without the blocks that do not parse, if it is better."""

    def parses(block: bytes) -> bool:
        root = parser.parse(block, grammar)
        is_spent = parser.work_left <= 0  # the search ends soon if all else is taken for right
        return is_spent or (root is not None and not root.has_error)

    shorter, lost = without_broken_blocks(raw, parses)
    other = _parse(parser, shorter, grammar, parsed.lines, language) if lost else None
    if other is None:
        return parsed
    other.errors += lost
    return max(parsed, other, key=_quality)


def _quality(parsed: Parsed) -> tuple[bool, int, int]:
    """Return whether few lines are in error, the number of definitions, and that of lines without errors."""
    code_lines = sum(1 for line in parsed.lines if line.strip())
    return 2 * parsed.errors <= code_lines, sum(1 for _ in descendants(parsed.top)), code_lines - parsed.errors


def _smallest_error(root: tree_sitter.Node) -> int | None:
    """Return the row where the smallest error starts: large ones contain what follows the mistake."""
    starts = ((len(rows_of(node)), node.start_point.row) for node in _errors(root))
    return min(starts, default=(0, None))[1]


def _errors(root: tree_sitter.Node) -> Iterator[tree_sitter.Node]:
    """Yield the ERROR nodes and the missing tokens. A query would visit what has no errors, slowly if it is deep."""
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if node.is_error or node.is_missing:
            yield node
        nodes += [child for child in node.children if child.has_error or child.is_error]


def _count_errors(parsed: Parsed) -> int:
    """Count the lines in error and the missing tokens; a definition whose last token is missing is in error."""
    errors = list(_errors(parsed.root))
    items = [item for item in descendants(parsed.top) if isinstance(item, SyntaxItem)]
    missing = [node.end_byte for node in errors if node.is_missing and not _is_macro_with_block(node, parsed.raw)]
    ends = set(missing)
    spans = [(error, rows_of(error), True) for error in errors if error.is_error]
    spans += [(item.node, range(item.first, item.last + 1), item.node.end_byte in ends) for item in items]
    bad: set[int] = set()
    for _, rows, is_error in sorted(spans, key=lambda span: (span[0].start_byte, -span[0].end_byte)):
        (bad.update if is_error else bad.difference_update)(rows)
    return sum(1 for row in bad if row < len(parsed.lines) and parsed.lines[row].strip()) + len(missing)


def _is_macro_with_block(missing: tree_sitter.Node, raw: bytes) -> bool:
    """Return whether a missing semicolon stands in front of a block, as in ``TEST("adds") { }``: nothing is lost."""
    return missing.type == ";" and _BLOCK.match(raw, missing.end_byte) is not None


def _depths(root: tree_sitter.Node) -> dict[int, int]:
    """Return the depth in the syntax tree of the outermost node that starts in each row."""
    depths: dict[int, int] = {}
    stack = [(root, 0)]
    while stack:
        node, depth = stack.pop()
        for child in node.children:
            row = child.start_point.row
            if child.is_named and depth < depths.get(row, depth + 1):
                depths[row] = depth
            if child.end_point.row > row:
                stack.append((child, depth + 1))
    return depths


def _definition(item: Item, parsed: Outline) -> Definition:
    lines = parsed.lines[item.first : item.last + 1]
    if isinstance(item, SyntaxItem) and item.doc_node is not None:
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
        name_line=item.name_row + 1,
        docstring=item.docstring,
        code_without_docstring="\n".join(lines),
        is_prototype=item.is_prototype,
    )


def _without_statement(item: Item, statement: tree_sitter.Node, parsed: Outline) -> list[str]:
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
