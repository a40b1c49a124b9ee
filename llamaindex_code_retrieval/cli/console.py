"""All output of the command line: the only module that writes to the terminal.

Indexed code, path names, symbols, repository names and error texts come from elsewhere and may hold terminal escape
sequences. Every function here escapes what could act on a terminal, and never interprets markup, so that no command
has to remember to.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

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
from llamaindex_code_retrieval._io import clean_text, printable

_PROGRAM = "code-retrieval"
_QUIET_SECONDS = 60
"""Between two lines of progress where there is no terminal to draw bars on."""

_UNLIMITED = 10_000
"""Width of a table, in characters, where there is no terminal: lines stay whole for grep and the like."""

_STAGES = {
    "parse": "parsing files",
    "embed": "embedding nodes",
    "evaluate": "running queries",
    "generate": "generating answers",
    "rerank": "reranking",
    "time": "measuring latency",
    "mine": "mining files",
    "compare": "comparing codes",
    "score": "scoring the base",
    "train": "training",
    "calibrate": "calibrating",
}


class OutputClosedError(Exception):
    """The reader of the output has gone, as in ``code-retrieval search ... | head -1``."""


def prepare_streams() -> None:
    """Make both streams escape what their encoding lacks, and log records and warnings go through :func:`printable`."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # missing on streams that are no files
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)


class _LogFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), multiline=True)


class _Console(Console):
    def __init__(self, file: IO[str]) -> None:
        super().__init__(file=file, markup=False, emoji=False, highlight=False)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise OutputClosedError

    def text(self, text: str, style: str = "", *, multiline: bool = True) -> Text:
        """Return ``text`` escaped for this console."""
        return Text(printable(text, multiline=multiline, encoding=self.encoding), style=style)

    def write(self, content: RenderableType) -> None:
        """Write whole lines, which the terminal wraps."""
        self.print(content, soft_wrap=True)


def print_text(text: str, *, file: IO[str] | None = None, end: str = "\n") -> None:
    """Print text of one line or more to stdout, or to ``file``."""
    console = _Console(file or sys.stdout)
    console.print(console.text(text), soft_wrap=True, end=end)


def print_parts(*parts: tuple[str, str]) -> None:
    """Print one line of parts, each with its style (``""`` for none)."""
    console = _Console(sys.stdout)
    console.write(Text.assemble(*(console.text(text, style, multiline=False) for text, style in parts)))


def print_message(text: str) -> None:
    """Print a message to stderr, after the program's name; further lines are indented."""
    print_text(f"{_PROGRAM}: {text.strip()}".replace("\n", "\n  "), file=sys.stderr)


def print_json(value: Any) -> None:
    """Print a value as strict JSON in ASCII: NaN and infinities become null, lone surrogates "?"."""
    print_text(json.dumps(_strict(value), indent=2, allow_nan=False))


def _strict(value: Any) -> Any:
    if isinstance(value, str | Path):
        return clean_text(str(value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_strict(key): _strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(each) for each in value]
    return value


def print_table(
    title: str, rows: Sequence[Sequence[str]], *, headings: Sequence[str] = (), numeric: Collection[str] = ()
) -> None:
    """Print a table under its title, with the columns under the headings ``numeric`` aligned to the right.

    No cell is cut: where a table with headings is wider than the terminal, its rows are printed as lists.
    """
    console = _Console(sys.stdout)
    console.write(console.text(title, "italic", multiline=False))
    table = Table(show_header=bool(headings))
    for heading in headings:
        table.add_column(console.text(heading), justify="right" if heading in numeric else "left")
    if not headings:
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(console.text, row))
    if not console.is_terminal:
        console.width = _UNLIMITED
    if headings and _width(table, console) > console.width:
        for row in rows:
            console.write(console.text(row[0], "bold"))
            for heading, cell in zip(headings[1:], row[1:], strict=True):
                console.write(console.text(f"  {heading}: {cell}"))
    else:
        console.print(table)


def _width(table: Table, console: Console) -> int:
    """Return the width of a table whose cells are not folded."""
    return Measurement.get(console, console.options.update(width=_UNLIMITED), table).maximum


def print_code(code: str, *, language: str, first_line: int, marked: Collection[int] = ()) -> None:
    """Print source code with line numbers, and a mark before the lines whose numbers are in ``marked``.

    On a terminal, lines are cut at its width.
    """
    console = _Console(sys.stdout)
    escaped = printable(code, multiline=True, encoding=console.encoding)
    syntax = Syntax("", language, theme="ansi_dark", background_color="default")
    lines = syntax.highlight(escaped).split("\n", allow_blank=True)
    mark, width = printable("❱", encoding=console.encoding), len(str(first_line + len(lines)))
    for number, line in enumerate(lines[: escaped.count("\n") + 1], start=first_line):
        text = Text.assemble((f"{mark} " if number in marked else "  ", "red"), (f"{number:>{width}} ", "dim"), line)
        text.expand_tabs(4)
        if console.is_terminal:
            text.truncate(console.width)
        console.write(text)


@contextmanager
def progress_bars(*, clock: Callable[[], float] = time.monotonic) -> Iterator[_io.Progress]:
    """Yield a callback (stage, done, total) that draws one bar per stage on stderr.

    Where stderr is no terminal it prints a line a minute instead; ``clock`` returns seconds.
    """
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_Console(sys.stderr), transient=True) as bars:
        tasks: dict[str, TaskID] = {}
        last_line = clock()

        def show(stage: str, done: int, total: int) -> None:
            nonlocal last_line
            description = printable(_STAGES.get(stage, stage))
            if not bars.console.is_terminal and clock() - last_line > _QUIET_SECONDS:
                last_line = clock()
                print_text(f"{description}: {done:,} of {total:,}", file=sys.stderr)
            if stage not in tasks:
                tasks[stage] = bars.add_task(description, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show
