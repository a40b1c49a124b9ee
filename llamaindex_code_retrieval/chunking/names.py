"""The words of path and scope that are embedded with the code of a node."""

from __future__ import annotations

import re
from itertools import accumulate

from llama_index.core.schema import Document, TextNode

from llamaindex_code_retrieval._code_words import code_words
from llamaindex_code_retrieval.chunking.source import NAMES, Source
from llamaindex_code_retrieval.languages.bounds import Measure, Part, Tokenizer

_SHARE = 10
"""The words are at most a tenth of the tokens of the largest node."""
_PATH_PARTS = 2
_MAX_WORDS = 20
_MAX_LETTERS = 40
"""Longer words are data."""
_SPARE_TOKENS = 8
"""A node whose tokens, counted apart from those of its words, come closer to the bound is counted as a whole."""


def named(code: str, path: str, language: str = "") -> str:
    """Return the text that an index embeds for a code without a scope, all words of its path included.

    >>> named("def send(): ...", "src/requests/adapters.py", "python")
    'names: requests adapters\\n\\ndef send(): ...'
    """
    source = Source(
        Document(text=code, metadata={"path": path, "language": language}),
        default_language=None,
        include_metadata=True,
    )
    names = Names(source, None, None)
    return source.embedded(code, names=" ".join(names.words_for(""))) if path else code


class Names:
    """Add to nodes, as the metadata key ``names``, the words of the last two parts of the path and of the scope.

    A node has fewer words, the first ones, or none, where all would be more than a tenth of ``max_tokens``. None has
    the key if the document excludes it from embedding, or has a key of this name itself.
    """

    def __init__(self, source: Source, max_tokens: int | None, tokenizer: Tokenizer | None) -> None:
        self._source = source
        self._max_tokens = max_tokens
        self._tokenizer = tokenizer or str.split  # nothing is counted without max_tokens
        self._path_words = code_words(_last_parts(source.named_path))
        self._words: dict[str, list[str]] = {}
        self._tokens: dict[str, int] = {}  # of each word
        self._are_added = source.adds_names
        self._special_tokens = len(self._tokenizer(""))
        if max_tokens is not None and source.adds_names:
            self._added_tokens = self._count("x", "x") - self._count("x", "")  # by the name of the key
            self._are_added = self._added_tokens <= max_tokens // _SHARE

    @property
    def max_code_tokens(self) -> int | None:
        """How many tokens the code of a node may have, with other metadata."""
        if self._max_tokens is None or not self._are_added:
            return self._max_tokens
        return self._max_tokens - self._max_tokens // _SHARE

    def add_to(self, node: TextNode, part: Part, measure: Measure) -> None:
        """Add names to the metadata of the node of a part, unless they do not fit."""
        if not self._are_added:
            return
        words = self.words_for(node.metadata["scope"])
        while words and not self._fits(node.text, words, part, measure):
            words = words[:-1]
        if words:
            node.metadata[NAMES] = " ".join(words)

    def words_for(self, scope: str) -> list[str]:
        """Return the words for the definitions of a scope, the path's first."""
        if scope not in self._words:
            words = dict.fromkeys([*self._path_words, *code_words(scope)])
            self._words[scope] = self._bounded([word for word in words if len(word) <= _MAX_LETTERS][:_MAX_WORDS])
        return self._words[scope]

    def _bounded(self, words: list[str]) -> list[str]:
        """Return the first words whose tokens are at most a tenth of the bound."""
        if self._max_tokens is None:
            return words
        sums = accumulate(map(self._tokens_of, words), initial=self._added_tokens)
        return words[: sum(tokens <= self._max_tokens // _SHARE for tokens in sums) - 1]

    def _fits(self, code: str, words: list[str], part: Part, measure: Measure) -> bool:
        if self._max_tokens is None:
            return True
        room = self._max_tokens - self._name_tokens(words) - _SPARE_TOKENS
        return measure.has_at_most(room, part) or self._count(code, " ".join(words)) <= self._max_tokens

    def _name_tokens(self, words: list[str]) -> int:
        return self._added_tokens + sum(map(self._tokens_of, words))

    def _tokens_of(self, word: str) -> int:
        if word not in self._tokens:
            self._tokens[word] = len(self._tokenizer(word)) - self._special_tokens
        return self._tokens[word]

    def _count(self, code: str, names: str) -> int:
        return len(self._tokenizer(self._source.embedded(code, names=names)))


def _last_parts(path: str) -> str:
    """Return the last parts of a path, without the extension.

    >>> _last_parts("src/requests/adapters.py"), _last_parts("C:\\\\shop\\\\.bashrc"), _last_parts("/Makefile")
    ('requests/adapters', 'shop/.bashrc', 'Makefile')
    """
    parts = [part for part in re.split(r"[/\\]", path) if part][-_PATH_PARTS:]
    return re.sub(r"(?<=[^/])\.[^./]*$", "", "/".join(parts))
