"""Mine pairs from the documented functions of source folders."""

from __future__ import annotations

import hashlib
import textwrap
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamaindex_code_retrieval._io import Progress
from llamaindex_code_retrieval.index.sources import Skips, walk
from llamaindex_code_retrieval.languages.syntax import definitions
from llamaindex_code_retrieval.languages.table import known_language, language_of
from llamaindex_code_retrieval.training.mining.comments import summary
from llamaindex_code_retrieval.training.mining.filters import reject_code, reject_file, reject_query
from llamaindex_code_retrieval.training.mining.licenses import is_permissive, license_of_header
from llamaindex_code_retrieval.training.mining.provenance import Provenance
from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
from llamaindex_code_retrieval.training.pairs import Pair

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
    max_per_repository: int | None = None,
    on_progress: Progress | None = None,
) -> MineReport:
    """Make pairs of the documented functions and methods under ``roots``: folders, checkouts or not.

    The query is the first paragraph of the doc comment in plain words, the code the function without it. The filters
    are CodeSearchNet's (Husain et al. 2019, arXiv:1909.09436): nothing short, standard, generated or of a test. Of
    near-duplicates the first is kept (Allamanis 2019, arXiv:1812.06469), and a description that one repository gives
    to more than three functions is left out. A folder of installed packages, one that holds ``*.dist-info``, counts as
    a repository for each package. Repositories named in ``exclude`` are left out, for instance to measure on them, and
    of any other at most ``max_per_repository`` pairs are kept, those whose code's SHA-256 comes first, so that no
    large one drowns the rest. ``on_progress`` is called with a stage, what is done of it and its total.

    Raises:
        ValueError: an unknown language, a root that is no folder, or a limit under 1.
    """
    if max_per_repository is not None and max_per_repository < 1:
        raise ValueError(f"max_per_repository must be at least 1, got {max_per_repository}")
    wanted = None if languages is None else {known_language(language) for language in languages}
    skips = Skips()
    dropped: Counter[str] = Counter()
    found: list[Pair] = []
    files = functions = before = 0
    for root in roots:
        listed = list(walk(root, skips))
        provenance = Provenance(root)
        for done, file in enumerate(listed, start=1):
            if on_progress is not None:
                on_progress("mine", before + done, before + len(listed))
            language = language_of(file.path)
            if language is None or (wanted is not None and language not in wanted):
                skips.reasons["another language"] += 1
                continue
            reason = reject_file(file)
            if reason is not None:
                skips.reasons[reason] += 1
                continue
            license_ = license_of_header(file.text) or provenance.license_of(file.path)
            if permissive_only and not is_permissive(license_):
                skips.reasons["licence not permissive"] += 1
                continue
            repository = provenance.repository_of(file.path)
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
                reason = reject_query(query) or reject_code(definition, code)
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
        pairs=_limit_per_repository(_deduplicate(found, dropped, on_progress), max_per_repository, dropped),
        files=files,
        functions=functions,
        dropped={reason: count for reason, count in dropped.most_common() if count},
        skipped=dict(skips.reasons.most_common()),
    )


def _deduplicate(pairs: Sequence[Pair], dropped: Counter[str], on_progress: Progress | None) -> list[Pair]:
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


def _limit_per_repository(pairs: list[Pair], most: int | None, dropped: Counter[str]) -> list[Pair]:
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
