"""The import statements of a file that a passage uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from llamaindex_code_retrieval.index.related import has_name

_STATEMENT = re.compile(
    r"\s*(?:from\s+\S+\s+import\b|(?:pub\s+)?use\s|import\b|using\s(?!.*=)|alias\s|require(?:_relative)?\b"
    r"|(?:const|let|var)\b.*\brequire\()"
)
_PYTHON_SOURCE = re.compile(r"\s*from\s+\S+\s+import\b")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")
_PATH = re.compile(r"\w+(?:(?:\.|::|\\|/)\w+)*")
_SEPARATOR = re.compile(r"\.|::|\\|/")
_COMMENT = re.compile(r"\s*(?:#|//|/\*|\*)")
_KEYWORDS = frozenset(
    "as const crate export from import let pub require self static super type typeof use using var".split()
)
_LONGEST = 80  # lines of a statement


def used_imports(lines: Mapping[int, str], language: str, text: str) -> list[int]:
    """Return the numbers of the lines that import a name which ``text`` has, with the first lines of their statements.

    >>> used_imports({1: "import os", 2: "from a import (", 3: "    b,", 4: "    c,", 5: ")"}, "python", "c(1)")
    [2, 4]
    """
    used: set[int] = set()
    for statement in _statements(lines):
        for number in statement:
            if any(has_name(text, name) for name in _names(lines[number], language)):
                used |= {statement[0], number}
    return sorted(used)


def _statements(lines: Mapping[int, str]) -> Iterator[list[int]]:
    """Yield the numbers of the lines of each statement: to where its brackets are closed."""
    statement: list[int] = []
    depth = 0
    for number, line in sorted(lines.items()):
        if statement and (number != statement[-1] + 1 or len(statement) == _LONGEST):
            yield statement
            statement, depth = [], 0
        if not statement and not _STATEMENT.match(line):
            continue
        statement.append(number)
        code = _QUOTED.sub("", line)
        depth += sum(map(code.count, "({[")) - sum(map(code.count, ")}]"))
        if depth <= 0 and not code.rstrip().endswith("\\"):
            yield statement
            statement, depth = [], 0
    if statement:
        yield statement


def _names(line: str, language: str) -> set[str]:
    """Return the names that a line of a statement may bind: the last names of paths, in Python also the first ones."""
    if _COMMENT.match(line):
        return set()
    code = _PYTHON_SOURCE.sub("", line)
    if language != "go":  # whose paths are quoted
        code = _QUOTED.sub("", code)
    names: set[str] = set()
    for path in _PATH.findall(code):
        parts = _SEPARATOR.split(path)
        names |= {parts[-1], parts[0]} if language == "python" else {parts[-1]}
    return names - _KEYWORDS
