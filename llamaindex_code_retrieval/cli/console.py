"""Write to the terminal. No other module of the command line writes, except ``terminal`` for this one.

Indexed code, path names, symbols, repository names and error texts come from elsewhere and may hold terminal escape
sequences. Every function here escapes what could act on a terminal, and never interprets markup, so that no command
has to remember to.

Where the output is no terminal, it is plain text: no colours, lines of any length, columns separated by tabs. rich,
which is slow to import, is only used on a terminal.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from llamaindex_code_retrieval import _io
from llamaindex_code_retrieval._io import clean_text, printable

_PROGRAM = "code-retrieval"
_QUIET_SECONDS = 60
"""Between two lines of progress where there is no terminal to draw bars on."""

_STAGES = {
    "parse": "parsing files",
    "embed": "embedding nodes",
    "evaluate": "running queries",
    "generate": "generating answers",
    "rerank": "reranking",
    "time": "measuring latency",
    "mine": "mining files",
    "teach": "embedding by teachers",
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


def _is_terminal(file: IO[str]) -> bool:
    """Return whether to write with colours, which the environment variable FORCE_COLOR forces or, if empty, forbids."""
    forced = os.environ.get("FORCE_COLOR")
    return file.isatty() if forced is None else forced != ""


def _encoding(file: IO[str]) -> str:
    return getattr(file, "encoding", None) or "utf-8"


def _write(text: str, file: IO[str]) -> None:
    try:
        file.write(text)
        file.flush()
    except BrokenPipeError:
        raise OutputClosedError from None


def print_text(text: str, *, file: IO[str] | None = None, end: str = "\n") -> None:
    """Print text of one line or more to stdout, or to ``file``."""
    file = file or sys.stdout
    _write(printable(text, multiline=True, encoding=_encoding(file)) + end, file)


def read_line(prompt: str) -> str | None:
    """Return a line from stdin without its end, and ``None`` after the last one; only a terminal shows the prompt."""
    try:
        if sys.stdin.isatty() and sys.stdout.isatty():
            with suppress(ImportError):  # Windows has none
                importlib.import_module("readline")  # input() then edits lines and remembers them
            return clean_text(input(prompt))
        line = sys.stdin.readline()
    except EOFError:
        print_text("")
        return None
    except UnicodeDecodeError as error:
        raise ValueError(f"stdin is not {error.encoding} text ({error.reason}); write it in {error.encoding}") from None
    return clean_text(line.rstrip("\n")) if line else None


def print_parts(*parts: tuple[str, str]) -> None:
    """Print one line of parts, each with its style (``""`` for none)."""
    escaped = [(printable(text, encoding=_encoding(sys.stdout)), style) for text, style in parts]
    if _is_terminal(sys.stdout):
        from llamaindex_code_retrieval.cli import terminal

        terminal.print_parts(*escaped)
    else:
        _write("".join(text for text, _ in escaped) + "\n", sys.stdout)


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

    No cell is cut. Where a table with headings is wider than the terminal, its rows are printed as lists; where there
    is no terminal, its columns are separated by tabs, and the lines of a cell by commas.
    """
    encoding = _encoding(sys.stdout)
    title = printable(title, encoding=encoding)
    headings = [printable(heading, encoding=encoding) for heading in headings]
    if _is_terminal(sys.stdout):
        from llamaindex_code_retrieval.cli import terminal

        cells = [[printable(cell, multiline=True, encoding=encoding) for cell in row] for row in rows]
        terminal.print_table(title, cells, headings=headings, numeric=numeric)
        return
    cells = [[printable(cell.replace("\n", ", "), encoding=encoding) for cell in row] for row in rows]
    lines = [title, *("\t".join(row) for row in (headings, *cells) if row)]
    _write("\n".join(lines) + "\n", sys.stdout)


def print_code(code: str, *, language: str, first_line: int, marked: Collection[int] = ()) -> None:
    """Print source code with line numbers, and a mark before the lines whose numbers are in ``marked``.

    On a terminal, it is coloured, and lines are cut at its width.
    """
    encoding = _encoding(sys.stdout)
    lines = printable(code, multiline=True, encoding=encoding).expandtabs(4).split("\n")
    mark, width = printable("❱", encoding=encoding), len(str(first_line + len(lines)))
    margins = [
        (f"{mark} " if number in marked else "  ", f"{number:>{width}} ")
        for number in range(first_line, first_line + len(lines))
    ]
    if _is_terminal(sys.stdout):
        from llamaindex_code_retrieval.cli import terminal

        terminal.print_code(lines, margins, language=language)
    else:
        _write(
            "".join(f"{mark}{number}{line}\n" for (mark, number), line in zip(margins, lines, strict=True)), sys.stdout
        )


@contextmanager
def progress_bars(*, clock: Callable[[], float] = time.monotonic) -> Iterator[_io.Progress]:
    """Yield a callback (stage, done, total) that draws one bar per stage on stderr.

    Where stderr is no terminal it prints a line a minute instead; ``clock`` returns seconds.
    """
    if _is_terminal(sys.stderr):
        from llamaindex_code_retrieval.cli import terminal

        with terminal.progress_bars() as draw:
            yield lambda stage, done, total: draw(_describe(stage), done, total)
        return
    last_line = clock()

    def show(stage: str, done: int, total: int) -> None:
        nonlocal last_line
        if clock() - last_line > _QUIET_SECONDS:
            last_line = clock()
            print_text(f"{_describe(stage)}: {done:,} of {total:,}", file=sys.stderr)

    yield show


def _describe(stage: str) -> str:
    return printable(_STAGES.get(stage, stage))
