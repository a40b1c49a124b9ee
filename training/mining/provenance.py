"""Which repository the files under a folder belong to, and under which licence they are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path, PurePosixPath

from llamaindex_code_retrieval.training.mining.licenses import license_of_folder, license_of_metadata

_REMOTE = re.compile(r"(?:://[^/]+/|@[^:/]+:)(?:.*/)?([^/]+/[^/]+?)(?:\.git)?/*$")  # its org/name


class Provenance:
    """Which repository and licence the files under a root have."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._licenses: dict[PurePosixPath, str] = {}
        self._installed: dict[str, str] = {}  # file -> licence
        infos = sorted(self._root.glob("*.dist-info"))
        self._is_installed = bool(infos)
        for info in infos:
            license_ = license_of_metadata(info)
            if (info / "RECORD").is_file():
                for line in (info / "RECORD").read_text(encoding="utf-8", errors="replace").splitlines():
                    self._installed[line.split(",")[0].strip('"')] = license_
        top = None if self._is_installed else _git(self._root, "rev-parse", "--show-toplevel")
        self._top = Path(top) if top else self._root
        remote = _git(self._root, "remote", "get-url", "origin") if top else None
        match = _REMOTE.search(remote or "")
        self._repository = match[1] if match else self._top.name

    def repository_of(self, path: str) -> str:
        """Return ``org/name`` of the remote, else the name of the checkout, folder or installed package."""
        return PurePosixPath(path).parts[0].partition(".")[0] if self._is_installed else self._repository

    def license_of(self, path: str) -> str:
        """Return the licence of the nearest licence file above, within the repository or installed package."""
        return self._license_above(PurePosixPath(path).parent) or self._installed.get(path, "")

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
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine
        return None
    return done.stdout.strip() if done.returncode == 0 else None
