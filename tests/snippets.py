"""The samples of each language: ``languages/NAME/sample.EXTENSION``, and the outline of each in a ``.txt`` beside it.

``python tests/snippets.py FILE …`` writes the outline of samples; read what it wrote before you commit it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from llamaindex_code_retrieval.languages.notebooks import Notebook, read_notebook
from llamaindex_code_retrieval.languages.outline import Item, Outline, descendants
from llamaindex_code_retrieval.languages.pages import page_outline
from llamaindex_code_retrieval.languages.syntax import Definition, definitions, parse
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES
from llamaindex_code_retrieval.languages.text import outline_text

FOLDER = Path(__file__).parent / "languages"
SAMPLES = sorted(file for file in FOLDER.glob("*/*") if file.suffix != ".txt" or not file.with_suffix("").exists())
SNIPPETS = {
    file.parent.name: file.read_bytes().decode()
    for file in SAMPLES
    if file.stem == "sample" and file.parent.name in CODE_LANGUAGES
}
"""A source of each language in which definitions are found."""


def outline_file(sample: Path) -> Path:
    """Return the file with the outline of a sample."""
    return sample.with_name(f"{sample.name}.txt")


def describe(found: list[Definition]) -> str:
    """Return a line for each definition: first and last line, kind, scope and docstring.

    A line break in a docstring is written as a backslash and an n; ``prototype`` stands before a function without a
    body.
    """
    return "".join(
        f"{d.start_line}-{d.end_line} {'prototype ' * d.is_prototype}{d.kind} {d.scope}"
        + (f" | {d.docstring}".replace("\\", "\\\\").replace("\n", "\\n") if d.docstring else "")
        + "\n"
        for d in found
    )


def describe_outline(outline: Outline) -> str:
    """Return a line for each item of a text: first and last line, kind and scope; those inside it are indented."""

    def describe_items(items: Iterable[Item], indent: str) -> Iterator[str]:
        for item in items:
            yield f"{indent}{item.first + 1}-{item.last + 1} {item.kind} {item.scope}".rstrip() + "\n"
            yield from describe_items(item.children, indent + "  ")

    return "".join(describe_items([outline.top], ""))


def describe_notebook(notebook: Notebook) -> str:
    """Return a line for each item of a notebook: lines in the file, lines in the cells, kind and scope."""

    def line(item: Item) -> str:
        place = notebook.locate(item.first, item.last)
        cells = f"cell {place.cell}:{place.cell_start_line}-{place.last_cell}:{place.cell_end_line}"
        return f"{place.start_line}-{place.end_line} {cells} {item.kind} {item.scope}".rstrip() + "\n"

    return "".join(map(line, descendants(notebook.outline.top)))


def describe_sample(sample: Path) -> str:
    """Return the description of a sample in the language of its folder: of a page, its definitions and its sections."""
    source, language = sample.read_bytes().decode(), sample.resolve().parent.name
    if language in CODE_LANGUAGES:
        page = parse(source, language) if language == "html" else None
        return describe(definitions(source, language)) + (describe_outline(page_outline(page)) if page else "")
    notebook = read_notebook(source) if language == "notebook" else None
    return describe_outline(outline_text(source, language)) if notebook is None else describe_notebook(notebook)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        outline_file(Path(name)).write_text(describe_sample(Path(name)), encoding="utf-8")
