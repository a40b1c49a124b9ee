"""Read the files of a folder that are worth indexing, and tell why the others are left out."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llamaindex_code_retrieval.index.decode import decode, is_binary
from llamaindex_code_retrieval.index.file_state import FileState, FileStatus, SourceCounts, text_digest
from llamaindex_code_retrieval.index.ignore import Globs
from llamaindex_code_retrieval.index.leave_out import rule_for_name, rule_for_text
from llamaindex_code_retrieval.index.listing import list_files
from llamaindex_code_retrieval.index.source_roots import SourceRoot, SourceRules
from llamaindex_code_retrieval.languages.table import language_of_text

if TYPE_CHECKING:
    from llamaindex_code_retrieval.index.source_options import SourceOptions

UNKNOWN_KIND = "text"
"""The language of files that the table of languages does not know."""

_HEAD_BYTES = 8_192
_NOTEBOOK_FACTOR = 20
"""How much larger than other files notebooks may be: most of one are its outputs, which are not indexed."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file. ``path`` is relative to the root, with forward slashes."""

    path: str
    text: str
    language: str


def walk(root: Path, counts: SourceCounts, options: SourceOptions | None = None) -> Iterator[SourceFile]:
    """Yield the text files under ``root`` in path order, and count the others in ``counts``.

    The files are those of :func:`.listing.list_files`. Symbolic links are not followed: their targets are read where
    they are. The rules of :mod:`.leave_out` leave out what is not worth reading.

    ``options`` are completed by the folder's own settings; see :func:`.source_options.options_of`.

    Raises:
        ValueError: ``root`` is not a folder, or its own settings are wrong.
    """
    paths = sorted({path for path, _ in list_files(root, counts)})
    reader = FileReader(SourceRoot(root, "", SourceRules.of(root, options)))
    for path in paths:
        state, text = reader.read(path)
        counts.add(state)
        if text is not None:
            yield SourceFile(path, text, state.language)


def read_sources(roots: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of the files under several folders; a path begins with its folder's name.

    Raises:
        ValueError: a root is not a folder, or two have one name.
    """
    names: set[str] = set()
    for root in roots:
        name = root.resolve().name
        if name in names:
            raise ValueError(f"two folders are named {name!r}, so paths would not tell them apart; name one of them")
        names.add(name)
        for file in walk(root, SourceCounts()):
            yield f"{name}/{file.path}", file.text


class FileReader:
    """Reads the files of one root by its rules."""

    def __init__(self, root: SourceRoot) -> None:
        self._root = root
        rules = root.rules
        self._only, self._include, self._exclude = map(Globs.parse, (rules.only, rules.include, rules.exclude))
        self._languages = sorted(rules.ext.items(), key=lambda each: -len(each[0]))

    def read(self, path: str) -> tuple[FileState, str | None]:
        """Return the state and text of the file at ``path``, relative to the root; no text if it is left out."""
        checked = time.time_ns()
        status: FileStatus | None = None
        result: bytes | str
        try:
            status = FileStatus.of(self._root.folder / path)
            result = self.left_out_unread(path, status) or self._bytes(path, status)
        except (FileNotFoundError, NotADirectoryError):  # listed by git, but not in the work tree; or gone meanwhile
            result = self.left_out_unread(path, None)
        except OSError as error:
            result = "excluded" if self._is_excluded(path) else f"unreadable ({error.strerror})"
        times = (status.size, status.mtime, status.ctime, status.inode) if status else (-1, 0, 0, 0)
        state = FileState(self._root.prefix + path, *times, checked)
        if isinstance(result, bytes):
            return self._decoded(path, state, result)
        return state._replace(left_out=result), None

    def left_out_unread(self, path: str, status: FileStatus | None) -> str:
        """Return why a file is left out as far as its path and status tell; empty if its content has to be read."""
        if self._is_excluded(path):
            return "excluded"
        if status is None:
            return "deleted"
        if stat.S_ISLNK(status.mode):
            return "symbolic link"
        if not stat.S_ISREG(status.mode):
            return "not a regular file"
        return self._rule_for_name(path)

    def left_out_by_name(self, path: str) -> str:
        """Return why a file is left out as far as its path tells; empty otherwise."""
        return "excluded" if self._is_excluded(path) else self._rule_for_name(path)

    def _rule_for_name(self, path: str) -> str:
        return "" if self._include.matches(path) else rule_for_name(os.path.basename(path)) or ""

    def _is_excluded(self, path: str) -> bool:
        return self._exclude.matches(path) or (bool(self._only.patterns) and not self._only.matches(path))

    def _bytes(self, path: str, status: FileStatus) -> bytes | str:
        """Return the content of a file, or why it is left out."""
        max_size = self._root.rules.max_file_size * (_NOTEBOOK_FACTOR if path.endswith(".ipynb") else 1)
        is_large = status.size > max_size
        with open(self._root.folder / path, "rb") as file:
            data = file.read(_HEAD_BYTES if is_large else -1)
        if is_binary(data):
            return "binary"
        return "too large" if is_large else data

    def _decoded(self, path: str, state: FileState, data: bytes) -> tuple[FileState, str | None]:
        decoded = decode(data)
        if decoded is None:
            return state._replace(left_out="binary"), None
        language = self._language(path, decoded.text)
        rule = None if self._include.matches(path) else rule_for_text(decoded.text, language)
        if rule is not None:
            return state._replace(left_out=rule), None
        state = state._replace(
            digest=text_digest(decoded.text, language or UNKNOWN_KIND),
            language=language or UNKNOWN_KIND,
            encoding="" if decoded.how is None else decoded.encoding,
            how=decoded.how or "",
            unknown=language is None,
        )
        return state, decoded.text

    def _language(self, path: str, text: str) -> str | None:
        name = path.lower()
        for extension, language in self._languages:
            if name.endswith(extension):
                return language
        return language_of_text(path, text)
