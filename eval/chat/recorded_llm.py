"""``RecordedLLM``: an LLM whose replies are timed, and kept by prompt so that an interrupted run can go on."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass

from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import LLM, ChatMessage, LLMMetadata

from llamaindex_code_retrieval._io import json_hash
from llamaindex_code_retrieval.chat.local_llm import LocalLLM, Turn
from llamaindex_code_retrieval.eval.unfinished import Unfinished
from llamaindex_code_retrieval.eval.writers import llm_settings


@dataclass(frozen=True, slots=True)
class Reply:
    """What an LLM replied to one prompt, and when."""

    text: str
    first_seconds: float
    """Seconds to the first piece of the text."""
    seconds: float


class RecordedLLM(LocalLLM):
    """Passes chats on to another LLM, and returns a reply that ``kept`` has without a call.

    A reply is kept by the turns of the chat and the settings of the LLM, with the time that it took when it was made.
    An LLM that fails is asked ``retries`` times more; then its error is raised and nothing is kept.
    """

    _llm: LLM = PrivateAttr()
    _kept: Unfinished = PrivateAttr()
    _retries: int = PrivateAttr()
    _settings: str = PrivateAttr()
    _replies: list[Reply] = PrivateAttr(default_factory=list)
    _seconds: float = PrivateAttr(default=0.0)

    def __init__(self, llm: LLM, kept: Unfinished, *, retries: int = 2) -> None:
        limits = llm.metadata
        super().__init__(
            model_name=limits.model_name or llm.class_name(),
            context_window=limits.context_window,
            max_tokens=max(1, limits.num_output),
        )
        self._llm, self._kept, self._retries = llm, kept, retries
        self._settings = llm_settings(llm)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "RecordedLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """The limits of the other LLM."""
        return self._llm.metadata

    def take_replies(self) -> tuple[list[Reply], float]:
        """Return the replies since the last call, and the seconds that they took just now."""
        taken = self._replies, self._seconds
        self._replies, self._seconds = [], 0.0
        return taken

    def _deltas(self, turns: Sequence[Turn]) -> Generator[str]:
        started = time.perf_counter()
        key = json_hash([self._settings, list(turns)])
        reply = self._kept.load(key, lambda part: Reply(**part))
        if reply is None:
            reply = self._ask(turns)
            self._kept.save(key, asdict(reply))
        self._replies.append(reply)
        self._seconds += time.perf_counter() - started
        yield reply.text

    def _ask(self, turns: Sequence[Turn]) -> Reply:
        messages = [ChatMessage(role=turn["role"], content=turn["content"]) for turn in turns]
        for attempt in range(self._retries + 1):
            started, first, pieces = time.perf_counter(), 0.0, list[str]()
            try:
                for response in self._llm.stream_chat(messages):
                    first = first or time.perf_counter() - started
                    pieces.append(response.delta or "")
            except Exception:  # the client of an LLM may raise anything
                if attempt == self._retries:
                    raise
            else:
                break
        return Reply("".join(pieces), first, time.perf_counter() - started)
