"""``mine``: from source folders to pairs, kind by kind, then deduplicated and limited per repository."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from llamaindex_code_retrieval._io import Progress, check_is_list, no_progress
from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.languages.table import known_language
from llamaindex_code_retrieval.training.mining.benchmarks import read_benchmarks
from llamaindex_code_retrieval.training.mining.commits import commit_pairs
from llamaindex_code_retrieval.training.mining.deduplication import deduplicate, limit_per_repository
from llamaindex_code_retrieval.training.mining.documented import documented_pairs
from llamaindex_code_retrieval.training.mining.files import Counts, RepositoryFiles, read_files
from llamaindex_code_retrieval.training.mining.names import path_pairs, symbol_pairs
from llamaindex_code_retrieval.training.mining.provenance import Provenance
from llamaindex_code_retrieval.training.mining.sections import section_pairs
from llamaindex_code_retrieval.training.mining.selection import HeldOut, Origin, Selection
from llamaindex_code_retrieval.training.mining.tested import tested_pairs
from llamaindex_code_retrieval.training.pairs import Pair, check_file, read_pairs
from llamaindex_code_retrieval.training.repositories.folders import check_folders
from llamaindex_code_retrieval.training.repositories.history import is_shallow

MINERS: Mapping[str, Callable[[RepositoryFiles, Counts], Iterator[Pair]]] = MappingProxyType(
    {
        "doc": documented_pairs,
        "commit": commit_pairs,
        "section": section_pairs,
        "symbol": symbol_pairs,
        "path": path_pairs,
        "test": tested_pairs,
    }
)
"""What makes the pairs of each kind that is mined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MineReport:
    """The mined pairs, and how many candidates were ``dropped`` and files ``skipped``, by reason."""

    pairs: list[Pair]
    files: int
    """Code files that were parsed."""
    functions: int
    """Functions and methods with a doc comment in these files."""
    commits: int
    """Commits that were read."""
    dropped: dict[str, int]
    skipped: dict[str, int]


def mine(
    roots: Sequence[str | Path],
    *,
    kinds: Collection[str] = ("doc",),
    languages: Collection[str] = (),
    permissive_only: bool = False,
    exclude: Collection[str] = (),
    held_out: Collection[str] = (),
    benchmarks: Sequence[str] = (),
    max_per_repository: int | None = None,
    on_progress: Progress = no_progress,
) -> MineReport:
    """Make pairs of the code, the tests, the documents and the history under the folders ``roots``.

    By default these are pairs of documented functions: the query is the first paragraph of the doc comment as plain
    text, the code is the function without it. Files, functions and queries are filtered as for CodeSearchNet
    (:mod:`.filters`). Of near-duplicate codes only the first few are kept (Allamanis 2019, arXiv:1812.06469).

    Args:
        roots: folders with source code, git checkouts or not. A folder of installed packages (one that holds
            ``*.dist-info``) counts as one repository for each package. A ``.jsonl`` or ``.jsonl.gz`` file holds pairs
            that were mined before: they are joined with the others, by the same rules.
        kinds: the kinds of pairs to make, of ``MINERS``; :data:`.KINDS` says what they are.
        languages: mine only these; empty: all.
        permissive_only: skip files that are not known to be under a permissive licence.
        exclude: names of repositories to skip; each must be there.
        held_out: repositories that evaluations use, as ``owner/name``, to skip with their copies in other ones.
        benchmarks: evaluation sets that training must not see, as for :func:`.read_benchmarks`: pairs with one of
            their queries, or a near-duplicate of their codes, are dropped.
        max_per_repository: keep at most this many pairs of a repository and kind: those with the smallest SHA-256.
        on_progress: called with "mine" or "compare", the number of files or codes done, and their total.

    Raises:
        ValueError: an unknown kind or language, a name in ``exclude`` that no repository has, a limit under 1, or a
            folder whose history is missing or shallow where commits are mined.
        FileNotFoundError: a root or a benchmark does not exist.
        NotADirectoryError: a root is a file.
        ImportError: the package ``datasketch`` is missing.
        TypeError: a string in place of a list.
    """
    check_installed("datasketch", extra="train", purpose="mining")
    lists = {"roots": roots, "kinds": kinds, "languages": languages, "exclude": exclude, "held_out": held_out}
    _check_values({**lists, "benchmarks": benchmarks}, max_per_repository)
    mined, folders = _files_and_folders(roots)
    provenances = [Provenance(folder) for folder in folders]
    _check_excluded(exclude, provenances)
    if "commit" in kinds:
        _check_histories(folders)
    unseen = read_benchmarks(benchmarks)
    selection = Selection(languages, exclude, HeldOut(held_out), permissive_only)
    counts = Counts()
    pairs = [pair for file in mined for pair in _select(read_pairs(file), selection, counts)]
    for folder, provenance in zip(folders, provenances, strict=True):
        files = read_files(folder, provenance, selection, kinds, counts, on_progress)
        for kind in (kind for kind in MINERS if kind in kinds):
            pairs.extend(MINERS[kind](files, counts))
    pairs = deduplicate(pairs, unseen, counts.dropped, on_progress)
    if max_per_repository is not None:
        pairs = limit_per_repository(pairs, max_per_repository, counts.dropped)
    return _report(pairs, counts)


def _is_pairs(root: str | Path) -> bool:
    return str(root).endswith((".jsonl", ".jsonl.gz"))


def _select(pairs: Iterable[Pair], selection: Selection, counts: Counts) -> Iterator[Pair]:
    """Yield the pairs that come from files which would be mined now, of whatever kind, and count the others."""
    for pair in pairs:
        origin = Origin(language=pair.language, repository=pair.repository, path=pair.path, license=pair.license)
        is_other = selection.languages and pair.language not in selection.languages
        reason = "another language" if is_other else selection.reject(origin)
        if reason is None:
            yield pair
        else:
            counts.dropped[reason] += 1


def _report(pairs: list[Pair], counts: Counts) -> MineReport:
    return MineReport(
        pairs=pairs,
        files=counts.files,
        functions=counts.functions,
        commits=counts.commits,
        dropped={reason: count for reason, count in counts.dropped.most_common() if count},
        skipped=dict(counts.skipped.most_common()),
    )


def _check_values(lists: Mapping[str, Collection[Any]], max_per_repository: int | None) -> None:
    for name, values in lists.items():
        check_is_list(values, name)
    for kind in lists["kinds"]:
        if kind not in MINERS:
            raise ValueError(f"{kind!r} is not a kind of pairs that is mined; the kinds are {', '.join(MINERS)}")
    if not lists["kinds"]:
        raise ValueError(f"kinds is empty; name at least one of {', '.join(MINERS)}")
    for language in lists["languages"]:
        known_language(language)
    if max_per_repository is not None and max_per_repository < 1:
        raise ValueError(f"max_per_repository must be at least 1, got {max_per_repository}")


def _files_and_folders(roots: Sequence[str | Path]) -> tuple[list[Path], list[Path]]:
    """Return the files of mined pairs and the folders among ``roots``."""
    mined = [Path(root).expanduser() for root in roots if _is_pairs(root)]
    for file in mined:
        check_file(file)
    return mined, check_folders([root for root in roots if not _is_pairs(root)])


def _check_excluded(exclude: Collection[str], provenances: Sequence[Provenance]) -> None:
    known = sorted({name for provenance in provenances for name in provenance.repositories})
    for name in exclude:
        if name not in known:
            shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
            raise ValueError(f"no repository is named {name!r}, so it cannot be excluded; there are {shown}")


def _check_histories(folders: Sequence[Path]) -> None:
    for folder in folders:
        if is_shallow(folder):
            raise ValueError(
                f"{folder} is a shallow clone, so its history is missing; run `git fetch --unshallow` in it, or leave "
                "the commits out"
            )
