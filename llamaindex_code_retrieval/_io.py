"""Files and texts: atomic writes, checked JSON, the cache folder, hashes, clean text, progress callbacks."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

Progress = Callable[[str, int, int], object]
"""Called with (stage, done, total)."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore progress: the default of every ``on_progress``."""


@contextmanager
def open_atomically(path: str | Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` for writing and move it into place when the block ends without an error.

    A kill or a full disk leaves the old file or the new one.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, content: str | bytes) -> None:
    """Write ``content`` to ``path``, so that a kill or a full disk leaves the old file or the new one."""
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def make_folder(folder: str | Path) -> Path:
    """Create ``folder`` if it is missing, check that files can be written in it, and return its path.

    Called before long work whose result goes there.

    Raises:
        OSError: it cannot be created or written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise type(error)(f"cannot write to the folder {folder} ({error.strerror}); name another one") from error
    return folder


def check_writable(folder: str | Path) -> None:
    """Check that files can be written in ``folder``, or that it can be created, without creating it.

    Called before long work whose result goes there.

    Raises:
        ValueError: it is a file, or is below one; it, or the nearest folder above it, is not writable.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a new folder")
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ValueError(
            f"{folder} cannot be written: {existing} is not a writable folder; name a folder in another one"
        )


def read_json(
    path: str | Path, *, remedy: str, keys: Collection[str] = (), kind: type[dict[str, Any]] | type[list[Any]] = dict
) -> Any:
    """Return the object (or list, as ``kind`` says) in a JSON file; ``remedy`` says what to do about a damaged one.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, not of that kind, or lacks one of ``keys``.
    """
    path = Path(path)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
        raise ValueError(f"{path} is not valid JSON ({error}); {remedy}") from error
    if not isinstance(content, dict if kind is dict else list):
        raise ValueError(f"{path} must hold a JSON {kind.__name__}, not a {type(content).__name__}; {remedy}")
    missing = [key for key in keys if key not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; {remedy}")
    return content


def default_cache_folder() -> Path:
    """Return ``$CODE_RETRIEVAL_CACHE``, or the user's cache folder."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("CODE_RETRIEVAL_CACHE") or user_cache_path("code-retrieval"))


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hex.

    A process reads an unchanged file once: the result is kept by path, inode, size and times. A file that changed in
    the last two seconds is read again, because another change within the clock's tick would leave these as they are.
    """
    status = os.stat(path)
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < 2_000_000_000:
        return _sha256(path)
    key = (os.path.abspath(path), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key not in _hashes:
        _hashes[key] = _sha256(path)
    return _hashes[key]


_hashes: dict[tuple[str, int, int, int, int], str] = {}


def _sha256(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short_hash(content: str | bytes | Iterable[str | bytes]) -> str:
    """Return 16 hex digits of the SHA-256 of ``content``, or of its parts one after the other.

    Lone surrogates are hashed as they are, so that two texts that differ have different hashes.

    >>> short_hash("ab") == short_hash(["a", b"b"])
    True
    """
    digest = hashlib.sha256()
    for part in [content] if isinstance(content, str | bytes) else content:
        digest.update(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
    return digest.hexdigest()[:16]


def json_hash(content: Any) -> str:
    """Return the :func:`short_hash` of ``content`` as JSON with sorted keys."""
    return short_hash(json.dumps(content, sort_keys=True))


def check_is_list(values: object, name: str) -> None:
    """Refuse a single string or path where several values are expected: Python would take its characters.

    >>> check_is_list("src", "roots")
    Traceback (most recent call last):
    TypeError: roots must be a list, got the string 'src'; write ['src']
    """
    if isinstance(values, str | Path):
        raise TypeError(f"{name} must be a list, got the string {str(values)!r}; write [{str(values)!r}]")


def clean_text(text: str) -> str:
    """Return ``text`` with "?" in place of lone surrogates, which no UTF-8 encoder takes.

    >>> clean_text("caf\\udce9")
    'caf?'
    """
    return text.encode("utf-8", "replace").decode("utf-8")


_ESCAPED = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Unicode categories: control, format (bidirectional overrides among them), surrogate, line and paragraph separator."""

_JOINERS = "\u200c\u200d"
"""Format characters that Persian and composed emoji need; they change no order and move no cursor."""

_SUBSTITUTES = {
    "❱": ">",
    "✓": "ok",
    "▲": "^",
    "▼": "v",
    "–": "-",
    "—": "-",
    "…": "...",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "’": "'",
}
"""What to write for our own characters where the terminal's encoding lacks them."""


def printable(text: str, *, multiline: bool = False, encoding: str = "utf-8") -> str:
    r"""Return ``text`` with escapes in place of characters that act on a terminal or that ``encoding`` lacks.

    Control, bidirectional and other invisible characters and lone surrogates are written as Python escapes. With
    ``multiline``, line feeds and tabs stay, and a carriage return before a line feed is dropped.

    >>> print(printable("a\x1b[2J.py"))
    a\x1b[2J.py
    >>> printable("one\r\ntwo", multiline=True)
    'one\ntwo'
    >>> print(printable("é ❱", encoding="ascii"))
    \xe9 >
    """
    if multiline:
        text = text.replace("\r\n", "\n")
    allowed = "\n\t" if multiline else ""
    return "".join(character if character in allowed else _escape(character, encoding) for character in text)


@lru_cache(maxsize=4096)
def _escape(character: str, encoding: str) -> str:
    if unicodedata.category(character) in _ESCAPED and character not in _JOINERS:
        return character.encode("unicode_escape").decode("ascii")
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return _SUBSTITUTES.get(character) or character.encode("unicode_escape").decode("ascii")
    return character
