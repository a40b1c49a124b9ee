"""Recipes: those that come with the package, files of one's own, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from llamaindex_code_retrieval.models.locate import (
    ARTIFACTS,
    shipped_adapters,
    shipped_query_encoders,
    shipped_rerankers,
)
from llamaindex_code_retrieval.models.query_encoder_config import KINDS
from llamaindex_code_retrieval.models.reranker_config import VARIANTS
from llamaindex_code_retrieval.training.config import (
    METHODS,
    AdapterConfig,
    DistilConfig,
    KindWeights,
    MatchConfig,
    Method,
    TrainConfig,
)
from llamaindex_code_retrieval.training.pairs import KINDS as PAIR_KINDS
from llamaindex_code_retrieval.training.recipes import (
    QueryRecipe,
    Recipe,
    RerankerRecipe,
    load_query_recipe,
    load_recipe,
    load_reranker_recipe,
    query_recipe_names,
    recipe_names,
    reranker_recipe_names,
)

# The recipes of the first release, one file per language and method: their settings must stay available. A setting that
# is not named here has the default of its class.
ADAPTERS: dict[Method, dict[str, Any]] = {
    "lora": {"rank": 2, "targets": "linear"},
    "adalora": {"rank": 4, "initial_rank": 8, "targets": "attention"},
    "ia3": {},
    "prompt": {"virtual_tokens": 8},
    "full": {},
}
LEARNING_RATES: dict[Method, float] = {"lora": 2e-3, "adalora": 1e-2, "ia3": 1e-2, "prompt": 1e-2, "full": 1e-4}
EPOCHS = {"general": 1.5, "python": 1.8, "java": 1.0}
OTHERS: dict[str, dict[str, Any]] = {
    "reranker-adapters": {
        "adapter": {"method": "lora", "rank": 16},
        "train": {"variant": "adapters", "learning_rate": 1e-3, "head_rate": 1.0, "epochs": 1.0},
    },
    "reranker-separate": {
        "adapter": {"method": "full"},
        "train": {"variant": "separate", "learning_rate": 5e-5, "head_rate": 20.0, "epochs": 1.0},
    },
    "reranker-shared": {
        "adapter": {"method": "full"},
        "train": {
            "variant": "shared",
            "head": "mlp",
            "loss": "bce",
            "learning_rate": 5e-5,
            "head_rate": 20.0,
            "epochs": 1.0,
        },
    },
    "query-layers": {
        "student": {"kind": "layers", "layers": [0, 5], "int8": True},
        "adapter": {"method": "lora", "rank": 64, "targets": "linear"},
        "train": {
            "batch_size": 128,
            "learning_rate": 1e-3,
            "epochs": 7.0,
            "validate_steps": 300,
            "dual": 0.0,
            "contrastive": 0.05,
        },
    },
    "query-static": {
        "student": {"kind": "static", "table_rank": 128, "buckets": 16384, "hidden": 1024},
        "adapter": {"method": "lora", "rank": 16},
        "train": {
            "batch_size": 512,
            "learning_rate": 3e-3,
            "weight_decay": 0.0,
            "epochs": 8.0,
            "dual": 0.0,
            "contrastive": 0.05,
        },
    },
    "query-transformer": {
        "student": {"kind": "transformer", "width": 192, "depth": 2},
        "adapter": {"method": "lora", "rank": 16},
        "train": {"batch_size": 128, "learning_rate": 5e-4, "epochs": 2.0},
    },
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scope", EPOCHS)
def test_the_recipes_of_adapters_have_their_settings(scope: str, method: Method) -> None:
    train = {"epochs": EPOCHS[scope], "batch_size": 64, "learning_rate": LEARNING_RATES[method], "neighbours": 8}
    expected = Recipe(
        base="embedded",
        languages=() if scope == "general" else (scope,),
        max_query_tokens=64,
        max_code_tokens=128,
        held_out=0.02,
        adapter=AdapterConfig(method=method, **ADAPTERS[method]),
        train=TrainConfig(**train, temperature=0.05),
    )
    assert load_recipe(scope, method=method) == expected
    if method == "lora":
        assert load_recipe(scope) == expected


@pytest.mark.parametrize("name", OTHERS)
def test_the_recipes_of_rerankers_and_query_encoders_have_their_settings(name: str) -> None:
    if name.startswith("reranker"):
        assert load_reranker_recipe(name) == RerankerRecipe(held_out=0.05, **OTHERS[name])
    else:
        assert load_query_recipe(name) == QueryRecipe(max_query_tokens=64, **OTHERS[name])


@pytest.mark.parametrize("scope", EPOCHS)
@pytest.mark.parametrize("method", METHODS)
def test_the_old_name_of_a_recipe_names_the_new_one(scope: str, method: Method) -> None:
    with pytest.raises(ValueError, match=f"the recipe {scope}-{method} has been replaced: --recipe ") as caught:
        load_recipe(f"{scope}-{method}")
    name, _, named = str(caught.value).partition("--recipe ")[2].partition(" --method ")
    assert load_recipe(name, method=named or None).languages == (() if scope == "general" else (scope,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"'{method}' is a method and not a recipe: --method {method}"):
        load_recipe(method)


def test_a_recipe_of_one_method_takes_no_other() -> None:
    assert recipe_names() == ["embedded-general", "embedded-large-general", "general", "java", "python"]
    with pytest.raises(ValueError, match="the recipe embedded-general is for the method 'lora', not 'ia3'"):
        load_recipe("embedded-general", method="ia3")
    with pytest.raises(ValueError, match="the method is 'lora'; choose 'ia3' when the recipe is loaded"):
        load_recipe("general").with_settings({"method": "ia3"})
    with pytest.raises(ValueError, match="the recipe query-static is for another kind of training; here there are emb"):
        load_recipe("query-static")


def test_a_file_may_extend_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "java"\n[train]\nseed = 7\n')
    java = load_recipe("java", method="prompt")
    assert load_recipe(path, method="prompt") == java.replace(train=java.train.replace(seed=7))


@pytest.mark.parametrize("name", shipped_adapters() + shipped_rerankers() + shipped_query_encoders())
def test_the_records_of_shipped_artifacts_are_settings(name: str) -> None:
    record = json.loads((ARTIFACTS / name / "train_config.json").read_text())
    kind = MatchConfig if "variant" in record["train"] else DistilConfig if "single" in record["train"] else TrainConfig
    for key, value in kind(**record["train"]).model_dump(mode="json").items():
        assert value == record["train"].get(key, value)
    effective = ("method", *AdapterConfig.SETTINGS_OF[record["adapter"]["method"]])
    settings = {name: record["adapter"][name] for name in effective if name in record["adapter"]}
    assert settings.items() <= AdapterConfig(**settings).model_dump().items()


@pytest.mark.parametrize("name", shipped_adapters())
def test_shipped_adapters_are_those_of_their_recipes(name: str) -> None:
    """The number of steps, which a time budget decided on another machine, is that of the recipe's epochs."""
    record, recipe = json.loads((ARTIFACTS / name / "train_config.json").read_text()), load_recipe(name)
    assert record["adapter"] == recipe.adapter.model_dump(mode="json")
    limits = (record["max_query_tokens"], record["max_code_tokens"])
    assert (record["base"]["name"], *limits) == (recipe.base, recipe.max_query_tokens, recipe.max_code_tokens)
    teachers = [f"embedded-large={teacher['name']}" for teacher in record["teachers"]]
    assert teachers == list(recipe.teachers)
    of_the_machine = {"epochs", "forward_tokens", "max_seconds", "save_seconds", "save_steps"}
    trained, stated = ({**each} for each in (record["train"], recipe.train.model_dump(mode="json")))
    assert {key for key in trained if trained[key] != stated[key]} <= of_the_machine
    assert abs(recipe.train.total_steps(record["data"]["pairs"]) - record["steps"]) <= 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 1}, "batch_size must be greater than or equal to 2, got 1"),
        ({"batch_size": "4"}, "batch_size must be a valid integer, got '4'"),
        ({"batch_size": 4.0}, "batch_size must be a valid integer, got 4.0"),
        ({"batch_size": True}, "batch_size must be a valid integer, got True"),
        ({"epochs": 0}, "epochs must be greater than 0, got 0"),
        ({"epochs": math.nan}, "epochs must be a finite number, got nan"),
        ({"epochs": "1"}, "epochs must be a valid number, got '1'"),
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0"),
        ({"learning_rate": math.inf}, "learning_rate must be a finite number, got inf"),
        ({"warmup": 1.5}, "warmup must be less than or equal to 1, got 1.5"),
        ({"weight_decay": -0.1}, "weight_decay must be greater than or equal to 0"),
        ({"max_gradient_norm": 0}, "max_gradient_norm must be greater than 0, got 0"),
        ({"forward_tokens": 0}, "forward_tokens must be greater than or equal to 1"),
        ({"length_step": -1}, "length_step must be greater than or equal to 0"),
        ({"precision": "fp8"}, "precision must be 'auto', 'fp32' or 'bf16', got 'fp8'"),
        ({"validate_steps": -1}, "validate_steps must be greater than or equal to 0"),
        ({"patience": -1}, "patience must be greater than or equal to 0, got -1"),
        ({"save_steps": 0}, "save_steps must be greater than or equal to 1"),
        ({"max_seconds": -1}, "max_seconds must be greater than 0, got -1"),
        ({"seed": -1}, "seed must be greater than or equal to 0, got -1"),
        ({"temperature": 0}, "temperature must be greater than 0"),
        ({"learn_temperature": 1}, "learn_temperature must be a valid boolean, got 1"),
        ({"hard_negatives": -1}, "hard_negatives must be greater than or equal to 0"),
        ({"refresh_steps": 0}, "refresh_steps must be greater than or equal to 1"),
        ({"neighbours": 0}, "neighbours must be greater than or equal to 1"),
        ({"margin": -0.1}, "margin must be greater than or equal to 0"),
        ({"judged_negatives": -1}, "judged_negatives must be greater than or equal to 0"),
        ({"hard_positives": 1.5}, "hard_positives must be less than or equal to 1, got 1.5"),
        ({"hardness": -1}, "hardness must be greater than or equal to 0"),
        ({"rewritten_queries": -0.5}, "rewritten_queries must be greater than or equal to 0"),
        ({"held_out": 5}, "held_out must be less than 1, got 5"),
        ({"held_out": -0.1}, "held_out must be greater than or equal to 0"),
        ({"max_code_tokens": 0}, "max_code_tokens must be greater than or equal to 8, got 0"),
        ({"max_query_tokens": 0}, "max_query_tokens must be greater than or equal to 8, got 0"),
        ({"base": ""}, "base must have at least 1 character, got ''"),
        ({"languages": "python"}, "languages must be a list, got 'python'"),
        ({"languages": [1]}, r"languages\.0 must be a valid string, got 1"),
        ({"rank": 0}, "rank must be greater than or equal to 1, got 0"),
        ({"alpha": 0}, "alpha must be greater than 0"),
        ({"dropout": 1.0}, "dropout must be less than 1"),
        (
            {"initial_rank": 8},
            "initial_rank has no effect on the method 'lora', which has rank, alpha, ",
        ),
        ({"virtual_tokens": 4}, "virtual_tokens has no effect on the method 'lora'"),
        ({"orthogonality": 0.1}, "orthogonality has no effect on the method 'lora'"),
    ],
)
def test_each_setting_has_its_rule(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe().with_settings(settings)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ia3", {"rank": 8}),
        ("ia3", {"targets": "attention"}),
        ("prompt", {"rank": 8}),
        ("full", {"rank": 8}),
        ("full", {"dropout": 0.1}),
        ("full", {"virtual_tokens": 4}),
        ("adalora", {"virtual_tokens": 4}),
    ],
)
def test_a_setting_without_effect_on_the_method_is_refused(method: Method, settings: dict[str, Any]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} has no effect on the method '{method}'"):
        load_recipe(method=method).with_settings(settings)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_recipe_per_variant_of_a_reranker(variant: str) -> None:
    assert reranker_recipe_names() == [f"reranker-{name}" for name in sorted(VARIANTS)]
    recipe = load_reranker_recipe(variant)
    assert recipe == load_reranker_recipe(f"reranker-{variant}")
    assert recipe.train.variant == variant
    assert recipe.adapter.method == ("lora" if variant == "adapters" else "full")
    assert recipe.with_settings({"loss": "bce", "retriever": "none"}).train.loss == "bce"
    if variant == "adapters":
        assert recipe.with_settings({"rank": 3, "retriever": "none"}).adapter.rank == 3
    else:
        assert recipe.with_settings({"method": "lora", "rank": 3}).adapter == AdapterConfig(rank=3)


@pytest.mark.parametrize("kind", KINDS)
def test_one_recipe_per_kind_of_a_query_encoder(kind: str) -> None:
    assert query_recipe_names() == [f"query-{name}" for name in sorted(KINDS)]
    assert not set(query_recipe_names()) & {*recipe_names(), *reranker_recipe_names()}
    recipe = load_query_recipe(kind)
    assert recipe == load_query_recipe(f"query-{kind}")
    assert recipe.student.kind == kind
    changed = recipe.with_settings({"dual": 0.5, "teacher": "none", "most_queries": 9})
    assert changed.train.dual == 0.5
    assert (changed.teacher, changed.most_queries, changed.student.kind) == ("none", 9, kind)


def test_layers_and_their_adapter_are_settings_of_one_kind() -> None:
    changed = load_query_recipe("layers").with_settings({"layers": [1, 3], "rank": 3})
    assert (changed.student.layers, changed.adapter.rank) == ((1, 3), 3)
    with pytest.raises(ValueError, match="layers has no effect on a student of kind 'static'"):
        load_query_recipe("static").with_settings({"layers": [1, 3]})
    with pytest.raises(ValueError, match="the settings of an adapter have no effect on a student of kind 'static'"):
        load_query_recipe("static").with_settings({"rank": 3})


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
        ("[student]\ncolour = 1\n", "student: there is no setting 'colour'; there are buckets, "),
        ("[student]\nrank = 1\n", "student: there is no setting 'rank'"),
        ("[train]\nkind = 1\n", "train: there is no setting 'kind'"),
        ("student = 1\n[train]\nseed = 1\n", r"student must be a table, \[student\] with settings below it, got 1"),
        ("colour = 1\n", "there is no setting 'colour'; there are "),
        ("extends = 1\n", "extends must name one recipe, got 1"),
        ('[student]\nkind = "layers"\n', "a student of kind 'layers' needs layers"),
        ('[student]\nlayers = "0,5"\n', "layers must be a list, got '0,5'"),
        ('[student]\nlayers = [0, "5"]\n', r"layers\.1 must be a valid integer, got '5'"),
        ("[student]\nwidth = 33\n", "width must be a multiple of 32, got 33"),
        ("[train]\nhard_negatives = 1\n", "train: there is no setting 'hard_negatives'"),
        ("[train]\nsingle = -1\n", "single must be greater than or equal to 0, got -1"),
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
    with pytest.raises(ValueError, match="there is no recipe 'bigram': it is neither a file nor one of emb"):
        load_query_recipe("bigram")


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
        ("[train]\nspeed = 1\n", "train: there is no setting 'speed'; there are activation_gigabytes, batch_size, "),
        ("colour = 1\n", "there is no setting 'colour'; there are adapter, "),
        ("[train]\nbatch_size = 1\n", "batch_size must be greater than or equal to 2"),
        ('[train]\nbatch_size = "many"\n', "batch_size must be a valid integer, got 'many'"),
    ],
)
def test_refuses_broken_recipes(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_refuses_unknown_names() -> None:
    with pytest.raises(ValueError, match="there is no recipe 'cobol-lora': it is neither a file nor one of emb"):
        load_recipe("cobol-lora")
    with pytest.raises(ValueError, match="there is no setting 'rnak'"):
        Recipe().with_settings({"rnak": 3})


def test_weights_of_kinds_are_read_from_a_table_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "general"\n[kinds]\ncommit = 0.5\nsymbol = 0\n')
    recipe = load_recipe(path)
    assert recipe.kinds.stated() == {"commit": 0.5, "symbol": 0.0}
    assert recipe.with_settings({"test": 2}).kinds.stated() == {"commit": 0.5, "symbol": 0.0, "test": 2.0}
    assert Recipe().kinds.stated() == {}
    assert tuple(KindWeights.model_fields) == tuple(PAIR_KINDS)
    path.write_text("[kinds]\ncommits = 1\n")
    with pytest.raises(ValueError, match="kinds: there is no setting 'commits'; there are commit, doc, "):
        load_recipe(path)
    path.write_text("[kinds]\ndoc = -1\n")
    with pytest.raises(ValueError, match="doc must be greater than or equal to 0, got -1"):
        load_recipe(path)
