"""Split, draw and vary pairs: held-out repositories, candidate pools, near-duplicates, augmentation."""

from __future__ import annotations

import hashlib
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval.languages.syntax import without_signature_and_returns
from llamaindex_code_retrieval.languages.table import LANGUAGES
from llamaindex_code_retrieval.training.pairs import Pair


def of_languages(pairs: list[Pair], languages: Sequence[str]) -> list[Pair]:
    """Return the pairs of these languages, or all where none is named."""
    found = sorted({pair.language for pair in pairs})
    for language in languages:
        if language not in found:
            raise ValueError(f"there is no pair of language {language!r}; the sources have {', '.join(found)}")
    return [pair for pair in pairs if pair.language in languages] if languages else pairs


# --- splitting and varying -------------------------------------------------------------------------------------------


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


def drawn_pool(
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


def hard_positive(code: str, language: str) -> str:
    """Return ``code`` without its signature and return statements (CodeSage, Zhang et al. 2024, section 3.2).

    What cannot be parsed, or would be empty, is returned as it is.
    """
    return (without_signature_and_returns(code, language) if language in LANGUAGES else "") or code


def rewrite_query(query: str, rng: random.Random) -> str:
    """Delete, copy or switch one random word (CoCLR, Huang et al. 2021); the only word of a query is copied."""
    words = query.split()
    if not words:
        return query
    place = rng.randrange(len(words))
    match rng.choice(("delete", "copy", "switch")) if len(words) > 1 else "copy":
        case "delete":
            del words[place]
        case "copy":
            words.insert(place, words[place])
        case _:
            other = rng.choice([each for each in range(len(words)) if each != place])
            words[place], words[other] = words[other], words[place]
    return " ".join(words)


def near_duplicate_clusters(codes: Sequence[str], *, threshold: float = 0.8) -> list[int]:
    """Return a cluster number for each code: those joined by a chain of near-duplicates share one.

    Near-duplicates have a Jaccard similarity of ``threshold`` between their sets of five successive tokens; white space
    does not count. MinHash finds the candidates (64 permutations), the sets themselves decide.
    """
    from datasketch import MinHash, MinHashLSH

    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be over 0 and at most 1, got {threshold}")
    tokens = [tuple(_TOKEN.findall(code)) for code in codes]
    first = {each: place for place, each in reversed(list(enumerate(tokens)))}
    parent = [first[each] for each in tokens]
    distinct = sorted(set(parent))
    shingles = {place: _shingles(tokens[place]) for place in distinct}
    # weights: a missed candidate is lost, a wrong one only costs a comparison
    index = MinHashLSH(threshold=min(threshold, 0.99), num_perm=64, weights=(0.2, 0.8))
    sketches = MinHash.generator(shingles.values(), num_perm=64, hashfunc=int)

    def find(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    for place, sketch in zip(distinct, sketches, strict=True):
        for other in index.query(sketch):
            one, two = find(place), find(other)
            if one != two and _jaccard(shingles[place], shingles[other]) >= threshold:
                parent[max(one, two)] = min(one, two)
        index.insert(place, sketch, check_duplication=False)
    return [find(place) for place in range(len(codes))]


_TOKEN = re.compile(r"\w+|[^\w\s]")


def _shingles(tokens: Sequence[str]) -> NDArray[np.uint32]:
    """Return the sorted hashes of every five successive tokens, or of all of them where they are fewer."""
    runs = zip(*(tokens[skip:] for skip in range(5)), strict=False) if len(tokens) > 5 else [tokens]
    hashes = [zlib.crc32(" ".join(run).encode(errors="replace")) for run in runs]
    return np.unique(np.array(hashes, dtype=np.uint32))


def _jaccard(one: NDArray[np.uint32], two: NDArray[np.uint32]) -> float:
    common = len(np.intersect1d(one, two, assume_unique=True))
    return common / (len(one) + len(two) - common)
