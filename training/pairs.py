"""Training pairs, a query and the code that answers it: read, mined from source code, split and varied."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import re
import textwrap
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval.beir import Split, data_folder, read_split
from llamaindex_code_retrieval.sources import Skips, walk
from llamaindex_code_retrieval.syntax import (
    LANGUAGES,
    definitions,
    known_language,
    language_of,
    without_signature_and_returns,
)
from llamaindex_code_retrieval.training.comments import summary, why_not_asked
from llamaindex_code_retrieval.training.licenses import is_permissive, license_of_header
from llamaindex_code_retrieval.training.mining import Source, why_not_answer, why_not_mined

_TEXTS = ("language", "repository", "path", "license")
_LISTS = ("negatives", "negative_queries")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A query and a code that answers it, where both come from, and what is known not to fit.

    ``license`` is an SPDX id, or the name of a licence file that was not recognised. ``negatives`` are codes that do
    not answer the query, ``negative_queries`` queries that were judged not to be answered by the code.
    """

    query: str
    code: str
    language: str = ""
    repository: str = ""
    path: str = ""
    license: str = ""
    negatives: tuple[str, ...] = ()
    negative_queries: tuple[str, ...] = ()


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write one JSON object a line, gzipped if ``path`` ends in ``.gz``; a kill leaves the old file or the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            # no time stamp and no name in the archive: the same pairs make the same bytes
            out = gzip.GzipFile("", "wb", fileobj=stream, mtime=0) if path.suffix == ".gz" else stream
            for pair in pairs:
                row = {"query": pair.query, "code": pair.code}
                row |= {name: value for name in (*_TEXTS, *_LISTS) if (value := getattr(pair, name))}
                out.write(json.dumps(row).encode() + b"\n")
            if out is not stream:
                out.close()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_pairs(path: str | Path) -> list[Pair]:
    """Read what ``write_pairs`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an empty file, or a line that is no pair; the message names the line.
    """
    return [_pair(row, where) for where, row in jsonl_rows(Path(path))]


def jsonl_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON lines file, each with words for where it is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line that is no object, a damaged gzip file, or no line at all.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; name a .jsonl or .jsonl.gz file of pairs")
    empty = True
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                try:
                    row = json.loads(line)
                except ValueError as error:  # not JSON, or not UTF-8
                    raise ValueError(f"{where} is not JSON ({error}); write one object a line") from error
                if not isinstance(row, dict):
                    raise ValueError(f"{where} is {row!r:.80}; write an object with query and code")
                empty = False
                yield where, row
    except (EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is no whole gzip file after line {number} ({error}); write it again") from error
    if empty:
        raise ValueError(f"{path} holds no pair; write one JSON object with query and code a line")


def _pair(row: dict[str, Any], where: str) -> Pair:
    for name in ("query", "code", *_TEXTS):
        value = row.get(name, None if name in ("query", "code") else "")
        if value is None and name not in row:
            raise ValueError(f"{where} has no {name}, only {', '.join(row) or 'nothing'}; a pair needs query and code")
        if not isinstance(value, str):
            raise ValueError(f"{where} has the {name} {value!r:.80}; it must be a string")
        if name in ("query", "code") and not value.strip():
            raise ValueError(f"{where} has the {name} {value!r:.80}, which is empty; write a text or drop the line")
    for name in _LISTS:
        value = row.get(name, [])
        if not isinstance(value, list) or not all(isinstance(text, str) and text.strip() for text in value):
            raise ValueError(f"{where} has the {name} {value!r:.80}; it must be a list of strings that are not empty")
    known: dict[str, Any] = {name: row[name] for name in ("query", "code", *_TEXTS) if name in row}
    known |= {name: tuple(row[name]) for name in _LISTS if name in row}
    return Pair(**known)


# --- sets of pairs from elsewhere ------------------------------------------------------------------------------------


def load_pairs(source: str) -> list[Pair]:
    """Read pairs from wherever ``source`` says.

    - a ``.jsonl`` or ``.jsonl.gz`` file: ours, or CodeSearchNet's, known by its fields;
    - a folder in BEIR's layout, or the name of one in ``$CODE_RETRIEVAL_DATA``: its split ``train``, or the split that
      stands behind a colon, as in ``cosqa:dev``;
    - ``hf:org/name`` or ``hf:org/name:split``: a data set of the Hugging Face hub, read by ``datasets``.

    Raises:
        FileNotFoundError: there is no such file, folder or split.
        ValueError: what is there is not laid out as above, or holds no pair.
        ImportError: a hub data set without the package ``datasets``.
    """
    if source.startswith("hf:"):
        return _hub_pairs(source.removeprefix("hf:"))
    if source.endswith((".jsonl", ".jsonl.gz")):
        pairs = [pair for where, row in jsonl_rows(Path(source)) if (pair := _any_pair(row, where)) is not None]
        if not pairs:
            raise ValueError(f"{source} has no row with both a description and a code; name a file with some")
        return pairs
    return _beir_pairs(named_split(source))


def named_split(source: str) -> Split:
    """Read a split as ``folder:split`` or ``name:split`` says; ``train`` where no split is named.

    Raises:
        FileNotFoundError: there is no such folder or split.
        ValueError: what is there is not in BEIR's layout.
    """
    name, colon, split = source.rpartition(":")
    if not colon or Path(source).is_dir():
        name, split = source, "train"
    folder = Path(name) if Path(name).is_dir() else data_folder(name)
    if folder is None:
        data = os.environ.get("CODE_RETRIEVAL_DATA", "not set")
        raise FileNotFoundError(
            f"{name} is no folder, nor one in CODE_RETRIEVAL_DATA ({data}); name a .jsonl file, a folder "
            "with corpus.jsonl, queries.jsonl and qrels/, or hf:org/name"
        )
    return read_split(folder, split)


_DESCRIPTIONS = ("query", "docstring", "func_documentation_string", "docstring_tokens", "func_documentation_tokens")
_CODES = ("code", "func_code_string", "code_tokens", "func_code_tokens")


def _any_pair(row: dict[str, Any], where: str) -> Pair | None:
    """Return a row of ours or of CodeSearchNet's as a pair, ``None`` where its description or code is empty."""
    if "query" in row and "func_name" not in row:
        return _pair(row, where)
    description_name = next((name for name in _DESCRIPTIONS if name in row), None)
    code_name = next((name for name in _CODES if name in row), None)
    if description_name is None or code_name is None:
        raise ValueError(
            f"{where} has the fields {', '.join(row) or 'none'}; a pair needs query and code, or CodeSearchNet's "
            "docstring and code"
        )
    texts = []
    for name in (description_name, code_name):
        value = row[name]
        if isinstance(value, list) and all(isinstance(token, str) for token in value):
            value = " ".join(value)
        if not isinstance(value, str):
            raise ValueError(f"{where} has the {name} {value!r:.80}; it must be a string or a list of tokens")
        texts.append(value)
    description, code = texts
    language = str(row.get("language") or "").lower()
    query = summary(description) or " ".join(description.split("\n\n")[0].split())
    if language == "python" and (found := definitions(code, "python")):
        code = textwrap.dedent(found[0].code_without_docstring)
    if not query.strip() or not code.strip():
        return None
    return Pair(
        query=query,
        code=code,
        language=language,
        repository=str(row.get("repo") or row.get("repository_name") or ""),
        path=str(row.get("path") or row.get("func_path_in_repository") or ""),
    )


def _beir_pairs(judged: Split) -> list[Pair]:
    rows = [(query, code, score) for query, scores in judged.qrels.items() for code, score in scores.items()]
    rejected_codes: dict[str, list[str]] = {}
    rejected_queries: dict[str, list[str]] = {}
    for query, code, score in rows:
        if score <= 0:
            rejected_codes.setdefault(query, []).append(judged.corpus[code])
            rejected_queries.setdefault(code, []).append(judged.queries[query])
    pairs = [
        Pair(
            query=judged.queries[query],
            code=judged.corpus[code],
            language=judged.languages.get(code, ""),
            negatives=tuple(rejected_codes.get(query, ())),
            negative_queries=tuple(rejected_queries.pop(code, ())),  # on the code's first pair only: no doubles
        )
        for query, code, score in rows
        if score > 0
    ]
    if not pairs:
        raise ValueError(f"{judged.file} names no code that answers a query (score over 0), so there is no pair")
    return pairs


def _hub_pairs(source: str) -> list[Pair]:
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "reading hf: data sets needs `datasets`; pip install 'llamaindex-code-retrieval[train]'"
        ) from error
    name, colon, split = source.rpartition(":")
    if not colon:
        name, split = source, "train"
    try:
        rows = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"hf:{source} cannot be read ({type(error).__name__}: {error}); is the name right, has it the split "
            f"{split!r}, and can the hub be reached? A .jsonl file of the same rows works without it"
        ) from error
    pairs = [_any_pair(dict(row), f"hf:{source}, row {number}") for number, row in enumerate(rows, start=1)]
    found = [pair for pair in pairs if pair is not None]
    if not found:
        raise ValueError(f"hf:{source} has no row with both a description and a code")
    return found


# --- mining -----------------------------------------------------------------------------------------------------------


MAX_SAME_QUERY = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MineReport:
    """What was mined. ``dropped`` counts documented functions and ``skipped`` files, by reason."""

    pairs: list[Pair]
    files: int  # that were parsed
    functions: int  # functions and methods in them that have a doc comment
    dropped: dict[str, int]
    skipped: dict[str, int]


def mine(
    roots: Sequence[Path],
    *,
    languages: Collection[str] | None = None,
    permissive_only: bool = False,
    exclude: Collection[str] = (),
    most_of_a_repository: int | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> MineReport:
    """Make pairs of the documented functions and methods under ``roots``: folders, checkouts or not.

    The query is the first paragraph of the doc comment in plain words, the code the function without it. The filters
    are CodeSearchNet's (Husain et al. 2019, arXiv:1909.09436): nothing short, standard, generated or of a test. Of
    near-duplicates the first is kept (Allamanis 2019, arXiv:1812.06469), and a description that one repository gives
    to more than three functions is left out. A folder of installed packages, one that holds ``*.dist-info``, counts as
    a repository for each package. Repositories named in ``exclude`` are left out, for instance to measure on them, and
    of any other at most ``most_of_a_repository`` pairs are kept, those whose code's SHA-256 comes first, so that no
    large one drowns the rest. ``on_progress`` is called with a stage, what is done of it and its total.

    Raises:
        ValueError: an unknown language, a root that is no folder, or a limit under 1.
    """
    if most_of_a_repository is not None and most_of_a_repository < 1:
        raise ValueError(f"most_of_a_repository must be at least 1, got {most_of_a_repository}")
    wanted = None if languages is None else {known_language(language) for language in languages}
    skips = Skips()
    dropped: Counter[str] = Counter()
    found: list[Pair] = []
    files = functions = before = 0
    for root in roots:
        listed = list(walk(root, skips))
        source = Source(root)
        for done, file in enumerate(listed, start=1):
            if on_progress is not None:
                on_progress("mine", before + done, before + len(listed))
            language = language_of(file.path)
            if language is None or (wanted is not None and language not in wanted):
                skips.reasons["another language"] += 1
                continue
            reason = why_not_mined(file)
            if reason is not None:
                skips.reasons[reason] += 1
                continue
            license_ = license_of_header(file.text) or source.license_of(file.path)
            if permissive_only and not is_permissive(license_):
                skips.reasons["licence not permissive"] += 1
                continue
            repository = source.repository_of(file.path)
            if repository in exclude:
                skips.reasons["repository excluded"] += 1
                continue
            files += 1
            for definition in definitions(file.text, language):
                if definition.kind == "class" or not definition.docstring:
                    continue
                functions += 1
                query = summary(definition.docstring)
                code = textwrap.dedent(definition.code_without_docstring).strip("\n")
                reason = why_not_asked(query) or why_not_answer(definition, code)
                if reason is not None:
                    dropped[reason] += 1
                    continue
                pair = Pair(
                    query=query,
                    code=code,
                    language=language,
                    repository=repository,
                    path=file.path,
                    license=license_,
                )
                found.append(pair)
        before += len(listed)
    return MineReport(
        pairs=_few_of_each(_distinct(found, dropped, on_progress), most_of_a_repository, dropped),
        files=files,
        functions=functions,
        dropped={reason: count for reason, count in dropped.most_common() if count},
        skipped=dict(skips.reasons.most_common()),
    )


def _distinct(
    pairs: Sequence[Pair], dropped: Counter[str], on_progress: Callable[[str, int, int], None] | None
) -> list[Pair]:
    first: dict[str, Pair] = {}
    for pair in pairs:
        first.setdefault(" ".join(pair.code.split()), pair)
    dropped["same code as another"] += len(pairs) - len(first)
    times = Counter((pair.repository, pair.query.lower()) for pair in first.values())
    single = [pair for pair in first.values() if times[pair.repository, pair.query.lower()] <= MAX_SAME_QUERY]
    dropped[f"description of over {MAX_SAME_QUERY} functions"] += len(first) - len(single)
    if on_progress is not None:
        on_progress("compare", 0, len(single))
    clusters = near_duplicate_clusters([pair.code for pair in single])
    kept = [pair for place, pair in enumerate(single) if clusters[place] == place]
    dropped["near-duplicate of another"] += len(single) - len(kept)
    if on_progress is not None:
        on_progress("compare", len(single), len(single))
    return kept


def _few_of_each(pairs: list[Pair], most: int | None, dropped: Counter[str]) -> list[Pair]:
    if most is None:
        return pairs
    kept: set[str] = set()
    taken: Counter[str] = Counter()
    for pair in sorted(pairs, key=lambda pair: hashlib.sha256(pair.code.encode()).digest()):
        taken[pair.repository] += 1
        if taken[pair.repository] <= most:
            kept.add(pair.code)
    dropped[f"beyond {most} of a repository"] += len(pairs) - len(kept)
    return [pair for pair in pairs if pair.code in kept]


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


def pairs_fingerprint(pairs: Sequence[Pair]) -> str:
    """Return 16 hex digits over all that training reads of the pairs, their order included."""
    digest = hashlib.sha256()
    for pair in pairs:
        fields = (pair.query, pair.code, pair.language, *pair.negatives, "", *pair.negative_queries)
        digest.update(json.dumps(fields).encode())
    return digest.hexdigest()[:16]


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
