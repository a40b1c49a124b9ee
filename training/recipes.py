"""Recipes: the settings of a training as a TOML file, which may extend another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import Field, model_validator

from llamaindex_code_retrieval._settings import merge_tables, names_in, read_toml
from llamaindex_code_retrieval.models.catalog import EMBEDDED
from llamaindex_code_retrieval.models.query_encoder_config import KINDS
from llamaindex_code_retrieval.models.reranker_config import VARIANTS
from llamaindex_code_retrieval.training.config import (
    METHODS,
    AdapterConfig,
    AtLeast0,
    DistilConfig,
    KindWeights,
    LoopConfig,
    MatchConfig,
    Method,
    PretrainConfig,
    Share,
    StudentConfig,
    TrainConfig,
    TrainingSettings,
)

LEARNING_RATES: dict[Method, float] = {"lora": 2e-3, "adalora": 1e-2, "ia3": 1e-2, "prompt": 1e-2, "full": 1e-4}
"""The learning rate that suits each method, where a recipe names none."""

PRETRAIN_RATES: dict[Method, float] = {"lora": 7e-4, "full": 1e-4}
"""The methods that a pretraining takes, with the learning rate that suits each."""

FOLDER = Path(__file__).resolve().parent / "recipes"
RERANKER = "reranker-"
QUERY = "query-"
PRETRAIN = "pretrain-"
_REPLACED = {f"{scope}-{method}": (scope, method) for scope in ("general", "python", "java") for method in METHODS}

HeldOut = Annotated[float, Field(ge=0, lt=1)]
TextTokens = Annotated[int, Field(ge=8)]


class _Recipe(TrainingSettings):
    """Settings that all recipes have."""

    PARTS: ClassVar[tuple[str, ...]] = ("adapter", "train")
    """The fields that are tables of settings; ``with_settings`` takes the names in them without the table's name."""

    base: Annotated[str, Field(min_length=1)] = EMBEDDED
    """Base model: a known name, hub name or folder."""
    languages: tuple[str, ...] = ()
    """Only pairs of these languages are used; empty is all."""
    held_out: HeldOut = 0.05
    """Share of the pairs, by repository, that is held out for validation; without effect where pairs for validation are
    given. 0 is no validation, for adapters only."""
    adapter: AdapterConfig = AdapterConfig()
    """The settings of the adapter."""
    train: LoopConfig = LoopConfig()
    """The settings of the training."""

    def with_parts(self, **parts: Any) -> Self:
        """Return the recipe with some fields replaced; those that are ``None`` are not."""
        return self.replace(**{name: value for name, value in parts.items() if value is not None})

    @classmethod
    def setting_names(cls) -> dict[str, str]:
        """Return the name of each setting with the part it belongs to, ``""`` for the recipe itself."""
        names: dict[str, str] = {}
        for part in ("", *cls.PARTS):
            settings: Any = cls.model_fields[part].annotation if part else cls
            for name in settings.model_fields:
                if name not in cls.PARTS:
                    names.setdefault(name, part)
        return names


R = TypeVar("R", bound=_Recipe)


class Recipe(_Recipe):
    """Settings of an adapter's training: base model, data, adapter and loop."""

    PARTS: ClassVar[tuple[str, ...]] = ("kinds", "adapter", "train")

    named: Share = 0.0
    """Share of the codes with a path that have its words in front, in training and validation, as in an index."""
    max_query_tokens: TextTokens = 64
    """Tokens of a query in training; in use the limit may be larger."""
    max_code_tokens: TextTokens = 160
    """Tokens of a code in training; in use the limit may be larger."""
    compare_codes: bool = True
    """Compare all codes, and keep near-duplicates in different batches; false where the pairs have none."""
    teachers: tuple[str, ...] = ()
    """Models whose similarities are learned as well, each a base or BASE=ADAPTER, by names, hub names or folders. Their
    vectors are computed once and kept in the cache folder."""
    kinds: KindWeights = KindWeights()
    """How pairs of several kinds are mixed."""
    train: TrainConfig = TrainConfig()
    """The settings of the training."""

    @model_validator(mode="after")
    def _check_teachers(self) -> Recipe:
        if bool(self.teachers) != bool(self.train.teacher_weight):
            raise ValueError(
                "teachers and teacher_weight go together: name teachers, and give their loss a weight, such as 0.5"
            )
        if self.teachers and (self.train.hard_positives or self.train.rewritten_queries):
            raise ValueError(
                "hard_positives and rewritten_queries change texts, of which teachers have no vectors; leave them out"
            )
        return self

    @model_validator(mode="after")
    def _check_names(self) -> Recipe:
        if self.named and self.train.hard_positives:
            raise ValueError(
                "hard_positives parses codes, and named puts words in front of them; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _check_cache(self) -> Recipe:
        if self.train.activation_gigabytes and not self.adapter.first_layer:
            raise ValueError(
                "activation_gigabytes caches the layers before first_layer, which is 0; set first_layer, or leave "
                "activation_gigabytes at 0"
            )
        return self

    @classmethod
    def of_method(cls, method: Method) -> Recipe:
        """Return the recipe of a method without a file: its preset, and the learning rate that suits it."""
        return cls(adapter=AdapterConfig.preset(method), train=TrainConfig(learning_rate=LEARNING_RATES[method]))

    def with_settings(self, settings: Mapping[str, Any]) -> Recipe:
        """Return the recipe with some settings changed, those of its adapter and its training by their bare names.

        >>> Recipe().with_settings({"rank": 8, "epochs": 3}).train.epochs
        3.0

        Raises:
            ValueError: an unknown name, a wrong value, or another method: its preset belongs below all other settings,
                so it is chosen by :func:`load_recipe`.
        """
        if settings.get("method", self.adapter.method) != self.adapter.method:
            raise ValueError(
                f"the method is {self.adapter.method!r}; choose {settings['method']!r} when the recipe is loaded "
                "(load_recipe(name, method=...), --method)"
            )
        return _with_settings(self, settings)


class PretrainRecipe(_Recipe):
    """Settings of a pretraining on source code: base model, data, adapter and loop."""

    languages: tuple[str, ...] = ()
    """Only source files of these languages are read; empty is all."""
    held_out: HeldOut = 0.05
    """Share of the texts, by file, that is held out for validation; 0 is no validation."""
    max_code_tokens: TextTokens = 160
    """Tokens of a text; longer functions are cut between statements."""
    adapter: AdapterConfig = AdapterConfig(rank=16)
    """The settings of the adapter, of the method ``lora`` or ``full``."""
    train: PretrainConfig = PretrainConfig()
    """The settings of the training."""

    @model_validator(mode="after")
    def _check_method(self) -> PretrainRecipe:
        if self.adapter.method not in PRETRAIN_RATES:
            raise ValueError(
                f"a pretraining takes the method {' or '.join(PRETRAIN_RATES)}, not {self.adapter.method!r}: the "
                "others train too little to learn a language"
            )
        return self

    @classmethod
    def of_method(cls, method: Method) -> PretrainRecipe:
        """Return the recipe of a method without a file, with the learning rate that suits it."""
        adapter = cls.model_fields["adapter"].default if method == "lora" else AdapterConfig(method=method)
        return cls(adapter=adapter).with_parts(train=PretrainConfig(learning_rate=PRETRAIN_RATES[method]))

    def with_settings(self, settings: Mapping[str, Any]) -> PretrainRecipe:
        """Return the recipe with some settings changed, as :meth:`Recipe.with_settings` does."""
        return _with_settings(self, settings)


class RerankerRecipe(_Recipe):
    """Settings of a reranker's training: base model, first stage, data, adapter and loop."""

    PARTS: ClassVar[tuple[str, ...]] = ("kinds", "adapter", "train")

    named: Share = 0.0
    """Share of the codes with a path that have its words in front, in training and validation, as in an index."""
    retriever: str = ""
    """Adapter of the first stage: a known name, hub name or folder, or ``none`` for the bare base; empty is the base's
    default adapter."""
    compare_codes: bool = True
    """Compare all codes, so that no near-duplicate of an answer is a negative; false where the pairs have none."""
    kinds: KindWeights = KindWeights()
    """How pairs of several kinds are mixed."""
    calibration_depth: Annotated[int, Field(ge=2)] = 50
    """First-stage hits of each held-out query that are scored for the calibration; at least 2."""
    adapter: AdapterConfig = AdapterConfig(rank=16)
    """The settings of the adapter."""
    train: MatchConfig = MatchConfig()
    """The settings of the training."""

    def with_settings(self, settings: Mapping[str, Any]) -> RerankerRecipe:
        """Return the recipe with some settings changed, as :meth:`Recipe.with_settings` does."""
        return _with_settings(self, settings)


class QueryRecipe(_Recipe):
    """Settings of a query encoder's distillation: base model, teacher, data, student and loop."""

    PARTS: ClassVar[tuple[str, ...]] = ("student", "adapter", "train")

    teacher: str = ""
    """Adapter of the teacher: a known name, hub name or folder, or ``none`` for the bare base; empty is the base's
    default adapter."""
    max_query_tokens: TextTokens = 64
    """Tokens of a query, in training and in use."""
    most_queries: AtLeast0 = 0
    """Largest number of queries to learn from, drawn by the seed; 0 is all."""
    student: StudentConfig = StudentConfig()
    """The settings of the student."""
    adapter: AdapterConfig = AdapterConfig(rank=16)
    """The settings of the adapter of a student of kind ``layers``; students of the other kinds have none."""
    train: DistilConfig = DistilConfig()
    """The settings of the training."""

    @model_validator(mode="after")
    def _check_kind(self) -> QueryRecipe:
        if self.student.kind != "layers" and self.adapter != type(self).model_fields["adapter"].default:
            raise ValueError(
                f"the settings of an adapter have no effect on a student of kind {self.student.kind!r}, which is "
                "trained in full; leave them out"
            )
        return self

    def with_settings(self, settings: Mapping[str, Any]) -> QueryRecipe:
        """Return the recipe with some settings changed, as :meth:`Recipe.with_settings` does."""
        return _with_settings(self, settings)


def _with_settings(recipe: R, settings: Mapping[str, Any]) -> R:
    part_of = recipe.setting_names()
    tables: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in part_of:
            raise ValueError(f"there is no setting {name!r}; there are {', '.join(sorted(part_of))}")
        table = tables.setdefault(part_of[name], {}) if part_of[name] else tables
        table[name] = value
    return _with_tables(recipe, tables)


def _with_tables(recipe: R, tables: Mapping[str, Any]) -> R:
    """Return the recipe with the content of a file in place of its own; another method begins with its preset."""
    settings = recipe.model_dump()
    adapter = tables.get("adapter", {})
    method = adapter.get("method") if isinstance(adapter, Mapping) else None
    if method in METHODS and method != recipe.adapter.method:
        settings["adapter"] = AdapterConfig.preset(method).model_dump()
    return type(recipe)(**merge_tables(settings, tables))


def recipe_names() -> list[str]:
    """Return the names of the adapters' recipes that come with the package."""
    return [name for name in names_in(FOLDER) if not name.startswith((RERANKER, QUERY, PRETRAIN))]


def reranker_recipe_names() -> list[str]:
    """Return the names of the rerankers' recipes that come with the package."""
    return [name for name in names_in(FOLDER) if name.startswith(RERANKER)]


def query_recipe_names() -> list[str]:
    """Return the names of the query encoders' recipes that come with the package."""
    return [name for name in names_in(FOLDER) if name.startswith(QUERY)]


def pretrain_recipe_names() -> list[str]:
    """Return the names of the pretrainings' recipes that come with the package."""
    return [name for name in names_in(FOLDER) if name.startswith(PRETRAIN)]


def all_recipes(method: Method | None = None) -> dict[str, Recipe | RerankerRecipe | QueryRecipe | PretrainRecipe]:
    """Return all recipes that come with the package by name; ``method`` is for those that state none."""
    recipes: dict[str, Recipe | RerankerRecipe | QueryRecipe | PretrainRecipe] = {}
    for name in recipe_names():
        states_method = "method" in read_toml(name, folder=FOLDER, what="recipe")[1].get("adapter", {})
        recipes[name] = load_recipe(name, method=None if states_method else method)
    recipes |= {name: load_reranker_recipe(name) for name in reranker_recipe_names()}
    recipes |= {name: load_query_recipe(name) for name in query_recipe_names()}
    recipes |= {name: load_pretrain_recipe(name) for name in pretrain_recipe_names()}
    return recipes


def load_recipe(name_or_path: str | Path | None = None, *, method: Method | None = None) -> Recipe:
    """Read a recipe by the name of one that comes with the package or from a TOML file; none is the defaults.

    ``method`` is what is trained, LoRA by default. Its preset (rank and targets) and the learning rate that suits it
    stand below the settings of the recipe.

    >>> load_recipe("general", method="ia3").train.learning_rate
    0.01

    Raises:
        ValueError: neither a known name nor a file, not TOML, an unknown setting, a value that breaks its rule, or
            another method than the recipe's own.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if name_or_path is None:
        return Recipe.of_method(method or "lora")
    path, tables = _read(str(name_or_path), recipe_names())
    stated = _stated_method(name_or_path, tables, method)
    return _of_file(path, Recipe.of_method(stated or method or "lora"), tables)


def load_reranker_recipe(name_or_path: str | Path) -> RerankerRecipe:
    """Read a reranker's recipe by its variant, by the name of one that comes with the package, or from a TOML file.

    Raises:
        ValueError: as :func:`load_recipe`.
    """
    name = f"{RERANKER}{name_or_path}" if name_or_path in VARIANTS else str(name_or_path)
    path, tables = _read(name, reranker_recipe_names())
    return _of_file(path, RerankerRecipe(), tables)


def load_query_recipe(name_or_path: str | Path) -> QueryRecipe:
    """Read a query encoder's recipe by its kind, by the name of one that comes with the package, or from a TOML file.

    Raises:
        ValueError: as :func:`load_recipe`.
    """
    name = f"{QUERY}{name_or_path}" if name_or_path in KINDS else str(name_or_path)
    path, tables = _read(name, query_recipe_names())
    return _of_file(path, QueryRecipe(), tables)


def load_pretrain_recipe(name_or_path: str | Path | None = None, *, method: Method | None = None) -> PretrainRecipe:
    """Read a pretraining's recipe by the name of one that comes with the package or from a TOML file.

    ``method`` is what is trained: by default the recipe's, else LoRA.

    Raises:
        ValueError: as :func:`load_recipe`.
    """
    if name_or_path is None:
        return PretrainRecipe.of_method(method or "lora")
    path, tables = _read(str(name_or_path), pretrain_recipe_names())
    stated = _stated_method(name_or_path, tables, method)
    return _of_file(path, PretrainRecipe.of_method(stated or method or "lora"), tables)


def _stated_method(name: str | Path, tables: Mapping[str, Any], method: Method | None) -> Method | None:
    """Return the known method that a recipe's file states; another one than ``method`` is refused."""
    adapter = tables.get("adapter", {})
    stated = adapter.get("method") if isinstance(adapter, dict) else None
    if method is not None and stated is not None and stated != method:
        raise ValueError(f"the recipe {name} is for the method {stated!r}, not {method!r}; leave out the method")
    return stated if stated in METHODS else None


def _read(name: str, known: list[str]) -> tuple[Path, dict[str, Any]]:
    """Return the path and the content of a recipe; ``known`` are those of this kind that come with the package."""
    if name in _REPLACED and not Path(name).exists():
        scope, method = _REPLACED[name]
        raise ValueError(f"the recipe {name} has been replaced: --recipe {scope} --method {method}")
    if name in METHODS and not Path(name).exists():
        raise ValueError(f"{name!r} is a method and not a recipe: --method {name}")
    if name not in known and name in names_in(FOLDER):
        raise ValueError(f"the recipe {name} is for another kind of training; here there are {', '.join(known)}")
    return read_toml(name, folder=FOLDER, what="recipe")


def _of_file(path: Path, recipe: R, tables: Mapping[str, Any]) -> R:
    for part in recipe.PARTS:
        if not isinstance(tables.get(part, {}), Mapping):
            raise ValueError(f"{path}: {part} must be a table, [{part}] with settings below it, got {tables[part]!r}")
    try:
        return _with_tables(recipe, tables)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
