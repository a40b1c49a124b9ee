"""Take the bodies out of functions: the code between signature and result."""

from __future__ import annotations

import inspect
import re

import tree_sitter

from llamaindex_code_retrieval.languages.names import node_text
from llamaindex_code_retrieval.languages.outline import descendants
from llamaindex_code_retrieval.languages.syntax import Parsed, parse
from llamaindex_code_retrieval.languages.table import known_language
from llamaindex_code_retrieval.languages.tree import SyntaxItem

_WRAPPERS = ("{}", "class X {{\n{}\n}}", "<?php\n{}", "<?php\nclass X {{\n{}\n}}")  # a method alone is not a valid file


def without_signature_and_returns(source: str, language: str) -> str:
    """Return the body of the first function of ``source``, dedented and without return statements.

    The result is empty if there is no function, it cannot be parsed, or nothing is left of its body.

    >>> without_signature_and_returns("def f(x):\\n    y = x + 1\\n    return y", "python")
    'y = x + 1'
    """
    known_language(language)
    is_php = language == "php" and "<?" not in source
    best: tuple[tree_sitter.Node, bytes] | None = None
    for wrapper in _WRAPPERS[2:] if is_php else _WRAPPERS[:2]:
        if language in ("python", "ruby", "go", "c", "rust") and wrapper != "{}":
            continue
        wrapped = wrapper.format(source)
        parsed = parse(wrapped, language)
        if not isinstance(parsed, Parsed) or (body := _first_body(parsed)) is None:
            continue
        raw = wrapped.encode(errors="replace")  # with the macros that were left out for parsing
        raw = raw if raw.endswith(b"\n") else raw + b"\n"  # as it was parsed
        if best is None or not parsed.root.has_error:
            best = body, raw if len(raw) == len(parsed.raw) else parsed.raw
        if not parsed.root.has_error:
            break
    return "" if best is None else _without_returns(*best)


def _first_body(parsed: Parsed) -> tree_sitter.Node | None:
    for item in descendants(parsed.top):
        if item.kind != "class" and isinstance(item, SyntaxItem):
            return _body(item.node)
    return None


def _body(node: tree_sitter.Node) -> tree_sitter.Node | None:
    """Return the block that is the body of the function in ``node``, searching level by level."""
    level = [node]
    while level:
        for each in level:
            body = each.child_by_field_name("body")
            if body is not None:
                is_block = body.type in ("block", "body_statement") or node_text(body).startswith("{")
                return body if is_block else None
        level = [child for each in level for child in each.named_children]
    return None


def _without_returns(body: tree_sitter.Node, raw: bytes) -> str:
    start, end = body.start_byte, body.end_byte
    if raw[start : start + 1] == b"{":
        start, end = start + 1, end - 1
    cuts: list[tuple[int, int]] = []
    stack = [body]
    while stack:
        node = stack.pop()
        if node.is_named and node.type in ("return_statement", "return_expression", "return"):
            whole = node.parent if node.parent is not None and node.parent.type == "expression_statement" else node
            cuts.append((whole.start_byte, whole.end_byte))
        else:
            stack.extend(node.children)
    text = b" " * body.start_point.column if raw[start : start + 1] not in (b"\n", b"\r") else b""
    for first, last in sorted(cuts):
        text += raw[start:first] + b"\0"  # marks the lines from which something was removed
        start = last
    lines = (text + raw[start:end]).decode(errors="replace").split("\n")
    kept = [line.replace("\0", "").rstrip() for line in lines if "\0" not in line or line.strip("\0 \t\r;")]
    code = inspect.cleandoc("\n" + "\n".join(kept)).strip()
    return code if re.search(r"\w", code) else ""
