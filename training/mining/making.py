"""Make pairs of definitions, and find definitions by the names that texts use for them."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from llamaindex_code_retrieval.languages.syntax import Definition
from llamaindex_code_retrieval.training.mining.files import MinedFile
from llamaindex_code_retrieval.training.mining.selection import Origin
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.repositories.code_files import is_side_path
from llamaindex_code_retrieval.training.repositories.filters import reject_code, reject_name, reject_query

MAX_CLASS_LINES = 300
_SEPARATOR = re.compile(r"::|->|[.#]")


class Place(NamedTuple):
    """A definition and where it stands."""

    origin: Origin
    definition: Definition


def make_pair(kind: str, query: str, place: Place, dropped: Counter[str], *, is_sentence: bool = True) -> Pair | None:
    """Return the pair of a query and a definition without its doc comment; none if either is rejected.

    A rejected pair is counted in ``dropped``. ``is_sentence`` tells that the query must be a description in English.
    """
    definition = place.definition
    code = textwrap.dedent(definition.code_without_docstring).strip("\n")
    reason = (reject_query(query) if is_sentence else None) or _reject_target(definition, code)
    if reason is not None:
        dropped[reason] += 1
        return None
    return Pair(
        query=query,
        code=code,
        language=place.origin.language,
        repository=place.origin.repository,
        path=place.origin.path,
        license=place.origin.license,
        kind=kind,
    )


def _reject_target(definition: Definition, code: str) -> str | None:
    if definition.kind != "class":
        return reject_code(definition, code)
    is_long = code.count("\n") >= MAX_CLASS_LINES
    return f"class over {MAX_CLASS_LINES} lines" if is_long else reject_name(definition)


class NameIndex:
    """The definitions of a repository by name; tests, examples and other files beside the code are left out."""

    def __init__(self, files: Iterable[MinedFile]) -> None:
        self._by_symbol: dict[str, list[Place]] = {}
        self._by_path: dict[str, list[Place]] = {}
        for file in files:
            if not is_side_path(file.origin.path):
                self._by_path[file.origin.path] = [Place(file.origin, definition) for definition in file.definitions]
                for place in self._by_path[file.origin.path]:
                    self._by_symbol.setdefault(place.definition.symbol, []).append(place)

    def find(self, name: str) -> Place | None:
        """Return the only definition that ``name`` can mean, such as ``total``, ``total()`` or ``Cart.total``.

        Of a method with its class, names of modules before the class are ignored. A declaration without a body counts
        only if nothing else has the name.
        """
        *owners, symbol = _SEPARATOR.split(name.removesuffix("()"))
        found = self._by_symbol.get(symbol, [])
        if owners:
            owned = [place for place in found if place.definition.scope.split(".")[-2:-1] == owners[-1:]]
            found = owned or [place for place in found if "." not in place.definition.scope]
        found = [place for place in found if not place.definition.is_prototype] or found
        return found[0] if len(found) == 1 else None

    def named_after(self, path: str) -> Place | None:
        """Return the only definition in a file whose name is that of the file, but for case, ``_`` and ``-``."""
        stem = _plain(path.rpartition("/")[2].partition(".")[0])
        found = [place for place in self._by_path.get(path, []) if _plain(place.definition.symbol) == stem]
        return found[0] if len(found) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
