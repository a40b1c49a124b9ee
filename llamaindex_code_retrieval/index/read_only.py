"""Read tantivy indexes in folders that cannot be written."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory


class ReadOnlyFolder:
    """Links to the files of a folder, in a temporary folder in which tantivy can make the lock that it reads under.

    The temporary folder is removed with this object.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._links = TemporaryDirectory(prefix="code-retrieval-", ignore_cleanup_errors=True)
        self.refresh()

    @property
    def path(self) -> Path:
        """The folder of links."""
        return Path(self._links.name)

    def refresh(self) -> None:
        """Link new files. Links to files that are gone stay: nothing names them."""
        known = set(os.listdir(self.path))
        for name in os.listdir(self._folder):
            if name not in known and not name.endswith(".lock"):
                (self.path / name).symlink_to(self._folder / name)
