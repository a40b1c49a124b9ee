"""One answer of a chat engine: its passages, its pieces as the LLM returns them, and the check of what it cites."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.schema import NodeWithScore

from llamaindex_code_retrieval.chat.attribution import Attribution, attribute_sentences
from llamaindex_code_retrieval.chat.chat_engines import CodeChatEngine, CondensingCodeChatEngine
from llamaindex_code_retrieval.chat.citations import CitationCheck, Citations, check_citations
from llamaindex_code_retrieval.chat.llms import EXTRACTIVE, LLMSpec, describe_failure
from llamaindex_code_retrieval.chat.passages import NUMBER, passages_of
from llamaindex_code_retrieval.chat.question import check_question

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.code_index import CodeIndex


class Answer:
    """The answer of a chat engine to a question; the code is searched at once, and the LLM is read piece by piece.

    The loop over an answer yields its pieces. Closing it stops the LLM; what was said is then remembered.

    Raises:
        ValueError: the question is empty or too long.
        OSError: the LLM failed, in the loop too, or returned nothing.
    """

    def __init__(
        self,
        engine: CodeChatEngine | CondensingCodeChatEngine,
        question: str,
        spec: LLMSpec,
        *,
        history: Sequence[ChatMessage] | None = None,
    ) -> None:
        """Search the code; ``history`` replaces what the engine remembers."""
        check_question(question)
        self.question = question
        self.text = ""
        """What was said until now."""
        self._spec = spec
        try:
            response = engine.stream_chat(question, chat_history=None if history is None else list(history))
        except Exception as error:
            if spec.kind == EXTRACTIVE or isinstance(error, ValueError | OSError):
                raise
            raise OSError(describe_failure(error, spec)) from error  # while it rewrote the question
        assert response.chat_stream is not None
        self._stream = response.chat_stream
        self.passages: Sequence[NodeWithScore] = response.source_nodes
        """What the LLM answers from; empty if nothing was found."""

    def __iter__(self) -> Iterator[str]:
        try:
            for each in self._stream:
                self.text += each.delta or ""
                yield each.delta or ""
        except Exception as error:
            raise OSError(describe_failure(error, self._spec)) from error
        finally:
            self.close()
        if not self.text.strip():
            raise OSError(f"{self._spec} returned an empty answer; ask again, or use another LLM")

    def close(self) -> None:
        """Stop the LLM."""
        self._stream.close()

    @property
    def quotes(self) -> bool:
        """Whether the answer quotes passages with their places, or says that there are none."""
        return not self.passages or self._spec.kind == EXTRACTIVE

    def cited(self) -> list[NodeWithScore]:
        """Return the passages that the answer cites by number."""
        numbers = {each.number for each in Citations.of(self.passages).find(self.text)}
        return [hit for hit in self.passages if hit.node.metadata[NUMBER] in numbers]

    def attributed(self) -> list[Attribution]:
        """Return the sentences that match exactly one passage, if the answer cites no passage and no lines itself."""
        found = Citations.of(self.passages).find(self.text)
        if self.quotes or any(each.ranges or each.number is not None for each in found):
            return []
        return attribute_sentences(self.text, self.passages)

    def check(self, index: CodeIndex[Any]) -> CitationCheck:
        """Return what the answer cites and names, checked against its passages and the index."""
        if self.quotes:
            return CitationCheck(())
        return check_citations(self.text, self.passages, index, question=self.question)


def passage_records(passages: Sequence[NodeWithScore]) -> list[dict[str, Any]]:
    """Return passages as values for JSON."""
    return [
        {
            "number": hit.node.metadata[NUMBER],
            "place": passage.place,
            "path": passage.path,
            "lines": [list(each) for each in passage.ranges],
            "first": hit.node.metadata.get("start_line"),
            "scope": passage.scope,
            "text": passage.text,
        }
        for hit, passage in zip(passages, passages_of(passages), strict=True)
    ]
