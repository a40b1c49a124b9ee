"""Read the names of definitions from what a query captures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import tree_sitter

_SEPARATOR = re.compile(r"::|->|\?\.|[.:#\\]")
_PART = re.compile(r"[^\s()\[\]{}'\"`,;=]+")
_OBJECTS = frozenset(("exports", "global", "globalThis", "module", "prototype", "self", "this", "window"))
_QUOTES = re.compile(r"""(?s)[a-zA-Z@$]*("{3}|'{3}|["'`])(.*)\1$""")
_ADJACENT_STRINGS = re.compile(r"""\s*(["'])\s+\1""")
_C_STATEMENTS = frozenset(("for", "if", "requires", "return", "switch", "while"))
"""What looks like a function of C after a macro."""
_MAX_LABEL = 80  # characters kept of a string that names a function


def qualified_name(
    captures: Mapping[str, Sequence[tree_sitter.Node]], settings: Mapping[str, str | None]
) -> tuple[list[str], tree_sitter.Node | None]:
    """Return the parts of the qualified name, its own name last, and the node of the name; no parts: no definition.

    The captures that name a definition:

    - ``@name``: the name, perhaps in quotes or with type arguments; several are joined by ``(#set! join …)``;
    - ``@qualified``: a name with its scope, as in ``a.b``, ``A::b`` or ``this.a``; the scope alone before a ``@name``;
    - ``@owner``: the type that a method belongs to, in front of the name; alone, the name itself;
    - ``@label``: the first string argument of a call, after the called name in ``@call``, if there is one;
    - ``@declarator``: a declarator of C, which contains the name.

    ``(#set! name …)`` is a fixed name, at ``@name`` if there is one, and ``(#set! prefix …)`` stands in front of the
    name.
    """
    if "declarator" in captures:
        return _declared(captures["declarator"][0])
    owner = [_type_name(node_text(node)) for node in captures.get("owner", ())]
    if settings.get("name"):
        return [*owner, str(settings["name"])], next(iter(captures.get("name", ())), None)
    if "label" in captures:
        node = captures["label"][0]
        call = [_SEPARATOR.split(node_text(each))[-1].strip() for each in captures.get("call", ())]
        text = _ADJACENT_STRINGS.sub(" ", unquoted(node_text(node)))
        label = " ".join(text.split())[:_MAX_LABEL].rstrip()
        return ([*owner, " ".join([*call, label])] if label else []), node
    if "qualified" in captures:
        node = captures["qualified"][0]
        owner += _split(node_text(node))
        if "name" not in captures:
            return owner, node
    if "name" not in captures:
        return owner, captures["owner"][0] if owner else None
    nodes = captures["name"]
    text = (settings.get("join") or "").join(unquoted(" ".join(node_text(node).split())) for node in nodes)
    if nodes[0].type.startswith(("template_", "generic_")) and not settings.get("prefix"):
        text = text.partition("<")[0].strip()
    return ([*owner, (settings.get("prefix") or "") + text] if text else []), nodes[0]


def node_text(node: tree_sitter.Node) -> str:
    """Return the source of a node."""
    return (node.text or b"").decode(errors="replace")


def _split(text: str) -> list[str]:
    """Return the parts of a qualified name without the objects that are no scope; of an expression, the last name.

    >>> _split("module.exports.load"), _split("A::B"), _split("make(x).run"), _split("table[key]")
    (['load'], ['A', 'B'], ['run'], [])
    """
    if re.search(r"[(\[{]", text):
        last = re.search(r"[.:]\s*([\w$]+)\s*$", text)
        return [last[1]] if last else []
    parts = [part for each in _SEPARATOR.split(text) if (part := each.strip())]
    return [part for part in parts if part not in _OBJECTS and _PART.fullmatch(part)] or parts[-1:]


def unquoted(text: str) -> str:
    """Return a string without its quotes, or a symbol without its colon.

    >>> unquoted('"a b"'), unquoted(":seed"), unquoted(':"a b"'), unquoted("::A")
    ('a b', 'seed', 'a b', '::A')
    """
    if re.match(r":[\w\"']", text):
        text = text[1:]
    match = _QUOTES.match(text)
    return match[2] if match and match[2] else text


def _declared(node: tree_sitter.Node) -> tuple[list[str], tree_sitter.Node | None]:
    """Return the parts of the name in a C or C++ declarator; none if it does not declare a function."""
    is_function = False
    while node.type.endswith("_declarator"):
        if node.type != "parenthesized_declarator":  # `int (*f)(int)` declares a pointer, `int *f(int)` a function
            is_function = node.type == "function_declarator"
        inner = node.child_by_field_name("declarator") or next(
            (child for child in node.named_children if child.type.endswith(("declarator", "identifier"))), None
        )
        if inner is None:
            return [], None
        node = inner
    parts: list[str] = []
    while node.type == "qualified_identifier":
        scope, name = node.child_by_field_name("scope"), node.child_by_field_name("name")
        if scope is not None:
            parts.append(node_text(scope).partition("<")[0].strip())
        if name is None:
            return [], None
        node = name
    text = " ".join(node_text(node).split())
    if node.type == "operator_cast":
        function: tree_sitter.Node | None = node
        while function is not None and function.type != "abstract_function_declarator":
            function = next((child for child in function.named_children if child.type.startswith("abstract_")), None)
        end = node.end_byte if function is None else function.start_byte
        text = (node.text or b"")[: end - node.start_byte].decode(errors="replace")
        return [*parts, " ".join(text.split())], node
    if node.type == "template_function":
        text = text.partition("<")[0].strip()
    return ([*parts, text] if is_function and text and text not in _C_STATEMENTS else []), node


def _type_name(text: str) -> str:
    """Return the name in a type without its path, arguments and reference signs; other types as they are.

    >>> _type_name("&'a mut fmt::Wrapper<Vec<T>>"), _type_name("dyn Any + Send")
    ('Wrapper', 'Any')
    >>> _type_name("*Stack[T]"), _type_name("Model{T}")
    ('Stack', 'Model')
    >>> _type_name("&'static [u8]"), _type_name("(A,  B)")
    ("&'static [u8]", '(A, B)')
    """
    words = re.findall(r"[\w-]*\w", re.sub(r"'\w+|[<\[{+].*", "", text, flags=re.DOTALL))
    return words[-1] if words and "(" not in text.partition("<")[0] else " ".join(text.split())
