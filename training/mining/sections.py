"""Pairs of documents: a section of a README or a manual asks for the definition that it describes."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from llamaindex_code_retrieval.languages.documents import asciidoc_layout, markdown_layout, restructuredtext_layout
from llamaindex_code_retrieval.languages.sections import Layout
from llamaindex_code_retrieval.training.mining.files import Counts, MinedFile, RepositoryFiles
from llamaindex_code_retrieval.training.mining.making import NameIndex, Place, make_pair
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.repositories.comments import summary

_LAYOUTS: Mapping[str, Callable[[Sequence[str]], Layout]] = MappingProxyType(
    {"markdown": markdown_layout, "restructuredtext": restructuredtext_layout, "asciidoc": asciidoc_layout}
)
_CODE = re.compile(r"`+~?(?:[\w.-]+/)*([A-Za-z_][\w.:#]{2,}(?:\(\))?)[^`\s]{0,40}`+")
_LINK = re.compile(r"\]\(([\w./-]+\.\w+)(?:#[\w-]*)?\)|`[^`<]*<([\w./-]+\.\w+)>`__?")
_FENCE = re.compile(
    r"^ *(```|~~~).*?^ *\1|^(?:\.\. code|\.\. sourcecode|\.\. testcode).*?(?=^\S|\Z)", re.DOTALL | re.MULTILINE
)
_LIST = re.compile(r"[-*+•]\s|\d+[.)]\s|\|")
_HEADING_NAME = re.compile(r"[^\w]*([A-Za-z_][\w.:#]{2,})(?:\([^)]*\))?\W*")
_GENERAL_HEADING = re.compile(
    r"(?:usage|examples?|overview|introduction|description|api|reference|notes?|options?|quick ?start|about|features?"
    r"|getting started|basics?|details|summary|background|source code|main api|returns?)\W*",
    re.IGNORECASE,
)


class _Section(NamedTuple):
    name: str
    """The heading as plain text."""
    heading: str
    text: str


def section_pairs(files: RepositoryFiles, counts: Counts) -> Iterator[Pair]:
    """Yield a pair of each section that describes one definition.

    That is the definition in the heading; else the only one that the text names as code or links to. A name must have
    one meaning in the repository, and a linked file counts as the definition after which it is named.
    """
    names = NameIndex(files.code)
    for document in files.documents:
        for section in _sections(document):
            place = _described(section, document.origin.path, names)
            if place is None:
                counts.dropped["section about no definition, or about several"] += 1
                continue
            pair = make_pair("section", _query(section, place), place, counts.dropped)
            if pair is not None:
                yield pair


def _sections(document: MinedFile) -> Iterator[_Section]:
    lines = document.text.split("\n")
    starts = [start for start in _LAYOUTS[document.origin.language](lines).starts if start.name]
    ends = [*(start.row for start in starts), len(lines)][1:]
    for start, end in zip(starts, ends, strict=True):
        heading = " ".join(lines[start.row : start.content] if start.content >= 0 else [start.name])
        yield _Section(start.name, heading, _FENCE.sub("", "\n".join(lines[max(start.content, start.row) : end])))


def _described(section: _Section, path: str, names: NameIndex) -> Place | None:
    whole = _HEADING_NAME.fullmatch(section.heading)
    in_heading = [*_CODE.findall(section.heading), *([whole[1]] if whole else [])]
    return _only(map(names.find, in_heading)) or _only(
        [*map(names.find, _CODE.findall(section.text)), *_linked(section.text, path, names)]
    )


def _linked(text: str, path: str, names: NameIndex) -> Iterator[Place | None]:
    for match in _LINK.finditer(text):
        target = match[1] or match[2]
        for base in (posixpath.dirname(path), ""):
            yield names.named_after(posixpath.normpath(posixpath.join(base, target)))


def _only(places: Iterable[Place | None]) -> Place | None:
    found = {(place.origin.path, place.definition.start_line): place for place in places if place is not None}
    return next(iter(found.values())) if len(found) == 1 else None


def _query(section: _Section, place: Place) -> str:
    """Return the first paragraph below the heading, after the heading where that says more than a name.

    A list is no description, and gives an empty query.
    """
    text = summary(section.text)
    if not text or _LIST.match(text):
        return ""
    says_more = len(section.name.split()) > 1 and place.definition.symbol not in section.name
    return f"{section.name}: {text}" if says_more and not _GENERAL_HEADING.fullmatch(section.name) else text
