"""Change queries and codes a little, so that a model sees each pair in several forms."""

from __future__ import annotations

import random

from llamaindex_code_retrieval.languages.syntax import without_signature_and_returns
from llamaindex_code_retrieval.languages.table import LANGUAGES


def hard_positive(code: str, language: str) -> str:
    """Return ``code`` without its signature and return statements (CodeSage, Zhang et al. 2024, section 3.2).

    What cannot be parsed, or would be empty, is returned as it is.
    """
    return (without_signature_and_returns(code, language) if language in LANGUAGES else "") or code


def rewrite_query(query: str, rng: random.Random) -> str:
    """Delete, copy or switch one random word (CoCLR, Huang et al. 2021); the only word of a query is copied."""
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
