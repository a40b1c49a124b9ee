"""``CodeRetriever``: rank the nodes of a ``CodeIndex`` by vectors, by words, or by both."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypedDict

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import mean_agg
from llama_index.core.callbacks import CallbackManager
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from llamaindex_code_retrieval.index.code_index import CodeIndex
from llamaindex_code_retrieval.index.embedders import AdapterGroup
from llamaindex_code_retrieval.index.filters import Condition, NodeFilter
from llamaindex_code_retrieval.index.metadata_filters import condition_of
from llamaindex_code_retrieval.index.rank import Mode, QueryVector, RankedHit, Ranking
from llamaindex_code_retrieval.index.records import annotated_node
from llamaindex_code_retrieval.index.view import View
from llamaindex_code_retrieval.ranking.fusion import BM25_WEIGHT, CANDIDATES, DENSE_WEIGHT, RANK_CONSTANT
from llamaindex_code_retrieval.ranking.model import RankingModel, default_model


class RetrieverOptions(TypedDict, total=False):
    """The options of :class:`CodeRetriever`."""

    top_k: int
    mode: Mode
    dense_weight: float
    bm25_weight: float
    candidates: int
    rank_constant: int
    ranking_model: RankingModel | str | Path | None
    explain: bool
    filters: NodeFilter | MetadataFilters | None
    callback_manager: CallbackManager | None


class CodeRetriever(BaseRetriever):
    """Retrieves the ``top_k`` nodes of an index for a query.

    ``mode`` is "dense" (cosine), "bm25" (BM25 over the words inside identifiers) or "fused" (the first ``candidates``
    of both, ranked together). Ties are broken by node id, so that two runs agree. ``filters`` restricts the search: a
    :class:`.NodeFilter`, or LlamaIndex's ``MetadataFilters`` on the metadata of nodes.

    **Fused** hits are ranked by ``ranking_model``, which weighs how well vectors, words, names, files and places fit
    the question: a :class:`.RankingModel`, a file that ``code-retrieval train-ranking`` wrote, or by default the model
    that comes with the package. With ``explain``, the metadata ``why`` of a hit says by how much each feature raises or
    lowers it. Nodes of which none has a path or symbol, such as a corpus of snippets, are ranked by weighted reciprocal
    rank fusion, and so are all if ``dense_weight``, ``bm25_weight`` or ``rank_constant`` is given.

    Of the parts of a long definition the best one is returned for all; the metadata ``also_lines`` names the lines of
    the other parts that were found.

    Where the index uses several adapters, the query is embedded by each and compared with the vectors that the same
    adapter made. Cosines of two adapters cannot be compared, so the rankings, which share no node, are fused by rank:
    in mode "dense" the first hits of all adapters come before the second ones, then the cosine and the id decide. A
    score is the cosine in mode "dense" with one adapter, BM25's in mode "bm25", a candidate's share in a softmax over
    all candidates where a model ranks, else the weighted sum of reciprocal ranks, divided by the largest possible sum.

    An ``embedding`` in the ``QueryBundle`` replaces the model's if the index uses one adapter. With several it is
    ignored, because it can be compared with the vectors of one of them only. Texts in its ``custom_embedding_strs``, as
    LlamaIndex's ``HyDEQueryTransform`` sets them, are embedded in place of the query; their mean is compared with the
    vectors, while words and names are those of the query.

    The default weights and rank constant of the fusion were chosen on CoSQA dev and on the documented functions of the
    standard library, for the embedded model. BM25 ranks much worse than the vectors on both, and the usual rank
    constant of 60, made for rankings of similar quality, costs 0.04 MRR on CoSQA.

    Raises:
        ValueError: an option out of range, one that has no effect in this mode or beside another, a ranking file that
            is not one, or a filter by a language that neither the index nor the table of languages knows.
    """

    def __init__(
        self,
        index: CodeIndex[Any],
        *,
        top_k: int = 10,
        mode: Mode = "fused",
        dense_weight: float | None = None,
        bm25_weight: float | None = None,
        candidates: int | None = None,
        rank_constant: int | None = None,
        ranking_model: RankingModel | str | Path | None = None,
        explain: bool = False,
        filters: NodeFilter | MetadataFilters | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        fusion = {"dense_weight": dense_weight, "bm25_weight": bm25_weight, "rank_constant": rank_constant}
        fuses = [name for name, value in fusion.items() if value is not None]
        if mode in ("dense", "bm25"):
            _check_only_mode(mode, fusion | {"candidates": candidates, "ranking_model": ranking_model}, explain=explain)
        elif fuses and (ranking_model is not None or explain):
            other = "explain" if ranking_model is None else "ranking_model"
            raise ValueError(
                f"{' and '.join(fuses)} asks for reciprocal rank fusion, which {other} has no part in; leave one of "
                "them out"
            )
        self.ranking = Ranking(
            top_k=top_k,
            mode=mode,
            model=None if fuses or mode != "fused" else _ranking_model(ranking_model),
            dense_weight=DENSE_WEIGHT if dense_weight is None else dense_weight,
            bm25_weight=BM25_WEIGHT if bm25_weight is None else bm25_weight,
            candidates=CANDIDATES if candidates is None else candidates,
            rank_constant=RANK_CONSTANT if rank_constant is None else rank_constant,
            explain=explain,
        )
        super().__init__(callback_manager=callback_manager)
        self.index = index
        self.filters = filters
        self._languages = None
        self._condition: Condition | None = None
        if isinstance(filters, NodeFilter):
            if filters.languages is not None:
                filters.check_languages(index.languages)
            self._languages = filters.languages
            self._condition = None if filters.is_empty else filters.where()
        elif filters is not None:
            self._condition = condition_of(filters)

    @property
    def top_k(self) -> int:
        """Number of hits."""
        return self.ranking.top_k

    @property
    def mode(self) -> Mode:
        """How nodes are ranked."""
        return self.ranking.mode

    def embed_query(self, query: str) -> list[list[float]]:
        """Return the query's vector by each adapter in use, for :meth:`rank`; none in mode "bm25"."""
        return [group.embedder.get_query_embedding(query) for group in self._groups()]

    def rank(self, query: str, vectors: Sequence[list[float]]) -> list[tuple[str, float]]:
        """Return ids and scores of the ``top_k`` best nodes, without building the nodes.

        Raises:
            ValueError: not one vector for each adapter in use, as when the index was updated after the embedding.
        """
        with self._view() as view:
            groups = self._groups(view)
            if len(vectors) != len(groups):
                raise ValueError(f"rank needs the query's vector by {len(groups)} adapters in use, got {len(vectors)}")
            return [(hit.id, hit.score) for hit in self._rank(view, groups, query, vectors)]

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = query_bundle.query_str
        while True:
            groups = self._groups()
            vectors = _given_vectors(query_bundle, groups)
            if vectors is None:
                texts = _embedded_texts(query_bundle)
                vectors = [_mean(map(group.embedder.get_query_embedding, texts)) for group in groups]
            hits = self._hits(groups, query, vectors)
            if hits is not None:
                return hits

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = query_bundle.query_str
        while True:
            groups = await asyncio.to_thread(self._groups)
            vectors = _given_vectors(query_bundle, groups)
            if vectors is None:
                texts = _embedded_texts(query_bundle)
                vectors = await asyncio.gather(*[_amean(group, texts) for group in groups])
            hits = await asyncio.to_thread(self._hits, groups, query, vectors)
            if hits is not None:
                return hits

    def _view(self) -> AbstractContextManager[View]:
        return self.index.view(words=self.mode != "dense")

    def _groups(self, view: View | None = None) -> list[AdapterGroup]:
        return [] if self.mode == "bm25" else self.index.adapter_groups(view, languages=self._languages)

    def _hits(
        self, groups: Sequence[AdapterGroup], query: str, vectors: Sequence[Sequence[float]]
    ) -> list[NodeWithScore] | None:
        """Return the hits; ``None`` if other adapters have come into use since the query was embedded."""
        with self._view() as view:
            if [group.fingerprint for group in self._groups(view)] != [group.fingerprint for group in groups]:
                return None
            hits = self._rank(view, groups, query, vectors)
            rows = view.rows(number for hit in hits for number in (hit.number, *hit.others))
            return [
                NodeWithScore(node=annotated_node(rows[hit.number], hit.metadata(rows)), score=hit.score)
                for hit in hits
            ]

    def _rank(
        self, view: View, groups: Sequence[AdapterGroup], query: str, vectors: Sequence[Sequence[float]]
    ) -> list[RankedHit]:
        has_several = len(view.models) > 1
        by_model = [
            QueryVector(group.fingerprint if has_several else None, vector)
            for group, vector in zip(groups, vectors, strict=True)
        ]
        nearest = self.index.nearest_in(view)
        return self.ranking.rank(view, query, by_model, condition=self._condition, nearest=nearest)


def _check_only_mode(mode: Mode, options: Mapping[str, object], *, explain: bool) -> None:
    """Refuse what has no effect in the modes that rank by one score."""
    without_effect = [name for name, value in options.items() if value is not None]
    if mode == "dense" and "rank_constant" in without_effect:
        without_effect.remove("rank_constant")  # it fuses the rankings of several adapters
    if explain:
        without_effect.append("explain")
    if without_effect:
        raise ValueError(
            f"mode {mode!r} does not use {' and '.join(without_effect)}; leave that out, or use mode 'fused'"
        )


def _ranking_model(model: RankingModel | str | Path | None) -> RankingModel:
    if model is None:
        return default_model()
    return model if isinstance(model, RankingModel) else RankingModel.load(model)


def _given_vectors(query_bundle: QueryBundle, groups: Sequence[AdapterGroup]) -> list[list[float]] | None:
    """Return the vector that the caller gave with the query, if it can be compared with all vectors of the index."""
    vector = query_bundle.embedding
    return [vector] if vector is not None and len(groups) == 1 else None


def _embedded_texts(query_bundle: QueryBundle) -> list[str]:
    """Return the texts whose mean vector stands for the query: the ``custom_embedding_strs``, or the query itself."""
    return query_bundle.custom_embedding_strs or [query_bundle.query_str]


def _mean(vectors: Iterable[list[float]]) -> list[float]:
    several = list(vectors)
    return several[0] if len(several) == 1 else mean_agg(several)


async def _amean(group: AdapterGroup, texts: Sequence[str]) -> list[float]:
    return _mean(await asyncio.gather(*map(group.embedder.aget_query_embedding, texts)))
