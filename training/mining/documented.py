"""Pairs of documented functions: the first paragraph of the doc comment asks for its function."""

from __future__ import annotations

from collections.abc import Iterator

from llamaindex_code_retrieval.training.mining.files import Counts, RepositoryFiles
from llamaindex_code_retrieval.training.mining.making import Place, make_pair
from llamaindex_code_retrieval.training.pairs import Pair
from llamaindex_code_retrieval.training.repositories.comments import summary


def documented_pairs(files: RepositoryFiles, counts: Counts) -> Iterator[Pair]:
    """Yield a pair of each function and method with a doc comment."""
    for file in files.code:
        for definition in file.definitions:
            if definition.kind != "class" and definition.docstring:
                counts.functions += 1
                place = Place(file.origin, definition)
                pair = make_pair("doc", summary(definition.docstring), place, counts.dropped)
                if pair is not None:
                    yield pair
