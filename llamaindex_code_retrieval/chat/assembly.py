"""Assemble passages: one a definition, with what a reader needs to understand it, within a budget of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from llamaindex_code_retrieval.chat.files import Definition, HitFiles
from llamaindex_code_retrieval.chat.passages import Passage, Range, passage_of
from llamaindex_code_retrieval.chat.stubs import declared_names
from llamaindex_code_retrieval.index.related import has_name

_IMPORT_LINES = 6
_DECLARATIONS = 2
"""Functions that stand for a hit of declarations, if it declares several and the question names some."""
_CALLERS, _CALLED = 3, 2
"""Best passages whose calls are followed, and functions and classes that are added for them."""
_SHARE = 2
"""A passage with parts that were not found takes at most half of the tokens that are left."""
_LEAST_LINES = 3
"""A passage that is cut has at least so many lines."""


@dataclass(slots=True)
class Draft:
    """A definition that was found, with the lines of it that were found; or a text whose lines are not known."""

    source: TextNode
    score: float | None
    definition: Definition | None = None
    found: set[int] = field(default_factory=set)


def drafts_of(hits: Sequence[NodeWithScore], files: HitFiles, question: str) -> list[Draft]:
    """Return one draft a definition, in the order of the best hits; declarations stand for what they declare."""
    drafts: dict[object, Draft] = {}
    for hit in hits:
        if not isinstance(hit.node, TextNode):
            continue
        definition = files.definition_of(hit.node)
        if definition is None:
            drafts.setdefault(hit.node_id, Draft(hit.node, hit.score))
            continue
        for found, lines in _meant(hit.node, definition, files, question):
            key = (found.outline.path, found.id)
            drafts.setdefault(key, Draft(found.source, hit.score, found)).found |= lines
    return list(drafts.values())


def _meant(
    node: TextNode, definition: Definition, files: HitFiles, question: str
) -> Iterator[tuple[Definition, set[int]]]:
    """Yield the definitions that a hit means, with their lines that are found: its own, or those that it declares."""
    chunk = definition.outline.chunks[node.node_id]
    names = declared_names(node.text, definition.outline.language)
    if chunk.kind in ("function", "method"):  # a documented prototype, if it has no body
        names = [name for name in names if name == chunk.symbol and "{" not in node.text]
    elif len(names) > 1:
        names = [name for name in names if has_name(question, name)][:_DECLARATIONS]
    declared = [found for name in names if (found := files.declared(definition, name)) is not None]
    if declared:
        for found in declared:
            yield found, set(found.outline.chunks[found.source.node_id].numbers)
    else:
        yield definition, {*chunk.numbers, *_also_found(node, definition)}


def _also_found(node: TextNode, definition: Definition) -> set[int]:
    """Return the lines of the other parts of the definition for which the hit stands."""
    also = str(node.metadata.get("also_lines", "")).split(", ")
    parts = definition.outline.parts_of(definition.id)
    return {number for part in parts if f"{part.first}-{part.last}" in also for number in part.numbers}


def add_called(drafts: Sequence[Draft], files: HitFiles, question: str) -> list[Draft]:
    """Return the drafts, and behind the best ones what they call; what the question names comes first."""
    used = [row for draft in drafts[:_CALLERS] if draft.definition for row in files.used_by(draft.definition)]
    used.sort(key=lambda row: not has_name(question, str(row.metadata.get("symbol"))))
    known = {(draft.definition.outline.path, draft.definition.id) for draft in drafts if draft.definition}
    called: list[Draft] = []
    for row in used:
        found = files.indexed(row.path, row.id) if len(called) < _CALLED else None
        if found is not None and (found.outline.path, found.id) not in known:
            known.add((found.outline.path, found.id))
            called.append(Draft(found.source, None, found, set(found.outline.chunks[row.id].numbers)))
    return [*drafts[:_CALLERS], *called, *drafts[_CALLERS:]]


class Budget:
    """Takes the passages of drafts as long as they fit into ``max_tokens``.

    Of a definition the first of these is quoted that fits: the whole with the imports that it uses and the header of
    its class; the same without imports; the lines that were found with the signatures of function and class; these
    lines, cut at the end of a line. Parts that were not found are quoted only if the passage takes at most half of what
    is left. Headers and imports that a passage of the same file has quoted are not repeated, but for signatures. Only
    one passage is cut, and not to under three lines; what does not fit is left out, and so is what other passages
    quote.
    """

    def __init__(self, max_tokens: int, count: Callable[[str], int]) -> None:
        self.passages: list[NodeWithScore] = []
        self._left = max_tokens
        self._count = count
        self._has_cut = False
        self._quoted: dict[str, set[int]] = {}

    def take(self, draft: Draft) -> None:
        """Add the passage of a draft if it fits."""
        definition = draft.definition
        if definition is None:
            node = draft.source
            self._add_if_fits(draft, passage_of(node.metadata, node.text, fallback=node.node_id), set())
            return
        outline = definition.outline
        quoted = self._quoted.setdefault(outline.path, set())
        if draft.found <= quoted:
            return
        body = outline.body(definition.id)
        for lines in _variants(draft, definition, body, quoted):
            most = self._left // _SHARE if lines >= body > draft.found else self._left
            if self._add_if_fits(draft, _passage(draft, definition, lines), lines, most=most):
                return
        if not self._has_cut:
            self._cut(draft, definition)

    def _cut(self, draft: Draft, definition: Definition) -> None:
        lines = sorted(draft.found)
        low, high = 0, len(lines) - 1
        while low < high:  # the most lines that fit
            middle = (low + high + 1) // 2
            passage = _passage(draft, definition, lines[:middle], is_cut=True)
            low, high = (middle, high) if self._tokens(passage, draft) <= self._left else (low, middle - 1)
        if low >= _LEAST_LINES:
            self._has_cut = True
            cut = lines[:low]
            self._add_if_fits(draft, _passage(draft, definition, cut, is_cut=True), set(cut))

    def _add_if_fits(self, draft: Draft, passage: Passage, lines: set[int], *, most: int | None = None) -> bool:
        tokens = self._tokens(passage, draft)
        if tokens > (self._left if most is None else most):
            return False
        self._left -= tokens
        self._quoted.setdefault(passage.path, set()).update(lines)
        node = passage.node(len(self.passages) + 1, draft.source)
        self.passages.append(NodeWithScore(node=node, score=draft.score))
        return True

    def _tokens(self, passage: Passage, draft: Draft) -> int:
        node = passage.node(len(self.passages) + 1, draft.source)
        return self._count(node.get_content(MetadataMode.LLM) + "\n\n")


def _variants(draft: Draft, definition: Definition, body: set[int], quoted: set[int]) -> Iterator[set[int]]:
    """Yield sets of lines of a definition's file, the best first."""
    outline, id_ = definition.outline, definition.id
    headers = outline.headers(id_) if id_ in outline.chunks else []
    signatures = {number for signature, _ in headers for number in signature}
    header = signatures | {number for _, whole in headers[:1] for number in whole - quoted}
    text = "\n".join(outline.lines.get(number, "") for number in sorted(body))
    imports = [number for number in outline.imports(text) if number not in quoted and number not in body]
    yield header | body | set(imports[:_IMPORT_LINES])
    yield header | body
    yield signatures | outline.signature(id_) | draft.found
    yield draft.found


def _passage(draft: Draft, definition: Definition, lines: set[int] | list[int], *, is_cut: bool = False) -> Passage:
    outline = definition.outline
    scope = str(draft.source.metadata.get("scope") or "")
    own = sorted(outline.body(definition.id).intersection(lines))
    return Passage.of_lines(
        outline.path,
        outline.lines,
        lines,
        is_cut=is_cut,
        scope=scope,
        language=outline.language,
        own=Range(own[0], own[-1]),
    )
