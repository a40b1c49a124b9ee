"""``CodeContextPostprocessor``: turn hits into the passages of a prompt, within a budget of tokens."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.utils import get_tokenizer

from llamaindex_code_retrieval._settings import PlainErrors
from llamaindex_code_retrieval.chat.passages import passage_of
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.languages.bounds import Tokenizer


class CodeContextPostprocessor(PlainErrors, BaseNodePostprocessor):
    """Turn hits into numbered passages for a prompt, best first, as many as ``max_tokens`` holds.

    A passage is a node whose text is what is quoted. An LLM sees it (``MetadataMode.LLM``) with a heading such as
    ``[1] src/cart.py:3-5,12-20 Cart.total (quoted code)`` and between fences that the text cannot close. Its metadata
    ``lines`` are the ranges of lines that are quoted.
    """

    model_config = ConfigDict(validate_assignment=True)

    max_tokens: int = Field(ge=1, description="Tokens of all passages together.")
    tokenizer: Tokenizer | None = Field(
        default=None, exclude=True, description="Returns the tokens of a text; None: LlamaIndex's tokenizer."
    )
    _index: CodeIndex[Any] | None = PrivateAttr(default=None)

    def __init__(
        self,
        index: CodeIndex[Any] | None = None,
        *,
        max_tokens: int = 3000,
        tokenizer: Tokenizer | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Check the settings.

        Args:
            index: where the hits come from.
            max_tokens: tokens of all passages together.
            tokenizer: returns the tokens of a text; by default LlamaIndex's global one, which needs no network.
            callback_manager: receives LlamaIndex events.

        Raises:
            ValueError: ``max_tokens`` is under 1.
        """
        super().__init__(
            max_tokens=max_tokens, tokenizer=tokenizer, callback_manager=callback_manager or CallbackManager()
        )
        self._index = index

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "CodeContextPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        tokenizer = self.tokenizer or get_tokenizer()
        passages: list[NodeWithScore] = []
        left = self.max_tokens
        for hit in {hit.node_id: hit for hit in reversed(nodes)}.values().__reversed__():
            if not isinstance(hit.node, TextNode):
                continue
            passage = passage_of(hit.node.metadata, hit.node.text, fallback=hit.node_id)
            node = passage.node(len(passages) + 1, hit.node)
            tokens = len(tokenizer(node.get_content(MetadataMode.LLM)))
            if tokens <= left:
                left -= tokens
                passages.append(NodeWithScore(node=node, score=hit.score))
        return passages
