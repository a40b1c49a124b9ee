"""Names in an answer: find those that a code base does not have."""

from __future__ import annotations

import builtins
import keyword
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from llamaindex_code_retrieval._code_words import code_words
from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.index.related import has_name
from llamaindex_code_retrieval.index.view import View
from llamaindex_code_retrieval.ranking.places import is_file

_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_NAME = re.compile(r"[@$&*]?(?P<name>[^\W\d]\w*[?!]?(?:(?:\.|::|->|\?\.|#|\\)[^\W\d]\w*[?!]?)*)(?:\(.*\))?;?", re.S)
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
    """Yield the code spans that are one name, perhaps qualified or called, as they are written without arguments.

    >>> list(named_in(["Session.send(request)", "std::vector", "pip install x", "a + b", "app.py"]))
    ['Session.send', 'std::vector']
    """
    for span in spans:
        match = _NAME.fullmatch(span.strip())
        if match is not None and not is_file(match["name"]):
            yield match["name"]


def unknown_names(names: Iterable[str], known_texts: Sequence[str], index: CodeIndex[Any]) -> list[str]:
    """Return the names, each once, of which an identifier is neither in the texts nor in the code of an index."""
    distinct = dict.fromkeys(names)
    with index.view() as view:
        return [
            name
            for name in distinct
            if not _is_of_a_language(name)
            and not all(
                any(has_name(text, part) for text in known_texts) or _is_in_index(view, part)
                for part in _IDENTIFIER.findall(name)
            )
        ]


def _is_of_a_language(name: str) -> bool:
    """Return whether a name is a keyword or builtin of a language, or begins with a module of a standard library."""
    first, *rest = _IDENTIFIER.findall(name)
    if first in sys.stdlib_module_names:
        return True
    return all(
        len(part) == 1 or part.lower() in _WORDS_OF_LANGUAGES or part in _python_names() for part in (first, *rest)
    )


@cache
def _python_names() -> frozenset[str]:
    """Return the keywords and builtins of Python, and the attributes of the builtin types."""
    types = [value for value in vars(builtins).values() if isinstance(value, type)]
    attributes = {name for each in (*types, type(named_in), type(sys)) for name in dir(each)}
    return frozenset({*keyword.kwlist, *keyword.softkwlist, *vars(builtins), *attributes})


def _is_in_index(view: View, name: str) -> bool:
    numbers, count = view.with_all_words(name, field="body", top_k=_SEARCHED)
    if count > _SEARCHED or any(has_name(text, name) for _, text in view.reading.texts(numbers, containing=name)):
        return True
    return not code_words(name) or any(has_name(path, name) for path in view.reading.paths())
