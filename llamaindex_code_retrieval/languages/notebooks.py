"""Jupyter notebooks: the sources of their cells as one text, and where each line of it stands in the file."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llamaindex_code_retrieval.languages.documents import markdown_layout
from llamaindex_code_retrieval.languages.outline import Item, Outline, descendants
from llamaindex_code_retrieval.languages.sections import Layout, SectionSize, SectionStart, outline_of_sections
from llamaindex_code_retrieval.languages.syntax import parse
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, language_of

_CELL_LEVEL = 7  # below the headings of Markdown
_SIZE = SectionSize(join=0, divide=0, tiny=40, separator=" > ")
_JSON_TOKEN = re.compile(r'("(?:[^"\\\n]|\\.)*+")(\s*:)?|[{}\[\]]')

_CELL_MAGIC = re.compile(r"\s*%%(\w+)[ \t]*(\S*)")
_MAGIC_LANGUAGES = {"sh": "bash", "js": "javascript"}
"""Cell magics that are not named after their language."""
_LINE_MAGIC = re.compile(r"(?:[\w.,\[\] \t]+=[ \t]*)?(?:%{1,2}[A-Za-z_]|!(?!=)).*|\?{1,2}[\w.]+|[\w.]+\?{1,2}")


@dataclass(frozen=True, slots=True)
class CellLines:
    """Lines of a notebook: from a line of a cell to a line of the same or a later cell. All count from 1."""

    start_line: int
    """In the file."""
    end_line: int
    cell: int
    cell_start_line: int
    last_cell: int
    cell_end_line: int


@dataclass(frozen=True, slots=True)
class _Cell:
    number: int
    kind: str
    lines: Sequence[str]
    first: int
    """Row of its first line in the text of the notebook."""


@dataclass
class Notebook:
    """The sources of the code and Markdown cells, separated by blank lines, and their outline."""

    outline: Outline
    _places: Sequence[tuple[int, int, int]]
    """Line in the file, number of the cell and line in the cell of each row."""

    @property
    def text(self) -> str:
        """The sources of the cells; its rows are those of the outline."""
        return "\n".join(self.outline.lines)

    def locate(self, first: int, last: int) -> CellLines:
        """Return where the rows of a node stand."""
        (start_line, cell, cell_start), (end_line, last_cell, cell_end) = self._places[first], self._places[last]
        return CellLines(start_line, max(start_line, end_line), cell, cell_start, last_cell, cell_end)


def read_notebook(source: str) -> Notebook | None:
    """Read a notebook of any version; return ``None`` if it is not one.

    Definitions are found in code cells, in the language of the kernel or of the cell's ``%%`` magic. Headings of
    Markdown cells are the scope of the cells below them. Outputs and raw cells are left out.
    """
    read = _read_cells(source)
    if read is None:
        return None
    cells, language = read
    lines: list[str] = []
    places: list[tuple[int, int, int]] = []
    file_rows = _file_rows(source)
    for cell in cells:
        if lines:
            lines.append("")
            places.append(places[-1])
        rows = file_rows[cell.number - 1] if cell.number <= len(file_rows) else []
        rows = rows or [0]
        lines += cell.lines
        places += [(rows[min(row, len(rows) - 1)] + 1, cell.number, row + 1) for row in range(len(cell.lines))]
    outline = outline_of_sections(lines or [""], _cell_layout(cells), _SIZE)
    _add_definitions(outline, cells, language)
    return Notebook(outline, places)


def _read_cells(source: str) -> tuple[list[_Cell], str] | None:
    """Return the code and Markdown cells, and the language of the kernel."""
    import nbformat  # imports slowly, and few repositories need it
    from nbformat.reader import reads

    try:
        notebook = nbformat.convert(reads(source), to_version=4)
        contents = [(str(cell["cell_type"]), str(cell["source"])) for cell in notebook["cells"]]
        language = _kernel_language(notebook.get("metadata", {}))
    except (nbformat.ValidationError, AttributeError, KeyError, RecursionError, TypeError, ValueError):
        return None
    cells: list[_Cell] = []
    row = 0
    for number, (kind, text) in enumerate(contents, start=1):
        if kind in ("code", "markdown") and text.strip():
            cells.append(_Cell(number, kind, text.split("\n"), row))
            row += len(cells[-1].lines) + 1
    return cells, language


def _kernel_language(metadata: Mapping[str, Any]) -> str:
    """Return the language of code cells: Python if the notebook does not tell, "text" if it is unknown."""
    info, kernel = metadata.get("language_info") or {}, metadata.get("kernelspec") or {}
    names = [str(name).lower() for name in (info.get("name"), kernel.get("language")) if name]
    by_extension = language_of(f"cell{info.get('file_extension', '')}")
    known = [name for name in (*names, by_extension) if name in CODE_LANGUAGES]
    return known[0] if known else "text" if names and "ipython" not in names else "python"


def _file_rows(source: str) -> list[list[int]]:
    """Return the rows of the file in which the lines of each cell's source start."""
    cells: list[list[int]] = []
    stack: list[str] = []  # keys of the open brackets, "" inside an array
    key = ""
    starts_line = True
    row = position = 0
    for token in _JSON_TOKEN.finditer(source):
        row += source.count("\n", position, token.start())
        position = token.start()
        if token[0] in ("{", "["):
            if token[0] == "{" and stack[-1:] == ["cells"]:
                cells.append([])
                starts_line = True
            stack.append(key)
            key = ""
        elif token[0] in ("}", "]"):
            key = stack.pop() if stack else ""
        elif token[2]:
            key = token[1][1:-1]
        elif cells and _is_cell_source(stack, key):
            added = json.loads(token[1]).count("\n")
            cells[-1] += [row] * (starts_line + added)
            starts_line = token[1].endswith('\\n"')
            if starts_line:
                cells[-1].pop()  # the next string starts that line
    return cells


def _is_cell_source(stack: Sequence[str], key: str) -> bool:
    """Return whether a string with this key is the source of a cell, or with no key a part of it."""
    *outer, own = [*stack[-3:], key] if key else stack[-3:]
    return own in ("source", "input") and outer[-2:-1] == ["cells"]


def _cell_layout(cells: Sequence[_Cell]) -> Layout:
    """Return the headings of Markdown cells and, below them, the other cells."""
    starts: list[SectionStart] = []
    depths: dict[int, int] = {}
    for cell in cells:
        layout = markdown_layout(cell.lines) if cell.kind == "markdown" else Layout([])
        if not layout.starts or layout.starts[0].row > 0:
            starts.append(SectionStart(cell.first, _CELL_LEVEL, "", cell.first, "cell"))
        for start in layout.starts:
            starts.append(replace(start, row=cell.first + start.row, content=cell.first + start.content))
        depths.update((cell.first + row, depth) for row, depth in layout.depths.items())
    return Layout(starts, depths)


def _add_definitions(outline: Outline, cells: Sequence[_Cell], language: str) -> None:
    """Add the definitions of code cells to the items of their cells."""
    holders = list(descendants(outline.top))
    firsts = [holder.first for holder in holders]
    parsed_cells: list[tuple[int, Outline]] = []
    for cell in cells:
        parsed = _parse_cell(cell, language) if cell.kind == "code" else None
        if parsed is None:
            continue
        holder = holders[bisect_right(firsts, cell.first) - 1]
        for item in descendants(parsed.top):
            _move(item, cell.first)
        for item in parsed.top.children:
            item.parent = holder
        holder.children += parsed.top.children
        parsed_cells.append((cell.first, parsed))
    find_depths = outline.find_depths
    outline.find_depths = lambda: {
        **{first + row: depth for first, parsed in parsed_cells for row, depth in parsed.depths.items()},
        **find_depths(),
    }


def _parse_cell(cell: _Cell, language: str) -> Outline | None:
    """Parse a code cell without its magics, in the language that its ``%%`` magic names, if any."""
    lines = list(cell.lines)
    if magic := _CELL_MAGIC.match("\n".join(lines)):
        name = magic[1].lower()
        name = _MAGIC_LANGUAGES.get(name, name)
        if name in ("writefile", "file"):
            language = language_of(magic[2]) or "text"
        elif name in CODE_LANGUAGES:
            language = name
        lines[next(row for row, line in enumerate(lines) if line.strip())] = ""
    if language == "python":
        lines = [_without_magic(line) for line in lines]
    return parse("\n".join(lines), language) if language in CODE_LANGUAGES else None


def _without_magic(line: str) -> str:
    text = line.strip()
    return line[: len(line) - len(line.lstrip())] + "pass" if _LINE_MAGIC.fullmatch(text) else line


def _move(item: Item, rows: int) -> None:
    """Move an item down."""
    item.first += rows
    item.last += rows
    item.row += rows
    item.name_row += rows
    item.doc_rows = [(first + rows, last + rows) for first, last in item.doc_rows]
