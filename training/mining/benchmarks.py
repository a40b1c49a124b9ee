"""What evaluations use and training must not see: the codes and queries of data sets, and the code of folders."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from llamaindex_code_retrieval.training.pair_sources import load_pairs, read_named_split
from llamaindex_code_retrieval.training.repositories.code_files import read_code_files


@dataclass(frozen=True, slots=True)
class Benchmarks:
    """The codes of evaluation sets, and their queries in lower case."""

    codes: tuple[str, ...] = ()
    queries: frozenset[str] = frozenset()


def read_benchmarks(sources: Iterable[str]) -> Benchmarks:
    """Read evaluation sets: the sources of :func:`.load_pairs`, and folders with source code.

    Of a set in BEIR's layout all codes count, and the queries of the split that is named.

    Raises:
        FileNotFoundError: a file, folder or split does not exist.
        ValueError: a source is in none of these formats.
    """
    codes: list[str] = []
    queries: set[str] = set()
    for source in sources:
        folder = Path(source).expanduser()
        if folder.is_dir() and not (folder / "corpus.jsonl").is_file():
            codes += _codes_in(folder)
        elif source.startswith("hf:") or source.endswith((".jsonl", ".jsonl.gz")):
            pairs = load_pairs(source)
            codes += [pair.code for pair in pairs]
            queries |= {pair.query.lower() for pair in pairs}
        else:
            split = read_named_split(source)
            codes += split.corpus.values()
            queries |= {text.lower() for text in split.queries.values()}
    return Benchmarks(tuple(codes), frozenset(queries))


def _codes_in(folder: Path) -> list[str]:
    return [
        textwrap.dedent(definition.code_without_docstring).strip("\n")
        for file in read_code_files(folder, ".", parse=True)
        for definition in file.definitions
    ]
