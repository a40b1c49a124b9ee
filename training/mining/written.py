"""Pairs that a language model writes: its question about a function asks for it, if a search finds it again."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from llamaindex_code_retrieval._io import Progress, no_progress
from llamaindex_code_retrieval.index.words import WordDocument, WordIndex
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.repositories.filters import reject_query

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

POOL = 1_000
"""Codes among which the search must find the function first."""
MAX_CHARACTERS = 3_000
"""Of a code that the model reads."""
PROMPT = """Here is a function of a program:

{code}

Write one question of a developer who needs this function, but knows neither its name nor its code. Ask what it does in
plain words, in one line of at most 20 words. Write the question alone."""
_LABEL = re.compile(r"^(?:[-*\d.)\s]*)(?:\**(?:question|q)\**\s*:\**\s*)?", re.IGNORECASE)


def written_pairs(
    pairs: Sequence[Pair], llm: LLM, *, most: int, dropped: Counter[str], on_progress: Progress = no_progress
) -> list[Pair]:
    """Return pairs of questions that ``llm`` writes about the codes of ``pairs``, at most ``most`` of a repository.

    BM25 must rank the code first for its question, among ``POOL`` codes or all there are: a model of another kind than
    those that are trained on the pairs. Questions that are not usable queries, or that name the function, are dropped
    as well. ``on_progress`` is called with "write", the number of codes done, and their total.
    """
    distinct = list({pair.code: pair for pair in pairs}.values())
    chosen = _choose(distinct, most)
    round_trip = _RoundTrip([pair.code for pair in distinct])
    written: list[Pair] = []
    for number, pair in enumerate(chosen, start=1):
        question = _clean(llm.complete(PROMPT.format(code=pair.code[:MAX_CHARACTERS])).text)
        reason = reject_query(question)
        if reason is None and _names(question, pair.code):
            reason = "written question names the function"
        if reason is None and not round_trip.finds(question, pair.code):
            reason = "written question does not find its function"
        if reason is None:
            written.append(replace(pair, query=question, kind="written", negatives=(), negative_queries=()))
        else:
            dropped[reason] += 1
        on_progress("write", number, len(chosen))
    return written


def _digest(pair: Pair) -> bytes:
    return hashlib.sha256(pair.code.encode(errors="replace")).digest()


def _choose(pairs: Sequence[Pair], most: int) -> list[Pair]:
    counts: Counter[str] = Counter()
    chosen: list[Pair] = []
    for pair in sorted(pairs, key=_digest):
        counts[pair.repository] += 1
        if counts[pair.repository] <= most:
            chosen.append(pair)
    return chosen


def _clean(answer: str) -> str:
    """Return the first line of an answer without quotes, numbers and labels."""
    line = next((line for line in answer.splitlines() if line.strip()), "")
    return _LABEL.sub("", line.strip()).strip("\"'`*“” ")


def _names(question: str, code: str) -> bool:
    """Return whether a question has a compound name of the code in it, such as ``send_receipt``."""
    names = {name for name in re.findall(r"\w+", code) if re.search(r"[a-z\d][A-Z]|\w_\w", name)}
    return not names.isdisjoint(re.findall(r"\w+", question))


class _RoundTrip:
    """Searches codes by BM25 for a question about one of them."""

    def __init__(self, codes: Sequence[str]) -> None:
        self._number = {code: number for number, code in enumerate(codes)}
        index = WordIndex.in_memory()
        with index.writer() as writer:
            writer.add(WordDocument(number, "", "", "", "", code) for number, code in enumerate(codes))
            writer.commit()
        self._searcher = index.searcher()

    def finds(self, question: str, code: str) -> bool:
        """Return whether the code is ranked before the codes that follow it, ``POOL`` in all."""
        answer, total = self._number[code], len(self._number)
        pool = np.array(sorted((answer + step) % total for step in range(min(POOL, total))), dtype=np.int64)
        hits = self._searcher.search(question, top_k=2, allowed=pool)
        scores = [score for _, score in hits]
        return bool(hits) and hits[0][0] == answer and (len(hits) == 1 or scores[0] > scores[1])
