"""Distillation: the loss by hand, training of each kind, teaching assistants, queries from files; and the command."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from llamaindex_code_retrieval import CodeEmbedding, Encoder
from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.training.assistants import Search, Taught, fewer, search_assistants
from llamaindex_code_retrieval.training.config import AdapterConfig, DistilConfig, StudentConfig
from llamaindex_code_retrieval.training.curves import search_svg
from llamaindex_code_retrieval.training.distil import distil_from_sources, search_from_sources
from llamaindex_code_retrieval.training.distillation import Questions, distil_query_encoder, sampled
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.losses import distillation_loss
from llamaindex_code_retrieval.training.pairs import Pair, write_pairs
from llamaindex_code_retrieval.training.queries import load_queries
from llamaindex_code_retrieval.training.recipes import QueryRecipe
from llamaindex_code_retrieval.training.run_record import TrainingRun
from llamaindex_code_retrieval.training.students import Student, make_student

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
STUDENTS: dict[str, tuple[StudentConfig, AdapterConfig]] = {
    "static": (StudentConfig(kind="static", table_rank=16, buckets=64, hidden=16), LORA),
    "lora": (StudentConfig(kind="layers", layers=(0,)), LORA),
    "full": (StudentConfig(kind="layers", layers=(0,)), AdapterConfig(method="full")),
    "transformer": (StudentConfig(kind="transformer", width=32, depth=1), LORA),
}


def _rows(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)


def _loss(student: Tensor, answers: list[int] | None = None, **weights: float) -> float:
    teacher, codes = _rows([1, 0], [0, 1]), _rows([0.6, 0.8], [1, 0])
    settings = {"single": 0.0, "dual": 0.0, "contrastive": 0.0, "temperature": 0.05, **weights}
    return float(distillation_loss(student, teacher, codes, answers or [], **settings))


def test_the_loss_by_hand() -> None:
    student = _rows([0.8, 0.6], [0, 1])
    # cos(student, teacher): 0.8 and 1. cos(code, teacher): 0.6 and 0; cos(code, student): 0.48 + 0.48 and 0.
    assert _loss(student, single=1.0) == pytest.approx((0.2 + 0) / 2)
    assert _loss(student, dual=1.0) == pytest.approx((0.36 + 0) / 2)
    assert _loss(student, single=2.0, dual=0.5) == pytest.approx(2 * 0.1 + 0.5 * 0.18)
    same = _rows([1, 0], [0, 1])
    assert _loss(same, single=1.0, dual=1.0) == pytest.approx(0)
    assert _loss(-same, single=1.0) == pytest.approx(2)
    assert _loss(-same, dual=1.0) == pytest.approx((1.2 + 0) / 2)  # its sign does not matter


def test_the_labels_by_hand() -> None:
    # Cosines of the two queries to the two codes, at temperature 1: (0.96, 0.8) and (0.8, 0).
    student = _rows([0.8, 0.6], [0, 1])

    def cross_entropy(right: float, wrong: float) -> float:
        return math.log(1 + math.exp(wrong - right))

    to_code = (cross_entropy(0.96, 0.8) + cross_entropy(0, 0.8)) / 2
    to_query = (cross_entropy(0.96, 0.8) + cross_entropy(0, 0.8)) / 2  # code 0: 0.96, 0.8; code 1: 0.8, 0
    found = _loss(student, [0, 1], contrastive=3.0, temperature=1.0)
    assert found == pytest.approx(3 * (to_code + to_query) / 2, abs=1e-6)
    for answers in ([], [1]):  # a single answer has nothing to be told from
        assert _loss(student, answers, contrastive=1.0, single=1.0) == _loss(student, single=1.0)


def test_one_code_for_two_queries_is_no_negative_of_either() -> None:
    student, codes = _rows([0.8, 0.6], [0, 1]), _rows([0.6, 0.8], [0.6, 0.8])
    weights = {"single": 0.0, "dual": 0.0, "contrastive": 1.0, "temperature": 0.05}
    assert float(distillation_loss(student, student, codes, [0, 1], **weights)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (DistilConfig, {"single": 0, "dual": 0}, "single, dual and contrastive are all 0"),
        (DistilConfig, {"dual": -1}, "dual must be greater than or equal to 0, got -1"),
        (DistilConfig, {"temperature": 0}, "temperature must be greater than 0, got 0"),
        (StudentConfig, {"kind": "bigram"}, "kind must be 'static', 'layers' or 'transformer', got 'bigram'"),
        (StudentConfig, {"kind": "layers"}, r"needs layers, the teacher's that it keeps, such as \[0, 5\]"),
        (StudentConfig, {"width": 48}, "width must be a multiple of 32, got 48"),
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
def questions(teacher: Encoder) -> Questions:
    """The pairs' queries with their codes, and others with the codes nearest to them."""
    texts = [pair.query for pair in PAIRS] + LOG
    targets, codes = teacher.encode_queries(texts), teacher.encode_codes([pair.code for pair in PAIRS])
    code = (targets @ codes.T).argmax(axis=1)
    code[: len(PAIRS)] = np.arange(len(PAIRS))
    is_answer = np.arange(len(texts)) < len(PAIRS)
    return Questions(texts=texts, targets=targets, codes=codes, code=code, is_answer=is_answer, fingerprint="f")


def _make(name: str, teacher: Encoder) -> Student:
    config, adapter = STUDENTS[name]
    return make_student(teacher, config, adapter, max_tokens=16)


def _distil(student: Student, questions: Questions, config: DistilConfig = QUICK, **more: Any) -> TrainingRun[Student]:
    return distil_query_encoder(student, questions, config, teacher_parameters=1, identity={"kind": "x"}, **more)


def _cosine(student: Student, questions: Questions) -> float:
    return float((student.encode_queries(questions.texts) * questions.targets).sum(axis=1).mean())


@pytest.mark.parametrize("name", STUDENTS)
def test_comes_nearer_to_its_teacher(name: str, teacher: Encoder, questions: Questions) -> None:
    base = {key: weight.clone() for key, weight in teacher.state_dict().items()}
    student = _make(name, teacher)
    before = _cosine(student, questions)
    result = _distil(student, questions, QUICK.replace(contrastive=0.1))
    after = _cosine(result.model, questions)
    assert 1 - after < 0.7 * (1 - before), (before, after)
    losses = [entry["loss"] for entry in result.history]
    assert result.steps == len(losses) == round(2 * len(questions.texts) / 16)
    assert result.trained_parameters > 0
    assert all(torch.equal(weight, base[key]) for key, weight in teacher.state_dict().items())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_all_layers_begin_as_the_teacher(method: Any, bert_folder: Path, codet5p_folder: Path) -> None:
    """Also where a projection to the teacher's width is put behind them."""
    for folder in (bert_folder, codet5p_folder):
        whole = Encoder.from_pretrained(folder, precision="fp32", max_query_tokens=16)
        kept = StudentConfig(kind="layers", layers=(0, 1))
        student = make_student(whole, kept, AdapterConfig(method=method), max_tokens=16)
        np.testing.assert_allclose(student.encode_queries(LOG), whole.encode_queries(LOG), atol=1e-6)


def _weights(result: TrainingRun[Student]) -> dict[str, Tensor]:
    module: Any = result.model
    return {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", STUDENTS)
def test_resume_is_bit_for_bit(name: str, teacher: Encoder, questions: Questions, tmp_path: Path) -> None:
    def stop(step: int, total: int, facts: object) -> None:
        if step == 4:
            raise KeyboardInterrupt

    config = QUICK.replace(epochs=0.5)
    whole = _distil(_make(name, teacher), questions, config)
    with pytest.raises(KeyboardInterrupt):
        _distil(_make(name, teacher), questions, config, folder=tmp_path, on_step=stop)
    resumed = _distil(_make(name, teacher), questions, config, folder=tmp_path, resume=True)
    assert (resumed.steps, len(resumed.history)) == (whole.steps, len(whole.history)) == (4, 4)
    for key, weight in _weights(whole).items():
        assert torch.equal(_weights(resumed)[key], weight), key
    for changed in (config.replace(seed=1), config.replace(dual=0.5)):
        with pytest.raises(ValueError, match="has another settings than this one"):
            _distil(_make(name, teacher), questions, changed, folder=tmp_path, resume=True)
    with pytest.raises(ValueError, match="has another questions than this one"):
        _distil(_make(name, teacher), replace(questions, fingerprint="g"), config, folder=tmp_path, resume=True)


def test_the_best_step_is_kept(teacher: Encoder, questions: Questions) -> None:
    seen: list[np.ndarray] = []

    def validate(student: Student) -> dict[str, float]:
        seen.append(student.encode_queries(LOG))
        return {"mrr": [0.1, 0.9, 0.5][min(len(seen) - 1, 2)]}

    result = _distil(_make("static", teacher), questions, QUICK.replace(validate_steps=2), validate=validate)
    assert result.best_step == 2
    np.testing.assert_array_equal(result.model.encode_queries(LOG), seen[1])


def test_refuses_what_cannot_be_learned(teacher: Encoder, questions: Questions) -> None:
    student = _make("static", teacher)
    with pytest.raises(ValueError, match="128 queries are fewer than a batch of 129; lower batch_size or give more"):
        _distil(student, questions, QUICK.replace(batch_size=129))
    unlike = replace(questions, codes=np.ones((64, 8), dtype=np.float32))
    with pytest.raises(ValueError, match=r"have vectors of unlike length \(8, 32\)"):
        _distil(student, unlike)
    unanswered = replace(questions, is_answer=np.zeros(128, dtype=bool))
    with pytest.raises(ValueError, match="contrastive is over 0, but no query has a code that answers it"):
        _distil(student, unanswered, QUICK.replace(contrastive=1.0))
    for layers in ((3,), (1, 0)):
        with pytest.raises(ValueError, match="layers must be in rising order, of 0 to 2"):
            make_student(teacher, StudentConfig(kind="layers", layers=layers), LORA, max_tokens=16)
    with pytest.raises(FloatingPointError, match=r"at step \d+, in the batch that begins with the query"):
        _distil(student, questions, QUICK.replace(learning_rate=1e30, warmup=0.0, max_gradient_norm=1e30))


# --- teaching assistants ---------------------------------------------------------------------------------------------

Layers = tuple[int, ...]


def _sizes(path: tuple[Layers, ...]) -> str:
    return "-".join(str(len(layers)) for layers in path)


def _search(layers: int, scores: Mapping[str, float], **more: Any) -> tuple[Search, list[str]]:
    """Search with students whose MRR is given by who taught whom; also return in which order they were taught."""
    asked: list[str] = []

    def distil(kept: Layers, path: tuple[Layers, ...]) -> float:
        assert path[0] == tuple(range(layers))
        assert set(kept) < set(path[-1])
        asked.append(_sizes((*path, kept)))
        return scores[asked[-1]]

    return search_assistants(layers, 0.9, distil, **more), asked


def test_the_smaller_teacher_is_better() -> None:
    """Each student teaches the next: 4 layers, then 3, then 2 by the 3, then 1 by the 2."""
    scores = {"4-3": 0.9, "4-2": 0.85, "4-3-2": 0.9, "4-3-1": 0.8, "4-3-2-1": 0.895}
    search, asked = _search(4, scores)
    assert asked == ["4-3", "4-2", "4-3-2", "4-3-1", "4-3-2-1"]
    assert search.chosen is not None
    assert _sizes(search.chosen.path) == "4-3-2-1"  # the fewest that can be
    assert (search.chosen.layers, search.chosen.mrr, search.teacher_mrr) == ((0,), 0.895, 0.9)


def test_the_larger_teacher_is_better() -> None:
    """The teacher itself goes on teaching, and the student taught well takes the place of the worse teacher."""
    scores = {"4-3": 0.9, "4-2": 0.9, "4-3-2": 0.85, "4-1": 0.9, "4-2-1": 0.85}
    search, asked = _search(4, scores)
    assert asked == ["4-3", "4-2", "4-3-2", "4-1", "4-2-1"]
    assert search.chosen is not None
    assert _sizes(search.chosen.path) == "4-1"
    assert [_sizes(each.path) for each in search.tried] == asked


def test_a_tie_is_the_smaller_teachers() -> None:
    scores = {"3-2": 0.9, "3-1": 0.9, "3-2-1": 0.9}
    search, _ = _search(3, scores)
    assert search.chosen is not None
    assert _sizes(search.chosen.path) == "3-2-1"


def test_it_stops_at_the_threshold() -> None:
    # 0.9 - 0.88 is over 0.01, so that of 2 layers is not chosen and nothing smaller is taught.
    search, asked = _search(4, {"4-3": 0.895, "4-2": 0.87, "4-3-2": 0.88})
    assert asked == ["4-3", "4-2", "4-3-2"]
    assert search.chosen is not None
    assert _sizes(search.chosen.path) == "4-3"
    search, asked = _search(4, {"4-3": 0.7})
    assert asked == ["4-3"]
    assert search.chosen is None
    scores = {"4-3": 0.4, "4-2": 0.41, "4-3-2": 0.4, "4-1": 0.41, "4-2-1": 0.4}
    search, _ = _search(4, scores, threshold=0.5)
    assert search.chosen is not None
    assert len(search.chosen.layers) == 1


def test_steps_of_several_layers() -> None:
    search, asked = _search(6, {"6-4": 0.9, "6-2": 0.9, "6-4-2": 0.9}, step=2)
    assert asked == ["6-4", "6-2", "6-4-2"]
    assert [each.layers for each in search.tried] == [(0, 2, 3, 5), (0, 5), (0, 5)]
    for step in (0, 6, 7):
        with pytest.raises(ValueError, match=f"step must be from 1 to 5, so that of 6 .* are left, got {step}"):
            _search(6, {}, step=step)
    with pytest.raises(ValueError, match=r"threshold must not be negative, got -0\.1"):
        _search(6, {}, threshold=-0.1)


@pytest.mark.parametrize("layers", range(2, 13))
def test_fewer_layers_are_spread_evenly(layers: int) -> None:
    whole = tuple(range(10, 10 + layers))
    for step in range(1, layers):
        left = fewer(whole, step)
        assert len(left) == layers - step
        assert list(left) == sorted(set(left) & set(whole))
        assert left[0] == whole[0]
        if len(left) > 1:
            assert left[-1] == whole[-1]
            gaps = {second - first for first, second in pairwise(left)}
            assert max(gaps) - min(gaps) <= 1


def test_the_drawing_names_all_who_were_taught() -> None:
    tried = [Taught(layers=(0, 2), teacher=((0, 1, 2),), mrr=0.8), Taught(layers=(0,), teacher=((0, 1, 2),), mrr=0.7)]
    search = Search(0.9, tried, tried[0])
    drawn = search_svg(search)
    assert drawn == search_svg(search)
    for label in (b">3<", b">3-2<", b">3-1<"):
        assert label in drawn


def test_sampled_texts_are_distinct_and_drawn_by_the_seed() -> None:
    texts = [f"q{i % 10}" for i in range(30)]
    assert sorted(sampled(texts, 100, seed=0)) == sorted(set(texts))
    assert sampled(texts, 4, seed=0) == sampled(texts, 4, seed=0) != sampled(texts, 4, seed=1)
    assert len(set(sampled(texts, 4, seed=0))) == 4


# --- queries ---------------------------------------------------------------------------------------------------------


def test_queries_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes("read a file\n\n  sort  \nread a file\nüber\n".encode() + b"\xff\n")
    assert load_queries(str(log)) == ["read a file", "sort", "über", "\ufffd"]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"query": "a", "code": "x"}\n{"_id": "1", "text": "b"}\n{"query": "a"}\n{"query": " "}\n')
    assert load_queries(str(rows)) == ["a", "b"]
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "c1", "text": "def f(): pass"}\n')
    (folder / "queries.jsonl").write_text("".join(f'{{"_id": "q{i}", "text": "query {i}"}}\n' for i in range(3)))
    for split, judged in {"train": "q0\tc1\t1\n", "dev": "q1\tc1\t1\nq2\tc1\t0\n"}.items():
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    assert load_queries(str(folder)) == ["query 0"]
    assert load_queries(f"{folder}:dev") == ["query 1", "query 2"]  # one of them without an answer
    monkeypatch.setenv("CODE_RETRIEVAL_DATA", str(tmp_path))
    assert load_queries("beir:dev") == ["query 1", "query 2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.txt", "\n \n", "holds no query; name a file with one query a line"),
        ("rows.jsonl", "", "rows.jsonl"),
        ("rows.jsonl", '{"query": ""}\n', "holds no query"),
        (
            "rows.jsonl",
            '{"query": "a"}\n{"code": "x"}\n',
            r"rows\.jsonl, line 2 has no field query or text that is a string",
        ),
        ("rows.jsonl", '{"query": 3}\n', "line 1 has no field query or text that is a string"),
        ("rows.jsonl", '{"query": "a"\n', r"rows\.jsonl, line 1"),
    ],
)
def test_files_without_queries_are_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_queries(str(tmp_path / name))


@pytest.mark.parametrize("name", ["none.txt", "none.jsonl", "none", "none:dev"])
def test_files_that_there_are_not(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="; name a"):
        load_queries(str(tmp_path / name))


# --- from sources ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, str]:
    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    (tmp_path / "log.txt").write_text("\n".join(LOG))
    return {"pairs": str(tmp_path / "pairs.jsonl"), "queries": str(tmp_path / "log.txt")}


def _recipe(base: Path, name: str, **settings: Any) -> QueryRecipe:
    student, adapter = STUDENTS[name]
    recipe = QueryRecipe(base=str(base), held_out=0.25, student=student, adapter=adapter, train=QUICK)
    return recipe.with_settings(settings)


def _run(sources: dict[str, str], out: Path, recipe: QueryRecipe, **more: Any) -> dict[str, Any]:
    return distil_from_sources([sources["pairs"]], [sources["queries"]], out, recipe, **more).record


@pytest.mark.parametrize("name", STUDENTS)
def test_distil_from_sources(name: str, sources: dict[str, str], base_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stages: list[str] = []
    recipe = _recipe(base_folder, name)
    facts = _run(sources, out, recipe, on_progress=lambda stage, done, total: stages.append(stage))
    assert {"teach", "embed", "train"} <= set(stages)
    assert json.loads(json.dumps(facts)) == json.loads((out / "train_config.json").read_text())
    assert not (out / STATE).exists()
    for file in ("query_encoder.json", "README.md", "curves.svg", "log.jsonl"):
        assert (out / file).is_file(), file
    assert not (out / "model.safetensors").exists()  # it is no base
    embedding = CodeEmbedding(str(base_folder), precision="fp32", query_encoder=out)
    student = QueryEncoder.load(out, teacher=embedding.encoder)
    assert student.fingerprint == facts["fingerprint"]
    assert embedding.fingerprint in (out / "README.md").read_text()
    assert facts["teacher"] == {"name": str(base_folder), "adapter": "none", "fingerprint": embedding.fingerprint}
    assert facts["student"]["kind"] == STUDENTS[name][0].kind
    assert facts["data"]["pairs"] == 48
    assert facts["data"]["queries"] == 48 + len(LOG)
    # What is saved is what was best while it learned, to the precision of a table in int8.
    kept, mrr = facts["kept"], facts["teacher_validation"]["mrr"]
    assert kept["queries"] == 16
    assert kept["low"] <= kept["share"] <= kept["high"]
    assert kept["share"] == pytest.approx(facts["validation_best"]["mrr"] / mrr, abs=0.02 if name == "static" else 1e-6)
    assert facts["milliseconds"]["student"] > 0


def test_held_out_queries_are_not_learned_and_most_queries_are_drawn(
    sources: dict[str, str], base_folder: Path, tmp_path: Path
) -> None:
    Path(sources["queries"]).write_text("\n".join(pair.query for pair in PAIRS))
    assert _run(sources, tmp_path / "all", _recipe(base_folder, "static"))["data"]["queries"] == 48
    few = _recipe(base_folder, "static", most_queries=20)
    assert _run(sources, tmp_path / "few", few)["data"]["queries"] == 20


def test_sources_that_teach_nothing(sources: dict[str, str], base_folder: Path, tmp_path: Path) -> None:
    recipe, pairs, log = _recipe(base_folder, "static"), sources["pairs"], sources["queries"]
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="there are no pairs, so nothing to compare the student by"):
        distil_from_sources([], [log], out, recipe)
    with pytest.raises(ValueError, match="there is no query to learn from that is not held out"):
        distil_from_sources([], [], out, recipe, validate_on=[pairs])
    with pytest.raises(ValueError, match="there are none to learn from; give --pairs, or --set dual=0"):
        distil_from_sources([], [log], out, recipe, validate_on=[pairs])
    with pytest.raises(ValueError, match="there is no pair of language 'java'"):
        distil_from_sources([pairs], [], out, recipe.with_settings({"languages": ("java",)}))
    with pytest.raises(ValueError, match="assistants are students with fewer layers; a 'static' one has no layers"):
        search_from_sources([pairs], [log], out, recipe)
    assert not out.exists()
    run = distil_from_sources([], [log], out, recipe.with_settings({"dual": 0}), validate_on=[pairs])
    assert (run.record["data"]["queries"], run.record["kept"]["queries"]) == (len(LOG), len(PAIRS))


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
def test_a_run_goes_on(name: str, sources: dict[str, str], base_folder: Path, tmp_path: Path) -> None:
    recipe = _recipe(base_folder, name)
    whole = _run(sources, tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        _run(sources, tmp_path / "cut", recipe, on_progress=_interrupt(1, 6))
    assert [path.name for path in (tmp_path / "cut").iterdir()] == [STATE]
    with pytest.raises(ValueError, match=r"is not empty; choose another folder, or resume that run \(--resume\)"):
        _run(sources, tmp_path / "cut", recipe)
    resumed = _run(sources, tmp_path / "cut", recipe, resume=True)
    assert resumed["fingerprint"] == whole["fingerprint"]
    assert resumed["kept"] == whole["kept"]
    with pytest.raises(ValueError, match="has another train than this one"):
        _run(sources, tmp_path / "cut", recipe.with_settings({"epochs": 3}), resume=True)


def test_a_search_goes_on_where_it_was(sources: dict[str, str], base_folder: Path, tmp_path: Path) -> None:
    recipe, out = _recipe(base_folder, "lora", epochs=0.5), tmp_path / "out"

    def search(**more: Any) -> tuple[Search, TrainingRun[QueryEncoder] | None]:
        return search_from_sources([sources["pairs"]], [sources["queries"]], out, recipe, threshold=1.0, **more)

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
    assert steps.count(0) == 1  # the second student went on with its third step, the third one began
    assert sorted(set(steps)) == [0, 1, 2, 3, 4]

    by_path = {"3-2": "3-2_0.2", "3-1": "3-1_0", "3-2-1": "3-2-1_0"}
    assert {path.name for path in (out / "students").iterdir()} == set(by_path.values())
    chosen, told = found.chosen, json.loads((out / "search.json").read_text())
    assert chosen is not None
    assert run is not None
    assert chosen.layers == (0,)
    assert chosen.mrr == max(each.mrr for each in found.tried[1:])
    assert told["chosen"] == [list(layers) for layers in chosen.path]
    assert told["teacher_mrr"] == run.record["teacher_validation"]["mrr"]
    for each in found.tried:
        facts = json.loads((out / "students" / by_path[_sizes(each.path)] / "train_config.json").read_text())
        assert facts["taught_by"] == [list(layers) for layers in each.teacher]
        assert facts["validation_best"]["mrr"] == each.mrr
    assert (out / "search.svg").is_file()
    teacher = Encoder.from_pretrained(base_folder, precision="fp32")
    assert QueryEncoder.load(out, teacher=teacher).fingerprint == run.record["fingerprint"]


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def command(sources: dict[str, str], base_folder: Path, tmp_path: Path) -> list[str]:
    settings = ["batch_size=16", "learning_rate=0.005", "held_out=0.25", "rank=4", "table_rank=16", "buckets=64"]
    quick = [part for each in settings for part in ("--set", each)]
    places = ["--pairs", sources["pairs"], "--queries", sources["queries"], "--base", str(base_folder)]
    return ["distil", *places, *quick, "--epochs", "0.5", "--cache", str(tmp_path / "cache")]


def test_the_command(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--out", str(tmp_path / "static")]) == 0
    printed = capsys.readouterr()
    for word in ("teacher", "student", "share kept", "ms a query", "fingerprint"):
        assert word in printed.out
    assert "16 validation queries are too few to compare by" in printed.err
    assert main([*command, "--out", str(tmp_path / "layers"), "--layers", "0,2", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["student"]["kind"], facts["student"]["layers"]) == ("layers", [0, 2])
    assert facts["folder"] == str(tmp_path / "layers")


def test_the_command_searches(
    command: list[str], base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = [*command, "--assistants", "--step", "2", "--threshold"]
    assert main([*search, "1", "--out", str(tmp_path / "one"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["search"]
    assert [each["path"] for each in told["tried"]] == [[[0, 1, 2], [0]]]
    # Who asks for a code by the code itself finds it with the teacher, and not with a layer of it that never trained.
    same = [replace(pair, query=pair.code.splitlines()[0], code=pair.code.splitlines()[0]) for pair in PAIRS]
    write_pairs(tmp_path / "same.jsonl", same)
    more = ["--validate", str(tmp_path / "same.jsonl"), "--learning-rate", "1e-12"]
    assert main([*search, "0", "--out", str(tmp_path / "none"), *more]) == 1
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
        (bare, "there are no pairs, so nothing to compare the student by; give --pairs, or --validate"),
        (validated, "there are none to learn from; give --pairs, or --set dual=0"),
        ([*command, "--out", str(full)], "is not empty; choose another folder, or remove it"),
        ([*new, "--layers", "0;2"], "--layers takes numbers with commas between them, such as 0,5; got '0;2'"),
        ([*new, "--layers", "0,7"], "layers must be in rising order, of 0 to 2 for this model, got 0, 7"),
        ([*new, "--kind", "static", "--assistants"], "assistants are students with fewer layers"),
        ([*new, "--assistants", "--step", "3"], "step must be from 1 to 2"),
        ([*new, "--recipe", "query-static", "--kind", "layers"], "is for the kind 'static'; leave out --kind"),
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
