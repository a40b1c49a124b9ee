"""Chat and query engines: what the LLM gets, what is remembered, and what happens when it fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.llms import LLM, ChatMessage, CompletionResponse, CustomLLM, LLMMetadata, MockLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore
from pydantic import PrivateAttr

from llamaindex_code_retrieval import CodeIndex
from llamaindex_code_retrieval.chat.engines import code_chat_engine, code_query_engine
from llamaindex_code_retrieval.chat.passages import QUOTATION_RULE
from llamaindex_code_retrieval.chat.question import MAX_QUESTION
from llamaindex_code_retrieval.chat.synthesizer import CITING, NO_HIT
from tests.indexes import HashEmbedding

SOURCES = {
    "cart.py": "class Cart:\n    def total(self):\n        return sum(self.prices)\n\n    def clear(self):\n"
    "        self.prices = []\n",
    "mail.py": "def send_receipt(address):\n    text = '{context_str} {query_str} {x}'\n    return connect(text)\n",
}
QUESTION = "how is the total of a cart computed"


class ScriptedLLM(CustomLLM):
    """An LLM peer: keeps its prompts, and streams ``answer`` by words; fails after ``fails_after`` of them."""

    answer: str = "It sums the prices [1]."
    fails_after: int | None = None
    context_window: int = 8192
    num_output: int = 64
    _prompts: list[str] = PrivateAttr(default_factory=list)
    _closed: list[bool] = PrivateAttr(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=self.context_window, num_output=self.num_output)

    def _words(self, prompt: str) -> Iterator[str]:
        self._prompts.append(prompt)
        words = self.answer.split(" ")
        try:
            for i, word in enumerate(words):
                if i == self.fails_after:
                    raise ConnectionError("the server has gone")
                yield word if i == 0 else f" {word}"
        finally:
            self._closed.append(True)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text="".join(self._words(prompt)))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        def grow() -> Iterator[CompletionResponse]:
            text = ""
            for word in self._words(prompt):
                text += word
                yield CompletionResponse(text=text, delta=word)

        return grow()


@pytest.fixture
def index() -> Iterator[CodeIndex[HashEmbedding]]:
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts(SOURCES)
        yield index


def engine_of(index: CodeIndex[Any], llm: LLM, **options: Any) -> Any:
    return code_chat_engine(index, llm=llm, top_k=3, **options)


def remembered(engine: Any) -> list[str]:
    return [message.content for message in engine.chat_history]


# --- what the LLM gets ------------------------------------------------------------------------------------------------


def test_the_llm_gets_rules_passages_and_question_as_they_are(index: CodeIndex[Any]) -> None:
    llm = ScriptedLLM()
    response = engine_of(index, llm, mode="bm25").chat(QUESTION)
    [prompt] = llm._prompts
    assert prompt.index(CITING) < prompt.index(QUOTATION_RULE) < prompt.index("[1] cart.py:") < prompt.index(QUESTION)
    assert response.response == "It sums the prices [1]."
    assert response.source_nodes[0].node.metadata["scope"] == "Cart.total"
    engine_of(index, llm, mode="bm25").chat("send receipt")
    assert "'{context_str} {query_str} {x}'" in llm._prompts[-1]  # code is not a template


def test_the_engines_are_those_of_llamaindex(index: CodeIndex[Any]) -> None:
    assert isinstance(code_chat_engine(index, llm=MockLLM()), ContextChatEngine)
    condensing = code_chat_engine(index, llm=MockLLM(), chat_mode="condense_plus_context")
    assert isinstance(condensing, CondensePlusContextChatEngine)
    assert isinstance(code_query_engine(index, llm=MockLLM()), RetrieverQueryEngine)
    with pytest.raises(ValueError, match="chat_mode must be"):
        code_chat_engine(index, llm=MockLLM(), chat_mode="best")  # type: ignore[arg-type]


def test_sync_async_and_streams_give_one_answer_and_one_memory(index: CodeIndex[Any]) -> None:
    async def astream(engine: Any) -> str:
        response = await engine.astream_chat(QUESTION)
        return "".join([piece async for piece in response.async_response_gen()])

    for mode in ("context", "condense_plus_context"):
        llm = ScriptedLLM()
        engine = engine_of(index, llm, chat_mode=mode)
        expected = [QUESTION, llm.answer]
        assert engine.chat(QUESTION).response == llm.answer
        assert remembered(engine) == expected
        assert "".join(engine.stream_chat(QUESTION).response_gen) == llm.answer
        assert remembered(engine) == expected * 2
        assert asyncio.run(engine.achat(QUESTION)).response == llm.answer
        assert asyncio.run(astream(engine)) == llm.answer
        assert remembered(engine) == expected * 4
        engine.reset()
        assert remembered(engine) == []


def test_query_engines_answer_in_all_four_ways(index: CodeIndex[Any]) -> None:
    llm = ScriptedLLM()
    engine = code_query_engine(index, llm=llm)
    assert str(engine.query(QUESTION)) == str(asyncio.run(engine.aquery(QUESTION))) == llm.answer
    streaming = code_query_engine(index, llm=llm, citations=False, streaming=True)
    assert "".join(streaming.query(QUESTION).response_gen) == llm.answer  # type: ignore[union-attr]

    async def astream() -> str:
        response: Any = await streaming.aquery(QUESTION)
        return "".join([piece async for piece in response.async_response_gen()])

    assert asyncio.run(astream()) == llm.answer
    assert CITING in llm._prompts[0]
    assert CITING not in llm._prompts[-1]


def test_a_reranker_comes_before_the_context(index: CodeIndex[Any]) -> None:
    from llama_index.core.postprocessor.types import BaseNodePostprocessor

    class Last(BaseNodePostprocessor):
        def _postprocess_nodes(self, nodes: list[NodeWithScore], query_bundle: Any = None) -> list[NodeWithScore]:
            return nodes[-1:]

    found = index.search(QUESTION, top_k=3)
    response = engine_of(index, ScriptedLLM(), reranker=Last()).chat(QUESTION)
    assert [hit.node_id for hit in response.source_nodes] == [found[-1].node_id]


def test_the_history_in_a_prompt_has_a_limit(index: CodeIndex[Any]) -> None:
    llm = ScriptedLLM()
    engine = engine_of(index, llm, memory_tokens=60, complete_follow_ups=False)
    for i in range(9):
        engine.chat(f"question{i} about the cart")
    assert "question8" in llm._prompts[-1]
    assert "question7" in llm._prompts[-1]
    assert "question0" not in llm._prompts[-1]
    short = engine_of(index, llm, memory_tokens=3)  # less than an answer has
    short.chat(QUESTION)
    short.chat(QUESTION)
    assert llm.answer not in llm._prompts[-1]


# --- no hit, no answer, no room ---------------------------------------------------------------------------------------


def test_without_hits_no_llm_is_called() -> None:
    llm = ScriptedLLM()
    with CodeIndex(HashEmbedding()) as empty:
        assert engine_of(empty, llm).chat(QUESTION).response == NO_HIT
        assert "".join(engine_of(empty, llm).stream_chat(QUESTION).response_gen) == NO_HIT
        assert str(code_query_engine(empty, llm=llm).query(QUESTION)) == NO_HIT
    assert llm._prompts == []


@pytest.mark.parametrize("question", ["", " \n", "x" * (MAX_QUESTION + 1), "why " * 250_000])
def test_an_empty_or_endless_question_is_refused_before_the_llm(index: CodeIndex[Any], question: str) -> None:
    llm = ScriptedLLM()
    condensing = engine_of(index, llm, chat_mode="condense_plus_context")
    condensing.chat(QUESTION)
    calls = len(llm._prompts)
    for ask in (engine_of(index, llm).chat, engine_of(index, llm).stream_chat, condensing.chat):
        with pytest.raises(ValueError, match="the question"):
            ask(question)
    with pytest.raises(ValueError, match="the question"):
        code_query_engine(index, llm=llm).query(question)
    assert len(llm._prompts) == calls


def test_the_budget_is_what_the_context_window_leaves(index: CodeIndex[Any]) -> None:
    large = engine_of(index, ScriptedLLM(), max_context_tokens=3000)
    small = engine_of(index, ScriptedLLM(context_window=1500), max_context_tokens=3000)
    assert large._node_postprocessors[-1].max_tokens == 3000
    # 1500, less a tenth, 64 for the answer, a quarter for the history, an eighth for the question, and the instructions
    assert 1500 - 150 - 64 - 375 - 187 - 150 < small._node_postprocessors[-1].max_tokens < 1500 - 150 - 64 - 375 - 187
    with pytest.raises(ValueError, match="use an LLM with a larger context_window"):
        engine_of(index, ScriptedLLM(context_window=600))
    with pytest.raises(ValueError, match="max_context_tokens must be at least 1, got 0"):
        engine_of(index, ScriptedLLM(), max_context_tokens=0)


def test_an_llm_that_fails_is_not_an_empty_answer_and_leaves_no_memory(index: CodeIndex[Any]) -> None:
    for options in ({}, {"chat_mode": "condense_plus_context"}):
        engine = engine_of(index, ScriptedLLM(fails_after=2), **options)
        with pytest.raises(ConnectionError, match="gone"):
            engine.chat(QUESTION)
        pieces = []
        stream = engine.stream_chat(QUESTION).response_gen
        with pytest.raises(ConnectionError, match="gone"):
            pieces.extend(stream)
        assert pieces == ["It", " sums"]
        assert remembered(engine) == []
    with pytest.raises(ConnectionError, match="gone"):
        code_query_engine(index, llm=ScriptedLLM(fails_after=0)).query(QUESTION)


class GarbageLLM(ScriptedLLM):
    """Raises what a client raises that cannot read its server's JSON, which is a ValueError."""

    def _words(self, prompt: str) -> Iterator[str]:
        yield json.loads("{garbage")


def test_garbage_of_a_server_is_an_error(index: CodeIndex[Any]) -> None:
    with pytest.raises(ValueError, match="Expecting property name"):
        engine_of(index, GarbageLLM()).chat(QUESTION)
    with pytest.raises(ValueError, match="Expecting property name"):
        list(engine_of(index, GarbageLLM()).stream_chat(QUESTION).response_gen)


def test_leaving_a_stream_stops_the_llm_and_remembers_what_was_said(index: CodeIndex[Any]) -> None:
    llm = ScriptedLLM()
    engine = engine_of(index, llm)
    response = engine.stream_chat(QUESTION)
    pieces = response.response_gen
    assert [next(pieces), next(pieces)] == ["It", " sums"]
    pieces.close()
    response.chat_stream.close()
    assert llm._closed == [True]
    assert remembered(engine) == [QUESTION, "It sums"]

    async def leave() -> None:
        response = await engine.astream_chat(QUESTION)
        stream: AsyncIterator[str] = response.async_response_gen()
        await anext(stream)
        await response.achat_stream.aclose()

    engine.reset()
    asyncio.run(leave())
    assert remembered(engine) == [QUESTION, "It"]


def test_an_empty_answer_is_not_remembered(index: CodeIndex[Any]) -> None:
    engine = engine_of(index, ScriptedLLM(answer=""))
    assert "".join(engine.stream_chat(QUESTION).response_gen) == ""
    assert remembered(engine) == []


# --- follow-ups -------------------------------------------------------------------------------------------------------


def test_the_engine_searches_for_a_follow_up_with_the_question_before(index: CodeIndex[Any]) -> None:
    llm = ScriptedLLM()
    engine = engine_of(index, llm, mode="bm25")
    engine.chat(QUESTION)
    assert engine.chat("and who changes it?").source_nodes[0].node.metadata["scope"] == "Cart.total"
    assert "computed and who changes it?" not in llm._prompts[-1]  # the LLM gets the question as it was asked
    other = [ChatMessage(role="user", content="how is a receipt sent?"), ChatMessage(role="assistant", content="So.")]
    response = asyncio.run(engine.achat("and who uses it?", chat_history=other))
    assert response.source_nodes[0].node.metadata["scope"] == "send_receipt"
    plain = engine_of(index, llm, mode="bm25", complete_follow_ups=False)
    plain.chat(QUESTION)
    assert plain.chat("and who changes it?").response == NO_HIT  # no word of it is in the code


def test_the_llm_rewrites_follow_ups_if_it_is_to(index: CodeIndex[Any]) -> None:
    llm = ScriptedLLM(answer="how is a receipt sent")  # to everything
    engine = engine_of(index, llm, mode="bm25", chat_mode="condense_plus_context")
    assert engine.chat(QUESTION).source_nodes[0].node.metadata["scope"] == "Cart.total"
    assert len(llm._prompts) == 1
    assert engine.chat("and who uses it?").source_nodes[0].node.metadata["scope"] == "send_receipt"
    assert len(llm._prompts) == 3
    with pytest.raises(ValueError, match="the extractive LLM cannot rewrite questions"):
        code_chat_engine(index, llm="extractive", chat_mode="condense_plus_context")
