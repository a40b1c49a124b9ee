"""Writers: they turn a question and passages into an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from llamaindex_code_retrieval.chat.llms import EXTRACTIVE, load_llm, public_url

if TYPE_CHECKING:
    from llama_index.core.llms import LLM


class Writer(Protocol):
    """Answers a question from passages."""

    name: str
    settings: str
    """All that an answer depends on besides name, instruction, question and passages."""

    def write(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return the answer; ``passages`` are best first."""


class ExtractiveWriter:
    """Quotes the best passages: the first one, cut at the limit, and the next ones as long as they fit completely.

    It needs no LLM and is deterministic, so that a change of its scores is a change of retrieval.

    >>> ExtractiveWriter(max_words=3).write("", "", ["one two", "three", "four"])
    'one two\\n\\nthree'
    """

    name = "extractive"

    def __init__(self, max_words: int = 300) -> None:
        if max_words < 1:
            raise ValueError(f"max_words must be at least 1 to quote anything, got {max_words}")
        self.max_words = max_words
        self.settings = json.dumps({"max_words": max_words})

    def write(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return the quotation; an empty text without passages."""
        quoted: list[str] = []
        words_left = self.max_words
        for passage in passages:
            ends = [word.end() for word in re.finditer(r"\S+", passage)]
            if quoted and len(ends) > words_left:
                break
            quoted.append(passage if len(ends) <= words_left else passage[: ends[words_left - 1]])
            words_left -= len(ends)
        return "\n\n".join(quoted)


_PROMPT = "{instruction}\n\n{passages}Question:\n{question}\n\nAnswer:\n"
# Fields of an LLM that are secret, or that do not change an answer.
_HIDDEN = re.compile(
    r"key|token$|secret|passw|credential|auth|header|cookie|callback|timeout|retr(y|ies)|reuse|keep_alive|verbose",
    re.IGNORECASE,
)


class LLMWriter:
    """Lets any LLM of LlamaIndex complete one prompt of instruction, passages and question.

    The prompt holds the passages best first, up to the one with which it would exceed ``max_characters``.
    """

    def __init__(self, llm: LLM, name: str, *, max_characters: int = 12_000) -> None:
        if max_characters < 1:
            raise ValueError(f"max_characters must be at least 1, got {max_characters}; use an LLM with more context")
        self.llm = llm
        self.name = name
        self.max_characters = max_characters
        settings = {"llm": json.loads(llm_settings(llm)), "max_characters": max_characters, "prompt": _PROMPT}
        self.settings = json.dumps(settings, sort_keys=True)

    def write(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return the LLM's completion of the prompt."""
        return self.llm.complete(self.prompt(instruction, question, passages)).text

    def prompt(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return the prompt."""
        listed = ""
        prompt = _PROMPT.format(instruction=instruction, passages=listed, question=question)
        for number, passage in enumerate(passages, start=1):
            listed += f"Passage {number}:\n{passage}\n\n"
            longer = _PROMPT.format(instruction=instruction, passages=listed, question=question)
            if len(longer) > self.max_characters:
                break
            prompt = longer
        return prompt


def llm_settings(llm: LLM) -> str:
    """Return what the answers of an LLM depend on besides the prompt, as JSON without secrets."""
    return json.dumps(_public_settings(llm.to_dict()), sort_keys=True)


def _public_settings(value: Any) -> Any:
    """Return an LLM's fields as plain values without secrets; of any other object the name of its class."""
    if isinstance(value, Mapping):
        return {str(key): _public_settings(each) for key, each in value.items() if not _HIDDEN.search(str(key))}
    if isinstance(value, list | tuple):
        return [_public_settings(each) for each in value]
    if isinstance(value, str) and re.match(r"https?://", value):
        return public_url(value)
    return value if isinstance(value, str | int | float | None) else type(value).__name__


_MAX_TOKENS = 512  # of an answer; the references of SWE-QA have about 290 words
_CONTEXT_WINDOW = 8192  # tokens
_CHARACTERS_PER_TOKEN = 3  # of code


def load_writer(name: str, *, timeout: float) -> Writer:
    """Return ``extractive``, or an LLM as a greedy writer; ``timeout`` (seconds) is for LLMs behind a network.

    ``name`` is one of the specifications of :func:`.load_llm`. The prompt is a user's turn of a chat if the model has a
    chat template.

    Raises:
        ValueError: the name is unknown, a URL is missing, or the model cannot be loaded.
        ImportError: LlamaIndex's integration is not installed.
    """
    if name == EXTRACTIVE:
        return ExtractiveWriter()
    llm = load_llm(name, timeout=timeout, max_tokens=_MAX_TOKENS, context_window=_CONTEXT_WINDOW)
    # The model's context may be shorter than the requested window.
    tokens = min(llm.metadata.context_window, _CONTEXT_WINDOW) - _MAX_TOKENS
    return LLMWriter(llm, name, max_characters=min(12_000, _CHARACTERS_PER_TOKEN * tokens))
