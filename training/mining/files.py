"""The files of a repository that pairs are made of: code, tests and documents, with their definitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from llamaindex_code_retrieval._io import Progress
from llamaindex_code_retrieval.index.file_state import SourceCounts
from llamaindex_code_retrieval.index.sources import SourceFile, walk
from llamaindex_code_retrieval.languages.syntax import Definition, definitions
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES
from llamaindex_code_retrieval.languages.testing import is_test_path
from llamaindex_code_retrieval.training.mining.provenance import Provenance
from llamaindex_code_retrieval.training.mining.selection import Origin, Selection
from llamaindex_code_retrieval.training.repositories.filters import reject_file

DOCUMENT_LANGUAGES = ("markdown", "restructuredtext", "asciidoc")


@dataclass(frozen=True, slots=True)
class MinedFile:
    """A file that is mined; a document has no definitions."""

    origin: Origin
    text: str
    definitions: tuple[Definition, ...] = ()


@dataclass(slots=True)
class Counts:
    """Counts for the report; ``listed`` are all source files, ``files`` the code files that were parsed."""

    listed: int = 0
    files: int = 0
    functions: int = 0
    commits: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class RepositoryFiles:
    """The files under one folder that are mined."""

    root: Path
    provenance: Provenance
    selection: Selection
    code: list[MinedFile] = field(default_factory=list)
    tests: list[MinedFile] = field(default_factory=list)
    documents: list[MinedFile] = field(default_factory=list)


def read_files(
    root: Path,
    provenance: Provenance,
    selection: Selection,
    kinds: Collection[str],
    counts: Counts,
    on_progress: Progress,
) -> RepositoryFiles:
    """Read and parse the files that pairs of these ``kinds`` are made of, and count the others."""
    left_out = SourceCounts()
    sources = list(walk(root, left_out))
    counts.skipped.update({reason: files.total() for reason, files in left_out.left_out.items()})
    files = RepositoryFiles(root, provenance, selection)
    before = counts.listed
    counts.listed += len(sources)
    for number, source in enumerate(sources, start=before + 1):
        on_progress("mine", number, counts.listed)
        origin = Origin.of(source, provenance)
        is_test = "test" in kinds and is_test_path(source.path) and source.language in CODE_LANGUAGES
        is_document = "section" in kinds and source.language in DOCUMENT_LANGUAGES
        reason = _reject_language(source, selection, is_document=is_document) or selection.reject(origin)
        reason = reason or (None if is_test or is_document else reject_file(source))
        if reason is not None:
            counts.skipped[reason] += 1
        elif is_document:
            files.documents.append(MinedFile(origin, source.text))
        else:
            found = tuple(definitions(source.text, source.language))
            (files.tests if is_test else files.code).append(MinedFile(origin, source.text, found))
            counts.files += 1
    return files


def _reject_language(source: SourceFile, selection: Selection, *, is_document: bool) -> str | None:
    if is_document:
        return None
    if source.language not in CODE_LANGUAGES:
        return "not code"
    return "another language" if selection.languages and source.language not in selection.languages else None
