"""Headings of Markdown, reStructuredText and AsciiDoc documents."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llamaindex_code_retrieval.languages.sections import Layout, SectionStart

_MAX_NAME = 120  # characters of a heading
_MAX_HEADING_ROWS = 3  # a longer paragraph above a line of dashes is not a heading
_MAX_DEPTH = 8
_LIST_ITEM = re.compile(r"\s*(?:[-*+•]|\.{1,5}|\*{2,5}|#\.|\(?\w{1,3}[.)])\s")

_FENCE = re.compile(r"\s*(`{3,}(?!.*`)|~{3,})")
_HTML_BLOCK = re.compile(r"\s*<(pre|script|style|textarea)\b", re.IGNORECASE)
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)\s*")
_NOT_PARAGRAPH = re.compile(r"\t| {4}| {0,3}(?:[-*+>|<#]|\d{1,9}[.)]|\[[^\]]*\]:)|.*\|")
_HTML_HEADING = re.compile(r"\s*<h([1-6])\b[^>]*>(.*)</h[1-6]>\s*", re.IGNORECASE)
_MARKDOWN_ANCHOR = re.compile(r"\s*<a\s[^>]*>\s*</a>\s*")

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])\1*\s*")
_RST_ANCHOR = re.compile(r"\.\. _[^:]*:\s*|\.\. index::.*")
_ASCIIDOC_HEADING = re.compile(r"(={1,6}|#{1,6})\s+(\S.*)")
_ASCIIDOC_BLOCK = re.compile(r"(-{4,}|\.{4,}|={4,}|\*{4,}|_{4,}|\+{4,}|/{4,}|--|`{3,}|[|,:!]={3,})")
_ASCIIDOC_UNDERLINE = re.compile(r"([-=~^+])\1{2,}\s*")
_ASCIIDOC_ANCHOR = re.compile(r"\[.*\]\s*")


@dataclass(frozen=True, slots=True)
class _Markup:
    """What is left out of the text of a heading."""

    links: Sequence[tuple[re.Pattern[str], str]]
    """Patterns of links and images, and the text that takes their place."""
    code: re.Pattern[str]
    """Code, in a group: only the characters around it are left out."""
    marks: re.Pattern[str]
    """Emphasis, tags and the like."""


_MARKDOWN_MARKUP = _Markup(
    (
        (re.compile(r"\s\{[#.:][^{}]*\}$"), ""),
        (re.compile(r"!\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])?"), r"\1"),
        (re.compile(r"\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])?"), r"\1"),
    ),
    re.compile(r"(`+[^`]+`+)"),
    re.compile(r"<[^<>]*>|(?<!\\)(?:\*+|~~)|(?<![\w\\])_{1,3}(?=\w)|(?<=\w)_{1,3}(?!\w)"),
)
_RST_MARKUP = _Markup(
    ((re.compile(r":[\w.:+-]+:`"), "`"), (re.compile(r"`([^`<]+?)\s*<[^`<>]*>`_{0,2}"), r"\1")),
    re.compile(r"(``[^`]+``)"),
    re.compile(r"(?<!\\)(?:`_{0,2}|\*+)|\|(?=\w)|(?<=\w)\|_?|(?<=\w)_{1,2}(?!\w)"),
)
_ASCIIDOC_MARKUP = _Markup(
    (
        (re.compile(r"\[\[[^\[\]]*\]\]|\[#[^\[\]]*\]"), ""),
        (re.compile(r"<<[^<>,]*,([^<>]*)>>|<<([^<>]*)>>"), r"\1\2"),
        (re.compile(r"(?:link:|xref:|image:|https?://)[^\s\[\]]*\[([^\[\]]*)\]"), r"\1"),
    ),
    re.compile(r"(`+[^`]+`+)"),
    re.compile(r"\*+|\+{2,3}|(?<!\w)_{1,2}(?=\w)|(?<=\w)_{1,2}(?!\w)"),
)
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")


def markdown_layout(lines: Sequence[str]) -> Layout:
    """Find ATX, setext and one-line HTML headings, but none in front matter, code fences and comments."""
    starts: list[SectionStart] = []
    depths: dict[int, int] = {}
    blocks = {**_closed_blocks(lines, _opened_markdown), **_front_matter(lines)}
    paragraph: int | None = None  # first row of the paragraph that may be a setext heading
    row, may_start = 0, True
    while row < len(lines):
        line = lines[row]
        first, heading = row, _atx_heading(line)
        if paragraph is not None and row - paragraph <= _MAX_HEADING_ROWS and _UNDERLINE.fullmatch(line):
            first, heading = paragraph, (1 if "=" in line else 2, " ".join(map(str.strip, lines[paragraph:row])))
        if row in blocks:
            depths[row] = _depth(line)
            row, paragraph, may_start = blocks[row], None, True
        elif heading is not None:
            name = _plain_name(heading[1], _MARKDOWN_MARKUP)
            starts.append(SectionStart(first_anchor(lines, first, _MARKDOWN_ANCHOR), heading[0], name, row + 1))
            paragraph, may_start = None, True
        else:
            _add_line_depth(lines, row, depths)
            if not line.strip():
                paragraph = None
            elif may_start and not _NOT_PARAGRAPH.match(line):
                paragraph = row
            may_start = not line.strip()
        row += 1
    return Layout(starts, depths)


def _atx_heading(line: str) -> tuple[int, str] | None:
    """Return level and text of a heading that is one line."""
    text = line.strip()
    level = len(text) - len(text.lstrip("#"))
    if 1 <= level <= 6 and not line.startswith(("    ", "\t")) and (len(text) == level or text[level] in " \t"):
        name = text[level:].strip()
        without_closing = name.rstrip("#")
        return level, without_closing if not without_closing or without_closing[-1] in " \t" else name
    if text[:2].lower() == "<h" and (match := _HTML_HEADING.fullmatch(line)):
        return int(match[1]), match[2]
    return None


def _opened_markdown(line: str) -> tuple[str, Callable[[str], bool]] | None:
    if match := _FENCE.match(line):
        fence = match[1]
        return fence, lambda other: (text := other.strip()).startswith(fence) and not text.strip(fence[0])
    if line.lstrip().startswith("<!--") and "-->" not in line:
        return "<!--", lambda other: "-->" in other
    if match := _HTML_BLOCK.match(line):
        end = f"</{match[1].lower()}"
        if end not in line.lower():
            return end, lambda other: end in other.lower()
    return None


def _front_matter(lines: Sequence[str]) -> dict[int, int]:
    """Return the rows of the metadata at the start of a document."""
    fence = lines[0].rstrip()
    if fence in ("---", "+++"):
        for row in range(1, len(lines)):
            if lines[row].rstrip() in (fence, "..." if fence == "---" else fence):
                return {0: row}
    return {}


def restructuredtext_layout(lines: Sequence[str]) -> Layout:
    """Find titles with an underline, or with lines above and below; a new style is one level deeper."""
    starts: list[SectionStart] = []
    depths: dict[int, int] = {}
    styles: list[tuple[str, bool]] = []
    row = 0
    while row < len(lines):
        first, last, style = row, row + 1, _rst_style(lines, row)
        if style is None:
            _add_line_depth(lines, row, depths)
            row += 1
            continue
        last += style[1]
        if style not in styles:
            styles.append(style)
        name = _plain_name(lines[last - 1], _RST_MARKUP)
        first = first_anchor(lines, row, _RST_ANCHOR)
        starts.append(SectionStart(first, styles.index(style) + 1, name, last + 1))
        row = last + 1
    return Layout(starts, depths)


def _rst_style(lines: Sequence[str], row: int) -> tuple[str, bool] | None:
    """Return the character of the line under the title that starts in a row, and whether one stands above it too."""
    if row and lines[row - 1].strip() and not _PUNCTUATION.fullmatch(lines[row - 1]):
        return None
    line = lines[row].rstrip()
    is_line = bool(line) and _PUNCTUATION.fullmatch(line) is not None
    if is_line and row + 2 < len(lines):
        title, below = lines[row + 1].rstrip(), lines[row + 2].rstrip()
        if below == line and title.strip() and len(line) >= min(len(title), 4) and not _PUNCTUATION.fullmatch(title):
            return line[0], True
    if not is_line and line and line[0] not in " \t" and row + 1 < len(lines):
        below = lines[row + 1].rstrip()
        if len(below) >= min(len(line), 4) and _PUNCTUATION.fullmatch(below):
            return below[0], False
    return None


def asciidoc_layout(lines: Sequence[str]) -> Layout:
    """Find headings with ``=`` or ``#``, and those with an underline of their own length, outside delimited blocks."""
    starts: list[SectionStart] = []
    depths: dict[int, int] = {}
    blocks = {
        first: last
        for first, last in _closed_blocks(lines, _opened_asciidoc).items()
        if not _is_asciidoc_title(lines, first - 1)
    }
    row = 0
    while row < len(lines):
        heading = _ASCIIDOC_HEADING.fullmatch(lines[row])
        first, is_title = row, _is_asciidoc_title(lines, row)
        if row in blocks:
            depths[row] = _depth(lines[row])
            row = blocks[row]
        elif heading or is_title:
            level = len(heading[1]) if heading else "=-~^+".index(lines[row + 1][0]) + 1
            text = heading[2].removesuffix(heading[1]) if heading else lines[row]
            row += is_title
            name = _plain_name(text, _ASCIIDOC_MARKUP)
            starts.append(SectionStart(first_anchor(lines, first, _ASCIIDOC_ANCHOR), level, name, row + 1))
        else:
            _add_line_depth(lines, row, depths)
        row += 1
    return Layout(starts, depths)


def _opened_asciidoc(line: str) -> tuple[str, Callable[[str], bool]] | None:
    text = line.rstrip()
    if match := _ASCIIDOC_BLOCK.match(text):
        fence = match[1]
        if text == fence or fence.startswith("```"):
            return fence, lambda other: other.rstrip() == fence
    return None


def _is_asciidoc_title(lines: Sequence[str], row: int) -> bool:
    """Return whether a row is a title by the line below it."""
    if row < 0 or row + 1 >= len(lines) or not lines[row][:1].isalnum():
        return False
    below = lines[row + 1].rstrip()
    after_break = row == 0 or not lines[row - 1].strip() or bool(_ASCIIDOC_ANCHOR.fullmatch(lines[row - 1]))
    return (
        after_break and abs(len(below) - len(lines[row].rstrip())) <= 1 and bool(_ASCIIDOC_UNDERLINE.fullmatch(below))
    )


def _closed_blocks(
    lines: Sequence[str], opened: Callable[[str], tuple[str, Callable[[str], bool]] | None]
) -> dict[int, int]:
    """Return the first and last rows of delimited blocks; one that is never closed is not a block.

    ``opened`` returns how a line opens a block, if it does, and what tells the line that closes it.
    """
    blocks: dict[int, int] = {}
    unclosed: set[str] = set()
    row = 0
    while row < len(lines):
        opening = opened(lines[row])
        if opening is not None and opening[0] not in unclosed:
            last = next((other for other in range(row + 1, len(lines)) if opening[1](lines[other])), None)
            if last is None:
                unclosed.add(opening[0])
            else:
                blocks[row] = last
                row = last
        row += 1
    return blocks


def first_anchor(lines: Sequence[str], row: int, anchor: re.Pattern[str]) -> int:
    """Return the first row of the link targets that stand above a heading."""
    first = row
    while row and (not lines[row - 1].strip() or anchor.fullmatch(lines[row - 1])):
        row -= 1
        if lines[row].strip():
            first = row
    return first


def _plain_name(text: str, markup: _Markup) -> str:
    """Return the text of a heading without markup, on one line."""
    text = text.strip()[: 2 * _MAX_NAME]
    for pattern, replacement in markup.links:
        text = pattern.sub(replacement, text)
    pieces = markup.code.split(text)
    for number, piece in enumerate(pieces):
        pieces[number] = piece.strip("`") if number % 2 else _ESCAPE.sub(r"\1", markup.marks.sub("", piece))
    return " ".join(html.unescape("".join(pieces)).split())[:_MAX_NAME]


def _add_line_depth(lines: Sequence[str], row: int, depths: dict[int, int]) -> None:
    """Note that a paragraph or an item of a list starts in a row, if one does."""
    line = lines[row]
    if _LIST_ITEM.match(line):
        depths[row] = _depth(line) + 1
    elif line.strip() and (row == 0 or not lines[row - 1].strip()):
        depths[row] = _depth(line)


def _depth(line: str) -> int:
    return min(1 + len(line) - len(line.lstrip()), _MAX_DEPTH)
