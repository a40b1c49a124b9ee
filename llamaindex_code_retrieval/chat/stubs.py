"""Declarations without a body: stubs of ``typing.overload``, and prototypes of C and C++."""

from __future__ import annotations

import re

_OVERLOAD = re.compile(
    r"^[ \t]*@(?:\w+\.)*overload[ \t]*\n(?:[ \t]*@.*\n){0,5}"
    r"[ \t]*(?:async[ \t]+)?def[ \t]+(?P<name>\w+)[^\n]*"
    r"(?:\n(?=[ \t]|\))(?![ \t]*(?:@|(?:async[ \t]+)?def\b|class\b))[^\n]*\S[^\n]*)*",
    re.MULTILINE,
)
_PROTOTYPE = re.compile(
    r"^[ \t]*(?!return\b|else\b|throw\b|typedef\b|using\b|goto\b|#|//|\*)"
    r"[\w:<>,*&~\[\]][\w:<>,*&~\[\] \t\n]*?[ \t\n*&](?P<name>~?\w+)[ \t]*\([^;{}()]*(?:\([^;{}()]*\)[^;{}()]*)*\)"
    r"[^;{}()=]*(?:\([^;{}()]*\)[^;{}()=]*)*;",
    re.MULTILINE,
)
LANGUAGES_WITH_PROTOTYPES = frozenset(("c", "cpp", "cuda", "objectivec"))
_NO_CODE = re.compile(r"^[ \t]*(?:#.*|//.*|/?\*.*|[{}]*;?|extern[ \t]+\"C\"[ \t]*\{?|namespace\b.*)$", re.MULTILINE)
_LONGEST = 20_000  # characters


def declared_names(text: str, language: str) -> list[str]:
    """Return the names of the functions that a text declares, if it is mainly declarations without a body.

    >>> declared_names("@t.overload\\ndef get(a: int) -> int: ...", "python")
    ['get']
    >>> declared_names("int add(int a, int b);\\nvoid clear(void);", "c")
    ['add', 'clear']
    """
    if language == "python":
        pattern = _OVERLOAD
    elif language in LANGUAGES_WITH_PROTOTYPES:
        pattern = _PROTOTYPE
    else:
        return []
    text = text[:_LONGEST]
    names = dict.fromkeys(match["name"] for match in pattern.finditer(text))
    others = len(_NO_CODE.sub("", pattern.sub("", text)).split())
    return list(names) if others * 2 < len(_NO_CODE.sub("", text).split()) else []
