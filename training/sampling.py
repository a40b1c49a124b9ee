"""Select, split and sample pairs for training and validation."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from llamaindex_code_retrieval.training.pairs import Pair


def select_languages(pairs: list[Pair], languages: Sequence[str]) -> list[Pair]:
    """Return the pairs of these languages, or all where none is named."""
    found = sorted({pair.language for pair in pairs})
    for language in languages:
        if language not in found:
            raise ValueError(f"there is no pair of language {language!r}; the sources have {', '.join(found)}")
    return [pair for pair in pairs if pair.language in languages] if languages else pairs


def split_by_repository(
    pairs: Sequence[Pair], *, held_out: float = 0.1, seed: int = 0
) -> tuple[list[Pair], list[Pair]]:
    """Return training pairs and held-out pairs, in their order, with no repository on both sides.

    Which repositories are held out depends on ``seed`` and their names alone, up to the share. Where all pairs are of
    one repository, whole files of it are held out instead. A pair without a repository goes with its file, and without
    a path with the pairs of the same code.

    Raises:
        ValueError: ``held_out`` is no share, or everything is of one repository and file.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must be between 0 and 1, got {held_out}")
    single = len({pair.repository for pair in pairs}) == 1

    def group(pair: Pair) -> str:
        if pair.repository and not single:
            return f"repository {pair.repository}"
        return f"path {pair.path}" if pair.path else f"code {pair.code}"

    sizes = Counter(map(group, pairs))
    if len(sizes) < 2:
        raise ValueError(
            f"{len(pairs)} pairs of {len(sizes)} repository, file or code cannot be split; add pairs of another one"
        )
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed} {name}".encode(errors="replace")).digest())
    wanted = held_out * len(pairs)
    chosen: set[str] = set()
    total = 0
    for name in order:
        # a group that ends farther above the share than it started below would make it worse
        if len(chosen) + 1 < len(sizes) and total < wanted and abs(total + sizes[name] - wanted) <= wanted - total:
            chosen.add(name)
            total += sizes[name]
    if not chosen:
        chosen.add(min(order, key=lambda name: sizes[name]))
    sides = [(pair, group(pair) in chosen) for pair in pairs]
    return [pair for pair, is_out in sides if not is_out], [pair for pair, is_out in sides if is_out]


def sample_pool(
    held_out: Sequence[Pair], known: Iterable[str], *, queries: int, codes: int, seed: int
) -> tuple[dict[str, set[str]], list[str]]:
    """Return up to so many held-out queries, each with what answers it, and the codes that they are asked of, sorted.

    These are all that answer them, and others drawn from the held-out and the known codes until there are enough.
    """
    rng = np.random.default_rng(seed)
    answers: dict[str, set[str]] = {}
    for pair in held_out:
        answers.setdefault(pair.query, set()).add(pair.code)
    every = list(answers)
    asked = {every[i]: answers[every[i]] for i in rng.permutation(len(every))[:queries]}
    right = {code for own in asked.values() for code in own}
    others = sorted({*known, *(pair.code for pair in held_out)} - right)
    drawn = rng.permutation(len(others))[: max(0, codes - len(right))]
    return asked, sorted([*right, *(others[i] for i in drawn)])
