"""From pairs or a checkout to a measured adapter: the commands train, adapt and recipes."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeRetriever, Encoder, training
from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.training import (
    AdapterConfig,
    TrainConfig,
    TrainingRun,
    adapt_to_repository,
    loop,
    run_record,
    train_adapter,
)
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.pairs import Pair, write_pairs
from llamaindex_code_retrieval.training.recipes import Recipe
from llamaindex_code_retrieval.training.validation import score, split_held_out

VERBS = "read write open close sort add list count".split()
NOUNS = "file line word tree node path key".split()
BODY = "    found = []\n    for each in {noun}s:\n        found.append(each.{verb}())\n    return found\n"


def pair_list() -> list[Pair]:
    return [
        Pair(
            query=f"{verb} every {noun} of the list",
            code=f"def {verb}_{noun}({noun}s):\n" + BODY.format(verb=verb, noun=noun),
            language="python" if i % 2 else "java",
            repository=f"org/{noun}",
            path=f"{verb}.py",
        )
        for i, verb in enumerate(VERBS)
        for noun in NOUNS
    ]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, pair_list())
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "tools"
    root.mkdir()
    for verb in VERBS:
        functions = [
            f'def {verb}_{noun}({noun}s):\n    """{verb.capitalize()} every {noun} of the list."""\n'
            + BODY.format(verb=verb, noun=noun)
            for noun in NOUNS
        ]
        (root / f"{verb}.py").write_text("\n\n".join(functions))
    return root


def train_command(pairs: Path, out: Path, base: Path, *more: str) -> list[str]:
    small = ["--set", "max_code_tokens=32", "--set", "max_query_tokens=32"]
    small += [] if "--batch-size" in more else ["--batch-size", "8"]
    small += [] if "--epochs" in more else ["--epochs", "2"]
    small += [] if "--validate" in more else ["--set", "held_out=0.2"]
    return ["train", "--pairs", str(pairs), "--out", str(out), "--base", str(base), *small, *more]


def _json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("method", ["lora", "adalora", "ia3", "prompt", "full"])
def test_train(method: str, pairs: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(train_command(pairs, out, bert_folder, "--method", method, "--json")) == 0
    record = _json(capsys)
    assert record["adapter"]["method"] == method
    assert record["trained_parameters"] > 0
    assert set(record["validation_before"]) == set(record["validation_best"]) == {"mrr", "r@1", "r@10"}
    saved = json.loads((out / "train_config.json").read_text())
    assert saved == {key: value for key, value in record.items() if key != "folder"}
    card = (out / "README.md").read_text()
    assert f"`{record['fingerprint']}`" in card
    assert f"{record['validation_best']['mrr']:.4f}" in card
    assert (out / "curves.svg").read_text().lstrip().startswith("<?xml")
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert sum("loss" in entry for entry in log) == record["steps"]
    assert not (out / STATE).exists()
    model = {"model_name": str(out)} if method == "full" else {"model_name": str(bert_folder), "adapter": str(out)}
    embedding = CodeEmbedding(**model, max_query_tokens=32, max_code_tokens=32)  # the limits trained with
    assert embedding.fingerprint == record["fingerprint"]
    for name in ("train_config.json", "README.md", "log.jsonl"):
        assert str(tmp_path) not in (out / name).read_text()  # no path of this machine
    assert record["data"]["sources"] == ["pairs.jsonl"]
    bare = CodeEmbedding(str(bert_folder)).get_text_embedding("def f(): pass")
    assert (embedding.get_text_embedding("def f(): pass") == bare) == (record["best_step"] == 0)


def test_train_by_recipe_and_validation_set(
    pairs: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text("[adapter]\nrank = 1\n[train]\nseed = 5\ntemperature = 0.1\n")
    more = ["--recipe", str(recipe), "--language", "java", "--validate", str(pairs), "--set", "hard_negatives=1"]
    assert main(train_command(pairs, tmp_path / "out", bert_folder, *more, "--json")) == 0
    record = _json(capsys)
    assert record["adapter"]["rank"] == 1
    assert (record["train"]["seed"], record["train"]["temperature"], record["train"]["hard_negatives"]) == (5, 0.1, 1)
    assert record["data"]["languages"] == {"java": 28}
    assert (record["validation_queries"], record["report_queries"]) == (28, 28)


def test_train_mixes_kinds_of_pairs_by_weight(
    bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed, validation = tmp_path / "mixed.jsonl", tmp_path / "validation.jsonl"
    write_pairs(mixed, [replace(pair, kind=("doc", "commit")[i % 2]) for i, pair in enumerate(pair_list())])
    write_pairs(validation, pair_list())
    command = train_command(mixed, tmp_path / "out", bert_folder, "--validate", str(validation), "--epochs", "1")
    assert main([*command, "--set", "commit=0.5", "--set", "doc=2", "--json"]) == 0
    assert _json(capsys)["data"]["kinds"] == {"doc": 56, "commit": 14}
    assert main([*command, "--set", "test=1", "--out", str(tmp_path / "new")]) == 2
    assert "the kind 'test' has the weight 1, but no pair of it is left to train on" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_train_goes_on_after_an_interruption(
    pairs: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llamaindex_code_retrieval.training.loop import Loop

    command = train_command(pairs, tmp_path / "whole", bert_folder)
    assert main(command) == 0
    step = Loop.step

    def stop(loop: Loop) -> Any:
        if loop.progress.step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(loop)

    cut = train_command(pairs, tmp_path / "cut", bert_folder)
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "step", stop)
        assert main(cut) == 130
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [STATE]
    capsys.readouterr()
    assert main(cut) == 2
    assert "is not empty; choose another folder, or resume that run (--resume)" in capsys.readouterr().err
    other = train_command(pairs, tmp_path / "cut", bert_folder, "--validate", str(pairs), "--resume")
    for command, name in (
        ([*cut, "--resume", "--start", str(tmp_path / "whole")], "start"),
        ([part.replace("max_code_tokens=32", "max_code_tokens=40") for part in [*cut, "--resume"]], "token limits"),
        ([*cut, "--resume", "--seed", "1"], "pairs"),  # of which others are held out
        (other, "pairs"),
    ):
        assert main(command) == 2
        assert f"has another {name} than this one" in capsys.readouterr().err
    assert main([*cut, "--resume"]) == 0
    weights = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_adapt(checkout: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index, adapter = tmp_path / "index", tmp_path / "adapter"
    command = ["adapt", str(checkout), "--out", str(index), "--adapter-out", str(adapter), "--base", str(bert_folder)]
    small = ["--batch-size", "8", "--epochs", "4", "--set", "max_code_tokens=32"]
    assert main([*command, *small, "--json"]) == 0
    record = _json(capsys)
    before, after = record["validation_before"]["mrr"], record["validation_best"]["mrr"]
    loaded = CodeIndex.open(index)
    assert record["indexed_with_adapter"] == (after > before)
    assert (loaded.embedding.adapter == str(adapter)) == (after > before)
    assert CodeRetriever(loaded, top_k=3).retrieve("read every file of the list")
    shutil.rmtree(index)


def test_adapt_of_all_weights_indexes_with_them(
    checkout: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, base = tmp_path / "index", tmp_path / "base"
    command = ["adapt", str(checkout), "--out", str(index), "--adapter-out", str(base), "--base", str(bert_folder)]
    small = ["--method", "full", "--batch-size", "8", "--epochs", "4", "--learning-rate", "0.003"]
    assert main([*command, *small, "--set", "max_code_tokens=32", "--json"]) == 0
    assert _json(capsys)["indexed_with_adapter"]
    assert CodeIndex.open(index).embedding.model_name == str(base)


def test_adapt_takes_the_epochs_of_a_recipe(
    checkout: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(f'base = "{bert_folder}"\nmax_code_tokens = 32\n[train]\nepochs = 0.1\nbatch_size = 8\n')
    command = ["adapt", str(checkout), "--recipe", str(recipe), "--out", str(tmp_path / "index"), "--method", "adalora"]
    assert main([*command, "--adapter-out", str(tmp_path / "a"), "--minutes", "5"]) == 2
    assert "AdaLoRA prunes by a schedule of known length" in capsys.readouterr().err
    command[-1] = "ia3"
    assert main([*command, "--adapter-out", str(tmp_path / "b"), "--json"]) == 0
    record = _json(capsys)
    assert (record["train"]["epochs"], record["adapter"]["method"]) == (0.1, "ia3")
    assert record["train"]["max_seconds"] <= 900


def test_the_budget_of_adapt_is_what_mining_and_measuring_leave(
    checkout: Path, bert_folder: Path, tmp_path: Path
) -> None:
    now = 0.0

    def clock() -> float:
        """Each look at the clock takes ten seconds."""
        nonlocal now
        now += 10.0
        return now

    recipe = Recipe(base=str(bert_folder), max_code_tokens=32, train=TrainConfig(batch_size=8))
    run = adapt_to_repository([checkout], tmp_path / "out", recipe=recipe, minutes=2, clock=clock)
    assert run.record["train"]["max_seconds"] == 120 - 30 - 10  # since the start, and to measure the result
    assert run.record["data"]["sources"] == ["tools"]


def test_adapt_says_before_mining_that_the_start_does_not_fit(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The embedded base's own adapter has rank 64."""
    command = ["adapt", str(checkout), "--out", str(tmp_path / "index"), "--adapter-out", str(tmp_path / "adapter")]
    assert main([*command, "--set", "rank=8"]) == 2
    error = capsys.readouterr().err
    assert (
        "cannot start from the adapter embedded-general: rank is 64 there and 8 here, alpha is 128 there and 16"
        in error
    )
    assert "--start none" in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "held_out=0.1"], "--set held_out=... has no effect here: `adapt` holds out a fifth of the files"),
        (["--set", "max_seconds=9"], "--set max_seconds=... has no effect here: --minutes is the budget"),
        (["--minutes", "0"], "minutes must be over 0, got 0.0"),
        (["--method", "ia3", "--set", "method=lora"], "--method ia3 and --set method=lora differ"),
        (
            ["--set", "epochs=1", "--epochs", "2"],
            "--set epochs=... and --epochs change the same setting; leave one out",
        ),
        (["--recipe", "python-lora"], "the recipe python-lora has been replaced: --recipe python --method lora"),
    ],
)
def test_adapt_refuses(
    more: list[str], message: str, checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["adapt", str(checkout), "--out", str(tmp_path / "index"), "--adapter-out", str(tmp_path / "adapter")]
    assert main([*command, *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()


# --- what the scores before and after are measured on ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("queries", "selection", "report"), [(30, 30, 30), (39, 39, 39), (40, 20, 20), (56, 28, 28), (1000, 300, 300)]
)
def test_queries_that_choose_the_step_do_not_measure_it(queries: int, selection: int, report: int) -> None:
    held_out = [Pair(query=f"query {i}", code=f"code {i}") for i in range(queries)]
    validation = split_held_out([*held_out, *held_out[:5]], pair_list(), seed=3)
    chosen, measured = (set(part.queries.values()) for part in (validation.selection, validation.report))
    assert (len(chosen), len(measured)) == (selection, report)
    assert validation.is_shared == (queries < 40)
    assert validation.is_shared or not chosen & measured
    assert all(len(part.corpus) == len(part.queries) + 56 for part in (validation.selection, validation.report))


def test_before_and_after_are_those_of_the_report_queries(bert_folder: Path, tmp_path: Path) -> None:
    pairs, recipe = pair_list(), Recipe(base=str(bert_folder), max_code_tokens=32, max_query_tokens=32)
    config = TrainConfig(batch_size=8, epochs=0.5, learning_rate=0.02)
    run = train_adapter(pairs, tmp_path / "out", recipe=recipe, config=config, validation_pairs=pairs)
    report = split_held_out(pairs, pairs, seed=0).report
    base = Encoder.from_pretrained(bert_folder, precision="fp32", max_code_tokens=32, max_query_tokens=32)
    assert run.before == score(base, report)
    assert run.after == score(run.model, report)
    assert run.record["validation_best"] == run.after
    assert {entry["step"] for entry in run.history if "validation" in entry} == {0, *range(1, run.steps + 1)}
    assert "Measured on 28 held-out queries that did not choose the best step." in (run_card := _card(run))
    assert f"{run.after['mrr']:.4f}" in run_card


def test_few_held_out_queries_are_said_to_choose_and_measure(
    pairs: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train_command(pairs, tmp_path / "out", bert_folder, "--epochs", "0.2")) == 0
    printed = capsys.readouterr().out
    note = 'Measured on the 8 queries that chose the best step, so "after" is the best of several validations.'
    assert note in " ".join(printed.split())
    assert note in (tmp_path / "out" / "README.md").read_text()
    record = json.loads((tmp_path / "out" / "train_config.json").read_text())
    assert (record["validation_queries"], record["report_queries"]) == (8, None)


def _card(run: TrainingRun[Encoder]) -> str:
    assert run.folder is not None
    return (run.folder / "README.md").read_text()


# --- nothing is lost at the end --------------------------------------------------------------------------------------


def _quick(pairs: Path, out: Path, base: Path) -> list[str]:
    return train_command(pairs, out, base, "--epochs", "0.2")


@pytest.mark.parametrize("name", ["curves_svg", "model_card", "write_tensorboard"])
def test_a_failing_curve_or_card_loses_nothing(
    name: str,
    pairs: Path,
    bert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(run_record, name, fail)
    assert main(_quick(pairs, tmp_path / "out", bert_folder)) == 0
    assert "could not be written (RuntimeError('no font')); everything else is saved" in caplog.text
    record = json.loads((tmp_path / "out" / "train_config.json").read_text())
    embedding = CodeEmbedding(str(bert_folder), adapter=str(tmp_path / "out"), max_query_tokens=32, max_code_tokens=32)
    assert embedding.fingerprint == record["fingerprint"]
    assert not (tmp_path / "out" / STATE).exists()


@pytest.mark.parametrize("file", ["train_config.json", "log.jsonl"])
def test_a_disk_that_is_full_at_the_end_loses_nothing(
    file: str,
    pairs: Path,
    bert_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(_quick(pairs, tmp_path / "whole", bert_folder)) == 0
    out, write = tmp_path / "out", run_record.write_atomically

    def full(path: Path, content: str | bytes) -> None:
        if path.name == file:
            raise OSError(28, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(run_record, "write_atomically", full)
        assert main(_quick(pairs, out, bert_folder)) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert (out / STATE).is_file()
    assert main([*_quick(pairs, out, bert_folder), "--resume"]) == 0
    whole, resumed = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "whole", out))
    assert all((whole[name] == resumed[name]).all() for name in whole)
    assert not (out / STATE).exists()


def test_a_disk_without_room_for_the_state_takes_the_adapter(
    pairs: Path,
    bert_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(path: Path, content: str | bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(loop, "write_atomically", full)
    assert main(_quick(pairs, tmp_path / "out", bert_folder)) == 0
    assert "the state of the finished run could not be saved" in caplog.text
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_a_checkout_without_metadata_trains(
    pairs: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version

    def missing(name: str) -> str:
        if name == "llamaindex-code-retrieval":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert main(_quick(pairs, tmp_path / "out", bert_folder)) == 0
    versions = json.loads((tmp_path / "out" / "train_config.json").read_text())["versions"]
    assert versions["llamaindex-code-retrieval"] == "unknown"
    assert versions["torch"] == torch.__version__


@pytest.mark.parametrize("package", ["accelerate", "datasketch", "matplotlib"])
def test_a_missing_package_is_named_before_the_work(
    package: str,
    pairs: Path,
    checkout: Path,
    bert_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # what an import finds that is not installed
    adapt = ["adapt", str(checkout), "--out", str(tmp_path / "index"), "--adapter-out", str(tmp_path / "adapter")]
    for command in (train_command(pairs, tmp_path / "out", bert_folder), adapt):
        assert main(command) == 2
        message = f"training an adapter needs {package}: pip install 'llamaindex-code-retrieval[train]'"
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_settings_and_recipes_are_imported_without_torch() -> None:
    script = (
        "import sys\n"
        "from llamaindex_code_retrieval.training import AdapterConfig, Pair, TrainConfig, load_recipe\n"
        "load_recipe('general', method='ia3')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_module_of_training_needs_a_package_of_the_extra_to_be_imported() -> None:
    folder = Path(training.__file__).parent
    for path in folder.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"accelerate", "datasets", "datasketch", "matplotlib"}


@pytest.mark.parametrize("name", training.__all__)
def test_the_public_names_are_there(name: str) -> None:
    assert getattr(training, name).__doc__


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    assert "embedded-large-general" in capsys.readouterr().out
    assert main(["recipes", "--method", "ia3", "--json"]) == 0
    recipes = _json(capsys)
    assert recipes["java"]["adapter"]["method"] == "ia3"
    assert recipes["embedded-general"]["adapter"]["method"] == "lora"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--language", "rust"], "there is no pair of language 'rust'; the sources have java, python"),
        (["--batch-size", "1"], "batch_size must be greater than or equal to 2"),
        (["--batch-size", "500"], "pairs are fewer than a batch of 500; lower batch_size or give more pairs"),
        (["--set", "rank"], "--set takes NAME=VALUE, got 'rank'"),
        (["--set", "speed=1"], "there is no setting 'speed'"),
        (["--recipe", "none"], "there is no recipe 'none'"),
        (["--resume"], "there is no unfinished run"),
        (["--start", "nowhere"], "unknown adapter 'nowhere'"),
        (["--public"], "--public has no effect without --push"),
        (["--push", "name"], "'name' is not the name of a repository on the hub; give it as org/name"),
        (["--set", "rank=2", "--set", "rank=4"], "--set sets rank twice; leave one out"),
        (["--method", "ia3", "--set", "rank=4"], "rank has no effect on the method 'ia3'"),
        (["--method", "adalora", "--epochs", "0.5"], "AdaLoRA needs at least 10 steps to prune its ranks, got 3"),
        (["--method", "adalora", "--set", "max_seconds=60"], "AdaLoRA prunes by a schedule of known length"),
        (["--set", "targets=nothing"], "no module of this base matches targets='nothing'"),
        (["--set", "precision=fp8"], "precision must be 'auto', 'fp32' or 'bf16', got 'fp8'"),
        (["--set", "learning_rate=1e30", "--set", "max_gradient_norm=1e30"], "lower the learning rate"),
    ],
)
def test_wrong_input(
    more: list[str],
    message: str,
    pairs: Path,
    bert_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    assert main(train_command(pairs, out, bert_folder, *more)) == 2
    assert message in capsys.readouterr().err
    assert not (out / "adapter_config.json").exists()


@pytest.mark.parametrize("compares", [True, False])
def test_codes_are_compared_unless_the_recipe_says_not_to(bert_folder: Path, tmp_path: Path, compares: bool) -> None:
    """Codes that are all near-duplicates leave no negatives, which nobody notices without the comparison."""
    code = "def f(x):\n    total = 0\n    for each in x:\n        total += each\n    return total"
    pairs = [Pair(query=f"question {i}", code=code + " " * i) for i in range(4)]
    recipe = Recipe(
        base=str(bert_folder), max_query_tokens=32, max_code_tokens=48, held_out=0.0, compare_codes=compares
    )
    config = TrainConfig(batch_size=2, epochs=1, precision="fp32")
    if compares:
        with pytest.raises(ValueError, match="all codes are equal or near-duplicates"):
            train_adapter(pairs, tmp_path / "out", recipe=recipe, config=config)
    else:
        assert train_adapter(pairs, tmp_path / "out", recipe=recipe, config=config).steps == 2


def test_a_training_takes_the_rank_of_its_start(bert_folder: Path, tmp_path: Path) -> None:
    """And its scale; the rate of the preset, of rank 2, falls with the root of the rank."""
    pairs = [Pair(query=f"read file {i}", code=f"def read_{i}(file): ...", path=f"{i}.py") for i in range(12)]
    config = TrainConfig(batch_size=2, learning_rate=2e-3, epochs=0.5)
    recipe = Recipe(base=str(bert_folder), max_query_tokens=16, max_code_tokens=32, train=config)
    shape = AdapterConfig(rank=8, alpha=24.0)
    train_adapter(pairs, tmp_path / "first", recipe=recipe, adapter=shape)
    record = train_adapter(pairs, tmp_path / "second", recipe=recipe, start=tmp_path / "first").record
    assert (record["adapter"]["rank"], record["adapter"]["alpha"]) == (8, 24.0)
    assert record["train"]["learning_rate"] == pytest.approx(1e-3)
    stated = recipe.with_parts(train=config.replace(learning_rate=5e-4))
    record = train_adapter(pairs, tmp_path / "third", recipe=stated, start=tmp_path / "first").record
    assert record["train"]["learning_rate"] == 5e-4


def test_pairs_of_one_query_are_refused(bert_folder: Path, tmp_path: Path) -> None:
    same = [replace(pair, query="the same") for pair in pair_list()]
    recipe = Recipe(base=str(bert_folder), held_out=0.0, train=TrainConfig(batch_size=8))
    with pytest.raises(ValueError, match="all 56 pairs have the same query, 'the same', so none of them is a negative"):
        train_adapter(same, tmp_path / "out", recipe=recipe)
    assert not (tmp_path / "out").exists()


def test_a_training_that_makes_the_vectors_nan_names_the_learning_rate(bert_folder: Path, tmp_path: Path) -> None:
    """The validation fails before a loss does."""
    train = TrainConfig(batch_size=8, learning_rate=1e30, warmup=0.0, validate_steps=1)
    recipe = Recipe(base=str(bert_folder), train=train, max_query_tokens=16, max_code_tokens=32)
    with pytest.raises(
        FloatingPointError, match=r"cannot be validated after step 1 \(.*lower the learning rate \(now 1e\+30"
    ):
        train_adapter(pair_list(), tmp_path / "out", recipe=recipe)


@pytest.mark.parametrize(
    ("out", "adapter_out", "message"),
    [
        ("file", "adapter", "file is a file; name a folder for the index"),
        ("file/index", "adapter", "file/index cannot be written"),
        ("checkout", "adapter", "holds other things than an index"),
        ("same", "same", "name two folders"),
    ],
)
def test_adapt_refuses_a_folder_for_its_index_before_the_training(
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    out: str,
    adapter_out: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("checkout").mkdir()
    Path("checkout", "main.py").write_text("")
    command = ["adapt", str(checkout), "--out", out, "--adapter-out", adapter_out, "--base", "no such model"]
    assert main(command) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused(pairs: Path, bert_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recipe = Recipe(base=str(bert_folder))
    with pytest.raises(ValueError, match=r"cannot be written: .*file is not a writable folder; name a folder in "):
        train_adapter(pair_list(), tmp_path / "file" / "out", recipe=recipe)


def test_broken_pairs_name_the_line(
    pairs: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = pairs.read_text().splitlines()
    lines[6] = json.dumps({**json.loads(lines[6]), "query": " "})
    pairs.write_text("\n".join(lines))
    assert main(train_command(pairs, tmp_path / "out", bert_folder)) == 2
    assert "line 7" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_push_tells_what_failed(
    pairs: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train_command(pairs, tmp_path / "out", bert_folder, "--push", "org/name")) == 2
    assert "is saved, but could not be pushed to org/name" in capsys.readouterr().err
    assert (tmp_path / "out" / "adapter_config.json").is_file()


def test_a_card_names_only_data_sets_of_the_hub(bert_folder: Path, tmp_path: Path) -> None:
    recipe = Recipe(base=str(bert_folder), max_code_tokens=32, max_query_tokens=32, train=TrainConfig(batch_size=8))
    sources = ["hf:org/pairs:train", "my-pairs.jsonl", "cosqa", "src", "hf:org/pairs"]
    run = train_adapter(pair_list(), tmp_path / "out", recipe=recipe, sources=sources)
    assert run.folder is not None
    assert 'datasets: ["org/pairs"]\n' in (run.folder / "README.md").read_text()
