"""Draw on a terminal with rich, for ``console``, which escapes all text before."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from llamaindex_code_retrieval import _io
from llamaindex_code_retrieval.cli.console import OutputClosedError

_UNLIMITED = 10_000
"""Width in characters at which no cell of a table is folded."""


class _Console(Console):
    def __init__(self, file: IO[str]) -> None:
        super().__init__(file=file, force_terminal=True, markup=False, emoji=False, highlight=False)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise OutputClosedError

    def write(self, content: RenderableType) -> None:
        """Write whole lines, which the terminal wraps."""
        self.print(content, soft_wrap=True)


def print_parts(*parts: tuple[str, str]) -> None:
    """Print one line of parts, each with its style (``""`` for none)."""
    _Console(sys.stdout).write(Text.assemble(*parts))


def print_table(
    title: str, rows: Sequence[Sequence[str]], *, headings: Sequence[str], numeric: Collection[str]
) -> None:
    """Print a table, or its rows as lists if it has headings and is wider than the terminal."""
    console = _Console(sys.stdout)
    console.write(Text(title, "italic"))
    table = Table(show_header=bool(headings))
    for heading in headings:
        table.add_column(Text(heading), justify="right" if heading in numeric else "left")
    if not headings:
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    if headings and _width(table, console) > console.width:
        for row in rows:
            console.write(Text(row[0], "bold"))
            for heading, cell in zip(headings[1:], row[1:], strict=True):
                console.write(Text(f"  {heading}: {cell}"))
    else:
        console.print(table)


def _width(table: Table, console: Console) -> int:
    """Return the width of a table whose cells are not folded."""
    return Measurement.get(console, console.options.update(width=_UNLIMITED), table).maximum


def print_code(lines: Sequence[str], margins: Sequence[tuple[str, str]], *, language: str) -> None:
    """Print lines of code, each after its margin, a mark and a number; they are cut at the width of the terminal."""
    console = _Console(sys.stdout)
    syntax = Syntax("", language, theme="ansi_dark", background_color="default")
    highlighted = syntax.highlight("\n".join(lines)).split("\n", allow_blank=True)
    for line, (mark, number) in zip(highlighted, margins, strict=False):  # a line break may be added at the end
        text = Text.assemble((mark, "red"), (number, "dim"), line)
        text.truncate(console.width)
        console.write(text)


@contextmanager
def progress_bars() -> Iterator[_io.Progress]:
    """Yield a callback (description, done, total) that draws one bar for each description on stderr."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_Console(sys.stderr), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(description: str, done: int, total: int) -> None:
            if description not in tasks:
                tasks[description] = bars.add_task(description, total=total)
            bars.update(tasks[description], completed=done, total=total)

        yield draw
