"""Questions from the history of a repository: the subject of a small commit asks for the files that it changed."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

from llamaindex_code_retrieval._io import clean_text
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestion
from llamaindex_code_retrieval.eval.targets import Target
from llamaindex_code_retrieval.index.git import run_git
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, language_of
from llamaindex_code_retrieval.training.ranking_questions.code_files import is_side_path
from llamaindex_code_retrieval.training.ranking_questions.selection import MAX_TARGETS, sample
from llamaindex_code_retrieval.training.ranking_questions.subjects import clean_subject, reject_commit

MAX_COMMITS = 5_000
"""Commits of the history that are read, newest first."""
MAX_FILES = 12
"""Files of a commit, with tests and documentation; larger ones change a pattern in many places."""
MAX_PER_FILE = 5
_RECENT = 10  # sample from so many times the limit: the newest commits describe the code as it is


@dataclass(frozen=True, slots=True)
class _Commit:
    subject: str
    author: str
    paths: tuple[str, ...]
    """Changed files, relative to the root."""


def commit_questions(root: Path, paths: Collection[str], *, limit: int, rng: Random) -> list[RepositoryQuestion]:
    """Return questions whose targets are the source files that a commit changed, by their present paths.

    A commit counts if it changed one to three source files, and all of them are among ``paths``. Other files, such as
    tests, examples and build files, may have changed with them.

    Raises:
        ValueError: ``root`` is not in a git repository with commits.
        FileNotFoundError: git is not installed.
    """
    questions: list[RepositoryQuestion] = []
    for commit in _history(root):
        if len(questions) == _RECENT * limit:
            break
        changed = [path for path in commit.paths if language_of(path) in CODE_LANGUAGES and not is_side_path(path)]
        is_small = len(commit.paths) <= MAX_FILES and 1 <= len(changed) <= MAX_TARGETS
        if is_small and all(path in paths for path in changed) and not reject_commit(commit.subject, commit.author):
            targets = tuple(Target(path) for path in changed)
            questions.append(
                RepositoryQuestion(query=clean_subject(commit.subject), category="commit", relevant=targets)
            )
    return sample(questions, limit, max_per_file=MAX_PER_FILE, rng=rng)


def _history(root: Path) -> Iterator[_Commit]:
    """Yield the commits newest first, with the files under ``root`` that they changed.

    A file has the path that it was renamed to later, if it was.
    """
    prefix = _git(root, "rev-parse", "--show-prefix").rstrip("\n")
    log = _git(
        root, "log", "-z", "--no-merges", "--find-renames=100%", "--no-show-signature", "--no-color",
        "--no-relative", "--name-status", f"--max-count={MAX_COMMITS}", "--format=%x00%x1e%x00%an <%ae>%x00%s%x00",
    )  # fmt: skip
    present: dict[str, str] = {}  # path at the time of a commit -> path now
    for record in log.split("\0\x1e\0")[1:]:
        author, subject, changes = record.split("\0", 2)
        paths: list[str] = []
        renamed: dict[str, str] = {}
        for status, *names in _changes(changes):
            path = present.get(names[-1], names[-1])
            paths.append(path)
            if status.startswith("R"):
                renamed[names[0]] = path
            elif status == "A":
                present.pop(names[-1], None)  # an older file of this path was another one
        present.update(renamed)
        yield _Commit(
            clean_text(subject), author, tuple(path.removeprefix(prefix) for path in paths if path.startswith(prefix))
        )


def _changes(text: str) -> Iterator[list[str]]:
    """Yield the status and the path of each change of ``git log -z --name-status``; of a rename both paths."""
    fields = iter(field for field in text.lstrip("\0\n").split("\0") if field)
    for status in fields:
        count = 2 if status[0] in "RC" else 1
        yield [status, *islice(fields, count)]


def _git(root: Path, *arguments: str) -> str:
    done = run_git(*arguments, folder=root)
    if done.returncode != 0:
        complaint = os.fsdecode(done.stderr).strip()
        raise ValueError(
            f"the history of {root} cannot be read ({complaint}); name a git repository with commits, or leave the "
            "commits out"
        )
    return os.fsdecode(done.stdout)
