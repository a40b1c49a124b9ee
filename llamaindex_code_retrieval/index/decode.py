"""Decode source files: byte order marks, declared encodings, encodings that the bytes tell, and line ends."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Literal

How = Literal["byte order mark", "declared", "guessed", "replaced"]

_MARKS = (  # that of UTF-32-LE begins with that of UTF-16-LE
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEAD_BYTES = 1_024
_FIRST_TWO_LINES = re.compile(rb"[^\r\n]*(?:\r\n?|\n)?[^\r\n]*")
_COMMENT_DECLARATION = re.compile(
    rb"""(?:^|[\r\n])[ \t]*(?:\#|//|/\*|;|--|%|\(\*|<!--|"|\.\.)[^\r\n]*?coding[ \t]*[:=][ \t]*([\w.-]+)"""
)
"""PEP 263 and Ruby's magic comment, in the spellings of Emacs and Vim."""
_MARKUP_DECLARATIONS = (
    re.compile(rb"""\s*<\?xml\b[^>]*?\bencoding\s*=\s*["']([\w.:-]+)["']"""),
    re.compile(rb"""<meta\b[^>]*?\bcharset\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE),
    re.compile(rb"""\A@charset "([\w.:-]+)";"""),
)
_DECLARABLE = re.compile(r"iso8859|iso2022|latin|cp\d|koi8|mac|gb|big5|shift_jis|euc|johab|tis|ptcp|kz1048|hz|utf-8")
_ASCII = "abcxyzABCXYZ0189<>(){}=;"
"""Characters that any encoding of source code has in common; one that lacks them, such as EBCDIC, declares nothing."""
_STATEFUL = re.compile(r"iso2022|hz")
"""Encodings whose text is valid ASCII."""
_SUPERSETS = {
    "iso8859-1": "cp1252",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
"""What browsers read for the encodings that files declare: text under these names often holds characters of the larger
encoding, such as the curly quotes of cp1252."""

_GUESSES = ("cp1252", "cp1250", "cp1251", "koi8_r", "cp866", "cp1253", "gb18030", "cp932", "euc_jp", "cp949", "big5")
_LATIN = frozenset(("cp1252", "cp1250"))
_SAMPLE_BYTES = 16_384
_CLEAR_COHERENCE = 0.4
_TIE = 0.03
"""Two encodings whose texts differ less, in disorder or in the likeness to a language, are equally good."""
_LEAST_CHARACTERS = 5
"""Characters that are not ASCII, at least, to tell an encoding of another script than the Latin one."""
_LATIN_LETTERS = re.compile(
    rb"(?<![\x80-\xff])[\x80\x85\x91-\x94\x96\x97\xa1-\xd6\xd8-\xf6\xf8-\xff](?![\x80-\xff])"
    rb"|(?<=[A-Za-z])[\xc0-\xd6\xd8-\xf6\xf8-\xff]{2}(?=[A-Za-z])"
)
"""A letter or sign of cp1252 between ASCII characters, or two between ASCII letters; other scripts have their letters
side by side."""
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MOST_CONTROL = 0.03


@dataclass(frozen=True, slots=True)
class Decoded:
    """The text of a file, and how its encoding was found; ``None`` is UTF-8."""

    text: str
    encoding: str = "utf-8"
    how: How | None = None


def is_binary(data: bytes) -> bool:
    """Return whether bytes are no text: they hold a NUL and no mark of UTF-16 or UTF-32, or are a PDF."""
    return data.startswith(b"%PDF-") or (b"\0" in data and _mark(data) is None)


def decode(data: bytes) -> Decoded | None:
    r"""Return the text of a file, or ``None`` if it is binary.

    A byte order mark decides, then UTF-8 where the bytes are valid UTF-8, then the encoding that the file declares,
    then a guess if it is a sure one. Else the bytes that are not UTF-8 become U+FFFD.

    Where carriage returns alone end the lines (there are more of them than line feeds), they become line feeds, so that
    lines are those of an editor. Other line ends stay as they are.

    >>> decode("# coding: latin-1\ngrüße = 1\n".encode("latin-1"))
    Decoded(text='# coding: latin-1\ngrüße = 1\n', encoding='cp1252', how='declared')
    >>> decode(b"one\rtwo\r").text
    'one\ntwo\n'
    """
    decoded = _decode_marked(data) if _mark(data) is not None else _decode_unmarked(data)
    if decoded is None:
        return None
    text = decoded.text.removeprefix("\ufeff")  # some files have two marks
    return Decoded(_with_line_feeds(text), decoded.encoding, decoded.how)


def _with_line_feeds(text: str) -> str:
    if "\r" not in text or text.count("\r") - text.count("\r\n") <= text.count("\n"):
        return text
    return re.sub(r"\r(?!\n)", "\n", text)


def _mark(data: bytes) -> tuple[bytes, str] | None:
    return next(((mark, name) for mark, name in _MARKS if data.startswith(mark)), None)


def _decode_marked(data: bytes) -> Decoded | None:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                text = data[len(mark) :].decode(encoding)
            except UnicodeDecodeError:
                continue
            if "\0" not in text:
                return Decoded(text, encoding, None if encoding == "utf-8" else "byte order mark")
    return None if b"\0" in data else _decode_unmarked(data.removeprefix(codecs.BOM_UTF8))


def _decode_unmarked(data: bytes) -> Decoded | None:
    if b"\0" in data:
        return None
    declared = _declared_encoding(data[:_HEAD_BYTES])
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        if declared is not None and _STATEFUL.match(declared):
            return _try(data, declared, "declared") or Decoded(text)
        return Decoded(text)
    decoded = None
    if declared is not None and declared != "utf-8":
        decoded = _try(data, _SUPERSETS.get(declared, declared), "declared") or _try(data, declared, "declared")
    if decoded is None and not _is_mostly_utf8(data):
        guess = _guess_encoding(data)
        decoded = None if guess is None else _try(data, guess, "guessed")
    if decoded is not None:
        return decoded
    if len(_CONTROL.findall(data)) > _MOST_CONTROL * len(data):
        return None
    return Decoded(data.decode("utf-8", errors="replace"), "utf-8", "replaced")


def _try(data: bytes, encoding: str, how: How) -> Decoded | None:
    try:
        return Decoded(data.decode(encoding), encoding, how)
    except UnicodeDecodeError:
        return None


def _declared_encoding(head: bytes) -> str | None:
    """Return the codec of the encoding that a file declares at its beginning, if Python has a text codec for it."""
    first_two = _FIRST_TWO_LINES.match(head)
    found = [_COMMENT_DECLARATION.search(first_two[0])] if first_two else []
    found += [pattern.search(head) for pattern in _MARKUP_DECLARATIONS]
    for match in found:
        if match is not None:
            name = match[1].decode("ascii", "replace").lower()
            try:
                codec = codecs.lookup(re.sub(r"-(?:unix|dos|mac)$", "", name)).name  # Emacs adds the line ends
            except LookupError:
                continue
            if _DECLARABLE.match(codec) and _ASCII.encode().decode(codec) == _ASCII:
                return codec
    return None


def _is_mostly_utf8(data: bytes) -> bool:
    """Return whether more characters are valid UTF-8 beyond ASCII than bytes are invalid."""
    text = data.decode("utf-8", errors="ignore")
    valid = sum(len(part) for part in re.findall(r"[^\x00-\x7f]+", text))
    invalid = len(data) - len(text.encode("utf-8"))
    return valid > invalid


def _guess_encoding(data: bytes) -> str | None:
    """Return an encoding if the bytes tell it clearly, from the first 16 kB of lines that are not ASCII."""
    from charset_normalizer import from_bytes

    lines = b"\n".join(line for line in data.splitlines() if not line.isascii())
    if len(lines) > _SAMPLE_BYTES:
        lines = lines[:_SAMPLE_BYTES].rpartition(b"\n")[0] or lines[:_SAMPLE_BYTES]
    matches = sorted(
        from_bytes(lines, cp_isolation=list(_GUESSES), enable_fallback=False),
        key=lambda match: (match.chaos, -match.coherence, _GUESSES.index(match.encoding)),
    )
    best = matches[0] if matches else None
    if best is not None and best.coherence >= _CLEAR_COHERENCE:
        ties = [match for match in matches if match.coherence >= best.coherence - _TIE]
        is_western = best.encoding in _LATIN and any("cp1252" in match.could_be_from_charset for match in ties)
        return "cp1252" if is_western else best.encoding
    if sum(map(len, _LATIN_LETTERS.findall(lines))) == sum(byte >= 0x80 for byte in lines):
        return "cp1252"
    rivals = [match for match in matches if match.chaos <= matches[0].chaos + _TIE]
    if best is None or len(rivals) > 1 or best.encoding in _LATIN:
        return None
    characters = sum(not character.isascii() for character in str(best))
    return best.encoding if characters >= _LEAST_CHARACTERS else None
