"""Convert the values of columns: JSON, vectors, texts that may hold lone surrogates, and embedded texts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def json_value(value: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        sqlite3.DatabaseError: it is not JSON.
    """
    try:
        return json.loads(value)
    except ValueError as error:
        raise sqlite3.DatabaseError("a value is not JSON") from error


def json_object(value: str) -> dict[str, Any]:
    """Return the object of a JSON text.

    Raises:
        sqlite3.DatabaseError: it is not JSON, or something else than an object.
    """
    read = json_value(value)
    if not isinstance(read, dict):
        raise sqlite3.DatabaseError("a value is not a JSON object")
    return read


def stack_vectors(rows: Sequence[tuple[int, bytes]], *, dim: int) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Return numbers, and their vectors of shape ``(rows, dim)``.

    Raises:
        sqlite3.DatabaseError: a vector has another length.
    """
    numbers = np.fromiter((number for number, _ in rows), dtype=np.int64, count=len(rows))
    _check_lengths({len(blob) for _, blob in rows}, dim)
    flat = np.frombuffer(b"".join(blob for _, blob in rows), dtype="<f2")
    return numbers, flat.reshape(len(rows), -1 if rows else 0)


def read_vector(blob: bytes, *, dim: int) -> NDArray[np.float32]:
    """Return a vector, which is stored in half precision.

    Raises:
        sqlite3.DatabaseError: it has another length.
    """
    _check_lengths({len(blob)}, dim)
    return np.frombuffer(blob, dtype="<f2").astype(np.float32)


def _check_lengths(lengths: set[int], dim: int) -> None:
    wrong = lengths - {2 * dim}
    if wrong:
        raise sqlite3.DatabaseError(f"a vector has {wrong.pop()} bytes, expected {2 * dim}")


def vector_bytes(vector: NDArray[np.float32]) -> bytes:
    """Return a vector as it is stored."""
    return vector.astype("<f2").tobytes()


def text_bytes(text: str) -> bytes:
    """Return a text as bytes for ``CAST(? AS TEXT)``: lone surrogates, as in names of files, are kept."""
    return text.encode("utf-8", "surrogatepass")


def decode_text(content: bytes | None) -> str:
    """Return the text that :func:`text_bytes` encoded.

    Raises:
        sqlite3.DatabaseError: there is none, or it is not UTF-8.
    """
    try:
        return content.decode("utf-8", "surrogatepass")  # type: ignore[union-attr]
    except (AttributeError, UnicodeDecodeError) as error:
        raise sqlite3.DatabaseError("a text is not UTF-8") from error


def string_or_empty(value: object) -> str:
    """Return a text, or "" for any other value."""
    return value if isinstance(value, str) else ""


def line_or_none(value: object) -> int | None:
    """Return a whole number that SQLite can store, or ``None``."""
    return value if isinstance(value, int) and abs(value) < 2**63 else None


def split_embedded(text: str, embedded: str | None) -> tuple[str, str | None]:
    """Return what is embedded before the text, or "" and the whole text that is embedded where that is not enough.

    LlamaIndex strips a text that is embedded with metadata.
    """
    text = text.rstrip()
    if embedded is None or embedded == text or not embedded.endswith(text):
        return "", embedded
    return embedded[: len(embedded) - len(text)], None


def join_embedded(lead: str, embedded: str | None, text: str) -> str | None:
    """Return the text that is embedded, where it is not ``text``."""
    return lead + text.rstrip() if lead else embedded
