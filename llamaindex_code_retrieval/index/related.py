"""Find what is related to a place in code: similar code, the same scope, what uses it, and what it uses."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from llamaindex_code_retrieval.index.filters import Condition
from llamaindex_code_retrieval.index.rank import RankedHit
from llamaindex_code_retrieval.index.tables import NodeName, NodeRow
from llamaindex_code_retrieval.index.view import View
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES
from llamaindex_code_retrieval.ranking.fusion import RANK_CONSTANT

Reason = Literal[
    "similar",
    "same scope",
    "calls it",
    "uses it",
    "mentions it",
    "called by it",
    "used by it",
    "mentioned in it",
]
_Use = Literal["calls", "uses", "mentions"]

_USERS: Mapping[_Use, Reason] = {"calls": "calls it", "uses": "uses it", "mentions": "mentions it"}
_USED: Mapping[_Use, Reason] = {"calls": "called by it", "uses": "used by it", "mentions": "mentioned in it"}
_USES = list(_USERS)
"""The surest first."""

_SIMILAR_WEIGHT, _SCOPE_WEIGHT, _USERS_WEIGHT, _USED_WEIGHT = 1.0, 0.5, 2.0, 2.0
_LARGEST_SCORE = (_SIMILAR_WEIGHT + _SCOPE_WEIGHT + _USERS_WEIGHT + _USED_WEIGHT) / (RANK_CONSTANT + 1)
_NEAREST = 50
"""Nodes that are similar, at least."""
_OWN_NAMES = 100
"""Names defined at a place whose uses are found; a file may define more."""
_IDENTIFIERS = 500
"""Identifiers at a place whose definitions are found."""
_FOUND, _COUNTED = 200, 50
"""Texts with a name that are enough to find its uses, or only to estimate how many there are."""
_READ, _SEARCHED = 5, 25
"""For each of these: texts that are read, and texts with the words of the name, the best by BM25, that are searched."""
_DEFINITIONS = 64
"""Nodes that define a name, parts of one definition among them, that are read."""
_AMBIGUOUS = 10
"""A name with more definitions does not tell which one another file uses."""
_KINDS = frozenset(("function", "method", "class"))
"""Kinds of nodes whose symbols are names in code."""
_FAMILIES = tuple(
    frozenset(languages.split())
    for languages in (
        "c cpp cuda objectivec swift",
        "groovy java kotlin scala",
        "html javascript svelte typescript vue",
    )
)
"""Languages whose code uses definitions of the others."""
_SCHEMAS = frozenset(("graphql", "protobuf", "sql"))
"""Languages whose definitions code of all languages uses."""
_NAME = re.compile(r"[^\W\d]\w*[?!']?")
_CALL = r"(!?(?:(?:::)?<[^<>()\n]*>)?\()?"
"""Follows a name that is called: a parenthesis, perhaps after type arguments or the mark of a macro."""


class RelatedHit(NamedTuple):
    """A node that is related to a place."""

    hit: RankedHit
    reasons: tuple[Reason, ...]

    def metadata(self, rows: Mapping[int, NodeRow]) -> dict[str, Any]:
        """Return the node's metadata; ``related`` names the reasons."""
        return {**self.hit.metadata(rows), "related": ", ".join(self.reasons)}


class _Entry(NamedTuple):
    """A node in a ranking."""

    number: int
    reason: Reason
    factor: float = 1.0


class _Ranking(NamedTuple):
    """Nodes that are related in one way, the best first."""

    weight: float
    entries: Sequence[_Entry]


def find_related(view: View, rows: Sequence[NodeRow], *, top_k: int) -> list[RelatedHit]:
    """Return at most ``top_k`` definitions that are related to the nodes ``rows`` of one file, best first.

    There are four rankings:

    - "similar", weight 1: by the cosine to the mean vector of ``rows``, among nodes whose vectors the same model made;
    - "same scope", weight 0.5: of the same class or other scope, by the distance in the file; then what other files of
      the folder define in the same class;
    - "calls it", weight 2: nodes that have the name of a definition in ``rows`` in their text; "uses it" if no
      parenthesis follows, "mentions it" if they are documents;
    - "called by it", weight 2: definitions whose name is in the text of ``rows``; "used by it" and "mentioned in it"
      accordingly.

    Uses are found by name alone. They count less by the factor ``1 / (1 + ln(n))`` for a name that is in ``n`` nodes,
    and from one file to another by ``1 / d`` for a name with ``d`` definitions; with more than ten they do not count.
    So what calls ``get`` or ``__init__`` ranks behind what is similar.

    A score is the sum of weight * factor / (``RANK_CONSTANT`` + rank) over the rankings, divided by the largest
    possible sum. Ties go by id. The definitions in ``rows`` are left out.

    Raises:
        ValueError: ``top_k`` is under 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    own = view.reading.names(_numbered(row.number for row in rows))
    rankings = [
        *_similar(view, rows, depth=max(top_k, _NEAREST) + len(rows)),
        _Ranking(_SCOPE_WEIGHT, [_Entry(number, "same scope") for number in _same_scope(view, own)]),
        _Ranking(_USERS_WEIGHT, _ranked(_users(view, own), _USERS)),
        _Ranking(_USED_WEIGHT, _ranked(_used(view, own, {row.number: row.text for row in rows}), _USED)),
    ]
    return _merge(view, rankings, left_out={node.definition for node in own})[:top_k]


def find_used(view: View, rows: Sequence[NodeRow]) -> list[int]:
    """Return the numbers of the definitions that the nodes ``rows`` of one file call or use, as :func:`find_related`.

    Those that are called come first among those of equal weight. The definitions in ``rows`` are left out.
    """
    own = view.reading.names(_numbered(row.number for row in rows))
    used = _ranked(_used(view, own, {row.number: row.text for row in rows}), _USED)
    definitions = view.reading.ids(entry.number for entry in used)
    left_out = {node.definition for node in own}
    numbers = (entry.number for entry in used if entry.reason != "mentioned in it")
    return [number for number in dict.fromkeys(numbers) if definitions[number][1:] not in left_out]


def names_of(symbol: str) -> list[str]:
    """Return the names in a symbol, without what is no identifier, such as an operator or the title of a test.

    >>> names_of("width, height"), names_of("operator +")
    (['width', 'height'], [])
    """
    return [name for name in symbol.split(", ") if _NAME.fullmatch(name)]


def has_name(text: str, name: str) -> bool:
    """Return whether a name is in a text as a whole identifier."""
    return _pattern(name).search(text) is not None


@lru_cache(maxsize=512)
def _pattern(name: str) -> re.Pattern[str]:
    """Return what matches a name as a whole identifier; group 1 is there if it is called."""
    name = re.escape(name)
    return re.compile(rf"{name}(?<!\w{name})(?!\w){_CALL}")  # with the name first the search is ten times as fast


def _numbered(numbers: Iterable[int]) -> Condition:
    return Condition("n.number IN (SELECT value FROM json_each(?))", (json.dumps(list(numbers)),))


# --- similar, same scope ---------------------------------------------------------------------------------------------


def _similar(view: View, rows: Sequence[NodeRow], *, depth: int) -> Iterator[_Ranking]:
    """Yield a ranking for each model that made vectors of ``rows``; cosines of two models cannot be compared."""
    vectors = view.reading.vectors(row.number for row in rows)
    for model in dict.fromkeys(row.model for row in rows):
        of_model = [vectors[row.number] for row in rows if row.model == model and row.number in vectors]
        if of_model:
            mean = np.mean(of_model, axis=0).tolist()
            hits = view.nearest(mean, top_k=depth, model=model if len(view.models) > 1 else None)
            yield _Ranking(_SIMILAR_WEIGHT, [_Entry(hit.number, "similar") for hit in hits])


def _same_scope(view: View, own: Sequence[NodeName]) -> list[int]:
    """Return the numbers of the first nodes of definitions, the nearest first."""
    file = own[0].file
    around = {_scope_around(node) for node in own}
    scopes = around | {node.scope for node in own if node.symbol}
    found = [
        node
        for node in view.reading.names(Condition("n.file = ?", (file,)))
        if (_scope_around(node) in scopes or (node.scope and node.scope in around))
        and (node.symbol or not own[0].symbol)  # imports and statements between definitions belong to no scope
    ]
    positions = [node.position for node in own]
    found.sort(key=lambda node: (min(abs(node.position - position) for position in positions), node.position))
    classes = {_scope_around(node) for node in own if node.kind == "method"}
    classes |= {node.scope for node in own if node.kind == "class"}
    return [node.number for node in _first_parts([*found, *_of_classes(view, file, classes - {""})])]


def _scope_around(node: NodeName) -> str:
    """Return the scope in which a node's symbol is defined; of a node without one, its own scope."""
    return node.scope.removesuffix(node.symbol).rstrip(" >.") if node.symbol else node.scope


def _of_classes(view: View, file: int, classes: Collection[str]) -> list[NodeName]:
    """Return what the other files of a file's folder define in these classes, as is usual in Go and Swift."""
    if not classes:
        return []
    folder = "rtrim(here.path, replace(here.path, '/', ''))"
    return view.reading.names(
        Condition(
            # A range of the paths, which are in an index, and among these the files that are not in deeper folders.
            f"n.file IN (SELECT f.number FROM files here JOIN files f ON f.path > {folder} "
            f"AND f.path < {folder} || char(1114111) WHERE here.number = ? AND f.number != here.number "
            f"AND instr(substr(f.path, length({folder}) + 1), '/') = 0) AND EXISTS (SELECT 1 FROM json_each(?) c "
            "WHERE n.scope = c.value OR substr(n.scope, 1, length(c.value) + 1) = c.value || '.')",
            (file, json.dumps(sorted(classes))),
        )
    )


def _first_parts(nodes: Iterable[NodeName]) -> list[NodeName]:
    """Return the first part of each definition, in the order of the definitions."""
    firsts: dict[tuple[int, int], NodeName] = {}
    for node in nodes:
        if node.part < firsts.setdefault(node.definition, node).part:
            firsts[node.definition] = node
    return list(firsts.values())


# --- uses of names ---------------------------------------------------------------------------------------------------


class _NameUse(NamedTuple):
    """A node that uses a name, or one that defines a name that is used."""

    number: int
    use: _Use
    factor: float
    order: int
    """Among those for which all else is equal."""


def _users(view: View, own: Sequence[NodeName]) -> Iterator[_NameUse]:
    """Yield the nodes that use a name which ``own`` define."""
    here = own[0]
    names = dict.fromkeys(name for node in own for name in _names_in(node))
    for name in list(names)[:_OWN_NAMES]:
        definitions = len(definitions_of(view, name, language=here.language))
        texts, count = _texts_with(view, name, limit=_FOUND)
        nodes = {node.number: node for node in view.reading.names(_numbered(texts))}
        for order, (number, text) in enumerate(texts.items()):
            node = nodes[number]
            share = _share(node, here, definitions) if _can_use(node.language, here.language) else 0.0
            use = _use_in(text, name, node) if share else None
            if use is not None:
                yield _NameUse(number, use, share * _rarity(count), order)


def _used(view: View, own: Sequence[NodeName], texts: Mapping[int, str]) -> Iterator[_NameUse]:
    """Yield the definitions of the names that ``own`` use in their texts."""
    here = own[0]
    names = dict.fromkeys(name for text in texts.values() for name in _identifiers(text))
    for order, name in enumerate(list(names)[:_IDENTIFIERS]):
        definitions = definitions_of(view, name, language=here.language)
        shares = {node.number: _share(node, here, len(definitions)) for node in definitions}
        uses = {_use_in(texts[node.number], name, node) for node in own} if any(shares.values()) else set()
        best = next((use for use in _USES if use in uses), None)
        if best is not None:
            _, count = _texts_with(view, name, limit=_COUNTED)
            for number, share in shares.items():
                yield _NameUse(number, best, share * _rarity(count), order)


def _share(node: NodeName, here: NodeName, definitions: int) -> float:
    """Return how much a use counts of a name with so many definitions, between a node and the file of ``here``."""
    if node.file == here.file:
        return 1.0
    return 0.0 if definitions > _AMBIGUOUS else 1 / max(1, definitions)


def _ranked(uses: Iterable[_NameUse], reasons: Mapping[_Use, Reason]) -> list[_Entry]:
    best_first = sorted(uses, key=lambda use: (-use.factor, _USES.index(use.use), use.order, use.number))
    return [_Entry(use.number, reasons[use.use], use.factor) for use in best_first if use.factor]


def _rarity(count: float) -> float:
    """Return how much a use counts of a name that is in ``count`` nodes."""
    return 1 / (1 + math.log(max(1.0, count)))


def definitions_of(view: View, name: str, *, language: str) -> list[NodeName]:
    """Return the first node of each definition that a name can mean; of a class the header, of overloads one."""
    numbers, _ = view.with_all_words(name, field="symbol", top_k=_DEFINITIONS)
    nodes = [
        node
        for node in view.reading.names(_numbered(numbers))
        if name in _names_in(node) and _can_use(language, node.language)
    ]
    return list({(node.file, node.scope): node for node in reversed(nodes)}.values())[::-1]


def _texts_with(view: View, name: str, *, limit: int) -> tuple[dict[int, str], float]:
    """Return texts that have a name as a whole identifier, and how many have it, estimated if there are too many."""
    numbers, with_words = view.with_all_words(name, field="body", top_k=_SEARCHED * limit)
    texts: dict[int, str] = {}
    searched = len(numbers)
    for read, (number, text) in enumerate(view.reading.texts(numbers, containing=name), start=1):
        if has_name(text, name):
            texts[number] = text
        if len(texts) == limit or read == _READ * limit:
            searched = numbers.index(number) + 1
            break
    return texts, len(texts) * with_words / max(1, searched)


def _can_use(language: str, other: str) -> bool:
    """Return whether code of a language can use definitions of another one; documents mention code of all."""
    if language == other or other in _SCHEMAS or not {language, other} <= set(CODE_LANGUAGES):
        return True
    return any({language, other} <= family for family in _FAMILIES)


def _names_in(node: NodeName) -> list[str]:
    return names_of(node.symbol) if node.kind in _KINDS else []


def _identifiers(text: str) -> Iterator[str]:
    for name in _NAME.findall(text):
        yield name
        if name[-1] in "?!'":
            yield name[:-1]  # the mark may be an operator or a quote


def _use_in(text: str, name: str, node: NodeName) -> _Use | None:
    """Return how a node with this text uses a name, beyond a definition of its own.

    In a document an ordinary word is a name only if a parenthesis follows.
    """
    matches = list(_pattern(name).finditer(text))
    defined = int(node.part == 1 and name in _names_in(node))
    if len(matches) <= defined:
        return None
    is_called = sum(match[1] is not None for match in matches) > defined
    if node.language in CODE_LANGUAGES:
        return "calls" if is_called else "uses"
    is_word = name.isalpha() and name[1:] == name[1:].lower()
    return None if is_word and not is_called else "mentions"


# --- merging ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Merged:
    """A definition in one ranking or more."""

    score: float = 0.0
    reasons: list[Reason] = field(default_factory=list)
    nodes: dict[int, float] = field(default_factory=dict)
    """Its nodes that were found, and the most that each adds to the score."""


def _merge(view: View, rankings: Sequence[_Ranking], *, left_out: Collection[tuple[int, int]]) -> list[RelatedHit]:
    ids = view.reading.ids({entry.number for ranking in rankings for entry in ranking.entries})
    found: dict[tuple[int, int], _Merged] = {}
    for ranking in rankings:
        seen = set(left_out)
        for number, reason, factor in ranking.entries:
            definition = ids[number][1:]
            if definition in left_out:
                continue
            merged = found.setdefault(definition, _Merged())
            merged.nodes.setdefault(number, 0.0)
            if definition not in seen:
                seen.add(definition)
                rank = len(seen) - len(left_out)
                added = ranking.weight * factor / (RANK_CONSTANT + rank) / _LARGEST_SCORE
                merged.score += added
                merged.reasons.append(reason)
                merged.nodes[number] = max(added, merged.nodes[number])
    hits = [_hit(merged, {number: ids[number][0] for number in merged.nodes}) for merged in found.values()]
    return sorted(hits, key=lambda related: (-related.hit.score, related.hit.id))


def _hit(merged: _Merged, ids: Mapping[int, str]) -> RelatedHit:
    best = min(ids, key=lambda number: (-merged.nodes[number], ids[number]))
    others = tuple(number for number in ids if number != best)
    return RelatedHit(RankedHit(best, ids[best], merged.score, others), tuple(merged.reasons))
