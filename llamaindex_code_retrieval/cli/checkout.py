"""Sources given on the command line: folders, and git repositories, which are cloned."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from llamaindex_code_retrieval.index.git import run_git

GIT_URL = re.compile(r"(https?|ssh|git|file)://.+|[\w.-]+@[\w.-]+:.+")

_PROGRESS = re.compile(r"\d+%|^Cloning into|^remote: (Enumerating|Total)")


def check_sources(sources: Iterable[str]) -> None:
    """Refuse sources that are neither a folder nor a git URL.

    Raises:
        ValueError: there is no such folder, or it is a file.
    """
    for source in sources:
        folder = Path(source).expanduser()
        if not GIT_URL.fullmatch(source) and not folder.is_dir():
            kind = "a file" if folder.exists() else "missing"
            raise ValueError(f"{source} is not a folder ({kind}); name a folder with source code, or a git URL")


def checkout(url: str, out: Path, *, history: bool = False) -> Path:
    """Clone the newest commit of ``url`` into ``out``/sources, or update the clone that is there.

    ``history`` clones all commits, not the newest alone; a clone that is there is not completed.

    Raises:
        ValueError: ``out``/sources has a clone of another repository with the same name.
        OSError: git is not installed, fails, or writes nothing for ten minutes.
    """
    name = re.sub(r"\.git$", "", url.rstrip("/")).rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    folder = out / "sources" / (re.sub(r"[^\w.-]", "-", name) or "repository")
    if folder.is_dir():
        if _git("remote", "get-url", "origin", folder=folder).strip() == url:
            update_clone(folder)
            return folder
        raise ValueError(f"{folder} is a clone of another repository than {url}; choose another --out")
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _git("clone", "--progress", *(() if history else ("--depth", "1")), "--", url, str(partial))
    partial.rename(folder)
    return folder


def update_clone(clone: Path) -> None:
    """Set a clone to the newest commit of its origin's default branch."""
    _git("fetch", "--progress", "--depth", "1", "origin", "HEAD", folder=clone)
    _git("reset", "--quiet", "--hard", "FETCH_HEAD", folder=clone)


def _git(*arguments: str, folder: Path | None = None) -> str:
    try:
        done = run_git(*arguments, folder=folder)
    except FileNotFoundError as error:
        raise OSError(
            "git is not installed; install it, or clone the repository yourself and name the folder"
        ) from error
    if done.returncode != 0:
        lines = re.split(r"[\r\n]+", done.stderr.decode("utf-8", "replace"))
        complaint = "\n".join(line for line in lines if line.strip() and not _PROGRESS.search(line))
        raise OSError(f"git {arguments[0]} failed: {complaint}")
    return os.fsdecode(done.stdout)
