"""Lines of passages: those that are quoted, and none where a text was divided after its lines were named."""

from __future__ import annotations

import pytest
from indexes import HashEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import CitationQueryEngine
from llama_index.core.schema import Document, MetadataMode, NodeWithScore

from llamaindex_code_retrieval import CodeIndex, CodeNodeParser
from llamaindex_code_retrieval.chat import CodeContextPostprocessor
from llamaindex_code_retrieval.chat.passages import GAP, Passage, passages_of

LINES = [
    *("def short():", "    return 1", "", "", "def long(values):"),
    *(f"    values[{number}] += {number}  # add a number" for number in range(40)),
    "",
]
TEXT = "\n".join(LINES)


def quoted(passage: Passage) -> str:
    """Return the lines that a passage claims."""
    return f"\n{GAP}\n".join("\n".join(LINES[each.first - 1 : each.last]) for each in passage.ranges)


def test_parts_of_another_node_parser_do_not_claim_the_lines_of_the_whole_node() -> None:
    nodes = CodeNodeParser().get_nodes_from_documents([Document(text=TEXT, metadata={"path": "a.py"})])
    parts = SentenceSplitter(chunk_size=120, chunk_overlap=0)(nodes)
    for divided in (nodes, parts):
        passages = passages_of([NodeWithScore(node=node) for node in divided])
        claimed = [passage for passage in passages if passage.ranges]
        assert all(quoted(passage).strip() == passage.text.strip() for passage in claimed)
        assert [passage.place for passage in claimed] == ["a.py:1-2", "a.py:5-45"][: 2 if divided is nodes else 1]
        assert {passage.place for passage in passages if not passage.ranges} == (
            set() if divided is nodes else {"a.py"}
        )


@pytest.mark.parametrize("mode", [MetadataMode.NONE, MetadataMode.LLM])
@pytest.mark.parametrize("chunk_size", [2000, 100])
def test_sources_of_a_citation_query_engine(chunk_size: int, mode: MetadataMode) -> None:
    """It copies the metadata of a passage to each part of its text."""
    with CodeIndex(HashEmbedding()) as index:
        index.update_texts({"a.py": TEXT})
        engine = CitationQueryEngine(
            index.as_retriever(top_k=4),
            llm=MockLLM(),
            citation_chunk_size=chunk_size,
            citation_chunk_overlap=0,
            node_postprocessors=[CodeContextPostprocessor(index)],
            metadata_mode=mode,
        )
        sources = engine.query("add a number").source_nodes
    passages = passages_of(sources)
    claimed = [passage for passage in passages if passage.ranges]
    assert all(quoted(passage) in passage.text for passage in claimed)
    assert claimed
    assert (len(claimed) == len(passages)) == (chunk_size == 2000)
