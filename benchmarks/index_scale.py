"""Cost of an index by its size: ours, LlamaIndex's own components and LanceDB, on the same nodes and vectors.

A code base of N nodes is made of the functions of Python's standard library in renamed copies, about 20 in a file, and
another of 2N nodes. Every system indexes them with the vectors of a static encoder, which are computed before; the time
of the model is left out of the builds and updates. Each step of a system runs in a process of its own:

- build: from the files to the index on disk.
- search: open the index, the first search, then the latency of each mode with and without a filter by language and
  folder (a tenth of the nodes), and how many of the ten hits by vectors are among the ten best of an exact search.
- change: one line of one file, five times, then one line in 1 % of the files, with the index open and up to date. Ours
  finds out what changed; the others are told.

Memory is the peak of the process. "resident" is VmHWM, which counts pages of mapped files, also of the file of vectors
that the benchmark reads. "anonymous" is the largest RssAnon + RssShmem of samples every 20 ms, which counts no files;
imports are part of it and also given. The goals for ours:

    open 50 ms; one-line change 1 s at 2*10^5 nodes (10^4 files) and 3 s at 10^6; fused p50 10 ms at 10^5 and 20 ms at
    10^6; anonymous memory 1.5 GB at 10^6; at most 2.1 times the cost for twice the nodes

It takes about an hour for 10^5 and 2*10^5 nodes on two cores, mostly for LlamaIndex's components, and 3 GB of disk:

    pip install lancedb llama-index-retrievers-bm25
    python benchmarks/index_scale.py [--nodes 100000] [--systems ours,lancedb] [--peer-nodes 100000]

A system that is not installed, or whose size is over --peer-nodes, is left out with a line that says so.
Runs that the file of figures holds are not repeated; delete it to measure again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, get_args

from report import add_result_option, environment, write_figures
from runs import run_in_process
from scale_systems import SYSTEMS, CachedEmbedding, Mode, Search, System
from scale_workload import TOP_K, VectorCache, Workload

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval._optional import installed_version
from llamaindex_code_retrieval.eval.retrieval import percentiles

PHASES = ("build", "search", "change")
OURS = "ours"
GOAL_RATIO = 2.1
_SECONDS_OF_A_MEASURE = 30.0  # a slow peer answers fewer queries and repeats fewer changes
_LEAST_REPEATS = 3
_CHANGES = 5
_SHARE_CHANGED = 0.01
_COSINE_TOLERANCE = 1e-3  # half precision

Figures = dict[str, Any]


class Memory:
    """Samples the memory of this process while the ``with`` block runs."""

    def __enter__(self) -> Self:
        self.imports, self.anonymous = _status("RssAnon", "RssShmem"), 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stop.wait(0.02)
            self.anonymous = max(self.anonymous, _status("RssAnon", "RssShmem"))

    def figures(self) -> dict[str, int]:
        """Return the peaks in MiB."""
        return {
            "anonymous": round(self.anonymous),
            "resident": round(_status("VmHWM")),
            "anonymous_after_imports": round(self.imports),
        }


def _status(*fields: str) -> float:
    """Return the sum of fields of ``/proc/self/status`` in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return sum(int(values[field].split()[0]) for field in fields) / 1024


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def disk_mib(folder: Path) -> float:
    """Return the space that the files in ``folder`` take."""
    return round(sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file()) / 2**20, 1)


# --- the steps, each run in a process of its own ---------------------------------------------------------------------


def build(system: System) -> Figures:
    whole = _seconds(system.build)
    return {
        "seconds": round(whole - system.embedding.seconds, 1),
        "model_seconds_left_out": round(system.embedding.seconds, 1),
        "disk_mib": disk_mib(system.folder),
    }


def search(system: System) -> Figures:
    workload = system.workload
    vectors = workload.query_vectors
    opened = _seconds(system.open)
    first = _seconds(lambda: system.search("fused", filtered=False)(workload.queries[0], vectors[0]))
    figures: Figures = {"open_ms": _ms(opened), "first_search_ms": _ms(first)}
    for mode in get_args(Mode):
        for filtered in (False, True):
            answer = system.search(mode, filtered=filtered)
            name = f"{mode}_filtered" if filtered else mode
            figures[name] = latencies(answer, workload)
    figures["recall_of_exact_top_10"] = recall(system.search("dense", filtered=False), workload)
    return figures


def latencies(answer: Search, workload: Workload) -> dict[str, float]:
    """Return the percentiles over the queries in milliseconds, and how many queries there was time for."""
    answer(workload.queries[0], workload.query_vectors[0])  # warm-up
    seconds: list[float] = []
    for query, vector in zip(workload.queries, workload.query_vectors, strict=True):
        if len(seconds) >= _LEAST_REPEATS and sum(seconds) > _SECONDS_OF_A_MEASURE:
            break
        start = time.perf_counter()
        hits = answer(query, vector)
        seconds.append(time.perf_counter() - start)
        assert len(hits) <= TOP_K
    return {**percentiles(seconds), "queries": len(seconds)}


def recall(answer: Search, workload: Workload) -> float:
    """Return the share of hits that are as close to the query as the tenth best node is."""
    cache, found, wanted, start = VectorCache(workload.folder), 0, 0, time.perf_counter()
    for query, vector, least in zip(workload.queries, workload.query_vectors, workload.least_cosines, strict=True):
        if wanted and time.perf_counter() - start > _SECONDS_OF_A_MEASURE:
            break
        wanted += TOP_K
        for text in answer(query, vector)[:TOP_K]:
            node = cache.get(text)
            found += node is not None and float(node @ vector) >= least - _COSINE_TOLERANCE
    return round(found / wanted, 4)


def change(system: System) -> Figures:
    """Change files, update, and write the files back, so that the next system reads the same."""
    workload = system.workload
    system.open()
    system.search("fused", filtered=False)(workload.queries[0], workload.query_vectors[0])
    count = max(1, round(_SHARE_CHANGED * workload.figures["files"]))
    paths = workload.python_paths(_CHANGES + count, seed=1)
    originals = {path: (workload.root / path).read_bytes() for path in paths}
    seconds: list[float] = []
    try:
        for path in paths[:_CHANGES]:
            if sum(seconds) < 2 * _SECONDS_OF_A_MEASURE:
                _change_line(workload.root / path)
                seconds.append(_seconds(lambda path=path: system.update([path])))  # type: ignore[misc]
        many = paths[_CHANGES:]
        for path in many:
            _change_line(workload.root / path)
        before = system.embedding.seconds
        share = _seconds(lambda: system.update(many))
        return {
            "one_line_seconds": {"p50": round(statistics.median(seconds), 3), "first": round(seconds[0], 3)},
            "one_line_changes": len(seconds),
            "one_percent_seconds": round(share - (system.embedding.seconds - before), 2),
            "one_percent_files": len(many),
            "disk_mib": disk_mib(system.folder),
        }
    finally:
        for path, content in originals.items():
            (workload.root / path).write_bytes(content)


def _change_line(file: Path) -> None:
    """Append a comment to a line in the middle."""
    lines = file.read_text(encoding="utf-8").split("\n")
    candidates = [i for i, line in enumerate(lines) if line.strip() and not line.endswith("\\")]
    lines[candidates[len(candidates) // 2]] += f"  # revision {random.Random(file.name).randrange(10**6)}"
    file.write_text("\n".join(lines), encoding="utf-8")


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


def run_phase(options: argparse.Namespace) -> Figures:
    """Return the figures of one step with the peak memory of this process."""
    folder: Path = options.folder
    if options.phase == "make":
        return make(folder, options)
    embedding = CachedEmbedding(folder)
    system = SYSTEMS[options.run](Workload(folder), folder / options.run, embedding)
    with Memory() as memory:
        figures = {"build": build, "search": search, "change": change}[options.phase](system)
    return {**figures, "memory_mib": memory.figures()}


def make(folder: Path, options: argparse.Namespace) -> Figures:
    start = time.perf_counter()
    workload = Workload.make(folder, nodes=options.nodes, seed=options.seed, repositories=options.repositories)
    cache = VectorCache(folder)
    return {
        **workload.figures,
        "queries": len(workload.queries),
        "dim": cache.dim,
        "seconds": round(time.perf_counter() - start, 1),
        "source_mib": disk_mib(workload.root),
    }


# --- the runs --------------------------------------------------------------------------------------------------------


def measure(options: argparse.Namespace) -> Figures:
    """Do the runs that the file of figures lacks, and return all of it."""
    figures: Figures = {}
    if options.result.is_file():
        figures = read_json(options.result, remedy="name another file with --result")
    for nodes in options.sizes:
        of_size = figures.setdefault(str(nodes), {})
        missing = [name for name in options.systems if name not in of_size and _is_measured(name, nodes, options)]
        if missing:
            with tempfile.TemporaryDirectory(dir=options.work, prefix=f"index-scale-{nodes}-") as folder:
                workload = Path(folder, "workload")
                of_size["workload"] = _phase("make", "", workload, nodes, options)
                for name in missing:
                    of_size[name] = {**environment(), **run_system(name, workload, nodes, options)}
                    write_figures(options.result, figures)
    figures["ratios"] = ratios({size: figures[size] for size in figures if size.isdigit()})
    write_figures(options.result, figures)
    return figures


def _is_measured(name: str, nodes: int, options: argparse.Namespace) -> bool:
    reason = SYSTEMS[name].missing()
    if reason:
        _log(f"{name} is left out: {reason}")
    elif name != OURS and nodes > options.peer_nodes:
        reason = f"{nodes} is more than --peer-nodes {options.peer_nodes}"
        _log(f"{name} is left out: {reason}")
    return not reason


def run_system(name: str, workload: Path, nodes: int, options: argparse.Namespace) -> Figures:
    """Return the figures of each step; a step that fails ends the system and is recorded."""
    figures: Figures = {"version": installed_version(SYSTEMS[name].distribution)}
    try:
        for phase in PHASES:
            figures[phase] = _phase(phase, name, workload, nodes, options)
    except subprocess.CalledProcessError as error:
        figures["failed"] = f"{phase}: exit code {error.returncode}"
    finally:
        shutil.rmtree(workload / name, ignore_errors=True)
    return figures


def _phase(phase: str, name: str, workload: Path, nodes: int, options: argparse.Namespace) -> Figures:
    _log(f"{nodes} nodes: {name} {phase}")
    arguments = ["--phase", phase, "--run", name, "--folder", str(workload), "--nodes", str(nodes)]
    arguments += ["--seed", str(options.seed)]
    if options.repositories:
        arguments += ["--repositories", str(options.repositories)]
    return run_in_process(__file__, arguments)


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers of nested figures by their dotted names.

    >>> flat({"build": {"seconds": 2, "host": "a"}})
    {'build.seconds': 2}
    """
    numbers: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, Mapping):
            numbers |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            numbers[prefix + name] = value
    return numbers


def ratios(sizes: Mapping[str, Mapping[str, Any]]) -> Figures:
    """Return the cost at 2N nodes divided by that at N, for each system and pair of sizes."""
    result: Figures = {}
    for size, systems in sizes.items():
        double = sizes.get(str(2 * int(size)), {})
        for name in systems.keys() & double.keys() & SYSTEMS.keys():
            small, large = ({phase: each[name].get(phase, {}) for phase in PHASES} for each in (systems, double))
            before, after = flat(small), flat(large)
            result.setdefault(f"{size} to {2 * int(size)}", {})[name] = {
                cost: round(after[cost] / before[cost], 2)
                for cost in before.keys() & after.keys()
                if before[cost] and cost.rpartition(".")[2] not in ("queries", "one_line_changes", "one_percent_files")
            }
    return {pair: {name: dict(sorted(costs.items())) for name, costs in each.items()} for pair, each in result.items()}


def over_the_goal(ratios_: Figures) -> list[str]:
    """Return the costs of ours that grow faster than the goal."""
    return [
        f"{pair} nodes: {cost} is {ratio} times, the goal is {GOAL_RATIO}"
        for pair, systems in ratios_.items()
        for cost, ratio in systems.get(OURS, {}).items()
        if ratio > GOAL_RATIO
    ]


ROWS = {
    "build, s": "build.seconds",
    "disk, MiB": "build.disk_mib",
    "peak memory of the build, MiB (anonymous)": "build.memory_mib.anonymous",
    "peak memory of searches, MiB (anonymous)": "search.memory_mib.anonymous",
    "open, ms": "search.open_ms",
    "first search, ms": "search.first_search_ms",
    **{
        f"{mode}{', filtered' if filtered else ''}, {part}, ms": f"search.{mode}{filtered}.{part}"
        for mode in get_args(Mode)
        for filtered in ("", "_filtered")
        for part in ("p50", "p95")
    },
    "recall@10 of exact": "search.recall_of_exact_top_10",
    "one-line change, p50, s": "change.one_line_seconds.p50",
    "one line in 1 % of the files, s": "change.one_percent_seconds",
}


def table(figures: Figures) -> str:
    """Return a Markdown table: a row for each figure, a column for each size and system."""
    columns = [
        (f"{name}, {size}", flat(systems[name]))
        for size, systems in figures.items()
        if size.isdigit()
        for name in SYSTEMS
        if name in systems
    ]
    lines = [" | ".join(["", *(title for title, _ in columns)]), " | ".join(["---"] * (len(columns) + 1))]
    for title, key in ROWS.items():
        lines.append(" | ".join([title, *(f"{numbers[key]:g}" if key in numbers else "-" for _, numbers in columns)]))
    return "\n".join(f"| {line} |" for line in lines)


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in SYSTEMS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown system {', '.join(unknown)}; known are {', '.join(SYSTEMS)}")
    return names


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100_000, help="N (default: %(default)s)")
    parser.add_argument("--sizes", type=_sizes, metavar="N,…", help="numbers of nodes (default: N and 2N)")
    parser.add_argument(
        "--systems",
        type=_names,
        metavar="NAME,…",
        default=list(SYSTEMS),
        help=f"of {', '.join(SYSTEMS)} (default: all)",
    )
    parser.add_argument(
        "--peer-nodes", type=int, default=200_000, help="largest size of the other systems (default: %(default)s)"
    )
    parser.add_argument(
        "--repositories", type=Path, metavar="FOLDER", help="folder of repositories whose files are copied too"
    )
    parser.add_argument(
        "--work", type=Path, metavar="FOLDER", help="where code and indexes are written (default: /tmp)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the code base and the queries (default: %(default)s)")
    parser.add_argument("--table", action="store_true", help="print the table of the recorded figures only")
    for internal in ("--phase", "--run"):  # of the processes that this script starts
        parser.add_argument(internal, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    if options.phase:
        print(json.dumps(run_phase(options)))
        return
    options.sizes = options.sizes or [options.nodes, 2 * options.nodes]
    figures = read_json(options.result, remedy="measure first") if options.table else measure(options)
    print(table(figures), *over_the_goal(figures["ratios"]), sep="\n")


if __name__ == "__main__":
    main()
