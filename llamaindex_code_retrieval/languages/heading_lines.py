"""Headings of LaTeX, Org and POD documents: lines that begin with a mark of their level."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from llamaindex_code_retrieval.languages.sections import Layout, SectionStart

_MAX_NAME = 120  # characters


@dataclass(frozen=True, slots=True)
class HeadingLines:
    """How the headings of a format are written."""

    heading: re.Pattern[str]
    """A heading with its groups ``mark`` and ``text``."""
    markup: re.Pattern[str]
    """What is left out of the text of a heading."""
    block: re.Pattern[str]
    """The start of a block or of an item of a list."""
    marks: Sequence[str] = ()
    """The marks of the levels, outermost first; by default the length of a mark is its level."""

    def layout(self, lines: Sequence[str]) -> Layout:
        """Find the headings and the starts of paragraphs, blocks and items."""
        starts: list[SectionStart] = []
        depths: dict[int, int] = {}
        for row, line in enumerate(lines):
            if match := self.heading.match(line):
                level = self.marks.index(match["mark"]) + 1 if self.marks else len(match["mark"])
                name = " ".join(self.markup.sub("", match["text"][: 2 * _MAX_NAME]).split())
                starts.append(SectionStart(row, level, name[:_MAX_NAME], row + 1))
            elif self.block.match(line):
                depths[row] = 2
            elif line.strip() and (row == 0 or not lines[row - 1].strip()):
                depths[row] = 1
        return Layout(starts, depths)


_LATEX_MARKS = ("part", "chapter", "section", "subsection", "subsubsection")
LATEX = HeadingLines(
    heading=re.compile(rf"\s*\\(?P<mark>{'|'.join(_LATEX_MARKS)})\*?\s*(?:\[[^\]]*\])?\{{(?P<text>.*)"),
    markup=re.compile(r"(?<!\\)%.*|\\(?:label|index|footnote|cite\w*)\{[^{}]*\}|\\[A-Za-z]+\s?|\\(?=\W)|[{}$~]"),
    block=re.compile(r"\s*\\(?:begin\{|item\b)"),
    marks=_LATEX_MARKS,
)
ORG = HeadingLines(
    heading=re.compile(r"(?P<mark>\*+)\s+(?:(?:TODO|DONE|NEXT|WAITING)\s+)?(?P<text>\S.*)"),
    markup=re.compile(r"\s:[\w@#%:]+:\s*$|\[\[(?:[^\[\]]*\]\[)?|\]\]|(?<!\w)[=~*/](?=\S)|(?<=\S)[=~*/](?!\w)"),
    block=re.compile(r"\s*(?:#\+begin|[-+]\s|\d+[.)]\s)", re.IGNORECASE),
)
POD = HeadingLines(
    heading=re.compile(r"=head(?P<mark>[1-6])\s+(?P<text>\S.*)"),
    markup=re.compile(r"\b[BCEFILSX]<+\s*|\|[^<>|]*(?=>)|(?<!-)>+"),
    block=re.compile(r"=item\b"),
    marks=("1", "2", "3", "4", "5", "6"),
)
