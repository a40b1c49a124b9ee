"""Outlines of texts in which no definitions are found: documents, configuration, markup and plain text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from llamaindex_code_retrieval.languages.build_files import cmake_layout, dockerfile_layout, makefile_layout
from llamaindex_code_retrieval.languages.configuration import ini_layout, toml_layout, yaml_layout
from llamaindex_code_retrieval.languages.documents import asciidoc_layout, markdown_layout, restructuredtext_layout
from llamaindex_code_retrieval.languages.heading_lines import LATEX, ORG, POD
from llamaindex_code_retrieval.languages.nesting import css_layout, json_layout, xml_layout
from llamaindex_code_retrieval.languages.outline import Outline
from llamaindex_code_retrieval.languages.prose import document_language, paragraphs, prose_layout
from llamaindex_code_retrieval.languages.sections import DOCUMENT, KEYS, Layout, SectionSize, outline_of_sections

_PROSE = SectionSize(join=800, divide=800, tiny=60)


@dataclass(frozen=True, slots=True)
class _Format:
    layout: Callable[[Sequence[str]], Layout]
    size: SectionSize


def _conf_layout(lines: Sequence[str]) -> Layout:
    """Find keys, or blocks in braces, as in the configuration of web servers."""
    layout = ini_layout(lines)
    return layout if layout.starts else css_layout(lines)


_FORMATS: Mapping[str, _Format] = MappingProxyType(
    {
        "markdown": _Format(markdown_layout, DOCUMENT),
        "restructuredtext": _Format(restructuredtext_layout, DOCUMENT),
        "asciidoc": _Format(asciidoc_layout, DOCUMENT),
        "latex": _Format(LATEX.layout, DOCUMENT),
        "org": _Format(ORG.layout, DOCUMENT),
        "pod": _Format(POD.layout, DOCUMENT),
        "yaml": _Format(yaml_layout, KEYS),
        "toml": _Format(toml_layout, KEYS),
        "json": _Format(json_layout, KEYS),
        "notebook": _Format(json_layout, KEYS),  # what `read_notebook` cannot read
        "xml": _Format(xml_layout, KEYS),
        "ini": _Format(_conf_layout, KEYS),
        "dockerfile": _Format(dockerfile_layout, KEYS),
        "makefile": _Format(makefile_layout, KEYS),
        "cmake": _Format(cmake_layout, KEYS),
        "css": _Format(css_layout, KEYS),
        "text": _Format(prose_layout, _PROSE),
    }
)
_DOCUMENTS = tuple(language for language, format_ in _FORMATS.items() if format_.size is DOCUMENT)


def outline_text(source: str, language: str) -> Outline:
    """Return the outline of a text by its headings, keys or whatever its format has.

    A text without any structure is one item of kind "window", to be cut into windows.

    >>> outline_text("# Cart\\n\\nHolds items.\\n", "markdown").top.children[0].scope
    'Cart'
    """
    lines = source.split("\n")
    if language == "text":
        language = document_language(lines) or language
    format_ = _FORMATS.get(language, _FORMATS["text"])
    layout, size = format_.layout(lines), format_.size
    if not layout.starts and layout.depths and language in _DOCUMENTS:  # paragraphs, with code and lists kept whole
        outermost = sorted({0, *(row for row, depth in layout.depths.items() if depth == 1)})
        layout, size = Layout(paragraphs(outermost), layout.depths), _PROSE
    elif not layout.starts and language != "text":
        return outline_text(source, "text")
    return outline_of_sections(lines, layout, size, kind="text" if layout.starts else "window")
