"""Which repository the files under a folder belong to, and under which licence they are."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from llamaindex_code_retrieval.index.git import run_git
from llamaindex_code_retrieval.training.mining.license_files import license_of_folder, license_of_metadata

_REMOTE = re.compile(r"(?:://[^/]+/|@[^:/]+:)(?:.*/)?([^/]+/[^/]+?)(?:\.git)?/*$")  # org/name in a URL


class Provenance:
    """The repository and licence of each file under a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._licenses: dict[PurePosixPath, str] = {}
        self._license_of_installed: dict[str, str] = {}  # path of a file -> licence of its package
        infos = sorted(self._root.glob("*.dist-info"))
        self._is_installed = bool(infos)
        for info in infos:
            license_ = license_of_metadata(info)
            if (info / "RECORD").is_file():
                for line in (info / "RECORD").read_text(encoding="utf-8", errors="replace").splitlines():
                    self._license_of_installed[line.split(",")[0].strip('"')] = license_
        top = None if self._is_installed else _git(self._root, "rev-parse", "--show-toplevel")
        self._top = Path(top) if top else self._root
        remote = _git(self._root, "remote", "get-url", "origin") if top else None
        match = _REMOTE.search(remote or "")
        self._repository = match[1] if match else self._top.name

    def repository_of(self, path: str) -> str:
        """Return the repository of a file: ``org/name`` of the remote, else the name of the folder or package."""
        return PurePosixPath(path).parts[0].partition(".")[0] if self._is_installed else self._repository

    @property
    def repositories(self) -> set[str]:
        """Names of the repositories that files under the folder can have."""
        if not self._is_installed:
            return {self._repository}
        return {self.repository_of(entry.name) for entry in self._root.iterdir()}

    def license_of(self, path: str) -> str:
        """Return the licence of the nearest folder above the file that states one, or of its installed package."""
        return self._license_above(PurePosixPath(path).parent) or self._license_of_installed.get(path, "")

    def _license_above(self, folder: PurePosixPath) -> str:
        if folder not in self._licenses:
            here = self._root / folder
            is_top = folder == PurePosixPath(".")
            if is_top and self._is_installed:
                self._licenses[folder] = ""
            elif is_top:
                above = [here, *(each for each in here.parents if each.is_relative_to(self._top))]
                self._licenses[folder] = next(filter(None, map(license_of_folder, above)), "")
            else:
                self._licenses[folder] = license_of_folder(here) or self._license_above(folder.parent)
        return self._licenses[folder]


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = run_git(*arguments, folder=folder)
    except FileNotFoundError:  # no git on this machine
        return None
    return os.fsdecode(done.stdout).strip() if done.returncode == 0 else None
