"""Data augmentation: variants of queries and codes."""

from __future__ import annotations

import random

from llamaindex_code_retrieval.languages.bodies import without_signature_and_returns
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES


def hard_positive(code: str, language: str) -> str:
    """Return ``code`` without its signature and return statements (CodeSage, Zhang et al. 2024, section 3.2).

    Code that cannot be parsed, or of which nothing would be left, is returned unchanged.
    """
    return (without_signature_and_returns(code, language) if language in CODE_LANGUAGES else "") or code


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
