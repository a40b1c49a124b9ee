"""Questions from the history of a repository: the subject of a small commit asks for the files that it changed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from random import Random

from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestion
from llamaindex_code_retrieval.eval.targets import Target
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, language_of
from llamaindex_code_retrieval.training.ranking_questions.selection import MAX_TARGETS, sample
from llamaindex_code_retrieval.training.repositories.code_files import is_side_path
from llamaindex_code_retrieval.training.repositories.history import read_commits
from llamaindex_code_retrieval.training.repositories.subjects import clean_subject, reject_commit

MAX_FILES = 12
"""Files of a commit, with tests and documentation; larger ones change a pattern in many places."""
MAX_PER_FILE = 5
_RECENT = 10  # sample from so many times the limit: the newest commits describe the code as it is


def commit_questions(root: Path, paths: Collection[str], *, limit: int, rng: Random) -> list[RepositoryQuestion]:
    """Return questions whose targets are the source files that a commit changed, by their present paths.

    A commit counts if it changed one to three source files, and all of them are among ``paths``. Other files, such as
    tests, examples and build files, may have changed with them.

    Raises:
        ValueError: ``root`` is not in a git repository with commits.
        FileNotFoundError: git is not installed.
    """
    questions: list[RepositoryQuestion] = []
    for commit in read_commits(root):
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
