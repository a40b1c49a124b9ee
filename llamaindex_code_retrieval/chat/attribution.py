"""Attribution: the passages that sentences of an answer match, found by names and words where an LLM cites nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from llama_index.core.schema import NodeWithScore

from llamaindex_code_retrieval._code_words import code_words
from llamaindex_code_retrieval.chat.citations import CODE_SPAN, FENCED, Citation, Citations
from llamaindex_code_retrieval.chat.names import identifiers_in, is_of_languages, named_in
from llamaindex_code_retrieval.chat.passages import Passage, passages_of
from llamaindex_code_retrieval.index.related import has_name
from llamaindex_code_retrieval.ranking.places import is_file

_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+(?=\S)|\n+")
_LIST_MARK = re.compile(r"^\s*(?:[-*+]|\d{1,2}[.)]|#{1,6})\s+")
_CODE_NAME = re.compile(
    r"(?<!\w)(?:[^\W\d]\w+(?:(?:\.|::|->|#)[^\W\d]\w+)+|[^\W\d]\w*?(?:[a-z0-9]_[a-z0-9]|[a-z][A-Z])\w*)"
)
"""A name that no other text has by chance: ``Session.send``, ``snake_case``, ``camelCase``."""
_PRONOUN = re.compile(r"(?:it|its|this|that|these|those|they|he|she|otherwise|then)\b", re.I)
"""The beginning of a sentence whose subject is in another one."""
_LEAST_WORDS, _LEAST_OWN = 5, 3
"""Words of a sentence without names that a passage has, and that no other passage has."""
_LEAST_SHARE = 0.6
_SHORT = 3  # letters


@dataclass(frozen=True, slots=True)
class Attribution:
    """A sentence of an answer, and the only passage that it matches."""

    sentence: str
    citation: Citation


def attribute_sentences(answer: str, passages: Sequence[NodeWithScore]) -> list[Attribution]:
    """Return the sentences that match exactly one passage, in their order.

    A sentence with names of code, in code spans or written like ``snake_case`` and ``camelCase``, matches the passages
    that have all of them; of several, the one that defines one of them. One without names matches a passage that has
    most of its words, and some that no other has. Sentences in fenced code are left out.
    """
    citations = Citations.of(passages).passages
    pairs = zip(citations, passages_of(passages), strict=True)
    of_code = [(citation, _Quoted(passage)) for citation, passage in pairs if passage.role != "test"]
    found = ((sentence, _match(sentence, [quoted for _, quoted in of_code])) for sentence in sentences(answer))
    return [Attribution(sentence, of_code[place][0]) for sentence, place in found if place is not None]


def sentences(answer: str) -> Iterator[str]:
    """Yield the sentences of an answer without its fenced code and the marks of lists.

    >>> list(sentences("It loads `app.load()`. Then:\\n- it runs"))
    ['It loads `app.load()`.', 'Then:', 'it runs']
    """
    for text in _SENTENCE_END.split(FENCED.sub("\n", answer)):
        if sentence := _LIST_MARK.sub("", text).strip():
            yield sentence


class _Quoted:
    """What a passage defines, and the names and words in it."""

    def __init__(self, passage: Passage) -> None:
        self._path = f"/{passage.path}"
        self._text = f"{passage.scope}\n{passage.text}"
        self._scope = identifiers_in(passage.scope)

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(map(_stem, code_words(self._text)))

    def has(self, name: str) -> bool:
        if is_file(name):
            return self._path.endswith(f"/{name}")
        return all(has_name(self._text, part) for part in identifiers_in(name) if not is_of_languages(part))

    def defines(self, name: str) -> bool:
        parts = identifiers_in(name)
        return bool(parts) and not is_file(name) and self._scope[-len(parts) :] == parts


def _match(sentence: str, passages: Sequence[_Quoted]) -> int | None:
    if _PRONOUN.match(sentence):
        return None
    names = list(_names_in(sentence))
    if not names:
        return _match_words(sentence, passages)
    holding = [place for place, passage in enumerate(passages) if all(map(passage.has, names))]
    for name in names:
        defining = [place for place in holding if passages[place].defines(name)]
        if defining:
            return defining[0] if len(defining) == 1 else None
    if len(holding) != 1 or not any(map(_is_specific, names)):
        return None
    return holding[0]


def _names_in(sentence: str) -> Iterator[str]:
    """Yield the names in a sentence that say something about a code base, those in code spans first."""
    spans = [match["code"] for match in CODE_SPAN.finditer(sentence)]
    prose = CODE_SPAN.sub(" ", sentence)
    for name in (*named_in(spans), *(match[0] for match in _CODE_NAME.finditer(prose))):
        if is_file(name) or not all(map(is_of_languages, identifiers_in(name))):
            yield name


def _is_specific(name: str) -> bool:
    """Return whether a name is unlikely to stand in a text by chance: one identifier of several words."""
    return len(identifiers_in(name)) == 1 and len(code_words(name)) > 1


def _match_words(sentence: str, passages: Sequence[_Quoted]) -> int | None:
    words = {_stem(word) for word in code_words(sentence) if len(word) > _SHORT}
    shared = [words & passage.words for passage in passages]
    held = Counter(chain.from_iterable(shared))
    matching = [
        place
        for place, its in enumerate(shared)
        if len(its) >= max(_LEAST_WORDS, _LEAST_SHARE * len(words))
        and sum(held[word] == 1 for word in its) >= _LEAST_OWN
    ]
    return matching[0] if len(matching) == 1 else None


def _stem(word: str) -> str:
    return re.sub(r"(?<=\w{3})(?:ing|ed|es|s)$", "", word)
