"""Read docstrings and doc comments."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import tree_sitter

_DIRECTIVE = re.compile(
    r"(?://|/\*|#)\s*(?:go:|nolint|eslint|prettier-|@ts-|rubocop:|clang-format|NOLINT|istanbul |shellcheck )|#!"
)
# a string as a doc comment: `"""…"""`, `@doc """…"""`, `@doc raw"…" ->`
_STRING = re.compile(r"""(?s)(?:@\w+\s*)?(?:raw|md|~[sS])?("{3}|'{3}|")(.*)\1(?:\s*->)?$""")
_RULE = re.compile(r"[-=*#/~_+.]{3,}$")
_XML_REFERENCE = re.compile(r"""<\w+\s+(?:cref|name|langword)=["']([^"']*)["']\s*/>""")
_XML_TAG = re.compile(r"</?\w+(?:\s[^<>]*)?/?>")
_UNESCAPED = {"\n": "", "n": "\n", "t": "\t"}
_PYTHON_ESCAPE = re.compile(r"""\\([\n\\'"nt])""")

_C_MARKERS = r"^(?:/\*+!?|///?!?|\*+(?!/))|\*+/$"
COMMENT_STYLES: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        style: re.compile(pattern)
        for style, pattern in {
            "c": r"^#+(?!\[)|" + _C_MARKERS + r"|^#\[doc\s*=\s*r?#*\"|\"#*\]$",
            "xml": _C_MARKERS,
            "hash": r"^#+(?:!|'(?=\s|$))?|^=begin$|^=end$",
            "pod": r"^#+!?|^=(?:cut$|over\b.*|[a-z]\w*\s*)",
            "powershell": r"^<#+|#+>$|^#+",
            "julia": r"^#=+|=#$|^#+",
            "sql": r"^--+|" + _C_MARKERS,
            "dash": r"^--+\[=*\[|^--+(?:\s?[|^!](?=\s|$))?|^\{-+\s?[|^!]?|-+\}$|\]=*\]-*$|" + _C_MARKERS,
            "ml": r"^\(\*+|\*+\)$",
            "percent": r"^%+",
            "semicolon": r"^;+",
            "description": r"^#+|^\"+|\"+$",
            "docstring": r"^#+",  # of Python: the docstring is a statement of the body
        }.items()
    }
)
"""The marks at the ends of the lines of a doc comment, by style."""


def comment_text(comments: Sequence[str], style: str) -> str:
    """Return the text of comments, which may be strings, without their marks and ruler lines.

    >>> comment_text(["/**", " * Adds.", " *   Fast.", " */"], "c"), comment_text(['@doc "Adds."'], "hash")
    ('Adds.\\n  Fast.', 'Adds.')
    """
    marks = COMMENT_STYLES[style]
    lines: list[str] = []
    for comment in comments:
        if _DIRECTIVE.match(comment):
            continue
        if string := _STRING.match(comment):
            lines += [line.rstrip() for line in inspect.cleandoc(string[2].replace("\r\n", "\n")).split("\n")]
            continue
        for line in re.split(r"\r?\n", comment.rstrip()):
            line = marks.sub("", line.strip())
            line = marks.sub("", line) if line.endswith(("*/", "*)", "-}", "]")) else line  # both marks on one line
            if style == "xml":
                line = _XML_TAG.sub("", _XML_REFERENCE.sub(r"\1", line))
            lines.append("" if _RULE.match(line.strip()) else line.rstrip())
    return inspect.cleandoc("\n" + "\n".join(lines)).strip()


def python_docstring(node: tree_sitter.Node, raw: bytes) -> tuple[tree_sitter.Node | None, str]:
    """Return the statement that is the docstring of a Python definition, and its text without indentation."""
    body = node.child_by_field_name("body")
    statement = next((each for each in body.named_children if each.type != "comment"), None) if body else None
    if statement is None or statement.type != "expression_statement" or statement.child_count != 1:
        return None, ""
    literal = statement.children[0]
    if literal.type not in ("string", "concatenated_string"):
        return None, ""
    text = ""
    for string in [literal] if literal.type == "string" else literal.named_children:
        if string.type != "string":  # a comment among concatenated ones
            continue
        start, end = string.children[0], string.children[-1]
        prefix = (start.text or b"").decode(errors="replace").lower()
        if "f" in prefix or "b" in prefix or "t" in prefix:
            return None, ""
        content = raw[start.end_byte : end.start_byte].decode(errors="replace")
        if "r" not in prefix:
            content = _PYTHON_ESCAPE.sub(lambda match: _UNESCAPED.get(match[1], match[1]), content)
        text += content
    return statement, inspect.cleandoc(text.replace("\r\n", "\n"))
