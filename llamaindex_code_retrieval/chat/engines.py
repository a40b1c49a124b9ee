"""Chat and query engines of LlamaIndex over a ``CodeIndex``, whose answers cite files and lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Unpack

from llama_index.core.llms import LLM
from llama_index.core.memory import BaseMemory, ChatMemoryBuffer
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.settings import Settings
from llama_index.core.utils import get_tokenizer

from llamaindex_code_retrieval.chat.chat_engines import CodeChatEngine, CondensingCodeChatEngine
from llamaindex_code_retrieval.chat.context import CodeContextPostprocessor
from llamaindex_code_retrieval.chat.extractive import ExtractiveLLM
from llamaindex_code_retrieval.chat.llms import load_llm
from llamaindex_code_retrieval.chat.question import MAX_QUESTION, check_question
from llamaindex_code_retrieval.chat.synthesizer import CITING, PLAIN, CitingSynthesizer, system_template
from llamaindex_code_retrieval.index.code_index import CodeIndex

if TYPE_CHECKING:
    from llamaindex_code_retrieval.retriever import RetrieverOptions

ChatMode = Literal["context", "condense_plus_context"]

_ANSWER_TOKENS = 256  # LlamaIndex's default, for an LLM that says nothing of its answers
_CHARACTERS_PER_TOKEN = 4
_LEAST_CONTEXT = 200  # tokens; less holds no function
_SPARE = 10  # 1/10 of the window: the LLM's tokenizer may count more tokens than LlamaIndex's


def code_chat_engine(
    index: CodeIndex[Any],
    *,
    llm: LLM | str | None = None,
    chat_mode: ChatMode = "context",
    reranker: BaseNodePostprocessor | None = None,
    max_context_tokens: int = 3000,
    memory: BaseMemory | None = None,
    memory_tokens: int = 1500,
    instructions: str = CITING,
    complete_follow_ups: bool = True,
    **options: Unpack[RetrieverOptions],
) -> CodeChatEngine | CondensingCodeChatEngine:
    """Return a LlamaIndex chat engine whose answers cite the passages of an index, their ``source_nodes``.

    Each question is searched for in the index. The hits become passages (:class:`.CodeContextPostprocessor`), which the
    LLM gets with the instructions and the history. A question without hits is answered without the LLM. A stream is
    remembered when the loop over it ends or is left.

    Args:
        index: the code base.
        llm: an LLM, a specification for :func:`.load_llm`, or by default LlamaIndex's ``Settings.llm``.
        chat_mode: "context" searches for the question as it is; a follow-up such as "and where is it called?" together
            with the last question that stands alone. In "condense_plus_context" the LLM rewrites each question but the
            first.
        reranker: reorders the hits, such as a ``CodeReranker``.
        max_context_tokens: tokens of the passages; fewer where the context window of the LLM leaves less.
        memory: holds the history; by default one with ``memory_tokens``.
        memory_tokens: tokens of the history in a prompt, at most a quarter of the context window.
        instructions: what the LLM is told before the passages.
        complete_follow_ups: whether follow-ups are completed in the chat mode "context".
        options: of the :class:`.CodeRetriever`, such as ``top_k`` and ``filters``.

    Raises:
        ValueError: an unknown chat mode, an option out of range, or a context window too small for passages.
    """
    if chat_mode not in ("context", "condense_plus_context"):
        raise ValueError(f"chat_mode must be 'context' or 'condense_plus_context', got {chat_mode!r}")
    model = _resolve(llm)
    if chat_mode == "condense_plus_context" and isinstance(model, ExtractiveLLM):
        raise ValueError("the extractive LLM cannot rewrite questions; use chat_mode 'context', or another LLM")
    retriever = index.as_retriever(**options)
    postprocessors, memory_tokens = _postprocessors(
        index, model, reranker, max_context_tokens, instructions, _positive(memory_tokens, "memory_tokens")
    )
    if memory is None:  # LlamaIndex's Memory keeps a thread and a database of each event loop that it was used in
        memory = ChatMemoryBuffer.from_defaults(token_limit=memory_tokens)
    common: dict[str, Any] = {"llm": model, "memory": memory, "node_postprocessors": postprocessors}
    common["callback_manager"] = Settings.callback_manager
    if chat_mode == "condense_plus_context":
        condensing = CondensingCodeChatEngine(retriever, **common)
        condensing.template = system_template(instructions)
        return condensing
    engine = CodeChatEngine(retriever, prefix_messages=[], **common)
    engine.template, engine.complete_follow_ups = system_template(instructions), complete_follow_ups
    return engine


def code_query_engine(
    index: CodeIndex[Any],
    *,
    llm: LLM | str | None = None,
    citations: bool = True,
    reranker: BaseNodePostprocessor | None = None,
    max_context_tokens: int = 3000,
    streaming: bool = False,
    **options: Unpack[RetrieverOptions],
) -> RetrieverQueryEngine:
    """Return a LlamaIndex query engine over an index; every question stands alone.

    With ``citations`` the LLM is asked to cite the passages by number. All other arguments are those of
    :func:`code_chat_engine`. A question without hits is answered without the LLM.

    Raises:
        ValueError: an option out of range, or a context window too small for passages.
    """
    model = _resolve(llm)
    instructions = CITING if citations else PLAIN
    postprocessors, _ = _postprocessors(index, model, reranker, max_context_tokens, instructions, 0)
    return _CodeQueryEngine(
        index.as_retriever(**options),
        response_synthesizer=CitingSynthesizer(
            model,
            template=system_template(instructions),
            streaming=streaming,
            callback_manager=Settings.callback_manager,
        ),
        node_postprocessors=postprocessors,
    )


class _CodeQueryEngine(RetrieverQueryEngine):
    """A ``RetrieverQueryEngine`` that checks the question first."""

    def retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        check_question(query_bundle.query_str)
        return super().retrieve(query_bundle)

    async def aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        check_question(query_bundle.query_str)
        return await super().aretrieve(query_bundle)


def _resolve(llm: LLM | str | None) -> LLM:
    if llm is None:
        return Settings.llm
    return load_llm(llm) if isinstance(llm, str) else llm


def _postprocessors(
    index: CodeIndex[Any],
    llm: LLM,
    reranker: BaseNodePostprocessor | None,
    max_context_tokens: int,
    instructions: str,
    memory_tokens: int,
) -> tuple[list[BaseNodePostprocessor], int]:
    """Return the postprocessors of the hits, and the tokens of the history that the context window has room for."""
    wanted = _positive(max_context_tokens, "max_context_tokens")
    window = llm.metadata.context_window
    answer = llm.metadata.num_output if llm.metadata.num_output > 0 else _ANSWER_TOKENS
    memory_tokens = min(memory_tokens, window // 4)
    question = min(MAX_QUESTION // _CHARACTERS_PER_TOKEN, window // 8)
    prompt = len(get_tokenizer()(system_template(instructions).template))
    room = window - window // _SPARE - answer - memory_tokens - question - prompt
    if room < min(wanted, _LEAST_CONTEXT):
        raise ValueError(
            f"the LLM reads {window:,} tokens, which leaves {max(room, 0):,} for passages beside instructions, history "
            f"and an answer of {answer:,}; use an LLM with a larger context_window, or with shorter answers"
        )
    context = CodeContextPostprocessor(index, max_tokens=min(wanted, room))
    return [*([] if reranker is None else [reranker]), context], memory_tokens


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value
