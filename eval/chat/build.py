"""Build the chats that a suite names, over indexes that are made when they are first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.postprocessor.types import BaseNodePostprocessor

from llamaindex_code_retrieval._io import Progress, json_hash, no_progress
from llamaindex_code_retrieval.chat.context import CodeContextPostprocessor
from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.chat.llamaindex_stack import LlamaIndexChat, Splitter, build_index
from llamaindex_code_retrieval.eval.chat.systems import BareChat, ChatSystem, GoldChat, IndexChat, QuotedHits
from llamaindex_code_retrieval.eval.results import Condition, Engine
from llamaindex_code_retrieval.index.code_index import CodeIndex


class Indexes:
    """The indexes of one embedding by the files in them; none caches the vectors of queries, which are timed."""

    def __init__(self, embedding: CodeEmbedding, on_progress: Progress = no_progress) -> None:
        self._embedding, self._on_progress = embedding, on_progress
        self._code: dict[str, CodeIndex[CodeEmbedding]] = {}
        self._nodes: dict[tuple[str, Splitter], VectorStoreIndex] = {}

    def code(self, sources: Mapping[str, str]) -> CodeIndex[CodeEmbedding]:
        """Return the index of this package."""
        key = json_hash(dict(sources))
        if key not in self._code:
            index = CodeIndex(self._embedding)
            index.update_texts(dict(sources), on_progress=self._on_progress)
            index.embedding = self._embedding.uncached()
            self._code[key] = index
        return self._code[key]

    def nodes(self, sources: Mapping[str, str], splitter: Splitter) -> VectorStoreIndex:
        """Return LlamaIndex's index."""
        key = json_hash(dict(sources)), splitter
        if key not in self._nodes:
            self._nodes[key] = build_index(sources, splitter, self._embedding)
        return self._nodes[key]


def build_chat(
    condition: Condition,
    engine: Engine,
    sources: Mapping[str, str],
    indexes: Indexes,
    *,
    retriever_of: Callable[[CodeIndex[CodeEmbedding]], BaseRetriever],
    rerankers: Sequence[BaseNodePostprocessor] = (),
    max_context_tokens: int,
    quotes: bool,
) -> ChatSystem:
    """Return the chat about one repository; ``quotes`` says that passages are quoted, see :class:`LlamaIndexChat`."""
    if condition == "none":
        return BareChat()
    if condition == "gold":
        return GoldChat(indexes.code(sources), max_context_tokens)
    if engine == "assembled" or engine == "hits":
        index = indexes.code(sources)
        assembled = engine == "assembled"
        context: BaseNodePostprocessor = (
            CodeContextPostprocessor(index, max_tokens=max_context_tokens)
            if assembled
            else QuotedHits(max_tokens=max_context_tokens)
        )
        return IndexChat(retriever_of(index), context, rerankers)
    splitter: Splitter = "sentence" if engine.startswith("sentence") else "code"
    nodes = indexes.nodes(sources, splitter)
    return LlamaIndexChat(nodes, sources, citations=engine.endswith("-citation"), quotes=quotes)
