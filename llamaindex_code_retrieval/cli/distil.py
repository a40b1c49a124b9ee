"""The command ``distil``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval.cli.console import print_json, print_message, print_table, progress_bars
from llamaindex_code_retrieval.cli.options import cache_folder, cache_option, refuse_without_effect
from llamaindex_code_retrieval.cli.training_options import (
    add_data_options,
    add_training_options,
    check_push,
    push_and_describe,
    read_settings,
)

if TYPE_CHECKING:
    from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
    from llamaindex_code_retrieval.training import TrainingRun
    from llamaindex_code_retrieval.training.assistant_search import AssistantSearch
    from llamaindex_code_retrieval.training.recipes import QueryRecipe

WIDE_INTERVAL = 0.05
"""The test queries are reported as too few if the interval of the retained share is wider than this."""


def add_distil(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``distil``."""
    parser = commands.add_parser(
        "distil", help="train a small, fast query encoder to imitate the query vectors of a model"
    )
    add_data_options(parser, model="query encoder", pairs_required=False)
    parser.add_argument(
        "--queries",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="more queries to learn from, without answers: a .txt file with one a line, JSON lines, or as --pairs "
        "(default: none)",
    )
    parser.add_argument(
        "--kind",
        choices=("static", "layers", "transformer"),
        help="static: a table of token vectors; layers: some layers of the teacher; transformer: a small one (default: "
        "the recipe's kind, else static)",
    )
    parser.add_argument(
        "--layers",
        metavar="N,N,...",
        help="layers of the teacher, counted from 0, that a student of kind layers keeps, such as 0,5 (default: the "
        "recipe's)",
    )
    parser.add_argument(
        "--teacher",
        metavar="ADAPTER",
        help="adapter of the teacher, on --base: a name, hub name or folder, or none for the bare base (default: the "
        "package's adapter for the base)",
    )
    parser.add_argument(
        "--assistants",
        action="store_true",
        help="search for the smallest student of kind layers that loses at most --threshold, with teaching assistants",
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="layers that each round of --assistants removes (default: 1)"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="MRR", help="largest loss of MRR that --assistants accepts (default: 0.01)"
    )
    add_training_options(parser, recipe_default="the one of --kind")
    cache_option(parser)
    parser.set_defaults(run=run_distil)


def run_distil(options: argparse.Namespace) -> int:
    """Distil a query encoder, or search for the smallest one, and print its record."""
    from llamaindex_code_retrieval.training import distil_query_encoder, load_pairs, search_assistants
    from llamaindex_code_retrieval.training.queries import load_queries

    check_push(options)
    if not options.assistants:
        refuse_without_effect(options, ["step", "threshold"], "without --assistants")
    recipe = _recipe(options)
    limits = {name: getattr(options, name) for name in ("step", "threshold") if getattr(options, name) is not None}
    search: AssistantSearch | None = None
    run: TrainingRun[QueryEncoder] | None
    with progress_bars() as progress:
        pairs = load_pairs(*options.pairs)
        arguments: dict[str, Any] = {
            "queries": [query for source in options.queries for query in load_queries(source)],
            "recipe": recipe,
            "validation_pairs": load_pairs(*options.validate),
            "device": options.device,
            "cache_folder": cache_folder(options),
            "resume": options.resume,
            "sources": [*options.pairs, *options.queries],
            "on_progress": progress,
        }
        if options.assistants:
            search, run = search_assistants(pairs, options.out, **limits, **arguments)
        else:
            run = distil_query_encoder(pairs, options.out, **arguments)
    record = {} if run is None else push_and_describe(run, options)
    if options.json:
        print_json(record if search is None else {**record, "search": _search_record(search)})
    else:
        _print_result(record, search, Path(options.out))
    return 0 if record else 1


def _recipe(options: argparse.Namespace) -> QueryRecipe:
    from llamaindex_code_retrieval.training import load_query_recipe

    if options.assistants:
        refuse_without_effect(options, ["layers"], "with --assistants, which chooses the layers")
    kind = options.kind or ("layers" if options.layers or options.assistants else "static")
    recipe = load_query_recipe(options.recipe or kind)
    if options.kind is not None and options.kind != recipe.student.kind:
        raise ValueError(f"the recipe {options.recipe} is for the kind {recipe.student.kind!r}; leave out --kind")
    layers = None if options.layers is None else _layers(options.layers)
    return recipe.with_settings(read_settings(options, teacher=options.teacher, layers=layers))


def _layers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError as error:
        raise ValueError(f"--layers takes numbers with commas between them, such as 0,5; got {text!r}") from error


def _search_record(search: AssistantSearch) -> dict[str, Any]:
    return {
        "teacher_mrr": search.teacher_mrr,
        "threshold": search.threshold,
        "tried": [{"path": each.lineage, "mrr": each.mrr} for each in search.tried],
    }


def _print_result(record: dict[str, Any], search: AssistantSearch | None, out: Path) -> None:
    if search is not None:
        _print_search(search, out)
    if search is not None and not record:
        print_message(
            f"even the largest student loses more than {search.threshold} MRR; allow more with --threshold, remove "
            "fewer layers with --step, or train longer with --epochs"
        )
    else:
        _print_query_encoder(record)


def _print_search(search: AssistantSearch, out: Path) -> None:
    students = [(str(len(search.tried[0].teachers[0])), "all", "", f"{search.teacher_mrr:.4f}")]
    for each in search.tried:
        chain = " -> ".join(str(len(layers)) for layers in each.teachers)
        students.append((str(len(each.layers)), ", ".join(map(str, each.layers)), chain, f"{each.mrr:.4f}"))
    headings = ("layers", "kept", "taught by", "MRR")
    print_table(f"Students, in {out / 'students'}", students, headings=headings, numeric=("layers", "MRR"))


def _print_query_encoder(record: dict[str, Any]) -> None:
    kept, teacher, student, times = record["kept"], record["teacher"], record["student"], record["milliseconds"]
    settings = ", ".join(f"{name} {value}" for name, value in student.items() if name not in ("kind", "adapter"))
    rows = [
        ("teacher", f"{teacher['name']}, {teacher['adapter']}, fingerprint {teacher['fingerprint']}"),
        ("student", f"{student['kind']}, {settings}"),
        ("queries", f"{record['data']['queries']:,}, {record['data']['pairs']:,} pairs"),
        ("steps", f"{record['steps']:,}, best {record['best_step']:,}, in {record['seconds']:.0f} s"),
        ("MRR", f"{kept['mrr']:.4f}, teacher {kept['teacher_mrr']:.4f}, on {kept['queries']} test queries"),
        ("retained", f"{kept['share']:.4f} of the MRR, 95 % interval {kept['low']:.4f} to {kept['high']:.4f}"),
        ("ms a query", f"{times['student']:.3f}, teacher {times['teacher']:.3f}"),
        ("fingerprint", record["fingerprint"]),
    ]
    print_table(f"Query encoder {record['folder']}", rows)
    if kept["high"] - kept["low"] > WIDE_INTERVAL:
        print_message(
            f"{kept['queries']} test queries are too few for a comparison: the student may retain anything from "
            f"{kept['low']:.3f} to {kept['high']:.3f} of the MRR; give more with --validate"
        )
