"""Select questions: a random sample that no file dominates, and which of them name their file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from random import Random

from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestion
from llamaindex_code_retrieval.eval.targets import Target
from llamaindex_code_retrieval.languages.syntax import Definition

MAX_TARGETS = 3
"""A question with more targets than this is too vague."""


def sample(
    questions: Iterable[RepositoryQuestion], limit: int, *, max_per_file: int, rng: Random
) -> list[RepositoryQuestion]:
    """Return at most ``limit`` of the questions at random, and at most ``max_per_file`` about the same file.

    Of several questions with the same text the first is kept.
    """
    first_with_query: dict[str, RepositoryQuestion] = {}
    for question in questions:
        first_with_query.setdefault(question.query.lower(), question)
    distinct = list(first_with_query.values())
    rng.shuffle(distinct)
    counts: Counter[str] = Counter()
    selected: list[RepositoryQuestion] = []
    for question in distinct:
        paths = {target.path for target in question.relevant}
        if len(selected) < limit and all(counts[path] < max_per_file for path in paths):
            counts.update(paths)
            selected.append(question)
    return selected


def targets_of(places: Iterable[tuple[str, Definition]]) -> tuple[Target, ...]:
    """Return a target for each file: the lines of its definition, or the whole file if it has several."""
    by_path: dict[str, list[Definition]] = {}
    for path, definition in places:
        by_path.setdefault(path, []).append(definition)
    return tuple(
        Target(path, found[0].start_line, found[0].end_line) if len(found) == 1 else Target(path)
        for path, found in by_path.items()
    )


def names_file(question: RepositoryQuestion) -> bool:
    """Return whether a question has the name of a target's file in it, with or without its extension.

    >>> names_file(RepositoryQuestion(query="Fix a crash in the mail_sender", relevant=(Target("a/mail_sender.py"),)))
    True
    >>> names_file(RepositoryQuestion(query="Send mails again", relevant=(Target("a/mail_sender.py"),)))
    False
    """
    query = question.query.lower()
    names: Sequence[str] = [PurePosixPath(target.path).stem.lower() for target in question.targets]
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", query) for name in names)
