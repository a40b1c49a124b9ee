"""Faults that the regression gate must catch, and reruns on which it must raise no alarm.

Three good systems are measured on the documented functions of part of Python's standard library: fused retrieval with
embedded-general; the same with its first ten hits in the order of embedded-python's cosines; and the bare base with a
prompt-tuned adapter. Then eight faults are planted one at a time and compared with the good systems. Finally the good
systems run again 100 times with changes that must not matter: another order of the corpus, and noise of 0.001 in each
unit vector (about the difference of bf16 and fp32). It takes about 20 minutes on one core:

    code-retrieval train --recipe general --method prompt --pairs cosqa --out DIR
    python benchmarks/gate_faults.py --prompt-adapter DIR [--reruns 100]

Any adapter of the method ``prompt`` on the embedded base will do.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from numpy.typing import NDArray
from report import add_result_option, environment, report
from safetensors.torch import load_file, save_file
from torch import nn

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeRetriever, Encoder, FaissStore
from llamaindex_code_retrieval._io import default_cache_folder
from llamaindex_code_retrieval.cli.demo import MODULES, library_sources
from llamaindex_code_retrieval.eval import Benchmark, benchmark_index, documented_functions, evaluate_retrieval
from llamaindex_code_retrieval.eval.gate import GateRules, compare
from llamaindex_code_retrieval.eval.results import Report, RetrievalResult
from llamaindex_code_retrieval.eval.retrieval import Search, System
from llamaindex_code_retrieval.models.files import ARTIFACTS

RULES = GateRules(metrics=("MRR", "R@10"))
DEPTH = 100
RERANKED = 10

Vectors = NDArray[np.float32]
"""Unit vectors of shape ``(texts, dim)``."""


class CosineReranker(BaseNodePostprocessor):
    """Order the first ten hits by the cosines of another encoder; ``sign`` -1 is the planted fault.

    ``vectors`` holds that encoder's vector of each query by its text and of each code by its id.
    """

    vectors: dict[str, Any]
    sign: int = 1

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = self.vectors[query_bundle.query_str if query_bundle else ""]
        scored = [
            NodeWithScore(node=hit.node, score=2 + self.sign * float(query @ self.vectors[hit.node_id]))
            for hit in nodes[:RERANKED]
        ]
        return [*sorted(scored, key=lambda hit: -hit.get_score()), *nodes[RERANKED:]]


class PoolsPromptTokens(nn.Module):
    """A planted fault: the virtual tokens, which come first, are pooled in place of the last tokens of the text."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = copy(backbone.config)
        self.config._attn_implementation = "sdpa"  # packed attention knows no virtual tokens

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Return the first positions, as many as the text has."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return SimpleNamespace(last_hidden_state=hidden[:, : input_ids.shape[1]])


def write_reversed_adapter(adapter: Path, folder: Path) -> Path:
    """Write a copy of an adapter with its layers in reverse order and return ``folder``: a planted fault."""
    shutil.copytree(adapter, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    names = sorted({name.split(".layer.")[1].split(".")[0] for name in weights if ".layer." in name}, key=int)
    opposite = dict(zip(names, reversed(names), strict=True))
    reordered = {}
    for name, tensor in weights.items():
        before, _, rest = name.partition(".layer.")
        layer, _, tail = rest.partition(".")
        reordered[f"{before}.layer.{opposite[layer]}.{tail}" if rest else name] = tensor
    save_file(reordered, folder / "adapter_model.safetensors")
    return folder


def dense(codes: Vectors, queries: Vectors, benchmark: Benchmark) -> Search:
    """Return a search by cosine over the vectors of the benchmark's codes and queries."""
    ids = list(benchmark.corpus)
    vectors = dict(zip(benchmark.queries.values(), queries, strict=True))

    def search(query: str) -> list[tuple[str, float]]:
        cosines = codes @ vectors[query]
        order = np.argsort(-cosines, kind="stable")[:DEPTH]
        return [(ids[i], float(cosines[i])) for i in order]

    return search


class Systems:
    """The good systems, the same with one fault each, and the same with changes that must not matter."""

    def __init__(self, benchmark: Benchmark, prompt_adapter: Path) -> None:
        self.benchmark = benchmark
        self.texts = list(benchmark.corpus.values()), list(benchmark.queries.values())
        self.cache = default_cache_folder()
        self.general = CodeEmbedding(adapter="embedded-general", cache_folder=self.cache)
        self.index = benchmark_index(benchmark, self.general)
        python = CodeEmbedding(adapter="embedded-python", cache_folder=self.cache)
        self.reranking_vectors: dict[str, Any] = dict(zip(benchmark.corpus, self._codes(python), strict=True))
        self.reranking_vectors.update(zip(self.texts[1], self._queries(python), strict=True))
        prompted = Encoder.from_pretrained("embedded", adapter=str(prompt_adapter))
        self.prompt = prompted.encode_codes(self.texts[0]), prompted.encode_queries(self.texts[1])
        broken = prompted.with_backbone(lambda _: PoolsPromptTokens(prompted.backbone))
        self.mispooled = broken.encode_codes(self.texts[0]), broken.encode_queries(self.texts[1])

    def _codes(self, embedding: CodeEmbedding) -> Vectors:
        return np.asarray(embedding.embed_codes(self.texts[0], [""] * len(self.texts[0])))

    def _queries(self, embedding: CodeEmbedding) -> Vectors:
        return np.asarray([embedding.get_query_embedding(text) for text in self.texts[1]])

    def measure(
        self,
        *,
        fused: System | None = None,
        reranker: CosineReranker | None = None,
        prompt: tuple[Vectors, Vectors] | None = None,
    ) -> Report:
        """Measure the three systems; those that are given take the place of the good ones."""
        fused = fused or CodeRetriever(self.index, top_k=DEPTH)
        reranker = reranker or CosineReranker(vectors=self.reranking_vectors)
        codes, queries = prompt or self.prompt
        prompted = dense(codes, queries, self.benchmark)
        made = environment()
        return Report(
            suite="faults",
            date=made["date"],
            machine=made["machine"],
            versions=made["versions"],
            retrieval=[
                self._evaluate("fused", fused),
                self._evaluate("reranked", CodeRetriever(self.index, top_k=DEPTH), [reranker]),
                self._evaluate("prompt-tuned", prompted),
            ],
        )

    def _evaluate(
        self, name: str, system: System, postprocessors: Sequence[BaseNodePostprocessor] = ()
    ) -> RetrievalResult:
        return evaluate_retrieval(
            lambda _: system, self.benchmark, system=name, depth=DEPTH, postprocessors=postprocessors
        )

    def faults(self, folder: Path) -> dict[str, Callable[[], Report]]:
        """Return by name of each fault a function that measures the systems with it."""
        rng = random.Random(0)
        corpus = self.benchmark.corpus
        shuffled = list(corpus.values())
        rng.shuffle(shuffled)
        # A tenth of the functions is missing in the stale index, and a tenth has the code of another one.
        stale: dict[str, str] = {}
        for id_, code in corpus.items():
            chance = rng.random()
            if chance >= 0.1:
                stale[id_] = code if chance >= 0.2 else shuffled[len(stale)]
        bare = CodeEmbedding(adapter="none", cache_folder=self.cache)

        def retriever(embedding: CodeEmbedding, codes: dict[str, str], **settings: Any) -> CodeRetriever:
            index = CodeIndex(embedding)
            index.update_nodes(_nodes(codes))
            return CodeRetriever(index, top_k=DEPTH, **settings)

        def other_query_encoder(query: str) -> list[tuple[str, float]]:
            """Search the codes of the adapter with the query vector of the bare base."""
            return CodeRetriever(self.index, top_k=DEPTH).rank(query, [bare.get_query_embedding(query)])

        wrong = CodeEmbedding(
            adapter=str(write_reversed_adapter(ARTIFACTS / "embedded-general", folder / "wrong")),
            cache_folder=self.cache,
        )
        short = CodeEmbedding(adapter="embedded-general", max_code_tokens=16, cache_folder=self.cache)
        shuffled_ids = dict(zip(corpus, shuffled, strict=True))
        inverted = CosineReranker(vectors=self.reranking_vectors, sign=-1)
        return {
            "wrong adapter": lambda: self.measure(fused=retriever(wrong, dict(corpus))),
            "query encoder of another model": lambda: self.measure(fused=other_query_encoder),
            "shuffled corpus ids": lambda: self.measure(fused=retriever(self.general, shuffled_ids)),
            "codes cut at 16 tokens": lambda: self.measure(fused=retriever(short, dict(corpus))),
            "BM25 weight 0": lambda: self.measure(fused=CodeRetriever(self.index, top_k=DEPTH, bm25_weight=0.0)),
            "prompt tokens pooled": lambda: self.measure(prompt=self.mispooled),
            "stale index": lambda: self.measure(fused=retriever(self.general, stale)),
            "reranker inverted": lambda: self.measure(reranker=inverted),
        }

    def rerun(self, seed: int) -> Report:
        """Measure the good systems with the order of the corpus and the noise that ``seed`` determines."""
        rng = np.random.default_rng(seed)
        ids = list(self.benchmark.corpus)
        rng.shuffle(ids)
        corpus = {id_: self.benchmark.corpus[id_] for id_ in ids}

        def noisy(vectors: Vectors) -> Vectors:
            noise = rng.normal(size=vectors.shape)
            changed = vectors + 1e-3 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
            return np.asarray(changed / np.linalg.norm(changed, axis=1, keepdims=True))

        vectors = noisy(self._codes(self.general))
        store = FaissStore(self.general.dim)
        index = CodeIndex(self.general, vector_store=store)
        index.update_nodes(_nodes(corpus))
        store.delete_nodes(list(corpus))
        store.add_vectors(list(self.benchmark.corpus), vectors.astype(np.float32), list(self.benchmark.corpus))
        query_vectors = dict(zip(self.texts[1], noisy(self._queries(self.general)), strict=True))
        retriever = CodeRetriever(index, top_k=DEPTH)
        keys = list(self.reranking_vectors)
        reranking_vectors = dict(zip(keys, noisy(np.stack([self.reranking_vectors[key] for key in keys])), strict=True))
        return self.measure(
            fused=lambda query: retriever.rank(query, [query_vectors[query].tolist()]),
            reranker=CosineReranker(vectors=reranking_vectors),
            prompt=(noisy(self.prompt[0]), noisy(self.prompt[1])),
        )


def _nodes(codes: Mapping[str, str]) -> list[TextNode]:
    return [
        TextNode(id_=id_, text=code, metadata={"path": id_}, excluded_embed_metadata_keys=["path"])
        for id_, code in codes.items()
    ]


def caught_faults(systems: Systems, baseline: Report) -> dict[str, dict[str, Any]]:
    """Return by fault whether the gate caught it, and the metric with the largest drop."""
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for fault, measure in systems.faults(Path(folder)).items():
            comparisons = compare(measure(), baseline, RULES)
            worst = min(comparisons, key=lambda each: (not each.regression, each.difference))
            results[fault] = {
                "caught": any(each.regression for each in comparisons),
                "by": f"{worst.metric} of {worst.system}",
                "before": round(worst.before, 4),
                "after": round(worst.after, 4),
                "p": round(worst.p_worse, 4),
            }
            print(fault, results[fault], file=sys.stderr, flush=True)
    return results


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompt-adapter", type=Path, required=True, metavar="FOLDER", help="a prompt-tuned adapter")
    parser.add_argument("--reruns", type=int, default=100, help="reruns of the good systems (default: %(default)s)")
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    start = time.perf_counter()
    benchmark = documented_functions(library_sources(MODULES).items(), name="standard library")
    systems = Systems(benchmark, options.prompt_adapter)
    baseline = systems.measure()
    faults = caught_faults(systems, baseline)
    alarms = 0
    for seed in range(options.reruns):
        alarms += any(each.regression for each in compare(systems.rerun(seed), baseline, RULES))
        print(f"rerun {seed + 1}: {alarms} false alarms", file=sys.stderr, flush=True)
    report(
        options.result,
        {
            "rules": {"metrics": RULES.metrics, "tolerance": RULES.tolerance, "alpha": RULES.alpha},
            "codes": len(benchmark.corpus),
            "queries": len(benchmark.queries),
            "baseline": {
                each.system: {metric: round(each.means[metric], 4) for metric in RULES.metrics}
                for each in baseline.retrieval
            },
            "faults": faults,
            "caught": sum(fault["caught"] for fault in faults.values()),
            "reruns": options.reruns,
            "false_alarms": alarms,
            "seconds": round(time.perf_counter() - start),
        },
    )


if __name__ == "__main__":
    main()
