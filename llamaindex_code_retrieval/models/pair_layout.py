"""Lay out a query and a code as one row of token ids: special tokens, token types and truncation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from tokenizers import Tokenizer

PairRow = tuple[list[int], int]
"""The token ids of a pair, and the position of the code's first token."""


@dataclass(frozen=True, slots=True)
class PairLayout:
    """The token ids before, between and after two texts that are read as one.

    The query is kept whole and the code is cut to the remaining tokens. A query that leaves none is cut to half.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    types: tuple[list[int], int, list[int], int, list[int]] | None = None
    """Token types of ``before``, the query, ``between``, the code and ``after``; ``None``: the model has no types."""

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer, *, has_types: bool) -> Self:
        """Return the layout that a tokenizer of the package ``tokenizers`` gives to a pair of texts.

        With ``has_types`` the model tells query and code apart by token types.

        Raises:
            ValueError: the tokenizer does not write both texts unchanged between special tokens.
        """
        text: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
        encoded = tokenizer.encode("a", "a")
        pair, types = encoded.ids, encoded.type_ids
        size = len(text)
        starts = [i for i in range(len(pair)) if pair[i : i + size] == text]
        if len(starts) != 2 or not size:
            raise ValueError(
                "the tokenizer does not write a pair of texts as two texts between special tokens, so pairs cannot be "
                "cut to a token limit; use another checkpoint"
            )
        first, second = starts
        by_part = (types[:first], types[first], types[first + size : second], types[second], types[second + size :])
        return cls(
            pair[:first], pair[first + size : second], pair[second + size :], types=by_part if has_types else None
        )

    @property
    def special_tokens(self) -> int:
        """How many tokens of a row are neither query nor code."""
        return len(self.before) + len(self.between) + len(self.after)

    def row(self, query: Sequence[int], code: Sequence[int], *, room: int) -> PairRow:
        """Return the ids of a pair with at most ``room`` tokens of text, and the position of the code's first token."""
        query_ids = query if len(query) < room else query[: room // 2]
        start = [*self.before, *query_ids, *self.between]
        return [*start, *code[: room - len(query_ids)], *self.after], len(start)

    def type_ids(self, length: int, code_start: int) -> list[int]:
        """Return the token types of a row of ``length`` tokens whose code begins at ``code_start``; 0 without types."""
        if self.types is None:
            return [0] * length
        before, query, between, code, after = self.types
        query_tokens = code_start - len(before) - len(between)
        code_tokens = length - code_start - len(after)
        return [*before, *[query] * query_tokens, *between, *[code] * code_tokens, *after]
