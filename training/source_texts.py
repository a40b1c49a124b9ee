"""The texts of a pretraining: functions, classes and the code between them, cut out of source files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index.core.schema import Document

from llamaindex_code_retrieval._io import Progress, check_is_list, no_progress, short_hash
from llamaindex_code_retrieval.chunking import CodeNodeParser
from llamaindex_code_retrieval.index.file_state import SourceCounts
from llamaindex_code_retrieval.index.leave_out import describe_left_out
from llamaindex_code_retrieval.index.sources import SourceFile, walk
from llamaindex_code_retrieval.languages.bounds import Tokenizer
from llamaindex_code_retrieval.languages.identifiers import Declaration, declarations
from llamaindex_code_retrieval.languages.syntax import parse
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, known_language
from llamaindex_code_retrieval.training.repositories.folders import check_folders

_LEAST_LINES = 3
"""Shorter definitions and statements, such as a lone import, have too little around a masked token."""


@dataclass(frozen=True, slots=True)
class SourceText:
    """A part of a source file that fits the model, with its comments; ``names`` are those that it declares."""

    text: str
    language: str
    path: str
    """Begins with the name of the folder that was read."""
    names: tuple[str, ...] = ()


def read_source_texts(
    roots: Sequence[str | Path],
    *,
    max_tokens: int,
    tokenizer: Tokenizer,
    languages: Collection[str] = (),
    on_progress: Progress = no_progress,
) -> list[SourceText]:
    """Return the texts of the source files under ``roots``, each once, as an index would cut them.

    Files that an index leaves out, such as binary, generated and minified ones, are left out here as well.

    Args:
        roots: folders with source code.
        max_tokens: tokens of the longest text; longer functions are cut between statements.
        tokenizer: returns the tokens of a text.
        languages: read only these; empty: all languages of code.
        on_progress: called with "read", the number of files done and their total so far.

    Raises:
        ValueError: an unknown language, a folder that is none, or no text in any of them.
        TypeError: a string in place of a list.
    """
    check_is_list(roots, "roots")
    for language in languages:
        known_language(language)
    parser = CodeNodeParser(max_tokens=max_tokens, tokenizer=tokenizer, include_prev_next_rel=False)
    counts = SourceCounts()
    texts: dict[str, SourceText] = {}
    total = 0
    for root in check_folders(roots):
        files = [file for file in walk(root, counts) if _is_wanted(file, languages)]
        total += len(files)
        for number, file in enumerate(files, start=total - len(files) + 1):
            for text in _texts_of(file, root.resolve().name, parser):
                texts.setdefault(text.text, text)
            on_progress("read", number, total)
    if not texts:
        left_out = describe_left_out(counts.left_out)
        raise ValueError(
            f"there is no function to learn from in {', '.join(map(str, roots))}: {total:,} files of "
            f"{'these languages' if languages else 'code'} were read ({left_out}); name a folder with source code"
        )
    return list(texts.values())


def _is_wanted(file: SourceFile, languages: Collection[str]) -> bool:
    return file.language in (languages or CODE_LANGUAGES)


def _texts_of(file: SourceFile, repository: str, parser: CodeNodeParser) -> Iterator[SourceText]:
    document = Document(text=file.text, metadata={"path": file.path, "language": file.language})
    outline = parse(file.text, file.language)
    declared = [] if outline is None else declarations(outline)
    for node in parser.get_nodes_from_documents([document]):
        text = str(node.get_content())
        if "parts" not in node.metadata and sum(1 for line in text.split("\n") if line.strip()) < _LEAST_LINES:
            continue
        first, last = node.metadata["start_line"] - 1, node.metadata["end_line"] - 1
        yield SourceText(text, file.language, f"{repository}/{file.path}", _names_in(text, declared, first, last))


def _names_in(text: str, declared: Sequence[Declaration], first: int, last: int) -> tuple[str, ...]:
    """Return the names that these rows declare; a node may have less text than its rows."""
    words = set(re.findall(r"\w+", text))
    names = {each.name for each in declared if first <= each.row <= last and each.name in words}
    return tuple(sorted(names))


def describe_texts(texts: Sequence[SourceText], sources: Sequence[str]) -> dict[str, Any]:
    """Return the entry ``data`` of a record: how many texts there are, of which languages, and their fingerprint."""
    return {
        "sources": list(sources),
        "texts": len(texts),
        "texts_with_names": sum(1 for text in texts if text.names),
        "fingerprint": texts_fingerprint(texts),
        "languages": dict(Counter(text.language for text in texts).most_common()),
    }


def texts_fingerprint(texts: Sequence[SourceText]) -> str:
    """Return 16 hex digits over the texts and their names, in their order."""
    return short_hash(f"{text.text}\0{text.names}\0" for text in texts)
