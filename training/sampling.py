"""Select, split and sample pairs for training and validation."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from llamaindex_code_retrieval.training.pairs import Pair


def select_languages(pairs: list[Pair], languages: Sequence[str]) -> list[Pair]:
    """Return the pairs of ``languages``, or all pairs if ``languages`` is empty.

    Raises:
        ValueError: no pair is of one of the languages.
    """
    known = sorted({pair.language or "(not stated)" for pair in pairs})
    for language in languages:
        if language not in known:
            raise ValueError(f"there is no pair of language {language!r}; the sources have {', '.join(known)}")
    return [pair for pair in pairs if pair.language in languages] if languages else pairs


def mix_kinds(pairs: list[Pair], weights: Mapping[str, float], *, seed: int) -> list[Pair]:
    """Return the pairs in their order, those of a kind as often as its weight says; 1 for kinds without one.

    The part of a weight after the point is the share of the kind that is used once more, chosen by ``seed``.

    Raises:
        ValueError: a kind has a weight over 0 and no pair, or all pairs have the weight 0.
    """
    counts = Counter(pair.kind for pair in pairs)
    for kind, weight in weights.items():
        if weight and not counts[kind]:
            there = ", ".join(f"{count:,} {name}" for name, count in counts.most_common()) or "none at all"
            raise ValueError(
                f"the kind {kind!r} has the weight {weight:g}, but no pair of it is left to train on (there are: "
                f"{there}); add some, or leave its weight out"
            )
    rng = np.random.default_rng(seed)
    repeats = np.ones(len(pairs), dtype=np.int64)
    for kind, weight in sorted(weights.items()):
        of_kind = np.array([place for place, pair in enumerate(pairs) if pair.kind == kind], dtype=np.int64)
        repeats[of_kind] = int(weight)
        repeats[rng.permutation(of_kind)[: round(weight % 1 * len(of_kind))]] += 1
    mixed = [pair for pair, count in zip(pairs, repeats, strict=True) for _ in range(count)]
    if pairs and not mixed:
        raise ValueError(f"the weights of all kinds of the {len(pairs):,} pairs are 0; give one a weight over 0")
    return mixed


def check_batch(pairs: Sequence[Pair], batch_size: int) -> None:
    """Check that there are enough pairs for a batch.

    Raises:
        ValueError: there are fewer pairs than ``batch_size``.
    """
    if len(pairs) < batch_size:
        raise ValueError(
            f"{len(pairs)} pairs are fewer than a batch of {batch_size}; lower batch_size or give more pairs"
        )


def check_trainable(pairs: Sequence[Pair], batch_size: int) -> None:
    """Check that a contrastive loss can learn from the pairs: a full batch, and more than one query and code.

    Raises:
        ValueError: there are fewer pairs than ``batch_size``, or all have the same query or the same code.
    """
    check_batch(pairs, batch_size)
    for name in ("query", "code"):
        texts = {getattr(pair, name) for pair in pairs}
        if len(texts) == 1:
            raise ValueError(
                f"all {len(pairs)} pairs have the same {name}, {texts.pop()!r:.80}, so none of them is a negative for "
                f"another; give pairs with several {'queries' if name == 'query' else 'codes'}"
            )


def split_by_repository(
    pairs: Sequence[Pair], *, held_out: float = 0.1, seed: int = 0
) -> tuple[list[Pair], list[Pair]]:
    """Return training pairs and held-out pairs, each in their original order, with no repository on both sides.

    Repositories are held out in an order that depends only on ``seed`` and their names, until their pairs are about
    the share ``held_out``. If all pairs are of one repository, files are held out instead. Pairs without a repository
    are grouped by their file, and without a path by their code.

    Raises:
        ValueError: ``held_out`` is not between 0 and 1, or all pairs are of one repository and file.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1, got {held_out}")
    single = len({pair.repository for pair in pairs}) == 1

    def group(pair: Pair) -> str:
        if pair.repository and not single:
            return f"repository {pair.repository}"
        return f"path {pair.path}" if pair.path else f"code {pair.code}"

    groups = [group(pair) for pair in pairs]
    if len(set(groups)) < 2:
        raise ValueError(
            f"{len(pairs)} pairs of one repository and file cannot be split into training and held-out pairs; "
            "add pairs of other files or repositories, or name pairs to validate on"
        )
    chosen = choose_groups(groups, share=held_out, seed=seed)
    sides = [(pair, name in chosen) for pair, name in zip(pairs, groups, strict=True)]
    return [pair for pair, is_out in sides if not is_out], [pair for pair, is_out in sides if is_out]


def choose_groups(groups: Sequence[str], *, share: float, seed: int) -> set[str]:
    """Return the groups that are held out, given the group of each example: at least one, and not all of several.

    They come in an order that depends only on ``seed`` and their names, until they have about ``share`` of the
    examples.
    """
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed} {name}".encode(errors="replace")).digest())
    wanted = share * len(groups)
    chosen: set[str] = set()
    total = 0
    for name in order:
        # skip a group that would exceed the share by more than it now lacks
        if len(chosen) + 1 < len(sizes) and total < wanted and abs(total + sizes[name] - wanted) <= wanted - total:
            chosen.add(name)
            total += sizes[name]
    if not chosen:
        chosen.add(min(order, key=lambda name: sizes[name]))
    return chosen


def sample_pool(
    held_out: Sequence[Pair], other_codes: Iterable[str], *, queries: int, codes: int, seed: int
) -> tuple[dict[str, set[str]], list[str]]:
    """Sample a retrieval task from held-out pairs: the relevant codes of each query, and the sorted pool of codes.

    At most ``queries`` queries are sampled. The pool holds all codes that are relevant to them, and a sample of the
    held-out codes and ``other_codes`` that brings it up to ``codes``.
    """
    rng = np.random.default_rng(seed)
    relevant: dict[str, set[str]] = {}
    for pair in held_out:
        relevant.setdefault(pair.query, set()).add(pair.code)
    all_queries = list(relevant)
    sampled = {all_queries[i]: relevant[all_queries[i]] for i in rng.permutation(len(all_queries))[:queries]}
    answers = {code for codes_of_query in sampled.values() for code in codes_of_query}
    others = sorted({*other_codes, *(pair.code for pair in held_out)} - answers)
    added = rng.permutation(len(others))[: max(0, codes - len(answers))]
    return sampled, sorted([*answers, *(others[i] for i in added)])
