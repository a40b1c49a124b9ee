"""Writers: what turns a question and passages into an answer."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llama_index.core.llms import LLM


class Writer(Protocol):
    """Answers a question from passages."""

    name: str
    settings: str
    """All that an answer depends on beside name, instruction, question and passages."""

    def write(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return the answer; ``passages`` are best first."""


class ExtractiveWriter:
    """Quotes the best passages: the first one, cut at the limit, and the next ones as long as they fit whole.

    It needs no LLM and is deterministic, so that a change of its scores is a change of retrieval.

    >>> ExtractiveWriter(most_words=3).write("", "", ["one two", "three", "four"])
    'one two\\n\\nthree'
    """

    name = "extractive"

    def __init__(self, most_words: int = 300) -> None:
        if most_words < 1:
            raise ValueError(f"most_words must be at least 1 to quote anything, got {most_words}")
        self.most_words = most_words
        self.settings = json.dumps({"most_words": most_words})

    def write(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return the quotation; the empty text without passages."""
        quoted: list[str] = []
        left = self.most_words
        for passage in passages:
            ends = [word.end() for word in re.finditer(r"\S+", passage)]
            if quoted and len(ends) > left:
                break
            quoted.append(passage if len(ends) <= left else passage[: ends[left - 1]])
            left -= len(ends)
        return "\n\n".join(quoted)


_PROMPT = "{instruction}\n\n{passages}Question:\n{question}\n\nAnswer:\n"
# Fields of an LLM that are secret, or that change no answer.
_UNSAID = re.compile(
    r"key|token$|secret|passw|credential|auth|header|cookie|callback|timeout|retr(y|ies)|reuse|keep_alive|verbose",
    re.IGNORECASE,
)


class LLMWriter:
    """Has any LLM of LlamaIndex write, from one prompt: instruction, passages, question.

    Passages are given best first, up to the one with which the prompt would exceed ``most_characters``.
    """

    def __init__(self, llm: LLM, name: str, *, most_characters: int = 12_000) -> None:
        if most_characters < 1:
            raise ValueError(
                f"most_characters must be at least 1, got {most_characters}; take an LLM with more context"
            )
        self.llm = llm
        self.name = name
        self.most_characters = most_characters
        facts = {"llm": _said(llm.to_dict()), "most_characters": most_characters, "prompt": _PROMPT}
        self.settings = json.dumps(facts, sort_keys=True)

    def write(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return the LLM's completion of the prompt."""
        return self.llm.complete(self.prompt(instruction, question, passages)).text

    def prompt(self, instruction: str, question: str, passages: Sequence[str]) -> str:
        """Return what the LLM is given."""
        shown = ""
        prompt = _PROMPT.format(instruction=instruction, passages=shown, question=question)
        for number, passage in enumerate(passages, start=1):
            shown += f"Passage {number}:\n{passage}\n\n"
            longer = _PROMPT.format(instruction=instruction, passages=shown, question=question)
            if len(longer) > self.most_characters:
                break
            prompt = longer
        return prompt


def _said(value: Any) -> Any:
    """Return the plain values of an LLM's fields without secrets; of any other object its class alone."""
    if isinstance(value, Mapping):
        return {str(key): _said(each) for key, each in value.items() if not _UNSAID.search(str(key))}
    if isinstance(value, list | tuple):
        return [_said(each) for each in value]
    if isinstance(value, str) and re.match(r"https?://", value):  # a URL can hold a password, or a key as parameter
        return re.sub(r"(?<=//)[^/@]*@|[?#].*", "", value)
    return value if isinstance(value, str | int | float | None) else type(value).__name__


_INTEGRATIONS = {
    "ollama": "Ollama",
    "openai-like": "OpenAILike",
    "huggingface": "HuggingFaceLLM",
    "llama-cpp": "LlamaCPP",
}
_MAX_TOKENS = 512  # of an answer; those of SWE-QA have about 290 words
_CONTEXT_WINDOW = 8192  # tokens


def load_writer(name: str, *, timeout: float) -> Writer:
    """Return ``extractive``, or an LLM as a greedy writer; ``timeout`` is in seconds, for those behind a network.

    LLMs are ``ollama:MODEL``, ``openai-like:MODEL`` (at ``$OPENAI_API_BASE``, with ``$OPENAI_API_KEY`` if it wants
    one), ``huggingface:MODEL-OR-FOLDER`` and ``llama-cpp:FILE.gguf``.

    Raises:
        ValueError: an unknown name, or no ``$OPENAI_API_BASE`` where it is needed.
        ImportError: LlamaIndex's integration is not installed.
    """
    if name == "extractive":
        return ExtractiveWriter()
    kind, _, model = name.partition(":")
    if kind not in _INTEGRATIONS or not model:
        known = "extractive, ollama:MODEL, openai-like:MODEL, huggingface:MODEL-OR-FOLDER, llama-cpp:FILE.gguf"
        raise ValueError(f"unknown writer {name!r}; use one of {known}")
    module = _integration(f"llama_index.llms.{kind.replace('-', '_')}", install=f"llama-index-llms-{kind}")
    options: dict[str, Any] = {"context_window": _CONTEXT_WINDOW}
    if kind == "ollama":
        options |= {"model": model, "temperature": 0.0, "request_timeout": timeout}
        options |= {"additional_kwargs": {"num_predict": _MAX_TOKENS}}
    elif kind == "openai-like":
        base = os.environ.get("OPENAI_API_BASE")
        if not base:
            raise ValueError(f"writer {name!r} needs a server; set OPENAI_API_BASE to its URL, which ends in /v1")
        options |= {"model": model, "temperature": 0.0, "max_tokens": _MAX_TOKENS, "is_chat_model": True}
        options |= {"api_base": base, "api_key": os.environ.get("OPENAI_API_KEY", "none")}
        options |= {"timeout": timeout, "max_retries": 0}
    elif kind == "huggingface":
        options |= {"model_name": model, "tokenizer_name": model, "max_new_tokens": _MAX_TOKENS}
        options |= {"generate_kwargs": {"do_sample": False}, "tokenizer_outputs_to_remove": ["token_type_ids"]}
        options |= {"completion_to_prompt": _chat_prompt(model)}
        options |= {"model_kwargs": {"use_safetensors": True, "trust_remote_code": False}}
    else:
        options |= {"model_path": model, "temperature": 0.0, "max_new_tokens": _MAX_TOKENS, "verbose": False}
    llm: LLM = getattr(module, _INTEGRATIONS[kind])(**options)
    # code has about three characters a token, and models may have less context than was asked for
    most_characters = min(12_000, 3 * (llm.metadata.context_window - _MAX_TOKENS))
    return LLMWriter(llm, name, most_characters=most_characters)


def _chat_prompt(model: str) -> Callable[[str], str] | None:
    """Return what makes a prompt a user's turn; ``None`` for a model that is not made for chats."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if not tokenizer.chat_template:
        return None

    def to_prompt(text: str) -> str:
        chat = [{"role": "user", "content": text}]
        prompt: str = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return prompt.removeprefix(tokenizer.bos_token or "")  # the LLM's own tokenizer puts it there again

    return to_prompt


def _integration(module: str, *, install: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} cannot be imported ({error}): pip install {install}") from error
