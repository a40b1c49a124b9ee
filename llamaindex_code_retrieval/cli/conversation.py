"""A chat in the terminal: read questions, stream answers, print what they cite."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import NodeWithScore

from llamaindex_code_retrieval.chat.citations import CitationCheck, Citations, check_citations
from llamaindex_code_retrieval.chat.llms import LLMSpec, describe_failure
from llamaindex_code_retrieval.chat.passages import NUMBER, passages_of
from llamaindex_code_retrieval.chat.question import check_question
from llamaindex_code_retrieval.cli.console import print_json, print_message, print_parts, print_text, read_line

if TYPE_CHECKING:
    from llamaindex_code_retrieval.chat.chat_engines import CodeChatEngine, CondensingCodeChatEngine
    from llamaindex_code_retrieval.index.code_index import CodeIndex

_COMMAND = re.compile(r"/[a-z]+")
_COMMANDS = "/sources shows the passages of the last answer, /reset forgets the chat, /quit ends it"


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    passages: list[NodeWithScore]
    check: CitationCheck = field(default_factory=lambda: CitationCheck(()))


class Conversation:
    """Questions and answers about an index in the terminal."""

    def __init__(self, index: CodeIndex[Any], engine: CodeChatEngine | CondensingCodeChatEngine, spec: LLMSpec) -> None:
        self._index = index
        self._engine = engine
        self._spec = spec
        self._passages: Sequence[NodeWithScore] = ()

    def answer_once(self, question: str, *, as_json: bool) -> int:
        """Print the answer to one question; return 1 if nothing was found.

        Raises:
            ValueError: the question is empty or too long.
            OSError: the LLM failed, or returned nothing.
        """
        start = time.perf_counter()
        answer = self._ask(question, show=not as_json)
        if as_json:
            print_json(
                {
                    "question": question,
                    "answer": answer.text,
                    "llm": str(self._spec),
                    "citations": [_record(each) for each in self._cited(answer)],
                    "passages": [_record(each) for each in answer.passages],
                    "warnings": answer.check.messages(),
                    "seconds": round(time.perf_counter() - start, 3),
                }
            )
        else:
            self._print_citations(answer)
        return 0 if answer.passages else 1

    def run(self) -> None:
        """Answer questions until ``/quit`` or the end of stdin."""
        print_message(f"{self._index.files:,} files are indexed. Ask about them; {_COMMANDS}")
        while True:
            try:
                line = read_line("> ")
            except KeyboardInterrupt:
                print_message("/quit ends the chat")
                continue
            if line is None or line.strip() == "/quit":
                return
            if _COMMAND.fullmatch(line.strip()):
                self._execute(line.strip())
            elif line.strip():
                self._answer(line.strip())

    def _execute(self, command: str) -> None:
        if command == "/reset":
            self._engine.reset()
            self._passages = ()
            print_message("the chat is forgotten")
        elif command == "/sources":
            _print_places(self._passages)
            if not self._passages:
                print_message("there is no answer yet")
        else:
            print_message(f"unknown command {command}; {_COMMANDS}")

    def _answer(self, question: str) -> None:
        try:
            answer = self._ask(question, show=True)
        except KeyboardInterrupt:
            print_text("")
            print_message("stopped")
        except (ValueError, OSError) as error:
            print_message(f"error: {error}")
        else:
            self._print_citations(answer)

    def _ask(self, question: str, *, show: bool) -> _Answer:
        """Return an answer, which is printed as it grows with ``show``.

        Raises:
            ValueError: the question is empty or too long.
            OSError: the LLM failed, or returned nothing.
        """
        check_question(question)
        text = ""
        try:
            for piece in self._pieces(question):
                text += piece
                if show:
                    print_text(piece, end="")
        finally:
            if show and text:
                print_text("")
        if not text.strip():
            raise OSError(f"{self._spec} returned an empty answer; ask again, or use another LLM")
        passages = list(self._passages)
        if not passages or self._spec.kind == "extractive":  # which quotes the passages with their places
            return _Answer(text, passages)
        return _Answer(text, passages, check_citations(text, passages, self._index, question=question))

    def _pieces(self, question: str) -> Iterator[str]:
        """Yield the pieces of the answer as the LLM returns them."""
        try:
            response = self._engine.stream_chat(question)
        except Exception as error:
            if self._spec.kind == "extractive" or isinstance(error, ValueError | OSError):
                raise
            raise OSError(describe_failure(error, self._spec)) from error  # while it rewrote the question
        self._passages = response.source_nodes
        stream = response.chat_stream
        assert stream is not None
        try:
            for each in stream:
                yield each.delta or ""
        except Exception as error:
            raise OSError(describe_failure(error, self._spec)) from error
        finally:
            stream.close()

    def _cited(self, answer: _Answer) -> list[NodeWithScore]:
        """Return the passages that an answer cites."""
        numbers = {each.number for each in Citations.of(answer.passages).find(answer.text)}
        return [hit for hit in answer.passages if hit.node.metadata[NUMBER] in numbers]

    def _print_citations(self, answer: _Answer) -> None:
        if self._spec.kind != "extractive" and answer.passages:
            cited = self._cited(answer)
            _print_places(cited)
            if not cited:
                print_message("the answer cites no passage, so check it; /sources shows the passages it was made from")
        for warning in answer.check.messages():
            print_message(f"warning: {warning}")


def _print_places(passages: Sequence[NodeWithScore]) -> None:
    for hit, passage in zip(passages, passages_of(passages), strict=True):
        number = hit.node.metadata[NUMBER]
        print_parts((f"[{number}] ", "bold"), (passage.place, "cyan"), (f"  {passage.scope}".rstrip(), "bold green"))


def _record(hit: NodeWithScore) -> dict[str, Any]:
    [passage] = passages_of([hit])
    return {
        "number": hit.node.metadata[NUMBER],
        "place": passage.place,
        "path": passage.path,
        "lines": [list(each) for each in passage.ranges],
        "scope": passage.scope,
        "text": passage.text,
    }
