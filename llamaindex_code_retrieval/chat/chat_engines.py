"""LlamaIndex's chat engines with an answer that cites, can be stopped, and is remembered only if there is one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.callbacks import trace_method
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.chat_engine.types import BaseChatEngine, StreamingAgentChatResponse
from llama_index.core.llms import LLM
from llama_index.core.memory import BaseMemory
from llama_index.core.prompts import PromptTemplate
from llama_index.core.response_synthesizers import BaseSynthesizer
from llama_index.core.schema import NodeWithScore
from llama_index.core.tools import ToolOutput

from llamaindex_code_retrieval.chat.follow_ups import completed
from llamaindex_code_retrieval.chat.question import MAX_QUESTION, check_question
from llamaindex_code_retrieval.chat.synthesizer import CitingSynthesizer


class _Answers(BaseChatEngine):
    """What both engines share: the synthesizer, and streams that are read by the caller.

    LlamaIndex reads the LLM's stream in a thread of its own, which goes on when the caller stops, and remembers a
    question even if the LLM fails. Here the caller's loop over the stream reads the LLM. Closing the stream stops the
    LLM. When the stream ends or is closed, question and answer are remembered together; after an error neither is.
    """

    template: PromptTemplate
    """The system's message, with ``{context_str}`` for the passages."""
    _llm: LLM
    _memory: BaseMemory
    callback_manager: Any

    def _synthesizer(self, history: list[ChatMessage], *, streaming: bool) -> CitingSynthesizer:
        return CitingSynthesizer(
            self._llm,
            template=self.template,
            history=history,
            streaming=streaming,
            callback_manager=self.callback_manager,
        )

    def _streamed(
        self, message: str, passages: list[NodeWithScore], synthesizer: BaseSynthesizer
    ) -> StreamingAgentChatResponse:
        response = synthesizer.synthesize(message, passages)
        assert isinstance(response, StreamingResponse)
        return StreamingAgentChatResponse(
            chat_stream=self._remembered(message, response.response_gen),
            sources=[_source(message, passages)],
            source_nodes=passages,
            is_writing_to_memory=False,
        )

    async def _astreamed(
        self, message: str, passages: list[NodeWithScore], synthesizer: BaseSynthesizer
    ) -> StreamingAgentChatResponse:
        response = await synthesizer.asynthesize(message, passages)
        assert isinstance(response, AsyncStreamingResponse)
        return StreamingAgentChatResponse(
            achat_stream=self._aremembered(message, response.response_gen),
            sources=[_source(message, passages)],
            source_nodes=passages,
            is_writing_to_memory=False,
        )

    def _remembered(self, message: str, pieces: Generator[str, None, None]) -> Generator[ChatResponse, None, None]:
        text, failed = "", False
        try:
            for piece in pieces:
                text += piece
                yield _growing(text, piece)
        except Exception:
            failed = True
            raise
        finally:
            pieces.close()
            if text and not failed:
                self._memory.put_messages(_pair(message, text))

    async def _aremembered(self, message: str, pieces: AsyncGenerator[str, None]) -> AsyncGenerator[ChatResponse, None]:
        text, failed = "", False
        try:
            async for piece in pieces:
                text += piece
                yield _growing(text, piece)
        except Exception:
            failed = True
            raise
        finally:
            await pieces.aclose()
            if text and not failed:
                await self._memory.aput_messages(_pair(message, text))


class CodeChatEngine(_Answers, ContextChatEngine):
    """A ``ContextChatEngine`` that searches for a follow-up together with the question that it follows."""

    complete_follow_ups: bool = True

    def _get_response_synthesizer(  # type: ignore[override]  # used as a BaseSynthesizer only
        self, chat_history: list[ChatMessage], streaming: bool = False
    ) -> CitingSynthesizer:
        return self._synthesizer(chat_history, streaming=streaming)

    def _get_nodes(self, message: str) -> list[NodeWithScore]:
        check_question(message)
        history = self._memory.get_all() if self.complete_follow_ups else []
        return super()._get_nodes(completed(message, history))

    async def _aget_nodes(self, message: str) -> list[NodeWithScore]:
        check_question(message)
        history = await self._memory.aget_all() if self.complete_follow_ups else []
        return await super()._aget_nodes(completed(message, history))

    @trace_method("chat")
    def stream_chat(
        self,
        message: str,
        chat_history: list[ChatMessage] | None = None,
        prev_chunks: list[NodeWithScore] | None = None,
    ) -> StreamingAgentChatResponse:
        """Return an answer that the caller's loop over ``response_gen`` reads from the LLM."""
        if chat_history is not None:
            self._memory.set(chat_history)
        passages = self._get_nodes(message) or prev_chunks or []
        synthesizer = self._synthesizer(self._memory.get(input=message), streaming=True)
        return self._streamed(message, passages, synthesizer)

    @trace_method("chat")
    async def astream_chat(
        self,
        message: str,
        chat_history: list[ChatMessage] | None = None,
        prev_chunks: list[NodeWithScore] | None = None,
    ) -> StreamingAgentChatResponse:
        """Return an answer that the caller's loop over ``async_response_gen()`` reads from the LLM."""
        if chat_history is not None:
            await self._memory.aset(chat_history)
        passages = await self._aget_nodes(message) or prev_chunks or []
        synthesizer = self._synthesizer(await self._memory.aget(input=message), streaming=True)
        return await self._astreamed(message, passages, synthesizer)


class CondensingCodeChatEngine(_Answers, CondensePlusContextChatEngine):
    """A ``CondensePlusContextChatEngine``, in which the LLM rewrites follow-up questions."""

    def _get_response_synthesizer(  # type: ignore[override]  # used as a BaseSynthesizer only
        self, chat_history: list[ChatMessage], streaming: bool = False
    ) -> CitingSynthesizer:
        return self._synthesizer(chat_history, streaming=streaming)

    def _condense_question(self, chat_history: list[ChatMessage], latest_message: str) -> str:
        check_question(latest_message)
        return _bounded(super()._condense_question(chat_history, latest_message)) or latest_message

    async def _acondense_question(self, chat_history: list[ChatMessage], latest_message: str) -> str:
        check_question(latest_message)
        return _bounded(await super()._acondense_question(chat_history, latest_message)) or latest_message

    @trace_method("chat")
    def stream_chat(self, message: str, chat_history: list[ChatMessage] | None = None) -> StreamingAgentChatResponse:
        """Return an answer that the caller's loop over ``response_gen`` reads from the LLM."""
        synthesizer, _, passages = self._run_c3(message, chat_history, streaming=True)
        return self._streamed(message, passages, synthesizer)

    @trace_method("chat")
    async def astream_chat(
        self, message: str, chat_history: list[ChatMessage] | None = None
    ) -> StreamingAgentChatResponse:
        """Return an answer that the caller's loop over ``async_response_gen()`` reads from the LLM."""
        synthesizer, _, passages = await self._arun_c3(message, chat_history, streaming=True)
        return await self._astreamed(message, passages, synthesizer)


def _bounded(question: str) -> str:
    """Return a question that an LLM has written, cut at the longest one that is searched for."""
    return question.strip()[:MAX_QUESTION]


def _pair(message: str, answer: str) -> list[ChatMessage]:
    return [
        ChatMessage(content=message, role=MessageRole.USER),
        ChatMessage(content=answer.strip(), role=MessageRole.ASSISTANT),
    ]


def _growing(text: str, piece: str) -> ChatResponse:
    return ChatResponse(message=ChatMessage(content=text, role=MessageRole.ASSISTANT), delta=piece)


def _source(message: str, passages: list[NodeWithScore]) -> ToolOutput:
    return ToolOutput(tool_name="retriever", content=str(passages), raw_input={"message": message}, raw_output=passages)
