"""Parse source code with tree-sitter: the functions, methods and classes of a file, and where they are."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import tree_sitter

from llamaindex_code_retrieval.languages.conditionals import resolve_directives
from llamaindex_code_retrieval.languages.docstrings import comment_text, python_docstring
from llamaindex_code_retrieval.languages.grammars import definition_query, error_query, load_grammar
from llamaindex_code_retrieval.languages.markup import markup_depths, only_scripts
from llamaindex_code_retrieval.languages.names import node_text, qualified_name
from llamaindex_code_retrieval.languages.outline import Item, Nesting, Outline, descendants
from llamaindex_code_retrieval.languages.patterns import outline_by_patterns
from llamaindex_code_retrieval.languages.repair import blank_segments, close_brackets
from llamaindex_code_retrieval.languages.table import GRAMMARS, LANGUAGES, known_language

_MAX_REPARSED = 3  # levels of macro calls whose arguments are parsed
_FEW_ERRORS = 20  # no other grammar is tried if fewer than one in so many lines is in error
_MAX_BLANKED = 4  # attempts to parse a file without the lines of its first error
_KINDS = {  # of captures -> of items
    "function": "function",
    "method": "method",
    "class": "class",
    "module": "class",
    "scope": "scope",
    "prototype": "function",
    "alias": "class",
}
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


@dataclass(slots=True, eq=False, kw_only=True)
class SyntaxItem(Item):
    """A definition with its node in the syntax tree."""

    node: tree_sitter.Node
    doc_node: tree_sitter.Node | None = None
    """The statement that is a Python docstring."""
    merges: bool = False
    """Whether the next item joins this one if it has the same scope."""


@dataclass(kw_only=True)
class Parsed(Outline):
    """The outline of a parsed source, with its syntax tree and how many of its lines are in error."""

    raw: bytes
    """What was parsed; it has the rows of the source, and may have other bytes in them."""
    root: tree_sitter.Node
    errors: int = 0


def parse(source: str, language: str) -> Outline | None:
    """Return the outline of a source; ``None`` if over half of its lines are in error or its language is text.

    The grammar that leaves the fewest lines in error is used, or the patterns of a language without grammars.

    A line is in error if the innermost definition or ERROR node around it is an ERROR node. Where no grammar parses
    a file without errors, brackets are closed where its layout says so, and lines and segments in error are left out,
    as long as that leaves fewer lines in error.
    """
    if LANGUAGES[language].patterns:
        return outline_by_patterns(source, language)
    lines = source.split("\n")
    raw = source.encode(errors="replace")  # a lone surrogate becomes "?": positions stay the same
    if LANGUAGES[language].scripts:
        raw = only_scripts(raw)
    attempts: list[tuple[str, Parsed]] = []
    for grammar in LANGUAGES[language].grammars:
        blank = GRAMMARS[grammar].blank
        parsed = _parse(_blank(raw, blank) if blank else raw, grammar, lines, language)
        if not parsed.root.has_error:
            return parsed
        attempts.append((grammar, parsed))
    code_lines = sum(1 for line in lines if line.strip())
    best: Parsed | None = None
    for grammar, parsed in sorted(attempts, key=lambda attempt: attempt[1].errors):
        parsed = _recover(raw, grammar, parsed, language) if parsed.errors else parsed
        if best is None or parsed.errors < best.errors:
            best = parsed
        if _FEW_ERRORS * best.errors <= code_lines:
            break
    return best if best is not None and 2 * best.errors <= code_lines else None


def _parse(raw: bytes, grammar: str, lines: list[str], language: str) -> Parsed:
    root = tree_sitter.Parser(load_grammar(grammar)).parse(raw).root_node
    top = _TreeBuilder(grammar, raw, lines, LANGUAGES[language].comments).build(root)
    parsed = Parsed(lines=lines, top=top, find_depths=lambda: _depths(root), raw=raw, root=root)
    if LANGUAGES[language].scripts:
        parsed.find_depths = lambda: markup_depths(lines, _depths(root))
    if root.has_error:
        parsed.errors = _count_errors(grammar, parsed)
    return parsed


def _recover(raw: bytes, grammar: str, parsed: Parsed, language: str) -> Parsed:
    """Return the best parse of a source with errors after repairs that keep its rows."""
    blank = GRAMMARS[grammar].blank
    source = raw = _blank(raw, blank) if blank else raw
    for repair in (resolve_directives, close_brackets):
        repaired = repair(raw.decode(), LANGUAGES[language].comments).encode()
        if repaired != raw:
            closed = _parse(repaired, grammar, parsed.lines, language)
            if closed.errors < parsed.errors:
                raw, parsed = repaired, closed
    for _ in range(_MAX_BLANKED):
        row = _smallest_error(grammar, parsed.root)
        if row is None:
            break
        raw_lines = raw.split(b"\n")
        raw_lines[row] = _NOT_LINE_BREAK.sub(b" ", raw_lines[row])
        shorter = b"\n".join(raw_lines)
        blanked = _parse(shorter, grammar, parsed.lines, language)
        if blanked.errors + 1 >= parsed.errors:  # the blanked line is lost too
            break
        raw, parsed = shorter, blanked
    if parsed.errors > 1:
        parser = tree_sitter.Parser(load_grammar(grammar))
        shorter, lost = blank_segments(source, lambda segment: parser.parse(segment).root_node.has_error)
        blanked = _parse(shorter, grammar, parsed.lines, language)
        blanked.errors += lost
        if blanked.errors < parsed.errors:
            parsed = blanked
    return parsed


def _smallest_error(grammar: str, root: tree_sitter.Node) -> int | None:
    """Return the row where the smallest error starts: large ones contain what follows the mistake."""
    errors = tree_sitter.QueryCursor(error_query(grammar)).captures(root)
    nodes = [*errors.get("error", ()), *errors.get("missing", ())]
    starts = ((len(_rows(node)), node.start_point.row) for node in nodes)
    return min(starts, default=(0, None))[1]


def _count_errors(grammar: str, parsed: Parsed) -> int:
    """Count the lines in error and the missing tokens; a definition whose last token is missing is in error."""
    errors = tree_sitter.QueryCursor(error_query(grammar)).captures(parsed.root)
    items = [item for item in descendants(parsed.top) if isinstance(item, SyntaxItem)]
    missing = [node.end_byte for node in errors.get("missing", ()) if not _is_macro_with_block(node, parsed.raw)]
    ends = set(missing)
    spans = [(error, _rows(error), True) for error in errors.get("error", ())]
    spans += [(item.node, range(item.first, item.last + 1), item.node.end_byte in ends) for item in items]
    bad: set[int] = set()
    for _, rows, is_error in sorted(spans, key=lambda span: (span[0].start_byte, -span[0].end_byte)):
        (bad.update if is_error else bad.difference_update)(rows)
    return sum(1 for row in bad if parsed.lines[row].strip()) + len(missing)


def _is_macro_with_block(missing: tree_sitter.Node, raw: bytes) -> bool:
    """Return whether a missing semicolon stands in front of a block, as in ``TEST("adds") { }``: nothing is lost."""
    return missing.type == ";" and _BLOCK.match(raw, missing.end_byte) is not None


def _blank(raw: bytes, pattern: str) -> bytes:
    """Replace the groups of each match of ``pattern`` by spaces."""
    result = bytearray(raw)
    for match in re.finditer(pattern.encode(), raw, re.MULTILINE):
        for group in range(1, len(match.groups()) + 1):
            start, end = match.span(group)
            if start >= 0:
                result[start:end] = _NOT_LINE_BREAK.sub(b" ", raw[start:end])
    return bytes(result)


def _rows(node: tree_sitter.Node) -> range:
    """Return the rows of a node; a line break at its end does not add one."""
    first, (last, column) = node.start_point.row, node.end_point
    return range(first, max(first, last - (column == 0)) + 1)


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


@dataclass(slots=True)
class _Match:
    """A definition that a query matched."""

    kind: str
    captures: Mapping[str, Sequence[tree_sitter.Node]]
    settings: Mapping[str, str | None]
    number: int
    """Place of its pattern in the query."""
    last: tree_sitter.Node
    """The node in which it ends."""

    @property
    def node(self) -> tree_sitter.Node:
        return self.captures[self.kind][0]


@dataclass(slots=True)
class _TreeBuilder:
    """Builds the tree of definitions from the matches of a grammar's query."""

    grammar: str
    raw: bytes
    lines: list[str]
    comments: str
    outer: dict[int, tree_sitter.Node] = field(default_factory=dict)
    above: dict[int, tuple[int, tree_sitter.Node | None]] = field(default_factory=dict)
    """Comments and attributes that stand alone: last row -> first row, comment."""
    below: dict[int, tree_sitter.Node] = field(default_factory=dict)
    """Comments that stand alone and may describe what is above, by their first row."""
    behind: dict[int, tree_sitter.Node] = field(default_factory=dict)
    """Comments that may describe what is before them in a row."""
    raw_lines: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.raw_lines = self.raw.split(b"\n")

    def build(self, root: tree_sitter.Node) -> Item:
        """Return the root of the tree."""
        nesting = Nesting(len(self.lines) - 1)
        for match in sorted(self._matches(root), key=lambda each: (each.node.start_byte, -each.node.end_byte)):
            names, name = qualified_name(match.captures, match.settings)
            if not nesting.enter(match.node.start_byte) or not names:
                continue
            if match.settings.get("level") == "module" and nesting.parent.kind in ("function", "method"):
                continue
            item = self._item(match, nesting.relative(names), nesting)
            item.name_row = item.row if name is None else name.start_point.row
            previous = nesting.previous
            if isinstance(previous, SyntaxItem) and _are_one(previous, item):
                nesting.reopen(_merge(previous, item), match.last.end_byte)
            elif match.settings.get("merge") != "only":
                nesting.add(item, match.last.end_byte)
        return nesting.finish()

    def _matches(self, root: tree_sitter.Node) -> list[_Match]:
        """Return the matched definitions, and keep what belongs to them.

        Where several patterns match the same code, the last one of the query counts.
        """
        found: dict[tuple[int, int], _Match] = {}
        query, settings = definition_query(self.grammar)
        roots = [(root, 0)]
        for each, level in roots:
            for number, captures in tree_sitter.QueryCursor(query).matches(each):
                for kind in _KINDS:
                    if kind in captures:
                        node = captures[kind][0]
                        place = node.start_byte, node.end_byte
                        if place not in found or found[place].number <= number:
                            last = captures.get("end", [node])[0]
                            found[place] = _Match(kind, captures, settings[number], number, last)
                self._keep_comments(captures, is_apart="apart" in settings[number])
                if "outer" in captures:
                    self.outer[captures["inner"][0].id] = captures["outer"][0]
                if level < _MAX_REPARSED:
                    brackets = [node for node in captures.get("reparse", ()) if node.child_count > 1]
                    roots += [(self._reparse(node), level + 1) for node in brackets]
        _extend(found.values())
        return list(found.values())

    def _keep_comments(self, captures: Mapping[str, Sequence[tree_sitter.Node]], *, is_apart: bool) -> None:
        raw_lines = self.raw_lines
        for kind in ("comment", "attribute", "trailing"):
            for node in captures.get(kind, ()):
                rows, end = _rows(node), node.end_point
                if end.column and raw_lines[end.row][end.column :].strip():
                    continue
                stands_alone = not raw_lines[rows[0]][: node.start_point.column].strip()
                if kind == "trailing":
                    (self.below if stands_alone else self.behind)[rows[0]] = node
                elif stands_alone:
                    last = rows[-1]
                    while is_apart and last + 1 < len(raw_lines) and not raw_lines[last + 1].strip():
                        last += 1
                    self.above[last] = rows[0], node if kind == "comment" else None

    def _reparse(self, node: tree_sitter.Node) -> tree_sitter.Node:
        """Parse what stands between the brackets of ``node`` as code of its own."""
        first, last = node.children[0], node.children[-1]
        between = tree_sitter.Range(first.end_point, last.start_point, first.end_byte, last.start_byte)
        return tree_sitter.Parser(load_grammar(self.grammar), included_ranges=[between]).parse(self.raw).root_node

    def _is_blanked(self, row: int) -> bool:
        """Return whether a row is nothing but macros that were left out for parsing."""
        blank, line = GRAMMARS[self.grammar].blank, self.lines[row].lstrip()
        if not blank or self.raw_lines[row].strip() or not line or line.startswith("#"):
            return False
        return not _blank(line.encode(errors="replace"), blank).strip()

    def _item(self, match: _Match, names: Sequence[str], nesting: Nesting) -> SyntaxItem:
        node, parent = match.node, nesting.parent
        start = node
        while start.id in self.outer:
            start = self.outer[start.id]
        row = first = start.start_point.row
        comments: list[tree_sitter.Node] = []
        while first - 1 > nesting.floor:
            above, comment = self.above.get(first - 1, (first - 1, None))
            if above <= nesting.floor or (first - 1 not in self.above and not self._is_blanked(first - 1)):
                break
            first = above
            if comment is not None:
                comments.append(comment)
        last = min(_rows(match.last)[-1], parent.last)
        behind = self.behind.get(last) if row == last else None  # behind more rows, it describes the last one
        comment = behind or self.below.get(last + 1)
        if not comments and comment is not None and comment.start_byte >= match.last.end_byte:
            comments.append(comment)
            last = min(_rows(comment)[-1], parent.last)
        comments = [*match.captures.get("docstring", ()), *comments]
        item = SyntaxItem(
            nesting.kind(_KINDS[match.kind], names),
            names[-1],
            nesting.scope(names),
            max(first, parent.first),
            last,
            parent,
            row=row,
            node=node,
            is_prototype=match.kind in ("prototype", "alias"),
            holds_methods=match.kind == "class",
            merges="merge" in match.settings,
        )
        if self.comments == "docstring":
            item.doc_node, item.docstring = python_docstring(node, self.raw)
        else:
            item.docstring = comment_text([node_text(comment) for comment in reversed(comments)], self.comments)
            item.doc_rows = [(rows[0], rows[-1]) for rows in map(_rows, comments)]
        return item


def _extend(matches: Iterable[_Match]) -> None:
    """Move the ends of definitions whose body stands beside them: see ``(#set! through …)``."""
    extended = [match for match in matches if "through" in match.settings]
    starts = {match.node.start_byte for match in extended}
    children: dict[int, list[tree_sitter.Node]] = {}
    for match in extended:
        parent = match.node.parent
        if parent is None or match.node.children[-1].type == "block":
            continue
        nodes = children.setdefault(parent.id, parent.children)
        first = bisect_right(nodes, match.node.start_byte, key=lambda node: node.start_byte)
        for number in range(first, len(nodes)):
            if nodes[number].start_byte in starts:
                break
            match.last = nodes[number]
            if node_text(match.last) == match.settings["through"]:
                break


def _are_one(previous: SyntaxItem, item: SyntaxItem) -> bool:
    return previous.scope == item.scope and previous.merges and (item.merges or previous.is_prototype)


def _merge(previous: SyntaxItem, item: SyntaxItem) -> SyntaxItem:
    """Let ``previous``, an item in front of ``item``, contain it too."""
    if previous.is_prototype:
        previous.node, previous.is_prototype = item.node, item.is_prototype
    if not previous.docstring:
        previous.docstring, previous.doc_rows = item.docstring, item.doc_rows
    previous.last = item.last
    return previous


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
