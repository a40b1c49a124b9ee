"""The Markdown that tools for agents return: compact, bounded, with the place of everything that is quoted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llamaindex_code_retrieval.chat.excerpts import excerpt, more_lines, numbered_lines, place_line
from llamaindex_code_retrieval.chat.passages import Range, fenced, ranges_of
from llamaindex_code_retrieval.serving.results import (
    CodeHit,
    CodeText,
    Definition,
    FileDefinitions,
    Outline,
    SearchResult,
)

MAX_CHARACTERS = 20_000
"""Of the longest result."""
_FULL_HITS, _FULL_LINES = 3, 14
"""Hits that are quoted with the most lines, and how many lines that is."""
_SHORT_LINES = 4
"""Of the other hits."""
_ROOM = 300
"""Characters that are kept for saying what was left out."""
_NAMES = 12
"""Definitions of a file that the outline of its folder names."""


def search_text(result: SearchResult, question: str, *, limit: int, qualified: bool) -> str:
    """Return the best ``limit`` hits with their code, cut to the lines that matter, and one line for each further one.

    With ``qualified`` a path begins with the name of its repository.
    """
    blocks = _notes(result.notes)
    for rank, hit in enumerate(result.hits[:limit]):
        place = _place(hit, qualified, note=_other_parts(hit))
        most_lines = _FULL_LINES if rank < _FULL_HITS else _SHORT_LINES
        blocks.append(f"### {place}\n{_quoted(hit, question, most_lines)}")
    further = [_place(hit, qualified) for hit in result.hits[limit:]]
    if further:
        blocks.append("More places:\n" + "\n".join(further))
    if not result.hits:
        blocks.append("Nothing was found. Ask in other words, or leave out filters.")
    return _bounded(blocks, "results are left out; ask for fewer, or filter by paths, languages or kind")


def related_text(result: SearchResult, *, qualified: bool) -> str:
    """Return one line for each place that is related, with the reason."""
    lines = [_place(hit, qualified, note=hit.related) for hit in result.hits]
    blocks = [*_notes(result.notes), "\n".join(lines) or "Nothing is related to this place."]
    return _bounded(blocks, "places are left out; ask for fewer")


def read_text(read: CodeText, *, wanted: int | None, qualified: bool) -> str:
    """Return numbered lines of a file between fences, as many as fit; and how to read on, up to line ``wanted``."""
    path = _path(read.repository, read.path, qualified)
    lines = dict(enumerate(read.text.split("\n"), start=read.first))
    texts: list[str] = []
    left = MAX_CHARACTERS - _ROOM - 2 * len(path)
    for text in numbered_lines(lines, lines):
        left -= len(text) + 1
        if left < 0 and texts:
            break
        texts.append(text)
    last = read.first + len(texts) - 1
    blocks = [f"### {place_line(path, [Range(read.first, last)], '')}\n{fenced(chr(10).join(texts), read.language)}"]
    end = read.total if wanted is None else min(wanted, read.total)
    if last < end:
        blocks.append(more_lines(path, last, end))
    return "\n".join(blocks)


def outline_text(outline: Outline, *, qualified: bool) -> str:
    """Return the definitions of a file, one a line; or the folders of a folder, and its files with what they define."""
    name = _path(outline.repository, outline.path, qualified) if outline.path else outline.repository
    folders = [
        f"{_path(outline.repository, path, qualified)}/ ({_files(count)})" for path, count in outline.folders.items()
    ]
    blocks = [*_notes(outline.notes), f"### {name}", *folders]
    if len(outline.files) == 1 and outline.files[0].path == outline.path:
        blocks += [_definition(each) for each in outline.files[0].definitions] or ["(no definitions)"]
    else:
        blocks += [_file(each, outline.repository, qualified) for each in outline.files]
    return _bounded(blocks, "lines are left out; ask for the outline of a folder or file below", separator="\n")


def status_text(status: Mapping[str, Any]) -> str:
    """Return the state of each repository."""
    return "\n".join(_repository(each) for each in status["repositories"])


def _repository(status: Mapping[str, Any]) -> str:
    languages = sorted(status["languages"].items(), key=lambda each: (-each[1], each[0]))
    lines = [
        f"### {status['name']}: {status['state']}",
        f"folders: {', '.join(status['roots'])}",
        f"{status['files']:,} files, {status['nodes']:,} pieces of code, last updated {status['updated'] or 'never'}",
    ]
    if languages:
        lines.append("languages: " + ", ".join(f"{name} {count:,}" for name, count in languages))
    if status["missing_vectors"]:
        lines.append(f"{status['missing_vectors']:,} pieces have no vector yet and are found by words alone")
    if status["read_only"]:
        lines.append("read-only: the index is not updated by this server")
    if status["problem"]:
        lines.append(f"not up to date: {status['problem']}")
    return "\n".join(lines)


def _quoted(hit: CodeHit, question: str, most_lines: int) -> str:
    passage = excerpt(
        hit.text.split("\n"),
        question,
        path=hit.path,
        first=hit.first,
        symbol=hit.symbol,
        language=hit.language,
        most_lines=most_lines,
    )
    return fenced(passage.text, hit.language)


def _other_parts(hit: CodeHit) -> str:
    """Return which lines of the definition were found beside those of the hit; parts overlap by a few lines."""
    parts = (part.partition("-") for part in hit.also_lines.split(", ") if part)
    numbers = {number for first, _, last in parts for number in range(int(first), int(last) + 1)}
    numbers -= set(range(hit.first, hit.last + 1))
    return f"also lines {','.join(map(str, ranges_of(numbers)))}" if numbers else ""


def _place(hit: CodeHit, qualified: bool, note: str = "") -> str:
    path = _path(hit.repository, hit.path, qualified)
    return place_line(path, [Range(hit.first, hit.last)], hit.scope, note)


def _path(repository: str, path: str, qualified: bool) -> str:
    return f"{repository}/{path}" if qualified else path


def _definition(definition: Definition) -> str:
    lines = place_line("", [Range(definition.first, definition.last)], definition.scope).removeprefix(":")
    return f"{lines} `{definition.signature.replace('`', ' ')}`" if definition.kind != "section" else lines


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count:,} files"


def _file(file: FileDefinitions, repository: str, qualified: bool) -> str:
    names = [definition.scope for definition in file.definitions]
    more = f", {len(names) - _NAMES:,} more" if len(names) > _NAMES else ""
    defines = f": {', '.join(' '.join(name.split()) for name in names[:_NAMES])}{more}" if names else ""
    return f"{place_line(_path(repository, file.path, qualified), (), '')}{defines}"


def _notes(notes: Iterable[str]) -> list[str]:
    return [f"Note: {note}." for note in notes]


def _bounded(blocks: Sequence[str], rest: str, *, separator: str = "\n\n") -> str:
    """Return the first blocks that fit; ``rest`` says what to do about the others."""
    kept: list[str] = []
    left = MAX_CHARACTERS - _ROOM
    for block in blocks:
        left -= len(block) + len(separator)
        if left < 0:
            break
        kept.append(block)
    if len(kept) < len(blocks):
        kept.append(f"({len(blocks) - len(kept):,} {rest})")
    return separator.join(kept)
