"""LLMs in this process: a GGUF file by llama.cpp, and a Hugging Face folder by transformers.

Both use the chat template of the model, and stop generating when the reader of a stream closes it. Markers of the
template in the contents of turns, such as quoted code, are broken (:class:`.Markers`).
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.custom import CustomLLM

from llamaindex_code_retrieval._optional import require
from llamaindex_code_retrieval._settings import PlainErrors
from llamaindex_code_retrieval.chat.markers import Markers

Turn = dict[str, str]

_TEMPLATE_KEY = "tokenizer.chat_template"
"""The key of the chat template in a GGUF file."""


class LocalLLM(PlainErrors, CustomLLM):
    """An LLM that streams its answer to the turns of a chat from this process.

    A text to complete is one turn of the user. The async methods generate in another thread, and leave the event loop
    free.
    """

    model_name: str = Field(description="A file, a folder or a name.")
    context_window: int = Field(ge=1, description="Tokens of a prompt and its answer.")
    max_tokens: int = Field(ge=1, description="Tokens of an answer.")
    _markers: Markers = PrivateAttr(default_factory=lambda: Markers(()))

    @property
    def metadata(self) -> LLMMetadata:
        """The limits of the LLM."""
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.max_tokens,
            model_name=self.model_name,
            is_chat_model=True,
        )

    @abstractmethod
    def _deltas(self, turns: Sequence[Turn]) -> Generator[str]:
        """Yield the pieces of the answer to turns, each with a ``role`` and a ``content``."""

    def _stream(self, messages: Sequence[ChatMessage]) -> Generator[str]:
        contents = (self._markers.break_in(each.content or "") for each in messages)
        turns = [
            {"role": str(each.role.value), "content": content} for each, content in zip(messages, contents, strict=True)
        ]
        return self._deltas(turns)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer."""
        return _response("".join(self._stream(messages)))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Yield the answer as it grows."""
        return _growing(self._stream(messages))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer."""
        return await asyncio.to_thread(lambda: _response("".join(self._stream(messages))))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """Yield the answer as it grows."""
        return _agrowing(self._stream(messages))

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the answer to a turn of the user."""
        return CompletionResponse(text="".join(self._stream([_user(prompt)])))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Yield the answer to a turn of the user as it grows."""
        return (_completion(each) for each in _growing(self._stream([_user(prompt)])))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the answer to a turn of the user."""
        text = await asyncio.to_thread(lambda: "".join(self._stream([_user(prompt)])))
        return CompletionResponse(text=text)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """Yield the answer to a turn of the user as it grows."""
        return (_completion(each) async for each in _agrowing(self._stream([_user(prompt)])))


class LlamaCppLLM(LocalLLM):
    """A GGUF file, which llama.cpp runs with the chat template in the file; greedy decoding.

    The context window is at most the one that the model was trained with. One answer is generated at a time: calls in
    other threads wait. A stream that is neither read to its end nor closed holds up all others.

    Raises:
        ValueError: there is no such file, or llama.cpp cannot read it.
        ImportError: llama-cpp-python is not installed.
    """

    _llama: Any = PrivateAttr()
    _generating: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _thread: int | None = PrivateAttr(default=None)

    def __init__(self, model_name: str | Path, *, context_window: int = 8192, max_tokens: int = 512) -> None:
        super().__init__(model_name=str(model_name), context_window=context_window, max_tokens=max_tokens)
        llama_cpp = require("llama_cpp", extra="llama-cpp", purpose="an LLM in a GGUF file")
        if not Path(model_name).is_file():
            raise ValueError(f"there is no file {model_name}; name a GGUF file")
        try:
            self._llama = llama_cpp.Llama(model_path=str(model_name), n_ctx=context_window, verbose=False)
        except ValueError as error:
            raise ValueError(f"llama.cpp cannot read {model_name} ({error}); name a GGUF file") from error
        # Before the interpreter takes llama_cpp apart, which its own destructor needs.
        weakref.finalize(self, self._llama.close)
        self.context_window = min(context_window, _trained_context(self._llama.metadata, default=context_window))
        self._markers = Markers.of_tokenizer(
            control=_tokens(self._llama, llama_cpp.LLAMA_TOKEN_ATTR_CONTROL),
            added=_tokens(self._llama, llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED),
            template=self._llama.metadata.get(_TEMPLATE_KEY),
        )

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "LlamaCppLLM"

    def _deltas(self, turns: Sequence[Turn]) -> Generator[str]:
        if self._thread == threading.get_ident():
            raise RuntimeError(f"{self.model_name} is still answering: read its stream to the end, or close it, first")
        with self._generating:
            self._thread = threading.get_ident()
            try:
                yield from self._generate(turns)
            finally:
                self._thread = None

    def _generate(self, turns: Sequence[Turn]) -> Iterator[str]:
        options = {"temperature": 0.0, "max_tokens": self.max_tokens, "stream": True}
        if _TEMPLATE_KEY not in self._llama.metadata:  # llama-cpp-python would use that of Llama 2
            for piece in self._llama.create_completion(_plain(turns), **options):
                yield piece["choices"][0]["text"]
            return
        try:
            pieces = self._llama.create_chat_completion(turns, **options)
        except Exception:  # whatever the template raises, such as jinja2's errors
            merged = _without_system(turns)
            if merged == turns:
                raise
            pieces = self._llama.create_chat_completion(merged, **options)
        for piece in pieces:
            yield piece["choices"][0]["delta"].get("content") or ""


class TransformersLLM(LocalLLM):
    """A causal language model by transformers, from a folder or the hub; greedy decoding, weights in safetensors.

    Prompts are made by the tokenizer's chat template. Without one, they are the texts of the turns. The context window
    is at most that of the model.

    Raises:
        ValueError: there is no such model, it cannot be read, or this machine has no such ``device``.
    """

    _tokenizer: Any = PrivateAttr()
    _model: Any = PrivateAttr()

    def __init__(
        self,
        model_name: str | Path,
        *,
        context_window: int = 8192,
        max_tokens: int = 512,
        device: str | None = None,
    ) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        from llamaindex_code_retrieval.models.device import resolve_device

        super().__init__(model_name=str(model_name), context_window=context_window, max_tokens=max_tokens)
        target = resolve_device(device)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model_name, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(model_name, use_safetensors=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"{model_name} cannot be loaded as a causal language model ({error}); name its folder, with weights in "
                "safetensors, or its name on the hub"
            ) from error
        self._model = model.to(target).eval()
        positions = getattr(model.config, "max_position_embeddings", None)
        self.context_window = min(context_window, positions or context_window)
        added = self._tokenizer.added_tokens_decoder.values()
        self._markers = Markers.of_tokenizer(
            control=[*self._tokenizer.all_special_tokens, *(str(each) for each in added if each.special)],
            added=map(str, added),
            template=self._tokenizer.get_chat_template() if self._tokenizer.chat_template else None,
        )

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "TransformersLLM"

    def _deltas(self, turns: Sequence[Turn]) -> Generator[str]:
        from transformers import TextIteratorStreamer

        encoded = self._encoded(turns)
        inputs = {name: encoded[name].to(self._model.device) for name in ("input_ids", "attention_mask")}
        room = self.context_window - inputs["input_ids"].shape[1]
        if room < 1:
            raise ValueError(
                f"the prompt has {inputs['input_ids'].shape[1]} tokens and {self.model_name} reads "
                f"{self.context_window}; ask with fewer or shorter passages"
            )
        streamer = TextIteratorStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)
        run = _Generation(self._model, {**inputs, "streamer": streamer, "max_new_tokens": min(self.max_tokens, room)})
        run.start()
        try:
            yield from streamer
        finally:
            run.stop()
        run.check()

    def _encoded(self, turns: Sequence[Turn]) -> Any:
        if not self._tokenizer.chat_template:
            return self._tokenizer(_plain(turns), return_tensors="pt")
        options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        try:
            return self._tokenizer.apply_chat_template(turns, **options)
        except Exception:  # whatever the template raises, such as jinja2's errors
            merged = _without_system(turns)
            if merged == turns:
                raise
            return self._tokenizer.apply_chat_template(merged, **options)


class _Generation:
    """``model.generate`` in a thread, which ends the streamer also after an error, and can be stopped."""

    def __init__(self, model: Any, options: Mapping[str, Any]) -> None:
        self._model = model
        self._options = options
        self._stopped = threading.Event()
        self._errors: SimpleQueue[BaseException] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        from transformers import StoppingCriteriaList

        greedy = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        try:
            self._model.generate(**self._options, **greedy, stopping_criteria=StoppingCriteriaList([self._is_stopped]))
        except BaseException as error:
            self._errors.put(error)
            self._options["streamer"].end()

    def _is_stopped(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        return torch.full((len(input_ids),), self._stopped.is_set(), device=input_ids.device)

    def stop(self) -> None:
        """End the generation after the next token."""
        self._stopped.set()
        self._thread.join()

    def check(self) -> None:
        """Raise the error that ended the generation, if one did."""
        if not self._errors.empty():
            raise self._errors.get()


def _trained_context(metadata: Mapping[str, str], *, default: int) -> int:
    """Return the context window that a GGUF file says its model was trained with."""
    value = metadata.get(f"{metadata.get('general.architecture')}.context_length", "")
    return int(value) if value.isdecimal() else default


def _tokens(llama: Any, attribute: int) -> list[str]:
    """Return the texts of the tokens that have an attribute."""
    api = require("llama_cpp", extra="llama-cpp")
    vocabulary = api.llama_model_get_vocab(llama.model)
    return [
        api.llama_vocab_get_text(vocabulary, token).decode("utf-8", "replace")
        for token in range(llama.n_vocab())
        if api.llama_vocab_get_attr(vocabulary, token) & attribute
    ]


def _without_system(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns with the system's text before that of the first user's, for templates without a system role.

    >>> _without_system([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}])
    [{'role': 'user', 'content': 'Be brief.\\n\\nWhy?'}]
    """
    system = [each["content"] for each in turns if each["role"] == "system"]
    others = [each for each in turns if each["role"] != "system"]
    if not (system and others):
        return list(turns)
    first = {"role": others[0]["role"], "content": "\n\n".join([*system, others[0]["content"]])}
    return [first, *others[1:]]


def _plain(turns: Sequence[Turn]) -> str:
    return "\n\n".join(each["content"] for each in turns)


def _user(prompt: str) -> ChatMessage:
    return ChatMessage(content=prompt, role=MessageRole.USER)


def _response(text: str, delta: str | None = None) -> ChatResponse:
    return ChatResponse(message=ChatMessage(content=text, role=MessageRole.ASSISTANT), delta=delta)


def _completion(response: ChatResponse) -> CompletionResponse:
    return CompletionResponse(text=response.message.content or "", delta=response.delta)


def _growing(deltas: Iterator[str]) -> ChatResponseGen:
    text = ""
    for delta in deltas:
        text += delta
        yield _response(text, delta)


async def _agrowing(deltas: Generator[str]) -> ChatResponseAsyncGen:
    text = ""
    pending: asyncio.Future[str | None] | None = None
    try:
        while True:
            pending = asyncio.ensure_future(asyncio.to_thread(next, deltas, None))
            delta = await asyncio.shield(pending)
            if delta is None:
                return
            text += delta
            yield _response(text, delta)
    finally:
        if pending is not None and not pending.done():  # cancelled: a generator that is running cannot be closed
            await asyncio.wait([pending])
        deltas.close()
