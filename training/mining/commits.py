"""Pairs of the history: the message of a small commit asks for the functions that it changed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from llamaindex_code_retrieval.index.sources import SourceFile
from llamaindex_code_retrieval.languages.syntax import Definition, definitions
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, language_of
from llamaindex_code_retrieval.training.mining.files import Counts, RepositoryFiles
from llamaindex_code_retrieval.training.mining.making import Place, make_pair
from llamaindex_code_retrieval.training.mining.selection import Origin
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.repositories.code_files import is_side_path
from llamaindex_code_retrieval.training.repositories.comments import remove_links
from llamaindex_code_retrieval.training.repositories.filters import MAX_WORDS, reject_file, reject_query
from llamaindex_code_retrieval.training.repositories.history import ChangedFile, Commit, read_changes, read_commits
from llamaindex_code_retrieval.training.repositories.subjects import clean_subject, reject_commit

MAX_FILES = 8
"""Files of a commit, with tests and documentation."""
MAX_CODE_FILES = 2
MAX_FUNCTIONS = 3
"""Functions that a commit changed; one that changed more says too little about each."""
MAX_COMMITS = 400
"""Usable commits of a repository whose changes are read, newest first: every changed file is parsed anew."""
MAX_FILE_CHARACTERS = 60_000
_TRAILER = re.compile(
    r"[A-Z][\w-]*-(?:[Bb]y|[Tt]o|[Ii]d|[Ff]or|Url):|(?:Fixes|Closes|Refs?|Bug|Issue|Change|PR)\b.*[#:]"
)


def commit_pairs(files: RepositoryFiles, counts: Counts) -> Iterator[Pair]:
    """Yield a pair of each function that a small commit changed, with its text after the commit.

    Raises:
        ValueError: the folder has no history.
    """
    chosen: dict[str, Commit] = {}
    for commit in read_commits(files.root):
        counts.commits += 1
        reason = _reject(commit)
        if reason is None and len(chosen) == MAX_COMMITS:
            reason = f"commit before the newest {MAX_COMMITS}"
        if reason is None:
            chosen[commit.revision] = commit
        else:
            counts.dropped[reason] += 1
    changed: dict[str, list[Place]] = {revision: [] for revision in chosen}
    for revision, file in read_changes(files.root, list(chosen)):
        changed[revision] += _changed_functions(file, files, counts)
    for revision, places in changed.items():
        if not 1 <= len(places) <= MAX_FUNCTIONS:
            counts.dropped["commit changes no function" if not places else "commit changes many functions"] += 1
            continue
        query = commit_query(chosen[revision])
        yield from filter(None, (make_pair("commit", query, place, counts.dropped) for place in places))


def _reject(commit: Commit) -> str | None:
    if not commit.subject.strip():
        return "commit without a message"
    code_files = [path for path in commit.paths if language_of(path) in CODE_LANGUAGES and not is_side_path(path)]
    if not code_files:
        return "commit changes no code"
    if len(commit.paths) > MAX_FILES or len(code_files) > MAX_CODE_FILES:
        return "commit changes many files"
    return reject_commit(commit.subject, commit.author)


def commit_query(commit: Commit) -> str:
    """Return the subject and the first paragraph of the body, without issue numbers, links and trailers.

    The body is left out where the two are not usable as a query, as where they have over 64 words.
    """
    subject = clean_subject(commit.subject)
    paragraph: list[str] = []
    for line in commit.body.strip().splitlines():
        if not line.strip() or _TRAILER.match(line.strip()) or line.lstrip().startswith(("*", "-", ">", "```")):
            break
        paragraph.append(line.strip())
    body = clean_subject(remove_links(" ".join(paragraph)))
    both = f"{subject}. {body}"
    is_usable = reject_query(body) is None and reject_query(both) is None and len(both.split()) <= MAX_WORDS
    return both if is_usable else subject


def _changed_functions(file: ChangedFile, files: RepositoryFiles, counts: Counts) -> list[Place]:
    language = language_of(file.path)
    if language not in CODE_LANGUAGES or is_side_path(file.path) or len(file.text) > MAX_FILE_CHARACTERS:
        return []
    source = SourceFile(file.path, file.text, language)
    origin = Origin.of(source, files.provenance)
    is_other = bool(files.selection.languages) and language not in files.selection.languages
    reason = "another language" if is_other else files.selection.reject(origin) or reject_file(source)
    if reason is not None:
        counts.skipped[f"changed file: {reason}"] += 1
        return []
    functions = [found for found in definitions(file.text, language) if found.kind != "class"]
    lines = file.text.split("\n")
    changes: Counter[int] = Counter()
    for number in file.changed:
        around = [i for i, found in enumerate(functions) if found.start_line <= number <= found.end_line]
        if around:
            innermost = max(around, key=lambda i: functions[i].start_line)
            changes[innermost] += _is_in_code(lines[number - 1 : number], functions[innermost])
    return [Place(origin, functions[i]) for i in sorted(+changes)]


def _is_in_code(line: list[str], function: Definition) -> bool:
    """Return whether a line has code of the function and is not a part of its doc comment."""
    text = line[0].strip() if line else ""
    return len(text) > 1 and text in function.code_without_docstring
