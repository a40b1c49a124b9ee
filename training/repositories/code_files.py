"""The source files of a repository that questions are made about, with their definitions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llamaindex_code_retrieval._io import clean_text
from llamaindex_code_retrieval.index.file_state import SourceCounts
from llamaindex_code_retrieval.index.sources import walk
from llamaindex_code_retrieval.languages.syntax import Definition, definitions
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES
from llamaindex_code_retrieval.languages.testing import is_test_path
from llamaindex_code_retrieval.training.repositories.filters import reject_file

_SIDE_FOLDER = re.compile(
    r"(?:examples?|samples?|demos?|docs?|documentation|.*\.docc|website|bench(?:es|marks?)?|benchmarks?-.*|perfs?|fuzz(?:ing)?"
    r"|tools?|scripts?|ci|regress|third[_-]?party|vendor(?:ed)?|bundled|extern(?:al)?|deps|dist|generated|\..+)",
    re.IGNORECASE,
)
_BUILD_FILE = re.compile(
    r"(?:setup|conf|_?version|noxfile|tasks)\.py|build\.rs|build\.zig|package\.swift|mix\.exs|setup\.hs|rakefile.*"
    r"|version\.\w+|.*\.(?:sbt|gradle(?:\.kts)?|gemspec|rockspec|config\.[cm]?[jt]s)|(?:gulp|grunt)file\..+|gemfile",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class CodeFile:
    """A source file that is neither generated nor beside the code proper; ``path`` is relative to the repository."""

    path: str
    language: str
    definitions: tuple[Definition, ...]


def is_side_path(path: str) -> bool:
    """Return whether a file is beside the code proper: a test, an example, a tool, a build file or foreign code.

    >>> [is_side_path(path) for path in ("src/cart.py", "docs/cart.py", "tests/test_cart.py", "src/version.py")]
    [False, True, True, True]
    """
    *folders, name = path.split("/")
    return is_test_path(path) or any(map(_SIDE_FOLDER.fullmatch, folders)) or _BUILD_FILE.fullmatch(name) is not None


def read_code_files(root: Path, folder: str, *, parse: bool) -> list[CodeFile]:
    """Return the source files in ``folder`` of the repository ``root`` in path order, and parse them if asked."""
    prefix = "" if folder == "." else f"{folder}/"
    files: list[CodeFile] = []
    for source in walk(root / folder, SourceCounts()):
        can_be_target = "\\" not in source.path and clean_text(source.path) == source.path
        is_code = source.language in CODE_LANGUAGES and not is_side_path(source.path)
        if can_be_target and is_code and reject_file(source) is None:
            found = definitions(source.text, source.language) if parse else []
            files.append(CodeFile(prefix + source.path, source.language, tuple(found)))
    return files


def places(files: list[CodeFile]) -> Iterator[tuple[CodeFile, Definition]]:
    """Yield each definition with its file."""
    for file in files:
        for definition in file.definitions:
            yield file, definition
