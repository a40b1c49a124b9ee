"""What is measured of one answer of a chat: retrieval, citations, and whether there is an answer at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from llama_index.core.schema import MetadataMode, NodeWithScore
from llama_index.core.utils import get_tokenizer

from llamaindex_code_retrieval.chat.citations import Citation, CitationCheck, citation_precision, citation_recall
from llamaindex_code_retrieval.chat.synthesizer import NO_HIT
from llamaindex_code_retrieval.eval.metrics import reciprocal_rank
from llamaindex_code_retrieval.eval.targets import Place, Target
from llamaindex_code_retrieval.index import places

NEEDS_ANSWER = ("rougeL", "rouge1", "rouge2", "grade")
"""Metrics of questions with a reference answer."""
NEEDS_TARGETS = (
    *(f"{prefix}{metric}" for prefix in ("", "file_") for metric in ("hit@1", "hit@5", "hit@10", "MRR")),
    "citation_precision",
    "citation_recall",
)
"""Metrics of questions with targets."""
_DEPTHS = (1, 5, 10)
_START = 200  # characters of an answer in which a refusal stands
_NOTHING = frozenset(("", NO_HIT, "Empty Response"))  # the last one is LlamaIndex's
_SOURCE = r"(?:passages?|context|sources?|provided (?:code|text|information))\b[^.;:!?\n]{0,40}?"
_REFUSAL = re.compile(
    rf"\b{_SOURCE}\b(?:do(?:es)? not|don['’]t|doesn['’]t)\s+(?:\w+\s+)?"
    r"(?:answer|contain|describe|explain|have|include|mention|provide|say|show|specify)\b"
    rf"|\b{_SOURCE}\b(?:is|are) not (?:enough|sufficient)\b"
    r"|\bnone of the (?:passages|sources)\b"
    r"|\bI(?: am|['’]m) (?:sorry|unable)\b"
    r"|\bI (?:do not|don['’]t) (?:know|have)\b"
    r"|\bI (?:cannot|can['’]t|could not|couldn['’]t) (?:answer|determine|find|provide)\b"
    r"|\b(?:not|cannot be) (?:answered|determined|found|mentioned|provided|specified) (?:by|from|in) the\b"
    r"|\bthe prompt has no passages to quote\b",
    re.IGNORECASE,
)


def is_answer(text: str) -> bool:
    """Return whether a text is neither empty nor a refusal, as far as its first 200 characters show.

    >>> [is_answer(text) for text in ("By `read` [1].", " ", "Sorry, the passages do not answer the question.")]
    [True, False, False]
    """
    return text.strip() not in _NOTHING and not _REFUSAL.search(text.strip()[:_START])


def retrieval_measures(hits: Sequence[Place], targets: Sequence[Target]) -> Iterator[tuple[str, float]]:
    """Yield each metric of the first ten hits with its value, for targets by their lines and by their files.

    A hit is right if it has a line of a target, or in metrics of files if it is of a target's file.

    >>> hits = [Place("a.py", 1, 9), Place("a.py", 10, 20)]
    >>> dict(retrieval_measures(hits, [Target("a.py", 15, 16)]))["MRR"]
    0.5
    """
    right_lines = [any(target.is_covered_by(hit) for target in targets) for hit in hits[: _DEPTHS[-1]]]
    right_files = [any(target.is_in(hit.path) for target in targets) for hit in hits[: _DEPTHS[-1]]]
    for prefix, right in (("", right_lines), ("file_", right_files)):
        for depth in _DEPTHS:
            yield f"{prefix}hit@{depth}", float(any(right[:depth]))
        yield f"{prefix}MRR", reciprocal_rank(right.index(True) + 1 if any(right) else None)


def citation_measures(check: CitationCheck, targets: Sequence[Target]) -> Iterator[tuple[str, float]]:
    """Yield ``valid_citations``, ``citation_precision`` and ``citation_recall``, as far as they are defined.

    A citation is valid if its lines were in the prompt, and precise if it also has a line of a target. An answer
    without citations has neither value. Lines of a passage that is also cited by number are no citation of their own.
    """
    by_number = [each for each in check.cited if each.number is not None]
    check = replace(check, cited=tuple(each for each in check.cited if not _repeats(each, by_number)))
    count = len(check.cited) + len(check.unknown_citations)
    if count:
        yield "valid_citations", len(check.cited) / count
    gold = [places.Place(target.path, target.start_line, target.end_line) for target in targets]
    for name, value in (
        ("citation_precision", citation_precision(check, gold) if gold else None),
        ("citation_recall", citation_recall(check, gold)),
    ):
        if value is not None:
            yield name, value


def _repeats(citation: Citation, passages: Sequence[Citation]) -> bool:
    """Return whether a citation of lines is a part of a passage."""
    return citation.number is None and any(
        passage.path == citation.path
        and all(
            any(own.first <= each.first and each.last <= own.last for own in passage.ranges) for each in citation.ranges
        )
        for passage in passages
    )


def count_tokens(passages: Sequence[NodeWithScore]) -> int:
    """Return the tokens of LlamaIndex's tokenizer in what an LLM sees of passages."""
    tokenize = get_tokenizer()
    return sum(len(tokenize(hit.node.get_content(MetadataMode.LLM))) for hit in passages)


def by_metric(values: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Turn question id -> metric -> value into metric -> question id -> value.

    >>> by_metric({"a": {"MRR": 1.0}, "b": {"MRR": 0.5, "answered": 1.0}})
    {'MRR': {'a': 1.0, 'b': 0.5}, 'answered': {'b': 1.0}}
    """
    metrics: dict[str, dict[str, float]] = {}
    for question, measured in values.items():
        for metric, value in measured.items():
            metrics.setdefault(metric, {})[question] = value
    return metrics
