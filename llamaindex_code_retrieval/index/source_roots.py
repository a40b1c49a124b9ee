"""``SourceRoot``: a folder of an index, the prefix of its paths, and the rules by which its files are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from llamaindex_code_retrieval._optional import installed_version

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.source_options import SourceOptions

SETTINGS_FILES = "pyproject.toml", ".code-retrieval.toml"
"""Files of a root that set its own rules; in the first one, a table does."""
MAX_FILE_SIZE = 1_000_000
"""Bytes of the largest file that is read by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRules:
    """Which files of a root are read, and in which language: ``SourceOptions`` completed by the root's own settings.

    Files that were read by equal rules need not be read again. Unlike ``SourceOptions``, which checks the values, this
    class does not import pydantic.
    """

    only: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    ext: Mapping[str, str] = field(default_factory=dict)
    max_file_size: int = MAX_FILE_SIZE
    version: str = ""
    """Of this package: another one may know more languages, or leave out other files."""

    @classmethod
    def of(cls, folder: Path, options: SourceOptions | None = None) -> Self:
        """Return the rules of a folder; see :func:`.source_options.options_of`.

        Raises:
            ValueError: the folder's own settings are wrong.
        """
        from llamaindex_code_retrieval.index.source_options import SourceOptions, options_of

        complete = options_of(folder, options or SourceOptions())
        return cls(
            only=complete.only,
            include=complete.include,
            exclude=complete.exclude,
            ext=complete.ext,
            max_file_size=complete.max_file_size or MAX_FILE_SIZE,
            version=installed_version("llamaindex-code-retrieval"),
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the rules that :meth:`to_json` wrote."""
        restored: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**restored)

    def to_json(self) -> dict[str, Any]:
        """Return the rules as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class SourceRoot:
    """A folder whose files are indexed."""

    folder: Path
    prefix: str
    """What the paths of its files begin with in the index; see :func:`path_prefixes`."""
    rules: SourceRules


def source_roots(folders: Iterable[Path], options: SourceOptions) -> list[SourceRoot]:
    """Return the roots of an index.

    Raises:
        ValueError: the settings of a folder are wrong.
    """
    folders = list(folders)
    return [
        SourceRoot(folder, prefix, SourceRules.of(folder, options))
        for folder, prefix in zip(folders, path_prefixes(folders), strict=True)
    ]


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


def saved_roots(folders: Sequence[Path], rules: Sequence[Mapping[str, Any]]) -> list[SourceRoot]:
    """Return the roots of an index by the rules that it was last updated with, as :meth:`SourceRules.to_json` wrote."""
    return list(map(SourceRoot, folders, path_prefixes(folders), map(SourceRules.from_json, rules)))


def file_of(path: str, folders: Sequence[Path]) -> Path:
    """Return where the file of a path in an index lies: below one of the folders of the index."""
    for prefix, folder in zip(path_prefixes(folders), folders, strict=True):
        if path.startswith(prefix):
            return folder / path.removeprefix(prefix)
    return Path(path)


def paths_of(file: Path, folders: Sequence[Path]) -> list[str]:
    """Return the paths in an index of a file: one for each of the folders of the index that it lies below."""
    return [
        prefix + file.relative_to(folder).as_posix()
        for prefix, folder in zip(path_prefixes(folders), folders, strict=True)
        if file.is_relative_to(folder)
    ]
