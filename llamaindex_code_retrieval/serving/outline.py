"""The definitions of the files of an index, without their code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from llamaindex_code_retrieval.chat.headers import signature_lines
from llamaindex_code_retrieval.index.file_state import FileState
from llamaindex_code_retrieval.index.places import closest_paths
from llamaindex_code_retrieval.index.tables import NodeRow, Reading
from llamaindex_code_retrieval.serving.results import Definition, FileDefinitions

MAX_FILES = 200
"""Files of a folder whose definitions are listed."""
_LONGEST_SIGNATURE = 160
"""Characters."""


def outline_of_file(reading: Reading, state: FileState) -> FileDefinitions:
    """Return the definitions of a file in their order; those inside others have a scope that says so."""
    return FileDefinitions(
        path=state.path, language=state.language, definitions=_definitions(reading.rows_of_file(state.path))
    )


def outline_of_folder(reading: Reading, folder: str) -> tuple[list[FileDefinitions], dict[str, int]]:
    """Return the first ``MAX_FILES`` files in a folder with their outermost definitions, and the folders in it.

    The folders have the number of files below them. An empty path is the whole index.

    Raises:
        ValueError: the index has no file below the folder.
    """
    start = f"{folder}/" if folder else ""
    paths = reading.paths()
    below = [path for path in paths if path.startswith(start)]
    if not below:
        closest = closest_paths(folder, paths)
        hint = f"did you mean {' or '.join(closest)}?" if closest else "an empty path lists the whole repository"
        raise ValueError(f"there is no file or folder {folder!r} in the index; {hint}")
    folders = Counter(
        start + path.removeprefix(start).split("/")[0] for path in below if "/" in path.removeprefix(start)
    )
    files = [path for path in below if "/" not in path.removeprefix(start)]
    outlines = []
    for path in files[:MAX_FILES]:
        rows = reading.rows_of_file(path)
        outermost = [each for each in _definitions(rows) if not _is_inner(each)]
        language = str(rows[0].metadata.get("language") or "text") if rows else "text"
        outlines.append(FileDefinitions(path=path, language=language, definitions=outermost))
    outlines += [FileDefinitions(path=path, language="", definitions=[]) for path in files[MAX_FILES:]]
    return outlines, dict(sorted(folders.items()))


def _is_inner(definition: Definition) -> bool:
    if definition.kind == "section":
        return " > " in definition.scope
    return definition.kind == "method" or "." in definition.scope


def _definitions(rows: Sequence[NodeRow]) -> list[Definition]:
    """Return a definition for each run of parts that has a symbol or is a section."""
    made = [_definition(list(parts)) for _, parts in groupby(rows, key=lambda row: row.position - row.part)]
    found = [definition for definition in made if definition is not None]
    kept: dict[object, Definition] = {}
    for each in found:  # what stands between the methods of a class is a class as well
        kept.setdefault(each.scope if each.kind == "class" else each, each)
    return [replace(each, last=_end(each, found)) if each.kind == "class" else each for each in kept.values()]


def _end(outer: Definition, definitions: Sequence[Definition]) -> int:
    """Return the last line of a class, whose own node may end where its first method begins."""
    return max(
        each.last
        for each in definitions
        if each.first >= outer.first and f"{each.scope}.".startswith(f"{outer.scope}.")
    )


def _definition(parts: Sequence[NodeRow]) -> Definition | None:
    first = parts[0]
    metadata = first.metadata
    kind, scope, symbol = (str(metadata.get(name) or "") for name in ("kind", "scope", "symbol"))
    if kind not in ("function", "method", "class", "section") or not scope:
        return None
    start = metadata.get("start_line", 1)
    lines = dict(enumerate(first.text.split("\n"), start=start))
    declared = signature_lines(lines, sorted(lines), symbol)
    return Definition(
        first=start,
        last=max(part.metadata.get("end_line", start) for part in parts),
        scope=scope,
        kind=kind,
        signature=_joined(lines[number] for number in declared),
    )


def _joined(lines: Iterable[str]) -> str:
    """Return the lines of a declaration as one."""
    return " ".join(" ".join(lines).split())[:_LONGEST_SIGNATURE]
