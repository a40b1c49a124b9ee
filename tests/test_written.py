"""Questions that a language model writes about code, and the round trip that filters them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback

from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.training.mining.written import written_pairs
from llamaindex_code_retrieval.training.pairs import Pair

CODES = {
    "receipt": "def send_receipt(address, text):\n    server = smtplib.connect()\n    server.mail(address, text)",
    "price": "def total(self):\n    prices = [item.price for item in self.items]\n    return sum(prices)",
    "host": "def parse(text):\n    name, host = text.split('@')\n    return name, host",
    "date": "def today(zone):\n    now = clock.read(zone)\n    return now.date()",
}


class Writer(CustomLLM):
    """Answers by the code in the prompt."""

    answers: dict[str, str]

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=next(answer for code, answer in self.answers.items() if code in prompt))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        raise NotImplementedError


def test_only_questions_that_find_their_code_are_kept() -> None:
    pairs = [Pair(query=name, code=code, repository="org/shop", kind="doc") for name, code in CODES.items()]
    answers = {
        CODES["receipt"]: '\n1. **Question:** "How is a text sent to the address of a customer?"\nIt sends it.',
        CODES["price"]: "What does the host of a name look like?",  # of another code
        CODES["host"]: "How?",
        CODES["date"]: "What is the sum of all of the prices?",  # of another code
    }
    dropped: Counter[str] = Counter()
    [pair] = written_pairs(pairs, Writer(answers=answers), most=4, dropped=dropped)
    assert pair == Pair(
        query="How is a text sent to the address of a customer?",
        code=CODES["receipt"],
        repository="org/shop",
        kind="written",
    )
    assert dropped == {"written question does not find its function": 2, "description under 3 words": 1}
    named = {CODES["receipt"]: "What does send_receipt do with the text of an address?"}
    dropped.clear()
    assert written_pairs(pairs[:1], Writer(answers=named), most=4, dropped=dropped) == []
    assert dropped == {"written question names the function": 1}


def test_a_repository_gets_a_limited_number_of_questions() -> None:
    pairs = [
        Pair(query=name, code=code, repository=repository)
        for repository, names in (("a", ("receipt", "price", "host")), ("b", ("date",)))
        for name, code in CODES.items()
        if name in names
    ]
    calls: list[tuple[str, int, int]] = []
    writer = Writer(answers=dict.fromkeys(CODES.values(), ""))
    dropped: Counter[str] = Counter()
    written_pairs(pairs, writer, most=2, dropped=dropped, on_progress=lambda *call: calls.append(call))
    assert calls == [("write", 1, 3), ("write", 2, 3), ("write", 3, 3)]
    assert dropped == {"no description": 3}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--questions", "5"], "--questions has no effect without --llm"),
        (["--llm", "extractive"], "--llm extractive writes no questions"),
        (["--llm", "nothing"], "unknown LLM 'nothing'"),
        (["--llm", "ollama:x@http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9"),
    ],
)
def test_a_language_model_is_checked_before_anything_is_mined(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["mine", str(repository), "--out", str(tmp_path / "p.jsonl"), *arguments]) == 2
    assert says in capsys.readouterr().err
