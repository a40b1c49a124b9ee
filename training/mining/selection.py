"""Which files are mined, by where they come from."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from llamaindex_code_retrieval.index.sources import SourceFile
from llamaindex_code_retrieval.training.mining.license_files import license_of_header
from llamaindex_code_retrieval.training.mining.licenses import is_permissive
from llamaindex_code_retrieval.training.mining.provenance import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a source file comes from."""

    language: str
    repository: str
    path: str
    license: str

    @classmethod
    def of(cls, source: SourceFile, provenance: Provenance) -> Origin:
        """Return the origin of a file; a licence in its header comes before that of its folder."""
        return cls(
            language=source.language,
            repository=provenance.repository_of(source.path),
            path=source.path,
            license=license_of_header(source.text) or provenance.license_of(source.path),
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Which files are mined; ``held_out`` are repositories that evaluations use (see :class:`HeldOut`)."""

    languages: Collection[str] = ()
    exclude: Collection[str] = ()
    held_out: HeldOut = field(default_factory=lambda: HeldOut(()))
    permissive_only: bool = False

    def reject(self, origin: Origin) -> str | None:
        """Return why a file is not mined, or ``None`` if it is; its language is not looked at."""
        if origin.repository in self.exclude:
            return "repository excluded"
        if self.held_out.has_repository(origin.repository):
            return "repository held out"
        if self.held_out.has_copy(origin.path):
            return "copy of a held-out repository"
        if self.permissive_only and not is_permissive(origin.license):
            return "licence not permissive"
        return None


class HeldOut:
    """Repositories that evaluations use, as ``owner/name``. Upper and lower case are the same."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.lower() for name in names)
        self._last_parts = frozenset(name.rpartition("/")[2] for name in self._names)

    def has_repository(self, name: str) -> bool:
        """Return whether a repository is held out; one without an owner, as without a remote, by its name alone.

        >>> held_out = HeldOut(["spf13/cobra"])
        >>> [held_out.has_repository(name) for name in ("spf13/Cobra", "me/cobra", "cobra", "viper")]
        [True, False, True, False]
        """
        return name.lower() in (self._names if "/" in name else self._last_parts)

    def has_copy(self, path: str) -> bool:
        """Return whether a file is in a folder of a held-out repository, as in ``vendor/github.com/spf13/cobra``."""
        folders = path.lower().split("/")[:-1]
        return any(f"{owner}/{name}" in self._names for owner, name in pairwise(folders))


def read_held_out(file: Path) -> list[str]:
    """Return the repositories that a file names, one ``owner/name`` a line; ``#`` starts a comment.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not ``owner/name``, or there is none.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not a file; name one with an owner/name a line")
    names: list[str] = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        if name.count("/") != 1 or not all(part.strip() for part in name.split("/")) or len(name.split()) > 1:
            raise ValueError(
                f"{file}, line {number} is {name!r:.80}; write owner/name, as in the address of a repository"
            )
        names.append(name)
    if not names:
        raise ValueError(f"{file} names no repository; write one owner/name a line, or leave the option out")
    return names
