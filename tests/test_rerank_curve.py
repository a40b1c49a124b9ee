"""Curves of a cascade by K: rankings worked out by hand, the real reranker as reference, resumed runs, the command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from llama_index.core.schema import TextNode
from transformers import BertForSequenceClassification

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeReranker, CodeRetriever, Encoder
from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.eval.curve_runner import run_curves
from llamaindex_code_retrieval.eval.datasets import Benchmark, documented_functions
from llamaindex_code_retrieval.eval.metrics import evaluate_run
from llamaindex_code_retrieval.eval.report import curve_html, curve_markdown
from llamaindex_code_retrieval.eval.rerank_curve import parse_ks, rerank_curve
from llamaindex_code_retrieval.eval.results import CURVE_METRICS, Curve
from llamaindex_code_retrieval.eval.retrieval import benchmark_index, evaluate_retrieval
from llamaindex_code_retrieval.eval.runner import run_suite
from llamaindex_code_retrieval.eval.suite import load_suite
from llamaindex_code_retrieval.index.sources import read_sources
from llamaindex_code_retrieval.models.calibration import Calibration, calibration_error, scored_until_settled
from llamaindex_code_retrieval.models.cross_encoder import CrossEncoder

CALIBRATION = Calibration(
    fused_temperature=2.0,
    rank_weight=0.3,
    fused_shift=-3.0,
    depth=24,
    error=0.0321,
    ceilings={"0.8": [-0.1 * i for i in range(25)], "0.95": [1.2 - 0.1 * i for i in range(25)]},
)
KS = (1, 2, 5, 24)


@pytest.fixture
def benchmark(shop: Path) -> Benchmark:
    return documented_functions(read_sources([shop]), name="own")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Path:
    """A random cross-encoder of the Hugging Face kind."""
    folder = tmp_path_factory.mktemp("checkpoint")
    shutil.copytree(bert_folder, folder, dirs_exist_ok=True)
    torch.manual_seed(7)
    model = BertForSequenceClassification.from_pretrained(bert_folder, num_labels=1)
    torch.nn.init.normal_(model.classifier.weight, std=3.0)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> Path:
    """A reranker of ours on the tiny base, untrained but calibrated."""
    folder = tmp_path_factory.mktemp("ours")
    shutil.copytree(bert_folder, folder, dirs_exist_ok=True)
    model = CrossEncoder.on(Encoder.from_pretrained(bert_folder, device="cpu"), max_tokens=64)
    model.calibration = CALIBRATION
    model.save(folder)
    return folder


def _retriever(benchmark: Benchmark, bert_folder: Path, *, mode: str = "dense", top_k: int = 24) -> CodeRetriever:
    index = benchmark_index(benchmark, CodeEmbedding(str(bert_folder), device="cpu"))
    return CodeRetriever(index, top_k=top_k, mode=mode)  # type: ignore[arg-type]


def test_hits_that_the_reranker_leaves_alone_have_no_curve(ours: Path, bert_folder: Path) -> None:
    codes = {f"f{i}": f"def f{i}(): return {i}" for i in range(3)}
    benchmark = Benchmark(name="files", corpus=codes, queries={"q": "return"}, qrels={"q": {"f1": 1}})
    index = CodeIndex(CodeEmbedding(str(bert_folder), device="cpu"))
    place = {"path": "f.py", "kind": "function"}
    index.update_nodes([TextNode(id_=id_, text=code, metadata=place) for id_, code in codes.items()])
    retriever = CodeRetriever(index, top_k=3, mode="dense")
    rerank_curve(lambda _: retriever, CodeReranker(str(ours)), benchmark, [2], system="s")
    with pytest.raises(ValueError, match="for which the reranker has a repository_weight, and a curve shows"):
        rerank_curve(lambda _: retriever, CodeReranker(str(ours), repository_weight=0), benchmark, [2], system="s")


# --- one curve -------------------------------------------------------------------------------------------------------


def test_a_curve_of_known_scores_is_what_a_hand_works_out(checkpoint: Path, bert_folder: Path, tmp_path: Path) -> None:
    """BM25 puts a, b, c and e, f, g; c and f are right. The scores say c, b, a and g, f, e."""
    benchmark = Benchmark(
        name="six",
        corpus={
            **{"a": "read read read", "b": "read read x", "c": "read x x"},
            **{"e": "write write write", "f": "write write x", "g": "write x x"},
        },
        queries={"q1": "read", "q2": "write"},
        qrels={"q1": {"c": 1}, "q2": {"f": 1}},
    )
    retriever = _retriever(benchmark, bert_folder, mode="bm25", top_k=3)
    assert [hit.node_id for hit in retriever.retrieve("read")] == ["a", "b", "c"]
    assert [hit.node_id for hit in retriever.retrieve("write")] == ["e", "f", "g"]
    file = tmp_path / "log_odds.json"
    file.write_text(json.dumps({"q1": {"a": -1, "b": 0, "c": 2}, "q2": {"e": 1, "f": 2, "g": 3}}))
    reranker = CodeReranker(str(checkpoint), device="cpu")
    curve = rerank_curve(lambda _: retriever, reranker, benchmark, [3, 2, 1], system="s", log_odds_file=file)

    assert [point.k for point in curve.points] == [0, 1, 2, 3]
    assert [point.pairs for point in curve.points] == [0, 1, 2, 3]
    # Ranks of c and f: 3 and 2, 3 and 2, 3 and 1, 1 and 2.
    mrr, r1, r5, r10 = ([point.metrics[metric] for point in curve.points] for metric in CURVE_METRICS)
    assert mrr == pytest.approx([5 / 12, 5 / 12, 2 / 3, 3 / 4])
    assert r1 == [0, 0, 0.5, 0.5]
    assert r5 == r10 == [1, 1, 1, 1]
    # sigmoid(-1), (0), (1) and (3) are of wrong pairs in bins of their own, (2) twice of a right one.
    assert curve.error == pytest.approx((0.26894 + 0.5 + 0.73106 + 0.95257 + 2 * (1 - 0.88080)) / 6, abs=1e-5)
    assert curve.calibration_error is None
    assert curve.depth == 3
    assert (curve.queries, curve.codes, curve.timed, curve.protocol) == (2, 6, 2, "whole")


@pytest.mark.parametrize("rank_weight", [None, 0.1])
@pytest.mark.parametrize("mode", ["dense", "fused"])
def test_each_k_is_what_the_reranker_makes_of_the_first_k_hits(
    benchmark: Benchmark, ours: Path, bert_folder: Path, mode: str, rank_weight: float | None
) -> None:
    retriever = _retriever(benchmark, bert_folder, mode=mode)
    reranker = CodeReranker(str(ours), top_n=24, rank_weight=rank_weight, device="cpu")
    curve = rerank_curve(lambda _: retriever, reranker, benchmark, KS, system="s", latency_queries=1)
    hits = {query: retriever.retrieve(text) for query, text in benchmark.queries.items()}
    points = [point for point in curve.points if point.early_exit is None]
    assert [point.k for point in points] == [0, *KS]
    for point in points:
        run = {
            query: [
                *(hit.node_id for hit in reranker.rerank(text, hits[query][: point.k]).hits),
                *(hit.node_id for hit in hits[query][point.k :]),
            ]
            for query, text in benchmark.queries.items()
        }
        assert point.metrics == evaluate_run(run, benchmark.qrels, metrics=CURVE_METRICS)
    assert len({point.metrics["MRR"] for point in points}) > 2  # otherwise the line above says little


def test_the_first_hit_alone_changes_nothing_and_more_hits_are_more_pairs(
    benchmark: Benchmark, ours: Path, bert_folder: Path
) -> None:
    retriever = _retriever(benchmark, bert_folder)
    reranker = CodeReranker(str(ours), early_exit=0.8, device="cpu")  # which the rows by K leave out
    curve = rerank_curve(lambda _: retriever, reranker, benchmark, KS, system="s", latency_queries=3)
    nothing, one, *_ = points = [point for point in curve.points if point.early_exit is None]
    alone = evaluate_retrieval(lambda _: retriever, benchmark, system="s", metrics=CURVE_METRICS)
    assert nothing.metrics == one.metrics == alone.means
    assert [point.pairs for point in points] == [0, 1, 2, 5, 24]
    assert nothing.milliseconds == {"p50": 0.0, "p95": 0.0}
    assert all(point.milliseconds["p95"] >= point.milliseconds["p50"] > 0 for point in points[1:])
    assert reranker.early_exit == 0.8
    assert curve.calibration_error == 0.0321
    assert curve.timed == 3


def test_early_exit_scores_as_many_pairs_as_the_reranker_does(
    benchmark: Benchmark, ours: Path, bert_folder: Path
) -> None:
    retriever = _retriever(benchmark, bert_folder)
    curve = rerank_curve(
        lambda _: retriever, CodeReranker(str(ours), device="cpu"), benchmark, KS, system="s", latency_queries=1
    )
    points = [point for point in curve.points if point.early_exit is not None]
    assert [(point.early_exit, point.top_n, point.k) for point in points] == [
        (0.8, 10, 24),
        (0.8, 1, 24),
        (0.95, 10, 24),
        (0.95, 1, 24),
    ]
    seen: set[int] = set()
    for point in points:
        reranker = CodeReranker(str(ours), early_exit=point.early_exit, top_n=point.top_n or 0, device="cpu")
        found = [reranker.rerank(text, retriever.retrieve(text)) for text in benchmark.queries.values()]
        assert point.pairs == sum(each.scored for each in found) / len(found)
        run = {query: [hit.node_id for hit in each.hits] for query, each in zip(benchmark.queries, found, strict=True)}
        metrics = [f"R@{k}" for k in (1, 5, 10) if k <= reranker.top_n]
        assert {name: point.metrics[name] for name in metrics} == evaluate_run(run, benchmark.qrels, metrics=metrics)
        seen |= {each.scored for each in found}
    assert seen == {10, 20, 24}  # some stop and some do not
    assert points[0].pairs > points[1].pairs  # one sure hit is found sooner than ten


def test_queries_that_find_nothing_count_as_zero(checkpoint: Path, bert_folder: Path) -> None:
    benchmark = Benchmark(name="b", corpus={"a": "read", "b": "x"}, queries={"q": "absent"}, qrels={"q": {"a": 1}})
    retriever = _retriever(benchmark, bert_folder, mode="bm25", top_k=100_000)
    reranker = CodeReranker(str(checkpoint), device="cpu")
    curve = rerank_curve(lambda _: retriever, reranker, benchmark, [100_000], system="s")
    assert [(point.pairs, point.metrics["MRR"]) for point in curve.points] == [(0, 0), (0, 0)]
    assert curve.error is None


def test_early_exit_is_left_out_where_the_rank_has_another_weight(
    benchmark: Benchmark, ours: Path, bert_folder: Path
) -> None:
    retriever = _retriever(benchmark, bert_folder)
    reranker = CodeReranker(str(ours), rank_weight=0.0, device="cpu")
    curve = rerank_curve(lambda _: retriever, reranker, benchmark, [3], system="s", latency_queries=1)
    assert [(point.k, point.early_exit) for point in curve.points] == [(0, None), (3, None)]
    assert curve.rank_weight == 0.0


def test_the_rule_to_stop_by_hand() -> None:
    fused, ceiling = [0.0, 3.0, 1.0, 2.0, 9.0, 0.0, 0.0], [5.0, 4.0, 3.5, 3.0, 1.5]
    assert scored_until_settled(fused, ceiling, top_n=1, chunk=1) == 3  # 3.0 is 3.0 after three hits
    assert scored_until_settled(fused, ceiling, top_n=1, chunk=2) == 4
    assert scored_until_settled(fused, ceiling, top_n=2, chunk=1) == 4  # the second best, 2.0, is over 1.5
    assert scored_until_settled(fused, ceiling, top_n=3, chunk=1) == 5  # 2.0 again, over the last of the ceilings
    assert scored_until_settled(fused, ceiling, top_n=8, chunk=2) == 7
    assert scored_until_settled([], ceiling, top_n=1) == 0


def test_the_calibration_error_by_hand() -> None:
    """Of two bins the first says 0.25 and half are right, the other says 1 and all are: half of 0.25."""
    assert calibration_error([0.2, 0.3, 1.0, 1.0], [True, False, True, True], bins=2) == pytest.approx(0.125)
    assert calibration_error([0.0, 1.0], [True, False]) == 1.0


def test_pools_are_each_their_own_corpus(benchmark: Benchmark, ours: Path, bert_folder: Path) -> None:
    reranker = CodeReranker(str(ours), device="cpu")
    curve = rerank_curve(
        lambda pool: _retriever(pool, bert_folder, top_k=24), reranker, benchmark, [24], system="s", pool_size=8
    )
    assert (curve.protocol, curve.queries, curve.codes) == ("pools of 8 (seed 0)", 24, 24)
    assert curve.points[1].pairs == 8  # there are no more in a pool
    assert curve.points[1].metrics["R@10"] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "whole numbers separated by commas, got ''; try 1,5,10"),
        ("1,,2", "whole numbers separated by commas, got '1,,2'"),
        ("1,ten", "whole numbers separated by commas, got '1,ten'"),
        ("1.5", "whole numbers separated by commas, got '1.5'"),
        ("5,-1", "K is a number of hits, got -1; use values from 1"),
        ("0", r"a curve needs a K over 0, got \[0\]; the first stage alone \(0\) is always measured"),
        ("1,5,1", "K=1 is given twice; give each K once"),
    ],
)
def test_ks_that_are_none_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_ks(text)


def test_a_curve_refuses_what_it_cannot_measure(benchmark: Benchmark, checkpoint: Path, bert_folder: Path) -> None:
    retriever, reranker = _retriever(benchmark, bert_folder, top_k=5), CodeReranker(str(checkpoint), device="cpu")
    with pytest.raises(ValueError, match=r"returns top_k=5 hits, so the first 6 cannot be reranked; raise"):
        rerank_curve(lambda _: retriever, reranker, benchmark, [6], system="s")
    with pytest.raises(ValueError, match=r"a curve needs a K over 0, got \[\]"):
        rerank_curve(lambda _: retriever, reranker, benchmark, [], system="s")
    with pytest.raises(ValueError, match="latency_queries must be at least 1, got 0"):
        rerank_curve(lambda _: retriever, reranker, benchmark, [1], system="s", latency_queries=0)


# --- suites ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def suite_file(shop: Path, bert_folder: Path, checkpoint: Path, ours: Path, tmp_path: Path) -> Path:
    systems = {
        "no reranker": "",
        "of another kind": f'rerank = "{checkpoint}"\nmode = "dense"\nrerank_top_n = 1',
        "ours": f'rerank = "{ours}"\nmode = "bm25"\nrerank_precision = "fp32"\nearly_exit = 0.8\nrerank_k = 2',
    }
    parts = [f'[[system]]\nname = "{name}"\nmodel = "{bert_folder}"\n{more}\n' for name, more in systems.items()]
    tasks = (
        '[[task]]\nname = "own"\nrepository = ["shop"]\n'
        '[[task]]\nname = "pools"\nrepository = ["shop"]\npool_size = 12\nqueries = 20\n'
        '[[task]]\nname = "absent"\nset = "no-such-set"\n'
    )
    (tmp_path / "suite.toml").write_text("depth = 12\n" + tasks + "".join(parts))
    return tmp_path / "suite.toml"


def _without_time(curve: Curve) -> Curve:
    points = [replace(point, milliseconds={}) for point in curve.points]
    return replace(curve, first_stage={}, points=points)


def test_an_interrupted_curve_goes_on_from_what_is_scored(suite_file: Path, tmp_path: Path) -> None:
    suite, out = load_suite(suite_file), tmp_path / "out"
    whole = run_curves(suite, [1, 5], latency_queries=2, device="cpu")
    calls: list[int] = []

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "rerank":
            calls.append(done)
            if len(calls) == 30:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_curves(suite, [1, 5], latency_queries=2, out=out, device="cpu", on_progress=stop)
    first, second = sorted((out / "unfinished-curves").iterdir(), key=lambda file: -len(json.loads(file.read_text())))
    assert [len(json.loads(file.read_text())) for file in (first, second)] == [24, 6]
    again = run_curves(suite, [1, 5], latency_queries=2, out=out, device="cpu", on_progress=stop)
    assert list(map(_without_time, again.curves)) == list(map(_without_time, whole.curves))
    assert list(out.iterdir()) == []

    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        run_curves(suite, [1, 5], latency_queries=2, out=out, device="cpu", on_progress=stop)
    log_odds = json.loads(first.read_text())
    right = {query: {id_: 100.0 * (id_ == query) for id_ in values} for query, values in log_odds.items()}
    first.write_text(json.dumps(right))  # a sign that it is read: all that the first stage finds is first now
    second.write_text("{")
    resumed = run_curves(suite, [1, 5], latency_queries=2, out=out, device="cpu").curves
    assert resumed[0].points[-1].metrics["R@1"] == resumed[0].points[-1].metrics["R@5"]
    assert resumed[0].points[-1].metrics["R@1"] > whole.curves[0].points[-1].metrics["R@1"]
    assert list(map(_without_time, resumed[1:])) == list(map(_without_time, whole.curves[1:]))


def test_a_suite_reranks_as_many_hits_as_a_system_says(suite_file: Path) -> None:
    report = run_suite(load_suite(suite_file), device="cpu").report
    own = {each.system: each for each in report.retrieval if each.task == "own"}
    assert {system: each.depth for system, each in own.items()} == {"no reranker": 12, "of another kind": 12, "ours": 2}
    assert {len(top) for top in own["ours"].top.values()} == {2}


def test_a_suite_without_a_reranker_or_a_task_has_no_curve(
    suite_file: Path, bert_folder: Path, checkpoint: Path
) -> None:
    system = f'[[system]]\nname = "s"\nmodel = "{bert_folder}"\n'
    task = '[[task]]\nname = "own"\nrepository = ["shop"]\n'
    generation = '[[generation]]\nname = "g"\nkind = "sweqa"\nproject = "flask"\n'
    for text, message in (
        (task + system, r"the suite 'suite' has no system with a reranker, .* add .* rerank = \"\.\.\.\""),
        (generation + system + 'rerank = "x"', r"the suite 'suite' has no \[\[task\]\] with codes to measure on"),
        (
            '[[task]]\nname = "t"\nset = "absent"\n' + system + f'rerank = "{checkpoint}"',
            "nothing .* here .t: there",
        ),
        (task + system + 'rerank = "x"', "unknown reranker 'x'"),
        (task + system + 'rerank = "x"\noptional = true', "nothing .* can be run here .s: unknown reranker"),
    ):
        suite_file.write_text(text)
        with pytest.raises(ValueError, match=message):
            run_curves(load_suite(suite_file), [1])


@pytest.mark.parametrize("setting", ["early_exit = 1.0", "rerank_k = 0", 'rerank_precision = "fp8"'])
def test_settings_of_a_reranker_are_checked(suite_file: Path, setting: str) -> None:
    suite_file.write_text(f'[[task]]\nname="t"\nset="a"\n[[system]]\nname="s"\nrerank="x"\n{setting}')
    with pytest.raises(ValueError, match=rf"system\.0: {setting.split()[0]} must be"):
        load_suite(suite_file)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluate(suite_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        got = main(["eval", str(suite_file), "--out", str(tmp_path / "out"), "--device", "cpu", *arguments])
        printed = capsys.readouterr()
        assert got == code, printed.err
        return printed.err if code else printed.out

    return run


def test_the_command_writes_curves(evaluate: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    printed = evaluate("--rerank-k", "5,1,20")
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"curve.json", "curve.md", "curve.html"}
    assert printed.strip() == (out / "curve.md").read_text().strip()
    report = json.loads((out / "curve.json").read_text())
    curves = report["curves"]
    assert [(each["system"], each["task"]) for each in curves] == [
        ("of another kind", "own"),
        ("ours", "own"),
        ("of another kind", "pools"),
        ("ours", "pools"),
    ]
    assert set(report["skipped"]) == {"absent"}
    assert [point["k"] for point in curves[0]["points"]] == [0, 1, 5, 20]
    assert [point["early_exit"] for point in curves[1]["points"]] == [None] * 4 + [0.8] * 2 + [0.95] * 2
    assert [point["pairs"] for point in curves[0]["points"]] == [0, 1, 5, 20]
    assert [point["pairs"] for point in curves[2]["points"]] == [0, 1, 5, 12]
    assert {each["depth"] for each in curves} == {20}  # more than the suite's 12
    assert {each["precision"] for each in curves} == {"auto", "fp32"}
    lines = printed.splitlines()
    mrr = curves[1]["points"][0]["metrics"]["MRR"]
    assert any(line.startswith(f"| ours | own | first stage alone | {mrr:.4f} |") for line in lines)
    assert any(line.startswith("| ours | pools | early exit 0.95 for the first 1, K=20 |") for line in lines)
    assert sum("| 0.0321 |" in line for line in lines) == 2
    page = (out / "curve.html").read_text()
    assert page.count("<svg") == 6
    assert "http" not in page.replace("http-equiv", "")
    assert "currentColor" in page
    assert "prefers-color-scheme: dark" in page
    for text in ("#010203", "<script", "nan"):
        assert text not in page
    assert json.loads(evaluate("--rerank-k", "2", "--json"))["curves"][0]["points"][1]["k"] == 2


def test_the_command_refuses_what_no_curve_has(evaluate: Callable[..., str], tmp_path: Path) -> None:
    for arguments in (["--baseline", "x"], ["--gate"], ["--update-baseline"]):
        error = evaluate("--rerank-k", "1", *arguments, code=2)
        assert f"{arguments[0]} has no effect with --rerank-k; leave out one or the other" in error
    assert "got 'ten'" in evaluate("--rerank-k", "ten", code=2)
    assert "got ''" in evaluate("--rerank-k", "", code=2)
    assert "got -1" in evaluate("--rerank-k=-1", code=2)
    assert not (tmp_path / "out").exists()


def test_the_same_curves_give_the_same_page_and_names_are_only_text(suite_file: Path) -> None:
    pytest.importorskip("matplotlib")
    report = run_curves(load_suite(suite_file), [1, 3], latency_queries=1, device="cpu")
    assert curve_html(report) == curve_html(report)
    curves = [replace(each, system="<b> | $x$") for each in report.curves]
    assert "<b>" not in curve_html(replace(report, curves=curves))
    assert "&lt;b> \\| $x$" in curve_markdown(replace(report, curves=curves))
