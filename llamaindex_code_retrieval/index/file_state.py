"""What an index remembers about each file of its folders, and the counts of files that a report shows."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple, Self

_RACY = 2_000_000_000
"""Nanoseconds between two writes that may leave the same time on a file: FAT counts in steps of two seconds."""
_LARGEST_INODE = 2**63 - 1


class FileStatus(NamedTuple):
    """What ``lstat`` says about a file; times in nanoseconds since the epoch."""

    mode: int
    size: int
    mtime: int
    ctime: int
    inode: int
    """The lowest 63 bits, which a database holds as an integer."""

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Self:
        """Return the status of a file or link.

        Raises:
            OSError: there is no such file, or its folder cannot be searched.
        """
        status = os.lstat(path)
        return cls(
            status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino & _LARGEST_INODE
        )


class FileState(NamedTuple):
    """What an index remembers about a listed file, so that a later update reads it only if it may have changed."""

    path: str
    """As in the index: below the prefix of its root, with forward slashes."""
    size: int
    """Bytes; -1 for a file that git lists and that does not exist."""
    mtime: int
    ctime: int
    inode: int
    checked: int
    """When its status was read, just before its content; nanoseconds since the epoch, as the other times."""
    digest: str = ""
    """The :func:`text_digest` of the text and its language; empty for a file that is left out."""
    language: str = ""
    encoding: str = ""
    """Empty for UTF-8."""
    how: str = ""
    """How the encoding was found (``decode.How``); empty for UTF-8."""
    left_out: str = ""
    """Why the file is not in the index; empty for a file that is."""
    unknown: bool = False
    """Whether it is of no known kind and was read as plain text."""

    def matches(self, status: FileStatus | None) -> bool:
        """Return whether the file still has this state as far as its status (``None``: no such file) can tell.

        An unreadable file never matches: another user may be able to read it.
        """
        if self.left_out.startswith("unreadable"):
            return False
        if status is None:
            return self.size == -1
        return (status.size, status.mtime, status.ctime, status.inode) == self[1:5]

    @property
    def is_racy(self) -> bool:
        """Whether the file may have changed after it was read without a change of its status.

        This is so if it was written less than two seconds before it was read, or later than that by the clock of
        then, which may since have gone back. Git's index has the same rule.
        """
        return max(self.mtime, self.ctime) > self.checked - _RACY

    def has_content_of(self, other: FileState) -> bool:
        """Return whether both have the same text and language, or are left out for the same reason."""
        return (self.digest, self.left_out) == (other.digest, other.left_out)


def text_digest(text: str, language: str | None = None) -> str:
    """Return the SHA-256 of a text and, where the parser does not choose it, its language, in hex."""
    content = text if language is None else f"{language}\0{text}"
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(slots=True)
class SourceCounts:
    """Files that were left out, and files that were read in another way than most."""

    left_out: dict[str, Counter[str]] = field(default_factory=dict)
    """Files that were left out: by reason, then by extension, such as ".csv"; empty for a name without one."""
    encodings: dict[str, Counter[str]] = field(default_factory=dict)
    """Files that are not UTF-8: by how their encoding was found (``decode.How``), then by encoding."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Files of no known kind, read as plain text: by extension."""

    def add(self, state: FileState) -> None:
        """Count a file."""
        if state.left_out:
            self.leave_out(state.left_out, extension_of(state.path))
            return
        if state.how:
            self.encodings.setdefault(state.how, Counter())[state.encoding] += 1
        if state.unknown:
            self.unknown[extension_of(state.path)] += 1

    def leave_out(self, reason: str, kind: str) -> None:
        """Count a file or folder that is left out; ``kind`` is the extension of the file or the name of the folder."""
        self.left_out.setdefault(reason, Counter())[kind] += 1


def extension_of(path: str) -> str:
    """Return the extension of a file in lower case with its dot; empty for a name without one.

    >>> extension_of("data/Prices.CSV"), extension_of("Makefile"), extension_of(".gitignore")
    ('.csv', '', '')
    """
    return PurePosixPath(path).suffix.lower()
