"""Does the gate see what is broken, and keep quiet about what is not?

Three good systems are measured on the documented functions of part of Python's standard library: fused retrieval with
embedded-general, the same with its first ten hits put in the order of embedded-python's cosines, and the bare base with
a prompt-tuned adapter. Then eight faults are planted one by one, and the gate is asked. Then the same systems run again
100 times with what must not matter drawn anew: the order of the corpus, and noise of 0.001 in each unit vector (bf16
against fp32 is about that).

    python benchmarks/gate_faults.py --prompt-adapter DIR [--reruns 100]

Any adapter of `code-retrieval train --method prompt` on the embedded base will do.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from safetensors.torch import load_file, save_file
from torch import nn

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeRetriever, Encoder, FaissStore
from llamaindex_code_retrieval.cache import default_cache_folder
from llamaindex_code_retrieval.cli.demo import MODULES
from llamaindex_code_retrieval.eval.datasets import Benchmark, documented_functions
from llamaindex_code_retrieval.eval.gate import GateRules, compare
from llamaindex_code_retrieval.eval.results import Report, RetrievalResult
from llamaindex_code_retrieval.eval.retrieval import Search, System, benchmark_index, evaluate_retrieval
from llamaindex_code_retrieval.index.sources import Skips, walk
from llamaindex_code_retrieval.models.files import ARTIFACTS

RULES = GateRules(metrics=("MRR", "R@10"))
DEPTH = 100


def standard_library() -> Benchmark:
    """Return the demo's benchmark."""
    library = Path(sysconfig.get_path("stdlib"))
    wanted = set(MODULES)
    return documented_functions(
        (
            (file.path, file.text)
            for file in walk(library, Skips())
            if file.path.split("/", 1)[0].removesuffix(".py") in wanted and "/test" not in file.path
        ),
        name="standard library",
    )


class CosineReranker(BaseNodePostprocessor):
    """Put the first ten hits in the order of another encoder's cosines; ``sign`` -1 is the planted fault."""

    vectors: dict[str, Any]
    sign: int = 1

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = self.vectors[query_bundle.query_str if query_bundle else ""]
        scored = [
            NodeWithScore(node=hit.node, score=2 + self.sign * float(query @ self.vectors[hit.node_id]))
            for hit in nodes[:10]
        ]
        return [*sorted(scored, key=lambda hit: -hit.get_score()), *nodes[10:]]


class PoolsPromptTokens(nn.Module):
    """What goes wrong when pooling forgets the virtual tokens: the first positions are taken for the text's."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.backbone, self.config = body, body.config

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Return as many positions as the text has, from the first on."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return SimpleNamespace(last_hidden_state=hidden[:, : input_ids.shape[1]])


def damaged(adapter: Path, folder: Path) -> Path:
    """Write an adapter whose layers stand in reverse order: right in shape, wrong in all else."""
    shutil.copytree(adapter, folder)
    weights = load_file(folder / "adapter_model.safetensors")
    names = sorted({name.split(".layer.")[1].split(".")[0] for name in weights if ".layer." in name}, key=int)
    other = dict(zip(names, reversed(names), strict=True))
    turned = {}
    for name, tensor in weights.items():
        before, _, rest = name.partition(".layer.")
        layer, _, tail = rest.partition(".")
        turned[f"{before}.layer.{other[layer]}.{tail}" if rest else name] = tensor
    save_file(turned, folder / "adapter_model.safetensors")
    return folder


def dense(codes: np.ndarray, queries: np.ndarray, benchmark: Benchmark) -> Search:
    """Return a search by cosine over vectors that are there."""
    ids = list(benchmark.corpus)
    found = dict(zip(benchmark.queries.values(), queries, strict=True))

    def search(query: str) -> list[tuple[str, float]]:
        cosines = codes @ found[query]
        order = np.argsort(-cosines, kind="stable")[:DEPTH]
        return [(ids[i], float(cosines[i])) for i in order]

    return search


class Bench:
    """The good systems and the broken ones."""

    def __init__(self, benchmark: Benchmark, prompt_adapter: Path) -> None:
        self.benchmark = benchmark
        self.texts = list(benchmark.corpus.values()), list(benchmark.queries.values())
        self.cache = default_cache_folder()
        self.general = CodeEmbedding(adapter="embedded-general", cache_folder=self.cache)
        self.index = benchmark_index(benchmark, self.general)
        python = CodeEmbedding(adapter="embedded-python", cache_folder=self.cache)
        self.second: dict[str, Any] = dict(zip(benchmark.corpus, self._codes(python), strict=True))
        self.second.update(zip(self.texts[1], self._queries(python), strict=True))
        prompted = Encoder.from_pretrained("embedded", adapter=str(prompt_adapter))
        self.prompt = prompted.encode_codes(self.texts[0]), prompted.encode_queries(self.texts[1])
        broken = prompted.with_backbone(lambda _: PoolsPromptTokens(prompted.backbone))
        self.mispooled = broken.encode_codes(self.texts[0]), broken.encode_queries(self.texts[1])

    def _codes(self, embedding: CodeEmbedding) -> np.ndarray:
        return np.asarray(embedding.embed_codes(self.texts[0], [""] * len(self.texts[0])))

    def _queries(self, embedding: CodeEmbedding) -> np.ndarray:
        return np.asarray([embedding.get_query_embedding(text) for text in self.texts[1]])

    def report(
        self,
        *,
        fused: System | None = None,
        reranker: CosineReranker | None = None,
        prompt: tuple[np.ndarray, np.ndarray] | None = None,
        benchmark: Benchmark | None = None,
    ) -> Report:
        """Measure the three systems, with some of them exchanged."""
        fused = fused or CodeRetriever(self.index, top_k=DEPTH)
        reranker = reranker or CosineReranker(vectors=self.second)
        prompted = dense(*(prompt or self.prompt), benchmark or self.benchmark)
        return Report(
            suite="faults",
            date=date.today().isoformat(),
            machine="",
            versions={},
            retrieval=[
                self._measured("fused", fused),
                self._measured("reranked", CodeRetriever(self.index, top_k=DEPTH), [reranker]),
                self._measured("prompt-tuned", prompted),
            ],
        )

    def _measured(
        self, name: str, system: System, postprocessors: Sequence[BaseNodePostprocessor] = ()
    ) -> RetrievalResult:
        return evaluate_retrieval(
            lambda _: system, self.benchmark, system=name, depth=DEPTH, postprocessors=postprocessors
        )

    def faults(self, folder: Path) -> dict[str, Callable[[], Report]]:
        """Return the eight, by name."""
        rng = random.Random(0)
        corpus = self.benchmark.corpus
        shuffled = list(corpus.values())
        rng.shuffle(shuffled)
        # An old index: a tenth of the functions is not in it yet, a tenth has its neighbour's code.
        old: dict[str, str] = {}
        for id_, code in corpus.items():
            chance = rng.random()
            if chance >= 0.1:
                old[id_] = code if chance >= 0.2 else shuffled[len(old)]
        bare = CodeEmbedding(adapter="none", cache_folder=self.cache)

        def retriever(embedding: CodeEmbedding, codes: dict[str, str], **settings: Any) -> CodeRetriever:
            index = CodeIndex(embedding)
            index.update_nodes(_nodes(codes))
            return CodeRetriever(index, top_k=DEPTH, **settings)

        def swapped(query: str) -> list[tuple[str, float]]:
            """Search with the bare base's query vector among the adapter's codes."""
            return CodeRetriever(self.index, top_k=DEPTH).rank(query, [bare.get_query_embedding(query)])

        wrong = CodeEmbedding(
            adapter=str(damaged(ARTIFACTS / "embedded-general", folder / "wrong")), cache_folder=self.cache
        )
        short = CodeEmbedding(adapter="embedded-general", max_code_tokens=16, cache_folder=self.cache)
        names = dict(zip(corpus, shuffled, strict=True))
        inverted = CosineReranker(vectors=self.second, sign=-1)
        return {
            "wrong adapter": lambda: self.report(fused=retriever(wrong, dict(corpus))),
            "query encoder of another model": lambda: self.report(fused=swapped),
            "shuffled corpus ids": lambda: self.report(fused=retriever(self.general, names)),
            "codes cut at 16 tokens": lambda: self.report(fused=retriever(short, dict(corpus))),
            "BM25 weight 0": lambda: self.report(fused=CodeRetriever(self.index, top_k=DEPTH, bm25_weight=0.0)),
            "prompt tokens pooled": lambda: self.report(prompt=self.mispooled),
            "stale index": lambda: self.report(fused=retriever(self.general, old)),
            "reranker inverted": lambda: self.report(reranker=inverted),
        }

    def rerun(self, seed: int) -> Report:
        """Measure the good systems with another order of the corpus and other noise."""
        rng = np.random.default_rng(seed)
        ids = list(self.benchmark.corpus)
        rng.shuffle(ids)
        corpus = {id_: self.benchmark.corpus[id_] for id_ in ids}

        def noisy(vectors: np.ndarray) -> np.ndarray:
            noise = rng.normal(size=vectors.shape)
            found = vectors + 1e-3 * noise / np.linalg.norm(noise, axis=1, keepdims=True)
            return found / np.linalg.norm(found, axis=1, keepdims=True)

        vectors = noisy(self._codes(self.general))
        store = FaissStore(self.general.dim)
        store.add_vectors(list(self.benchmark.corpus), vectors.astype(np.float32), list(self.benchmark.corpus))
        index = CodeIndex(self.general)
        index.update_nodes(_nodes(corpus))
        with tempfile.TemporaryDirectory() as folder:
            index.save(folder)
            index = CodeIndex.load(folder, embedding=self.general, vector_store=store)
        asked = dict(zip(self.texts[1], noisy(self._queries(self.general)), strict=True))
        retriever = CodeRetriever(index, top_k=DEPTH)
        keys = list(self.second)
        second = dict(zip(keys, noisy(np.stack([self.second[key] for key in keys])), strict=True))
        return self.report(
            fused=lambda query: retriever.rank(query, [asked[query].tolist()]),
            reranker=CosineReranker(vectors=second),
            prompt=(noisy(self.prompt[0]), noisy(self.prompt[1])),
        )


def _nodes(codes: Mapping[str, str]) -> list[TextNode]:
    return [
        TextNode(id_=id_, text=code, metadata={"path": id_}, excluded_embed_metadata_keys=["path"])
        for id_, code in codes.items()
    ]


def main() -> None:
    """Plant, rerun, and write the result beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt-adapter", type=Path, required=True)
    parser.add_argument("--reruns", type=int, default=100)
    options = parser.parse_args()
    started = time.perf_counter()
    bench = Bench(standard_library(), options.prompt_adapter)
    baseline = bench.report()
    result: dict[str, Any] = {
        "date": date.today().isoformat(),
        "rules": {"metrics": RULES.metrics, "tolerance": RULES.tolerance, "alpha": RULES.alpha},
        "codes": len(bench.benchmark.corpus),
        "queries": len(bench.benchmark.queries),
        "baseline": {each.system: {m: round(each.means[m], 4) for m in RULES.metrics} for each in baseline.retrieval},
        "faults": {},
    }
    with tempfile.TemporaryDirectory() as name:
        for fault, broken in bench.faults(Path(name)).items():
            found = compare(broken(), baseline, RULES)
            worst = min(found, key=lambda each: (not each.regression, each.difference))
            result["faults"][fault] = {
                "caught": any(each.regression for each in found),
                "by": f"{worst.metric} of {worst.system}",
                "before": round(worst.before, 4),
                "after": round(worst.after, 4),
                "p": round(worst.p_worse, 4),
            }
            print(fault, result["faults"][fault], file=sys.stderr, flush=True)
    alarms = 0
    for seed in range(options.reruns):
        rerun = compare(bench.rerun(seed), baseline, RULES)
        alarms += any(each.regression for each in rerun)
        print(f"rerun {seed + 1}: {alarms} false alarms", file=sys.stderr, flush=True)
    result["caught"] = sum(each["caught"] for each in result["faults"].values())
    result["reruns"], result["false_alarms"] = options.reruns, alarms
    result["seconds"] = round(time.perf_counter() - started)
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
