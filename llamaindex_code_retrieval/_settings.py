"""Checked values: settings that refuse unknown names, TOML files that may extend others, and plain error messages."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

EXTENDS = "extends"
"""The key of a TOML file that names the file whose settings it starts from."""


class PlainErrors:
    """Mixin for pydantic models, first among the bases: a wrong value is a ``ValueError`` of one line.

    The message names the value and the rule that it breaks; see :func:`describe_errors`.
    """

    if TYPE_CHECKING:  # of the pydantic model that it is mixed into
        model_fields: ClassVar[dict[str, Any]]

    def __init__(self, **values: Any) -> None:
        """Check the values and set the fields.

        Raises:
            ValueError: a value breaks its rule, or has an unknown name.
        """
        with self._plain_errors():
            super().__init__(**values)

    def __setattr__(self, name: str, value: Any) -> None:
        with self._plain_errors():
            super().__setattr__(name, value)

    @classmethod
    @contextmanager
    def _plain_errors(cls) -> Iterator[None]:
        try:
            yield
        except ValidationError as error:
            raise ValueError(describe_errors(error, known=cls.model_fields)) from None


class Settings(PlainErrors, BaseModel):
    """Base class of all settings, which cannot be changed; see :meth:`replace`."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True)

    def replace(self, **changes: Any) -> Self:
        """Return the settings with some values changed; all are checked again.

        >>> class Size(Settings):
        ...     rows: int
        >>> Size(rows=1).replace(rows=2)
        Size(rows=2)
        """
        return type(self)(**{**dict(self), **changes})


def check_distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``names``; the validator of settings whose values must differ.

    Raises:
        ValueError: a name is given twice.

    >>> check_distinct(("MRR", "MRR"))
    Traceback (most recent call last):
    ValueError: 'MRR' is given twice; names must differ
    """
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"{repeated!r} is given twice; names must differ")
    return names


def describe_errors(error: ValidationError, *, known: Collection[str] = ()) -> str:
    """Return the errors in one line and in plain words: the place of each value and the rule that it breaks.

    ``known`` are the names of the settings, for the message about an unknown one.

    >>> class Size(Settings):
    ...     rows: int
    >>> Size(rows="many")
    Traceback (most recent call last):
    ValueError: rows must be a valid integer, unable to parse string as an integer, got 'many'
    """
    problems = []
    for each in error.errors():
        place = ".".join(map(str, each["loc"]))
        if each["type"] == "value_error":
            problems.append(f"{place}: {each['ctx']['error']}" if place else str(each["ctx"]["error"]))
        elif each["type"] in ("frozen_field", "frozen_instance"):
            problems.append(f"{place} cannot be changed afterwards; pass it when you make a new object")
        elif each["type"] == "extra_forbidden":
            names = f"; there are {', '.join(sorted(known))}" if known else ""
            problems.append(f"there is no setting {place!r}{names}")
        else:
            rule = re.sub(r"^(?:Input|String|Tuple|List) should", f"{place} must", each["msg"])
            rule = rule.replace("a valid tuple", "a list")
            problems.append(f"{rule if rule != each['msg'] else f'{place}: {rule}'}, got {each['input']!r:.80}")
    return "; ".join(problems)


def names_in(folder: Path) -> list[str]:
    """Return the names of the TOML files in ``folder`` that can be used by name."""
    return sorted(file.stem for file in folder.glob("*.toml"))


def read_toml(name_or_path: str | Path, *, folder: Path, what: str) -> tuple[Path, dict[str, Any]]:
    """Read a TOML file by its path, or by the name of one in ``folder``; return its path and its content.

    A file with ``extends = "name"`` starts from the content of that one, table by table. ``what`` is the kind of file
    ("recipe"), for messages.

    Raises:
        ValueError: there is no such file, it is not TOML, or it extends itself.
    """
    return _read(name_or_path, folder, what, ())


def _read(name_or_path: str | Path, folder: Path, what: str, above: tuple[Path, ...]) -> tuple[Path, dict[str, Any]]:
    path = folder / f"{name_or_path}.toml" if str(name_or_path) in names_in(folder) else Path(name_or_path)
    if path in above:
        raise ValueError(f"{path} extends itself; remove `{EXTENDS}` from one of {', '.join(map(str, above))}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"there is no {what} {str(name_or_path)!r}: it is neither a file nor one of {', '.join(names_in(folder))}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    parent = content.pop(EXTENDS, None)
    if parent is None:
        return path, content
    if not isinstance(parent, str):
        raise ValueError(f"{path}: {EXTENDS} must name one {what}, got {parent!r}")
    beside = path.parent / parent
    base = beside if beside.is_file() else parent
    return path, merge_tables(_read(base, folder, what, (*above, path))[1], content)


def merge_tables(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with the values of ``over`` in their place, nested tables merged.

    >>> merge_tables({"train": {"epochs": 1, "seed": 0}}, {"train": {"epochs": 2}})
    {'train': {'epochs': 2, 'seed': 0}}
    """
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge_tables(merged[key], value) if both else value
    return merged
