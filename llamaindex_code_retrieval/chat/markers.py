"""Markers of chat templates, such as ``<|im_end|>``: keep text that is only quoted from acting as one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Self

_IN_TEMPLATE = re.compile(r"<[^\s<>{}'\"]{1,40}>|\[/?[A-Z][A-Z_]{0,30}\]")
"""Words in brackets, of which some templates make turns without tokens of their own: ``[INST]``, ``<<SYS>>``."""
_OF_ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
"""The same, where a template puts the role in."""


class Markers:
    """Texts that mean the start or the end of a turn to a model, or another control token.

    Tokenizers read them also in code and questions, where they would let a file end the user's turn.

    >>> markers = Markers(["<|im_end|>", "</s>"])
    >>> markers.break_in("end with <|im_end|>, or </s></s>")
    'end with < |im_end|>, or < /s>< /s>'
    """

    def __init__(self, texts: Iterable[str]) -> None:
        # A text of one character cannot be broken, and is not what a turn begins with.
        ordered = sorted({text for text in texts if len(text.strip()) > 1}, key=len, reverse=True)
        self._starts = re.compile(f"(?={'|'.join(map(re.escape, ordered))})(.)", re.S) if ordered else None

    @classmethod
    def of_tokenizer(cls, *, control: Iterable[str], added: Iterable[str], template: str | None) -> Self:
        """Return the control tokens, and what else a chat template writes: added tokens and words in brackets.

        Other added tokens stay as they are: some tokenizers have them for spaces and for tags of HTML.
        """
        written = template or ""
        used = (text for text in added if text in written)
        return cls([*control, *used, *_IN_TEMPLATE.findall(written), *(_OF_ROLES if written else ())])

    def break_in(self, text: str) -> str:
        """Return a text with a space after the first character of each marker."""
        return text if self._starts is None else self._starts.sub(r"\1 ", text)
