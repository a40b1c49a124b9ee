"""Data augmentation: variants of queries and codes."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import replace

from llamaindex_code_retrieval.chunking.names import named
from llamaindex_code_retrieval.languages.bodies import without_signature_and_returns
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES
from llamaindex_code_retrieval.training.pairs import Pair


def hard_positive(code: str, language: str) -> str:
    """Return ``code`` without its signature and return statements (CodeSage, Zhang et al. 2024, section 3.2).

    Code that cannot be parsed, or of which nothing would be left, is returned unchanged.
    """
    return (without_signature_and_returns(code, language) if language in CODE_LANGUAGES else "") or code


def with_names(pairs: Sequence[Pair], share: float) -> list[Pair]:
    """Return the pairs, this share of their codes with the words of the path in front, as an index embeds them.

    A code alone decides whether it has them, so that all pairs of a code agree. Codes without a path stay.
    """
    return [
        replace(pair, code=named(pair.code, pair.path, pair.language))
        if pair.path and zlib.crc32(pair.code.encode(errors="replace")) < share * 2**32
        else pair
        for pair in pairs
    ]


def rewrite_query(query: str, rng: random.Random) -> str:
    """Delete, repeat or swap a random word (CoCLR, Huang et al. 2021); the only word of a query is repeated."""
    words = query.split()
    if not words:
        return query
    place = rng.randrange(len(words))
    match rng.choice(("delete", "copy", "switch")) if len(words) > 1 else "copy":
        case "delete":
            del words[place]
        case "copy":
            words.insert(place, words[place])
        case _:
            other = rng.choice([each for each in range(len(words)) if each != place])
            words[place], words[other] = words[other], words[place]
    return " ".join(words)
