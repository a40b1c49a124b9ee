"""The laws of the node parser and of index updates, checked on any text."""

from __future__ import annotations

import hashlib
import random
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import Document, MetadataMode, TextNode
from mutations import mutate

from llamaindex_code_retrieval import CodeIndex, CodeNodeParser
from llamaindex_code_retrieval.languages.bounds import CHARACTERS_PER_LINE, MAX_LINE_PARTS
from llamaindex_code_retrieval.languages.notebooks import read_notebook


@dataclass(frozen=True, slots=True)
class Text:
    """The text of a file, real or mutated."""

    name: str
    text: str
    language: str

    def nodes(self, parser: CodeNodeParser) -> list[TextNode]:
        """Parse the text."""
        document = Document(text=self.text, id_=self.name, metadata={"path": self.name, "language": self.language})
        return [node for node in parser.get_nodes_from_documents([document]) if isinstance(node, TextNode)]

    @property
    def max_seconds(self) -> float:
        """Processor time that parsing may take: 1 s, and 20 s for each million characters."""
        return 1 + 20e-6 * len(self.text)


def violations(text: Text, nodes: Sequence[TextNode], parser: CodeNodeParser) -> Iterator[str]:
    """Yield the laws that the nodes of a text break.

    Of a line that is cut into the most parts the rest may be lost. Nodes of a notebook are parts of the text of its
    cells, without places in the file.
    """
    notebook = read_notebook(text.text) if text.language == "notebook" else None
    for node in nodes:
        place = f"node at {node.metadata['start_line']}-{node.metadata['end_line']}"
        if node.text.count("\n") >= parser.max_lines or len(node.text) > CHARACTERS_PER_LINE * parser.max_lines:
            yield f"{place} has more than {parser.max_lines} lines, or {CHARACTERS_PER_LINE} characters for each"
        embedded = node.get_content(MetadataMode.EMBED)
        if parser.tokenizer and parser.max_tokens and len(parser.tokenizer(embedded)) > parser.max_tokens:
            yield f"{place} has more than {parser.max_tokens} tokens"
    yield from _lost(text.text, nodes) if notebook is None else _lost_of_cells(notebook.text, nodes)
    ids = {node.node_id for node in nodes}
    if len(ids) < len(nodes):
        yield "two nodes have one id"
    for node in nodes:
        related = (node.parent_node, node.prev_node, node.next_node, *(node.child_nodes or ()))
        if any(other is not None and (other.node_id not in ids or other.node_id == node.node_id) for other in related):
            yield f"a relation of node at {node.metadata['start_line']} names no other node"


def _lost(text: str, nodes: Sequence[TextNode]) -> Iterator[str]:
    """Yield which nodes are not the text at their places, and which lines are not whole in nodes."""
    covered = bytearray(len(text))
    for node in nodes:
        lines = node.metadata["start_line"], node.metadata["end_line"]
        start, end = node.start_char_idx, node.end_char_idx
        if start is None or end is None or text[start:end] != node.text:
            yield f"node at {lines[0]}-{lines[1]} is not the text between its characters"
            continue
        covered[start:end] = b"\1" * (end - start)
        places = text.count("\n", 0, start) + 1, text.count("\n", 0, end) + 1
        if places != lines:
            yield f"node at {lines[0]}-{lines[1]} is on the lines {places}"
    parts = Counter(node.metadata["start_line"] for node in nodes if node.metadata.get("parts", 0) >= MAX_LINE_PARTS)
    for number, (start, end) in enumerate(_line_places(text), start=1):
        lost = "".join(char for place, char in enumerate(text[start:end], start) if not covered[place]).strip()
        if lost and parts[number] < MAX_LINE_PARTS:
            yield f"line {number} is not whole in nodes: {lost[:40]!r}"


def _lost_of_cells(text: str, nodes: Sequence[TextNode]) -> Iterator[str]:
    """Yield which nodes are not a part of the text of the cells, and which short lines of it are in no node."""
    lines: set[str] = set()
    for node in nodes:
        lines.update(node.text.split("\n"))
        if node.text not in text:
            yield f"node at {node.metadata['start_line']}-{node.metadata['end_line']} is not the text of cells"
    for line in text.split("\n"):
        if line.strip() and line not in lines and len(line) <= CHARACTERS_PER_LINE:
            yield f"a line of a cell is in no node: {line[:40]!r}"


def _line_places(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for line in text.split("\n"):
        yield start, start + len(line)
        start += len(line) + 1


def check(text: Text, parser: CodeNodeParser) -> tuple[list[TextNode], list[str]]:
    """Return the nodes of a text and the laws that they break, an error among them."""
    try:
        nodes = text.nodes(parser)
        broken = list(violations(text, nodes, parser))
        if [node.to_dict() for node in text.nodes(parser)] != [node.to_dict() for node in nodes]:
            broken.append("a second parse makes other nodes")
    except Exception:
        return [], [f"raised {traceback.format_exc(limit=-2)}"]
    return nodes, broken


class HashEmbedding(BaseEmbedding):
    """Embeds a text as 8 bytes of its hash: updates are checked without a model."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(byte) for byte in hashlib.sha256(text.encode(errors="replace")).digest()[:8]]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def update_violations(texts: Sequence[Text], *, seed: int = 0) -> Iterator[str]:
    """Yield how an index that is updated to ``texts`` differs from a new one of ``texts``.

    Before the update, a quarter of the files is missing, a quarter has other texts, and some have other names.
    """
    draw = random.Random(seed)
    after = {text.name: text.text for text in texts}
    before = {}
    for text in texts:
        match draw.randrange(8):
            case 0 | 1:
                pass
            case 2 | 3:
                before[text.name] = mutate(text.text, draw.choice(texts).text, draw)
            case 4:
                before[f"old/{text.name}"] = text.text
            case _:
                before[text.name] = text.text
    with CodeIndex(HashEmbedding()) as updated, CodeIndex(HashEmbedding()) as fresh:
        updated.update_texts(before)
        updated.update_texts(after)
        fresh.update_texts(after)
        nodes, expected = ({node.node_id: node.to_dict() for node in index.nodes()} for index in (updated, fresh))
        if nodes != expected:
            count = len(nodes.keys() ^ expected.keys())
            yield f"{count} nodes are not those of a new index, or others have other metadata"
        if list(nodes) != list(expected):
            yield "the nodes are in another order than in a new index"
        if nodes.keys() == expected.keys():
            vectors = [index.vectors(list(expected)).tolist() for index in (updated, fresh)]
            if vectors[0] != vectors[1]:
                yield "the vectors are not those of a new index"
