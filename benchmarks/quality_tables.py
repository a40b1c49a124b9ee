"""The tables of correctness and quality; each is a function of the JSON files by the name of their script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import adapters
import pretraining
import reranker_variants
from markdown import measured, number, percent, table

from llamaindex_code_retrieval.models.catalog import DEFAULT_ADAPTERS, EMBEDDED, EMBEDDED_STATIC

Figures = Mapping[str, Any]

_METRICS = ("MRR", "R@1", "R@5")
_MODES = ("fused", "dense")
_RETRIEVAL = (("MRR", 4), ("R@1", 3), ("R@10", 3))
_CATEGORIES = ("all", "architecture", "semantic", "symbol")
_SHOWN_STUDENTS = ("teacher", "embedded-general-layers", "embedded-general-static", "transformer", "4", "3", "2", "1")


def cosqa(figures: Figures) -> str:
    """Return the scores on CoSQA dev by adapter and mode."""
    rows = [
        [name, mode, *(number(scores[metric], digits) for metric, digits in _RETRIEVAL), precision, date]
        for name, run in figures["cosqa"].items()
        for precision, date in [(run["precision"], run["date"][:10])]
        for mode, scores in run["metrics"].items()
    ]
    return table(["adapter", "mode", "MRR", "Recall@1", "Recall@10", "precision", "date"], rows)


def index_faults(figures: Figures) -> str:
    """Return how many processes were killed, and what that did."""
    faults = figures["index_faults"]
    ended = faults["finished_before_the_kill"]
    rows = [
        [f"`{command}`", number(count), number(ended.get(command, 0))] for command, count in faults["kills"].items()
    ]
    searches, errors = (sum(reader[name] for reader in faults["readers"]) for name in ("searches", "errors"))
    problems = sum(faults["problems"].values())
    result = f"Problems: {problems}. Searches of the readers: {number(searches)}, errors: {errors}. {measured(faults)}"
    return "\n".join([table(["command", "runs", "ended before the kill"], rows), "", result])


def definitions(figures: Figures) -> str:
    """Return recall and precision of definitions by language."""
    rows = [
        [
            language,
            number(each["files"]),
            number(each["reference"]),
            *(number(each[metric]["all"], 3) for metric in ("recall", "precision")),
            *(number(each["if_always_right"][metric], 3) for metric in ("recall", "precision")),
        ]
        for language, each in figures["definitions"]["languages"].items()
    ]
    header = ["language", "files", "definitions of the reference", "recall", "precision"]
    return table([*header, "recall, no mistakes listed", "precision, no mistakes listed"], rows)


def parsing(figures: Figures) -> str:
    """Return speed and violations of the parser by language."""
    speeds = ("outline", "parser", "bounded")
    rows = [
        [
            language,
            f"{each['files']}",
            *(f"{each[f'{part}_megabytes_per_second']:g}" for part in speeds),
            f"{100 * each['files_in_windows']:.0f} %",
            f"{each['slowest_seconds']:g}",
            f"{each['violations']}",
        ]
        for language, each in figures["parsing"]["languages"].items()
    ]
    header = ["language", "files", "outline, MB/s", "node parser, MB/s", "with tokens counted, MB/s"]
    return table([*header, "files that become windows", "slowest file, s", "violations"], rows)


def mutations(figures: Figures) -> str:
    """Return what became of mutated files by language."""
    rows = []
    for language, each in figures["parsing"]["fuzzed"]["languages"].items():
        kept = each.get("definitions_kept_beside_a_broken_line")
        rows.append(
            [
                language,
                f"{each['files']}",
                f"{each['megabytes']:g}",
                "" if kept is None else f"{100 * kept:.1f} %",
                f"{100 * each['files_in_windows']:.1f} %",
                f"{each['slowest_seconds']:g}",
                f"{each['violations']}",
            ]
        )
    header = [
        "language",
        "mutations",
        "MB",
        "definitions kept",
        "files that become windows",
        "slowest, s",
        "violations",
    ]
    return table(header, rows)


def ranking_ablation(figures: Figures) -> str:
    """Return what the cross-validated NDCG@10 changes by without a feature, the largest loss first."""
    ranking = figures["ranking"]
    changes = {
        name: [without[part] - ranking["cross_validated"][part] for part in _CATEGORIES]
        for name, without in ranking["ablation"].items()
    }
    rows = [
        [f"`{name}`", *(f"{value:+.4f}" for value in change)]
        for name, change in sorted(changes.items(), key=lambda item: item[1][0])
    ]
    return table(["feature", *_CATEGORIES], rows)


def repository_rerankers(figures: Figures) -> str:
    """Return NDCG@10 of questions about repositories by the weight of the reranker."""
    systems, prefix = figures["repositories"]["ndcg@10"], "fused, reranked with weight "
    rows = [
        [
            "0: the ranking" if name == "fused" else name.removeprefix(prefix),
            *(number(means[part], 3) for part in _CATEGORIES),
            number(means["milliseconds"]),
        ]
        for name, means in systems.items()
        if name == "fused" or name.startswith(prefix)
    ]
    return table(["weight", *_CATEGORIES, "ms"], rows)


def gate_faults(figures: Figures) -> str:
    """Return the drop by which each fault is caught."""
    rows = [
        [name, fault["by"], number(fault["before"], 3), number(fault["after"], 3), f"{fault['p']:g}"]
        for name, fault in figures["gate_faults"]["faults"].items()
    ]
    return table(["fault", "largest drop", "before", "after", "p, corrected"], rows)


def query_encoder_times(figures: Figures) -> str:
    """Return the time of a query by student, and what of the teacher's it saves."""
    encoders = figures["query_encoders"]
    teacher = encoders["times"]["teacher"]["p50"]
    rows = [
        [
            _student(encoders, name),
            f"{times['p50']:.2f} / {times['p95']:.2f}",
            f"{times['all']:.0f} ms",
            "" if name == "teacher" else f"{1 - times['p50'] / teacher:.0%}",
        ]
        for name, times in _shown(encoders["times"])
    ]
    return table(["student", "ms p50 / p95", "100 queries", "time saved (p50)"], rows)


def query_encoder_scores(figures: Figures, *, benchmark: str, title: str) -> str:
    """Return the scores of a benchmark by student, with the share of the teacher's MRR."""
    encoders = figures["query_encoders"]
    scores = encoders["scores"][benchmark]
    stages = list(scores["teacher"])
    rows = [
        [_student(encoders, name)]
        + [
            f"{', '.join(number(each[stage][metric], 3) for metric in _METRICS)} "
            f"({each[stage]['MRR'] / scores['teacher'][stage]['MRR']:.1%})"
            for stage in stages
        ]
        for name, each in _shown(scores)
    ]
    return table([title, *stages], rows)


def static_quality(figures: Figures) -> str:
    """Return the quality of the static model beside the transformer's."""
    rows = []
    for model, repositories, run in (
        (EMBEDDED_STATIC, "repositories_static", EMBEDDED_STATIC),
        (EMBEDDED, "repositories", DEFAULT_ADAPTERS[EMBEDDED]),
    ):
        answers, functions = figures[repositories]["ndcg@10"], figures["cosqa"][run]["metrics"]
        values = [answers[mode]["all"] for mode in _MODES] + [functions[mode]["MRR"] for mode in _MODES]
        rows.append([model, *(number(value, 3) for value in values)])
    headings = [f"{measure}, {mode}" for measure in ("repositories, NDCG@10", "CoSQA dev, MRR") for mode in _MODES]
    return table(["model", *headings], rows)


def static_speed(figures: Figures) -> str:
    """Return the speed of the static model beside the transformer's."""
    speed, models = figures["static_speed"], (EMBEDDED_STATIC, EMBEDDED)
    rows = [
        ["functions embedded a core second", *(number(speed["functions_per_core_second"][model]) for model in models)],
        ["query embedded, ms", *(number(speed["query_latency_ms"][model]["p50"], 2) for model in models)],
    ]
    for folder, commands in speed["commands"].items():
        for name, key, digits in (
            ("nodes", "nodes", 0),
            ("`index`, core seconds", "index_core_seconds", 1),
            ("`index`, peak MiB", "index_peak_memory_mib", 0),
            ("`search`, core seconds", "search_core_seconds", 2),
            ("`search`, peak MiB", "search_peak_memory_mib", 0),
        ):
            rows.append([f"{folder}: {name}", *(number(commands[model][key], digits) for model in models)])
    return table(["", *models], rows)


def _shown(by_name: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    return ((name, by_name[name]) for name in _SHOWN_STUDENTS if name in by_name)


def _student(encoders: Figures, name: str) -> str:
    """Return the name of a student that comes with the package, or what it is made of."""
    student = encoders["students"].get(name, {}).get("student", {})
    if student.get("kind") == "transformer":
        return f"transformer, width {student['width']}, {student['depth']} layers"
    if student.get("kind") == "layers" and name.isdigit():
        layers = student["layers"]
        return f"layer{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"
    return name


def context(figures: Figures) -> str:
    """Return how many of the cited definitions a context holds, by budget and way of making it."""
    run = figures["context"]
    rows = [
        [number(row["max_tokens"]), row["system"], row["whole"], row["touched"], number(row["passages"], 1)]
        for row in run["rows"]
    ]
    header = ["tokens", "passages", "whole definitions", "touched definitions", "passages in the context"]
    result = f"{run['questions']} questions, {run['definitions']} cited definitions. {measured(run)}"
    return "\n".join([table(header, rows), "", result])


def follow_ups(figures: Figures) -> str:
    """Return where the answer to a follow-up question is found, by what is searched for."""
    run = figures["follow_ups"]
    rows = [
        [
            row["repositories"],
            row["searched"],
            *(f"{row[key]} of {row['questions']}" for key in ("hit@1", "hit@5")),
            row["mrr"],
        ]
        for row in run["rows"]
    ]
    header = ["repositories", "follow-up searched for", "hit@1", "hit@5", "MRR"]
    result = f"Recognised as follow-ups: {percent(run['recognised'])}. {measured(run)}"
    return "\n".join([table(header, rows), "", result])


def attribution(figures: Figures) -> str:
    """Return how many sentences of reference answers are matched to a passage, by repository."""
    run = figures["attribution"]
    keys = [key for key in run["rows"][0] if key != "repository"]
    totals = {key: sum(row[key] for row in run["rows"]) for key in keys}
    rows = [
        [row["repository"], *(number(row[key]) for key in keys)]
        for row in (*run["rows"], {"repository": "all", **totals})
    ]
    return "\n".join([table(["repository", *keys], rows), "", measured(run)])


def agent_tokens(figures: Figures) -> str:
    """Return the recall of an agent within budgets of tokens, by what it reads."""
    runs = {EMBEDDED: figures["agent_tokens"], EMBEDDED_STATIC: figures["agent_tokens_static"]}
    full = runs[EMBEDDED]
    budgets = list(full["search_code"]["recall"])
    systems: dict[str, Mapping[str, float]] = {}
    for model, run in runs.items():
        systems[f"`search_code`, {model}"] = run["search_code"]["recall"]
        systems[f"`search_code`, {model}, named"] = run["search_code"]["named"]
    systems["grep and whole files"] = full["grep"]["recall"]
    systems |= {f"{name}, published for 63 repositories": recall for name, recall in full["published"].items()}
    rows = [[name, *(number(recall.get(budget), 3) for budget in budgets)] for name, recall in systems.items()]
    first = {name: number(full[name]["tokens_to_first"]["median"]) for name in ("search_code", "grep")}
    result = (
        f"Tokens up to the first target, median: {first['search_code']} by `search_code`, {first['grep']} by grep. "
        f"{full['questions']} questions. {measured(full)}"
    )
    return "\n".join([table(["tokens read", *(number(int(budget)) for budget in budgets)], rows), "", result])


_CHATS = {
    ("gold", ""): "gold passages",
    ("retrieved", "adapted"): "**this package**",
    ("retrieved", "adapted, hits"): "… the hits as they are",
    ("retrieved", "bare"): "… without the adapter",
    ("retrieved", "adapted, sentence"): "LlamaIndex, `SentenceSplitter`",
    ("retrieved", "adapted, code"): "LlamaIndex, `CodeSplitter`",
    ("retrieved", "adapted, code-citation"): "LlamaIndex, `CodeSplitter`, `CitationQueryEngine`",
    ("none", ""): "no passages",
}
_CHAT_COLUMNS = {
    "rougeL": ("ROUGE-L", 3),
    "hit@1": ("hit@1", 3),
    "hit@5": ("hit@5", 3),
    "file_hit@1": ("file hit@1", 3),
    "file_hit@5": ("file hit@5", 3),
    "valid_citations": ("valid citations", 3),
    "citation_precision": ("citation precision", 3),
    "citation_recall": ("citation recall", 3),
    "answered": ("answered", 3),
    "context_tokens": ("tokens of passages", 0),
    "first_token_seconds": ("s to the first token", 1),
    "seconds": ("s", 1),
}


def chat(figures: Figures) -> str:
    """Return what was measured of answers by LLM and passages."""
    run, order = figures["chat"], list(_CHATS)
    rows = []
    for llm in dict.fromkeys(row["llm"] for row in run["rows"]):
        of_llm = [row for row in run["rows"] if row["llm"] == llm]
        for row in sorted(of_llm, key=lambda row: order.index((row["condition"], row["system"]))):
            cells = [_with_interval(row["metrics"].get(name), digits) for name, (_, digits) in _CHAT_COLUMNS.items()]
            name = _CHATS[row["condition"], row["system"]]
            rows.append([f"`{llm}`", name, number(row["questions"]), *cells])
    header = ["LLM", "passages", "questions", *(title for title, _ in _CHAT_COLUMNS.values())]
    return "\n".join([table(header, rows), "", measured(run)])


def chat_differences(figures: Figures) -> str:
    """Return the differences of ROUGE-L between two ways to make the passages."""
    rows = [
        [
            f"`{each['llm']}`",
            *(_CHATS[each[side][0], each[side][1]].replace("… ", "this package, ") for side in ("before", "after")),
            number(each["questions"]),
            f"{each['mean']:+.3f} ({each['low']:+.3f} to {each['high']:+.3f})",
            number(each["p"], 3),
        ]
        for each in figures["chat"]["differences"]
    ]
    return table(["LLM", "from", "to", "questions", "difference of ROUGE-L", "p"], rows)


def _with_interval(figure: Mapping[str, float] | None, digits: int) -> str:
    """Return a mean, with its interval if it is a share."""
    if figure is None:
        return ""
    mean = number(figure["mean"], digits)
    return mean if digits < 3 else f"{mean} ({number(figure['low'], digits)}–{number(figure['high'], digits)})"


TABLES: dict[str, Callable[[Figures], str]] = {
    "agent_tokens": agent_tokens,
    "attribution": attribution,
    "chat": chat,
    "chat.differences": chat_differences,
    "context": context,
    "follow_ups": follow_ups,
    "cosqa": cosqa,
    "index_faults": index_faults,
    "definitions": definitions,
    "parsing": parsing,
    "parsing.mutations": mutations,
    "ranking.ablation": ranking_ablation,
    "repositories.rerank": repository_rerankers,
    "adapters": lambda figures: adapters.table(figures["adapters"]),
    "pretraining": lambda figures: pretraining.table(figures["pretraining"]),
    "pretraining.case": lambda figures: pretraining.case_table(figures["pretraining"]),
    "adapters.languages": lambda figures: adapters.by_language(figures["adapters"]),
    "reranker_variants": lambda figures: reranker_variants.table(figures["reranker_variants"]),
    "gate_faults": gate_faults,
    "static.quality": static_quality,
    "static.speed": static_speed,
    "query_encoders.times": query_encoder_times,
    "query_encoders.cosqa": partial(query_encoder_scores, benchmark="cosqa/dev", title="CoSQA dev"),
    "query_encoders.mbxp": partial(query_encoder_scores, benchmark="mbxp_nl/dev-python", title="MBXP dev Python"),
}
