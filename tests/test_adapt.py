"""From pairs or a checkout to a measured adapter: the commands train, adapt and recipes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeRetriever
from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.pairs import Pair, write_pairs

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
    small = ["--batch-size", "8", "--epochs", "2", "--set", "held_out=0.2"]
    small += ["--set", "max_code_tokens=32", "--set", "max_query_tokens=32"]
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
    loaded = CodeIndex.load(index)
    assert record["indexed_with_adapter"] == (after > before)
    assert (loaded.embedding.adapter == str(adapter)) == (after > before)
    assert CodeRetriever(loaded, top_k=3).retrieve("read every file of the list")
    shutil.rmtree(index)


def test_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    assert "embedded-python" in capsys.readouterr().out
    assert main(["recipes", "--method", "ia3", "--json"]) == 0
    recipes = _json(capsys)
    assert recipes["java"]["adapter"]["method"] == "ia3"
    assert recipes["embedded-java"]["adapter"]["method"] == "lora"


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
