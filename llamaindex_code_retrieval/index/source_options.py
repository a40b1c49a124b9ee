"""``SourceOptions``: which files of a folder are read and in which language, and the files that set them for it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from llamaindex_code_retrieval._settings import Settings
from llamaindex_code_retrieval.index.ignore import Globs
from llamaindex_code_retrieval.index.source_roots import SETTINGS_FILES
from llamaindex_code_retrieval.languages.table import known_language

_PYPROJECT, _OWN_FILE = SETTINGS_FILES
_TABLE = "code-retrieval"
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.IGNORECASE)


def parse_size(size: object) -> object:
    """Return the bytes of a size such as "2MB" or "512 KiB"; what is no string is returned as it is.

    >>> parse_size("2MB"), parse_size("1.5 KiB"), parse_size(300)
    (2000000, 1536, 300)
    """
    if not isinstance(size, str):
        return size
    match = _SIZE.fullmatch(size.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"a size is a number of bytes or one with a unit, such as 500KB, 2MB or 1GiB, got {size!r}")
    return int(float(match[1]) * _UNITS[match[2].lower()])


class SourceOptions(Settings):
    """Which files of a folder are read, and in which language. An empty value leaves a setting at its default.

    Globs are those of ``.gitignore`` and relative to the folder: ``*.sql`` and ``docs/`` match in every folder,
    ``/docs/`` only at the top.

    >>> SourceOptions(exclude=("docs/",), ext={".foo": "python"}, max_file_size="2MB").max_file_size
    2000000
    """

    only: tuple[str, ...] = ()
    """Globs: read no other files than those that match."""
    include: tuple[str, ...] = ()
    """Globs: read the files that match although a rule of ``leave_out`` leaves them out."""
    exclude: tuple[str, ...] = ()
    """Globs: leave out the files that match, whatever else is set."""
    ext: dict[str, str] = Field(default_factory=dict)
    """Language by extension, such as ``{".foo": "python"}``."""
    max_file_size: Annotated[int, Field(ge=1), BeforeValidator(parse_size)] | None = None
    """Bytes of the largest file that is read, 1 MB by default; a string may have a unit. Notebooks may be 20 times as
    large, because their outputs are not indexed."""

    @field_validator("only", "include", "exclude")
    @classmethod
    def _check_globs(cls, globs: tuple[str, ...]) -> tuple[str, ...]:
        Globs.parse(globs)
        return globs

    @field_validator("ext")
    @classmethod
    def _check_ext(cls, ext: dict[str, str]) -> dict[str, str]:
        for extension, language in ext.items():
            if not re.fullmatch(r"\.[^/\\*?\s]+", extension):
                raise ValueError(f"an extension begins with a dot and has no wildcard, as in .foo, got {extension!r}")
            known_language(language)
        return {extension.lower(): language for extension, language in ext.items()}

    def given(self) -> dict[str, Any]:
        """Return the settings that are not at their default, as JSON values."""
        return self.model_dump(mode="json", exclude_defaults=True)


def options_of(folder: Path, options: SourceOptions) -> SourceOptions:
    """Return ``options`` with the settings that they leave at the default taken from the folder's own file, if any.

    That is the table ``[tool.code-retrieval]`` of its ``pyproject.toml``, or its ``.code-retrieval.toml``. The keys are
    those of :class:`SourceOptions`, with hyphens.

    Raises:
        ValueError: the folder has both, or a file is not TOML or has an unknown key or a wrong value.
    """
    found = {name: table for name in (_PYPROJECT, _OWN_FILE) if (table := _read_table(folder / name)) is not None}
    if len(found) > 1:
        raise ValueError(
            f"{folder} has settings in {_OWN_FILE} and in [tool.{_TABLE}] of {_PYPROJECT}; keep one of them"
        )
    for name, table in found.items():
        try:
            settings = SourceOptions(**{key.replace("-", "_"): value for key, value in table.items()}).given()
        except ValueError as error:
            raise ValueError(f"{folder / name}: {error}") from None
        return SourceOptions(**{**settings, **options.given()})
    return options


def _read_table(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # missing, or unreadable like any other file of the folder
        return None
    if path.name == _PYPROJECT and _TABLE not in text:
        return None  # whether it is TOML is of no concern: it may be a template
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    if path.name == _OWN_FILE:
        return content
    table = content.get("tool", {}).get(_TABLE)
    if table is not None and not isinstance(table, dict):
        raise ValueError(f"{path}: tool.{_TABLE} must be a table, got {table!r}")
    return table
