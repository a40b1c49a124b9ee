"""The definitions of a file, put together again from its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, NamedTuple, Self

from llamaindex_code_retrieval.chat.headers import header_lines, signature_lines
from llamaindex_code_retrieval.chat.imports import used_imports
from llamaindex_code_retrieval.chunking.source import HEADER_ID
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES

_WHOLE_HEADER = 12
"""Lines of the longest class header that is quoted as it is; of others the signature and the beginning of the docs."""


class Chunk(NamedTuple):
    """A node of a file: whole lines with a scope."""

    id: str
    text: str
    first: int
    last: int
    symbol: str
    scope: str
    kind: str
    part: int
    header: str | None
    """Id of the node with which its own definition, or the one around it, begins."""

    @classmethod
    def of(cls, id_: str, text: str, metadata: Mapping[str, Any]) -> Self | None:
        """Return the chunk of a node; ``None`` if its text is not the lines of a file that its metadata name."""
        first, last, part = (metadata.get(key) for key in ("start_line", "end_line", "part"))
        if not (isinstance(first, int) and isinstance(last, int)) or "cell" in metadata:
            return None
        if last - first != text.count("\n"):
            return None
        symbol, scope, kind = (str(metadata.get(key) or "") for key in ("symbol", "scope", "kind"))
        return cls(
            id_, text, first, last, symbol, scope, kind, part if isinstance(part, int) else 1, metadata.get(HEADER_ID)
        )

    @property
    def numbers(self) -> range:
        """The numbers of its lines."""
        return range(self.first, self.last + 1)

    def is_of(self, other: Chunk) -> bool:
        """Return whether both have the names of one definition."""
        return (self.symbol, self.scope, self.kind) == (other.symbol, other.scope, other.kind)


class FileOutline:
    """Lines and definitions of a file, as far as its nodes are known.

    A definition has the id of the node with which it begins, which need not be known. ``is_complete`` says that all
    nodes of the file are.
    """

    def __init__(self, path: str, language: str, chunks: Iterable[Chunk], *, is_complete: bool) -> None:
        self.path = path
        self.language = language
        self.chunks: dict[str, Chunk] = {}
        self.lines: dict[int, str] = {}
        self._bodies: dict[str, set[int]] = {}
        ordered = sorted(chunks, key=lambda chunk: (chunk.first, chunk.last, chunk.part))
        texts = {chunk.first: chunk.text for chunk in ordered if chunk.first == chunk.last}
        cut = {chunk.first for chunk in ordered if chunk.first == chunk.last and chunk.text != texts[chunk.first]}
        for chunk in ordered:
            if chunk.first != chunk.last or chunk.first not in cut:  # parts of a line are quoted alone
                self.lines |= zip(chunk.numbers, chunk.text.split("\n"), strict=True)
                self.chunks[chunk.id] = chunk
        if is_complete:  # then all lines that no node has are blank
            blank = dict.fromkeys(set(range(1, max(self.lines, default=0))) - cut, "")
            self.lines = blank | self.lines

    def definition_of(self, id_: str) -> str:
        """Return the id of the definition that a node is a part of."""
        return self._definitions[id_]

    @cached_property
    def _definitions(self) -> dict[str, str]:
        definitions: dict[str, str] = {}
        before: Chunk | None = None
        for chunk in self.chunks.values():
            header = self.chunks.get(chunk.header or "")
            if header is not None and header.is_of(chunk):
                definitions[chunk.id] = definitions.get(header.id, header.id)
            elif chunk.part > 1 and header is None and chunk.header is not None:
                definitions[chunk.id] = chunk.header
            elif chunk.part > 1 and before is not None and before.is_of(chunk) and before.part == chunk.part - 1:
                definitions[chunk.id] = definitions[before.id]
            else:
                definitions[chunk.id] = chunk.id
            before = chunk
        return definitions

    def parts_of(self, definition: str) -> list[Chunk]:
        """Return the nodes of a definition; of a function with those of the functions inside it."""
        own = [self.chunks[id_] for id_, each in self._definitions.items() if each == definition]
        if any(chunk.kind in ("function", "method") for chunk in own):
            around = {definition, *(each for each in self._inner if definition in self._inner[each])}
            own = [self.chunks[id_] for id_, each in self._definitions.items() if each in around]
        return own

    @cached_property
    def _inner(self) -> dict[str, list[str]]:
        """The definitions around each definition that has some, the innermost first."""
        around = {each: list(self._around(each)) for each in set(self._definitions.values())}
        return {each: outer for each, outer in around.items() if outer}

    def _around(self, definition: str) -> Iterator[str]:
        """Yield the ids of the definitions around a definition, the innermost first."""
        seen = {definition}
        while (start := self.chunks.get(definition)) is not None and start.header in self.chunks:
            definition = self._definitions[start.header]
            if definition in seen:  # nodes that this package did not make
                return
            seen.add(definition)
            yield definition

    def body(self, definition: str) -> set[int]:
        """Return the numbers of the lines of a definition, blank ones between its nodes among them."""
        if definition not in self._bodies:
            self._bodies[definition] = self._body(definition)
        return self._bodies[definition]

    def _body(self, definition: str) -> set[int]:
        parts = self.parts_of(definition)
        numbers = {number for part in parts for number in part.numbers}
        if not numbers or any(part.kind == "class" for part in parts):
            return numbers
        between = range(min(numbers), max(numbers))
        return numbers.union(number for number in between if not self.lines.get(number, "unknown").strip())

    def signature(self, definition: str) -> set[int]:
        """Return the numbers of the lines that declare a definition."""
        start = self.chunks.get(definition)
        if start is None:
            return set()
        return set(signature_lines(self.lines, sorted(self.body(definition)), start.symbol))

    def headers(self, definition: str) -> list[tuple[set[int], set[int]]]:
        """Return the signature, and the header with docs, of each definition around a definition, the innermost first.

        Where methods stand outside their class, as in Go and Rust, the class of the same file is one of them. Sections
        of documents have no headers: their scopes say it.
        """
        if self.language not in CODE_LANGUAGES:
            return []
        around = list(self._around(definition))
        start = self.chunks[definition]
        outer = start.scope.removesuffix(start.symbol).rstrip(" >.:")
        if start.kind == "method":
            classes = (chunk.id for chunk in self.chunks.values() if chunk.kind == "class" and chunk.scope == outer)
            around += [self._definitions[id_] for id_ in classes][:1]
        known = [each for each in dict.fromkeys(around) if each in self.chunks and each != definition]
        return [(self.signature(each), self._header(each)) for each in known]

    def imports(self, text: str) -> list[int]:
        """Return the numbers of the lines outside definitions that import what ``text`` uses."""
        outside = (number for chunk in self.chunks.values() if not chunk.scope for number in chunk.numbers)
        return used_imports({number: self.lines[number] for number in outside}, self.language, text)

    def _header(self, definition: str) -> set[int]:
        start = self.chunks[definition]
        if len(start.numbers) <= _WHOLE_HEADER and start.kind == "class":
            return set(start.numbers)
        return set(header_lines(self.lines, sorted(self.body(definition)), start.symbol))
