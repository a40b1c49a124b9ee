"""Names in an answer: find those that a code base does not have."""

from __future__ import annotations

import builtins
import keyword
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any

from llamaindex_code_retrieval._code_words import code_words
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.index.related import has_name
from llamaindex_code_retrieval.index.view import View
from llamaindex_code_retrieval.ranking.places import is_file

_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_NAME = re.compile(r"[@$&*]?(?P<name>[^\W\d]\w*[?!]?(?:(?:\.|::|->|\?\.|#|\\)[^\W\d]\w*[?!]?)*)(?:\(.*\))?;?", re.S)
_FILE = re.compile(r"[\w.@+/\\-]{1,300}")
_SEARCHED = 5000
"""Texts with the words of a name that are searched for it; with more of them it counts as known."""
_WORDS_OF_LANGUAGES = frozenset(
    "abstract alias any arguments array assert async auto await base begin bigint bool boolean break byte case catch "
    "chan char class complex const constexpr constructor continue crate debugger decimal declare default defer "
    "delegate delete do double dynamic else elsif end ensure enum event explicit export extends extern false "
    "fallthrough final finally float float32 float64 fn for foreach friend from func function get global go goto "
    "guard if impl implements implicit import in include init inline instanceof int int16 int32 int64 int8 interface "
    "internal is keyof lambda let long loop match mod module mut mutable namespace native never new nil noexcept none "
    "not null nullptr number object operator or out override package param params private protected protocol "
    "prototype pub public raise range readonly record ref require rescue return rune sbyte sealed self set short "
    "signed sizeof static static_cast str string struct super switch symbol synchronized template then this throw "
    "throws trait transient true try type typedef typeof typename u16 u32 u64 u8 uint ulong undef undefined union "
    "unless unsafe unsigned until use using usize val var vararg virtual void volatile when where while with "
    "yield".split()
)


def named_in(spans: Iterable[str]) -> Iterator[str]:
    """Yield the code spans that are a file or one name, perhaps qualified or called; without arguments.

    >>> list(named_in(["Session.send(request)", "std::vector", "pip install x", "a + b", "src/app.py"]))
    ['Session.send', 'std::vector', 'src/app.py']
    """
    for span in map(str.strip, spans):
        match = _NAME.fullmatch(span)
        if _FILE.fullmatch(span) and is_file(span):
            yield span
        elif match is not None:
            yield match["name"]


def identifiers_in(name: str) -> list[str]:
    """Return the identifiers of a name.

    >>> identifiers_in("Session.send")
    ['Session', 'send']
    """
    return _IDENTIFIER.findall(name)


def is_of_languages(identifier: str) -> bool:
    """Return whether an identifier is a letter, a keyword or a builtin name, which says nothing about a code base."""
    return len(identifier) == 1 or identifier.lower() in _WORDS_OF_LANGUAGES or identifier in _python_names()


def unknown_names(names: Iterable[str], known_texts: Sequence[str], index: CodeIndex[Any]) -> list[str]:
    """Return the names, each once, of which an identifier is neither in the texts nor in the code of an index."""
    with index.view() as view:
        known = _KnownNames(view, known_texts)
        return [name for name in dict.fromkeys(names) if not known.has(name)]


class _KnownNames:
    """The names in texts, in one state of an index, and in programming languages."""

    def __init__(self, view: View, texts: Sequence[str]) -> None:
        self._view = view
        self._texts = texts
        self._written: dict[str, bool] = {}

    def has(self, name: str) -> bool:
        if is_file(name):
            return self._is_end_of_path(name) or self._is_written(name)
        parts = identifiers_in(name)
        return parts[0] in sys.stdlib_module_names or all(map(self._has_part, parts))

    def _has_part(self, part: str) -> bool:
        return is_of_languages(part) or self._is_written(part)

    def _is_written(self, name: str) -> bool:
        """Return whether a name is in a text, in the code, or in the path of a file."""
        if name not in self._written:
            self._written[name] = any(has_name(text, name) for text in self._texts) or self._is_in_index(name)
        return self._written[name]

    def _is_end_of_path(self, name: str) -> bool:
        return any(f"/{path}".endswith(f"/{name}") for path in self._view.reading.paths(containing=name))

    def _is_in_index(self, name: str) -> bool:
        numbers, count = self._view.with_all_words(name, field="body", top_k=_SEARCHED)
        if count > _SEARCHED or not code_words(name):
            return True
        reading = self._view.reading
        texts = (text for _, text in reading.texts(numbers, containing=name))
        return any(has_name(text, name) for text in chain(texts, reading.paths(containing=name)))


@cache
def _python_names() -> frozenset[str]:
    """Return the keywords and builtins of Python, and the attributes of the builtin types."""
    types = [value for value in vars(builtins).values() if isinstance(value, type)]
    attributes = {name for each in (*types, type(named_in), type(sys)) for name in dir(each)}
    return frozenset({*keyword.kwlist, *keyword.softkwlist, *vars(builtins), *attributes})
