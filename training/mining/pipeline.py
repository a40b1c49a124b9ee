"""``mine``: from source folders to pairs, file by file, then deduplicated and limited per repository."""

from __future__ import annotations

import hashlib
import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llamaindex_code_retrieval._io import Progress, check_is_list, no_progress
from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.index.file_state import SourceCounts
from llamaindex_code_retrieval.index.sources import SourceFile, walk
from llamaindex_code_retrieval.languages.syntax import Definition, definitions
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, known_language
from llamaindex_code_retrieval.training.mining.comments import summary
from llamaindex_code_retrieval.training.mining.filters import reject_code, reject_file, reject_query
from llamaindex_code_retrieval.training.mining.license_files import license_of_header
from llamaindex_code_retrieval.training.mining.licenses import is_permissive
from llamaindex_code_retrieval.training.mining.provenance import Provenance
from llamaindex_code_retrieval.training.near_duplicates import near_duplicate_clusters
from llamaindex_code_retrieval.training.pairs import Pair

MAX_SAME_QUERY = 3
"""A description that more functions of one repository share does not describe any of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MineReport:
    """The mined pairs, and how many documented functions were ``dropped`` and files ``skipped``, by reason."""

    pairs: list[Pair]
    files: int
    """Files that were parsed."""
    functions: int
    """Functions and methods with a doc comment in these files."""
    dropped: dict[str, int]
    skipped: dict[str, int]


def mine(
    roots: Sequence[str | Path],
    *,
    languages: Collection[str] = (),
    permissive_only: bool = False,
    exclude: Collection[str] = (),
    max_per_repository: int | None = None,
    on_progress: Progress = no_progress,
) -> MineReport:
    """Make a pair of each documented function and method under the folders ``roots``.

    The query is the first paragraph of the doc comment as plain text, the code is the function without it. Files,
    functions and descriptions are filtered as for CodeSearchNet (:mod:`.filters`). Of near-duplicate codes only the
    first is kept (Allamanis 2019, arXiv:1812.06469).

    Args:
        roots: folders with source code, git checkouts or not. A folder of installed packages (one that holds
            ``*.dist-info``) counts as one repository for each package.
        languages: mine only these; empty: all.
        permissive_only: skip files that are not known to be under a permissive licence.
        exclude: names of repositories to skip, for instance those that a benchmark uses.
        max_per_repository: keep at most this many pairs of a repository: those whose code has the smallest SHA-256.
        on_progress: called with "mine" or "compare", the number of files or codes done, and their total.

    Raises:
        ValueError: an unknown language, a name in ``exclude`` that no repository has, or a limit under 1.
        FileNotFoundError: a root does not exist.
        NotADirectoryError: a root is a file.
        ImportError: the package ``datasketch`` is missing.
        TypeError: a string in place of a list.
    """
    check_installed("datasketch", extra="train", purpose="mining")
    if max_per_repository is not None and max_per_repository < 1:
        raise ValueError(f"max_per_repository must be at least 1, got {max_per_repository}")
    for name, values in (("roots", roots), ("languages", languages), ("exclude", exclude)):
        check_is_list(values, name)
    for language in languages:
        known_language(language)
    folders = check_folders(roots)
    provenances = [Provenance(folder) for folder in folders]
    _check_excluded(exclude, provenances)

    selection = _Selection(languages, exclude, permissive_only)
    counts = _Counts()
    pairs: list[Pair] = []
    for folder, provenance in zip(folders, provenances, strict=True):
        pairs.extend(_mine_folder(folder, provenance, selection, counts, on_progress))
    pairs = _deduplicate(pairs, counts.dropped, on_progress)
    if max_per_repository is not None:
        pairs = _limit_per_repository(pairs, max_per_repository, counts.dropped)
    return MineReport(
        pairs=pairs,
        files=counts.files,
        functions=counts.functions,
        dropped={reason: count for reason, count in counts.dropped.most_common() if count},
        skipped=dict(counts.skipped.most_common()),
    )


def check_folders(roots: Sequence[str | Path]) -> list[Path]:
    """Return the folders as paths.

    Raises:
        FileNotFoundError: a folder does not exist.
        NotADirectoryError: it is a file.
    """
    folders = [Path(root).expanduser() for root in roots]
    for folder in folders:
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist; name a folder with source code, or a git URL")
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is not a folder; name a folder with source code, or a git URL")
    return folders


def _check_excluded(exclude: Collection[str], provenances: Sequence[Provenance]) -> None:
    known = sorted({name for provenance in provenances for name in provenance.repositories})
    for name in exclude:
        if name not in known:
            shown = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
            raise ValueError(f"no repository is named {name!r}, so it cannot be excluded; there are {shown}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Origin:
    """Where a source file comes from."""

    language: str
    repository: str
    path: str
    license: str

    @classmethod
    def of(cls, source: SourceFile, provenance: Provenance) -> _Origin:
        return cls(
            language=source.language,
            repository=provenance.repository_of(source.path),
            path=source.path,
            license=license_of_header(source.text) or provenance.license_of(source.path),
        )


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which files are mined, by where they come from."""

    languages: Collection[str]
    exclude: Collection[str]
    permissive_only: bool

    def reject(self, origin: _Origin) -> str | None:
        if origin.language not in CODE_LANGUAGES:
            return "not code"
        if self.languages and origin.language not in self.languages:
            return "another language"
        if origin.repository in self.exclude:
            return "repository excluded"
        if self.permissive_only and not is_permissive(origin.license):
            return "licence not permissive"
        return None


@dataclass(slots=True)
class _Counts:
    """Counts for the report; ``listed`` are all source files, ``files`` those that were parsed."""

    listed: int = 0
    files: int = 0
    functions: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


def _mine_folder(
    folder: Path, provenance: Provenance, selection: _Selection, counts: _Counts, on_progress: Progress
) -> Iterator[Pair]:
    left_out = SourceCounts()
    sources = list(walk(folder, left_out))
    counts.skipped.update({reason: files.total() for reason, files in left_out.left_out.items()})
    before = counts.listed
    counts.listed += len(sources)
    for number, source in enumerate(sources, start=before + 1):
        on_progress("mine", number, counts.listed)
        origin = _Origin.of(source, provenance)
        reason = selection.reject(origin) or reject_file(source)
        if reason is not None:
            counts.skipped[reason] += 1
            continue
        documented = [each for each in definitions(source.text, origin.language) if _is_documented_function(each)]
        counts.files += 1
        counts.functions += len(documented)
        yield from _pairs_of(documented, origin, counts.dropped)


def _is_documented_function(definition: Definition) -> bool:
    return definition.kind != "class" and bool(definition.docstring)


def _pairs_of(documented: Sequence[Definition], origin: _Origin, dropped: Counter[str]) -> Iterator[Pair]:
    for definition in documented:
        query = summary(definition.docstring)
        code = textwrap.dedent(definition.code_without_docstring).strip("\n")
        reason = reject_query(query) or reject_code(definition, code)
        if reason is None:
            yield Pair(
                query=query,
                code=code,
                language=origin.language,
                repository=origin.repository,
                path=origin.path,
                license=origin.license,
            )
        else:
            dropped[reason] += 1


def _deduplicate(pairs: Sequence[Pair], dropped: Counter[str], on_progress: Progress) -> list[Pair]:
    """Return the pairs without repeated codes, descriptions of many functions, and near-duplicate codes."""
    first_of_code: dict[str, Pair] = {}
    for pair in pairs:
        first_of_code.setdefault(" ".join(pair.code.split()), pair)
    distinct = list(first_of_code.values())
    dropped["same code as another"] += len(pairs) - len(distinct)

    uses = Counter((pair.repository, pair.query.lower()) for pair in distinct)
    specific = [pair for pair in distinct if uses[pair.repository, pair.query.lower()] <= MAX_SAME_QUERY]
    dropped[f"description of over {MAX_SAME_QUERY} functions"] += len(distinct) - len(specific)

    on_progress("compare", 0, len(specific))
    clusters = near_duplicate_clusters([pair.code for pair in specific])
    first_of_cluster = [pair for place, pair in enumerate(specific) if clusters[place] == place]
    dropped["near-duplicate of another"] += len(specific) - len(first_of_cluster)
    on_progress("compare", len(specific), len(specific))
    return first_of_cluster


def _limit_per_repository(pairs: Sequence[Pair], limit: int, dropped: Counter[str]) -> list[Pair]:
    selected: set[str] = set()
    counts: Counter[str] = Counter()
    for pair in sorted(pairs, key=lambda pair: hashlib.sha256(pair.code.encode(errors="replace")).digest()):
        counts[pair.repository] += 1
        if counts[pair.repository] <= limit:
            selected.add(pair.code)
    dropped[f"beyond {limit} per repository"] += len(pairs) - len(selected)
    return [pair for pair in pairs if pair.code in selected]
