"""Outlines of texts in which no definitions are found: documents, configuration, markup and plain text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from llamaindex_code_retrieval.languages.documents import asciidoc_layout, markdown_layout, restructuredtext_layout
from llamaindex_code_retrieval.languages.outline import Item, Outline
from llamaindex_code_retrieval.languages.sections import Layout, SectionSize, outline_of_sections

_DOCUMENT = SectionSize(join=250, divide=500, separator=" > ")


@dataclass(frozen=True, slots=True)
class _Format:
    layout: Callable[[Sequence[str]], Layout]
    size: SectionSize


_FORMATS: Mapping[str, _Format] = MappingProxyType(
    {
        "markdown": _Format(markdown_layout, _DOCUMENT),
        "restructuredtext": _Format(restructuredtext_layout, _DOCUMENT),
        "asciidoc": _Format(asciidoc_layout, _DOCUMENT),
    }
)


def outline_text(source: str, language: str) -> Outline:
    """Return the outline of a text by its headings, keys or whatever its format has.

    A text without any structure is one item of kind "window", to be cut into windows.

    >>> outline_text("# Cart\\n\\nHolds items.\\n", "markdown").top.children[0].scope
    'Cart'
    """
    lines = source.split("\n")
    if language in _FORMATS:
        format_ = _FORMATS[language]
        layout = format_.layout(lines)
        if layout.starts:
            return outline_of_sections(lines, layout, format_.size)
    return Outline(lines, Item("window", "", "", 0, len(lines) - 1))
