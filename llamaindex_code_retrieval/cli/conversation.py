"""A chat in the terminal: read questions, stream answers, print what they cite."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from llama_index.core.schema import NodeWithScore

from llamaindex_code_retrieval.chat.answer import Answer, passage_records
from llamaindex_code_retrieval.chat.llms import LLMSpec
from llamaindex_code_retrieval.chat.passages import NUMBER, passages_of
from llamaindex_code_retrieval.cli.console import print_json, print_message, print_parts, print_text, read_line

if TYPE_CHECKING:
    from llamaindex_code_retrieval.chat.attribution import Attribution
    from llamaindex_code_retrieval.chat.chat_engines import CodeChatEngine, CondensingCodeChatEngine
    from llamaindex_code_retrieval.index.code_index import CodeIndex

_SENTENCE = 80  # characters that are shown
_COMMAND = re.compile(r"/[a-z]+")
_COMMANDS = "/sources shows the passages of the last answer, /reset forgets the chat, /quit ends it"


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
                    "citations": passage_records(answer.cited()),
                    "attributed": [_attribution_record(each) for each in answer.attributed()],
                    "passages": passage_records(answer.passages),
                    "warnings": answer.check(self._index).messages(),
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

    def _ask(self, question: str, *, show: bool) -> Answer:
        """Return an answer, which is printed as it grows with ``show``.

        Raises:
            ValueError: the question is empty or too long.
            OSError: the LLM failed, or returned nothing.
        """
        answer = Answer(self._engine, question, self._spec)
        self._passages = answer.passages
        try:
            for piece in answer:
                if show:
                    print_text(piece, end="")
        finally:
            answer.close()
            if show and answer.text:
                print_text("")
        return answer

    def _print_citations(self, answer: Answer) -> None:
        if not answer.quotes:
            cited = answer.cited()
            _print_places(cited)
            if not cited:
                self._print_attributed(answer.attributed())
        for warning in answer.check(self._index).messages():
            print_message(f"warning: {warning}")

    def _print_attributed(self, attributed: Sequence[Attribution]) -> None:
        message = "the answer cites no passage, so check it; /sources shows the passages it was made from"
        if attributed:
            message += ". These were matched to its sentences by names and words, not by the LLM:"
        print_message(message)
        for each in attributed:
            print_parts((f"{each.citation}", "cyan"), (f"  matches: {shorten(each.sentence, _SENTENCE)}", "dim"))


def _attribution_record(attribution: Attribution) -> dict[str, Any]:
    place = replace(attribution.citation, number=None)
    return {"number": attribution.citation.number, "place": str(place), "sentence": attribution.sentence}


def _print_places(passages: Sequence[NodeWithScore]) -> None:
    for hit, passage in zip(passages, passages_of(passages), strict=True):
        number = hit.node.metadata[NUMBER]
        print_parts((f"[{number}] ", "bold"), (passage.place, "cyan"), (f"  {passage.scope}".rstrip(), "bold green"))
