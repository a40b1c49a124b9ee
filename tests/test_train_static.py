"""Training of static models: what it starts from, that it learns and can be resumed, what it saves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from llamaindex_code_retrieval import CodeEmbedding, Encoder
from llamaindex_code_retrieval.models.static_model import StaticModel
from llamaindex_code_retrieval.training import Pair, StaticConfig, train_static_model
from llamaindex_code_retrieval.training.pairs import write_pairs
from llamaindex_code_retrieval.training.static_model import StaticTable
from tests.conftest import Shell

VERBS = "read write open close sort count merge split".split()
NOUNS = "file list word tree node path key table".split()
PAIRS = [
    Pair(
        query=f"{verb} a {noun}",
        code=f"def {verb}_{noun}({noun}):\n    return {noun}.{verb}()",
        language="python",
        repository=verb,
    )
    for verb in VERBS
    for noun in NOUNS
]


@pytest.fixture(scope="module")
def quick(bert_folder: Path) -> StaticConfig:
    return StaticConfig(
        base=str(bert_folder), dim=16, epochs=4, batch_size=16, learning_rate=0.02, held_out=0.2, save_steps=2
    )


class InterruptionError(Exception):
    """Stands for a kill in the middle of a run."""


def test_a_model_learns_from_its_pairs(quick: StaticConfig, tmp_path: Path) -> None:
    run = train_static_model(PAIRS, tmp_path / "out", config=quick, sources=["/home/me/pairs.jsonl"])
    losses = [entry["loss"] for entry in run.history if "loss" in entry]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert run.after is not None
    assert run.after["mrr"] > 0.5
    embedding = CodeEmbedding(tmp_path / "out")
    assert embedding.dim == 16
    assert embedding.fingerprint == run.fingerprint
    assert embedding.max_code_tokens == 128
    record = json.loads((tmp_path / "out" / "train_config.json").read_text())
    assert record["data"]["sources"] == ["pairs.jsonl"]
    assert record["train"]["dim"] == 16
    assert f"`{run.fingerprint}`" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "state.safetensors").exists()


def test_a_resumed_run_is_the_unbroken_one(quick: StaticConfig, tmp_path: Path) -> None:
    unbroken = train_static_model(PAIRS, tmp_path / "unbroken", config=quick)

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == 7:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        train_static_model(PAIRS, tmp_path / "out", config=quick, on_progress=interrupt)
    with pytest.raises(ValueError, match=r"resume that run \(--resume\)"):
        train_static_model(PAIRS, tmp_path / "out", config=quick)
    with pytest.raises(ValueError, match="has another settings than this one"):
        train_static_model(PAIRS, tmp_path / "out", config=quick.replace(temperature=0.1), resume=True)
    resumed = train_static_model(PAIRS, tmp_path / "out", config=quick, resume=True)
    assert resumed.fingerprint == unbroken.fingerprint


def test_the_table_starts_from_the_vectors_of_single_tokens(bert_folder: Path) -> None:
    """All components are kept, so that the table has the teacher's similarities up to the weights of tokens."""
    teacher = Encoder.from_pretrained(bert_folder, precision="fp32")
    table = StaticTable(teacher, [Pair(query="x", code="y")] * 50, dim=32, max_tokens=16)
    words = ["read", "the", "file"]
    ids = [teacher.tokenizer.convert_tokens_to_ids(word) for word in words]
    start = table.table()[ids]
    cosines = start @ start.T / np.outer(*[np.linalg.norm(start, axis=1)] * 2)
    vectors = np.concatenate([teacher.embed([teacher.tokenize([word], side="query")[0]]).detach() for word in words])
    everything = np.concatenate(list(_token_vectors(teacher)))
    centred = vectors - everything.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1)
    np.testing.assert_allclose(cosines, centred @ centred.T / np.outer(lengths, lengths), atol=1e-4)
    row = teacher.tokenizer.convert_tokens_to_ids("y")
    rare = StaticTable(teacher, [Pair(query="x", code="z")] * 50, dim=32, max_tokens=16).table()[row]
    np.testing.assert_allclose(
        table.table()[row] / np.linalg.norm(table.table()[row]), rare / np.linalg.norm(rare), atol=1e-4
    )
    assert np.linalg.norm(table.table()[row]) < np.linalg.norm(rare) / 5


def _token_vectors(teacher: Encoder) -> Iterator[np.ndarray]:
    layout = teacher.tokenization.pair_layout()
    with torch.inference_mode():
        for token in range(len(teacher.tokenizer)):
            yield teacher.embed([[*layout.before, token, *layout.after]]).numpy()


def test_the_form_for_use_has_the_vectors_of_training(bert_folder: Path) -> None:
    teacher = Encoder.from_pretrained(bert_folder, precision="fp32")
    table = StaticTable(teacher, PAIRS, dim=8, max_tokens=5)
    texts = ["read_file(path)", "sort sort sort the list of all words", "x"]
    trained = table.embed([table.rows(text) for text in texts]).detach().numpy()
    used = table.to_static_model().encode_codes(texts)
    assert ((trained * used).sum(axis=1) > 0.999).all()


def test_the_command_line(bert_folder: Path, shell: Shell, tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    sizes = ["--base", bert_folder, "--dim", 8, "--epochs", 1, "--batch-size", 16, "--held-out", 0.2]
    record = shell("train-static", "--pairs", "pairs.jsonl", "--out", "model", *sizes, "--json")
    assert record["fingerprint"] == StaticModel.load(tmp_path / "model").fingerprint
    assert (record["train"]["dim"], record["train"]["epochs"]) == (8, 1)
    more = ["train-static", "--pairs", "pairs.jsonl", "--out", "other"]
    shell.fails(*more, "--batch-size", 1000, says="pairs are fewer than a batch of 1000")
    shell.fails(*more, "--validate", "pairs.jsonl", "--held-out", 0.2, says="--held-out has no effect with --validate")
    shell.fails(*more, "--dim", 0, says="dim must be")
