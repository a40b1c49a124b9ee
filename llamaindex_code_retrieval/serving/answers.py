"""``Answers``: questions of many conversations, each answered by a stream of events."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from llama_index.core.llms import LLM

from llamaindex_code_retrieval.chat.answer import Answer, passage_records
from llamaindex_code_retrieval.chat.engines import code_chat_engine
from llamaindex_code_retrieval.chat.llms import LLMSpec
from llamaindex_code_retrieval.chat.passages import NUMBER
from llamaindex_code_retrieval.chat.question import check_question
from llamaindex_code_retrieval.index.filters import NodeFilter
from llamaindex_code_retrieval.serving.conversations import Conversations

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.serving.service import CodeService

EventName = Literal["status", "passages", "text", "citations", "warnings", "done"]

_TOP_K = 10
_LOAD = "load the model"
"""A question whose answer nobody reads."""
_CONVERSATIONS, _TURNS, _AGE_SECONDS = 200, 10, 3600.0


@dataclass(frozen=True, slots=True)
class Event:
    """A step of an answer, with values for JSON.

    "status" comes first and has the id of the conversation; then "passages", "text" for each piece, "citations" with
    the numbers of the passages that are cited, "warnings" if there are any, and "done".
    """

    name: EventName
    data: Mapping[str, Any]


class ConversationBusyError(RuntimeError):
    """A question of a conversation came while another one of it was being answered."""


class Answers:
    """Answers questions about the repositories of a service, and remembers each conversation by its id.

    Histories are in memory only: the last ten turns of the last 200 conversations, for an hour.
    """

    def __init__(
        self,
        service: CodeService,
        llm: LLM,
        spec: LLMSpec,
        *,
        max_seconds: float = 300.0,
        busy_seconds: float = 5.0,
    ) -> None:
        self._service = service
        self._llm = llm
        self.spec = spec
        """What ``llm`` is."""
        self._max_seconds = max_seconds
        self._busy_seconds = busy_seconds
        self._conversations = Conversations(limit=_CONVERSATIONS, max_turns=_TURNS, max_age=_AGE_SECONDS)

    def ask(
        self,
        question: str,
        *,
        conversation: str | None = None,
        repository: str | None = None,
        node_filter: NodeFilter = NodeFilter(),  # noqa: B008  # frozen
    ) -> Generator[Event, None, None]:
        """Yield the events of an answer; closing the generator stops the LLM, and what was said is remembered.

        A conversation that is unknown, or forgotten meanwhile, begins anew under another id. Where its last question is
        still being answered, as after an answer that was stopped, this one waits for ``busy_seconds``.

        Raises:
            ValueError: the question is empty or too long, there is no such repository, or it cannot be searched.
            ConversationBusyError: another question of the conversation is being answered.
            TimeoutError: too many requests are running, or the answer took longer than ``max_seconds``.
            OSError: the LLM failed, or returned nothing.
        """
        start = time.monotonic()
        check_question(question)
        found, is_new = self._conversations.find_or_begin(conversation)
        if not found.lock.acquire(timeout=self._busy_seconds):
            raise ConversationBusyError("the last question of this conversation is still being answered; wait for it")
        try:
            with self._service.index(question, repository=repository) as (index, notes):
                engine = code_chat_engine(index, llm=self._llm, top_k=_TOP_K, filters=node_filter)
                answer = Answer(engine, question, self.spec, history=found.messages)
            try:
                yield Event("status", {"conversation": found.id, "is_new": is_new, "notes": notes})
                yield from self._events(answer, index, deadline=start + self._max_seconds)
            finally:
                answer.close()
                self._conversations.remember(found, engine.chat_history)
            yield Event("done", {"seconds": round(time.monotonic() - start, 3)})
        finally:
            found.lock.release()

    def load(self) -> None:
        """Load what the first question needs, so that it is answered as fast as later ones.

        Raises:
            ValueError: a repository cannot be searched yet.
        """
        for repository in self._service.repositories:
            with self._service.index(_LOAD, repository=repository.name) as (index, _):
                code_chat_engine(index, llm=self._llm)
                index.search(_LOAD, top_k=1)

    def _events(self, answer: Answer, index: CodeIndex[Any], *, deadline: float) -> Generator[Event, None, None]:
        yield Event("passages", {"passages": passage_records(answer.passages)})
        for piece in answer:
            yield Event("text", {"text": piece})
            if time.monotonic() > deadline:
                raise TimeoutError(f"the answer took longer than {self._max_seconds:g} s and was stopped")
        yield Event("citations", {"citations": [hit.node.metadata[NUMBER] for hit in answer.cited()]})
        warnings = answer.check(index).messages()
        if warnings:
            yield Event("warnings", {"warnings": warnings})
