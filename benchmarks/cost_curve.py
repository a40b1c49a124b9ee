"""Time and memory of indexing and searching as a code base doubles five times.

The code bases have N, 2N, … 32N nodes: functions of Python's standard library in renamed copies, about 20 in a file.
For each size, in processes of their own:

- embedding: the default model embeds the text of every node; loading it is not counted.
- index command: ``code-retrieval index`` with the default model, the whole process.
- storage: ours of ``index_scale.py``, with the vectors of a static encoder, whose time is left out: the build, opening,
  the latency of queries, a one-line change.

Peak memory is VmHWM of the process, of the storage its anonymous memory. Reported is the cost of each size divided by
that of half the size, which should be at most 2.1. It takes about 10 minutes on two cores for 500 to 16,000 nodes:

    python benchmarks/cost_curve.py [--nodes 500] [--doublings 5] [--model embedded]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from index_scale import GOAL_RATIO, OURS, disk_mib, flat
from report import add_result_option, environment, write_figures
from runs import peak_memory_mib, run_command, run_in_process

Figures = dict[str, Any]

COSTS = {
    "embedding, s": "embedding.seconds",
    "embedding, peak MiB": "embedding.peak_mib",
    "index command, s": "index_command.seconds",
    "index command, peak MiB": "index_command.peak_mib",
    "index on disk, MiB": "index_command.disk_mib",
    "storage alone: build, s": "build.seconds",
    "storage alone: build, anonymous MiB": "build.memory_mib.anonymous",
    "storage alone: searches, anonymous MiB": "search.memory_mib.anonymous",
    "open, ms": "search.open_ms",
    "dense query, p50, ms": "search.dense.p50",
    "query by words, p50, ms": "search.words.p50",
    "fused query, p50, ms": "search.fused.p50",
    "fused query, p95, ms": "search.fused.p95",
    "one-line change, s": "change.one_line_seconds.p50",
}
"""Title -> dotted name of a figure of a size."""


def measure_size(folder: Path, nodes: int, model: str) -> Figures:
    """Make a code base of so many nodes in a folder and return what it costs."""
    storage = str(Path(__file__).with_name("index_scale.py"))
    arguments = ["--folder", str(folder), "--nodes", str(nodes)]
    _log(f"{nodes} nodes: make")
    figures: Figures = {"workload": run_in_process(storage, ["--phase", "make", *arguments])}
    _log(f"{nodes} nodes: embedding")
    figures["embedding"] = run_in_process(__file__, ["--folder", str(folder), "--model", model])
    _log(f"{nodes} nodes: index command")
    figures["index_command"] = index_command(folder / "code", folder / "index", model)
    for phase in ("build", "search", "change"):
        _log(f"{nodes} nodes: storage, {phase}")
        figures[phase] = run_in_process(storage, ["--phase", phase, "--run", OURS, *arguments])
    return figures


def index_command(root: Path, out: Path, model: str) -> Figures:
    """Run ``code-retrieval index`` without a cache and return what the process costs."""
    command = [sys.executable, "-m", "llamaindex_code_retrieval.cli", "index", str(root), "--json", "--model", model]
    finished = run_command([*command, "--out", str(out), "--cache", str(out.with_name("cache"))])
    return {
        "nodes": json.loads(finished.stdout)["nodes"],
        "seconds": round(finished.seconds, 2),
        "peak_mib": finished.peak_mib,
        "disk_mib": disk_mib(out),
    }


def embed(folder: Path, model: str) -> Figures:
    """Embed the nodes of a code base in this process."""
    from scale_workload import Workload, parse

    from llamaindex_code_retrieval import CodeEmbedding, CodeNodeParser

    workload, parser = Workload(folder), CodeNodeParser()
    texts = [
        node.text
        for path in workload.paths()
        for node in parse(path, (workload.root / path).read_text(encoding="utf-8"), parser)
    ]
    embedding = CodeEmbedding(model)
    embedding.get_text_embedding_batch(texts[:64])  # warm-up
    start = time.perf_counter()
    embedding.get_text_embedding_batch(texts)
    return {
        "texts": len(texts),
        "seconds": round(time.perf_counter() - start, 2),
        "peak_mib": peak_memory_mib(),
    }


def growth(sizes: Mapping[str, Figures]) -> dict[str, dict[str, float]]:
    """Return each cost divided by that of half the size, by title and size.

    >>> growth({"10": {"search": {"open_ms": 2.0}}, "20": {"search": {"open_ms": 3.0}}})
    {'open, ms': {'20': 1.5}}
    """
    numbers = {int(size): flat(figures) for size, figures in sizes.items()}
    ratios: dict[str, dict[str, float]] = {}
    for title, name in COSTS.items():
        for size, costs in numbers.items():
            before = numbers.get(size // 2, {}).get(name)
            if before and name in costs:
                ratios.setdefault(title, {})[str(size)] = round(costs[name] / before, 2)
    return ratios


def over_the_goal(ratios: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the costs that grow faster than the goal.

    >>> over_the_goal({"open, ms": {"20": 1.5, "40": 2.2}})
    ['open, ms: 2.2 times from 20 to 40 nodes']
    """
    return [
        f"{title}: {ratio} times from {int(size) // 2} to {size} nodes"
        for title, by_size in ratios.items()
        for size, ratio in by_size.items()
        if ratio > GOAL_RATIO
    ]


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=500, help="N (default: %(default)s)")
    parser.add_argument("--doublings", type=int, default=5, help="how often N doubles (default: %(default)s)")
    parser.add_argument("--model", default="embedded", help="name or folder of the base (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of the processes that this script starts
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    if options.folder is not None:
        print(json.dumps(embed(options.folder, options.model)))
        return
    figures: Figures = {**environment(), "model": options.model, "sizes": {}}
    for doubling in range(options.doublings + 1):
        nodes = options.nodes * 2**doubling
        with tempfile.TemporaryDirectory() as folder:
            figures["sizes"][str(nodes)] = measure_size(Path(folder, "workload"), nodes, options.model)
        figures["growth"] = growth(figures["sizes"])
        figures["over_the_goal"] = over_the_goal(figures["growth"])
        write_figures(options.result, figures)  # after each size, so that an interrupted run keeps the smaller ones
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
