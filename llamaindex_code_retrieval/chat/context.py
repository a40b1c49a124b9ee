"""``CodeContextPostprocessor``: turn hits into the passages of a prompt, within a budget of tokens."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.utils import get_tokenizer

from llamaindex_code_retrieval._settings import PlainErrors
from llamaindex_code_retrieval.chat.assembly import Budget, add_called, drafts_of
from llamaindex_code_retrieval.chat.files import HitFiles
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.languages.bounds import Tokenizer


class CodeContextPostprocessor(PlainErrors, BaseNodePostprocessor):
    """Turn hits into numbered passages for a prompt, best first, as many as ``max_tokens`` holds.

    Each definition is one passage:

    - a method with the signature of its class and, the first time, with the class's documentation;
    - a function of several parts as a whole if that takes at most half of the tokens that are left, else its signature
      and the parts that were found;
    - the imports that it uses, at most six lines of a passage;
    - instead of ``@overload`` stubs, the function; instead of C and C++ prototypes, the function that the question
      names, or the only one;
    - after the best three passages, two definitions that they call, those named in the question first.

    All but the hits themselves is read from ``index``. Without one, or where a hit is no longer in it, passages are
    made of the hits alone.

    A passage is a node with the id of its best hit, whose text is what is quoted. An LLM sees it
    (``MetadataMode.LLM``) under a heading such as ``[1] src/cart.py:3-5,12-20 Cart.total (quoted code)`` and between
    fences that the text cannot close; tests and documentation are headed as such. ``...`` stands for lines that are
    left out. The metadata ``lines`` are the ranges that are quoted, and ``start_line`` and ``end_line`` the first and
    the last line of the definition itself.

    What does not fit is left out, except that one definition is cut at the end of a line. Smaller ones behind it may
    still fit.
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
            index: where the hits come from; it must be open when hits are processed.
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
        question = "" if query_bundle is None else query_bundle.query_str
        if self._index is None:
            return self._assemble(nodes, HitFiles(nodes, None), question)
        with self._index.view() as view:
            return self._assemble(nodes, HitFiles(nodes, view), question)

    def _assemble(self, nodes: list[NodeWithScore], files: HitFiles, question: str) -> list[NodeWithScore]:
        tokenizer = self.tokenizer or get_tokenizer()
        budget = Budget(self.max_tokens, lambda text: len(tokenizer(text)))
        for draft in add_called(drafts_of(nodes, files, question), files, question):
            budget.take(draft)
        return budget.passages
