"""The scripts of benchmarks/: their options, what they compute of their measurements, and the tables made of it."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from indexes import HashEmbedding
from llama_index.core.schema import NodeWithScore, TextNode
from snippets import SNIPPETS

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeNodeParser
from llamaindex_code_retrieval.chat.follow_ups import is_follow_up
from llamaindex_code_retrieval.eval import Benchmark
from llamaindex_code_retrieval.eval.chat.questions import ChatQuestion, load_chat_questions
from llamaindex_code_retrieval.eval.results import ChatResult
from llamaindex_code_retrieval.eval.targets import Target
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES

FOLDER = Path(__file__).parents[1] / "benchmarks"
SHARED = (
    "chat_questions",
    "checkouts",
    "ctags",
    "declarations",
    "embedding_worker",
    "laws",
    "markdown",
    "mutations",
    "quality_tables",
    "report",
    "roofline",
    "runs",
    "scale_systems",
    "scale_workload",
    "speed_tables",
    "tables",
)
SCRIPTS = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in SHARED)


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_describes_its_options(name: str, load, capsys: pytest.CaptureFixture[str]) -> None:
    script: ModuleType = load(name)
    with pytest.raises(SystemExit) as exit_:
        script.make_parser().parse_args(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert f"python benchmarks/{name}.py" in text
    assert "--result FILE" in text
    described = set(re.findall(r"--[a-z-]+", text.partition("options:")[0])) - {
        "--recipe",
        "--method",
        "--pairs",
        "--out",
    }
    assert described <= set(re.findall(r"--[a-z-]+", text.partition("options:")[2]))


def test_figures_are_written_beside_each_script_by_default(load) -> None:
    for name in SCRIPTS:
        default = load(name).make_parser().get_default("result")
        assert default == FOLDER / f"{name}.json"
        assert default.is_file()


@pytest.mark.parametrize("name", [*SHARED, *SCRIPTS])
def test_examples_of_the_modules(name: str, load) -> None:
    assert doctest.testmod(load(name)).failed == 0


def test_a_report_says_when_where_and_with_what_it_was_made(load, tmp_path: Path) -> None:
    load("report").report(tmp_path / "figures.json", {"seconds": 1.5})
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert figures["seconds"] == 1.5
    assert figures["date"].startswith("20")
    assert "threads" in figures["machine"]
    assert {"torch", "llamaindex-code-retrieval"} <= figures["versions"].keys()


def test_finished_runs_are_kept_and_other_settings_refused(load, tmp_path: Path) -> None:
    runs = load("runs")
    script, file, settings = tmp_path / "count.py", tmp_path / "count.json", {"steps": 1}
    script.write_text(
        "import json, sys\nprint('log')\nprint(json.dumps({'arguments': sys.argv[1:]}))\n", encoding="utf-8"
    )
    first = runs.complete_runs(str(script), file, [("a", 0)], arguments=["--x"], settings=settings)
    assert first["a-0"]["arguments"] == ["--x", "--run", "a", "--seed", "0"]
    script.write_text("import json\nprint(json.dumps({'arguments': []}))\n", encoding="utf-8")
    both = runs.complete_runs(str(script), file, [("a", 0), ("a", 1)], arguments=[], settings=settings)
    assert both == json.loads(file.read_text(encoding="utf-8"))
    assert [run["arguments"] for run in runs.runs_of(both, "a")] == [first["a-0"]["arguments"], []]
    with pytest.raises(ValueError, match="name another --result"):
        runs.complete_runs(str(script), file, [], arguments=[], settings={"steps": 2})


def test_differences_are_counted_shown_and_excused_by_rule(load) -> None:
    definitions = load("definitions")
    source = "class A:\n    def f(self): pass\n\ndef g(): pass\ndef h(): pass\n"
    tag = definitions.Tag
    tags = [
        tag("class", "A", 1, True, "class"),
        tag("method", "f", 2, True, "member"),
        tag("function", "g", 5, True, "function"),  # on another line
        tag("function", "wrong", 3, True, "local"),
        tag("function", "k", 3, False, "prototype"),
    ]
    comparison = definitions.Comparison(
        [
            definitions.Mistake(mistake="reports", kind="local", reason="reports locals"),
            definitions.Mistake(mistake="misses", name="h", line=r"\bdef {name}\(", reason="misses h"),
        ]
    )
    comparison.add("a.py", source, definitions.definitions(source, "python"), tags)
    figures = comparison.figures()
    assert figures["recall"] == {"all": 0.6667, "function": 0.0, "method": 1.0, "class": 1.0}
    assert figures["precision"] == {"all": 0.6667, "function": 0.0, "method": 1.0, "class": 1.0}
    assert figures["optional"] == {"left out": 1}
    assert figures["mistakes_of_the_reference"] == {"reports locals": 1, "misses h": 1}
    assert list(map(str, comparison.differences)) == [
        "missing a.py:5 function g | def h(): pass",
        "extra   a.py:4 function g | def g(): pass",
    ]


def test_each_language_with_definitions_has_a_reference(load) -> None:
    assert set(CODE_LANGUAGES) <= load("ctags").CTAGS.keys() | load("declarations").DECLARATIONS.keys()


def test_every_mistake_of_the_reference_is_a_rule_with_valid_patterns(load) -> None:
    for mistakes in load("definitions").load_mistakes().values():
        for each in mistakes:
            assert each.mistake in ("reports", "misses")
            each.covers("function", "f", "def f(): pass")


@pytest.mark.skipif(shutil.which("ctags") is None, reason="Universal Ctags is not installed")
def test_ctags_is_read_in_the_kinds_of_this_package(load) -> None:
    ctags = load("ctags").ctags_definitions
    [tags] = ctags(["class A {\n  void f() { }\n}\n"], "java", extension="java")
    assert [(tag.kind, tag.name, tag.line) for tag in tags] == [("class", "A", 1), ("method", "f", 2)]
    [tags] = ctags(["x = <<~RUBY\n  def no\n  end\nRUBY\ndef yes\nend\n"], "ruby", extension="rb")
    assert [(tag.name, tag.line) for tag in tags] == [("yes", 5)]


@pytest.mark.parametrize("language", sorted(SNIPPETS))
def test_laws_hold_for_mutated_samples(language: str, load) -> None:
    parsing = load("parsing")
    sample = parsing.Text("sample", SNIPPETS[language], language)
    found = parsing.fuzz([sample], CodeNodeParser(max_lines=20), count=8, seed=0, keep=None)
    assert [each for each in found.violations if "are allowed" not in each] == []


def test_a_broken_law_is_named(load) -> None:
    laws = load("laws")
    parser, text = CodeNodeParser(), laws.Text("a.py", "x = 1\n\ndef f():\n    pass\n", "python")
    nodes = text.nodes(parser)
    assert list(laws.violations(text, nodes, parser)) == []
    assert list(laws.violations(text, nodes[:1], parser)) == [
        "line 3 is not whole in nodes: 'def f():'",
        "line 4 is not whole in nodes: 'pass'",
        "a relation of node at 1 names no other node",
    ]
    nodes[0].end_char_idx = 3
    assert next(laws.violations(text, nodes, parser)) == "node at 1-1 is not the text between its characters"


def test_an_update_of_the_samples_is_a_fresh_build(load) -> None:
    laws = load("laws")
    texts = [laws.Text(f"{language}.txt", source, language) for language, source in SNIPPETS.items()]
    assert list(laws.update_violations(texts)) == []


def test_definitions_beside_a_broken_line_are_counted(load) -> None:
    parsing = load("parsing")
    text = parsing.Text("a.py", "def f():\n    return 1\n\n\ndef g():\n    return 2\n", "python")
    for seed in range(5):
        assert parsing.kept_definitions(text, random.Random(seed)) == [1.0]
    assert parsing.kept_definitions(parsing.Text("a.py", "x = 1\n", "python"), random.Random(0)) == []


def test_groups_of_questions_are_averaged_with_published_figures(load) -> None:
    """Two questions about a (0.5 and 1) and one about b (0): by category, by language and by repository."""
    script, questions = load("repositories"), load("llamaindex_code_retrieval.eval.repository_questions")
    targets = load("llamaindex_code_retrieval.eval.targets")

    def asked(name: str, language: str, *categories: str) -> object:
        made = [
            questions.RepositoryQuestion(query=f"{name}{i}", relevant=(targets.Target("x.py"),), category=category)
            for i, category in enumerate(categories)
        ]
        return questions.RepositoryQuestions(name=name, language=language, questions=tuple(made))

    repositories = [asked("a", "go", "symbol", "semantic"), asked("b", "zig", "symbol")]
    hit, other = targets.Place("x.py", 1, 2), targets.Place("y.py", 1, 2)
    ranked = script.RankedPlaces(
        {"a/1": [other, other, hit], "a/2": [hit], "b/1": []}, {"total": [0.001, 0.002, 0.003]}
    )
    results = {"fused": script.measured(ranked, repositories, "fused")}
    published = {
        "theirs": {
            "a": {"ndcg10": 0.9, "by_category": {"symbol": 0.8, "semantic": 1.0}},
            "b": {"ndcg10": 0.3, "by_category": {"symbol": 0.3}},
        },
        "partly": {"a": {"ndcg10": 0.6}},
    }
    rows = list(script.rows_of(repositories, results, published))
    assert [(row.kind, row.name, row.questions, round(row.ours["fused"][0], 4)) for row in rows] == [
        ("all", "all", 3, 0.5),
        ("category", "semantic", 1, 1.0),
        ("category", "symbol", 2, 0.25),
        ("language", "go", 2, 0.75),
        ("language", "zig", 1, 0.0),
        ("repository", "a", 2, 0.75),
        ("repository", "b", 1, 0.0),
    ]
    assert [{system: round(mean, 4) for system, mean in row.published.items()} for row in rows] == [
        {"theirs": 0.7},
        {"theirs": 1.0},
        {"theirs": 0.55},
        {"theirs": 0.9, "partly": 0.6},
        {"theirs": 0.3},
        {"theirs": 0.9, "partly": 0.6},
        {"theirs": 0.3},
    ]
    figures = script.figures_of(rows, results)
    assert figures["ndcg@10"]["fused"] == {
        "all": 0.5, "semantic": 1.0, "symbol": 0.25, "a": 0.75, "b": 0.0, "milliseconds": 2.0
    }  # fmt: skip
    assert figures["languages"] == {"fused": {"go": 0.75, "zig": 0.0}}
    assert figures["intervals"]["fused"]["semantic"] == [1.0, 1.0]
    assert "| semantic | 1 | 1.000 (1.000 to 1.000) | 1.000 |" in script.table(rows)


@pytest.mark.usefixtures("embedded_model")
def test_a_repository_is_measured_with_and_without_the_reranker(
    load, tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "annotations").mkdir()
    questions = [{"query": "send an email to the customer", "relevant": ["src/mail.py"], "category": "semantic"}]
    (tmp_path / "annotations" / f"{repository.name}.json").write_text(json.dumps(questions))
    (tmp_path / "repos.json").write_text(json.dumps([{"name": repository.name, "language": "python"}]))
    (tmp_path / "published.json").write_text("{}")
    result = tmp_path / "figures.json"
    options = ["--mode", "fused", "--rerank", "0", "--rerank", "0.5", "--result", str(result)]
    monkeypatch.setattr("sys.argv", ["repositories.py", str(tmp_path), str(repository.parent), *options])
    load("repositories").main()
    means = json.loads(result.read_text())["ndcg@10"]
    assert list(means) == ["fused", "fused, reranked with weight 0", "fused, reranked with weight 0.5"]
    assert means["fused"]["all"] == means["fused, reranked with weight 0"]["all"] > 0


def test_repositories_that_are_missing_are_skipped(
    load, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load("repositories")
    result = tmp_path / "figures.json"

    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["repositories.py", *map(str, arguments), "--result", str(result)])
        script.main()
        return capsys.readouterr().err

    assert run(tmp_path / "absent", tmp_path) == f"skipped: there is no folder {tmp_path / 'absent'}\n"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "a.json").write_text('[{"query": "why", "relevant": ["a.py"]}]')
    (tmp_path / "repos.json").write_text('[{"name": "a"}]')
    assert run(tmp_path, tmp_path / "none") == f"skipped: there is no folder {tmp_path / 'none'}\n"
    assert run(tmp_path, tmp_path) == f"skipped a: there is no folder {tmp_path / 'a'}\n"
    assert not result.exists()
    with pytest.raises(SystemExit):
        run(tmp_path, tmp_path, "--repository", "b")
    assert "no questions about b; there are some about a" in capsys.readouterr().err


def test_the_tables_of_the_documents_are_those_of_the_figures(load) -> None:
    tables = load("tables")
    outdated = {document.name: tables.outdated(document, tables.Figures(FOLDER)) for document in tables.DOCUMENTS}
    assert not any(outdated.values()), f"run python benchmarks/tables.py: {outdated}"


def test_a_table_that_differs_from_its_figures_is_found_and_made_anew(load, tmp_path: Path) -> None:
    tables = load("tables")
    figures = {"gate_faults": {"faults": {"no index": {"by": "MRR", "before": 0.5, "after": 0.25, "p": 0.01}}}}
    document = tmp_path / "README.md"
    document.write_text(
        "# A\n\n<!-- table: gate_faults -->\n| old |\n<!-- end of table -->\n\nText.\n", encoding="utf-8"
    )
    assert tables.outdated(document, figures) == ["gate_faults"]
    text = tables.with_tables(document.read_text(encoding="utf-8"), figures)
    assert "| old |" not in text
    assert "| no index | MRR | 0.500 | 0.250 | 0.01 |\n<!-- end of table -->\n\nText.\n" in text
    document.write_text(text, encoding="utf-8")
    assert tables.outdated(document, figures) == []


def test_unknown_tables_and_tables_without_end_are_refused(load) -> None:
    with_tables = load("tables").with_tables
    with pytest.raises(ValueError, match=r"no table 'speed'; there are .*gate_faults"):
        with_tables("<!-- table: speed -->\n<!-- end of table -->\n", {})
    with pytest.raises(ValueError, match="has no line"):
        with_tables("<!-- table: gate_faults -->\n", {})


def test_a_command_is_measured_with_the_memory_of_its_own_process(load) -> None:
    run_command = load("runs").run_command
    ballast = b"x" * (300 << 20)  # of this process, not of the command
    program = "import time; x = b'x' * (100 << 20); time.sleep(0.3); print('done')"
    finished = run_command([sys.executable, "-c", program])
    del ballast
    assert finished.stdout == "done\n"
    assert 100 <= finished.peak_mib < 250
    assert finished.seconds >= 0.3
    with pytest.raises(subprocess.CalledProcessError):
        run_command([sys.executable, "-c", "raise SystemExit(3)"])


def test_the_int8_chain_of_the_roofline_computes_the_products(load) -> None:
    openvino = pytest.importorskip("openvino")
    roofline = load("roofline")
    states = np.random.default_rng(1).normal(size=(3, 32)).astype(np.float32)
    results = [
        openvino.Core().compile_model(roofline._model([(32, 64), (64, 32)], 3, int8=int8), "CPU")([states])[0]
        for int8 in (False, True)
    ]
    exact, rounded = (result / np.linalg.norm(result, axis=1, keepdims=True) for result in results)
    assert ((exact * rounded).sum(axis=1) > 0.99).all()


def test_a_worker_answers_errors_and_goes_on(load) -> None:
    process = load("index_speed").Process(sys.executable)
    try:
        answer = process.ask("embed", system="absent", texts=["x"], batch_size=8)
        assert answer == {"error": "KeyError: 'absent'"}
        assert process.ask("load", system="absent")["error"].startswith("KeyError")
    finally:
        process.close()


@pytest.mark.usefixtures("embedded_model")
def test_a_worker_saves_the_vectors_of_a_system(load, tmp_path: Path) -> None:
    worker = load("embedding_worker").Worker()
    name, codes = "CodeEmbedding, fp32", ["def read(path): ...", "x = 1"]
    answer = worker.load({"system": name, "model": "", "max_tokens": 64, "settings": {"precision": "fp32"}})
    assert answer["precision"] == "fp32"
    file = tmp_path / "vectors.npy"
    assert worker.embed({"system": name, "texts": codes, "batch_size": 8, "vectors": str(file)})["seconds"] > 0
    expected = CodeEmbedding(adapter="none", precision="fp32").get_text_embedding_batch(codes)
    np.testing.assert_allclose(np.load(file), expected, atol=1e-5)


def test_ours_are_compared_with_the_fastest_peer_of_the_same_quality(load) -> None:
    script = load("index_speed")

    def system(name: str, precision: str, seconds: list[float], mrr: float) -> object:
        return script.System(name, None, precision, 0.0, seconds=seconds, mrr=mrr)

    systems = {
        each.name: each
        for each in (
            system(script.OURS, "bf16", [0.25, 0.5], 0.5),
            system(script.LLAMAINDEX, "fp32", [2.0, 2.0], 0.5),
            system(f"{script.ST}, torch fp32", "fp32", [1.0, 1.0], 0.5),
            system(f"{script.ST}, ONNX int8", "int8", [0.5, 0.5], 0.49),  # faster, but of lower quality
        )
    }
    best = script.compared_with_the_best(systems)
    assert best == {"name": f"{script.ST}, torch fp32", "times_as_fast": 3.0}
    rows = script.rows_of(systems, [10, 20], {"fp32": 1e9, "bf16": 4e9}, flop=750_000_000)
    ours = rows[script.OURS]
    assert ours["functions_per_second"] == 5.3  # two functions in 0.375 s
    assert ours["tokens_per_second"] == 80
    assert ours["times_as_fast"] == 6.0
    assert ours["share_of_limit"] == 0.5  # 0.75 GFLOP in 0.375 s, of 4 GFLOP/s
    assert "share_of_limit" not in rows[f"{script.ST}, ONNX int8"]


def test_a_system_that_fails_is_left_out_with_the_reason(load) -> None:
    script = load("index_speed")
    with script.Systems() as systems:
        systems.load(sys.executable, {"no system": {}})
        process = script.Process(sys.executable)
        systems.loaded["a"] = script.System("a", process, "fp32", 0.0)
        systems.for_each(lambda system: script.sweep(system, ["x"]))
        process.close()
    assert systems.loaded == {}
    assert list(systems.left_out) == ["no system", "a"]
    assert systems.left_out["a"] == "a: KeyError: 'a'"


def test_cold_starts_are_compared_with_the_peer_of_the_same_turn(load) -> None:
    script, command = load("query_speed"), load("runs").Command
    ours = [command("", seconds, mib) for seconds, mib in ((0.5, 40), (1.0, 60), (0.25, 50))]
    peer = [command("", seconds, 700) for seconds in (1.0, 4.0, 2.0)]
    expected = {"seconds": 0.5, "slowest": 1.0, "peak_memory_mib": 60, "times_as_fast": 4.0}  # of 2, 4 and 8
    assert script.summary(ours, peer) == expected


def test_the_pool_for_mrr_holds_all_answers(load) -> None:
    corpus = {str(i): f"code {i}" for i in range(10)}
    benchmark = Benchmark(name="b", corpus=corpus, queries={"q": "x", "r": "y"}, qrels={"q": {"7": 1}, "r": {"3": 1}})
    pool = load("index_speed").pool_of(benchmark, 4)
    assert len(pool) == 4
    assert {"7", "3"} <= pool.keys()
    assert len(load("index_speed").pool_of(benchmark, 1)) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_machine_without_a_gpu_is_told_so(
    load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu.py"])
    with pytest.raises(SystemExit) as exit_:
        load("gpu").main()
    assert exit_.value.code == 2
    assert "--device cpu" in capsys.readouterr().err


def test_definitions_are_whole_or_touched(load) -> None:
    context = load("context")
    passages = [
        NodeWithScore(node=TextNode(text="\n" * 6, metadata={"path": "a.py", "lines": [[1, 3], [7, 9]]})),
        NodeWithScore(node=TextNode(text="\n", metadata={"path": "b.py", "start_line": 4, "end_line": 5})),
    ]
    gold = [{"a.py": {1, 2, 8}}, {"b.py": {3, 4}}, {"c.py": {1}}, {"a.py": {5}}]
    assert context.shares(passages, gold) == (1 / 4, 2 / 4)


def test_questions_about_repositories_have_answers_and_places_with_lines(load) -> None:
    questions = load_chat_questions(load("chat_questions").FILE)
    assert len(questions) == len({each.text for each in questions}) == 40
    for each in questions:
        assert each.id.rpartition("-")[0] == each.repository
        assert each.text.endswith("?")
        assert 2 <= len(re.findall(r"\.(?: |$)", each.answer)) <= 5, each.id
        assert each.targets
        assert all(target.start_line for target in each.targets)
    described = (FOLDER / "chat_questions.md").read_text(encoding="utf-8")
    for repository in {each.repository for each in questions}:
        count = sum(each.repository == repository for each in questions)
        assert re.search(rf"^\| `{repository}` \| .* `[0-9a-f]{{40}}` .*\| {count} \|$", described, re.M)


def test_follow_up_questions_are_recognised_and_ranked_by_scope(load) -> None:
    module = load("follow_ups")
    follow_ups = module.read_follow_ups()
    assert len({each.id for each in follow_ups}) == len(follow_ups) == 36
    assert {each.repo for each in follow_ups} == {name for names in module.GROUPS.values() for name in names}
    assert all(each.scopes and not is_follow_up(each.question) for each in follow_ups)
    texts = {"mail.py": "def send_receipt():\n    connect()\n\n\ndef connect():\n    return 1\n"}

    def open_index(repository: str) -> CodeIndex[HashEmbedding]:
        index = CodeIndex(HashEmbedding())
        index.update_texts(texts if repository == "flask" else {"other.py": "x = 1\n"})
        return index

    question = module.FollowUp("flask-0", "flask", "How is send_receipt called?", "and connect?", {"connect"})
    rows = list(module.measure([question, dataclasses.replace(question, repo="gunicorn")], open_index))
    assert [row["searched"] for row in rows] == [*module.SYSTEMS, *module.SYSTEMS]
    assert [(row["questions"], row["hit@5"]) for row in rows] == [(1, 1)] * 3 + [(1, 0)] * 3


def test_matched_sentences_are_right_where_the_question_has_a_place(load) -> None:
    module = load("attribution")
    metadata = {"path": "mail.py", "scope": "send_receipt", "lines": [[3, 9]], "citation": 1}
    passage = NodeWithScore(node=TextNode(text="\n" * 6, metadata=metadata))
    answer = "`send_receipt` sends it. Then it ends. `send_receipt` fails."
    targets = [(Target("mail.py", first, first),) for first in (5, 20)]
    asked = [ChatQuestion(id="shop-0", repository="shop", text="?", answer=answer, targets=each) for each in targets]
    assert module.figures_of(asked, [[passage], [passage]]) == {
        "answers": 2,
        "answers with a place in the passages": 1,
        "answers with a match": 2,
        "sentences": 6,
        "matched": 4,
        "right": 2,
    }


def test_places_that_are_not_in_a_checkout_are_named(load, tmp_path: Path) -> None:
    module = load("chat_questions")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "cart.py").write_text("def total():\n    return 1\n\n", encoding="utf-8")
    lines = [("cart.py", 1, 2), ("cart.py", 1, 3), ("cart.py", 2, 9), ("mail.py", 1, 2)]
    targets = tuple(Target(*each) for each in lines)
    question = ChatQuestion(id="shop-0", repository="shop", text="?", targets=targets)
    assert list(module.missing_places([question], tmp_path)) == [
        "shop-0: cart.py:1-3 begins or ends at a line that is blank or missing",
        "shop-0: cart.py:2-9 begins or ends at a line that is blank or missing",
        f"shop-0: there is no file {tmp_path / 'shop' / 'mail.py'}",
    ]


def test_answers_of_two_sources_are_summarised_together(load) -> None:
    def result(condition: str, system: str, **rouge: float) -> ChatResult:
        return ChatResult(
            system=system,
            task="t",
            benchmark="t",
            benchmark_fingerprint="",
            condition=condition,
            llm="m",
            values={"rougeL": rouge, "answered": dict.fromkeys(rouge, 1.0)},
            answers={},
        )

    chat = load("chat")
    results = [
        result("gold", "", a=0.5),
        result("gold", "", b=0.75),
        result("retrieved", "adapted", a=0.25, c=0.0),
        result("none", "", a=0.125, b=0.25),
    ]
    rows = list(chat.rows(results))
    assert [(row["condition"], row["questions"], row["metrics"]["rougeL"]["mean"]) for row in rows] == [
        ("gold", 2, 0.625),
        ("retrieved", 2, 0.125),
        ("none", 2, 0.1875),
    ]
    differences = list(chat.differences(results))
    assert [(each["before"], each["questions"], each["mean"]) for each in differences] == [
        (("none", ""), 1, 0.125),
        (("retrieved", "adapted"), 1, 0.25),
    ]
    table = chat.table(
        {"rows": rows, "differences": differences, "date": "2026", "machine": "m", "versions": {"torch": "2"}}
    )
    assert "| `m` | gold passages | 2 | 0.625 (0.500–0.750) |" in table
    assert "| `m` | no passages | **this package** | 1 | +0.125 (+0.125 to +0.125) | 1.000 |" in table


def test_one_llm_answers_a_part_of_the_questions(load) -> None:
    chat = load("chat")
    suite = chat.suite_of(Path("checkouts"), "ollama:m", 2)
    assert [(each.name, each.llm, each.limit, each.systems) for each in suite.chat[2:4]] == [
        ("SWE-QA by LLM", "ollama:m", 2, ("adapted",)),
        ("SWE-QA by LLM, bare", "ollama:m", 2, ("bare",)),
    ]
    assert {each.llm for each in chat.suite_of(Path("checkouts"), None, 2).chat} == {"extractive"}
