"""Recipes: a training's settings as a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

from llamaindex_code_retrieval.models.catalog import EMBEDDED
from llamaindex_code_retrieval.models.query_encoder import KINDS
from llamaindex_code_retrieval.models.reranker_config import VARIANTS
from llamaindex_code_retrieval.training.adapters import METHODS, AdapterConfig, Method
from llamaindex_code_retrieval.training.config import DistilConfig, MatchConfig, StudentConfig, TrainConfig

_LEARNING_RATES: dict[Method, float] = {"lora": 2e-3, "adalora": 1e-2, "ia3": 1e-2, "prompt": 1e-2, "full": 1e-4}
_RERANKER = "reranker-"
_QUERY = "query-"
_PARTS = ("student", "adapter", "train")
_OWN = Path(__file__).resolve().parent / "recipes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One training: which base, what is trained of it, how, and on which languages' pairs."""

    base: str = EMBEDDED
    languages: tuple[str, ...] = ()
    """Only pairs of these; none named is all."""
    max_query_tokens: int = 64
    max_code_tokens: int = 160
    """Token limits while training; use is free to take more."""
    held_out: float = 0.05
    """Share of the pairs, by repository, that validates."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @classmethod
    def of_method(cls, method: Method) -> Recipe:
        """Return the recipe of a method without a file: its preset, and the learning rate that suits it."""
        return cls(adapter=AdapterConfig.preset(method), train=TrainConfig(learning_rate=_LEARNING_RATES[method]))

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """Return a recipe with some settings of it, of its adapter or of its training changed, by their bare names.

        >>> Recipe().with_settings({"rank": 8, "epochs": 3}).train.epochs
        3
        """
        return _changed(self, settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankerRecipe:
    """One training of a reranker: on which base, behind which first stage, how, and on which languages' pairs."""

    base: str = EMBEDDED
    retriever: str = ""
    """The first stage's adapter: a folder, a hub name, one of ours or ``none``; empty is the default of the base."""
    languages: tuple[str, ...] = ()
    """Only pairs of these; none named is all."""
    held_out: float = 0.05
    """Share of the pairs, by repository, that validates and calibrates."""
    calibration_depth: int = 50
    """First-stage hits of each held-out query that are scored in the end, to calibrate."""
    adapter: AdapterConfig = field(default_factory=lambda: AdapterConfig(rank=16))
    train: MatchConfig = field(default_factory=MatchConfig)

    def with_settings(self, settings: Mapping[str, Any]) -> RerankerRecipe:
        """Return a recipe with some settings changed, as :meth:`Recipe.with_settings` does."""
        return _changed(self, settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryRecipe:
    """One distillation: which teacher, what its student is, how it learns, and from which languages' pairs."""

    base: str = EMBEDDED
    teacher: str = ""
    """The teacher's adapter: a folder, a hub name, one of ours or ``none``; empty is the default of the base."""
    languages: tuple[str, ...] = ()
    """Only pairs of these; none named is all."""
    max_query_tokens: int = 64
    """Of a query, in training and in use."""
    held_out: float = 0.05
    """Share of the pairs, by repository, that validates."""
    most_queries: int = 0
    """Queries to learn from at most, drawn by the seed; 0 is all."""
    student: StudentConfig = field(default_factory=StudentConfig)
    adapter: AdapterConfig = field(default_factory=lambda: AdapterConfig(rank=16))
    """How the layers that a student keeps are trained."""
    train: DistilConfig = field(default_factory=DistilConfig)

    def with_settings(self, settings: Mapping[str, Any]) -> QueryRecipe:
        """Return a recipe with some settings changed, as :meth:`Recipe.with_settings` does."""
        return _changed(self, settings)


R = TypeVar("R", Recipe, RerankerRecipe, QueryRecipe)


def _changed(recipe: R, settings: Mapping[str, Any]) -> R:
    kinds = _kinds(recipe)
    parts: dict[str, dict[str, Any]] = {part: {} for part in kinds}
    for name, value in settings.items():
        part = next((part for part, kind in kinds.items() if name in _names(kind)), None)
        if part is None:
            known = ", ".join(sorted(name for kind in kinds.values() for name in _names(kind)))
            raise ValueError(f"there is no setting {name!r}; there are {known}")
        parts[part][name] = _checked(kinds[part], name, value)
    changed: Any = replace  # which parts there are depends on the recipe's kind
    new = {part: changed(getattr(recipe, part), **values) for part, values in parts.items() if part}
    made: R = changed(recipe, **parts[""], **new)
    return made


def _kinds(recipe: Recipe | RerankerRecipe | QueryRecipe) -> dict[str, type]:
    """Return what has settings: the recipe itself, under no name, and its parts."""
    return {"": type(recipe)} | {part: type(getattr(recipe, part)) for part in _PARTS if hasattr(recipe, part)}


_RULES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "float | None": ((int, float, NoneType), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "tuple[str, ...]": ((list, tuple), "a list"),
    "tuple[int, ...]": ((list, tuple), "a list of whole numbers, such as [0, 5]"),
}

_ELEMENTS: dict[str, type] = {"tuple[str, ...]": str, "tuple[int, ...]": int}


def _checked(kind: type, name: str, value: Any) -> Any:
    """Return a value that came from a file or a command line if it is of the setting's type."""
    annotation = next(str(each.type) for each in fields(kind) if each.name == name)
    types, rule = _RULES.get(annotation, ((str,), "text"))
    elements = value if isinstance(value, list | tuple) else ()
    wrong = not isinstance(value, types) or (isinstance(value, bool) and bool not in types)
    if wrong or not all(isinstance(each, _ELEMENTS[annotation]) for each in elements):
        raise ValueError(f"{name} must be {rule}, got {value!r}")
    return tuple(value) if isinstance(value, list) else value


def _names(kind: type) -> set[str]:
    return {each.name for each in fields(kind)} - set(_PARTS)


def recipe_names() -> list[str]:
    """Return the names of the adapters' recipes that come with the package."""
    return sorted(file.stem for file in _OWN.glob("*.toml") if not file.stem.startswith((_RERANKER, _QUERY)))


def reranker_recipe_names() -> list[str]:
    """Return the names of the rerankers' recipes that come with the package."""
    return sorted(file.stem for file in _OWN.glob(f"{_RERANKER}*.toml"))


def query_recipe_names() -> list[str]:
    """Return the names of the query encoders' recipes that come with the package."""
    return sorted(file.stem for file in _OWN.glob(f"{_QUERY}*.toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by a method's name, by the name of one that comes with the package, or from a TOML file.

    Raises:
        ValueError: neither a known name nor a file, not TOML, an unknown setting or a value that breaks its rule.
    """
    if name_or_path in METHODS:
        return Recipe.of_method(name_or_path)
    return _read(name_or_path, Recipe(), recipe_names())


def load_reranker_recipe(name_or_path: str | Path) -> RerankerRecipe:
    """Read a reranker's recipe by its variant, by the name of one that comes with the package, or from a TOML file.

    Raises:
        ValueError: as :func:`load_recipe`.
    """
    name = f"{_RERANKER}{name_or_path}" if name_or_path in VARIANTS else name_or_path
    return _read(name, RerankerRecipe(), reranker_recipe_names())


def load_query_recipe(name_or_path: str | Path) -> QueryRecipe:
    """Read a query encoder's recipe by its kind, by the name of one that comes with the package, or from a TOML file.

    Raises:
        ValueError: as :func:`load_recipe`.
    """
    name = f"{_QUERY}{name_or_path}" if name_or_path in KINDS else name_or_path
    return _read(name, QueryRecipe(), query_recipe_names())


def _read(name_or_path: str | Path, recipe: R, own: list[str]) -> R:
    path = _OWN / f"{name_or_path}.toml" if str(name_or_path) in own else Path(name_or_path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"there is no recipe {str(name_or_path)!r}: it is no file, and of our own there are {', '.join(own)}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    try:
        settings: dict[str, Any] = {}
        for part, kind in _kinds(recipe).items():
            table: dict[str, Any] = content.pop(part, {}) if part else {}
            if not isinstance(table, dict):
                raise ValueError(f"{part} must be a table, [{part}] with settings below it, got {table!r}")
            if unknown := set(table) - _names(kind):
                raise ValueError(f"[{part}] has no setting {', '.join(sorted(unknown))}")
            settings |= table
        return _changed(recipe, {**content, **settings})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
