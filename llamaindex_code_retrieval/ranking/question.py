"""What a question asks for, read from its text without a model."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from llamaindex_code_retrieval.ranking.identifiers import CJK, Identifier, find_identifiers, looks_like_code
from llamaindex_code_retrieval.ranking.language_names import named_languages
from llamaindex_code_retrieval.ranking.places import MIME_TYPES, Place, clean_path, find_places
from llamaindex_code_retrieval.ranking.snippets import find_snippet, without_fences
from llamaindex_code_retrieval.ranking.stack_traces import StackTrace

Shape = Literal["identifier", "path", "sentence", "trace", "code"]

_LONGEST_TEXT = 20_000  # characters: a pasted log may have millions
_MOST_PLACES = 64
_MOST_WORDS = 4

_QUOTED = re.compile(
    r"(?<![\w`])`{1,2}(?P<backticks>[^`\n]{1,300})`|(?<![\w\"])\"(?P<double>[^\"\n]{0,300})\"|“(?P<curly>[^“”\n]{3,300})”"
    r"|«(?P<angle>[^«»\n]{3,300})»|(?<![\w'’])'(?P<single>[^\s'][^'\n]{2,300})'(?!\w)"
)
_LEAD_IN = re.compile(
    r"(?:(?:where|what)(?: is|'s| are)|find|show(?: me)?|go to|open|look at"
    r"|(?:the )?(?:definition|declaration|source) of"
    r"|(?:the )?(?:class|def|fn|func|function|struct|enum|trait|interface|impl|method|file))\s+(?:the\s+)?",
    re.IGNORECASE,
)
_LEAD_OUT = re.compile(
    r"\s+(?:(?:is |are )?(?:defined|declared|implemented)|definition|declaration|implementation|class|function|method"
    r"|struct|enum|trait|interface|in|of|from)\s*[?.]*\Z",
    re.IGNORECASE,
)
_ONE_NAME = re.compile(r"[$@:]*(?P<name>[^\W\d]\w*(?:(?:\.|::|->|\?\.|#|\\)[^\W\d]\w*)*[?!]?)(?:\(\)?|/[0-9]|<.*>)?")
_ONE_PATH = re.compile(r"[\w@.+-]+(?:[/\\][\w@.+-]+)+/?")
_DEFINITION = re.compile(r"\s*(?:def|fn|func)\s")
_LONGEST_NAMES = 300
_WORD = re.compile(r"[^\W\d]\w*[?!]?")
_TITLE = re.compile(r"[A-Z]\w*[a-z]\w*")
_NOUN = re.compile(r"code|.*(?:ing|ion|ment|ness|ity|ance|ence|ers?|ors?|s|ies|ure|al|ed)")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and the identifiers, places, literal texts, languages and code in it.

    >>> question = Question.of("why does Session.send fail at sessions.py:120 in Python?")
    >>> question.shape, question.identifiers[0].name, question.places[0].line, question.languages
    ('sentence', 'send', 120, ('python',))
    """

    text: str
    shape: Shape = "sentence"
    identifiers: tuple[Identifier, ...] = ()
    places: tuple[Place, ...] = ()
    """The frames of a stack trace, innermost first, then the paths in the text."""
    quoted: tuple[str, ...] = ()
    """Texts of more than one word in quotes or backticks."""
    languages: tuple[str, ...] = ()
    """Names in ``LANGUAGES``."""
    code: str | None = None
    error: str | None = None
    """The name and the message of an exception, or the message of a compiler."""

    @classmethod
    def of(cls, text: str) -> Question:
        """Read a question; only its first 20,000 characters are looked at."""
        trace = StackTrace.of(text[:_LONGEST_TEXT])
        prose = "\n".join(trace.other_lines)
        if trace.frames:
            prose = without_fences(prose)  # the rest between them is no code
        code, language, prose_without_code = (None, None, prose) if _names(prose) else find_snippet(prose)
        places, rest = find_places(prose_without_code)
        if trace.frames:
            shape: Shape = "trace"
        elif code and len(code) >= len(prose_without_code.strip()):
            shape = "code"
        else:
            shape = _shape(prose_without_code, rest, has_places=bool(places))
        if shape == "path" and not places:
            places = (Place(path=clean_path(_bare(prose))),)
        languages = tuple(dict.fromkeys([*([language] if language else []), *named_languages(rest)]))
        return cls(
            text=text,
            shape=shape,
            identifiers=_names(rest) if shape == "identifier" else _identifiers(rest, code, languages),
            places=_merge(trace.frames, places),
            quoted=_quoted(prose),
            languages=languages,
            code=code,
            error=trace.error,
        )


def _shape(prose: str, rest: str, *, has_places: bool) -> Shape:
    if has_places:
        if not re.search(r"\w", _bare(rest)):
            return "path"
        names = _names(rest)
        return "identifier" if names and all(looks_like_code(name.text) for name in names) else "sentence"
    if _names(rest):
        return "identifier"
    bare = _bare(prose)
    is_path = _ONE_PATH.fullmatch(bare) and not bare.isupper() and bare.partition("/")[0] not in MIME_TYPES
    return "path" if is_path and re.search(r"[^\W\d]", bare) else "sentence"


def _identifiers(rest: str, code: str | None, languages: tuple[str, ...]) -> tuple[Identifier, ...]:
    """Return the identifiers outside of quoted texts, and the certain ones in these and in code."""
    outside = find_identifiers(_QUOTED.sub(lambda match: " " if " " in match[0] else match[0], rest))
    inside = find_identifiers("\n".join([*_quoted(rest), code or ""]))
    found: dict[tuple[str, tuple[str, ...]], Identifier] = {}
    for name in outside:
        if name.is_certain or name.name.lower() not in languages:
            found[name.name, name.scope] = name
    for name in inside:
        key = name.name, name.scope
        if name.is_certain and (key not in found or not found[key].is_certain):
            found[key] = name
    return tuple(found.values())


def _merge(frames: tuple[Place, ...], places: tuple[Place, ...]) -> tuple[Place, ...]:
    """Return the frames and the places that are not lines of them."""
    of_frames = {(frame.path, frame.line) for frame in frames}
    others = (place for place in places if place.function or (place.path, place.line) not in of_frames)
    return (*frames, *others)[:_MOST_PLACES]


def _bare(text: str) -> str:
    """Return a text without "where is … defined" around it, quotes and the punctuation at its end."""
    text = _strip(" ".join(text.split()))
    if match := _LEAD_IN.match(f"{text} "):
        text = text[match.end() :]
    return _strip(_LEAD_OUT.sub("", text))


def _strip(text: str) -> str:
    return text.strip(" \t\n`\"'“”(").rstrip("?.!:;, `\"'“”)")


def _names(text: str) -> tuple[Identifier, ...]:
    """Return the identifiers of a text that consists of nothing else."""
    bare = _bare(text)
    words = bare.split()
    if not bare or len(words) > _MOST_WORDS or len(bare) > _LONGEST_NAMES or find_places(bare)[0]:
        return ()
    if len(words) == 1 and (name := _ONE_NAME.fullmatch(bare)):
        is_all = bare == _strip(text) or _DEFINITION.match(text)
        if not is_all and bare.islower() and not looks_like_code(name["name"]):
            return ()  # `what is authentication`
        if CJK.search(bare) and "`" not in text:
            return ()  # a sentence without spaces
        return (Identifier.of(name["name"]),)
    names = find_identifiers(bare)
    certain = {name.text for name in names if name.is_certain}
    plain = [word for word in words if word.strip("()`$@,") not in certain]
    if not all(_WORD.fullmatch(word) for word in plain):
        return ()
    if not plain:
        return names
    first, last = words[0], words[-1]
    if len(words) == 2 and _TITLE.fullmatch(first) and last.islower() and not _NOUN.fullmatch(last):  # `Session send`
        return (Identifier(name=last, scope=(first,), text=bare, is_certain=False),)
    if all(_TITLE.fullmatch(word) for word in plain):
        return tuple(Identifier.of(word.strip("()`$@,"), is_certain=looks_like_code(word)) for word in words)
    return ()


def _quoted(text: str) -> tuple[str, ...]:
    found = (match[match.lastgroup].strip() for match in _QUOTED.finditer(text) if match.lastgroup)
    return tuple(dict.fromkeys(words for words in found if re.search(r"\w\S*\s+\S", words)))
