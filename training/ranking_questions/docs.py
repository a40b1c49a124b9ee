"""Questions from doc comments: the first sentence, whole or with words left out, asks for its definition."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from random import Random

from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestion
from llamaindex_code_retrieval.languages.syntax import Definition
from llamaindex_code_retrieval.training.ranking_questions.selection import sample, targets_of
from llamaindex_code_retrieval.training.repositories.code_files import CodeFile, places
from llamaindex_code_retrieval.training.repositories.comments import summary
from llamaindex_code_retrieval.training.repositories.filters import reject_code, reject_name, reject_query
from llamaindex_code_retrieval.training.repositories.stop_words import content_words

DROPPED = 0.3
"""Share of the content words that a shortened question leaves out, apart from all stop words."""
MAX_WORDS = 30
MAX_PER_FILE = 2
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)(?<!vs)[.!?](?=\s+[^\Wa-z])")
_LABEL = re.compile(r"(?:public|internal|protected|note|warning|summary|experimental|description):\s*", re.IGNORECASE)
_CODE = re.compile(
    r"[;{}=]\s*$|\w\s*:?=\s|[<>=!]=|=>|->|\)\)|^(?:example )?usage\b|^e\.g|^copied\b|^todo\b|^http", re.IGNORECASE
)


def doc_questions(files: Sequence[CodeFile], *, limit: int, rng: Random) -> list[RepositoryQuestion]:
    """Return questions whose target is the definition with this doc comment.

    The comment is part of the code that is searched, so its words match too easily: every second question, chosen at
    random, has no stop words and leaves out ``DROPPED`` of the others.
    """
    found = [(file, definition, _first_sentence(definition)) for file, definition in places(list(files))]
    uses = Counter(sentence.lower() for _, _, sentence in found)
    questions = []
    for file, definition, sentence in found:
        if uses[sentence.lower()] == 1 and not _reject_sentence(sentence) and not _reject_definition(definition):
            query = _shorten(sentence, rng) if rng.random() < 0.5 else sentence
            target = targets_of([(file.path, definition)])
            questions.append(RepositoryQuestion(query=query, category="doc", relevant=target))
    return sample(questions, limit, max_per_file=MAX_PER_FILE, rng=rng)


def _reject_sentence(sentence: str) -> str | None:
    if len(sentence.split()) > MAX_WORDS:
        return f"description over {MAX_WORDS} words"
    return "description is code" if _CODE.search(sentence) else reject_query(sentence)


def _reject_definition(definition: Definition) -> str | None:
    if definition.kind == "class":
        return reject_name(definition)
    return reject_code(definition, textwrap.dedent(definition.code_without_docstring).strip("\n"))


def _first_sentence(definition: Definition) -> str:
    """Return the first sentence of the doc comment, without the name that comments in Go begin with."""
    sentence = _SENTENCE_END.split(summary(definition.docstring), maxsplit=1)[0].rstrip(".!?: ")
    name = re.escape(definition.symbol)
    return re.sub(rf"^{name}(?:\(\))?\s+(?:(?:is|are)\s+)?", "", _LABEL.sub("", sentence, count=1))


def _shorten(sentence: str, rng: Random) -> str:
    """Return the content words of a sentence without ``DROPPED`` of them; three stay."""
    words = content_words(sentence) or sentence.split()
    kept = min(len(words), max(3, round((1 - DROPPED) * len(words))))
    return " ".join(words[i] for i in sorted(rng.sample(range(len(words)), kept)))
