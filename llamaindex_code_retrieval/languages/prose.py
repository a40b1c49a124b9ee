"""Paragraphs of plain text, and headings of texts that are documents by their looks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from llamaindex_code_retrieval.languages.documents import markdown_layout, restructuredtext_layout
from llamaindex_code_retrieval.languages.sections import Layout, SectionStart

_MIN_HEADINGS = 2  # of a text that is read as a document
_MIN_WORDS = 4  # in a line of prose
_MIN_LETTERS = 10  # outside ASCII, in a line of a language that does not write spaces between words
_RST_DIRECTIVE = re.compile(r"\.\. \S")
_HASH_HEADING = re.compile(r"#{1,6} ")


def prose_layout(lines: Sequence[str]) -> Layout:
    """Find the paragraphs of prose; other texts have no sections."""
    if not _is_prose(lines):
        return Layout([])
    rows = (row for row, line in enumerate(lines) if line.strip() and (row == 0 or not lines[row - 1].strip()))
    return Layout(paragraphs(rows))


def paragraphs(rows: Iterable[int]) -> list[SectionStart]:
    """Return sections without names that start in these rows."""
    return [SectionStart(row, 1, kind="text") for row in rows]


def document_language(lines: Sequence[str]) -> str | None:
    """Return whether a text is Markdown or reStructuredText: it has two headings or more.

    A comment, as in a list of requirements, looks like a heading but stands directly above what it is about.

    >>> document_language(["# a", "b", "# c", "d"]), document_language(["a", "==", "", "b", "=="])
    (None, 'markdown')
    """
    markdown, rst = markdown_layout(lines).starts, restructuredtext_layout(lines).starts
    if len(rst) > len(markdown) or (len(rst) == len(markdown) and any(map(_RST_DIRECTIVE.match, lines))):
        return "restructuredtext" if len(rst) >= _MIN_HEADINGS else None
    comments = sum(
        1
        for start in markdown
        if _HASH_HEADING.match(lines[start.row])
        and any(0 <= row < len(lines) and lines[row].strip() for row in (start.row - 1, start.content))
    )
    return "markdown" if len(markdown) - comments >= max(_MIN_HEADINGS, comments + 1) else None


def _is_prose(lines: Sequence[str]) -> bool:
    """Return whether at least half of a text, in characters, is in lines of words.

    >>> _is_prose(["Permission is hereby granted, free of charge, to"]), _is_prose(["mov eax, [ebp + 8]"])
    (True, False)
    """
    in_prose = sum(len(line) for line in lines if _is_prose_line(line))
    return 2 * in_prose >= sum(map(len, lines)) > 0


def _is_prose_line(line: str) -> bool:
    words = line.split()
    plain = sum(1 for word in words if word.strip(".,:;!?()'\"“”‘’-–—").replace("'", "").isalpha())
    if plain >= _MIN_WORDS and 10 * plain >= 7 * len(words):
        return True
    return not line.isascii() and sum(1 for char in line if char.isalpha() and not char.isascii()) >= _MIN_LETTERS
