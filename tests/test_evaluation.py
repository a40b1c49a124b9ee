"""Retrievers asked and measured: hand-worked rankings, plain functions, real retrievers, pools, suites, the command."""

from __future__ import annotations

import importlib.metadata
import json
import math
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.schema import NodeWithScore, TextNode
from transformers import BertModel

from llamaindex_code_retrieval import CodeEmbedding, CodeRetriever, Encoder
from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.eval.datasets import Benchmark, benchmark_of, load_beir
from llamaindex_code_retrieval.eval.gate import IncomparableError, compare
from llamaindex_code_retrieval.eval.metrics import evaluate_run, pessimistic_rank
from llamaindex_code_retrieval.eval.results import Report
from llamaindex_code_retrieval.eval.retrieval import benchmark_index, evaluate_retrieval, rank_by_cosine, rank_queries
from llamaindex_code_retrieval.eval.runner import run_suite
from llamaindex_code_retrieval.eval.suite import load_suite, suite_names

BENCHMARK = Benchmark(
    name="three",
    corpus={"a": "read the file", "b": "write  the file", "c": "write the file", "d": "close it"},
    queries={"q1": "read", "q2": "write", "q3": "close"},
    qrels={"q1": {"a": 1}, "q2": {"c": 1}, "q3": {"d": 1}},
    languages={"a": "python", "b": "java", "c": "java", "d": "python"},
)
CODE = '''\
def {name}({argument}):
    """{text} the {argument}."""
    return {name}_{argument}({argument}, "{text}")


'''


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Twenty-four documented functions."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for verb in "read write open close sort count".split():
        functions = [
            CODE.format(name=f"{verb}_{noun}", argument=noun, text=f"{verb.title()} all of")
            for noun in "line word tree node".split()
        ]
        (folder / f"{verb}.py").write_text("".join(functions))
    return folder


# --- rankings --------------------------------------------------------------------------------------------------------


def test_a_plain_function_is_measured_by_hand() -> None:
    """q1 finds a at 2, q2 finds c at 1, q3 finds nothing: MRR (1/2 + 1 + 0) / 3."""
    answers = {"read": ["b", "a"], "write": ["c"], "close": []}
    result = evaluate_retrieval(lambda _: answers.__getitem__, BENCHMARK, system="function", metrics=["MRR", "R@1"])
    assert result.means == {"MRR": pytest.approx(0.5), "R@1": pytest.approx(1 / 3)}
    assert result.ranks == {"q1": 2, "q2": 1, "q3": None}
    assert result.top == {"q1": ["b", "a"], "q2": ["c"], "q3": []}
    assert result.languages == {"q1": "python", "q2": "java", "q3": "python"}
    assert set(result.milliseconds) == {"retrieve", "total"}


def test_equal_codes_are_one_where_they_are_collapsed() -> None:
    """b and c are one code: found first where b is, though c alone is marked."""
    answers = {"read": ["a"], "write": ["b", "d", "c"], "close": ["b", "c", "d"]}
    result = evaluate_retrieval(lambda _: answers.__getitem__, BENCHMARK, system="function", metrics=["MRR"])
    assert result.duplicates == 1
    assert result.means["MRR"] == pytest.approx((1 + 1 / 3 + 1 / 3) / 3)
    assert result.collapsed["MRR"] == pytest.approx((1 + 1 + 1 / 2) / 3)


def test_ties_are_broken_by_id_and_the_order_is_otherwise_kept() -> None:
    hits = [("d", 0.5), ("b", 0.9), ("a", 0.9), ("c", 0.1)]
    asked = rank_queries(lambda query: hits, BENCHMARK)
    assert asked.run["q1"] == ["d", "a", "b", "c"]


@pytest.fixture(scope="module")
def collapsed(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """An encoder that returns one vector for every text: its last layer norm ignores its input."""
    folder = tmp_path_factory.mktemp("collapsed")
    shutil.copytree(bert_folder, folder, dirs_exist_ok=True)
    model = BertModel.from_pretrained(bert_folder)
    norm = model.encoder.layer[-1].output.LayerNorm
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(folder)
    return Encoder.from_pretrained(str(folder), device="cpu")


def test_a_collapsed_encoder_ranks_every_answer_last(collapsed: Encoder) -> None:
    """All cosines are equal, but for the rounding of a matrix product, so that 36 of 37 codes come first."""
    pairs = [(f"query {i}", f"def f{i}(): return {i}") for i in range(20)]
    benchmark = benchmark_of("collapsed", pairs, others=[f"x = {i}" for i in range(17)])
    run = rank_by_cosine(collapsed, benchmark)
    metrics = evaluate_run(run, benchmark.qrels, metrics=["MRR", "R@10"])
    assert metrics == {"MRR": pytest.approx(1 / 37), "R@10": 0.0}
    codes = list(benchmark.corpus)
    vectors = collapsed.encode_codes(list(benchmark.corpus.values()))
    for query, judged in benchmark.qrels.items():
        (cosines,) = collapsed.encode_queries([benchmark.queries[query]]) @ vectors.T
        assert pessimistic_rank(cosines, [codes.index(code) for code in judged], tolerance=1e-6) == 37


def test_cosines_that_differ_keep_their_order(bert_folder: Path) -> None:
    encoder = Encoder.from_pretrained(str(bert_folder), device="cpu")
    cosines = (
        encoder.encode_queries(list(BENCHMARK.queries.values()))
        @ encoder.encode_codes(["read the file", "write  the file", "close it"]).T
    )  # b and c are equal but for white space, which the tokenizer drops: the answer c comes behind b
    run = rank_by_cosine(encoder, BENCHMARK)
    assert [run["q2"].index(code) for code in "bc"] == [run["q2"].index("b"), run["q2"].index("b") + 1]
    for query, row in zip(BENCHMARK.queries, cosines, strict=True):
        expected = [code for _, code in sorted(zip(-row, "abd", strict=True))]
        assert [code for code in run[query] if code != "c"] == expected


def test_no_tie_by_id_or_position_favours_the_answers_of_made_benchmarks() -> None:
    benchmark = benchmark_of("b", [(f"q{i}", f"a{i}") for i in range(3)], others=[f"o{i}" for i in range(9)] + ["a1"])
    assert sorted(benchmark.corpus) == list(benchmark.corpus)
    assert list(benchmark.corpus.values())[9:] == ["a0", "a1", "a2"]


def test_the_best_of_several_nodes_of_one_code_counts() -> None:
    def search(query: str) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(id_=name, text="x")) for name in ("b-1", "a-1", "b-2")]

    assert rank_queries(search, BENCHMARK, id_of=lambda hit: hit.node_id[0]).run["q1"] == ["b", "a"]


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"score of 'a' for query 'q1' is NaN"):
        rank_queries(lambda query: [("a", math.nan)], BENCHMARK)
    with pytest.raises(ValueError, match="query 'q1' found 'z', which the corpus of 'three' lacks"):
        rank_queries(lambda query: ["z"], BENCHMARK)
    with pytest.raises(ValueError, match="postprocessors need nodes"):
        rank_queries(lambda query: ["a"], BENCHMARK, postprocessors=[SimilarityPostprocessor(similarity_cutoff=0.1)])


def test_query_vectors_without_effect_are_refused(bert_folder: Path) -> None:
    with pytest.raises(ValueError, match="query_vectors have an effect with a CodeRetriever only"):
        rank_queries(lambda query: ["a"], BENCHMARK, query_vectors={})
    retriever = CodeRetriever(benchmark_index(BENCHMARK, CodeEmbedding(str(bert_folder))), top_k=4)
    with pytest.raises(ValueError, match="query_vectors lack the query 'q1'"):
        rank_queries(retriever, BENCHMARK, query_vectors={"q2": [], "q3": []})


@pytest.mark.parametrize("mode", ["dense", "bm25", "fused"])
def test_a_retriever_is_ranked_as_it_retrieves(mode: Any, bert_folder: Path) -> None:
    """Without building nodes, with given vectors and through LlamaIndex's door: one ranking."""
    embedding = CodeEmbedding(str(bert_folder))
    retriever = CodeRetriever(benchmark_index(BENCHMARK, embedding), mode=mode, top_k=4)
    asked = rank_queries(retriever, BENCHMARK)
    assert set(asked.seconds) == {"embed", "search", "total"}
    vectors = {query: embedding.get_query_embedding(text) for query, text in BENCHMARK.queries.items()}
    assert rank_queries(retriever, BENCHMARK, query_vectors=vectors).run == asked.run
    assert rank_queries(lambda query: retriever.retrieve(query), BENCHMARK).run == asked.run


def test_postprocessors_follow_in_their_order(bert_folder: Path) -> None:
    retriever = CodeRetriever(benchmark_index(BENCHMARK, CodeEmbedding(str(bert_folder))), mode="dense", top_k=4)
    cut = SimilarityPostprocessor(similarity_cutoff=2.0)
    asked = rank_queries(retriever, BENCHMARK, postprocessors=[cut])
    assert asked.run == {"q1": [], "q2": [], "q3": []}
    assert set(asked.seconds) == {"embed", "search", "SimilarityPostprocessor", "total"}


def test_pools_are_each_their_own_corpus(bert_folder: Path) -> None:
    embedding, seen = CodeEmbedding(str(bert_folder)), []

    def build(pool: Benchmark) -> CodeRetriever:
        seen.append(set(pool.corpus))
        return CodeRetriever(benchmark_index(pool, embedding), mode="dense", top_k=4)

    result = evaluate_retrieval(build, BENCHMARK, system="dense", pool_size=2, depth=4, metrics=["R@10"])
    assert result.protocol == "pools of 2 (seed 0)"
    assert all(len(pool) == 2 for pool in seen)
    assert result.means["R@10"] == 1.0  # of two codes, one of the first ten is always the right one
    assert list(result.values["R@10"]) == sorted(BENCHMARK.queries)


# --- suites ----------------------------------------------------------------------------------------------------------


def _write(path: Path, bert_folder: Path, *, more: str = "") -> Path:
    path.write_text(f"""
depth = 24
[[task]]
name = "own"
repository = ["shop"]
[[system]]
name = "dense"
model = "{bert_folder}"
mode = "dense"
[[system]]
name = "words"
model = "{bert_folder}"
mode = "bm25"
{more}
""")
    return path


def _worsen(suite: Path, to: Path) -> None:
    """Give the system of words the vectors of a random model that reads six tokens."""
    to.write_text(suite.read_text().replace('mode = "bm25"', 'mode = "dense"\nmax_code_tokens = 8'))


def test_a_suite_measures_all_systems_on_all_tasks(sources: Path, bert_folder: Path, tmp_path: Path) -> None:
    more = """
[[task]]
name = "absent"
set = "no-such-set"
[[task]]
name = "missing"
package = ["no.such.package"]
[[system]]
name = "gone"
model = "./no-such-folder"
optional = true
[[generation]]
name = "write"
kind = "code"
task = "own"
top_n = 1
[[generation]]
name = "describe"
kind = "docstring"
task = "own"
systems = ["words"]
questions = 5
[[published]]
system = "theirs"
task = "own"
metric = "MRR"
value = 0.5
source = "a paper"
"""
    suite = load_suite(_write(sources.parent / "suite.toml", bert_folder, more=more))
    outcome = run_suite(suite, out=tmp_path / "out", cache_folder=tmp_path / "cache")
    report = outcome.report
    assert [(each.system, each.task) for each in report.retrieval] == [("dense", "own"), ("words", "own")]
    assert set(report.skipped) == {"absent", "missing", "gone"}
    assert report.skipped["missing"] == "the package no.such.package is not installed"
    words = report.retrieval[1]
    assert words.means["R@5"] > 0.9
    assert (words.codes, len(words.queries), words.depth, words.languages["shop/count.py:1"]) == (24, 24, 24, "python")
    conditions = [(each.task, each.condition, each.system) for each in report.generation]
    assert conditions[:4] == [
        ("write", "gold", ""),
        ("write", "retrieved", "dense"),
        ("write", "retrieved", "words"),
        ("write", "none", ""),
    ]
    gold, dense, quoted, none = (each.means["rougeL"] for each in report.generation[:4])
    assert gold == 1.0
    assert none == 0.0
    assert none < dense < quoted <= 1.0
    assert len(report.generation[4].answers) == 5
    assert report.published[0].value == 0.5
    assert not (tmp_path / "out" / "unfinished").exists()
    assert outcome.codes["own"]["shop/count.py:1"].startswith("def count_line")


def test_an_interrupted_suite_goes_on(
    sources: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = load_suite(_write(sources.parent / "suite.toml", bert_folder))
    asked: list[int] = []

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "evaluate":
            asked.append(done)
            if len(asked) == 30:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, out=tmp_path / "out", on_progress=stop)
    assert len(list((tmp_path / "out" / "unfinished").iterdir())) == 1  # the first system is done
    report = run_suite(suite, out=tmp_path / "out", on_progress=stop).report
    assert len(asked) == 30 + 24  # the second one anew, the first not again
    whole = run_suite(suite).report
    assert [each.ranks for each in report.retrieval] == [each.ranks for each in whole.retrieval]


def test_a_query_is_timed_with_its_embedding(
    sources: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Codes come out of the cache the second time, queries do not."""
    asked: list[str] = []
    encode = Encoder.encode

    def counted(self: Encoder, texts: Any, *, side: Any) -> Any:
        asked.extend([side] * len(texts))
        return encode(self, texts, side=side)

    monkeypatch.setattr(Encoder, "encode", counted)
    suite = load_suite(_write(sources.parent / "suite.toml", bert_folder))
    for codes in (24, 0):
        asked.clear()
        run_suite(suite, cache_folder=tmp_path / "cache")
        assert (asked.count("code"), asked.count("query")) == (codes, 24)


def test_the_suites_that_come_along_are_whole() -> None:
    assert suite_names() == ["cascade", "embedded", "leaderboard"]
    for name in suite_names():
        assert load_suite(name).name == name


SMALL = '[[task]]\nname="t"\nset="a"\n[[system]]\nname="s"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[task", "is not TOML"),
        ("", r"at least one \[\[system\]\] and one \[\[task\]\] or \[\[generation\]\]"),
        ('[[task]]\nname="t"\n[[system]]\nname="s"', "task 't' must have one of set, folder, repository or package"),
        (
            '[[task]]\nname="t"\nset="a"\n[[system]]\nname="s"\nmode="sparse"',
            "system.0: mode must be 'dense'.* got 'sparse'",
        ),
        (SMALL + "speed=1", "system.0: there is no setting 'speed'"),
        (SMALL + '[[system]]\nname="s"', "names system 's' twice"),
        (
            '[[task]]\nname="t"\nset="a"\n[[system]]\nname="s"\n[gate]\nalpha=2',
            "gate: alpha must be less than 1, got 2",
        ),
        (
            '[[task]]\nname="t"\nset="a"\n[[system]]\nname="s"\n[gate]\nsystems=["x"]',
            "the gate names the system 'x'; the suite has s",
        ),
        (
            SMALL + '[[generation]]\nname="g"\nkind="code"\ntask="u"',
            "generation 'g' names the task 'u'; the suite has t",
        ),
        ('[[system]]\nname="s"\n[[generation]]\nname="g"\nkind="sweqa"', "kind 'sweqa' must name its project"),
        (SMALL + "[gate]\ntolerance = nan", "gate: tolerance must be"),
        (SMALL + "[gate]\nmetrics = []", "gate: metrics: .* at least 1 item"),
        (SMALL + '[gate]\nmetrics = ["MRR@3"]', "the gate names the metric 'MRR@3', which the suite does not measure"),
        (SMALL + '[gate]\ngeneration_metrics = ["rougeX"]', "must be 'rouge1', .* got 'rougeX'"),
        ('metrics = ["MRR", "R"]\n' + SMALL, "metrics.1: unknown metric 'R'; use MRR, MRR@k, R@k"),
        ('place = "x"\n' + SMALL, "there is no setting 'place'"),
        (SMALL + 'mode = "bm25"\ndense_weight = 1', "dense_weight would have no effect: system 's' has mode 'bm25'"),
        (SMALL + 'mode = "bm25"\nquery_encoder = "auto"', "query_encoder would have no effect: .* encodes no queries"),
        (SMALL + "early_exit = 0.9\nrerank_k = 5", "rerank_k and early_exit would have no effect: .* no reranker"),
        ('[[task]]\nname="t"\npackage=["json"]\nsplit="dev"\n[[system]]\nname="s"', "split would have no effect"),
        (SMALL + '[[generation]]\nname="g"\nkind="code"\ntask="t"\nproject="flask"', "project would have no effect"),
    ],
)
def test_a_suite_refuses_nonsense(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_suite(tmp_path / "bad.toml")
    with pytest.raises(ValueError, match="there is no suite 'absent': it is neither a file nor one of cascade, embedd"):
        load_suite("absent")


def test_a_suite_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('name = "base"\ndepth = 7\n' + SMALL + "[gate]\nalpha = 0.01\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own.toml").write_text(
        'extends = "../base.toml"\nname = "own"\n[[task]]\nname = "u"\nrepository = ["src"]\n[gate]\ntolerance = 0.1\n'
    )
    suite = load_suite(tmp_path / "sub" / "own.toml")
    assert (suite.name, suite.depth, suite.gate.alpha, suite.gate.tolerance) == ("own", 7, 0.01, 0.1)
    assert [(task.name, task.repository) for task in suite.task] == [("u", (str(tmp_path / "sub" / "src"),))]
    assert [system.name for system in suite.system] == ["s"]


# --- what fails, fails before anything is measured -------------------------------------------------------------------


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sides of all texts that an encoder is given, which stays empty if nothing is measured."""
    sides: list[str] = []
    encode = Encoder.encode

    def record(self: Encoder, texts: Any, *, side: Any) -> Any:
        sides.append(side)
        return encode(self, texts, side=side)

    monkeypatch.setattr(Encoder, "encode", record)
    return sides


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('[[system]]\nname="x"\nmodel="embeded"', "system 'x': unknown model 'embeded'"),
        ('[[system]]\nname="x"\nadapter="embedded-generl"', "system 'x': unknown adapter 'embedded-generl'"),
        ('[[system]]\nname="x"\nrerank="embeded"', "system 'x': unknown reranker 'embeded'"),
        ('[[system]]\nname="x"\nquery_encoder="fast"', "system 'x': unknown query encoder 'fast'"),
        (
            '[[system]]\nname="x"\nmodel="MODEL"\nadapters={pyton="none"}',
            "system 'x' has an adapter for the unknown language 'pyton'; known are .*python",
        ),
        ('[[task]]\nname="t"\nrepository=["shop"]\nqueries=99', "has 24 queries, so 99 cannot be drawn"),
        ('[[task]]\nname="t"\nrepository=["shop"]\npool_size=99', "has 24 codes, so pools of 99 cannot be drawn"),
        ('[[task]]\nname="t"\nfolder="nowhere"', "nowhere is not a folder"),
        ('[[generation]]\nname="g"\nkind="code"\ntask="own"\nwriter="gpt"', "unknown writer 'gpt'; use one of"),
        ('[[generation]]\nname="g"\nkind="code"\ntask="own"\nquestions=99', "asks for 99 questions, and there are 24"),
    ],
)
def test_a_wrong_name_or_number_is_refused_before_anything_is_measured(
    more: str, message: str, sources: Path, bert_folder: Path, stages: list[str]
) -> None:
    more = more.replace("MODEL", str(bert_folder))
    suite = load_suite(_write(sources.parent / "suite.toml", bert_folder, more=more))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run_suite(suite)
    assert stages == []


def test_a_baseline_of_something_else_is_refused_before_anything_is_measured(
    sources: Path, bert_folder: Path, tmp_path: Path, stages: list[str]
) -> None:
    path = _write(sources.parent / "suite.toml", bert_folder)
    baseline = run_suite(load_suite(path)).report
    stages.clear()
    text = path.read_text()
    for old, new, message in (
        ('name = "dense"', 'name = "renamed"', "the baseline has 'dense' on 'own', which this run lacks"),
        ("depth = 24", "depth = 12", "another depth than its baseline: 12 and 24"),
        ("depth = 24", 'depth = 24\nmetrics = ["MRR"]', "has no metric 'R@10', only MRR"),
        ('repository = ["shop"]', 'repository = ["shop"]\npool_size = 6', "another protocol than its baseline"),
        ('repository = ["shop"]', 'repository = ["shop"]\nqueries = 6', "another benchmark .*queries"),
    ):
        path.write_text(text.replace(old, new))
        with pytest.raises(IncomparableError, match=message):
            run_suite(load_suite(path), baseline=baseline)
    path.write_text(text)
    with pytest.raises(IncomparableError, match="no system and task in common"):
        run_suite(load_suite(path), baseline=replace(baseline, retrieval=[]))
    assert stages == []
    assert compare(run_suite(load_suite(path), baseline=baseline).report, baseline)


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_measured(
    sources: Path, bert_folder: Path, tmp_path: Path, stages: list[str]
) -> None:
    suite = load_suite(_write(sources.parent / "suite.toml", bert_folder))
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OSError, match=f"cannot write to the folder {out} .*name another one"):
            run_suite(suite, out=out)
    assert stages == []


def test_missing_packages_are_named_before_anything_is_measured(
    sources: Path, bert_folder: Path, stages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(sources.parent / "suite.toml", bert_folder)
    baseline = run_suite(load_suite(path)).report
    stages.clear()
    _write(path, bert_folder, more='[[generation]]\nname="g"\nkind="code"\ntask="own"')
    for package, purpose in (
        ("ir_measures", "computing metrics"),
        ("sacrebleu", "scoring answers"),
        ("scipy", "comparing with a baseline"),
    ):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)  # Python's own way to make an import fail
            with pytest.raises(ImportError, match=rf"{purpose} needs {package}: pip install .*\[eval\]"):
                run_suite(load_suite(path), baseline=baseline)
    assert stages == []


def test_a_checkout_without_package_metadata_is_measured(
    sources: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    report = run_suite(load_suite(_write(sources.parent / "suite.toml", bert_folder))).report
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert report.versions == {
        "llamaindex-code-retrieval": project["version"],
        "llama-index-core": "unknown",
        "torch": "unknown",
    }


def test_more_passages_than_a_result_keeps_are_retrieved(sources: Path, bert_folder: Path) -> None:
    """A result keeps ten hits a query; a writer that is shown twelve gets twelve."""
    more = '[[generation]]\nname="g"\nkind="code"\ntask="own"\ntop_n=12\nsystems=["dense"]'
    suite = load_suite(_write(sources.parent / "suite.toml", bert_folder, more=more))
    retrieved = run_suite(suite).report.generation[1]
    assert {len(answer.passages) for answer in retrieved.answers.values()} == {12}


def test_a_suite_of_which_nothing_is_at_hand_says_so(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODE_RETRIEVAL_DATA", raising=False)
    text = f'[[task]]\nname="t"\nset="cosqa"\n[[system]]\nname="s"\nmodel="{bert_folder}"'
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ValueError, match=r"nothing of the suite 's' can be run here \(t: there is no cosqa/"):
        run_suite(load_suite(tmp_path / "s.toml"))


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluate(
    sources: Path, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    _write(tmp_path / "suite.toml", bert_folder)

    def run(*arguments: str, code: int = 0, suite: str = "suite.toml") -> str:
        capsys.readouterr()
        got = main(["eval", str(tmp_path / suite), "--out", str(tmp_path / "out"), *arguments])
        printed = capsys.readouterr()
        assert got == code, printed.err
        return printed.err if code else printed.out

    return run


def test_eval_writes_its_reports_and_gates(
    evaluate: Callable[..., str], sources: Path, bert_folder: Path, tmp_path: Path
) -> None:
    baseline = str(tmp_path / "baseline.json")
    facts = json.loads(evaluate("--json", "--baseline", baseline, "--update-baseline"))
    assert {"retrieval", "generation", "comparisons"} <= facts.keys()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json",
        "report.html",
        "report.md",
        "junit.xml",
    }
    assert Report.load(baseline) == Report.load(tmp_path / "out" / "report.json").slim()
    assert "words" in evaluate("--baseline", baseline, "--gate")

    _worsen(tmp_path / "suite.toml", tmp_path / "worse.toml")
    said = evaluate("--baseline", baseline, "--gate", code=1, suite="worse.toml")
    assert "regression: MRR of 'words' on 'own' fell from" in said
    assert "first is now shop/" in said
    evaluate("--baseline", baseline, suite="worse.toml")  # without --gate a regression is only shown

    (sources / "more.py").write_text(CODE.format(name="f", argument="x", text="Another one of"))
    said = evaluate("--baseline", baseline, "--gate", code=2)
    assert "another benchmark" in said
    assert "--update-baseline" in said
    assert Report.load(tmp_path / "out" / "report.json").retrieval[0].codes == 24  # nothing was measured


def test_eval_refuses_what_it_cannot_do(evaluate: Callable[..., str], tmp_path: Path) -> None:
    assert "--gate has no effect without --baseline FILE" in evaluate("--gate", code=2)
    assert "give one of them" in evaluate("--gate", "--update-baseline", "--baseline", "x", code=2)
    assert "x.json cannot be read" in evaluate("--gate", "--baseline", str(tmp_path / "x.json"), code=2)
    assert not (tmp_path / "out").exists()


def test_a_benchmark_is_made_of_folders(sources: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    assert main(["benchmark", str(sources), "--out", str(out), "--queries", "5", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    read = load_beir(out, split="test")
    assert (facts["codes"], facts["queries"], facts["fingerprint"]) == (24, 5, read.fingerprint)
    assert main(["benchmark", str(sources), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err


# --- pytest ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run_pytest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run pytest in a folder without tests, in this process, so that torch is not imported again."""
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        # The plugin unraisableexception collects garbage five times at the end of a session.
        plugins = ["-p", "no:cacheprovider", "-p", "no:unraisableexception"]
        code = pytest.main([*plugins, "-q", "--rootdir", str(folder), *arguments, str(folder)])
        printed = capsys.readouterr()
        return int(code), printed.out + printed.err

    return run


def test_each_metric_of_a_baseline_is_a_test(
    sources: Path, bert_folder: Path, run_pytest: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    baseline, suite = tmp_path / "baseline.json", _write(tmp_path / "suite.toml", bert_folder)
    run_suite(load_suite(suite)).report.slim().save(baseline)
    options = ["--code-retrieval-baseline", str(baseline), "--code-retrieval-suite", str(suite)]
    code, text = run_pytest(*options)
    assert code == 0, text
    assert "4 passed" in text
    assert "inconclusive" not in text

    suite.write_text(suite.read_text() + "[gate]\nalpha = 1e-9\n")  # so small that no drop of 24 queries is significant
    _worsen(suite, suite)
    code, text = run_pytest(*options)
    assert code == 0, text
    assert "code-retrieval: inconclusive drops" in text
    assert "MRR of 'words' on 'own' fell from" in text
    assert "24 queries are too few to tell a drop of" in text

    suite.write_text(suite.read_text().replace("alpha = 1e-9", "alpha = 0.05"))
    code, text = run_pytest(*options, "-m", "code_retrieval")
    assert code == 1
    assert "words / own / MRR" in text
    assert "MRR of 'words' on 'own' fell from" in text
    assert "Traceback" not in text

    code, text = run_pytest("--code-retrieval-suite", str(suite))
    assert code == 4
    assert "need each other; give both" in text


def test_the_plugin_is_registered_and_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys, pytest; pytest.main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--code-retrieval-suite" in done.stdout
