"""LlamaIndex's default chat: its splitters, its vector index over the same embedding, and its engines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

import tree_sitter
from llama_index.core import VectorStoreIndex
from llama_index.core.base.response.schema import Response
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.llms import LLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import CodeSplitter, NodeParser, SentenceSplitter
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.schema import BaseNode, Document, NodeWithScore, TextNode

from llamaindex_code_retrieval.embedding import CodeEmbedding
from llamaindex_code_retrieval.eval.chat.questions import ChatQuestion
from llamaindex_code_retrieval.eval.chat.systems import QuotedHits, answer_from
from llamaindex_code_retrieval.eval.results import TOP
from llamaindex_code_retrieval.eval.targets import Place
from llamaindex_code_retrieval.languages.grammars import load_grammar
from llamaindex_code_retrieval.languages.table import LANGUAGES, language_of

Splitter = Literal["sentence", "code"]
_FILE = "file_path"
"""The metadata key under which LlamaIndex's readers name the file."""
_SOURCE = re.compile(r"Source \d+:\n")  # what the CitationQueryEngine puts before a text
_UNLIMITED = 1_000_000  # tokens; LlamaIndex limits passages by their number


class LlamaIndexChat:
    """A chat with LlamaIndex's defaults: two nodes of a ``VectorStoreIndex``, and one of its engines.

    With ``quotes`` no engine is used, and the nodes are quoted as passages, for an LLM that reads nothing else.
    """

    def __init__(
        self, index: VectorStoreIndex, sources: Mapping[str, str], *, citations: bool = False, quotes: bool = False
    ) -> None:
        self._index, self._sources, self._citations, self._quotes = index, sources, citations, quotes

    def rank(self, question: ChatQuestion) -> list[Place]:
        """Return the places of the first ten nodes; the engines show two of them."""
        hits = self._index.as_retriever(similarity_top_k=TOP).retrieve(question.text)
        places = []
        for hit in located(hits, self._sources):
            at = hit.node.metadata
            places.append(Place(at["path"], at.get("start_line", 0), at.get("end_line", 0)))
        return places

    def answer(self, question: ChatQuestion, llm: LLM) -> tuple[str, list[NodeWithScore]]:
        """Answer as LlamaIndex does."""
        if self._quotes:
            hits = located(self._index.as_retriever().retrieve(question.text), self._sources)
            passages = QuotedHits(max_tokens=_UNLIMITED).postprocess_nodes(hits)
            return answer_from(passages, question.text, llm), passages
        if self._citations:
            response = CitationQueryEngine.from_args(self._index, llm=llm).query(question.text)
            assert isinstance(response, Response)
            return str(response), located(response.source_nodes, self._sources)
        # LlamaIndex's default memory starts a database, which a single question does not need.
        memory = ChatMemoryBuffer.from_defaults(llm=llm)
        engine = ContextChatEngine.from_defaults(self._index.as_retriever(), llm=llm, memory=memory)
        answer = engine.chat(question.text)
        return answer.response, located(answer.source_nodes, self._sources)


def build_index(sources: Mapping[str, str], splitter: Splitter, embedding: CodeEmbedding) -> VectorStoreIndex:
    """Return LlamaIndex's index of files, split by its defaults; it does not cache the vectors of queries."""
    nodes: list[BaseNode] = []
    for path, text in sources.items():
        document = Document(text=text, id_=path, metadata={_FILE: path})
        nodes += _split(document, _parser(path, splitter))
    return VectorStoreIndex(embedding(nodes), embed_model=embedding.uncached())


def _split(document: Document, parser: NodeParser) -> list[BaseNode]:
    try:
        return parser.get_nodes_from_documents([document])
    except ValueError:  # the CodeSplitter refuses a file that it cannot parse
        return SentenceSplitter().get_nodes_from_documents([document])


def _parser(path: str, splitter: Splitter) -> NodeParser:
    """Return the splitter of a file; the ``CodeSplitter`` reads files of languages with a grammar only."""
    row = LANGUAGES.get(language_of(path) or "")
    if splitter == "sentence" or row is None or not row.grammars:
        return SentenceSplitter()
    return _code_splitter(row.grammars[0])


@cache
def _code_splitter(grammar: str) -> CodeSplitter:
    # The parser is given because LlamaIndex would load it from a package that this one does not need.
    return CodeSplitter(grammar, parser=tree_sitter.Parser(load_grammar(grammar)))


def located(hits: Sequence[NodeWithScore], sources: Mapping[str, str]) -> list[NodeWithScore]:
    """Return copies of LlamaIndex's nodes with ``path``, and ``start_line`` and ``end_line`` where the text is found.

    LlamaIndex keeps no lines, and its ``CitationQueryEngine`` splits nodes again.
    """
    copies = []
    for hit in hits:
        path, text = hit.node.metadata[_FILE], _SOURCE.sub("", hit.node.get_content(), count=1).strip("\n")
        source = sources[path]
        start = source.find(text, getattr(hit.node, "start_char_idx", None) or 0)
        lines = {}
        if start >= 0:
            first = source.count("\n", 0, start) + 1
            lines = {"start_line": first, "end_line": first + text.count("\n")}
        node = TextNode(
            id_=hit.node_id,
            text=text,
            metadata={**hit.node.metadata, "path": path, **lines},
            excluded_llm_metadata_keys=["path", "start_line", "end_line"],
        )
        copies.append(NodeWithScore(node=node, score=hit.score))
    return copies
