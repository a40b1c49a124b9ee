"""Questions, writers and scores: agreement with rouge_score, what is shown to whom, and failures that still count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.schema import TextNode
from pydantic import Field, PrivateAttr
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from llamaindex_code_retrieval.eval.datasets import Benchmark, benchmark_of, documented_functions
from llamaindex_code_retrieval.eval.generation import AnswerCache, generate, score_answers
from llamaindex_code_retrieval.eval.questions import (
    GenerationTask,
    Question,
    _nearest,
    code_from_description,
    docstring_from_code,
    sweqa,
)
from llamaindex_code_retrieval.eval.rouge import ROUGE, words
from llamaindex_code_retrieval.eval.rouge_metric import Rouge
from llamaindex_code_retrieval.eval.writers import ExtractiveWriter, LLMWriter, load_writer

TEXTS = [
    "",
    " \n ",
    "x",
    "read the file",
    "read a file line by line\nand return its lines",
    "Reads files, reading each line by line.",
    "def read(path):\n    with open(path) as file:\n        return file.read()",
    "def write(path, text):\n    with open(path, 'w') as file:\n        file.write(text)",
    "größte Zahl der Liste — naïve",
    "最大の数を返す",
    "the the the the",
    "the\n\n\nfile the",
]

SOURCE = '''
def read(path):
    """Return the text of a file."""
    return open(path).read()

def lines(path):
    """Return the lines of a file."""
    return open(path).readlines()

def add(a, b):
    """Return the sum of two numbers."""
    return a + b

def hop():
    """Jump."""
    return "up"
'''


class TinyLLM(CustomLLM):
    """Stands for a server: answers with the first line of the question, after ``failures`` errors, or never."""

    model: str = "tiny"
    temperature: float = 0.0
    api_key: str = "sk-very-secret"
    additional_kwargs: dict[str, Any] = Field(default_factory=dict)
    failures: int = 0
    hangs: bool = False
    _prompts: list[str] = PrivateAttr(default_factory=list)
    _released: threading.Event = PrivateAttr(default_factory=threading.Event)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._prompts.append(prompt)
        if self.hangs:
            self._released.wait(240)
        if len(self._prompts) <= self.failures:
            raise ConnectionError("the server is away")
        return CompletionResponse(text=prompt.split("Question:\n")[1].split("\n")[0])

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def task() -> GenerationTask:
    questions = [
        Question("q0", "add two numbers", "a + b", gold=("p0",)),
        Question("q1", "read a file", "open(path)", gold=("p1", "p0"), excluded=("p2",)),
        Question("q2", "fly", "import antigravity"),
    ]
    return GenerationTask("tiny", "Write it.", questions, {"p0": "a + b", "p1": "open(path)", "p2": "import os"})


@pytest.fixture
def functions() -> Benchmark:
    return documented_functions([("a.py", SOURCE)])


# --- metrics ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_stemmer", [False, True])
def test_rouge_is_that_of_rouge_score(use_stemmer: bool) -> None:
    pairs = [(prediction, reference) for prediction in TEXTS for reference in TEXTS]
    predictions, references = (list(each) for each in zip(*pairs, strict=True))
    found = Rouge().compute(
        predictions=predictions, references=references, use_aggregator=False, use_stemmer=use_stemmer
    )
    scorer = RougeScorer(ROUGE, use_stemmer=use_stemmer)
    for i, (prediction, reference) in enumerate(pairs):
        expected = scorer.score(target=reference, prediction=prediction)
        assert {name: found[name][i] for name in ROUGE} == {name: expected[name].fmeasure for name in ROUGE}


def test_rouge_worked_out_by_hand() -> None:
    # Of 4 words 3 are shared, of 3 bigrams "the cat", which is the longest common subsequence as well; taken as
    # sentences, "the cat sat" has it in the first line of the prediction, and "down" has itself in the second.
    metric = Rouge()
    found = metric.compute(predictions=["the cat\nlay down"], references=["down\nthe cat sat"])
    assert found == pytest.approx({"rouge1": 3 / 4, "rouge2": 1 / 3, "rougeL": 2 / 4, "rougeLsum": 3 / 4})
    means = metric.compute(predictions=["a b", "x"], references=["a b", "y"])  # the same metric again, of other texts
    assert means == {"rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5, "rougeLsum": 0.5}


def test_words_of_other_scripts_count() -> None:
    """Equal texts are 1.0 in every script; of six characters four are shared in their order."""
    texts = {"Chinese": "读取文件内容", "Russian": "читает файл", "German": "größte Zahl", "code": "read_file(päth)"}
    texts |= {"Thai": "อ่านไฟล์", "Hindi": "फ़ाइल पढ़ें", "decomposed": "gro\u0308ßte Zahl"}
    scores = score_answers({name: (text, text) for name, text in texts.items()})
    assert all(scores[metric][name] == 1.0 for metric in ROUGE for name in texts)
    assert score_answers({"q": ("写入文件内容", texts["Chinese"])})["rougeL"]["q"] == pytest.approx(4 / 6)
    assert score_answers({"q": ("größe", "große")})["rouge1"]["q"] == 0.0  # rouge_score sees "gr" and "e" in both
    assert score_answers({"q": ("ते", "ता")})["rouge1"]["q"] == 0.0  # two vowels of one letter
    assert score_answers({"q": ("อ่านไฟล์", "อ่านไฟ")})["rouge1"]["q"] == pytest.approx(2 * 5 / (5 + 6))  # อ่ า น ไ ฟ and ล์
    metric = Rouge()
    options = {"predictions": [texts["Chinese"]], "references": [texts["Chinese"]]}
    assert metric.compute(**options)["rougeL"] == 0.0  # as evaluate.load("rouge"), unless a tokenizer is given
    assert metric.compute(**options, tokenizer=list)["rougeL"] == 1.0
    with pytest.raises(ValueError, match="use_stemmer has no effect"):
        metric.compute(**options, tokenizer=list, use_stemmer=True)


@given(st.text(st.characters(codec="ascii")))
def test_words_of_ascii_texts_are_those_of_rouge_score(text: str) -> None:
    assert words(text) == tokenize(text, None)


def test_rouge_refuses_what_has_no_mean() -> None:
    with pytest.raises(ValueError, match="use_aggregator=False"):
        Rouge().compute(predictions=[], references=[])
    with pytest.raises(ValueError, match="Mismatch"):
        Rouge().compute(predictions=["a"], references=[])


def test_metrics_need_no_network_and_leave_nothing(tmp_path: Path) -> None:
    """In a separate process without sockets, as the libraries read their folders when they are imported.

    evaluate imports transformers for its evaluators, which no metric needs; without it the test takes a third.
    """
    script = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): raise SystemExit('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import llamaindex_code_retrieval.eval.generation as generation\n"
        "assert generation.score_answers({'q': ('a b', 'a b')})['rougeL'] == {'q': 1.0}\n"
        "assert not {'torch', 'evaluate', 'datasets'} & sys.modules.keys()\n"
        "sys.modules['transformers'] = None\n"
        "from llamaindex_code_retrieval.eval.rouge_metric import Rouge\n"
        "del sys.modules['transformers']\n"
        "assert Rouge().compute(predictions=['a b'], references=['a b'])['rougeL'] == 1.0\n"
    )
    home = tmp_path / "home"
    places = {"HOME": str(home), "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home), "TMPDIR": str(tmp_path)}
    environment = {**os.environ, **places, "HF_HUB_OFFLINE": "1", "HF_EVALUATE_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=240)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert list(tmp_path.glob("tmp*")) == []


def test_scores_lie_between_nothing_and_equal() -> None:
    text = "def add(a, b):\n    return a + b"
    scores = score_answers(
        {"same": (text, text), "spaced": (f"  {text}\n", text), "none": ("", text), "odd": ("\ud800", "é")}
    )
    assert list(scores) == [*ROUGE, "bleu", "chrf", "exact"]
    for metric, values in scores.items():
        assert values["same"] == 1.0, metric
        assert values["none"] == values["odd"] == 0.0, metric
        assert all(0 <= value <= 1 for value in values.values())
    assert scores["exact"]["spaced"] == 1.0
    assert score_answers({}) == {metric: {} for metric in scores}


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_tasks_refuse_nonsense(task: GenerationTask) -> None:
    passages = {"p": "text"}
    for questions, message in [
        ([], "no questions"),
        ([Question("q", "?", "r"), Question("q", "?", "r")], "'q' twice"),
        ([Question("q", "?", " \n")], "empty reference"),
        ([Question("q", "?", "r", gold=("x",))], "the passages lack"),
        ([Question("q", "?", "r", gold=("p",), excluded=("p",))], "it excludes"),
    ]:
        with pytest.raises(ValueError, match=message):
            GenerationTask("bad", "", questions, passages)
    with pytest.raises(ValueError, match="answer_of names 'x'"):
        GenerationTask("bad", "", [Question("q", "?", "r")], passages, answer_of={"x": "y"})


def test_a_fingerprint_is_of_the_content_and_not_of_its_order(task: GenerationTask) -> None:
    turned = GenerationTask(task.name, task.instruction, task.questions[::-1], dict(reversed(task.passages.items())))
    assert turned.fingerprint == task.fingerprint
    assert len(task.fingerprint) == 16
    others = [
        GenerationTask("other", task.instruction, task.questions, task.passages),
        GenerationTask(task.name, "Other.", task.questions, task.passages),
        GenerationTask(task.name, task.instruction, task.questions[1:], task.passages),
        GenerationTask(task.name, task.instruction, task.questions, {**task.passages, "p3": ""}),
    ]
    assert len({task.fingerprint, *(each.fingerprint for each in others)}) == 5


def test_gold_is_a_perfect_answer_where_code_is_asked_for() -> None:
    benchmark = benchmark_of("two", [("add numbers", "a + b"), ("read", "open(path)")], others=["import os"])
    task = code_from_description(benchmark, name="write")
    result = generate(task, ExtractiveWriter(), condition="gold", benchmark_name="two")
    assert result.means["rougeL"] == result.means["exact"] == 1.0
    assert (result.task, result.benchmark, result.benchmark_fingerprint) == ("write", "two", task.fingerprint)
    assert generate(task, ExtractiveWriter(), condition="none").means == dict.fromkeys(result.values, 0.0)


def test_the_reference_is_the_most_relevant_code() -> None:
    benchmark = Benchmark(
        name="graded", corpus={"c0": "no", "c1": "so so", "c2": "yes"}, queries={"q": "?"},
        qrels={"q": {"c0": 0, "c1": 1, "c2": 2}},
    )  # fmt: skip
    question = code_from_description(benchmark, name="write").questions[0]
    assert (question.reference, question.gold) == ("yes", ("c2", "c1"))


def test_a_function_is_described_by_the_summary_of_its_neighbour(functions: Benchmark) -> None:
    task = docstring_from_code(functions, name="describe")
    by_reference = {question.reference: question for question in task.questions}
    read, lines = by_reference["Return the text of a file."], by_reference["Return the lines of a file."]
    assert (read.gold, lines.gold) == (lines.excluded, read.excluded)
    assert "return open(path).read()" in read.text
    assert read.reference not in read.text
    result = generate(task, ExtractiveWriter(), condition="gold", top_n=1)
    assert result.answers[read.id].answer == lines.reference  # the summary alone, though the passage has the code too
    assert task.passages[lines.id].startswith(lines.reference + "\n")
    assert result.values["rougeL"][read.id] == pytest.approx(5 / 6)
    assert task.passages.keys() == functions.corpus.keys()  # also "Jump.", which is too short to be asked


def test_the_oracle_finds_the_best_of_all() -> None:
    words = ["file", "read", "the", "a", "sum", "of", "line"]
    texts = {f"{i:02}": " ".join(words[(i * j * j + i // 3) % 7] for j in range(2 + i % 5)) for i in range(40)}
    scorer = RougeScorer(["rougeL"])
    for id_, found in _nearest({**texts, "z": "alone", "zz": "最大"}).items():
        scores = {each: scorer.score(texts[id_], texts[each])["rougeL"].fmeasure for each in texts if each != id_}
        assert found == max(sorted(scores), key=scores.__getitem__)


def test_docstrings_have_one_code_each() -> None:
    benchmark = benchmark_of("two", [("add", "a + b"), ("add", "b + a")])
    with pytest.raises(ValueError, match="2 relevant codes"):
        docstring_from_code(benchmark, name="describe")


def test_sweqa_finds_the_nodes_that_an_answer_cites(tmp_path: Path) -> None:
    answers = [
        "In `src/flask/json/provider.py`, `JSONProvider.dumps()` calls `dumps`; see `loads(s)` in `provider.py`.",
        "Nothing is cited but `dumps`.",
        "Of requests.",
    ]
    repos = ["flask", "flask", "requests"]
    rows = [
        {"_id": f"q{i}", "repo": repo, "question": f"Why {i}?", "answer": answer}
        for i, (repo, answer) in enumerate(zip(repos, answers, strict=True))
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")

    def node(id_: str, path: str, **metadata: str) -> TextNode:
        return TextNode(id_=id_, text=f"text of {id_}", metadata={"path": path, **metadata})

    nodes = [
        node("load", "flask/json/provider.py", scope="JSONProvider.loads"),
        node("dump", "flask/json/provider.py", scope="JSONProvider.dumps"),
        node("named", "src/flask/json/provider.py", name="dumps"),
        node("whole", "flask/json/provider.py", scope=""),
        node("elsewhere", "flask/provider.py", scope="dumps"),
        node("other", "theflask/json/provider.py", scope="dumps"),
        node("unsaid", "flask/json/provider.py", scope="JSONProvider.response"),
    ]
    task = sweqa(file, "flask", nodes)
    assert [question.gold for question in task.questions] == [("dump", "named", "load"), ()]
    assert task.passages["dump"] == "text of dump"
    assert list(generate(task, ExtractiveWriter(), condition="gold").answers) == ["q0"]
    assert list(generate(task, ExtractiveWriter(), condition="none").answers) == ["q0", "q1"]

    with pytest.raises(ValueError, match=r"no question about 'django'; it has flask, requests"):
        sweqa(file, "django", nodes)
    for bad in ("{", "[]", '{"_id": "q9", "repo": "flask", "question": "Why?"}', json.dumps({**rows[0], "answer": ""})):
        file.write_text(f"{json.dumps(rows[0])}\n\n{bad}\n")
        with pytest.raises(ValueError, match=r"answers\.jsonl, line 3 must"):
            sweqa(file, "flask", nodes)


# --- writers ----------------------------------------------------------------------------------------------------------


def test_the_extractive_writer_quotes_up_to_its_limit() -> None:
    writer = ExtractiveWriter(max_words=4)
    assert writer.write("", "", []) == ""
    assert writer.write("", "", ["a\n  b c d e", "f"]) == "a\n  b c d"
    assert writer.write("", "", ["a b", "c\td", "e"]) == "a b\n\nc\td"
    assert writer.write("", "", ["a b", "c d e", "f"]) == "a b"  # a worse one does not overtake
    with pytest.raises(ValueError, match="max_words must be at least 1"):
        ExtractiveWriter(0)


def test_an_llm_is_given_the_best_passages_that_fit() -> None:
    writer = LLMWriter(TinyLLM(), "tiny", max_characters=100)
    prompt = writer.prompt("Do {it}.", "{why}?", ["first", "x" * 100, "third"])
    assert prompt == "Do {it}.\n\nPassage 1:\nfirst\n\nQuestion:\n{why}?\n\nAnswer:\n"
    assert writer.write("Do {it}.", "{why}?", ["first"]) == "{why}?"
    with pytest.raises(ValueError, match="max_characters"):
        LLMWriter(TinyLLM(), "tiny", max_characters=0)


def test_settings_tell_models_apart_and_hold_no_secret() -> None:
    secrets = {"extra_headers": {"Authorization": "Bearer hush"}, "token": "hush", "nested": [{"apiKey": "hush"}]}
    plain = {"url": "https://me:hush@host/v1?code=hush", "max_tokens": 7, "opaque": object()}
    writer = LLMWriter(TinyLLM(additional_kwargs={**secrets, **plain}), "tiny")
    assert "secret" not in writer.settings
    assert "hush" not in writer.settings
    kept = json.loads(writer.settings)["llm"]
    assert kept["additional_kwargs"] == {"nested": [{}], "url": "https://host/v1", "max_tokens": 7, "opaque": "object"}
    assert (kept["model"], kept["temperature"]) == ("tiny", 0.0)
    settings = [
        LLMWriter(TinyLLM(), "tiny").settings,
        LLMWriter(TinyLLM(temperature=1.0), "tiny").settings,
        LLMWriter(TinyLLM(model="tinier"), "tiny").settings,
        LLMWriter(TinyLLM(), "tiny", max_characters=9).settings,
    ]
    assert len(set(settings)) == 4
    assert LLMWriter(TinyLLM(api_key="sk-other"), "tiny").settings == settings[0]


def test_writers_are_loaded_by_name() -> None:
    assert isinstance(load_writer("extractive", timeout=1), ExtractiveWriter)
    with pytest.raises(ValueError, match=r"use one of extractive, ollama:MODEL"):
        load_writer("gpt", timeout=1)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_what_is_shown_under_each_condition(task: GenerationTask) -> None:
    run = {"q0": ["p2", "p1", "p0"], "q1": ["p2", "p0", "p0", "p1"], "elsewhere": ["unknown"]}
    writer, steps = ExtractiveWriter(), list[tuple[int, int]]()

    def shown(condition: Any, **options: Any) -> dict[str, list[str]]:
        result = generate(task, writer, condition=condition, **options)
        assert {tuple(values) for values in result.values.values()} == {tuple(result.answers)}
        return {id_: answer.passages for id_, answer in result.answers.items()}

    assert shown("gold") == {"q0": ["p0"], "q1": ["p1", "p0"]}
    assert shown("none") == {"q0": [], "q1": [], "q2": []}
    retrieved = shown("retrieved", run=run, top_n=2, on_progress=lambda *step: steps.append(step))
    assert retrieved == {"q0": ["p2", "p1"], "q1": ["p0", "p1"], "q2": []}  # p2 is excluded for q1
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert generate(task, writer, condition="retrieved", run=run, system="dense").system == "dense"
    assert generate(task, writer, condition="gold", system="dense").system == ""


def test_generate_refuses_nonsense(task: GenerationTask) -> None:
    writer = ExtractiveWriter()
    with pytest.raises(ValueError, match="needs a run"):
        generate(task, writer, condition="retrieved")
    with pytest.raises(ValueError, match="'p9' for question 'q0'"):
        generate(task, writer, condition="retrieved", run={"q0": ["p0", "p9"]}, top_n=1)
    with pytest.raises(ValueError, match="unknown condition 'oracle'"):
        generate(task, writer, condition="oracle")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no question of task 'bare' has gold"):
        generate(GenerationTask("bare", "", [Question("q", "?", "r")], {}), writer, condition="gold")
    for options in ({"top_n": 0}, {"retries": -1}, {"timeout": 0.0}):
        with pytest.raises(ValueError, match="must be at least"):
            generate(task, writer, condition="none", **options)  # type: ignore[arg-type]


def test_an_llm_that_fails_is_asked_again(task: GenerationTask) -> None:
    llm = TinyLLM(failures=2)
    result = generate(task, LLMWriter(llm, "tiny"), condition="none", retries=2)
    assert result.failed == 0
    assert [answer.answer for answer in result.answers.values()] == [question.text for question in task.questions]
    assert len(llm._prompts) == 3 + 2
    assert result.writer == "tiny"


def test_a_failure_counts_as_nothing_and_is_not_kept(task: GenerationTask, tmp_path: Path) -> None:
    llm, cache = TinyLLM(failures=3), AnswerCache(tmp_path / "answers")
    task = GenerationTask(task.name, "", [Question(q.id, q.text, q.text) for q in task.questions], {})
    result = generate(task, LLMWriter(llm, "tiny"), condition="none", retries=2, cache=cache)
    assert result.failed == 1
    assert result.answers["q0"].error == "ConnectionError: the server is away"
    assert all(list(values) == ["q0", "q1", "q2"] and values["q0"] == 0.0 for values in result.values.values())
    assert result.means["exact"] == pytest.approx(2 / 3)
    assert len(list(tmp_path.rglob("*.json"))) == 2
    again = generate(task, LLMWriter(llm, "tiny"), condition="none", cache=cache)  # the server is back
    assert again.means["exact"] == 1.0
    assert len(llm._prompts) == 3 + 2 + 1

    nothing = generate(task, LLMWriter(TinyLLM(failures=9), "tiny"), condition="none", retries=0)
    assert nothing.failed == 3
    assert set(nothing.means.values()) == {0.0}


def test_an_llm_that_hangs_fails_and_keeps_no_process_alive(task: GenerationTask) -> None:
    before = set(threading.enumerate())
    llm = TinyLLM(hangs=True)
    result = generate(task, LLMWriter(llm, "tiny"), condition="gold", retries=1, timeout=0.05)
    assert result.failed == 2
    assert result.answers["q0"].error == "TimeoutError: no answer within 0.05 seconds"
    assert len(llm._prompts) == 4
    waiting = set(threading.enumerate()) - before
    assert len(waiting) == 4  # none of the calls has returned
    assert all(thread.daemon for thread in waiting)
    llm._released.set()


def test_an_answer_is_asked_for_once(task: GenerationTask, tmp_path: Path) -> None:
    llm, cache = TinyLLM(), AnswerCache(tmp_path)
    first = generate(task, LLMWriter(llm, "tiny"), condition="gold", cache=cache)
    assert generate(task, LLMWriter(llm, "tiny"), condition="gold", cache=cache) == first
    assert len(llm._prompts) == 2
    for file, damage in zip(sorted(tmp_path.iterdir()), [b'{"answer": 3}', b"\xff{"], strict=True):
        file.write_bytes(damage)
    assert generate(task, LLMWriter(llm, "tiny"), condition="gold", cache=cache) == first
    assert len(llm._prompts) == 4
    assert all("answer" in json.loads(file.read_text()) for file in tmp_path.iterdir())  # written anew, nothing beside
    generate(task, LLMWriter(llm, "tiny", max_characters=50), condition="gold", cache=cache)
    assert len(llm._prompts) == 6  # other settings, other answers
    AnswerCache(None).put("key", "answer")
    assert AnswerCache(None).get("key") is None


def test_an_interrupted_run_resumes(task: GenerationTask, tmp_path: Path) -> None:
    llm, cache = TinyLLM(), AnswerCache(tmp_path)

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(task, LLMWriter(llm, "tiny"), condition="none", cache=cache, on_progress=interrupt)
    assert generate(task, LLMWriter(llm, "tiny"), condition="none", cache=cache).failed == 0
    assert len(llm._prompts) == 3
