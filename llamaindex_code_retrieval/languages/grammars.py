"""Load tree-sitter grammars and their queries on first use."""

from __future__ import annotations

import ctypes
import importlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import tree_sitter

from llamaindex_code_retrieval.languages.table import GRAMMARS

_NOT_LINE_BREAK = re.compile(rb"[^\r\n]")
_INHERITS = re.compile(r"; inherits: (\w+)\n")


@cache
def load_grammar(name: str) -> tree_sitter.Language:
    """Return a grammar of ``GRAMMARS``."""
    grammar = GRAMMARS[name]
    pointer = getattr(importlib.import_module(grammar.module), grammar.function)()
    if isinstance(pointer, int):  # wheels made by older generators
        new_capsule = ctypes.pythonapi.PyCapsule_New
        new_capsule.restype = ctypes.py_object
        new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        pointer = new_capsule(pointer, b"tree_sitter.Language", None)
    return tree_sitter.Language(pointer)


@cache
def definition_query(name: str) -> tuple[tree_sitter.Query, tuple[Mapping[str, str | None], ...]]:
    """Return the query of a grammar that finds definitions, and the ``#set!`` properties of its patterns.

    The captures, besides those that name a definition (see ``names.qualified_name``):

    - ``@function``, a method if it stands in a class; ``@method``; ``@prototype``, a function without a body;
    - ``@class``; ``@module``, a class whose functions are no methods; ``@scope``, which only adds to the scope;
      ``@alias``, a class without a body: another name of a type;
    - ``@comment`` and ``@attribute``: in rows of their own above a definition, they belong to it; with
      ``(#set! apart)`` blank rows may stand between;
    - ``@trailing``: a comment that may also stand behind or below what it describes;
    - ``@docstring``: a doc comment inside the definition;
    - ``@outer``: what starts the definition that is captured as ``@inner``; ``@end``: what ends the definition;
    - ``@reparse``: brackets with code that the grammar did not parse, as the arguments of a macro.

    Adjacent definitions of the same scope are one if their patterns have ``(#set! merge)``, and a prototype whose
    pattern has it is one with the definition below it; one that does not join the definition above is none with
    ``(#set! merge "only")``. A pattern with ``(#set! level "module")`` does not count directly in functions. With
    ``(#set! through "}")`` a definition without a block goes on to the next node beside it with this text, at most to
    the next such definition or the end of the block around it.

    Two faults of tree-sitter 0.26 are to be avoided: it frees memory twice if ``#set!`` stands after a predicate of its
    pattern, and ``#not-any-of?`` always holds.
    """
    query = tree_sitter.Query(load_grammar(name), query_text(name))
    return query, tuple(query.pattern_settings(number) for number in range(query.pattern_count))


def query_text(name: str) -> str:
    """Return the text of ``queries/NAME.scm``, after that of the file that its first line inherits."""
    text = (files("llamaindex_code_retrieval.languages") / "queries" / f"{name}.scm").read_text(encoding="utf-8")
    match = _INHERITS.match(text)
    return text if match is None else query_text(match[1]) + text


def without_macros(raw: bytes, name: str) -> bytes:
    """Replace the groups of each match of the grammar's ``blank`` by spaces, or a group with a name by its name."""
    blank = GRAMMARS[name].blank
    if not blank:
        return raw
    result = bytearray(raw)
    pattern = re.compile(blank.encode(), re.MULTILINE)
    words = {number: word.encode() for word, number in pattern.groupindex.items()}
    for match in pattern.finditer(raw):
        for group in range(1, pattern.groups + 1):
            start, end = match.span(group)
            if start >= 0:
                result[start:end] = _NOT_LINE_BREAK.sub(b" ", raw[start:end])
                word = words.get(group, b"")
                result[start : start + len(word)] = word
    return bytes(result)
