"""Recipes: those that come with the package, files of one's own, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamaindex_code_retrieval.models.query_encoder import KINDS
from llamaindex_code_retrieval.models.reranker_config import VARIANTS
from llamaindex_code_retrieval.training.adapters import METHODS
from llamaindex_code_retrieval.training.recipes import (
    QueryRecipe,
    Recipe,
    load_query_recipe,
    load_recipe,
    load_reranker_recipe,
    query_recipe_names,
    recipe_names,
    reranker_recipe_names,
)


def test_one_recipe_per_language_and_method() -> None:
    assert set(recipe_names()) == {f"{scope}-{method}" for scope in ("general", "python", "java") for method in METHODS}
    for name in recipe_names():
        scope, _, method = name.partition("-")
        recipe = load_recipe(name)
        assert recipe.adapter.method == method
        assert recipe.languages == (() if scope == "general" else (scope,))


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_recipe_per_variant_of_a_reranker(variant: str) -> None:
    assert reranker_recipe_names() == [f"reranker-{name}" for name in sorted(VARIANTS)]
    recipe = load_reranker_recipe(variant)
    assert recipe == load_reranker_recipe(f"reranker-{variant}")
    assert recipe.train.variant == variant
    assert recipe.adapter.method == ("lora" if variant == "adapters" else "full")
    assert recipe.with_settings({"loss": "bce", "rank": 3, "retriever": "none"}).adapter.rank == 3


@pytest.mark.parametrize("kind", KINDS)
def test_one_recipe_per_kind_of_a_query_encoder(kind: str) -> None:
    assert query_recipe_names() == [f"query-{name}" for name in sorted(KINDS)]
    assert not set(query_recipe_names()) & {*recipe_names(), *reranker_recipe_names()}
    recipe = load_query_recipe(kind)
    assert recipe == load_query_recipe(f"query-{kind}")
    assert recipe.student.kind == kind
    changed = recipe.with_settings({"layers": [1, 3], "rank": 3, "dual": 0.5, "teacher": "none", "most_queries": 9})
    assert (changed.student.layers, changed.adapter.rank, changed.train.dual) == ((1, 3), 3, 0.5)
    assert (changed.teacher, changed.most_queries, changed.student.kind) == ("none", 9, kind)


def test_own_file_of_a_query_encoder(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'teacher = "none"\n[student]\nkind = "layers"\nlayers = [2]\n[adapter]\nrank = 8\n[train]\nseed = 3\n'
    )
    recipe = load_query_recipe(path)
    assert (recipe.teacher, recipe.student.kind, recipe.student.layers) == ("none", "layers", (2,))
    assert (recipe.adapter.rank, recipe.train.seed) == (8, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[student]\ncolour = 1\n", r"\[student\] has no setting colour"),
        ("[student]\nrank = 1\n", r"\[student\] has no setting rank"),
        ("[train]\nkind = 1\n", r"\[train\] has no setting kind"),
        ("student = 1\n[train]\nseed = 1\n", r"student must be a table, \[student\] with settings below it, got 1"),
        ("colour = 1\n", "there is no setting 'colour'; there are "),
        ('[student]\nkind = "layers"\n', "a student of kind 'layers' needs layers"),
        ('[student]\nlayers = "0,5"\n', r"layers must be a list of whole numbers, such as \[0, 5\], got '0,5'"),
        ('[student]\nlayers = [0, "5"]\n', r"layers must be a list of whole numbers, such as \[0, 5\]"),
        ("[student]\nwidth = 33\n", "width must be a multiple of 32, got 33"),
        ("[train]\nhard_negatives = 1\n", r"\[train\] has no setting hard_negatives"),
        ("[train]\nsingle = -1\n", "single must not be negative, got -1"),
    ],
)
def test_refuses_broken_recipes_of_query_encoders(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_query_recipe(path)
    assert str(path) in str(caught.value)


def test_an_adapters_recipe_has_no_student() -> None:
    for name in ("layers", "student", "dual"):
        with pytest.raises(ValueError, match=f"there is no setting '{name}'"):
            Recipe().with_settings({name: 1})
    with pytest.raises(ValueError, match="there is no setting 'student'"):
        QueryRecipe().with_settings({"student": 1})
    with pytest.raises(ValueError, match="there is no recipe 'bigram': it is no file, and of our own there are query-"):
        load_query_recipe("bigram")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_a_recipe(method: str) -> None:
    assert load_recipe(method).adapter.method == method


def test_own_file_and_changed_settings(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "org/model"\nlanguages = ["go"]\n[adapter]\nrank = 8\n[train]\nseed = 3\n')
    recipe = load_recipe(path).with_settings({"epochs": 2.5, "targets": "attention"})
    assert (recipe.base, recipe.languages, recipe.adapter.rank, recipe.train.seed) == ("org/model", ("go",), 8, 3)
    assert (recipe.train.epochs, recipe.adapter.targets) == (2.5, "attention")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("base = ", "is not TOML"),
        ("[train]\nspeed = 1\n", r"\[train\] has no setting speed"),
        ("colour = 1\n", "there is no setting 'colour'; there are alpha, "),
        ("[train]\nbatch_size = 1\n", "batch_size must be at least 2"),
        ('[train]\nbatch_size = "many"\n', "batch_size must be a whole number, got 'many'"),
    ],
)
def test_refuses_broken_recipes(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match="there is no recipe 'cobol-lora': it is no file, and of our own there are"):
        load_recipe("cobol-lora")
    with pytest.raises(ValueError, match="there is no setting 'rnak'"):
        Recipe().with_settings({"rnak": 3})
