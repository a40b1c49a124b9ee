"""Pairs of names: a question that names a definition or a file asks for the definition."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestion
from llamaindex_code_retrieval.eval.targets import Target
from llamaindex_code_retrieval.training.mining.files import Counts, RepositoryFiles
from llamaindex_code_retrieval.training.mining.making import NameIndex, Place, make_pair
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.ranking_questions.symbols import path_questions, symbol_questions
from llamaindex_code_retrieval.training.repositories.code_files import CodeFile, is_side_path


def symbol_pairs(files: RepositoryFiles, counts: Counts) -> Iterator[Pair]:
    """Yield a pair of each question of :func:`.symbol_questions` that one definition answers."""
    code_files = _code_files(files)
    found = {
        Target(file.origin.path, definition.start_line, definition.end_line): Place(file.origin, definition)
        for file in files.code
        for definition in file.definitions
    }
    rng = Random(f"symbol {_first_repository(files)}")
    for question in symbol_questions(code_files, limit=max(1, len(found)), rng=rng):
        place = found.get(question.relevant[0]) if len(question.relevant) == 1 else None
        yield from _pair("symbol", question, place, counts)


def path_pairs(files: RepositoryFiles, counts: Counts) -> Iterator[Pair]:
    """Yield a pair of each question of :func:`.path_questions` for one file that is named after a definition in it."""
    code_files = _code_files(files)
    names = NameIndex(files.code)
    rng = Random(f"path {_first_repository(files)}")
    for question in path_questions(code_files, limit=max(1, len(code_files)), rng=rng):
        place = names.named_after(question.relevant[0].path) if len(question.relevant) == 1 else None
        yield from _pair("path", question, place, counts)


def _pair(kind: str, question: RepositoryQuestion, place: Place | None, counts: Counts) -> Iterator[Pair]:
    if place is None:
        counts.dropped[f"{kind} of no definition, or of several"] += 1
        return
    pair = make_pair(kind, question.query, place, counts.dropped, is_sentence=False)
    if pair is not None:
        yield pair


def _code_files(files: RepositoryFiles) -> list[CodeFile]:
    return [
        CodeFile(file.origin.path, file.origin.language, file.definitions)
        for file in files.code
        if not is_side_path(file.origin.path)
    ]


def _first_repository(files: RepositoryFiles) -> str:
    """Return a name that does not change with the folder of the clone."""
    return min((file.origin.repository for file in files.code), default="")
