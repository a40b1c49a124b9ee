"""``ExtractiveLLM``: answer without a language model, by quoting the best passages of the prompt."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence

from llama_index.core.bridge.pydantic import Field

from llamaindex_code_retrieval.chat.local_llm import LocalLLM, Turn

OPENING = "No language model is used. These are the best passages for the question, quoted:"
_PASSAGE = re.compile(
    r"^(?P<heading>\[\d+\] [^\n]*)\n(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<text>.*?)\n(?P=fence)$", re.M | re.S
)
"""A passage as the prompt of a :class:`.CodeContextPostprocessor` has it."""


class ExtractiveLLM(LocalLLM):
    """Answers with the first passages of the prompt, cut to ``max_lines`` each, and says that it quotes them.

    It is deterministic, needs no model, and reads passages as :class:`.CodeContextPostprocessor` writes them.
    """

    model_name: str = Field(default="extractive", frozen=True, description="The specification of this LLM.")
    context_window: int = Field(default=1_000_000, ge=1, description="More than any prompt has.")
    max_tokens: int = Field(default=8192, ge=1, description="More than any answer has.")
    max_passages: int = Field(default=3, ge=1, description="Passages that are quoted.")
    max_lines: int = Field(default=40, ge=1, description="Lines that are quoted of a passage.")

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex serialises."""
        return "ExtractiveLLM"

    def _deltas(self, turns: Sequence[Turn]) -> Generator[str]:
        # The first turn has the passages; an earlier answer in a later turn may quote others.
        passages = list(_PASSAGE.finditer(turns[0]["content"] if turns else ""))
        yield OPENING if passages else "No language model is used, and the prompt has no passages to quote."
        for passage in passages[: self.max_passages]:
            lines = passage["text"].split("\n")
            yield f"\n\n{passage['heading']}\n{passage['fence']}{passage['language']}\n"
            yield "\n".join(lines[: self.max_lines])
            yield f"\n{passage['fence']}"
            if len(lines) > self.max_lines:
                yield f"\n({len(lines) - self.max_lines} more lines)"
