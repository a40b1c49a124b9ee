"""Distillation: training of each kind of student, the drivers for one student and for a search, the command."""

from __future__ import annotations

import copy
import json
import math
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from llamaindex_code_retrieval import CodeEmbedding, Encoder
from llamaindex_code_retrieval._io import no_progress
from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.training.assistant_search import AssistantSearch
from llamaindex_code_retrieval.training.assistants import search_assistants
from llamaindex_code_retrieval.training.config import AdapterConfig, DistilConfig, StudentConfig
from llamaindex_code_retrieval.training.distil import distil_query_encoder
from llamaindex_code_retrieval.training.distillation import fit_student
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.pairs import Pair, write_pairs
from llamaindex_code_retrieval.training.recipes import QueryRecipe
from llamaindex_code_retrieval.training.run_record import TrainingRun
from llamaindex_code_retrieval.training.students import Student, check_student, new_student
from llamaindex_code_retrieval.training.teaching import HeldOutVectors, TeachingSet, embed_selection, select_queries

WORDS = "read write open close sort add list file line word tree node path key sum max".split()
PAIRS = [
    Pair(
        query=f"{a} the {b}",
        code=f"def {a}_{b}({b}):\n    x = {b}.{a}({i})\n    return x",
        language="python",
        repository=f"r{i % 4}",
    )
    for i, (a, b) in enumerate((a, b) for a in WORDS[:8] for b in WORDS[8:])
]
LOG = [f"{a} {b} {c}" for a in WORDS[:4] for b in WORDS[4:8] for c in WORDS[8:12]]
QUICK = DistilConfig(epochs=2, batch_size=16, learning_rate=5e-3, precision="fp32", save_steps=3)
LORA = AdapterConfig(rank=4)
UNUSED = AdapterConfig(rank=16)  # the default of a recipe
STUDENTS: dict[str, tuple[StudentConfig, AdapterConfig]] = {
    "static": (StudentConfig(kind="static", table_rank=16, buckets=64, hidden=16), UNUSED),
    "lora": (StudentConfig(kind="layers", layers=(0,)), LORA),
    "full": (StudentConfig(kind="layers", layers=(0,)), AdapterConfig(method="full")),
    "transformer": (StudentConfig(kind="transformer", width=32, depth=1), UNUSED),
}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (DistilConfig, {"single": 0, "dual": 0}, "single, dual and contrastive are all 0"),
        (DistilConfig, {"dual": -1}, "dual must be greater than or equal to 0, got -1"),
        (DistilConfig, {"temperature": 0}, "temperature must be greater than 0, got 0"),
        (StudentConfig, {"kind": "bigram"}, "kind must be 'static', 'layers' or 'transformer', got 'bigram'"),
        (StudentConfig, {"kind": "layers"}, r"needs layers, the teacher's that it keeps, such as \[0, 5\]"),
        (StudentConfig, {"layers": (0,)}, "layers has no effect on a student of kind 'static', which has table_rank"),
        (StudentConfig, {"int8": True}, "int8 has no effect on a student of kind 'static'"),
        (StudentConfig, {"kind": "layers", "layers": (0,), "width": 64}, "width has no effect .* has layers, int8"),
        (StudentConfig, {"kind": "transformer", "buckets": 0}, "buckets has no effect on a student of kind 'transf"),
        (DistilConfig, {"temperature": 0.1}, "temperature has no effect without contrastive"),
        (QueryRecipe, {"adapter": AdapterConfig(rank=4)}, "an adapter have no effect on a student of kind 'static'"),
        (StudentConfig, {"kind": "transformer", "width": 48}, "width must be a multiple of 32, got 48"),
        (StudentConfig, {"table_rank": 0}, "table_rank must be greater than or equal to 1, got 0"),
        (StudentConfig, {"buckets": -1}, "buckets must be greater than or equal to 0, got -1"),
    ],
)
def test_settings_that_make_no_sense(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


# --- training --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Path:
    """A BERT of three layers whose weights are large enough for each of them to matter."""
    folder = Path(shutil.copytree(bert_folder, tmp_path_factory.mktemp("base") / "deep"))
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(bert_folder, num_hidden_layers=3, initializer_range=0.2)
    BertModel(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teacher(base_folder: Path) -> Encoder:
    return Encoder.from_pretrained(base_folder, precision="fp32", max_query_tokens=16)


@pytest.fixture(scope="module")
def teaching(teacher: Encoder) -> TeachingSet:
    """The pairs' queries with their codes, and others with the codes nearest to them."""
    queries = [pair.query for pair in PAIRS] + LOG
    targets, codes = teacher.encode_queries(queries), teacher.encode_codes([pair.code for pair in PAIRS])
    rows = (targets @ codes.T).argmax(axis=1)
    rows[: len(PAIRS)] = np.arange(len(PAIRS))
    answered = np.arange(len(queries)) < len(PAIRS)
    return TeachingSet(
        queries=queries, targets=targets, codes=codes, code_rows=rows, answered=answered, fingerprint="f"
    )


def _make(name: str, teacher: Encoder) -> Student:
    config, adapter = STUDENTS[name]
    return new_student(teacher, config, adapter, max_tokens=16)


def _distil(student: Student, teaching: TeachingSet, config: DistilConfig = QUICK, **more: Any) -> TrainingRun[Student]:
    return fit_student(student, teaching, config, teacher_parameters=1, identity={"kind": "x"}, **more)


def _cosine(student: Student, teaching: TeachingSet) -> float:
    return float((student.encode_queries(teaching.queries) * teaching.targets).sum(axis=1).mean())


@pytest.mark.parametrize("name", STUDENTS)
def test_comes_nearer_to_its_teacher(name: str, teacher: Encoder, teaching: TeachingSet) -> None:
    base = {key: weight.clone() for key, weight in teacher.state_dict().items()}
    student = _make(name, teacher)
    before = _cosine(student, teaching)
    result = _distil(student, teaching, QUICK.replace(contrastive=0.1))
    after = _cosine(result.model, teaching)
    assert 1 - after < 0.7 * (1 - before), (before, after)
    losses = [entry["loss"] for entry in result.history]
    assert result.steps == len(losses) == round(2 * len(teaching.queries) / 16)
    assert result.trained_parameters > 0
    assert all(torch.equal(weight, base[key]) for key, weight in teacher.state_dict().items())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_all_layers_begin_as_the_teacher(method: Any, bert_folder: Path, codet5p_folder: Path) -> None:
    """Also where a projection to the teacher's width is put behind them."""
    for folder in (bert_folder, codet5p_folder):
        whole = Encoder.from_pretrained(folder, precision="fp32", max_query_tokens=16)
        kept = StudentConfig(kind="layers", layers=(0, 1))
        student = new_student(whole, kept, AdapterConfig(method=method), max_tokens=16)
        np.testing.assert_allclose(student.encode_queries(LOG), whole.encode_queries(LOG), atol=1e-6)


def _weights(result: TrainingRun[Student]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in result.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", STUDENTS)
def test_resume_is_bit_for_bit(name: str, teacher: Encoder, teaching: TeachingSet, tmp_path: Path) -> None:
    def stop(step: int, total: int, entry: object) -> None:
        if step == 4:
            raise KeyboardInterrupt

    config = QUICK.replace(epochs=0.5)
    whole = _distil(_make(name, teacher), teaching, config)
    with pytest.raises(KeyboardInterrupt):
        _distil(_make(name, teacher), teaching, config, folder=tmp_path, on_step=stop)
    resumed = _distil(_make(name, teacher), teaching, config, folder=tmp_path, resume=True)
    assert (resumed.steps, len(resumed.history)) == (whole.steps, len(whole.history)) == (4, 4)
    for key, weight in _weights(whole).items():
        assert torch.equal(_weights(resumed)[key], weight), key
    for changed in (config.replace(seed=1), config.replace(dual=0.5)):
        with pytest.raises(ValueError, match="has another settings than this one"):
            _distil(_make(name, teacher), teaching, changed, folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match="has another queries than this one"):
        _distil(_make(name, teacher), replace(teaching, fingerprint="g"), config, folder=tmp_path, resume=True)


def test_the_best_step_is_kept(teacher: Encoder, teaching: TeachingSet) -> None:
    seen: list[np.ndarray] = []

    def validate(student: Student) -> dict[str, float]:
        seen.append(student.encode_queries(LOG))
        return {"mrr": [0.1, 0.9, 0.5][min(len(seen) - 1, 2)]}

    result = _distil(_make("static", teacher), teaching, QUICK.replace(validate_steps=2), validate=validate)
    assert result.best_step == 2
    np.testing.assert_array_equal(result.model.encode_queries(LOG), seen[1])


def test_refuses_what_cannot_be_learned(teacher: Encoder, teaching: TeachingSet) -> None:
    student = _make("static", teacher)
    with pytest.raises(ValueError, match="128 queries are fewer than a batch of 129; lower batch_size or give more"):
        _distil(student, teaching, QUICK.replace(batch_size=129))
    unlike = replace(teaching, codes=np.ones((64, 8), dtype=np.float32))
    with pytest.raises(ValueError, match=r"student, teacher and codes differ in length \(8, 32\)"):
        _distil(student, unlike)
    for answered in (0, 1):
        few = replace(teaching, answered=np.arange(128) < answered)
        with pytest.raises(ValueError, match=f"contrastive compares the answers .* {answered} codes are known to"):
            _distil(student, few, QUICK.replace(contrastive=1.0))
    for layers in ((3,), (1, 0)):
        with pytest.raises(ValueError, match="layers must be numbers in rising order from 0 to 2"):
            new_student(teacher, StudentConfig(kind="layers", layers=layers), LORA, max_tokens=16)
    with pytest.raises(FloatingPointError, match=r"at step \d+, in the batch that begins with the query"):
        _distil(student, teaching, QUICK.replace(learning_rate=1e30, warmup=0.0, max_gradient_norm=1e30))


# --- the driver ------------------------------------------------------------------------------------------------------


def _recipe(base: Path, name: str, **settings: Any) -> QueryRecipe:
    student, adapter = STUDENTS[name]
    recipe = QueryRecipe(base=str(base), held_out=0.25, student=student, adapter=adapter, train=QUICK)
    return recipe.with_settings(settings)


def _run(out: Path, recipe: QueryRecipe, queries: Sequence[str] = LOG, **more: Any) -> dict[str, Any]:
    return distil_query_encoder(PAIRS, out, queries=queries, recipe=recipe, **more).record


@pytest.mark.parametrize("name", STUDENTS)
def test_distil_query_encoder(name: str, base_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stages: list[str] = []
    recipe = _recipe(base_folder, name)
    record = _run(out, recipe, on_progress=lambda stage, done, total: stages.append(stage))
    assert set(stages) == {"teach", "embed", "train"}
    assert json.loads(json.dumps(record)) == json.loads((out / "train_config.json").read_text())
    assert not (out / STATE).exists()
    for file in ("query_encoder.json", "README.md", "curves.svg", "log.jsonl"):
        assert (out / file).is_file(), file
    assert not (out / "model.safetensors").exists()  # it is no base
    embedding = CodeEmbedding(str(base_folder), precision="fp32", query_encoder=out)
    student = QueryEncoder.load(out, teacher=embedding.torch_encoder)
    assert student.fingerprint == record["fingerprint"]
    assert embedding.fingerprint in (out / "README.md").read_text()
    assert record["teacher"] == {"name": base_folder.name, "adapter": "none", "fingerprint": embedding.fingerprint}
    assert record["student"]["kind"] == STUDENTS[name][0].kind
    assert record["data"]["pairs"] == 48
    assert record["data"]["queries"] == 48 + len(LOG)
    assert record["milliseconds"]["student"] > 0


def test_the_retained_share_is_measured_on_queries_that_choose_nothing(base_folder: Path, tmp_path: Path) -> None:
    recipe = _recipe(base_folder, "full")
    record = _run(tmp_path / "out", recipe)
    selection = select_queries(PAIRS, LOG, recipe, [])
    data = embed_selection(selection, CodeEmbedding(str(base_folder), precision="fp32"), no_progress)
    assert (len(data.validation.queries), len(data.test.queries)) == (8, 8)
    assert data.validation.queries + data.test.queries == list(selection.answers)
    assert not set(selection.answers) & set(selection.queries)
    student = QueryEncoder.load(tmp_path / "out", teacher=data.teacher.torch_encoder)
    on_test = data.test.metrics(student.encode_queries(data.test.queries))["mrr"]
    on_validation = data.validation.metrics(student.encode_queries(data.validation.queries))["mrr"]
    kept = record["kept"]
    assert (kept["queries"], record["validation_queries"]) == (8, 8)
    assert (kept["mrr"], kept["teacher_mrr"]) == pytest.approx((on_test, data.test.teacher_mrr()))
    assert kept["share"] == pytest.approx(kept["mrr"] / kept["teacher_mrr"])
    assert kept["low"] <= kept["share"] <= kept["high"]
    assert record["validation_best"]["mrr"] == pytest.approx(on_validation)
    assert record["teacher_validation"]["mrr"] == data.validation.teacher_mrr()


def test_held_out_queries_are_not_learned_and_most_queries_are_drawn(base_folder: Path) -> None:
    queries = [pair.query for pair in PAIRS]
    learned = select_queries(PAIRS, queries, _recipe(base_folder, "static"), []).queries
    assert len(learned) == 48
    few = select_queries(PAIRS, queries, _recipe(base_folder, "static", most_queries=20), []).queries
    assert len(few) == 20
    assert set(few) < set(learned)


def test_pairs_and_queries_that_cannot_be_learned_from(base_folder: Path) -> None:
    recipe = _recipe(base_folder, "static")
    for pairs, queries, held_out, settings, message in (
        ([], LOG, [], {}, "there are no pairs to compare student and teacher on"),
        ([], [], PAIRS, {"dual": 0}, "there is no query to learn from that is not held out"),
        ([], LOG, PAIRS, {}, "there are none to learn from; give --pairs, or --set dual=0"),
        (PAIRS, [], [], {"languages": ("java",)}, "there is no pair of language 'java'"),
        (PAIRS, [], [], {"batch_size": 49}, "48 queries are fewer than a batch of 49"),
        (PAIRS, LOG, PAIRS[:1], {}, "1 held-out queries and 64 codes are too few to compare"),
        (PAIRS[:1], LOG, PAIRS[1:], {"contrastive": 1}, "contrastive compares the answers of queries, and 1 codes"),
    ):
        with pytest.raises(ValueError, match=message):
            select_queries(pairs, queries, recipe.with_settings(settings), held_out)
    learned = select_queries([], LOG, recipe.with_settings({"dual": 0}), PAIRS)
    assert sorted(learned.queries) == sorted(LOG)
    assert learned.answers.keys() == {pair.query for pair in PAIRS}


def test_errors_come_before_anything_is_embedded(base_folder: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    out = tmp_path / "out"
    static, layers = _recipe(base_folder, "static"), _recipe(base_folder, "lora")

    def distil(recipe: QueryRecipe, **more: Any) -> None:
        distil_query_encoder(PAIRS, out, recipe=recipe, on_progress=lambda stage, *_: stages.append(stage), **more)

    def search(recipe: QueryRecipe, **more: Any) -> None:
        search_assistants(PAIRS, out, recipe=recipe, on_progress=lambda stage, *_: stages.append(stage), **more)

    for run, recipe, arguments, message in (
        (distil, static.with_settings({"batch_size": 49}), {}, "48 queries are fewer than a batch of 49"),
        (distil, static, {"validation_pairs": PAIRS[:1]}, "too few to compare student and teacher"),
        (distil, static, {"resume": True}, "there is no unfinished run in .*; start one without resume"),
        (search, layers, {"resume": True}, "there is no unfinished run in .*; start one without resume"),
        (distil, layers.with_settings({"layers": (0, 7)}), {}, "layers must be numbers in rising order from 0 to 2"),
        (search, static, {}, "assistants are students with fewer layers, and one of kind 'static' keeps none"),
        (search, layers, {"step": 3}, "step must be from 1 to 2"),
        (search, layers, {"threshold": -0.1}, "threshold must be 0 or a larger number, got -0.1"),
        (search, layers, {"threshold": math.nan}, "threshold must be 0 or a larger number, got nan"),
        (search, layers.with_settings({"batch_size": 49}), {}, "48 queries are fewer than a batch of 49"),
    ):
        with pytest.raises(ValueError, match=message):
            run(recipe, **arguments)
        assert stages == []
        assert not out.exists()


@pytest.mark.parametrize(("package", "extra"), [("matplotlib", "train"), ("scipy", "eval")])
def test_a_missing_package_is_named_at_once(
    package: str, extra: str, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    for run, student in ((distil_query_encoder, "static"), (search_assistants, "lora")):
        with pytest.raises(ImportError, match=rf"needs {package}: pip install .*\[{extra}\]"):
            run(PAIRS, tmp_path / "out", recipe=_recipe(base_folder, student))
        assert not (tmp_path / "out").exists()


def test_several_processes_are_refused(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for run, student in ((distil_query_encoder, "static"), (search_assistants, "lora")):
        with pytest.raises(ValueError, match="takes one process, and this is one of 2"):
            run(PAIRS, tmp_path / "out", recipe=_recipe(base_folder, student))


def test_a_student_is_saved_before_it_is_measured(base_folder: Path, tmp_path: Path) -> None:
    recipe, out = _recipe(base_folder, "static"), tmp_path / "out"

    def block(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == total:
            (out / "log.jsonl").mkdir(parents=True, exist_ok=True)  # stands for a full disk

    with pytest.raises(OSError, match=r"log\.jsonl"):
        distil_query_encoder(PAIRS, out, queries=LOG, recipe=recipe, on_progress=block)
    teacher = Encoder.from_pretrained(base_folder, precision="fp32")
    saved = QueryEncoder.load(out, teacher=teacher)
    shutil.rmtree(out / "log.jsonl")
    resumed = distil_query_encoder(PAIRS, out, queries=LOG, recipe=recipe, resume=True)
    assert resumed.fingerprint == saved.fingerprint


def test_int8_is_refused_where_it_has_no_effect(teacher: Encoder) -> None:
    config = StudentConfig(kind="transformer", int8=True)
    check_student(teacher, config)
    elsewhere = copy.deepcopy(teacher).to("meta")  # a device that is no CPU, on any machine
    check_student(elsewhere, config.replace(int8=False))
    with pytest.raises(ValueError, match="int8 is computed on a CPU only, and on meta the student could not be"):
        check_student(elsewhere, config)


def _interrupt(student: int, step: int) -> Callable[[str, int, int], None]:
    """Stop at a step of a student, the first being 1."""
    begun = 0

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal begun
        begun += (stage, done) == ("train", 0)
        if (stage, begun, done) == ("train", student, step):
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("name", ["static", "lora"])
def test_a_run_is_resumed(name: str, base_folder: Path, tmp_path: Path) -> None:
    recipe = _recipe(base_folder, name)
    whole = _run(tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "cut", recipe, on_progress=_interrupt(1, 6))
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [STATE]
    with pytest.raises(ValueError, match=r"is not empty; choose another folder, or resume that run \(--resume\)"):
        _run(tmp_path / "cut", recipe)
    resumed = _run(tmp_path / "cut", recipe, resume=True)
    assert resumed["fingerprint"] == whole["fingerprint"]
    assert resumed["kept"] == whole["kept"]
    with pytest.raises(ValueError, match="has another train than this one"):
        _run(tmp_path / "cut", recipe.with_settings({"epochs": 3}), resume=True)
    with pytest.raises(ValueError, match="has another queries than this one"):
        _run(tmp_path / "cut", recipe, LOG[1:], resume=True)


def test_a_search_is_resumed(base_folder: Path, tmp_path: Path) -> None:
    recipe, out = _recipe(base_folder, "lora", epochs=0.5), tmp_path / "out"

    def search(**more: Any) -> tuple[AssistantSearch, TrainingRun[QueryEncoder] | None]:
        return search_assistants(PAIRS, out, queries=LOG, recipe=recipe, threshold=1.0, **more)

    with pytest.raises(KeyboardInterrupt):
        search(on_progress=_interrupt(2, 2))
    assert not (out / "search.json").exists()
    first = out / "students" / "3-2_0.2"
    before = (first / "adapter_model.safetensors").stat().st_mtime_ns
    steps: list[int] = []
    found, run = search(
        resume=True, on_progress=lambda stage, done, total: steps.append(done) if stage == "train" else None
    )
    assert (first / "adapter_model.safetensors").stat().st_mtime_ns == before
    assert steps.count(0) == 1  # the second student continues with its third step, only the third one begins
    assert sorted(set(steps)) == [0, 1, 2, 3, 4]

    folders = {(3, 2): "3-2_0.2", (3, 1): "3-1_0", (3, 2, 1): "3-2-1_0"}
    assert {path.name for path in (out / "students").iterdir()} == set(folders.values())
    chosen, saved = found.chosen, json.loads((out / "search.json").read_text())
    assert chosen is not None
    assert run is not None
    assert chosen.layers == (0,)
    assert chosen.mrr == max(each.mrr for each in found.tried[1:])
    assert saved["chosen"] == [list(layers) for layers in chosen.lineage]
    assert saved["teacher_mrr"] == run.record["teacher_validation"]["mrr"]
    for each in found.tried:
        folder = folders[tuple(map(len, each.lineage))]
        record = json.loads((out / "students" / folder / "train_config.json").read_text())
        assert record["taught_by"] == [list(layers) for layers in each.teachers]
        assert record["validation_best"]["mrr"] == each.mrr
    assert (out / "search.svg").is_file()
    teacher = Encoder.from_pretrained(base_folder, precision="fp32")
    assert QueryEncoder.load(out, teacher=teacher).fingerprint == run.record["fingerprint"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(base_folder: Path, tmp_path: Path) -> list[str]:
    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    (tmp_path / "log.txt").write_text("\n".join(LOG))
    settings = ["batch_size=16", "learning_rate=0.005", "held_out=0.25"]
    quick = [part for each in settings for part in ("--set", each)]
    places = ["--pairs", str(tmp_path / "pairs.jsonl"), "--queries", str(tmp_path / "log.txt")]
    places += ["--base", str(base_folder)]
    return ["distil", *places, *quick, "--epochs", "0.5", "--cache", str(tmp_path / "cache")]


def test_the_command(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--out", str(tmp_path / "static")]) == 0
    printed = capsys.readouterr()
    for word in ("teacher", "student", "retained", "ms a query", "fingerprint"):
        assert word in printed.out
    assert "8 test queries are too few for a comparison" in printed.err
    assert main([*command, "--out", str(tmp_path / "layers"), "--layers", "0,2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["student"]["kind"], record["student"]["layers"]) == ("layers", [0, 2])
    assert record["folder"] == str(tmp_path / "layers")


def test_the_command_searches(
    command: list[str], base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = [*command, "--assistants", "--step", "2", "--threshold"]
    assert main([*search, "1", "--out", str(tmp_path / "one"), "--json"]) == 0
    search_record = json.loads(capsys.readouterr().out)["search"]
    assert [each["path"] for each in search_record["tried"]] == [[[0, 1, 2], [0]]]
    # A query that is the code itself is found by the teacher, and not by one untrained layer of it.
    same = [replace(pair, query=pair.code.splitlines()[0], code=pair.code.splitlines()[0]) for pair in PAIRS]
    write_pairs(tmp_path / "same.jsonl", same)
    changed = {"learning_rate=0.005": "learning_rate=1e-12", "held_out=0.25": "seed=0"}
    search = [changed.get(part, part) for part in search]
    assert main([*search, "0", "--out", str(tmp_path / "none"), "--validate", str(tmp_path / "same.jsonl")]) == 1
    printed = capsys.readouterr()
    assert "even the largest student loses more than 0.0 MRR; allow more with --threshold" in printed.err
    assert "1.0000" in printed.out
    assert json.loads((tmp_path / "none" / "search.json").read_text())["chosen"] is None
    assert not (tmp_path / "none" / "query_encoder.json").exists()


def test_the_command_says_what_is_wrong(
    command: list[str], base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    out = tmp_path / "out"
    bare = ["distil", "--queries", str(tmp_path / "log.txt"), "--base", str(base_folder), "--out", str(out)]
    validated = [*bare, "--validate", str(tmp_path / "pairs.jsonl")]
    new = [*command, "--out", str(out)]
    for arguments, message in (
        (bare, "there are no pairs to compare student and teacher on; give --pairs, or --validate"),
        (validated, "there are none to learn from; give --pairs, or --set dual=0"),
        ([*command, "--out", str(full)], "is not empty; choose another folder, or remove it"),
        ([*new, "--layers", "0;2"], "--layers takes numbers with commas between them, such as 0,5; got '0;2'"),
        ([*new, "--layers", "0,7"], "layers must be numbers in rising order from 0 to 2 for this model, got 0, 7"),
        ([*new, "--kind", "static", "--assistants"], "assistants are students with fewer layers"),
        ([*new, "--assistants", "--step", "3"], "step must be from 1 to 2"),
        ([*new, "--recipe", "query-static", "--kind", "layers"], "is for the kind 'static'; leave out --kind"),
        ([*new, "--kind", "static", "--layers", "0,2"], "layers has no effect on a student of kind 'static'"),
        ([*new, "--assistants", "--layers", "0"], "--layers has no effect with --assistants, which chooses the layers"),
        ([*new, "--step", "2"], "--step has no effect without --assistants"),
        ([*new, "--set", "rank=4"], "the settings of an adapter have no effect on a student of kind 'static'"),
        ([*new, "--set", "colour=red"], "there is no setting 'colour'"),
        ([*new, "--teacher", "nowhere"], "unknown adapter 'nowhere'"),
        ([*new, "--queries", str(tmp_path / "none.txt")], "none.txt"),
    ):
        shutil.rmtree(out, ignore_errors=True)
        assert main(arguments) == 2, arguments
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.out == ""
        assert not (out / "query_encoder.json").exists()


def test_codes_whose_cosines_differ_by_rounding_are_tied() -> None:
    """Duplicate codes are not ranked by the last bit of their vectors: the answer is placed last of them."""
    code = np.array([1.0, 0.0], dtype=np.float32)
    rounded = np.array([1.0 - 2**-23, 0.0], dtype=np.float32)
    queries = code[None]
    held_out = HeldOutVectors(queries=["q"], targets=queries, codes=np.stack([code, rounded]), answers=[[0]])
    assert held_out.ranks(queries) == [2]
