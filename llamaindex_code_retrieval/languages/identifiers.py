"""Find the names that a source declares: its definitions, parameters, variables, fields and types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tree_sitter

from llamaindex_code_retrieval.languages.names import node_text
from llamaindex_code_retrieval.languages.outline import Outline, descendants
from llamaindex_code_retrieval.languages.syntax import Parsed

_WORD = re.compile(r"[^\W\d]\w*")
_GIVEN = frozenset("__construct __init__ cls constructor init new operator self super this".split())
"""Names that languages give to receivers, constructors and operators."""
_NAME_FIELDS = frozenset(
    "alias bind bound_identifier declarator declarators left names name parameters pattern patterns self "
    "target variable variables".split()
)
_LEAF = re.compile(
    r"(?i)identifier|name$|^variable$|^word$|^constant$|^constructor$|^value_pattern$|^bareword$|type_con"
)
_DECLARES = re.compile(
    r"assign|bind|declar|defin|enum|for_|lambda|parameter|range_clause|_item$|_param$|_signature|_spec$|specifier$|"
    r"data_type|newtype|record$|self_param|closure|initialized|statement_param|^function$|^method$|^class$|^module$|"
    r"method$|subroutine|class_statement|function_statement|enum_member|as_pattern|^catch|_constant$|_entry$|type_alias|"
    r"constructor_param|setter$|^signature$|type_head|struct_definition|specification"
)
_HOLDS = re.compile(
    r"^(array|hash|scalar)$|declarator$|_name$|pattern$|patterns$|^(expression|variable|identifier)_list$|tuple|"
    r"^directly_assignable|^typed_|^prefix$|^field_name$|^field$|^splat|_splat$|^rest_|^optional_|^open_"
)
_USES = re.compile(
    r"access|annotation|argument|attribute|base_|call|decorator|generic|heritage|implements|import|inherit|invo[ck]|"
    r"namespace_use|package|path|qualified|scoped|super|type_name|^use_|user_type|using"
)


_MAX_STEPS = 5  # patterns are not nested deeper in practice


class Declaration(NamedTuple):
    """A name that a source declares, without sigils, and the row where it does; rows count from 0."""

    name: str
    row: int


def declarations(outline: Outline) -> list[Declaration]:
    """Return the declarations of a source, each name and row once, in order.

    They are the names of its definitions and, where a grammar has parsed it, what the syntax tree has in a place that
    declares: on the left of an assignment, among parameters, as a field or a loop variable. Names that are only used,
    such as those of imported modules, of called functions and of types defined elsewhere, are no declarations; nor are
    names that the language gives, such as ``self``.
    """
    found = {
        Declaration(word, max(item.name_row, item.first))
        for item in descendants(outline.top)
        for word in _only_word(item.symbol)
    }
    if isinstance(outline, Parsed):
        found.update(_declared(outline.root))
    return sorted((each for each in found if each.name not in _GIVEN), key=lambda each: (each.row, each.name))


def _only_word(symbol: str) -> list[str]:
    """Return the word in a name with its sigils, or none where it has several.

    >>> _only_word("$total"), _only_word("valid?"), _only_word("Get-Order")
    (['total'], ['valid'], [])
    """
    words = _WORD.findall(symbol)
    return words if len(words) == 1 else []


def _declared(root: tree_sitter.Node) -> Iterator[Declaration]:
    """Yield the declarations in a syntax tree."""
    cursor = root.walk()
    above: list[_Place] = []
    while True:
        node = cursor.node
        assert node is not None
        place = _Place(node.type, cursor.field_name)
        if cursor.goto_first_child():
            above.append(place)
            continue
        if node.is_named and _LEAF.search(place.type) and _is_declared(place, above):
            for word in _only_word(node_text(node)):
                yield Declaration(word, node.start_point.row)
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return
            above.pop()


class _Place(NamedTuple):
    """The type of a node and its field in the node around it."""

    type: str
    field: str | None


def _is_declared(name: _Place, above: Sequence[_Place]) -> bool:
    """Return whether the place of a name declares it; ``above`` are the nodes around it, the outermost first."""
    child = name
    for parent in reversed(above[-_MAX_STEPS:]):
        if parent.type == "arrow_function":
            return child.field == "parameter"
        if _USES.search(parent.type) or (child.field is not None and child.field not in _NAME_FIELDS):
            return False
        if _DECLARES.search(parent.type):
            return child.field is not None or child.type != "type_identifier" or "type_param" in parent.type
        if not _HOLDS.search(parent.type):
            return False
        child = parent
    return False
