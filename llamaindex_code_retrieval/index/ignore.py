"""The patterns of ``.gitignore``, matched as git does: for folders outside git, and for the globs of options."""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

_CLASSES = {
    b"alnum": string.ascii_letters + string.digits,
    b"alpha": string.ascii_letters,
    b"blank": " \t",
    b"cntrl": "".join(map(chr, (*range(32), 127))),
    b"digit": string.digits,
    b"graph": "".join(map(chr, range(33, 127))),
    b"lower": string.ascii_lowercase,
    b"print": "".join(map(chr, range(32, 127))),
    b"punct": string.punctuation,
    b"space": string.whitespace,
    b"upper": string.ascii_uppercase,
    b"xdigit": string.hexdigits,
}


@dataclass(frozen=True, slots=True)
class Pattern:
    """One pattern. It matches bytes, because git does: ``?`` is one byte."""

    regex: re.Pattern[bytes]
    is_negated: bool
    folders_only: bool
    has_slash: bool
    """Matched against the path below the folder of the ``.gitignore``, and not against the name alone."""

    @classmethod
    def parse(cls, line: bytes) -> Self | None:
        """Return the pattern of a line, or ``None`` if it is invalid, which in git matches nothing."""
        is_negated = line.startswith(b"!")
        glob = line[is_negated:]
        folders_only = glob.endswith(b"/")
        glob = glob[: len(glob) - folders_only]
        regex = _translate(glob.removeprefix(b"/"))
        return None if regex is None else cls(re.compile(regex, re.DOTALL), is_negated, folders_only, b"/" in glob)

    def matches(self, path: bytes, *, is_folder: bool) -> bool:
        """Return whether the pattern names ``path``; what lies below a folder that it names is not considered."""
        if self.folders_only and not is_folder:
            return False
        return self.regex.fullmatch(path if self.has_slash else path.rpartition(b"/")[2]) is not None


@dataclass(frozen=True, slots=True)
class IgnoreFile:
    """The patterns of one ``.gitignore``."""

    patterns: tuple[Pattern, ...]

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Parse the lines of a ``.gitignore``, invalid patterns left out."""
        lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        parsed = [
            Pattern.parse(_without_trailing_spaces(line.removesuffix(b"\r").partition(b"\0")[0]))
            for line in lines
            if line and not line.startswith(b"#")
        ]
        return cls(tuple(pattern for pattern in parsed if pattern is not None))

    def verdict(self, path: bytes, *, is_folder: bool) -> bool | None:
        """Return whether ``path``, relative to the folder of the file, is ignored; ``None`` if no pattern names it.

        >>> rules = IgnoreFile.parse(b"*.log\\n!keep.log\\n")
        >>> [rules.verdict(path, is_folder=False) for path in (b"a/b.log", b"a/keep.log", b"a.py")]
        [True, False, None]
        """
        for pattern in reversed(self.patterns):
            if pattern.matches(path, is_folder=is_folder):
                return not pattern.is_negated
        return None


@dataclass(frozen=True, slots=True)
class Globs:
    """Globs in the syntax of ``.gitignore``. A glob that names a folder matches all files in it.

    >>> docs = Globs.parse(["docs/", "/setup.*"])
    >>> [docs.matches(path) for path in ("lib/docs/a/b.md", "setup.py", "lib/setup.py")]
    [True, True, False]
    """

    patterns: tuple[Pattern, ...]
    regex: re.Pattern[bytes]
    """Matches the paths of the files: one expression, because it is tried on each file of an index."""

    @classmethod
    def parse(cls, globs: Iterable[str]) -> Self:
        """Parse the globs.

        Raises:
            ValueError: a glob is empty, negated or invalid.
        """
        patterns = tuple(map(_parse_glob, globs))
        return cls(patterns, re.compile(b"|".join(map(_regex_of_paths, patterns)) or b"(?!)", re.DOTALL))

    def matches(self, path: str) -> bool:
        """Return whether a glob names the file ``path``, relative to the root, or a folder that holds it."""
        return self.regex.fullmatch(os.fsencode(path)) is not None


def _regex_of_paths(pattern: Pattern) -> bytes:
    """Return the expression for the files that a pattern names, and for those in the folders that it names."""
    above = b"" if pattern.has_slash else b"(?:.*/)?"
    below = b"/.*" if pattern.folders_only else b"(?:/.*)?"
    return above + b"(?:%s)" % pattern.regex.pattern + below


def _parse_glob(glob: str) -> Pattern:
    if glob.startswith("!"):
        raise ValueError(f"the glob {glob!r} begins with '!'; write it without, or '\\!' for a name that begins so")
    pattern = Pattern.parse(os.fsencode(glob.removeprefix("./")))
    if not glob.strip("./ ") or ".." in glob.split("/") or pattern is None:
        raise ValueError(f"the glob {glob!r} matches nothing; write one as in a .gitignore, such as 'docs/' or '*.sql'")
    return pattern


def _without_trailing_spaces(line: bytes) -> bytes:
    r"""Remove trailing spaces, but none after a backslash; a backslash at the end keeps all, as in git."""
    kept = place = 0
    while place < len(line):
        is_escape = line[place : place + 1] == b"\\"
        if is_escape and place + 1 == len(line):
            return line
        if line[place : place + 1] != b" ":
            kept = place + 1 + is_escape
        place += 1 + is_escape
    return line[:kept]


def _translate(glob: bytes) -> bytes | None:
    """Return the glob as a regular expression, or ``None`` if it matches nothing; see ``wildmatch.c`` of git."""
    regex = b""
    place = 0
    while place < len(glob):
        character = glob[place : place + 1]
        place += 1
        if character == b"\\":
            if place == len(glob):
                return None
            regex += re.escape(glob[place : place + 1])
            place += 1
        elif character == b"?":
            regex += b"[^/]"
        elif character == b"*":
            part, place = _translate_stars(glob, place - 1)
            regex += part
        elif character == b"[":
            parsed = _parse_set(glob, place)
            if parsed is None:
                return None
            members, place = parsed
            regex += b"[%s]" % b"".join(b"\\x%02x" % byte for byte in sorted(members)) if members else b"(?!)"
        else:
            regex += re.escape(character)
    return regex


def _translate_stars(glob: bytes, start: int) -> tuple[bytes, int]:
    """Return the expression for the asterisks at ``start``, and where the rest begins."""
    end = start
    while glob[end : end + 1] == b"*":
        end += 1
    rest = glob[end:]
    is_whole_part = (start == 0 or glob[start - 1 : start] == b"/") and (not rest or rest.startswith((b"/", b"\\/")))
    if end - start < 2 or not is_whole_part:
        return b"[^/]*", end
    return (b"(?:.*/)?", end + 1) if rest.startswith(b"/") else (b".*", end)


def _parse_set(glob: bytes, place: int) -> tuple[set[int], int] | None:
    """Return the bytes that a set matches and where the glob goes on; ``None`` if it is not closed or not known.

    ``place`` is that after the bracket. Ranges and classes follow git, which for example takes ``]`` as a member if it
    is the first one.
    """
    is_negated = glob[place : place + 1] in (b"!", b"^")
    place += is_negated
    members: set[int] = set()
    previous: int | None = None
    first = True
    while first or glob[place : place + 1] != b"]":
        first = False
        if place >= len(glob):
            return None
        character = glob[place]
        following = glob[place + 1 : place + 2]
        if character == ord("-") and previous is not None and following not in (b"", b"]"):
            place += 1 + (following == b"\\")
            if place >= len(glob):
                return None
            members.update(range(previous, glob[place] + 1))
            previous = None
        elif character == ord("[") and following == b":":
            end = glob.find(b"]", place + 2)
            if end < 0:
                return None
            if end == place + 2 or glob[end - 1 : end] != b":":  # no class: a set with a bracket and a colon
                members.add(character)
                previous = character
            elif glob[place + 2 : end - 1] not in _CLASSES:
                return None
            else:
                members.update(_CLASSES[glob[place + 2 : end - 1]].encode())
                previous, place = None, end
        else:
            if character == ord("\\"):
                place += 1
                if place >= len(glob):
                    return None
            members.add(glob[place])
            previous = glob[place]
        place += 1
    return (set(range(256)) - members if is_negated else members) - {ord("/")}, place + 1
