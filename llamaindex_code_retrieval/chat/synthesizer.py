"""``CitingSynthesizer``: one call of an LLM with instructions, quoted passages, the history and the question."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from itertools import dropwhile
from typing import Any, cast

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.response_synthesizers import BaseSynthesizer

from llamaindex_code_retrieval.chat.passages import QUOTATION_RULE

NO_HIT = "Nothing was found in the code for this question. Ask it in other words, or search more of the code."
"""The answer where there are no passages; no LLM is called."""
CITING = (
    "You answer questions about a code base from the numbered passages below, which are quoted from its files. "
    "After each statement cite the passage that shows it by its number, such as [1]. Name functions, classes and files "
    "as they are written in the passages. If the passages do not answer the question, say so."
)
PLAIN = (
    "You answer questions about a code base from the passages below, which are quoted from its files. "
    "If the passages do not answer the question, say so."
)


def system_template(instructions: str) -> PromptTemplate:
    """Return the template of the system's message: instructions, the rule about quotations, the passages."""
    return PromptTemplate(f"{instructions}\n{QUOTATION_RULE}\n\nPassages:\n\n{{context_str}}")


class CitingSynthesizer(BaseSynthesizer):
    """Answers by one call of the LLM; without passages it answers ``NO_HIT`` and calls none.

    LlamaIndex's synthesizers either turn an error of the LLM into an empty answer (``CompactAndRefine``), or show the
    passages as a Python list (``SimpleSummarize``). Here errors are raised, and the texts of the passages and of the
    history reach the LLM as they are.
    """

    def __init__(
        self,
        llm: LLM,
        *,
        template: PromptTemplate,
        history: Sequence[ChatMessage] = (),
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(llm=llm, callback_manager=callback_manager, streaming=streaming, empty_response=NO_HIT)
        self._template = template
        # A memory may begin with an answer whose question it has dropped; chat templates want a user's turn first.
        self._history = list(dropwhile(lambda message: message.role != MessageRole.USER, history))

    def _get_prompts(self) -> PromptDictType:
        return {"system_template": self._template}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        if "system_template" in prompts:
            self._template = cast(PromptTemplate, prompts["system_template"])

    def _messages(self, query_str: str, text_chunks: Sequence[str]) -> list[ChatMessage]:
        system = self._template.format(context_str="\n\n".join(text_chunks))
        return [
            ChatMessage(content=system, role=self._llm.metadata.system_role),
            *self._history,
            ChatMessage(content=query_str, role=MessageRole.USER),
        ]

    def get_response(self, query_str: str, text_chunks: Sequence[str], **_: Any) -> str | Generator[str, None, None]:
        """Return the answer, or a generator of its pieces if streaming."""
        messages = self._messages(query_str, text_chunks)
        if self._streaming:
            return _pieces(self._llm.stream_chat(messages))
        return self._llm.chat(messages).message.content or ""

    async def aget_response(
        self, query_str: str, text_chunks: Sequence[str], **_: Any
    ) -> str | AsyncGenerator[str, None]:
        """Return the answer, or a generator of its pieces if streaming."""
        messages = self._messages(query_str, text_chunks)
        if self._streaming:
            return _apieces(await self._llm.astream_chat(messages))
        return (await self._llm.achat(messages)).message.content or ""


def _pieces(responses: Generator[ChatResponse, None, None]) -> Generator[str, None, None]:
    with closing(responses):
        for response in responses:
            yield response.delta or ""


async def _apieces(responses: AsyncGenerator[ChatResponse, None]) -> AsyncGenerator[str, None]:
    async with aclosing(responses):
        async for response in responses:
            yield response.delta or ""
