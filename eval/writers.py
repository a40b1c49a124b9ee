"""Writers: they turn a question and passages into an answer."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llama_index.core.llms import LLM
    from llama_index.core.llms.llm import CompletionToPromptType


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
        settings = {"llm": _public_settings(llm.to_dict()), "max_characters": max_characters, "prompt": _PROMPT}
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


def _public_settings(value: Any) -> Any:
    """Return an LLM's fields as plain values without secrets; of any other object the name of its class."""
    if isinstance(value, Mapping):
        return {str(key): _public_settings(each) for key, each in value.items() if not _HIDDEN.search(str(key))}
    if isinstance(value, list | tuple):
        return [_public_settings(each) for each in value]
    if isinstance(value, str) and re.match(r"https?://", value):  # may hold a password, or a key as a parameter
        return re.sub(r"(?<=//)[^/@]*@|[?#].*", "", value)
    return value if isinstance(value, str | int | float | None) else type(value).__name__


_INTEGRATIONS = {
    "ollama": "Ollama",
    "openai-like": "OpenAILike",
    "huggingface": "HuggingFaceLLM",
    "llama-cpp": "LlamaCPP",
}
_MAX_TOKENS = 512  # of an answer; the references of SWE-QA have about 290 words
_CONTEXT_WINDOW = 8192  # tokens
_CHARACTERS_PER_TOKEN = 3  # of code


def load_writer(name: str, *, timeout: float) -> Writer:
    """Return ``extractive``, or an LLM as a greedy writer; ``timeout`` (seconds) is for LLMs behind a network.

    LLMs are ``ollama:MODEL``, ``openai-like:MODEL`` (at ``$OPENAI_API_BASE``, with ``$OPENAI_API_KEY`` if the server
    requires one), ``huggingface:MODEL-OR-FOLDER`` and ``llama-cpp:FILE.gguf``. The prompt is a user's turn of a chat if
    the model has a chat template.

    Raises:
        ValueError: the name is unknown, or ``$OPENAI_API_BASE`` is needed and not set.
        ImportError: LlamaIndex's integration is not installed.
    """
    if name == "extractive":
        return ExtractiveWriter()
    kind, _, model = name.partition(":")
    if kind not in _INTEGRATIONS or not model:
        known = "extractive, ollama:MODEL, openai-like:MODEL, huggingface:MODEL-OR-FOLDER, llama-cpp:FILE.gguf"
        raise ValueError(f"unknown writer {name!r}; use one of {known}")
    module = _integration(f"llama_index.llms.{kind.replace('-', '_')}", install=f"llama-index-llms-{kind}")
    llm: LLM = getattr(module, _INTEGRATIONS[kind])(**_options(kind, model, timeout))
    if kind == "llama-cpp":
        model_of_file: Any = getattr(llm, "_model")  # noqa: B009  # a llama_cpp.Llama, which LLM does not declare
        template = model_of_file.metadata.get("tokenizer.chat_template")
        if template:
            eos_token = model_of_file._model.token_get_text(model_of_file.token_eos())
            llm.completion_to_prompt = user_turn(template, eos_token=eos_token)
    # The model's context may be shorter than the requested window.
    tokens = min(llm.metadata.context_window, _CONTEXT_WINDOW) - _MAX_TOKENS
    return LLMWriter(llm, name, max_characters=min(12_000, _CHARACTERS_PER_TOKEN * tokens))


def _options(kind: str, model: str, timeout: float) -> dict[str, Any]:
    """Return the arguments of the LLM's class: greedy decoding of at most ``_MAX_TOKENS`` tokens."""
    common: dict[str, Any] = {"context_window": _CONTEXT_WINDOW}
    if kind == "ollama":
        limits = {"request_timeout": timeout, "additional_kwargs": {"num_predict": _MAX_TOKENS}}
        return {**common, **limits, "model": model, "temperature": 0.0}
    if kind == "openai-like":
        base = os.environ.get("OPENAI_API_BASE")
        if not base:
            raise ValueError(
                f"writer 'openai-like:{model}' needs a server; set OPENAI_API_BASE to its URL, which ends in /v1"
            )
        server = {"api_base": base, "api_key": os.environ.get("OPENAI_API_KEY", "none")}
        limits = {"timeout": timeout, "max_retries": 0, "max_tokens": _MAX_TOKENS}
        return {**common, **server, **limits, "model": model, "temperature": 0.0, "is_chat_model": True}
    if kind == "huggingface":
        return {
            **common,
            "model_name": model,
            "tokenizer_name": model,
            "max_new_tokens": _MAX_TOKENS,
            "generate_kwargs": {"do_sample": False},
            "tokenizer_outputs_to_remove": ["token_type_ids"],
            "completion_to_prompt": _hub_chat_prompt(model),
            "model_kwargs": {"use_safetensors": True, "trust_remote_code": False},
        }
    return {**common, "model_path": model, "temperature": 0.0, "max_new_tokens": _MAX_TOKENS, "verbose": False}


def _hub_chat_prompt(model: str) -> CompletionToPromptType | None:
    """Return what makes a prompt a user's turn; ``None`` for a model without a chat template."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    if not tokenizer.chat_template:
        return None
    return user_turn(tokenizer.get_chat_template(), eos_token=tokenizer.eos_token or "")


def user_turn(chat_template: str, *, eos_token: str = "") -> CompletionToPromptType:
    """Return a function that makes a text the user's turn of a chat, up to where the model's answer begins.

    ``chat_template`` is Jinja, as in ``tokenizer_config.json`` or a GGUF file. The prompt has no BOS token, because the
    LLM's tokenizer adds it.

    >>> user_turn("{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}")("Why?")
    '<user>Why?'
    """
    from transformers.utils.chat_template_utils import render_jinja_template

    def to_prompt(prompt: str) -> str:
        chat = [{"role": "user", "content": prompt}]
        texts, _ = render_jinja_template(
            [chat], chat_template=chat_template, add_generation_prompt=True, bos_token="", eos_token=eos_token
        )
        return str(texts[0])

    return to_prompt


def _integration(module: str, *, install: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} cannot be imported ({error}): pip install {install}") from error
