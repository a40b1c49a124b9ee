"""LLMs by specification, such as ``ollama:qwen2.5-coder`` or ``llama-cpp:model.gguf``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from llamaindex_code_retrieval._optional import Extra, require

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

EXTRACTIVE = "extractive"
LLM_FORMS = f"{EXTRACTIVE}, ollama:MODEL[@URL], openai-like:MODEL@URL, llama-cpp:FILE.gguf, huggingface:FOLDER"
"""The forms of a specification, for messages and help."""

Kind = Literal["extractive", "ollama", "openai-like", "llama-cpp", "huggingface"]
_SPECIFICATION = re.compile(
    r"(?P<kind>extractive)|(?P<local>llama-cpp|huggingface):(?P<path>.+)"
    r"|(?P<server>ollama|openai-like):(?P<model>.+?)(?:@(?P<url>https?://\S+))?",
    re.DOTALL,
)
_OLLAMA_URL = "http://localhost:11434"
_URL_VARIABLE, _KEY_VARIABLE = "OPENAI_API_BASE", "OPENAI_API_KEY"
_TIMEOUT = 60.0
_LOOK_SECONDS = 5.0  # to see whether a server answers at all


@dataclass(frozen=True, slots=True)
class LLMSpec:
    """What a specification of an LLM names."""

    kind: Kind
    model: str = ""
    """A model's name, a file or a folder."""
    url: str | None = None
    """Of the server, for LLMs behind a network."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what a specification names.

        The URL of ``openai-like`` is by default ``$OPENAI_API_BASE``, that of ``ollama`` the one of this machine.

        >>> LLMSpec.parse("openai-like:qwen@http://localhost:8000/v1")
        LLMSpec(kind='openai-like', model='qwen', url='http://localhost:8000/v1')

        Raises:
            ValueError: it has none of the known forms, or no URL and needs one.
        """
        match = _SPECIFICATION.fullmatch(text)
        if match is None:
            raise ValueError(f"unknown LLM {text!r}; use one of {LLM_FORMS}")
        kind = cast(Kind, match["kind"] or match["local"] or match["server"])
        url = match["url"]
        if kind == "ollama":
            url = url or _OLLAMA_URL
        elif kind == "openai-like" and url is None:
            url = os.environ.get(_URL_VARIABLE)
            if not url:
                raise ValueError(
                    f"{text!r} needs the URL of a server, which ends in /v1: write {text}@URL, or set {_URL_VARIABLE}"
                )
        return cls(kind, match["path"] or match["model"] or "", url)

    def __str__(self) -> str:
        """Return the specification without a password in its URL."""
        server = f"@{public_url(self.url)}" if self.url else ""
        return self.kind + (f":{self.model}{server}" if self.model else "")


def load_llm(
    specification: str, *, timeout: float | None = None, max_tokens: int = 512, context_window: int = 8192
) -> LLM:
    """Return the LLM that a specification names, with greedy decoding.

    ``ollama:MODEL[@URL]`` and ``openai-like:MODEL[@URL]`` are servers, with ``$OPENAI_API_KEY`` if the second requires
    a key. ``llama-cpp:FILE.gguf`` and ``huggingface:FOLDER`` (or a name on the hub) run in this process.
    ``extractive`` uses no language model and quotes the best passages.

    Args:
        specification: one of these forms.
        timeout: seconds to wait for a server, by default 60; the others have none.
        max_tokens: tokens of an answer.
        context_window: tokens of a prompt and its answer; fewer if the model has a smaller window.

    Raises:
        ValueError: an unknown form, or a model that cannot be loaded.
        ImportError: a package is not installed; the message names the extra.
    """
    spec = LLMSpec.parse(specification)
    if spec.kind == "extractive":
        from llamaindex_code_retrieval.chat.extractive import ExtractiveLLM

        return ExtractiveLLM()
    if spec.kind == "llama-cpp":
        from llamaindex_code_retrieval.chat.local_llm import LlamaCppLLM

        return LlamaCppLLM(spec.model, context_window=context_window, max_tokens=max_tokens)
    if spec.kind == "huggingface":
        from llamaindex_code_retrieval.chat.local_llm import TransformersLLM

        return TransformersLLM(spec.model, context_window=context_window, max_tokens=max_tokens)
    load = _ollama if spec.kind == "ollama" else _openai_like
    wait = _TIMEOUT if timeout is None else timeout
    return load(spec, wait, context_window=context_window, max_tokens=max_tokens)


def _ollama(spec: LLMSpec, timeout: float, *, context_window: int, max_tokens: int) -> LLM:
    llm: LLM = _integration("ollama", extra="ollama").Ollama(
        spec.model,
        base_url=spec.url,
        request_timeout=timeout,
        context_window=context_window,
        temperature=0.0,
        additional_kwargs={"num_predict": max_tokens},
    )
    return llm


def _openai_like(spec: LLMSpec, timeout: float, *, context_window: int, max_tokens: int) -> LLM:
    llm: LLM = _integration("openai_like", extra="openai-like").OpenAILike(
        model=spec.model,
        api_base=spec.url,
        api_key=os.environ.get(_KEY_VARIABLE, "none"),
        timeout=timeout,
        max_retries=0,
        context_window=context_window,
        max_tokens=max_tokens,
        temperature=0.0,
        is_chat_model=True,
    )
    return llm


def _integration(name: str, *, extra: Extra) -> Any:
    return require(f"llama_index.llms.{name}", extra=extra)


def check_server(spec: LLMSpec) -> None:
    """Check that something answers at the URL of a specification, if it has one.

    Raises:
        ConnectionError: nothing does.
    """
    if spec.url is None:
        return
    import httpx  # comes with the clients of both kinds of servers

    try:
        httpx.get(spec.url, timeout=_LOOK_SECONDS)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise ConnectionError(
            f"no server answers at {public_url(spec.url)} ({error}); start it, or name another URL or LLM"
        ) from error
    except httpx.HTTPError:  # a server that is slow or refuses this path is a server
        return


def describe_failure(error: Exception, spec: LLMSpec) -> str:
    """Return what to tell the user when an LLM failed to answer."""
    place = f" at {public_url(spec.url)}" if spec.url else ""
    name = f"{spec.kind}:{spec.model}" if spec.model else spec.kind
    kinds = {each.__name__ for each in type(error).__mro__}
    if any("Timeout" in each for each in kinds):
        return f"{name}{place} did not answer in time; wait longer with --timeout, or use a smaller model"
    if spec.url and kinds & {"ConnectionError", "ConnectError", "APIConnectionError"}:
        return f"no server answers{place} ({error}); start it, or name another URL or LLM"
    return f"{name}{place} failed: {type(error).__name__}: {error}"


def public_url(url: str) -> str:
    """Return a URL without what may be secret: user, password, parameters.

    >>> public_url("https://me:secret@host/v1?key=secret")
    'https://host/v1'
    """
    return re.sub(r"(?<=//)[^/@]*@|[?#].*", "", url)
