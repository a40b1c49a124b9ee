"""Citations: the places that an answer cites, and whether they and the names in it are in the passages and the code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from llama_index.core.schema import NodeWithScore

from llamaindex_code_retrieval.chat.names import named_in, unknown_names
from llamaindex_code_retrieval.chat.passages import NUMBER, Passage, Range, passages_of
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.index.places import Place
from llamaindex_code_retrieval.ranking.places import find_places

FENCED = re.compile(
    r"^(?P<indent>[ \t]*)(?P<fence>`{3,}+|~{3,}+)[^\n]*\n.*?(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)", re.M | re.S
)
CODE_SPAN = re.compile(r"(?<!`)(?P<ticks>`++)(?P<code>(?:[^`\n]|(?!(?P=ticks))`){1,300})(?P=ticks)(?!`)")
_NUMBERS = r"[1-9]\d{0,2}(?:\s?[-–]\s?[1-9]\d{0,2})?"
_BRACKETS = re.compile(rf"(?<!\w)\[\^?(?P<numbers>{_NUMBERS}(?:\s?[,;]\s?{_NUMBERS})*)\]")
_SEVERAL_RANGES = re.compile(
    r"(?<![^\s`:,])(?P<path>[^\s`:,]{1,300}):(?P<ranges>\d{1,8}(?:-\d{1,8})?(?:,\s?\d{1,8}-\d{1,8})+)"
)
_MOST_NUMBERS = 50  # of a range such as [1-3]


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage, or lines of a file, as a source of an answer."""

    path: str
    ranges: tuple[Range, ...] = ()
    """Empty for a whole file."""
    number: int | None = None
    """That of the passage, if it is cited as a whole."""

    def __str__(self) -> str:
        number = "" if self.number is None else f"[{self.number}] "
        return number + Passage(self.path, "", self.ranges).place

    def touches(self, place: Place) -> bool:
        """Return whether the cited lines have a line of ``place``; one of the paths may lack leading folders."""
        if not _same_file(self.path, place.path):
            return False
        first, last = place.first, place.last
        if first is None or last is None or not self.ranges:
            return True
        return any(each.first <= last and first <= each.last for each in self.ranges)


@dataclass(frozen=True, slots=True)
class Citations:
    """What an answer may cite: the passages of its prompt, by number.

    >>> citations = Citations((Citation("src/app.py", (Range(120, 155),), 1),))
    >>> print(citations)
    [1] src/app.py:120-155
    >>> [str(each) for each in citations.find("It starts at `src/app.py:130` [1].")]
    ['[1] src/app.py:120-155', 'src/app.py:130']
    """

    passages: tuple[Citation, ...]

    @classmethod
    def of(cls, passages: Sequence[NodeWithScore]) -> Self:
        """Return the citations of passages; those of a :class:`.CodeContextPostprocessor` have their numbers."""
        numbers = [hit.node.metadata.get(NUMBER, place) for place, hit in enumerate(passages, start=1)]
        quoted = zip(numbers, passages_of(passages), strict=True)
        return cls(tuple(Citation(passage.path, passage.ranges, number) for number, passage in quoted))

    def __str__(self) -> str:
        return "\n".join(map(str, self.passages))

    def find(self, answer: str) -> list[Citation]:
        """Return what an answer cites, each once: numbers in brackets first, then lines of files.

        Numbers are ``[1]``, ``[1, 2]`` and ``[1-3]``, but not those inside code; lines are ``app.py:12-40``,
        ``app.py:12``, ``app.py#L12-L40`` and others that a question may have. A path without lines is a citation only
        if a passage is of that file: answers name other files too. The path of an unknown number is "".
        """
        prose = FENCED.sub(" ", answer)
        by_number = {each.number: each for each in self.passages}
        found = [by_number.get(number, Citation("", (), number)) for number in _numbers_in(prose)]
        places, _ = find_places(_SEVERAL_RANGES.sub(_separate, prose))
        for place in places:
            ranges = () if place.line is None else (Range(place.line, place.end_line or place.line),)
            if ranges or any(_same_file(each.path, place.path) for each in self.passages):
                found.append(Citation(place.path, ranges))
        return list(dict.fromkeys(found))

    def quote(self, citation: Citation) -> bool:
        """Return whether all lines of a citation are quoted in passages; of a whole file, whether any is."""
        if citation.number is not None:
            return citation in self.passages
        of_file = [each for each in self.passages if _same_file(each.path, citation.path)]
        quoted = [each for passage in of_file for each in passage.ranges]
        return bool(of_file) and all(
            any(each.first <= line <= each.last for each in quoted)
            for cited in citation.ranges
            for line in {cited.first, cited.last, *_gaps(quoted, cited)}
        )


@dataclass(frozen=True, slots=True)
class CitationCheck:
    """What an answer cites, and what in it is in neither the passages nor the code."""

    cited: tuple[Citation, ...]
    """Citations of what is in the passages."""
    unknown_citations: tuple[str, ...] = ()
    """Citations of what is not: such as ``[7]`` of five passages."""
    unknown_names: tuple[str, ...] = ()
    """Names in code spans that are not in the code."""

    def __bool__(self) -> bool:
        return not (self.unknown_citations or self.unknown_names)

    def messages(self) -> list[str]:
        """Return what is wrong, a line each.

        >>> CitationCheck((), ("[7]",), ("foo_bar",)).messages()
        ['not in the passages: [7]', 'not found in the code: `foo_bar`']
        """
        return [
            *(f"not in the passages: {each}" for each in self.unknown_citations),
            *(f"not found in the code: `{each}`" for each in self.unknown_names),
        ]


def check_citations(
    answer: str, passages: Sequence[NodeWithScore], index: CodeIndex[Any] | None = None, *, question: str = ""
) -> CitationCheck:
    """Check that what an answer cites is in the passages of its prompt, and that the names in it are in the code.

    A name is a code span that is one identifier, perhaps qualified or with a call, such as ```Session.send()```. It is
    known if each identifier in it is in the question, in a passage or anywhere in the ``index``, or is a keyword, a
    builtin name or a module of a standard library. Names are not checked without ``index``.
    """
    citations = Citations.of(passages)
    found = citations.find(answer)
    held = [each for each in found if citations.quote(each)]
    names: list[str] = []
    if index is not None:
        spans = [match["code"] for match in CODE_SPAN.finditer(FENCED.sub(" ", answer))]
        known = [question, *(hit.node.get_content() for hit in passages)]
        names = unknown_names(named_in(spans), known, index)
    return CitationCheck(tuple(held), tuple(_written(each) for each in found if each not in held), tuple(names))


def citation_precision(check: CitationCheck, gold: Sequence[Place]) -> float | None:
    """Return the share of an answer's citations that touch a gold place; ``None`` if it cites nothing.

    Citations of what was not in the prompt count as wrong.
    """
    count = len(check.cited) + len(check.unknown_citations)
    right = sum(any(cited.touches(place) for place in gold) for cited in check.cited)
    return right / count if count else None


def citation_recall(check: CitationCheck, gold: Sequence[Place]) -> float | None:
    """Return the share of the gold places that a citation touches; ``None`` if there are none."""
    found = sum(any(cited.touches(place) for cited in check.cited) for place in gold)
    return found / len(gold) if gold else None


def _written(citation: Citation) -> str:
    return str(citation) if citation.path else f"[{citation.number}]"


def _numbers_in(prose: str) -> Iterator[int]:
    """Yield the numbers in brackets, but not those in code spans with other text."""
    text = CODE_SPAN.sub(lambda span: span["code"] if _BRACKETS.fullmatch(span["code"].strip()) else " ", prose)
    for match in _BRACKETS.finditer(text):
        for numbers in re.split(r"[,;]", match["numbers"]):
            first, *rest = (int(number) for number in re.split(r"[-–]", numbers))
            last = rest[0] if rest else first
            yield from range(first, min(last, first + _MOST_NUMBERS) + 1) if last >= first else (first, last)


def _separate(match: re.Match[str]) -> str:
    return " ".join(f"{match['path']}:{lines.strip()}" for lines in match["ranges"].split(","))


def _same_file(path: str, other: str) -> bool:
    return f"/{path}".endswith(f"/{other}") or f"/{other}".endswith(f"/{path}")


def _gaps(quoted: Sequence[Range], cited: Range) -> Iterator[int]:
    """Yield the lines after each quoted range that are cited."""
    yield from (each.last + 1 for each in quoted if cited.first <= each.last + 1 <= cited.last)
