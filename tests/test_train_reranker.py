"""Rerankers from pairs: first-stage candidates, calibration queries, the driver and the command."""

from __future__ import annotations

import gc
import json
import sqlite3
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamaindex_code_retrieval import CodeEmbedding, CodeReranker, CodeRetriever, Encoder
from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.eval import Benchmark
from llamaindex_code_retrieval.eval.retrieval import benchmark_index
from llamaindex_code_retrieval.models.backbone import load_backbone
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.training.checkpoints import save_cross_encoder
from llamaindex_code_retrieval.training.config import AdapterConfig, MatchConfig
from llamaindex_code_retrieval.training.first_stage import RetrievedCandidates, hold_out, retrieve
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.matching import new_cross_encoder
from llamaindex_code_retrieval.training.pairs import Pair, write_pairs
from llamaindex_code_retrieval.training.recipes import RerankerRecipe
from llamaindex_code_retrieval.training.reranker import train_reranker

WORDS = "read write open close sort add list file line word tree node path key sum max".split()
PAIRS = [
    Pair(
        query=f"{a} the {b}",
        code=f"def {a}_{b}({b}):\n    x = {b}.{a}({i})\n    return x",
        language="python",
        repository=f"r{i % 4}",
        negatives=("def other():\n    pass",) if i % 2 else (),
        negative_queries=("what is this",) if i % 3 == 0 else (),
    )
    for i, (a, b) in enumerate((a, b) for a in WORDS[:8] for b in WORDS[8:])
]
QUICK = MatchConfig(
    epochs=1, batch_size=8, learning_rate=5e-3, precision="fp32", save_steps=3, depth=10, max_tokens=48, head_rate=1.0
)
LORA = AdapterConfig(rank=4)


@pytest.fixture(scope="module")
def started(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reranker to start from, with random weights."""
    folder = tmp_path_factory.mktemp("started")
    encoder = Encoder.from_pretrained(bert_folder, precision="fp32")
    save_cross_encoder(new_cross_encoder(encoder, LORA, QUICK.replace(seed=7)), folder)
    return folder


def _recipe(base: Path, **settings: Any) -> RerankerRecipe:
    recipe = RerankerRecipe(base=str(base), held_out=0.25, calibration_depth=6, adapter=LORA, train=QUICK)
    return recipe.with_settings(settings)


def test_candidates_are_those_of_the_retriever(bert_folder: Path) -> None:
    others = {f"import {a}_{b}": "python" for a in WORDS[:4] for b in WORDS[8:12]}
    embedding = CodeEmbedding(str(bert_folder), precision="fp32")
    held_out = hold_out(PAIRS[::4], PAIRS, others, seed=0)
    retrieved = retrieve(held_out, embedding, depth=20)
    assert sorted(retrieved.queries) == sorted(pair.query for pair in PAIRS[::4])
    answers = {pair.query: pair.code for pair in PAIRS[::4]}
    corpus = sorted({pair.code for pair in PAIRS} | others.keys())
    benchmark = Benchmark(
        name="held out",
        corpus={code: code for code in corpus},
        queries={query: query for query in answers},
        qrels={query: {code: 1} for query, code in answers.items()},
    )
    retriever = CodeRetriever(benchmark_index(benchmark, embedding), top_k=20)
    for query, codes, relevant in zip(retrieved.queries, retrieved.codes, retrieved.relevant, strict=True):
        expected = retriever.rank(query, retriever.embed_query(query))
        assert codes == [code for code, _ in expected]
        assert relevant == [code == answers[query] for code in codes]


def _retrieved(queries: int) -> RetrievedCandidates:
    codes = [[f"{query}-{place}" for place in range(20)] for query in range(queries)]
    return RetrievedCandidates([f"q{i}" for i in range(queries)], codes, [[False, True] * 10 for _ in range(queries)])


@pytest.mark.parametrize(("queries", "choosing"), [(13, 3), (16, 4), (400, 100), (1000, 100)])
def test_queries_that_choose_the_step_do_not_calibrate(queries: int, choosing: int) -> None:
    validation, calibration = _retrieved(queries).split(depth=20)
    assert len(validation.queries) == choosing
    assert validation.queries + calibration.queries == _retrieved(queries).queries
    assert {len(row) for row in validation.codes + validation.relevant} == {10}
    assert {len(row) for row in calibration.codes + calibration.relevant} == {20}
    validation, calibration = _retrieved(queries).split(depth=2)
    assert {len(row) for row in validation.codes} == {10}
    assert {len(row) for row in calibration.codes + calibration.relevant} == {2}


def test_metrics_of_candidates_by_hand() -> None:
    retrieved = RetrievedCandidates(["a", "b"], [["x", "y", "z"]] * 2, [[False, True, False], [False, False, False]])
    assert retrieved.metrics() == {"mrr": 0.25, "r@1": 0.0}
    assert retrieved.metrics([[0.0, 1.0, 0.5]] * 2) == {"mrr": 0.5, "r@1": 0.5}
    assert retrieved.metrics([[1.0, 1.0, 1.0]] * 2) == {"mrr": 1 / 6, "r@1": 0.0}  # ties count against the answer


def _embedded(cache: Path) -> int:
    """Return how many vectors the cache in a folder holds."""
    if not (cache / "embeddings.sqlite").exists():
        return 0
    with sqlite3.connect(cache / "embeddings.sqlite") as connection:
        (count,) = connection.execute("SELECT count(*) FROM vectors").fetchone()
    return int(count)


def test_errors_come_before_anything_is_embedded(started: Path, bert_folder: Path, tmp_path: Path) -> None:
    same = [replace(pair, code="def same(): pass") for pair in PAIRS]
    one_query = [replace(pair, query="the same", negatives=(), negative_queries=()) for pair in PAIRS]
    for pairs, settings, arguments, message in (
        (PAIRS, {"batch_size": 49}, {}, "48 pairs are fewer than a batch of 49"),
        (PAIRS, {"variant": "separate"}, {}, "the variant 'separate' cannot be trained by 'lora'"),
        (PAIRS, {"blend": 0.5}, {}, "blend 0.5 mixes"),
        (PAIRS, {}, {"resume": True}, "there is no unfinished run in .*; start one without resume"),
        (PAIRS, {"head": "mlp"}, {"start": started}, "has the head 'interaction', not 'mlp'"),
        (PAIRS, {"rank": 2}, {"start": started}, "rank is 4 there and 2 here"),
        (PAIRS, {}, {"validation_pairs": PAIRS[:9]}, "9 held-out queries and 64 codes are too few"),
        (same, {}, {"validation_pairs": PAIRS}, "all codes are equal or near-duplicates"),
        (one_query, {}, {"validation_pairs": PAIRS}, "every code answers every query"),
    ):
        recipe, cache = _recipe(bert_folder, **settings), tmp_path / "cache"
        with pytest.raises(ValueError, match=message):
            train_reranker(pairs, tmp_path / "out", recipe=recipe, cache_folder=cache, **arguments)
        assert _embedded(cache) == 0
        assert not (tmp_path / "out").exists()
    train_reranker(PAIRS, tmp_path / "out", recipe=_recipe(bert_folder), cache_folder=cache)
    assert _embedded(cache) > 0


@pytest.mark.parametrize("package", ["datasketch", "matplotlib"])
def test_a_missing_package_is_named_at_once(
    package: str, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ImportError, match=rf"training a reranker needs {package}: pip install .*\[train\]"):
        train_reranker(PAIRS, tmp_path / "out", recipe=_recipe(bert_folder))
    assert not (tmp_path / "out").exists()


def test_the_weights_are_saved_before_calibration(bert_folder: Path, tmp_path: Path) -> None:
    def fail(stage: str, done: int, total: int) -> None:
        if stage == "calibrate":
            raise RuntimeError("no space left")

    recipe, out = _recipe(bert_folder), tmp_path / "out"
    with pytest.raises(RuntimeError, match="no space left"):
        train_reranker(PAIRS, out, recipe=recipe, on_progress=fail)
    uncalibrated = CrossEncoder.load(out, precision="fp32")
    resumed = train_reranker(PAIRS, out, recipe=recipe, resume=True)
    assert resumed.fingerprint == uncalibrated.fingerprint == CrossEncoder.load(out, precision="fp32").fingerprint
    assert (uncalibrated.calibration.depth, resumed.model.calibration.depth) == (0, 6)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(bert_folder: Path, tmp_path: Path) -> list[str]:
    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    quick = ["batch_size=8", "learning_rate=0.005", "max_tokens=48", "depth=10", "calibration_depth=6", "held_out=0.25"]
    settings = [part for each in quick for part in ("--set", each)]
    cache = ["--cache", str(tmp_path / "cache")]
    return ["train-reranker", "--pairs", str(tmp_path / "pairs.jsonl"), "--base", str(bert_folder), *settings, *cache]


@pytest.mark.parametrize("variant", ["adapters", "separate", "shared"])
def test_train_reranker(
    variant: str, command: list[str], bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([*command, "--variant", variant, "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["train"]["variant"] == variant
    assert record["calibration"]["depth"] == 6
    assert (record["validation_queries"], record["calibration_queries"]) == (4, 12)
    assert record["calibration_scores"].keys() == {"first stage", "reranked", "fused"}
    assert not (out / STATE).exists()
    base = {"adapters": str(bert_folder), "shared": str(out)}.get(variant)
    embedding = None if base is None else CodeEmbedding(base, precision="fp32")
    reranker = CodeReranker(str(out), embedding=embedding, early_exit=0.9)
    assert reranker.fingerprint == record["fingerprint"]
    assert (reranker.max_tokens, len(reranker.calibration.ceilings["0.9"])) == (48, 6)
    assert len(reranker.score("sort the node", [pair.code for pair in PAIRS])) == len(PAIRS)
    card = (out / "README.md").read_text()
    assert f"# Reranker ({variant})" in card
    assert record["fingerprint"] in card


def test_training_an_adapter_reranker_loads_its_base_once(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()  # a base that another test has loaded would be shared
    loaded: list[Path] = []

    def load(folder: Path, architecture: Any) -> Any:
        loaded.append(folder)
        return load_backbone(folder, architecture)

    monkeypatch.setattr("llamaindex_code_retrieval.models.encoder.load_backbone", load)
    assert main([*command, "--variant", "adapters", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert len(loaded) == 1


def test_train_reranker_says_what_is_wrong(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(tmp_path / "few.jsonl", PAIRS[:9])
    for arguments, message in (
        (["--recipe", "nothing"], "there is no recipe 'nothing'"),
        (["--recipe", "reranker-shared", "--variant", "adapters"], "is for the variant 'shared'"),
        (["--set", "rank"], "--set takes NAME=VALUE"),
        (["--set", "colour=red"], "there is no setting 'colour'"),
        (["--set", "loss=mse"], "loss must be 'bce'"),
        (["--validate", str(tmp_path / "few.jsonl")], "--set held_out=... has no effect with --validate"),
        (["--language", "java"], "there is no pair of language 'java'"),
    ):
        assert main([*command, "--out", str(tmp_path / "out"), *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert "training a reranker takes one process, and this is one of 2" in capsys.readouterr().err


def test_train_reranker_from_another_one_among_distractors(
    command: list[str], started: Path, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = ["--start", str(started), "--among", str(repository), "--set", "rank=4", "--set", "head_rate=1.0"]
    more += ["--set", "blend=0.5"]
    assert main([*command, "--variant", "adapters", *more, "--out", str(out), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["start"] == {"name": started.name, "fingerprint": CrossEncoder.load(started).fingerprint}
    assert record["distractors"] == {"from": ["shop"], "nodes": 3}
    assert "; the weights are 0.5 of the way from there to the trained ones" in (out / "README.md").read_text()
    assert record == record | json.loads((out / "train_config.json").read_text())
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["--start", "nowhere"], "unknown reranker 'nowhere'"),
        (["--start", str(started), "--set", "rank=2"], "rank is 4 there and 2 here"),
        (["--among", str(tmp_path / "empty")], "no code between functions in"),
        (["--among", str(tmp_path / "missing")], "is not a folder (missing)"),
    ):
        assert main([*command, "--out", str(tmp_path / "other"), *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "other").exists()


def test_train_reranker_prints_the_scores(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    for word in ("first stage", "reranked", "fused", "calibration error", "fingerprint"):
        assert word in printed


def test_too_few_pairs_are_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path / "no model", batch_size=49)
    with pytest.raises(ValueError, match="48 pairs are fewer than a batch of 49"):
        train_reranker(PAIRS, tmp_path / "out", recipe=recipe)
