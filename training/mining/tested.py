"""Pairs of tests: the name of a test, or its doc comment, asks for the function that it tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from llamaindex_code_retrieval._code_words import code_words
from llamaindex_code_retrieval.training.mining.files import Counts, MinedFile, RepositoryFiles
from llamaindex_code_retrieval.training.mining.making import NameIndex, Place, make_pair
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.repositories.comments import summary
from llamaindex_code_retrieval.training.repositories.filters import reject_query

_CALL = re.compile(r"([^\W\d]\w*[?!]?)\s*\(")
_DESCRIBED_TEST = re.compile(r"""\b(?:it|test|specify)[ (]+(["'`])(?P<name>[^\n]{8,200}?)\1""")
_NOT_OF_THE_NAME = frozenset(("test", "tests", "spec", "should", "it", "case"))


class _Test(NamedTuple):
    name: str
    """The words of its name, or its description."""
    description: str
    """Its doc comment, if it has one."""
    code: str


def tested_pairs(files: RepositoryFiles, counts: Counts) -> Iterator[Pair]:
    """Yield a pair of each test that calls one function whose name is in that of the test or of its file.

    The function must be the only one of its name in the repository. If a test calls several such functions, the one
    with the longest name counts, ``parse_date`` rather than ``parse``; two of the same length are ambiguous.
    """
    names = NameIndex(files.code)
    for file in files.tests:
        file_words = _words(file.origin.path.rpartition("/")[2].partition(".")[0])
        for test in _tests(file):
            place = _tested(test, file_words, names)
            if place is None:
                counts.dropped["test of no function, or of several"] += 1
                continue
            pair = make_pair("test", _query(test, place), place, counts.dropped)
            if pair is not None:
                yield pair


def _tests(file: MinedFile) -> Iterator[_Test]:
    """Yield the functions of a test file, and the tests that have a description in place of a name."""
    for definition in file.definitions:
        if definition.kind != "class":
            words = _words(definition.symbol)
            yield _Test(" ".join(words), summary(definition.docstring), definition.code_without_docstring)
    described = list(_DESCRIBED_TEST.finditer(file.text))
    ends = [*(match.start() for match in described), len(file.text)][1:]
    for match, end in zip(described, ends, strict=True):
        yield _Test(match["name"], "", file.text[match.end() : end])


def _words(name: str) -> list[str]:
    return [word for word in code_words(name) if word not in _NOT_OF_THE_NAME]


def _tested(test: _Test, file_words: list[str], names: NameIndex) -> Place | None:
    test_words = {*code_words(test.name), *file_words}
    found: dict[str, int] = {}
    for name in dict.fromkeys(_CALL.findall(test.code)):
        words = code_words(name)
        if words and test_words.issuperset(words):
            found[name] = len(words)
    longest = [name for name, count in found.items() if count == max(found.values())]
    return names.find(longest[0]) if len(longest) == 1 else None


def _query(test: _Test, place: Place) -> str:
    """Return the doc comment if it is usable, else the name, after the function's own name if that is not in it."""
    if reject_query(test.description) is None:
        return test.description
    words = code_words(place.definition.symbol)
    return test.name if set(words) <= set(code_words(test.name)) else f"{' '.join(words)} {test.name}"
