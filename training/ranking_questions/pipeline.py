"""``make_questions``: from a repository to questions with known answers, and from questions to files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from random import Random
from types import MappingProxyType
from typing import Any

from llamaindex_code_retrieval._io import make_folder, write_atomically
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestion, RepositoryQuestions
from llamaindex_code_retrieval.eval.targets import Target
from llamaindex_code_retrieval.training.ranking_questions.commits import commit_questions
from llamaindex_code_retrieval.training.ranking_questions.docs import doc_questions
from llamaindex_code_retrieval.training.ranking_questions.symbols import (
    path_questions,
    place_questions,
    quote_questions,
    symbol_questions,
)
from llamaindex_code_retrieval.training.repositories.code_files import read_code_files
from llamaindex_code_retrieval.training.repositories.folders import check_folders

LIMITS: Mapping[str, int] = MappingProxyType(
    {"commit": 60, "symbol": 25, "path": 10, "place": 10, "quote": 10, "doc": 25}
)
"""The sources of questions, and how many of each ``make_questions`` makes of one repository at most."""
_FROM_CODE = {
    "symbol": symbol_questions,
    "path": path_questions,
    "place": place_questions,
    "quote": quote_questions,
    "doc": doc_questions,
}


def make_questions(
    root: str | Path, *, folder: str = ".", limits: Mapping[str, int] = LIMITS, seed: int = 0
) -> list[RepositoryQuestion]:
    """Make questions about a repository whose answers its history and its code tell.

    - ``commit``: the subject of a small commit asks for the one to three source files that it changed.
    - ``symbol``: a name, such as ``Cart.total`` or "Cart class", asks for its definitions.
    - ``path``: a file name, the end of a path, or the words of a file name ask for the file.
    - ``place``: a path with a line, or a stack trace, asks for the function at that line.
    - ``quote``: a message in the code asks for the function that contains it.
    - ``doc``: the first sentence of a doc comment, every second time without some of its words, asks for its
      definition.

    The category of a question is its source. Tests, examples, build files, generated and foreign code are never
    targets. Equal code, history and seed give equal questions.

    Args:
        root: the checkout of the repository, with its history for the source ``commit``.
        folder: the folder in it that is searched; paths of targets are relative to ``root``.
        limits: how many questions to make of each source; a source that is not named makes none.
        seed: selects other questions.

    Raises:
        ValueError: an unknown source, a limit under 1, or commits of a folder without history.
        FileNotFoundError: the folder does not exist, or git is not installed.
        NotADirectoryError: it is a file.
    """
    for source, limit in limits.items():
        if source not in LIMITS:
            raise ValueError(f"{source!r} is not a source of questions; the sources are {', '.join(LIMITS)}")
        if limit < 1:
            raise ValueError(f"the limit of {source} must be at least 1, got {limit}; leave the source out for none")
    root = Path(root).expanduser()
    check_folders([root / folder])
    files = read_code_files(
        root, PurePosixPath(folder).as_posix(), parse=not limits.keys().isdisjoint({"symbol", "place", "quote", "doc"})
    )
    paths = frozenset(file.path for file in files)
    questions: list[RepositoryQuestion] = []
    for source in (source for source in LIMITS if source in limits):
        limit, rng = limits[source], Random(f"{seed} {source}")
        if source == "commit":
            questions += commit_questions(root, paths, limit=limit, rng=rng)
        else:
            questions += _FROM_CODE[source](files, limit=limit, rng=rng)
    first_with_query: dict[str, RepositoryQuestion] = {}
    for question in questions:
        first_with_query.setdefault(question.query, question)
    return list(first_with_query.values())


def write_questions(folder: str | Path, repositories: Sequence[RepositoryQuestions]) -> None:
    """Write questions in the layout that :func:`.load_questions` reads: ``repos.json`` and ``annotations/NAME.json``.

    Raises:
        ValueError: two repositories have the same name, or one has no questions.
    """
    names = [repository.name for repository in repositories]
    for repository in repositories:
        if names.count(repository.name) > 1:
            raise ValueError(f"two repositories are named {repository.name!r}; rename one of them")
        if not repository.questions:
            raise ValueError(f"{repository.name} has no questions; leave the repository out")
    annotations = make_folder(Path(folder) / "annotations")
    rows = [
        {
            "name": repository.name,
            "language": repository.language,
            "url": repository.url,
            "revision": repository.revision,
            "benchmark_root": repository.root,
        }
        for repository in repositories
    ]
    for repository in repositories:
        _write_json(annotations / f"{repository.name}.json", list(map(_question_row, repository.questions)))
    _write_json(Path(folder) / "repos.json", [{key: value for key, value in row.items() if value} for row in rows])


def _question_row(question: RepositoryQuestion) -> dict[str, Any]:
    return {
        "query": question.query,
        "category": question.category,
        "relevant": list(map(_target_row, question.relevant)),
        "secondary": list(map(_target_row, question.secondary)),
    }


def _target_row(target: Target) -> str | dict[str, Any]:
    return target.path if target.start_line is None else asdict(target)


def _write_json(file: Path, rows: Sequence[Any]) -> None:
    write_atomically(file, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
