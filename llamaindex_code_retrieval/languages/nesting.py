"""Keys of JSON, elements of XML and rules of style sheets: what nests in brackets or tags."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from llamaindex_code_retrieval.languages.configuration import NAMING_KEYS
from llamaindex_code_retrieval.languages.sections import Layout, SectionStart, comments_above

_MAX_NAME = 80  # characters
_MAX_UNCLOSED = 20  # elements that an end tag may close, besides its own

_SLASH_COMMENT = re.compile(r"\s*(?://|/\*|\*)")
_JSON_TOKEN = re.compile(r""""(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?|[{}\[\],]|//[^\n]*|/\*|[A-Za-z_$][\w$]*+""")
_CSS_TOKEN = re.compile(
    r""""(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?|url\([^()\n]*\)|/\*|(?<!:)//[^\n]*|\#\{[^{}\n]*\}|[{};]"""
)
_HASH_COMMENT = re.compile(r"^\s*# .*$", re.MULTILINE)
_COMMENT = {"/*": "*/"}
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
_SELF_CLOSING = frozenset("dd dt li option p td th tr".split())
"""Elements of HTML whose end tag may be missing where the next one starts."""
_OUTERMOST = frozenset(("html", "body"))
_XML_TOKEN = re.compile(r"<!--|<!\[CDATA\[|<\?|<(/?)([\w:.-]+)([^<>]*)>")
_XML_ENDS = {"<!--": "-->", "<![CDATA[": "]]>", "<?": "?>"}
_XML_NAME = re.compile(r"""\b(?:name|id|key|Name|Key|Id|Include|artifactId)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_XML_TEXT = re.compile(r"\s*+([^<>\n]{1,80})</")
_NAMING_ELEMENTS = ("name", "id", "artifactId", "title")
"""Elements whose text names the element around them."""
_SPACE = re.compile(r"\s*")


class _Scanner:
    """Finds the tokens of a source and their rows."""

    def __init__(self, lines: Sequence[str]) -> None:
        self.source = "\n".join(lines)
        self._offsets = list(accumulate((len(line) + 1 for line in lines), initial=0))

    def row(self, position: int) -> int:
        return bisect_right(self._offsets, position) - 1

    def skip_space(self, position: int) -> int:
        match = _SPACE.match(self.source, position)
        return match.end() if match else position

    def tokens(self, pattern: re.Pattern[str], ends: Mapping[str, str]) -> Iterator[tuple[re.Match[str], int]]:
        """Yield the matches of ``pattern`` and their ends; ``ends`` tells what closes some of them."""
        position = 0
        never_closed: set[str] = set()
        while match := pattern.search(self.source, position):
            position = match.end()
            end = ends.get(match[0])
            if end is not None and end not in never_closed:
                found = self.source.find(end, position)
                if found < 0:
                    never_closed.add(end)
                else:
                    position = found + len(end)
            yield match, position


@dataclass(slots=True)
class _Entry:
    row: int
    level: int
    name: str

    def start(self, row: int) -> SectionStart:
        return SectionStart(row, self.level, " ".join(self.name.split())[:_MAX_NAME], row)


@dataclass(slots=True)
class _Bracket:
    """An open bracket of a JSON text; ``item`` is the object in an array that it is."""

    text: str
    expects_key: bool
    item: _Entry | None
    key: str = ""


def json_layout(lines: Sequence[str]) -> Layout:
    """Find the keys of objects and the objects in arrays; comments and keys without quotes are allowed."""
    entries: list[_Entry] = []
    stack: list[_Bracket] = []
    scanner = _Scanner(lines)
    for token, _ in scanner.tokens(_JSON_TOKEN, _COMMENT):
        text = token[0]
        bracket = stack[-1] if stack else None
        if text in ("{", "["):
            item = None
            if text == "{" and bracket is not None and bracket.text == "[":
                item = _Entry(scanner.row(token.start()), len(stack), "")
                entries.append(item)
            stack.append(_Bracket(text, text == "{", item))
        elif bracket is None or text.startswith("/"):
            continue
        elif text in ("}", "]"):
            stack.pop()
        elif text == ",":
            bracket.expects_key = bracket.text == "{"
        elif bracket.expects_key:
            bracket.expects_key, bracket.key = False, text.strip("\"'")
            entries.append(_Entry(scanner.row(token.start()), len(stack), bracket.key))
        elif bracket.item is not None and text[0] in "\"'" and _is_name(bracket.key, bracket.item):
            bracket.item.name = text.strip("\"'")
    return Layout([entry.start(comments_above(lines, entry.row, _SLASH_COMMENT)) for entry in entries])


def _is_name(key: str, item: _Entry) -> bool:
    return key == NAMING_KEYS[0] or (key in NAMING_KEYS and not item.name)


def xml_layout(lines: Sequence[str]) -> Layout:
    """Find the elements that start a line, named by their tag and by an attribute or element such as ``name``."""
    return element_layout(lines, is_html=False)


def element_layout(lines: Sequence[str], *, is_html: bool) -> Layout:
    """Find the elements of XML, or those inside the ``body`` of HTML, where end tags may be missing."""
    entries: list[_Entry] = []
    stack: list[tuple[str, _Entry | None]] = []
    comment, below_comment = 0, -1  # first row of the last comment, and the row below it
    last_row = -1  # where the last element starts or ends
    scanner = _Scanner(lines)
    for token, end in scanner.tokens(_XML_TOKEN, _XML_ENDS):
        row, tag = scanner.row(token.start()), token[2]
        if tag is None:
            comment, below_comment = row, scanner.row(end - 1) + 1
            continue
        if is_html:
            tag = tag.lower()
            if tag in _OUTERMOST:
                continue
            if tag in _SELF_CLOSING and not token[1] and stack and stack[-1][0] == tag:
                stack.pop()
        is_first, last_row = row > last_row, row
        if token[1]:
            if any(name == tag for name, _ in stack[-_MAX_UNCLOSED:]):
                while stack.pop()[0] != tag:
                    pass
            continue
        around = stack[-1][1] if stack else None
        text = _XML_TEXT.match(token.string, token.end())
        if around is not None and text is not None and tag in _NAMING_ELEMENTS and around.name == stack[-1][0]:
            around.name += f" {text[1].strip()}"
        entry = None
        if is_first and lines[row].lstrip().startswith("<"):
            name = text[1] if text is not None and tag == "key" else _element_name(token)  # of a property list
            entry = _Entry(comment if below_comment == row else row, len(stack) + 1, name)
            entries.append(entry)
        if not token[3].endswith("/") and not (is_html and tag in _VOID):
            stack.append((tag, entry))
    for entry in entries[:1]:
        entry.row = 0  # the prolog belongs to the root
    return Layout([entry.start(entry.row) for entry in entries])


def _element_name(token: re.Match[str]) -> str:
    attribute = _XML_NAME.search(token[3])
    return f"{token[2]} {attribute[1] or attribute[2] or ''}".strip() if attribute else token[2]


def css_layout(lines: Sequence[str]) -> Layout:
    """Find rules, named by their selectors, and the statements between them; comments belong to what they precede."""
    entries: list[_Entry] = []
    scanner = _Scanner(lines)
    depth = lead = selector = 0  # the next rule starts at `lead` with its comments, and at `selector` without them
    for token, end in scanner.tokens(_CSS_TOKEN, _COMMENT):
        text = token[0]
        if text.startswith("/"):
            if scanner.skip_space(selector) == token.start():
                selector = end
            continue
        if text not in ("{", "}", ";"):
            continue
        selector = scanner.skip_space(selector)
        if selector < token.start() and (text == "{" or (text == ";" and depth == 0)):
            after = scanner.row(lead - 1) + 1 if lead else 0  # a comment may stand behind the rule before
            row = max(scanner.row(scanner.skip_space(lead)), min(after, scanner.row(selector)))
            name = _HASH_COMMENT.sub("", scanner.source[selector : token.start()]) if text == "{" else ""
            entries.append(_Entry(row, depth + 1, name))
        depth = max(0, depth + (text == "{") - (text == "}"))
        lead = selector = end
    return Layout([entry.start(entry.row) for entry in entries])
