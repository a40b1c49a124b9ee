"""Pretraining on source code alone: the objective, the command, and what follows it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.training import AdapterConfig, PretrainConfig, pretrain
from llamaindex_code_retrieval.training.adapters import attach_adapter
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.masking import Masker
from llamaindex_code_retrieval.training.pretraining import Masking, _kind, fit_masked, hold_out_texts, read_texts
from llamaindex_code_retrieval.training.recipes import PretrainRecipe, load_pretrain_recipe
from llamaindex_code_retrieval.training.source_texts import SourceText

FILES = 12
FUNCTIONS = 4
LORA = AdapterConfig(rank=4)


def function(verb: str, noun: str) -> str:
    return (
        f"def {verb}_{noun}({noun}s, limit):\n"
        f'    """{verb.capitalize()} the {noun}s."""\n'
        f"    found = []\n    for {noun} in {noun}s:\n        found.append({noun}.{verb}(limit))\n    return found\n"
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("code") / "tools"
    root.mkdir()
    for number in range(FILES):
        verbs = ("read", "write", "open", "sort")[:FUNCTIONS]
        (root / f"m{number}.py").write_text("\n\n".join(function(verb, f"item{number}") for verb in verbs))
    return root


@pytest.fixture(scope="module")
def encoder(bert_folder: Path) -> Encoder:
    return Encoder.from_pretrained(bert_folder, precision="fp32", max_code_tokens=64)


@pytest.fixture(scope="module")
def texts(checkout: Path, encoder: Encoder) -> list[SourceText]:
    return read_texts([checkout], encoder)


def objective(encoder: Encoder, texts: list[SourceText], **settings: Any) -> Masking:
    config = PretrainConfig(batch_size=8, **settings)
    return Masking(attach_adapter(encoder, LORA), Masker(encoder, max_tokens=64), texts, config)


def test_texts_fit_the_model_and_name_what_they_declare(texts: list[SourceText], encoder: Encoder) -> None:
    rows = encoder.tokenize([text.text for text in texts], side="code", truncate=False)
    assert max(map(len, rows)) <= 64
    first = next(text for text in texts if text.path == "tools/m0.py" and "def read_item0(" in text.text)
    assert {"read_item0", "item0s", "limit"} <= set(first.names)
    assert "append" not in {name for text in texts for name in text.names}


def test_held_out_texts_come_from_other_files(texts: list[SourceText]) -> None:
    train, held_out = hold_out_texts(texts, 0.25, seed=0)
    assert len(train) + len(held_out) == len(texts)
    assert held_out
    assert not {text.path for text in train} & {text.path for text in held_out}
    with pytest.raises(ValueError, match=r"all texts are from the file tools/m0.py.*held_out=0"):
        hold_out_texts([text for text in texts if text.path == "tools/m0.py"], 0.25, seed=0)


@pytest.mark.parametrize(("share", "names"), [(0.0, 0), (0.25, 3), (0.5, 6), (1.0, 12)])
def test_batches_mask_names_as_often_as_asked(share: float, names: int) -> None:
    kinds = [_kind(PretrainConfig(name_batches=share), step) for step in range(12)]
    assert sum(kind == "names" for kind, _ in kinds) == names
    for wanted in ("names", "tokens"):
        numbers = [number for kind, number in kinds if kind == wanted]
        assert numbers == list(range(len(numbers)))


def test_the_loss_is_the_mean_cross_entropy_of_the_masked_tokens(encoder: Encoder, texts: list[SourceText]) -> None:
    each = objective(encoder, texts, name_batches=0.0, precision="fp32")
    rows = each.mask(texts[:3], "tokens", seed="0-0")
    with torch.no_grad():
        logits, labels = each._predict(rows)
        states = [encoder.hidden_states([row.ids])[0][0] for row in rows]
        for i, (row, hidden) in enumerate((row, hidden) for row, hidden in zip(rows, states, strict=True)):
            before = sum(len(other.labels) for other in rows[:i])
            for number, place in enumerate(row.places):
                normed = torch.nn.functional.layer_norm(hidden[place], hidden[place].shape)
                expected = each.table() @ normed * each.head.scale
                torch.testing.assert_close(logits[before + number], expected, atol=1e-4, rtol=1e-4)
    assert labels.tolist() == [label for row in rows for label in row.labels]


def test_the_gradient_does_not_depend_on_the_size_of_a_forward_pass(encoder: Encoder, texts: list[SourceText]) -> None:
    gradients = []
    for tokens in (64, 100_000):
        each = objective(encoder, texts, forward_tokens=tokens, precision="fp32")
        loss, name = each.backward(1)
        assert math.isfinite(loss)
        assert "tools/" in name
        gradients.append({key: p.grad for key, p in each.parameters.items()})
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][key], atol=1e-5, rtol=1e-3)


def test_it_learns_what_is_masked_and_the_head_is_tied(encoder: Encoder, texts: list[SourceText]) -> None:
    config = PretrainConfig(batch_size=8, epochs=30, learning_rate=3e-3)
    model = attach_adapter(encoder, LORA)
    before = encoder.base.get_input_embeddings().weight.clone()  # type: ignore[operator]
    run = fit_masked(model, Masker(encoder, max_tokens=64), texts, LORA, config, held_out=texts[:8])
    losses = [entry["loss"] for entry in run.history if "loss" in entry]
    assert sum(losses[-4:]) < 0.85 * sum(losses[:4])
    assert run.after is None  # not saved
    scores = [entry["validation"] for entry in run.history if "validation" in entry]
    assert scores[-1]["names_accuracy"] > scores[0]["names_accuracy"]
    assert scores[-1]["tokens_accuracy"] > scores[0]["tokens_accuracy"]
    assert torch.equal(before, encoder.base.get_input_embeddings().weight)  # type: ignore[operator]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_resumed_run_ends_with_the_same_bits(method: str, checkout: Path, bert_folder: Path, tmp_path: Path) -> None:
    recipe = PretrainRecipe.of_method(method).with_settings(  # type: ignore[arg-type]
        {
            "base": str(bert_folder),
            "max_code_tokens": 64,
            "batch_size": 8,
            "epochs": 2,
            "held_out": 0.2,
            "save_steps": 1,
        }
    )
    whole = pretrain([checkout], tmp_path / "whole", recipe=recipe)

    def interrupt(stage: str, step: int, total: int) -> None:
        if stage == "train" and step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain([checkout], tmp_path / "parts", recipe=recipe, on_progress=interrupt)
    assert (tmp_path / "parts" / STATE).is_file()
    changed = recipe.with_settings({"masked_tokens": 0.3})
    with pytest.raises(ValueError, match="another settings"):
        pretrain([checkout], tmp_path / "parts", recipe=changed, resume=True)
    parts = pretrain([checkout], tmp_path / "parts", recipe=recipe, resume=True)
    assert parts.fingerprint == whole.fingerprint
    assert [entry.get("loss") for entry in parts.history] == [entry.get("loss") for entry in whole.history]
    assert not (tmp_path / "parts" / STATE).exists()


def pretrain_command(checkout: Path, base: Path, out: Path, *more: str) -> list[str]:
    small = ["--set", "max_code_tokens=64", "--batch-size", "8", "--set", "held_out=0.2"]
    return ["pretrain", str(checkout), "--base", str(base), "--out", str(out), *small, *more]


@pytest.mark.parametrize("folder", ["bert_folder", "mpnet_folder", "roberta_folder", "t5_folder", "codesage_folder"])
def test_all_kinds_of_bases(folder: str, checkout: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    base = request.getfixturevalue(folder)
    assert main(pretrain_command(checkout, base, tmp_path / "out", "--set", "rank=2")) == 0
    record = json.loads((tmp_path / "out" / "train_config.json").read_text())
    assert record["steps"] >= 4


def test_both_stages_by_the_command_line(
    checkout: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first"
    assert main(pretrain_command(checkout, bert_folder, first, "--set", "rank=4", "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["data"]["texts"] == record["data"]["languages"]["python"]
    assert set(record["validation_best"]) == {"accuracy", "names_accuracy", "tokens_accuracy"}
    card = (first / "README.md").read_text()
    assert "no model for retrieval yet" in card
    assert "Share of the masked tokens predicted" in card
    assert str(tmp_path) not in card
    pairs = tmp_path / "pairs.jsonl"
    assert main(["mine", str(checkout), "--out", str(pairs)]) == 0
    small = ["--batch-size", "8", "--set", "max_code_tokens=64", "--set", "held_out=0.2"]
    train = ["train", "--pairs", str(pairs), "--base", str(bert_folder), "--start", str(first), *small]
    capsys.readouterr()
    assert main([*train, "--out", str(tmp_path / "second"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["adapter"]["rank"] == 4
    assert record["start"] == "first"


def test_whole_weights_become_a_base(checkout: Path, bert_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "base"
    assert main(pretrain_command(checkout, bert_folder, out, "--method", "full", "--learning-rate", "0.003")) == 0
    before, after = (Encoder.from_pretrained(folder, precision="fp32") for folder in (bert_folder, out))
    assert before.base_fingerprint != after.base_fingerprint
    assert after.encode_codes(["def f(): pass"]).shape == before.encode_codes(["def f(): pass"]).shape


def test_adapt_pretrains_first(
    checkout: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["adapt", str(checkout), "--base", str(bert_folder), "--out", str(tmp_path / "index"), "--minutes", "0.5"]
    command += ["--adapter-out", str(tmp_path / "adapter"), "--set", "max_code_tokens=64", "--epochs", "1"]
    assert main([*command, "--pretrain", "--method", "ia3"]) == 2
    assert "a pretraining takes the method lora or full, not 'ia3'" in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()
    assert main([*command, "--pretrain", "--json"]) == 0
    pretraining = json.loads(capsys.readouterr().out)["pretraining"]
    assert pretraining["steps"] >= 1
    encoder = Encoder.from_pretrained(bert_folder, max_code_tokens=64)
    assert 0 < pretraining["texts"] < 0.85 * len(read_texts([checkout], encoder))  # a fifth of the files is held out


Change = Callable[[Path], list[str]]


def _no_names(root: Path) -> list[str]:
    for number in range(20):
        (root / f"a{number}.py").write_text(f"print({number})\nprint('b')\nprint('c')\n")
    return []


def _few_files(root: Path) -> list[str]:
    for number in range(2):
        (root / f"a{number}.py").write_text(function("read", f"file{number}"))
    return []


def _minified(root: Path) -> list[str]:
    (root / "a.min.js").write_text("var a=1;" * 9000)
    return []


def _documents(root: Path) -> list[str]:
    (root / "README.md").write_text("# Title\n\nText.\n")
    return []


def _other_language(root: Path) -> list[str]:
    _few_files(root)
    return ["--language", "go"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_names, "0 of .* texts declare a name that can be masked.*name_batches=0"),
        (_few_files, "texts are fewer than a batch of 8; lower batch_size or give more source code"),
        (_minified, "there is no function to learn from in"),
        (_documents, "there is no function to learn from in"),
        (_other_language, "there is no function to learn from in .*0 files of these languages"),
    ],
)
def test_too_little_source_code_is_named(
    change: Change, message: str, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "code"
    root.mkdir()
    more = change(root)
    assert main(pretrain_command(root, bert_folder, tmp_path / "out", *more)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "method=prompt"], "a pretraining takes the method lora or full, not 'prompt'"),
        (["--set", "name_batches=1", "--set", "masked_tokens=0.3"], "masked_tokens has no effect with name_batches=1"),
        (["--set", "temperature=0.1"], "there is no setting 'temperature'"),
        (["--recipe", "general"], "another kind of training"),
        (["--start", "no-such"], "no-such"),
    ],
)
def test_wrong_settings_are_refused(
    more: list[str], message: str, checkout: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(pretrain_command(checkout, bert_folder, tmp_path / "out", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_stops_the_run(encoder: Encoder, texts: list[SourceText], tmp_path: Path) -> None:
    config = PretrainConfig(batch_size=8, learning_rate=1e30, epochs=3, precision="fp32")
    model = attach_adapter(encoder, LORA)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        fit_masked(model, Masker(encoder, max_tokens=64), texts, LORA, config, folder=tmp_path)
    assert (tmp_path / STATE).is_file()


def test_recipes() -> None:
    assert load_pretrain_recipe("pretrain-tokens").train.name_batches == 0
    assert load_pretrain_recipe("pretrain-names").train.name_batches == 1
    assert load_pretrain_recipe("pretrain-both") == PretrainRecipe()
    assert load_pretrain_recipe(method="full").train.learning_rate == 1e-4
    text = SourceText("a", "python", "p")
    assert replace(text, names=("x",)) != text
