"""Search one state of an index by a question, without LlamaIndex, which takes long to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from llamaindex_code_retrieval.index.filters import NodeFilter
from llamaindex_code_retrieval.index.folder import rebuild_command
from llamaindex_code_retrieval.index.rank import QueryVector, Ranking
from llamaindex_code_retrieval.index.view import View
from llamaindex_code_retrieval.models.catalog import Runtime
from llamaindex_code_retrieval.models.short_vectors import short_fingerprint, shortened

_SETTINGS = (
    *("model_name", "adapter", "adapters", "pooling", "max_query_tokens", "max_code_tokens", "merge_adapter"),
    "dimensions",
)
"""What an index saves of the model that a search loads."""


class FoundNode(NamedTuple):
    """A node that a search found."""

    id: str
    score: float
    metadata: dict[str, Any]
    """Those of the node, with what :meth:`.RankedHit.metadata` adds."""
    text: str


class QuestionEncoder(Protocol):
    """A model that embeds questions: an encoder, or a query encoder in its place."""

    def encode_queries(self, queries: list[str]) -> NDArray[np.float32]:
        """Return unit vectors of shape ``(queries, dim)``."""


@dataclass(frozen=True, slots=True)
class QuestionModel:
    """What embeds questions for an index: an encoder for each model that made its vectors, by fingerprint."""

    fingerprint: str
    """Of the model with all its adapters."""
    encoders: Mapping[str, QuestionEncoder]
    dimensions: int | None = None
    """Length to which their vectors are cut."""

    @classmethod
    def load(
        cls,
        settings: Mapping[str, Any],
        *,
        fast_query: str | None = None,
        device: str | None = None,
        runtime: Runtime = "auto",
    ) -> Self:
        """Load the model of the index with these ``settings``, or the query encoder ``fast_query`` in its place.

        Raises:
            ValueError: see :meth:`.AdapterSet.load` and :meth:`.QueryEncoder.load_for`.
        """
        from llamaindex_code_retrieval.models.adapter_set import AdapterSet, AdapterSettings, LazyAdapterSet
        from llamaindex_code_retrieval.models.query_encoder import QueryEncoder

        saved = settings["embedding"]
        known = {name: saved[name] for name in _SETTINGS if saved.get(name) is not None}
        dimensions = saved.get("dimensions")
        if fast_query is None:
            loaded = AdapterSet.load(AdapterSettings(**known, device=device, runtime=runtime))
            encoders = {short_fingerprint(each.fingerprint, dimensions): each for each in loaded.encoders.values()}
            return cls(loaded.settings.fingerprint or "", encoders, dimensions)
        fingerprint = settings["fingerprint"]
        teachers = AdapterSettings(**known, device=device, runtime=runtime, fingerprint=fingerprint)
        student = QueryEncoder.load_for(fast_query, teachers=LazyAdapterSet(teachers))
        return cls(fingerprint, {short_fingerprint(student.teacher, dimensions): student}, dimensions)

    def check(self, settings: Mapping[str, Any], folder: Path) -> None:
        """Check that the model is the one that the index in ``folder`` was built with.

        Raises:
            ValueError: it is another one; the message says how to build the index again.
        """
        if self.fingerprint != settings["fingerprint"]:
            raise ValueError(
                f"the index in {folder} was built by model {settings['embedding'].get('model_name')!r} with "
                f"fingerprint {settings['fingerprint']}, but this model has fingerprint {self.fingerprint}; rebuild it "
                f"with: {rebuild_command(folder, settings)}"
            )

    def vectors(self, question: str, view: View) -> list[QueryVector]:
        """Return the question's vector by each model that made vectors of ``view``.

        Raises:
            ValueError: the index has vectors of a model that is not among the encoders.
        """
        several = len(view.models) > 1
        missing = view.models.keys() - self.encoders.keys()
        if missing:
            raise ValueError(
                f"the index has vectors of a model with fingerprint {min(missing)}, which is not loaded (loaded are "
                f"{', '.join(sorted(self.encoders))}); update the index, or search without a query encoder"
            )
        vectors = {
            model: shortened(self.encoders[model].encode_queries([question]), self.dimensions)[0].tolist()
            for model in view.models
        }
        return [QueryVector(model if several else None, vector) for model, vector in vectors.items()]


def search(
    view: View, question: str, model: QuestionModel | None, *, ranking: Ranking, node_filter: NodeFilter
) -> list[FoundNode]:
    """Return the best nodes of ``view`` that pass a filter; ``model`` is ``None`` where words alone are searched.

    Raises:
        ValueError: a filter by a language that neither the index nor the table of languages knows; see also
            :meth:`QuestionModel.vectors`.
    """
    if node_filter.languages is not None:
        node_filter.check_languages(view.reading.languages())
    condition = None if node_filter.is_empty else node_filter.where()
    vectors = [] if model is None else model.vectors(question, view)
    ranked = ranking.rank(view, question, vectors, condition=condition)
    rows = view.rows(number for hit in ranked for number in (hit.number, *hit.others))
    return [FoundNode(hit.id, hit.score, hit.metadata(rows), rows[hit.number].text) for hit in ranked]
