"""Evaluation of chats: questions and their places, measures by hand, kept replies, suites, and what is refused."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from pydantic import PrivateAttr

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.chat import CodeContextPostprocessor, load_llm
from llamaindex_code_retrieval.chat.citations import check_citations
from llamaindex_code_retrieval.eval.chat.evaluation import evaluate_chat
from llamaindex_code_retrieval.eval.chat.judge import Judge
from llamaindex_code_retrieval.eval.chat.llamaindex_stack import LlamaIndexChat, build_index
from llamaindex_code_retrieval.eval.chat.measures import citation_measures, is_answer, retrieval_measures
from llamaindex_code_retrieval.eval.chat.questions import (
    ChatQuestion,
    load_chat_questions,
    places_in_answer,
    with_targets,
)
from llamaindex_code_retrieval.eval.chat.recorded_llm import RecordedLLM
from llamaindex_code_retrieval.eval.chat.systems import BareChat, GoldChat, IndexChat, QuotedHits
from llamaindex_code_retrieval.eval.gate import IncomparableError, compare
from llamaindex_code_retrieval.eval.report import junit, markdown
from llamaindex_code_retrieval.eval.results import Report
from llamaindex_code_retrieval.eval.runner import run_suite
from llamaindex_code_retrieval.eval.suite import load_suite
from llamaindex_code_retrieval.eval.targets import Place, Target
from llamaindex_code_retrieval.eval.unfinished import Unfinished
from tests.indexes import HashEmbedding

SOURCES = {
    "src/cart.py": "class Cart:\n    def total(self):\n        return sum(self.prices)\n\n    def clear(self):\n"
    "        self.prices = []\n",
    "src/mail.py": "def send_receipt(address):\n    return connect(address)\n",
    "tools/mail.py": "def send_all(addresses):\n    return [send_receipt(each) for each in addresses]\n",
}
TOTAL = ChatQuestion(
    id="shop-0",
    repository="shop",
    text="how is the total of a cart computed",
    answer="It sums the prices.",
    targets=(Target("src/cart.py", 2, 3),),
)
MAIL = ChatQuestion(id="shop-1", repository="shop", text="who sends the receipt")


class ScriptedLLM(CustomLLM):
    """An LLM peer that streams ``answer`` by words, and fails the first ``failures`` times."""

    answer: str = "It sums the prices [1]."
    failures: int = 0
    _prompts: list[str] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=4096, num_output=64)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._prompts.append(prompt)
        return CompletionResponse(text=self.answer)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        def grow() -> Iterator[CompletionResponse]:
            self._prompts.append(prompt)
            if len(self._prompts) <= self.failures:
                raise ConnectionError("the server has gone")
            for i, word in enumerate(self.answer.split(" ")):
                yield CompletionResponse(text="", delta=word if i == 0 else f" {word}")

        return grow()


@pytest.fixture
def index() -> Iterator[CodeIndex[HashEmbedding]]:
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts(SOURCES)
        yield index


def chat_over(index: CodeIndex[Any], max_tokens: int = 500) -> IndexChat:
    return IndexChat(index.as_retriever(top_k=3), CodeContextPostprocessor(index, max_tokens=max_tokens))


# --- questions --------------------------------------------------------------------------------------------------------


def test_places_are_taken_from_an_answer_by_file_and_lines() -> None:
    answer = (
        "`Cart.total` in `src/cart.py` (lines 2-3) and cart.py:2-3 sum; line 4 of src/cart.py is blank. "
        "tools/mail.py:1 sends all, as mail.py:2 says. src/cart.py:90 and gone.py:1 are not there, nor has src/mail.py "
        "lines here."
    )
    places = [str(each) for each in places_in_answer(answer, SOURCES)]
    assert places == ["src/cart.py:2-3", "tools/mail.py:1-1"]  # mail.py is one of two files named in full


def test_of_two_files_with_one_name_the_one_that_is_named_in_full_is_meant() -> None:
    places = places_in_answer("`tools/mail.py` sends; see mail.py:2.", SOURCES)
    assert list(map(str, places)) == ["tools/mail.py:2-2"]
    assert not list(places_in_answer("See mail.py:2.", SOURCES))


def test_given_targets_are_kept_and_checked() -> None:
    answered = replace(MAIL, answer="See `src/mail.py:1-2`.")
    [given, taken] = with_targets([TOTAL, answered], SOURCES)
    assert given == TOTAL
    assert taken.targets == (Target("src/mail.py", 1, 2),)
    with pytest.raises(
        ValueError, match=r"'shop-0' has the target 'gone.py', which is none of the 3 files .* of 'shop'"
    ):
        with_targets([replace(TOTAL, targets=(Target("gone.py"),))], SOURCES)
    with pytest.raises(ValueError, match=r"has the target 'src/mail.py:2-3', and the file has 2 lines"):
        with_targets([replace(TOTAL, targets=(Target("src/mail.py", 2, 3),))], SOURCES)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[]", r"line 2: it must be a JSON object with _id, repo, question, got \[\]"),
        ('{"_id": "b", "repo": "r"}', "line 2: question must be a text that is not blank, got None"),
        ('{"_id": "b", "repo": "r", "question": "q", "answer": " "}', "line 2: answer must be a text"),
        ('{"_id": "b", "repo": "r", "question": "q", "gold": []}', "there is no key 'gold'; the keys are _id, repo"),
        ('{"_id": "b", "repo": "r", "question": "q", "targets": "a.py"}', "targets must be a list of places"),
        ('{"_id": "b", "repo": "r", "question": "q", "targets": ["a.py:9-2"]}', "the last line is before the first"),
        ('{"_id": "a", "repo": "r", "question": "q"}', "line 2: _id must differ from all others, and 'a'"),
        ("{", "line 2: Expecting property name"),
    ],
)
def test_a_line_that_is_no_question_is_named(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(f'{{"_id": "a", "repo": "r", "question": "q"}}\n{line}\n')
    with pytest.raises(ValueError, match=message):
        load_chat_questions(tmp_path / "q.jsonl")


# --- measures ---------------------------------------------------------------------------------------------------------


def test_retrieval_is_measured_by_lines_and_by_files() -> None:
    hits = [
        Place("a.py", 30, 40),
        Place("b.py", 1, 9),
        Place("a.py", 8, 10),
        *(Place("c.py", i, i) for i in range(1, 9)),
    ]
    values = dict(retrieval_measures(hits, [Target("a.py", 10, 20), Target("d.py", 1, 2)]))
    assert values == {
        "hit@1": 0.0,
        "hit@5": 1.0,
        "hit@10": 1.0,
        "MRR": 1 / 3,
        "file_hit@1": 1.0,
        "file_hit@5": 1.0,
        "file_hit@10": 1.0,
        "file_MRR": 1.0,
    }
    assert dict(retrieval_measures(hits, [Target("c.py", 8, 8)]))["MRR"] == 0.0  # the eleventh hit
    assert set(dict(retrieval_measures([], [Target("a.py")])).values()) == {0.0}


def test_valid_and_correct_citations_are_told_apart() -> None:
    node = TextNode(text="a\nb", metadata={"path": "src/cart.py", "start_line": 2, "end_line": 3})
    other = TextNode(text="c\nd", metadata={"path": "src/mail.py", "start_line": 1, "end_line": 2})
    check = check_citations(
        "As [1], [2] and [7] show; see src/cart.py:3.", [NodeWithScore(node=each) for each in (node, other)]
    )
    values = dict(citation_measures(check, [Target("src/cart.py", 3, 9), Target("src/gone.py")]))
    # src/cart.py:3 is a line of passage 1
    assert values == {"valid_citations": 2 / 3, "citation_precision": 1 / 3, "citation_recall": 1 / 2}
    assert dict(citation_measures(check, [])) == {"valid_citations": 2 / 3}
    by_lines = check_citations("See src/cart.py:3 and src/mail.py:9.", [NodeWithScore(node=node)])
    assert dict(citation_measures(by_lines, [Target("src/cart.py")]))["citation_precision"] == 1 / 2
    silent = check_citations("It sums.", [])
    assert dict(citation_measures(silent, [Target("src/cart.py")])) == {"citation_recall": 0.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`Cart.total` sums the prices [1].", True),
        ("The context of a request is pushed by `push` [2]; it does not answer requests itself.", True),
        ("", False),
        ("Empty Response", False),
        ("The provided context does not contain information about carts.", False),
        ("I'm sorry, but I can't help.", False),
        ("I don’t know.", False),
        ("None of the sources are helpful.", False),
        ("This cannot be determined from the passages.", False),
    ],
)
def test_refusals_are_no_answers(text: str, expected: bool) -> None:
    assert is_answer(text) is expected


# --- one chat ---------------------------------------------------------------------------------------------------------


def test_answers_of_a_chat_are_measured(index: CodeIndex[Any]) -> None:
    llm = RecordedLLM(ScriptedLLM(answer="It sums the [1]"), Unfinished(None))
    result = evaluate_chat({"shop": chat_over(index)}, [TOTAL, MAIL], llm, task="t", condition="retrieved", system="s")
    # The answer has the words it, sums, the, 1; the reference it, sums, the, prices.
    assert result.values["rouge1"] == result.values["rougeL"] == {"shop-0": 0.75}
    assert result.values["answered"] == {"shop-0": 1.0, "shop-1": 1.0}
    assert result.values["valid_citations"] == {"shop-0": 1.0, "shop-1": 1.0}
    assert result.values["citation_precision"].keys() == result.values["hit@5"].keys() == {"shop-0"}
    answer = result.answers["shop-0"]
    assert answer.targets == ["src/cart.py:2-3"]
    assert answer.cited == answer.passages[:1]
    assert result.values["seconds"]["shop-0"] >= result.values["first_token_seconds"]["shop-0"] > 0


def test_gold_passages_are_those_of_the_targets(index: CodeIndex[Any]) -> None:
    llm = RecordedLLM(load_llm("extractive"), Unfinished(None))
    gold = evaluate_chat({"shop": GoldChat(index, 500)}, [TOTAL, MAIL], llm, task="t", condition="gold")
    assert list(gold.answers) == ["shop-0"]  # the other one has no targets
    assert gold.answers["shop-0"].passages == ["[1] src/cart.py:1-3"]
    assert gold.values["citation_precision"] == gold.values["citation_recall"] == {"shop-0": 1.0}
    assert "hit@1" not in gold.values
    none = evaluate_chat({"shop": BareChat()}, [TOTAL], llm, task="t", condition="none")
    assert none.values["answered"] == {"shop-0": 0.0}
    assert none.values["context_tokens"] == {"shop-0": 0.0}


def test_hits_are_quoted_up_to_the_budget(index: CodeIndex[Any]) -> None:
    hits = index.as_retriever(top_k=3).retrieve(TOTAL.text)
    quoted = QuotedHits(max_tokens=10_000).postprocess_nodes(hits)
    assert [hit.node_id for hit in quoted] == [hit.node_id for hit in hits]
    assert quoted[1].node.get_content(MetadataMode.LLM).startswith("[2] ")
    tokens = 60
    assert 1 <= len(QuotedHits(max_tokens=tokens).postprocess_nodes(hits)) < len(hits)


def test_a_failing_llm_counts_as_no_answer(index: CodeIndex[Any]) -> None:
    llm = ScriptedLLM(failures=3)
    recorded = RecordedLLM(llm, Unfinished(None), retries=2)
    result = evaluate_chat({"shop": chat_over(index)}, [TOTAL], recorded, task="t", condition="retrieved")
    assert result.failed == 1
    assert result.answers["shop-0"].error == "ConnectionError: the server has gone"
    assert result.values["rougeL"] == result.values["answered"] == {"shop-0": 0.0}
    assert result.values["hit@5"] == {"shop-0": 1.0}  # retrieval does not depend on the LLM
    assert len(llm._prompts) == 3


def test_replies_are_kept_by_prompt_and_settings(index: CodeIndex[Any], tmp_path: Path) -> None:
    def ask(llm: ScriptedLLM, *questions: ChatQuestion) -> dict[str, dict[str, float]]:
        recorded = RecordedLLM(llm, Unfinished(tmp_path))
        return evaluate_chat({"shop": BareChat()}, questions, recorded, task="t", condition="none").values

    first = ask(ScriptedLLM(), TOTAL)
    again = ScriptedLLM()
    values = ask(again, TOTAL, MAIL)
    assert len(again._prompts) == 1
    assert values["rougeL"]["shop-0"] == first["rougeL"]["shop-0"]
    other = ScriptedLLM(answer="x")
    ask(other, TOTAL)
    assert len(other._prompts) == 1  # its settings differ


def test_a_judge_must_reply_with_a_grade(index: CodeIndex[Any]) -> None:
    for reply, grade in (("4", 4), ("Grade: 5", 5), ("**2**/5", 2)):
        assert Judge(ScriptedLLM(answer=reply)).grade("q", "r", "a") == grade
    for reply in ("", "6", "4 or 5", "The answer is good.", "45"):
        with pytest.raises(ValueError, match="the judge must reply with one digit from 1 to 5"):
            Judge(ScriptedLLM(answer=reply)).check()
    llm = RecordedLLM(ScriptedLLM(), Unfinished(None))
    result = evaluate_chat(
        {"shop": BareChat()}, [TOTAL, MAIL], llm, task="t", condition="none", judge=Judge(ScriptedLLM(answer="3"))
    )
    assert result.values["grade"] == {"shop-0": 3.0}  # the other one has no reference


@pytest.mark.parametrize("splitter", ["sentence", "code"])
def test_the_nodes_of_llamaindex_are_found_in_their_files(splitter: Any, embedding: CodeEmbedding) -> None:
    lines = [f"def read_{i}(path):\n    return open(path).read() + {i} * 'x'\n" for i in range(200)]
    sources = {"src/read.py": "".join(lines), "notes.txt": "read the files\n"}
    nodes = build_index(sources, splitter, embedding)
    chat = LlamaIndexChat(nodes, sources, quotes=True)
    places = chat.rank(ChatQuestion(id="q", repository="r", text="read the files"))
    assert len(places) == 10 if splitter == "code" else len(places) > 2
    answer, passages = chat.answer(MAIL, load_llm("extractive"))
    assert len(passages) == 2
    for passage in passages:
        at = passage.node.metadata
        text = "\n".join(sources[at["path"]].split("\n")[at["start_line"] - 1 : at["end_line"]])
        assert passage.node.get_content() in text  # LlamaIndex's SentenceSplitter divides lines
    assert check_citations(answer, passages).unknown_citations == ()


@pytest.mark.parametrize("citations", [False, True])
def test_llamaindex_answers_as_it_comes(citations: bool, embedding: CodeEmbedding) -> None:
    llm = ScriptedLLM(answer="By `total` [1].")
    chat = LlamaIndexChat(build_index(SOURCES, "code", embedding), SOURCES, citations=citations)
    recorded = RecordedLLM(llm, Unfinished(None))
    result = evaluate_chat({"shop": chat}, [TOTAL], recorded, task="t", condition="retrieved")
    assert result.answers["shop-0"].answer == "By `total` [1]."
    assert len(llm._prompts) == 1
    assert ("Source 1:" in llm._prompts[0]) is citations
    assert result.answers["shop-0"].cited == result.answers["shop-0"].passages[:1]
    assert result.values["seconds"]["shop-0"] > 0


# --- suites -----------------------------------------------------------------------------------------------------------

CHAT = """
[[chat]]
name = "answers"
questions = "chat.jsonl"
repositories = "."
systems = ["words"]
engines = ["assembled", "hits", "sentence"]
top_k = 5
"""
ROWS = [
    {
        "_id": "shop-0",
        "repo": "shop",
        "question": "read_line",
        "answer": "Read all of the line",
        "targets": ["read.py:1-3"],
    },
    {"_id": "shop-1", "repo": "shop", "question": "count_tree", "answer": "See `count.py:11-13`."},
    {"_id": "shop-2", "repo": "shop", "question": "sort_word"},
]


@pytest.fixture
def write_chat(write_suite: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Write a suite with a chat about ``shop`` alone."""

    def write(chat: str = CHAT, rows: list[dict[str, Any]] = ROWS) -> Path:
        (tmp_path / "chat.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        path = write_suite(chat)
        path.write_text(path.read_text().replace('[[task]]\nname = "own"\nrepository = ["shop"]\n', ""))
        return path

    return write


def test_a_suite_measures_a_chat_under_all_conditions(write_chat: Callable[..., Path], tmp_path: Path) -> None:
    report = run_suite(load_suite(write_chat()), out=tmp_path / "out", cache_folder=tmp_path / "cache").report
    assert [(each.condition, each.system) for each in report.chat] == [
        ("gold", ""),
        ("retrieved", "words"),
        ("retrieved", "words, hits"),
        ("retrieved", "words, sentence"),
        ("none", ""),
    ]
    gold, ours, hits, _, none = report.chat
    assert list(gold.answers) == ["shop-0", "shop-1"]
    assert gold.answers["shop-1"].targets == ["count.py:11-13"]  # from the reference answer
    assert gold.means["citation_precision"] == 1.0
    assert ours.values["hit@1"] == hits.values["hit@1"] == {"shop-0": 1.0, "shop-1": 1.0}
    assert ours.values["rougeL"].keys() == {"shop-0", "shop-1"}
    assert list(ours.values["answered"].values()) == [1.0, 1.0, 1.0]
    assert none.means["answered"] == 0.0
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report
    page = markdown(report)
    assert "| answers | retrieved | words, hits | extractive |" in page
    assert "### Chat: places found" in page
    assert 'classname="words, hits / answers (retrieved)" name="hit@5"' in junit(report)


def test_an_interrupted_chat_goes_on(write_chat: Callable[..., Path], tmp_path: Path) -> None:
    suite = load_suite(write_chat())
    stages: list[str] = []

    def interrupt(stage: str, done: int, total: int) -> None:
        stages.append(stage)
        if stages.count("answer") == 6 and len(stages) < 100:  # in the third result
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, out=tmp_path / "out", on_progress=interrupt)
    stages.clear()
    report = run_suite(suite, out=tmp_path / "out", on_progress=lambda stage, *_: stages.append(stage)).report
    assert stages.count("answer") == 9  # of 2 + 3 * 3 + 3, the first two results are kept
    assert len(report.chat) == 5


def test_the_gate_compares_a_chat(write_chat: Callable[..., Path]) -> None:
    path = write_chat()
    baseline = run_suite(load_suite(path)).report
    report = run_suite(load_suite(path), baseline=baseline.slim()).report
    compared = compare(report, baseline.slim())
    metrics = {each.metric for each in compared if each.system == "words"}
    assert metrics == {"hit@5", "citation_precision", "rougeL"}
    assert not any(each.regression for each in compared)
    worse = {"hit@5": {f"q{i}": 1.0 for i in range(20)}}
    before = replace(baseline.chat[1], values=worse)
    after = replace(baseline.chat[1], values={"hit@5": dict.fromkeys(worse["hit@5"], 0.0)})
    [comparison] = compare(replace(report, chat=[after]), replace(baseline, chat=[before]))
    assert comparison.regression
    silent = replace(baseline.chat[1], values={"citation_precision": {"other": 1.0}})
    with pytest.raises(IncomparableError, match="answered other queries"):
        compare(replace(report, chat=[baseline.chat[1]]), replace(baseline, chat=[silent]))
    path.write_text(path.read_text().replace("top_k = 5", "top_k = 5\nlimit = 2"))
    with pytest.raises(IncomparableError, match="was measured by another benchmark"):
        run_suite(load_suite(path), baseline=baseline)


def test_what_a_chat_lacks_is_said_before_any_work(
    write_chat: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CODE_RETRIEVAL_DATA", raising=False)
    monkeypatch.delenv("CODE_RETRIEVAL_REPOSITORIES", raising=False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        down = f"openai-like:m@http://127.0.0.1:{free.getsockname()[1]}/v1"
    stages: list[str] = []

    def record(stage: str, done: int, total: int) -> None:
        stages.append(stage)

    for chat, message in (
        (CHAT + 'metrics = ["rougeL"]', "'answers' measures 'rougeL', for which question 'shop-2' has no answer"),
        (CHAT + 'metrics = ["hit@5"]', "measures 'hit@5', for which question 'shop-2' has no targets"),
        (CHAT + 'projects = ["cart"]', "has no questions about 'cart'; there are some about shop"),
        (CHAT + "limit = 4", "asks for 4 questions of each repository, and none has more than 3"),
        (CHAT.replace('"."', '"src"'), r"nothing .* can be run here \(answers: there is no checkout of shop in .*src"),
        (CHAT.replace('repositories = "."', ""), "no folder with the checkouts of shop; set repositories, or CODE_"),
        (CHAT.replace('questions = "chat.jsonl"', 'set = "sweqa"'), r"there is no sweqa/ in \$CODE_RETRIEVAL_DATA"),
        (CHAT.replace("chat.jsonl", "gone.jsonl"), "there are no questions in .*gone.jsonl, which is missing"),
        (CHAT + f'llm = "{down}"', "no server answers at http://127.0.0.1"),
        (CHAT + f'judge = "{down}"', "no server answers at http://127.0.0.1"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            run_suite(load_suite(write_chat(chat)), on_progress=record)
    assert stages == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('set = "sweqa"', "chat 'answers' must have one of set and questions"),
        ("max_answer_tokens = 9", "max_answer_tokens would have no effect: chat 'answers' uses no LLM"),
        ('conditions = ["gold"]', "engines and top_k would have no effect: chat 'answers' retrieves nothing"),
        ('metrics = ["grade"]', "chat 'answers' has no judge for the metric 'grade'"),
        ('metrics = ["bleu"]', "metrics.0 must be 'rougeL', .* got 'bleu'"),
    ],
)
def test_a_setting_of_a_chat_that_has_no_effect_is_refused(
    line: str, message: str, write_chat: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match=message):
        load_suite(write_chat(CHAT + line))
    with pytest.raises(ValueError, match="needs an LLM for the engine 'code-citation'"):
        load_suite(write_chat(CHAT.replace('"hits"', '"code-citation"')))
