"""The chats that are measured: this package's over an index, with gold passages, and without any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.llms import LLM, ChatMessage, MessageRole
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.utils import get_tokenizer

from llamaindex_code_retrieval.chat.context import CodeContextPostprocessor
from llamaindex_code_retrieval.chat.passages import passages_of
from llamaindex_code_retrieval.chat.synthesizer import CITING, CitingSynthesizer, system_template
from llamaindex_code_retrieval.eval.chat.questions import ChatQuestion
from llamaindex_code_retrieval.eval.targets import Place
from llamaindex_code_retrieval.index.code_index import CodeIndex

_WITHOUT_PASSAGES = (
    "You answer questions about the code base of {repository}. Name the functions, classes and files that matter. "
    "If you do not know the answer, say so."
)


class ChatSystem(Protocol):
    """Answers questions about one repository."""

    def rank(self, question: ChatQuestion) -> list[Place]:
        """Return the places that are found, best first; empty if nothing is searched."""

    def answer(self, question: ChatQuestion, llm: LLM) -> tuple[str, list[NodeWithScore]]:
        """Return the answer, and the passages that the LLM was shown."""


class IndexChat:
    """The chat of this package: hits, a context made of them, and one call of the LLM."""

    def __init__(
        self,
        retriever: BaseRetriever,
        context: BaseNodePostprocessor,
        rerankers: Sequence[BaseNodePostprocessor] = (),
    ) -> None:
        self._retriever, self._context, self._rerankers = retriever, context, rerankers

    def _hits(self, question: ChatQuestion) -> list[NodeWithScore]:
        hits = self._retriever.retrieve(question.text)
        for reranker in self._rerankers:
            hits = reranker.postprocess_nodes(hits, query_str=question.text)
        return hits

    def rank(self, question: ChatQuestion) -> list[Place]:
        """Return the places of the hits."""
        return [_place(hit.node.metadata) for hit in self._hits(question)]

    def answer(self, question: ChatQuestion, llm: LLM) -> tuple[str, list[NodeWithScore]]:
        """Answer from the hits."""
        passages = self._context.postprocess_nodes(self._hits(question), query_str=question.text)
        return answer_from(passages, question.text, llm), passages


class GoldChat:
    """The chat of this package, with the definitions at the targets of a question as its hits."""

    def __init__(self, index: CodeIndex[Any], max_tokens: int) -> None:
        self._nodes = list(index.nodes())
        self._context = CodeContextPostprocessor(index, max_tokens=max_tokens)

    def rank(self, question: ChatQuestion) -> list[Place]:
        """Return nothing: no hit is found by a search."""
        return []

    def answer(self, question: ChatQuestion, llm: LLM) -> tuple[str, list[NodeWithScore]]:
        """Answer from the targets."""
        gold = [
            NodeWithScore(node=node, score=1.0)
            for target in question.targets
            for node in self._nodes
            if target.is_covered_by(_place(node.metadata))
        ]
        hits = list({hit.node_id: hit for hit in gold}.values())
        passages = self._context.postprocess_nodes(hits, query_str=question.text)
        return answer_from(passages, question.text, llm), passages


class BareChat:
    """An LLM that is shown no code."""

    def rank(self, question: ChatQuestion) -> list[Place]:
        """Return nothing: no code is searched."""
        return []

    def answer(self, question: ChatQuestion, llm: LLM) -> tuple[str, list[NodeWithScore]]:
        """Answer from what the LLM knows."""
        instructions = _WITHOUT_PASSAGES.format(repository=question.repository)
        turns = [
            ChatMessage(role=llm.metadata.system_role, content=instructions),
            ChatMessage(role=MessageRole.USER, content=question.text),
        ]
        return llm.chat(turns).message.content or "", []


class QuotedHits(BaseNodePostprocessor):
    """Quote hits as they are, with the headings of passages: the first ones, as many as ``max_tokens`` holds."""

    max_tokens: int

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "QuotedHits"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        tokenize, left = get_tokenizer(), self.max_tokens
        quoted: list[NodeWithScore] = []
        for passage, hit in zip(passages_of(nodes), nodes, strict=True):
            node = passage.node(len(quoted) + 1, cast(TextNode, hit.node))
            left -= len(tokenize(node.get_content(MetadataMode.LLM)))
            if left < 0:
                break
            quoted.append(NodeWithScore(node=node, score=hit.score))
        return quoted


def answer_from(passages: Sequence[NodeWithScore], question: str, llm: LLM) -> str:
    """Return the answer of the chat of this package from passages."""
    synthesizer = CitingSynthesizer(llm, template=system_template(CITING))
    return str(synthesizer.synthesize(question, list(passages)))


def _place(metadata: dict[str, Any]) -> Place:
    return Place(metadata["path"], metadata["start_line"], metadata["end_line"])
