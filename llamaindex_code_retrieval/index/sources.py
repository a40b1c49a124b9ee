"""List and read the source files of a folder: those that git lists, or else those that no .gitignore excludes."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pathspec import GitIgnoreSpec

from llamaindex_code_retrieval.index.git import run_git
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, language_of

MAX_FILE_BYTES = 1_000_000
_ALWAYS_SKIPPED = frozenset((".git", ".hg", ".svn", ".tox", ".venv", "__pycache__", "node_modules", "site-packages"))


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a language that the parser knows. ``path`` is relative to the root, with forward slashes."""

    path: str
    text: str


@dataclass(slots=True)
class Skips:
    """Counts of the files that were not read as they are."""

    reasons: Counter[str] = field(default_factory=Counter)
    """Files that were left out, by reason."""
    replaced: int = 0
    """Files that were read with U+FFFD in place of bytes that are not UTF-8."""


def walk(root: Path, skips: Skips, *, max_file_bytes: int = MAX_FILE_BYTES) -> Iterator[SourceFile]:
    """Yield the source files under ``root`` in path order, and count the files that are left out in ``skips``.

    Inside a git checkout these are the files that git tracks or would track, without submodules and other checkouts
    inside it. Elsewhere .gitignore files are obeyed, and hidden folders, ``node_modules`` and the like are left out.
    Symbolic links are not followed.

    Raises:
        ValueError: ``root`` is not a folder.
    """
    if not root.is_dir():
        kind = "a file" if root.exists() else "missing"
        raise ValueError(f"{root} is not a folder ({kind}); name a folder with source code, or a git URL")
    listed = _git_files(root)
    for path in sorted(listed if listed is not None else _walk_files(root, skips)):
        if language_of(path) not in CODE_LANGUAGES:
            # git lists the folders of other repositories, and else files only
            is_folder = os.path.isdir(root / path) and not os.path.islink(root / path)
            skips.reasons["submodule or nested repository" if is_folder else "no known language"] += 1
            continue
        file = _read(root / path, path, skips, max_file_bytes)
        if file is not None:
            yield file


def read_sources(roots: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of the source files under several folders; a path begins with its folder's name.

    Raises:
        ValueError: a root is not a folder, or two have one name.
    """
    names: set[str] = set()
    for root in roots:
        name = root.resolve().name
        if name in names:
            raise ValueError(f"two folders are named {name!r}, so paths would not tell them apart; name one of them")
        names.add(name)
        for file in walk(root, Skips()):
            yield f"{name}/{file.path}", file.text


def path_prefixes(folders: Sequence[Path]) -> list[str]:
    """Return the prefix of the paths of each root: nothing for a single root, else a name that tells the roots apart.

    >>> path_prefixes([Path("/a/lib"), Path("/b/lib"), Path("/c/app")])
    ['lib/', 'lib-2/', 'app/']
    """
    if len(folders) == 1:
        return [""]
    prefixes: list[str] = []
    for folder in folders:
        name, number = folder.name, 1
        while f"{name}/" in prefixes:
            number += 1
            name = f"{folder.name}-{number}"
        prefixes.append(f"{name}/")
    return prefixes


def _read(full: Path, path: str, skips: Skips, max_file_bytes: int) -> SourceFile | None:
    try:
        status = full.lstat()
        if stat.S_ISLNK(status.st_mode):
            skips.reasons["symbolic link"] += 1
            return None
        if not stat.S_ISREG(status.st_mode):
            skips.reasons["not a regular file"] += 1
            return None
        if status.st_size > max_file_bytes:
            skips.reasons[f"larger than {max_file_bytes:,} bytes"] += 1
            return None
        data = full.read_bytes()
    except FileNotFoundError:  # listed by git, deleted in the work tree; or gone since it was listed
        skips.reasons["deleted"] += 1
        return None
    except OSError as error:
        skips.reasons[f"unreadable ({error.strerror})"] += 1
        return None
    if b"\0" in data:
        skips.reasons["binary"] += 1
        return None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        skips.replaced += 1
        text = data.decode("utf-8-sig", errors="replace")
    return SourceFile(path, text)


def _git_files(root: Path) -> list[str] | None:
    """Return what git tracks or would track under ``root``; ``None`` outside a work tree or where git ignores it."""
    try:
        ignored = run_git("check-ignore", "-q", ".", folder=root)
        if ignored.returncode != 1:  # 0: the root itself is ignored, 128: no work tree
            return None
        listing = run_git("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate", folder=root)
    except FileNotFoundError:  # no git on this machine
        return None
    if listing.returncode != 0:
        return None
    return [os.fsdecode(name) for name in listing.stdout.split(b"\0") if name]


def _walk_files(root: Path, skips: Skips) -> Iterator[str]:
    def unreadable(error: OSError) -> None:
        skips.reasons[f"unreadable folder ({error.strerror})"] += 1

    rules: dict[Path, GitIgnoreSpec] = {}
    for folder, names, files in os.walk(root, followlinks=False, onerror=unreadable):
        here = Path(folder)
        if ".gitignore" in files:
            try:
                lines = (here / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
                rules[here] = GitIgnoreSpec.from_lines(filter(_is_valid_pattern, lines))
            except OSError as error:
                unreadable(error)
        active = [(base, spec) for base, spec in rules.items() if here == base or here.is_relative_to(base)]

        def is_ignored(path: Path, suffix: str = "", active: list[tuple[Path, GitIgnoreSpec]] = active) -> bool:
            verdicts = [spec.check_file(path.relative_to(base).as_posix() + suffix).include for base, spec in active]
            decisions = [verdict for verdict in verdicts if verdict is not None]
            return decisions[-1] if decisions else False  # that of the deepest .gitignore

        names[:] = sorted(
            name
            for name in names
            if name not in _ALWAYS_SKIPPED and not name.startswith(".") and not is_ignored(here / name, "/")
        )
        for name in files:
            if not is_ignored(here / name):
                yield (here / name).relative_to(root).as_posix()


def _is_valid_pattern(line: str) -> bool:
    """Return whether pathspec takes a line of a .gitignore; git takes any, and a wrong pattern matches nothing."""
    try:
        GitIgnoreSpec.from_lines([line])
    except (ValueError, re.error):
        return False
    return True
