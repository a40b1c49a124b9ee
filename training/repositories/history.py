"""The history of a repository: its commits, and the text of a file before and after one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from llamaindex_code_retrieval._io import clean_text
from llamaindex_code_retrieval.index.git import run_git

MAX_COMMITS = 5_000
"""Commits of the history that are read, newest first."""
_BATCH = 50  # commits whose files one git process prints
_WHOLE_FILE = 1_000_000  # lines of context


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit with the files under the root that it changed, by the paths that they were renamed to later."""

    revision: str
    author: str
    subject: str
    body: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChangedFile:
    """A file as a commit left it; ``changed`` are the lines, from 1, that it wrote or below which it deleted some."""

    path: str
    text: str
    changed: frozenset[int]


def is_shallow(root: Path) -> bool:
    """Return whether the repository around ``root`` has only a part of its history.

    Raises:
        ValueError: ``root`` is not in a git repository.
    """
    return _git(root, "rev-parse", "--is-shallow-repository").strip() == "true"


def read_commits(root: Path) -> Iterator[Commit]:
    """Yield the commits without merges, newest first, ``MAX_COMMITS`` at most.

    Raises:
        ValueError: ``root`` is not in a git repository with commits.
        FileNotFoundError: git is not installed.
    """
    prefix = _git(root, "rev-parse", "--show-prefix").rstrip("\n")
    log = _git(
        root, "log", "-z", "--no-merges", "--find-renames=100%", "--no-show-signature", "--no-color", "--no-relative",
        "--name-status", f"--max-count={MAX_COMMITS}", "--format=%x00%x1e%x00%H%x00%an <%ae>%x00%s%x00%b%x00",
    )  # fmt: skip
    present: dict[str, str] = {}  # path at the time of a commit -> path now
    for record in log.split("\0\x1e\0")[1:]:
        revision, author, subject, body, changes = record.split("\0", 4)
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
        under_root = tuple(path.removeprefix(prefix) for path in paths if path.startswith(prefix))
        yield Commit(revision, author, clean_text(subject), clean_text(body), under_root)


def read_changes(root: Path, revisions: Sequence[str]) -> Iterator[tuple[str, ChangedFile]]:
    """Yield each revision with each file under ``root`` that it changed in more than white space.

    Paths are relative to ``root``; a deleted file is left out.

    Raises:
        ValueError: git cannot read a revision.
    """
    for first in range(0, len(revisions), _BATCH):
        patches = _git(
            root, "show", "--format=%x00%x1e%x00%H", "--patch", f"--unified={_WHOLE_FILE}", "--ignore-all-space",
            "--relative", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color", "--no-show-signature",
            "--src-prefix=a/", "--dst-prefix=b/", *revisions[first : first + _BATCH], "--", ".",
        )  # fmt: skip
        for record in patches.split("\0\x1e\0")[1:]:
            revision, _, patch = record.partition("\n")
            for part in f"\n{patch}".split("\ndiff --git ")[1:]:
                file = _changed_file(part)
                if file is not None:
                    yield revision, file


def _changed_file(patch: str) -> ChangedFile | None:
    """Return the file of a patch that shows all of its lines as context; none if it was deleted or is binary."""
    head, hunk, content = patch.partition("\n@@ ")
    name = next((line[6:].rstrip("\t") for line in head.split("\n") if line.startswith("+++ b/")), "")
    if not hunk or not name or "\n@@ -" in content:
        return None
    lines: list[str] = []
    changed: set[int] = set()
    for line in content.split("\n")[1:]:
        if line.startswith("+"):
            lines.append(line[1:])
            changed.add(len(lines))
        elif line.startswith("-"):
            changed.add(len(lines) + 1)
        elif line.startswith(" ") or not line:
            lines.append(line[1:])
    return ChangedFile(name, "\n".join(lines), frozenset(changed))


def _changes(text: str) -> Iterator[list[str]]:
    """Yield the status and the path of each change of ``git log -z --name-status``; of a rename both paths."""
    fields = iter(field for field in text.lstrip("\0\n").split("\0") if field)
    for status in fields:
        count = 2 if status[0] in "RC" else 1
        yield [status, *islice(fields, count)]


def _git(root: Path, *arguments: str) -> str:
    done = run_git("-c", "core.quotePath=false", *arguments, folder=root)
    if done.returncode != 0:
        complaint = os.fsdecode(done.stderr).strip()
        raise ValueError(
            f"the history of {root} cannot be read ({complaint}); name a git repository with commits, or leave the "
            "commits out"
        )
    return done.stdout.decode(errors="surrogateescape")
