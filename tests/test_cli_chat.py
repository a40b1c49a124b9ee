"""The command chat."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Shell
from filelock import FileLock
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.chat.engines import code_chat_engine
from llamaindex_code_retrieval.chat.llms import LLMSpec
from llamaindex_code_retrieval.chat.synthesizer import NO_HIT
from llamaindex_code_retrieval.cli.conversation import Conversation


@pytest.fixture
def here(shell: Shell, repository: Path, bert_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with an index by a tiny model, in which the command line runs."""
    monkeypatch.chdir(repository)
    shell("index", ".", "--model", bert_folder)
    return repository


def say(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))


# --- one question -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("embedded_model")
def test_a_folder_is_indexed_and_asked_in_one_command(shell: Shell, repository: Path) -> None:
    out = shell("chat", repository, "-q", "how is the sum of all prices computed?")
    assert "indexing" in shell.err
    assert "No language model is used." in out
    assert "src/cart.py:1-2,10-11 Cart.total (quoted code)\n```python\nclass Cart:\n" in out
    assert "return sum(price for _, price in self.items)" in out
    shell("chat", repository, "-q", "how is the sum of all prices computed?")
    assert "indexing" not in shell.err


@pytest.mark.usefixtures("here")
def test_json_has_the_passages_and_where_they_are(shell: Shell) -> None:
    got = shell("chat", "-q", "send receipt", "--path", "src/mail.py", "--top-k", 1, "--json")
    assert (got["question"], got["llm"], got["warnings"]) == ("send receipt", "extractive", [])
    [passage] = got["passages"]
    assert (passage["number"], passage["path"], passage["scope"]) == (1, "src/mail.py", "send_receipt")
    assert "smtplib.SMTP" in passage["text"]
    assert passage["text"].split("\n")[-1] in got["answer"]
    assert got["citations"] == got["passages"]


@pytest.mark.usefixtures("here")
def test_without_hits_the_exit_code_is_1(shell: Shell) -> None:
    assert shell("chat", "-q", "total", "--path", "nowhere/**", code=1) == f"{NO_HIT}\n"


def test_changed_files_are_indexed_first(shell: Shell, here: Path) -> None:
    (here / "src" / "stock.py").write_text("def reorder_level(item):\n    return 42\n")
    ask = ("chat", "-q", "reorder level", "--path", "src/stock.py")
    assert shell(*ask, "--no-refresh", code=1) == f"{NO_HIT}\n"
    assert "return 42" in shell(*ask)


def test_an_index_that_is_being_updated_is_used_as_it_is(shell: Shell, here: Path) -> None:
    (here / "src" / "stock.py").write_text("def reorder_level(item):\n    return 42\n")
    with FileLock(here / ".code-retrieval" / ".lock", is_singleton=False):
        out = shell("chat", "-q", "total")
    assert "quoted" in out
    assert "is being updated by another process" in shell.err
    assert "answers are from the index as it is" in shell.err


def test_the_index_of_the_code_base_is_found_from_below_and_no_other(shell: Shell, here: Path) -> None:
    assert "Cart" in shell("chat", here / "src", "-q", "total")
    assert not (here / "src" / ".code-retrieval").exists()
    other = here.parent / "other"
    other.mkdir()
    (here.parent / ".code-retrieval").symlink_to(here / ".code-retrieval")  # above other, and not of it
    shell.fails("chat", other, "-q", "total", says="other (no files at all); name another folder")
    assert list(other.iterdir()) == []


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["--llm", "gpt"], "unknown LLM 'gpt'; use one of extractive, ollama:MODEL"),
        (["--llm", "huggingface:nowhere"], "cannot be loaded as a causal language model"),
        (["-q", " "], "the question is empty"),
        (["-q", "x" * 8001], "the question has 8,001 characters"),
        (["--json"], "--json has no effect without --question"),
        (["--timeout", "3"], "--timeout has no effect with --llm extractive"),
        (
            ["--condense", "--context-window", "9"],
            "--context-window and --condense have no effect with --llm extractive",
        ),
        (["--index", "nowhere"], "nowhere"),
        (["--kind", "car"], "--kind: unknown kind 'car'"),
        (["--language", "klingon"], "unknown language 'klingon'"),
        (["--top-k", "0"], "must be at least 1"),
    ],
)
def test_wrong_input_is_said_before_an_index_is_made(
    shell: Shell, repository: Path, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    shell.fails("chat", *arguments, says=says)
    assert not (repository / ".code-retrieval").exists()


def test_a_server_that_is_down_is_said_before_an_index_is_made(
    shell: Shell, repository: Path, closed_port: int
) -> None:
    pytest.importorskip("llama_index.llms.openai_like", reason="needs the extra openai-like")
    url = f"http://127.0.0.1:{closed_port}/v1"
    shell.fails("chat", repository, "--llm", f"openai-like:m@{url}", says=f"no server answers at {url}")
    assert not (repository / ".code-retrieval").exists()


def test_an_index_of_another_model_is_named(shell: Shell, here: Path, bert_folder: Path) -> None:
    weights = bert_folder / "model.safetensors"
    content = weights.read_bytes()
    try:
        weights.write_bytes(content[:-4] + b"\x00\x00\x80\x3f")  # the last weight is 1.0
        shell.fails("chat", "-q", "total", says="rebuild it with: ")
    finally:
        weights.write_bytes(content)


# --- a chat -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_questions_are_lines_and_commands_begin_with_a_slash(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    say(
        monkeypatch,
        "/sources",
        "send receipt",
        "/sources",
        "",
        "/nothing",
        "/reset",
        "/sources",
        "/quit",
        "never asked",
    )
    out = shell("chat", "--path", "src/mail.py", "--top-k", 1)
    assert out.count("No language model is used.") == 1
    assert out.split("\n")[-2] == "[1] src/mail.py:1,4-6  send_receipt"
    assert "3 files are indexed" in shell.err
    assert shell.err.count("there is no answer yet") == 2
    assert "unknown command /nothing; /sources shows" in shell.err
    assert "the chat is forgotten" in shell.err


@pytest.mark.usefixtures("here")
def test_a_question_that_is_refused_does_not_end_the_chat(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, "x" * 9000, "send receipt")
    assert "send_receipt" in shell("chat")
    assert "error: the question has 9,000 characters" in shell.err


class PeerLLM(CustomLLM):
    """An LLM that streams ``words``; a word that is an exception is raised."""

    words: list[Any]

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=8192)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        def grow() -> Iterator[CompletionResponse]:
            text = ""
            for word in self.words:
                if isinstance(word, BaseException):
                    raise word
                text += word
                yield CompletionResponse(text=text, delta=word)

        return grow()


@pytest.fixture
def conversation_with(here: Path) -> Iterator[Any]:
    with CodeIndex.open(here / ".code-retrieval") as index:

        def make(*words: Any) -> Conversation:
            engine = code_chat_engine(index, llm=PeerLLM(words=list(words)), top_k=3)
            return Conversation(index, engine, LLMSpec("ollama", "peer", "http://me:hush@host:1"))

        yield make


def test_what_an_answer_cites_is_printed_and_checked(
    conversation_with: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    conversation = conversation_with("It is ", "`total_of_everything` [1].", " See [9].")
    assert conversation.answer_once("total of the cart", as_json=False) == 0
    printed = capsys.readouterr()
    answer, citation = printed.out.splitlines()
    assert answer == "It is `total_of_everything` [1]. See [9]."
    assert citation.startswith("[1] ")
    assert ".py:" in citation or ".java:" in citation
    assert "warning: not in the passages: [9]" in printed.err
    assert "warning: not found in the code: `total_of_everything`" in printed.err


def test_an_answer_without_citations_says_so(conversation_with: Any, capsys: pytest.CaptureFixture[str]) -> None:
    conversation_with("It is so.").answer_once("total", as_json=False)
    printed = capsys.readouterr()
    assert "the answer cites no passage" in printed.err
    assert "matched" not in printed.err
    assert printed.out == "It is so.\n"


def test_passages_that_match_an_answer_without_citations_are_marked(
    conversation_with: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "The sum is computed by `Cart.total`."
    conversation_with(said).answer_once("total of the cart", as_json=False)
    printed = capsys.readouterr()
    answer, citation = printed.out.splitlines()
    assert answer == said  # untouched
    assert re.fullmatch(rf"\[\d\] src/cart\.py:\S+  matches: {re.escape(said)}", citation)
    assert "matched to its sentences by names and words, not by the LLM:" in printed.err
    conversation_with(said).answer_once("total of the cart", as_json=True)
    got = json.loads(capsys.readouterr().out)
    assert (got["answer"], got["citations"]) == (said, [])
    [attributed] = got["attributed"]
    assert f"[{attributed['number']}] {attributed['place']}  matches: {said}" == citation
    assert attributed["sentence"] == said
    for citing, count in ((" See [1].", 0), (" See src/cart.py:10.", 0), (" See `src/cart.py`.", 1)):
        conversation_with(said, citing).answer_once("total of the cart", as_json=True)
        assert len(json.loads(capsys.readouterr().out)["attributed"]) == count


def test_escape_sequences_of_an_llm_are_escaped(conversation_with: Any, capsys: pytest.CaptureFixture[str]) -> None:
    conversation_with("red \x1b[31m", "[1]").answer_once("total", as_json=False)
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "ollama:peer@http://host:1 returned an empty answer"),
        ([ConnectionError("refused")], "no server answers at http://host:1 (refused)"),
        (
            ["It ", TimeoutError("slow")],
            "ollama:peer at http://host:1 did not answer in time; wait longer with --timeout",
        ),
        (["It ", ValueError("Expecting ','")], "ollama:peer at http://host:1 failed: ValueError: Expecting ','"),
    ],
)
def test_what_an_llm_did_wrong_is_said_and_the_chat_goes_on(
    words: list[Any], says: str, conversation_with: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    with pytest.raises(OSError, match=f"^{re.escape(says)}"):
        conversation_with(*words).answer_once("total", as_json=False)
    capsys.readouterr()
    say(monkeypatch, "total", "cart")
    conversation_with(*words).run()
    printed = capsys.readouterr()
    assert printed.err.count(f"error: {says}") == 2
    assert printed.out == "".join(f"{word}\n" for word in words[:-1]) * 2  # what came before the failure


def test_ctrl_c_stops_the_answer_and_not_the_chat(
    conversation_with: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    say(monkeypatch, "total", "cart")
    conversation = conversation_with("It ", KeyboardInterrupt())
    conversation.run()
    printed = capsys.readouterr()
    assert printed.err.count("stopped") == 2
    assert [message.content for message in conversation._engine.chat_history] == ["total", "It", "cart", "It"]
    with pytest.raises(KeyboardInterrupt):
        conversation.answer_once("total", as_json=False)


def test_the_extractive_chat_needs_no_torch(tmp_path: Path) -> None:
    """With a static query encoder, on the package's model."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "a.py").write_text("def total(prices):\n    return sum(prices)\n")
    with CodeIndex(CodeEmbedding(), code / ".code-retrieval") as index:
        index.update([code])
    script = (
        "import sys\nfrom llamaindex_code_retrieval.cli.main import main\n"
        f"assert main(['chat', {str(code)!r}, '-q', 'total of prices', '--fast-query']) == 0\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "return sum(prices)" in done.stdout
