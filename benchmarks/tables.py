"""The tables of benchmarks/README.md and README.md, made of the JSON files beside the scripts.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``, where NAME is a key of ``TABLES`` in
``speed_tables.py`` or ``quality_tables.py``. Nothing is measured here:

    python benchmarks/tables.py            # rewrite all tables
    python benchmarks/tables.py --check    # exit with 1 if one differs from its JSON file
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import quality_tables
import speed_tables

from llamaindex_code_retrieval._io import read_json, write_atomically

FOLDER = Path(__file__).parent
DOCUMENTS = (FOLDER / "README.md", FOLDER.parent / "README.md")
TABLES = {**speed_tables.TABLES, **quality_tables.TABLES}
_TABLE = re.compile(
    r"^(?P<start><!-- table: (?P<name>\S+) -->\n)(?P<table>.*?)(?P<end>^<!-- end of table -->)",
    re.DOTALL | re.MULTILINE,
)


class Figures(Mapping[str, Any]):
    """The JSON files of a folder by the name of their script, read when they are needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, Any] = {}

    def __getitem__(self, script: str) -> Any:
        if script not in self._read:
            file = self._folder / f"{script}.json"
            self._read[script] = read_json(file, remedy=f"run benchmarks/{script}.py")
        return self._read[script]

    def __iter__(self) -> Iterator[str]:
        return (file.stem for file in sorted(self._folder.glob("*.json")))

    def __len__(self) -> int:
        return len(list(iter(self)))


def with_tables(text: str, figures: Mapping[str, Any]) -> str:
    """Return a document with each table made anew.

    Raises:
        ValueError: it names an unknown table, or a table has no end.
    """
    starts = sum(line.startswith("<!-- table:") for line in text.splitlines())
    if starts != len(_TABLE.findall(text)):
        raise ValueError("a table has no line <!-- end of table -->, or its name has a space")

    def render(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ValueError(f"there is no table {name!r}; there are {', '.join(sorted(TABLES))}")
        return f"{match['start']}{TABLES[name](figures)}\n{match['end']}"

    return _TABLE.sub(render, text)


def outdated(document: Path, figures: Mapping[str, Any]) -> list[str]:
    """Return the names of the tables of a document that differ from their figures."""
    text = document.read_text(encoding="utf-8")
    before, after = (_TABLE.finditer(each) for each in (text, with_tables(text, figures)))
    return [old["name"] for old, new in zip(before, after, strict=True) if old["table"] != new["table"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a table is out of date")
    options = parser.parse_args()
    figures = Figures(FOLDER)
    stale = {document: outdated(document, figures) for document in DOCUMENTS}
    for document, names in stale.items():
        for name in names:
            print(f"{document.name}: {name} {'is out of date' if options.check else 'is made anew'}", file=sys.stderr)
        if names and not options.check:
            write_atomically(document, with_tables(document.read_text(encoding="utf-8"), figures))
    if options.check and any(stale.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
