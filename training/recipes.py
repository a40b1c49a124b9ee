"""Recipes: a training's settings as a TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import Any

from llamaindex_code_retrieval.models import EMBEDDED
from llamaindex_code_retrieval.training.adapters import METHODS, AdapterConfig, Method
from llamaindex_code_retrieval.training.settings import TrainConfig

_LEARNING_RATES: dict[Method, float] = {"lora": 2e-3, "adalora": 1e-2, "ia3": 1e-2, "prompt": 1e-2, "full": 1e-4}
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
        parts: dict[str, dict[str, Any]] = {"": {}, "adapter": {}, "train": {}}
        for name, value in settings.items():
            part = next((part for part, kind in _KINDS.items() if name in _names(kind)), None)
            if part is None:
                known = ", ".join(sorted(name for kind in _KINDS.values() for name in _names(kind)))
                raise ValueError(f"there is no setting {name!r}; there are {known}")
            parts[part][name] = _checked(_KINDS[part], name, value)
        return replace(
            self,
            **parts[""],
            adapter=replace(self.adapter, **parts["adapter"]),
            train=replace(self.train, **parts["train"]),
        )


_KINDS: dict[str, type] = {"": Recipe, "adapter": AdapterConfig, "train": TrainConfig}


_RULES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "float | None": ((int, float, NoneType), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "text"),
    "tuple[str, ...]": ((list, tuple), "a list"),
}


def _checked(kind: type, name: str, value: Any) -> Any:
    """Return a value that came from a file or a command line if it is of the setting's type."""
    annotation = next(str(each.type) for each in fields(kind) if each.name == name)
    types, rule = _RULES.get(annotation, ((str,), "text"))
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ValueError(f"{name} must be {rule}, got {value!r}")
    return tuple(value) if isinstance(value, list) else value


def _names(kind: type) -> set[str]:
    return {each.name for each in fields(kind)} - {"adapter", "train"}


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(file.stem for file in _OWN.glob("*.toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by a method's name, by the name of one that comes with the package, or from a TOML file.

    Raises:
        ValueError: neither a known name nor a file, not TOML, an unknown setting or a value that breaks its rule.
    """
    if name_or_path in METHODS:
        return Recipe.of_method(name_or_path)
    path = _OWN / f"{name_or_path}.toml" if str(name_or_path) in recipe_names() else Path(name_or_path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"there is no recipe {str(name_or_path)!r}: it is no file, and of our own there are "
            f"{', '.join(recipe_names())}"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    try:
        for part in ("adapter", "train"):
            unknown = set(content.get(part, {})) - _names(_KINDS[part])
            if unknown:
                raise ValueError(f"[{part}] has no setting {', '.join(sorted(unknown))}")
        adapter, train = content.pop("adapter", {}), content.pop("train", {})
        return Recipe().with_settings({**content, **adapter, **train})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
