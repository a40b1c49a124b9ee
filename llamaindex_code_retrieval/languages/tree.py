"""Build the tree of definitions of a parsed source from what the query of its grammar matches."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import tree_sitter

from llamaindex_code_retrieval.languages.docstrings import comment_text, python_docstring
from llamaindex_code_retrieval.languages.grammars import definition_query, without_macros
from llamaindex_code_retrieval.languages.names import node_text, qualified_name
from llamaindex_code_retrieval.languages.outline import Item, Nesting
from llamaindex_code_retrieval.languages.parser import BoundedParser
from llamaindex_code_retrieval.languages.table import GRAMMARS

_MAX_OPEN_MATCHES = 512
"""Matches that a query may have begun at once, four times as many as real files need: the time for a file is quadratic
in the depth of its nesting otherwise. Those begun first are dropped."""
_MAX_REPARSED = 3  # levels of macro calls whose arguments are parsed
_KINDS = {  # of captures -> of items
    "function": "function",
    "method": "method",
    "class": "class",
    "module": "class",
    "scope": "scope",
    "prototype": "function",
    "alias": "class",
}


@dataclass(slots=True, eq=False, kw_only=True)
class SyntaxItem(Item):
    """A definition with its node in the syntax tree."""

    node: tree_sitter.Node
    doc_node: tree_sitter.Node | None = None
    """The statement that is a Python docstring."""
    merges: bool = False
    """Whether the next item joins this one if it has the same scope."""


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


@dataclass(frozen=True, slots=True)
class _Remark:
    """A comment or an attribute."""

    kind: str
    """One of "comment", "attribute", and "trailing" for a comment that may describe what is above."""
    node: tree_sitter.Node
    is_apart: bool
    """Whether blank lines may stand between it and what it describes."""


@dataclass(slots=True)
class TreeBuilder:
    """Builds the tree of definitions from the matches of a grammar's query."""

    parser: BoundedParser
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
        remarks: list[_Remark] = []
        roots = [(root, 0)]
        for each, level in roots:
            for number, captures in tree_sitter.QueryCursor(query, match_limit=_MAX_OPEN_MATCHES).matches(each):
                for kind in _KINDS:
                    if kind in captures:
                        node = captures[kind][0]
                        place = node.start_byte, node.end_byte
                        if place not in found or found[place].number <= number:
                            last = captures.get("end", [node])[0]
                            found[place] = _Match(kind, captures, settings[number], number, last)
                for kind in ("comment", "attribute", "trailing"):
                    remarks += [_Remark(kind, node, "apart" in settings[number]) for node in captures.get(kind, ())]
                if "outer" in captures:
                    self.outer[captures["inner"][0].id] = captures["outer"][0]
                if level < _MAX_REPARSED:
                    brackets = [node for node in captures.get("reparse", ()) if node.child_count > 1]
                    roots += [(root, level + 1) for root in map(self._reparse, brackets) if root is not None]
        _extend(found.values())
        self._keep_remarks(remarks)
        return list(found.values())

    def _keep_remarks(self, remarks: Sequence[_Remark]) -> None:
        """Keep the comments and attributes that have rows of their own, and the comments that may describe a row."""
        raw_lines = self.raw_lines
        nodes = {remark.node.start_byte: remark.node for remark in remarks}
        for remark in remarks:
            row, column = remark.node.start_point
            stands_alone = not raw_lines[row][:column].strip()
            last_node = remark.node
            while stands_alone and (after := nodes.get(self._code_after(last_node))) is not None:
                last_node = after  # as in `@Test // slow`
            if self._code_after(last_node) >= 0:
                continue
            if remark.kind == "trailing":
                (self.below if stands_alone else self.behind)[row] = remark.node
            elif stands_alone:
                last = rows_of(last_node)[-1]
                while remark.is_apart and last + 1 < len(raw_lines) and not raw_lines[last + 1].strip():
                    last += 1
                self.above[last] = row, remark.node if remark.kind == "comment" else None

    def _code_after(self, node: tree_sitter.Node) -> int:
        """Return the byte where code goes on in the row in which a node ends, -1 if the row has no more."""
        row, column = node.end_point
        rest = self.raw_lines[row][column:] if column else b""  # a node that ends with a line break
        code = rest.lstrip()
        return node.end_byte + len(rest) - len(code) if code else -1

    def _reparse(self, node: tree_sitter.Node) -> tree_sitter.Node | None:
        """Parse what stands between the brackets of ``node`` as code of its own."""
        first, last = node.children[0], node.children[-1]
        between = tree_sitter.Range(first.end_point, last.start_point, first.end_byte, last.start_byte)
        return self.parser.parse(self.raw, self.grammar, [between])

    def _last_row(self, node: tree_sitter.Node) -> int:
        """Return the last row with code of a node; where indentation ends it, it goes on to the next code."""
        row, column = node.end_point
        while row > node.start_point.row and (row in self.above or not self.raw_lines[row][:column].strip()):
            row, column = self.above.get(row, (row, None))[0] - 1, len(self.raw)
        return max(row, node.start_point.row)

    def _is_blanked(self, row: int) -> bool:
        """Return whether a row is nothing but macros that were left out for parsing, and no directive or label."""
        line = self.lines[row].strip()
        if not GRAMMARS[self.grammar].blank or self.raw_lines[row].strip() or not line:
            return False
        if line.startswith("#") or line.endswith(":"):
            return False
        return not without_macros(line.encode(errors="replace"), self.grammar).strip()

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
        last = min(self._last_row(match.last), parent.last)
        behind = self.behind.get(last) if row == last else None  # behind more rows, it describes the last one
        comment = behind or self.below.get(last + 1)
        if not comments and comment is not None and comment.start_byte >= match.last.end_byte:
            comments.append(comment)
            last = min(rows_of(comment)[-1], parent.last)
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
            item.doc_rows = [(rows[0], rows[-1]) for rows in map(rows_of, comments)]
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


def rows_of(node: tree_sitter.Node) -> range:
    """Return the rows of a node; a line break at its end does not add one."""
    first, (last, column) = node.start_point.row, node.end_point
    return range(first, max(first, last - (column == 0)) + 1)
