"""BM25 over the words inside identifiers."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_WORD = re.compile(r"[^\W_]+(?:_+[^\W_]+)*")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")


def code_words(text: str) -> list[str]:
    """Return the lower-cased words of a text, identifiers split at camelCase, snake_case and digits.

    >>> code_words("parseHTTPHeader(max_size, utf8)")
    ['parse', 'http', 'header', 'max', 'size', 'utf', '8']
    """
    return [part.lower() for word in _WORD.findall(text) for part in _PART.findall(word)]


class LexicalIndex:
    """BM25 (Robertson, k1 = 1.5, b = 0.75; scored by bm25s) over a fixed list of texts, addressed by position."""

    def __init__(self, bm25: Any, size: int) -> None:
        self._bm25 = bm25
        self._size = size

    @classmethod
    def build(cls, texts: Sequence[str]) -> LexicalIndex:
        """Index ``texts``."""
        words = [code_words(text) for text in texts]
        if not any(words):
            return cls(None, len(texts))
        bm25 = _bm25s().BM25(k1=1.5, b=0.75)
        bm25.index(words, show_progress=False)
        return cls(bm25, len(texts))

    def search(self, query: str, *, top_k: int) -> list[tuple[int, float]]:
        """Return (position, score) of the best ``top_k`` texts that share a word with the query, ties by position."""
        if self._bm25 is None:
            return []
        known = [word for word in code_words(query) if word in self._bm25.vocab_dict]
        if not known:
            return []
        scores = np.asarray(self._bm25.get_scores(known))
        order = np.lexsort((np.arange(self._size), -scores))[:top_k]
        return [(int(i), float(scores[i])) for i in order if scores[i] > 0]

    def save(self, folder: Path) -> None:
        """Write the index into ``folder``, which must exist."""
        if self._bm25 is not None:
            self._bm25.save(folder, show_progress=False)

    @classmethod
    def load(cls, folder: Path, *, size: int) -> LexicalIndex:
        """Read what :meth:`save` wrote for ``size`` texts."""
        if not any(folder.iterdir()):
            return cls(None, size)
        return cls(_bm25s().BM25.load(folder, load_vocab=True, show_progress=False), size)


def _bm25s() -> Any:
    import bm25s

    logging.getLogger("bm25s").setLevel(logging.WARNING)  # on import it sets itself to DEBUG
    return bm25s
