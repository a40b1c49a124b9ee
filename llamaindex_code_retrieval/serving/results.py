"""What a :class:`.CodeService` returns: hits, lines of files and outlines. All are values that JSON can write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeHit:
    """A definition, or another piece of a file, that was found. Lines are counted from 1."""

    repository: str
    path: str
    """As in the index of the repository."""
    first: int
    last: int
    scope: str
    """Such as ``Cart.total``; empty for code outside definitions."""
    symbol: str
    kind: str
    language: str
    score: float
    text: str
    """Its lines; of a long definition those of the part that fits best."""
    also_lines: str = ""
    """Lines of other parts of the definition that were found, such as ``61-120, 301-360``."""
    cell: int | None = None
    """Of a notebook."""
    related: str = ""
    """Why it is related to a place, such as ``calls it``; empty for a hit of a search."""

    @classmethod
    def of(cls, repository: str, metadata: Mapping[str, Any], text: str, *, score: float) -> Self:
        """Return the hit of a node with this metadata and text."""
        first = metadata.get("start_line", 1)
        names = {name: str(metadata.get(name) or "") for name in ("scope", "symbol", "kind", "also_lines", "related")}
        return cls(
            repository=repository,
            path=str(metadata.get("path") or ""),
            first=first,
            last=metadata.get("end_line", first + text.count("\n")),
            language=str(metadata.get("language") or "text"),
            score=score,
            text=text,
            cell=metadata.get("cell"),
            **names,
        )


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, the best first, and what to know of them."""

    hits: list[CodeHit]
    notes: list[str]
    """Sentences such as that the index is not complete yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeText:
    """Lines of a file."""

    repository: str
    path: str
    first: int
    last: int
    """Of the lines in ``text``: fewer than were asked for if the file ends before, or if they are too many."""
    total: int
    """Lines of the file."""
    text: str
    language: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A definition of a file, or a section of a document."""

    first: int
    last: int
    scope: str
    kind: str
    signature: str
    """The line that declares it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDefinitions:
    """The definitions of a file in their order."""

    path: str
    language: str
    definitions: list[Definition]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outline:
    """The definitions of a file with those inside others; or of a folder, its files with their outermost ones."""

    repository: str
    path: str
    """Empty for the whole repository."""
    files: list[FileDefinitions]
    folders: dict[str, int]
    """Files below each folder in the folder, by its path."""
    notes: list[str]
