"""The tables of speed and memory; each is a function of the JSON files by the name of their script."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cost_curve import COSTS
from index_scale import ROWS as SCALE_ROWS
from index_scale import SYSTEMS, flat
from markdown import measured, number, percent, table

Figures = Mapping[str, Any]
OURS = "CodeEmbedding"
LLAMAINDEX = "HuggingFaceEmbedding"


def index_speed(figures: Figures) -> str:
    """Return rate, computation and quality of each system."""
    speed = figures["index_speed"]
    rows = [
        [
            name,
            row["precision"],
            number(row["batch_size"]),
            number(row["functions_per_second"], 1),
            number(row["tokens_per_second"]),
            number(row.get("times_as_fast"), 2),
            number(row.get("gflop_per_second")),
            percent(row.get("share_of_limit")),
            f"{row['MRR']:.4f}",
        ]
        for name, row in speed["systems"].items()
    ]
    header = ["", "precision", "batch size", "functions/s", "tokens/s", f"times {LLAMAINDEX}"]
    lines = [table([*header, "GFLOP/s", "of the limit", "MRR"], rows), ""]
    best = speed["best_of_sentence_transformers"]
    if best:
        lines.append(
            f"{OURS} is {best['times_as_fast']} times as fast as the fastest with this quality, {best['name']}."
        )
    quality = speed["quality"]
    lines.append(
        f"{speed['texts']} functions of {number(speed['tokens'])} tokens, at most {speed['max_tokens']} of a function, "
        f"rounds: {speed['rounds']}; MRR of {quality['queries']} queries over {number(quality['codes'])} codes."
    )
    lines += [f"Left out: {name} ({reason})." for name, reason in speed["left_out"].items()]
    return "\n".join([*lines, measured(speed)])


def index_limits(figures: Figures) -> str:
    """Return the measured limit of each precision."""
    limits = figures["index_speed"]["limits"]
    rows = [[name, number(each["gflop_per_second"]), each["fastest"]] for name, each in limits.items()]
    return table(["precision", "GFLOP/s", "fastest in"], rows)


def index_sweep(figures: Figures) -> str:
    """Return functions a second of sentence-transformers by batch size."""
    sweeps = {name: row["sweep"] for name, row in figures["index_speed"]["systems"].items() if "sweep" in row}
    sizes = list(dict.fromkeys(size for sweep in sweeps.values() for size in sweep))
    rows = [[name, *(number(sweep.get(size), 1) for size in sizes)] for name, sweep in sweeps.items()]
    return table(["functions/s at a batch size of", *sizes], rows)


def index_command(figures: Figures) -> str:
    """Return what ``code-retrieval index`` of a package costs."""
    costs = figures["index_speed"]["index_command_on_email_package"]
    header = ["files", "nodes", "truncated", "nodes/s", "whole process, s", "peak MiB"]
    row = [
        *(number(costs[name]) for name in ("files", "nodes", "truncated")),
        number(costs["nodes_per_second"], 1),
        number(costs["seconds_whole_process"], 1),
        number(costs["peak_memory_mib"]),
    ]
    return table(header, [row])


def query_latency(figures: Figures) -> str:
    """Return p50 and p95 of a query."""
    speed = figures["query_speed"]
    rows = [
        [name, number(ms["p50"], 2), number(ms["p95"], 2), number(ms["times_as_fast"], 2)]
        for name, ms in speed["query_latency_ms"].items()
    ]
    counts = f"Queries: {speed['queries']}, rounds: {speed['rounds']}. {measured(speed)}"
    return "\n".join([table(["one query", "p50, ms", "p95, ms", f"times {LLAMAINDEX}"], rows), "", counts])


def cold_start(figures: Figures) -> str:
    """Return time and memory of whole processes."""
    speed = figures["query_speed"]
    rows = [
        [
            name,
            number(each["seconds"], 2),
            number(each["slowest"], 2),
            number(each["times_as_fast"], 2),
            number(each["peak_memory_mib"]),
        ]
        for name, each in speed["cold_start"].items()
    ]
    header = ["cold process", "s, median", "s, slowest", f"times {LLAMAINDEX}", "peak MiB"]
    return "\n".join([table(header, rows), "", f"Processes of each command: {speed['processes']}."])


def rerank_systems(figures: Figures) -> str:
    """Return latency and throughput of rerankers, and how many times as fast ours are as the peers."""
    speed = figures["rerank_speed"]
    systems = speed["systems"]
    depths = [name.removeprefix("ms at ") for name in next(iter(systems.values())) if name.startswith("ms at ")]
    columns = [*(f"times as fast at {depth}" for depth in depths), "times the throughput"]
    rows = [
        [
            name,
            *(number(row[f"ms at {depth}"], 1) for depth in depths),
            number(row["queries/s at K=10"], 2),
            *(", ".join(number(ratio, 2) for ratio in row.get(column, {}).values()) for column in columns),
            f"{row['MRR']:.4f}",
        ]
        for name, row in systems.items()
    ]
    header = ["", *(f"ms at {depth}" for depth in depths), "queries/s at K=10", *columns, "MRR"]
    return table(header, rows)


def rerank_precision(figures: Figures) -> str:
    """Return MRR and time of the default reranker in each precision."""
    rows = [
        [name, f"{row['MRR']:.4f}", number(row.get("ms"), 1)]
        for name, row in figures["rerank_speed"]["shipped"].items()
    ]
    return table(["", "MRR", "ms a query"], rows)


def train_speed(figures: Figures) -> str:
    """Return pairs a second and memory of the trainers."""
    speed = figures["train_speed"]
    rows = [
        [name, number(speed[f"{key}_pairs_per_second"], 2), number(speed[f"{key}_peak_mib"])]
        for key, name in (("ours", "ours"), ("peer", "sentence-transformers"))
    ]
    ratio = f"{speed['ratio']} times as fast, the median of {speed['repeats']} pairs of runs of {speed['steps']} steps."
    return "\n".join([table(["trainer", "pairs/s", "peak MiB"], rows), "", f"{ratio} {measured(speed)}"])


def costs_by_size(figures: Figures) -> str:
    """Return what each size of a code base costs, and the largest growth at a doubling."""
    curve = figures["cost_curve"]
    sizes = {size: flat(each) for size, each in curve["sizes"].items()}
    rows = [
        [
            title,
            *(f"{costs[name]:g}" if name in costs else "" for costs in sizes.values()),
            number(max(curve["growth"].get(title, {"": None}).values(), default=None), 2),
        ]
        for title, name in COSTS.items()
    ]
    header = ["nodes", *(number(int(size)) for size in sizes), "largest growth"]
    over = curve["over_the_goal"]
    goal = f"More than 2.1 times for twice the nodes: {'; '.join(over) if over else 'nothing'}. {measured(curve)}"
    return "\n".join([table(header, rows), "", goal])


def gpu(figures: Figures) -> str:
    """Return rates of embedding and training on the device that was measured."""
    speed = figures["gpu"]
    rows = [
        [name, number(row["functions_per_second"]), number(row.get("times_as_fast"), 2)]
        for name, row in speed["embedding"].items()
    ]
    trained = ", ".join(f"{rate:g} in {precision}" for precision, rate in speed["training_pairs_per_second"].items())
    lines = [table(["embedding", "functions/s", f"times {LLAMAINDEX}"], rows), ""]
    lines.append(
        f"Device: {speed['device']}. Nodes: {speed['texts']}, rounds: {speed['rounds']}. Training, pairs/s: {trained}."
    )
    return "\n".join([*lines, *(f"Left out: {n} ({r})." for n, r in speed["left_out"].items()), measured(speed)])


def index_scale(figures: Figures) -> str:
    """Return what an index of each size costs, for each system."""
    sizes = {size: each for size, each in figures["index_scale"].items() if size.isdigit()}
    columns = {
        f"{name}, {number(int(size))}": flat(systems[name])
        for size, systems in sizes.items()
        for name in SYSTEMS
        if name in systems
    }
    rows = [
        [title, *(f"{costs[key]:g}" if key in costs else "" for costs in columns.values())]
        for title, key in SCALE_ROWS.items()
    ]
    return table(["", *columns], rows)


def serving(figures: Figures) -> str:
    """Return the times of the servers, and what they bear."""
    run = figures["serving"]
    page, crowd, calls = run["page"], run["page"]["crowd"], run["concurrent"]
    rows = [
        [f"`mcp`, {name}: cold start to the first answer, s", number(each["first_answer_s"], 2), ""]
        for name, each in run["cold_start"].items()
    ]
    rows += [
        [f"`search_code`, {name}, ms", number(ms["p50"], 1), number(ms["p95"], 1)]
        for name, ms in run["search_code_ms"].items()
    ]
    rows += [
        [
            "first piece of an answer on the page, ms",
            *(number(page["first_piece_ms"][key], 1) for key in ("p50", "p95")),
        ],
        [
            f"the same, {crowd['users']} users at once, ms",
            *(number(crowd["first_piece_ms"][key], 1) for key in ("p50", "p95")),
        ],
    ]
    memory = ", ".join(f"{mib} MiB after {number(int(count))} calls" for count, mib in run["memory_mib"].items())
    lines = [
        f"{calls['calls']} calls of `search_code` at once over HTTP: {calls['errors']} errors, {calls['seconds']:g} s. "
        f"Memory of the MCP server: {memory}.",
        f"{crowd['users']} users of the page for {crowd['seconds']:g} s: {number(crowd['answers'])} answers, "
        f"{crowd['errors']} errors. {number(run['nodes'])} nodes. {measured(run)}",
    ]
    return "\n".join([table(["", "median", "p95"], rows), "", *lines])


def summary(figures: Figures) -> str:
    """Return the table of speed in the README: ours beside a peer with the same weights."""
    rates, latency = figures["index_speed"]["systems"], figures["query_speed"]["query_latency_ms"]
    started, train = figures["query_speed"]["cold_start"], figures["train_speed"]
    rerankers = figures["rerank_speed"]["systems"]
    fastest = min(row["ms at K=10"] for name, row in rerankers.items() if name.startswith("CodeReranker"))
    sizes = {number(int(size)): flat(figures["index_scale"][size]["ours"]) for size in ("100000", "1000000")}
    st = "sentence-transformers"
    rows: list[tuple[str, float, float | None, str]] = [
        ("index, functions/s", *(rates[name]["functions_per_second"] for name in (OURS, LLAMAINDEX)), LLAMAINDEX),
        ("embed a query, ms", *(latency[name]["p50"] for name in ("full model", LLAMAINDEX)), LLAMAINDEX),
        ("embed a query with `--fast-query`, ms", latency["static query encoder"]["p50"], None, ""),
        ("`search`, cold process, s", *(started[name]["seconds"] for name in ("search", LLAMAINDEX)), LLAMAINDEX),
        ("`search --fast-query`, cold process, s", started["search --fast-query"]["seconds"], None, ""),
        *((f"search among {size} nodes, ms", costs["search.fused.p50"], None, "") for size, costs in sizes.items()),
        *((f"update {size} nodes, s", costs["change.one_line_seconds.p50"], None, "") for size, costs in sizes.items()),
        ("rerank 10 hits, ms", fastest, rerankers[f"{st} CrossEncoder"]["ms at K=10"], st),
        ("train an adapter, pairs/s", *(train[f"{name}_pairs_per_second"] for name in ("ours", "peer")), st),
    ]
    cells = [
        [title, _short(value), "" if peer is None else f"{_short(peer)} ({name})"] for title, value, peer, name in rows
    ]
    return table(["", "this package", "peer, same weights"], cells)


def _short(value: float) -> str:
    """Return a number with two significant digits, or as a whole number if it has more.

    >>> _short(0.0754), _short(7.96), _short(192.3)
    ('0.075', '8.0', '192')
    """
    return f"{value:.0f}" if value >= 10 else f"{float(f'{value:.1e}'):#.2g}"


TABLES: dict[str, Callable[[Figures], str]] = {
    "index_speed": index_speed,
    "index_speed.limits": index_limits,
    "index_speed.sweep": index_sweep,
    "index_speed.command": index_command,
    "query_speed.latency": query_latency,
    "query_speed.cold_start": cold_start,
    "rerank_speed": rerank_systems,
    "rerank_speed.precision": rerank_precision,
    "train_speed": train_speed,
    "cost_curve": costs_by_size,
    "gpu": gpu,
    "index_scale": index_scale,
    "serving": serving,
    "summary": summary,
}
