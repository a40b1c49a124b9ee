"""The commands mine, train, train-reranker, distil, adapt and recipes."""

from __future__ import annotations

import argparse
import tempfile
import tomllib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaindex_code_retrieval.cli.checkout import GIT_URL, checkout, ignore_by_git
from llamaindex_code_retrieval.cli.console import print_json, print_message, print_table, progress_bars
from llamaindex_code_retrieval.cli.index import print_report
from llamaindex_code_retrieval.cli.options import (
    DEFAULT_INDEX,
    absolute,
    cache_folder,
    common_options,
    print_waiting,
)
from llamaindex_code_retrieval.languages.table import LANGUAGES
from llamaindex_code_retrieval.models.catalog import EMBEDDED

if TYPE_CHECKING:
    from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
    from llamaindex_code_retrieval.training.assistant_search import AssistantSearch
    from llamaindex_code_retrieval.training.recipes import Recipe
    from llamaindex_code_retrieval.training.run_record import TrainingRun


WIDE = 0.05
"""Width of the interval of the share kept from which on a comparison is called too uncertain."""


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    mine = commands.add_parser("mine", help="make training pairs of the documented functions in source code")
    mine.add_argument("sources", nargs="+", metavar="PATH|GIT-URL")
    mine.add_argument("--out", required=True, metavar="FILE", help="pairs.jsonl or pairs.jsonl.gz")
    mine.add_argument(
        "--language", action="append", default=[], choices=LANGUAGES, metavar="L", help="only this one; may be repeated"
    )
    mine.add_argument(
        "--exclude", action="append", default=[], metavar="REPOSITORY", help="to measure on; repeat for more"
    )
    mine.add_argument("--max-per-repository", type=int, metavar="N", help="keep at most so many pairs of each")
    mine.add_argument("--permissive-only", action="store_true", help="leave out what is not under a permissive licence")
    mine.add_argument("--json", action="store_true", help="machine-readable")
    mine.set_defaults(run=_mine)

    train = commands.add_parser("train", help="train an adapter (or all weights) of a base on pairs of query and code")
    train.add_argument(
        "--pairs",
        nargs="+",
        required=True,
        metavar="SOURCE",
        help="JSON lines of `mine` or CodeSearchNet, a folder in BEIR's layout, a set's name, or hf:org/name",
    )
    train.add_argument("--out", required=True, metavar="DIR", help="a new folder for the adapter")
    _add_method(train)
    train.add_argument("--recipe", metavar="NAME|TOML", help="settings to begin with; see `code-retrieval recipes`")
    train.add_argument(
        "--validate", nargs="+", default=[], metavar="SOURCE", help="pairs that validate (default: hold some out)"
    )
    train.add_argument("--resume", action="store_true", help="go on with the unfinished run in --out")
    train.add_argument("--start", metavar="ADAPTER", help="go on from this adapter")
    train.add_argument("--push", metavar="ORG/NAME", help="upload the result to the hub")
    _training(train)
    train.set_defaults(run=_train)

    reranker = commands.add_parser("train-reranker", help="train and calibrate a cross-encoder behind a first stage")
    reranker.add_argument("--pairs", nargs="+", required=True, metavar="SOURCE", help="as for `train`")
    reranker.add_argument("--out", required=True, metavar="DIR", help="a new folder for the reranker")
    reranker.add_argument(
        "--variant",
        choices=("adapters", "separate", "shared"),
        help="an adapter on the embedding's base, a base of its own, or one trained for both (default: adapters)",
    )
    reranker.add_argument("--recipe", metavar="NAME|TOML", help="settings to begin with; see `code-retrieval recipes`")
    reranker.add_argument(
        "--retriever", metavar="ADAPTER", help="of the first stage, whose hits it learns from (default: the base's)"
    )
    reranker.add_argument(
        "--validate", nargs="+", default=[], metavar="SOURCE", help="pairs that calibrate (default: hold some out)"
    )
    reranker.add_argument("--start", metavar="RERANKER", help="go on from this one, for instance embedded-reranker")
    reranker.add_argument(
        "--among",
        nargs="+",
        default=[],
        metavar="PATH",
        help="code bases whose imports, constants and heads of classes are to be told from answers",
    )
    reranker.add_argument("--resume", action="store_true", help="go on with the unfinished run in --out")
    reranker.add_argument("--push", metavar="ORG/NAME", help="upload the result to the hub")
    _training(reranker)
    reranker.add_argument(
        "--cache", metavar="DIR", help="embedding cache (default: CODE_RETRIEVAL_CACHE or the user's cache)"
    )
    reranker.set_defaults(run=_train_reranker)

    distil = commands.add_parser("distil", help="train a small query encoder whose vectors stand in for a model's")
    distil.add_argument("--pairs", nargs="+", default=[], metavar="SOURCE", help="as for `train`")
    distil.add_argument(
        "--queries",
        nargs="+",
        default=[],
        metavar="SOURCE",
        help="queries without answers: .txt with one a line, JSON lines, or as --pairs",
    )
    distil.add_argument("--out", required=True, metavar="DIR", help="a new folder for the query encoder")
    distil.add_argument(
        "--kind",
        choices=("static", "layers", "transformer"),
        help="a table of tokens, the model with fewer layers, or a small model of its own (default: static)",
    )
    distil.add_argument("--layers", metavar="0,5", help="the model's layers that a student of kind layers keeps")
    distil.add_argument("--recipe", metavar="NAME|TOML", help="settings to begin with; see `code-retrieval recipes`")
    distil.add_argument("--teacher", metavar="ADAPTER", help="of the model (default: the base's; none: the bare base)")
    distil.add_argument(
        "--validate", nargs="+", default=[], metavar="SOURCE", help="pairs that compare (default: hold some out)"
    )
    distil.add_argument(
        "--assistants",
        action="store_true",
        help="look for the fewest layers that are good enough, with teaching assistants on the way there",
    )
    distil.add_argument(
        "--step", type=int, metavar="N", help="layers that each round of --assistants removes (default: 1)"
    )
    distil.add_argument(
        "--threshold",
        type=float,
        metavar="MRR",
        help="MRR that --assistants may lose (default: 0.01)",
    )
    distil.add_argument("--resume", action="store_true", help="go on with the unfinished run or search in --out")
    distil.add_argument("--push", metavar="ORG/NAME", help="upload the result to the hub")
    _training(distil)
    distil.add_argument(
        "--cache", metavar="DIR", help="embedding cache (default: CODE_RETRIEVAL_CACHE or the user's cache)"
    )
    distil.set_defaults(run=_distil)

    adapt = commands.add_parser("adapt", help="mine a code base, train an adapter on it, and index it with that")
    adapt.add_argument("sources", nargs="+", metavar="PATH")
    adapt.add_argument("--out", default=DEFAULT_INDEX, metavar="DIR", help="the index (default: %(default)s)")
    adapt.add_argument(
        "--adapter-out", default=f"{DEFAULT_INDEX}-adapter", metavar="DIR", help="the adapter (default: %(default)s)"
    )
    adapt.add_argument(
        "--minutes", type=float, default=15, help="time for mining, training and scoring (default: %(default)s)"
    )
    _add_method(adapt)
    adapt.add_argument("--recipe", metavar="NAME|TOML", help="settings to begin with; see `code-retrieval recipes`")
    adapt.add_argument("--start", metavar="ADAPTER", help="go on from this adapter")
    _training(adapt)
    adapt.add_argument(
        "--wait", type=float, default=60, metavar="SECONDS", help="for another update (default: %(default)s)"
    )
    adapt.add_argument(
        "--cache", metavar="DIR", help="embedding cache (default: CODE_RETRIEVAL_CACHE or the user's cache)"
    )
    adapt.set_defaults(run=_adapt, epochs=10.0)

    recipes = commands.add_parser("recipes", help="the training recipes that come with the package")
    _add_method(recipes)
    recipes.add_argument("--json", action="store_true", help="machine-readable")
    recipes.set_defaults(run=_recipes)


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--method",
        choices=("lora", "adalora", "ia3", "prompt", "full"),
        help="what is trained, with its preset and learning rate (default: the recipe's, or lora)",
    )


def _training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base", metavar="MODEL", help=f"known name, hub name or folder (default: {EMBEDDED})")
    parser.add_argument("--language", nargs="+", metavar="L", help="only pairs of these")
    parser.add_argument("--epochs", type=float, metavar="N")
    parser.add_argument("--batch-size", type=int, metavar="PAIRS")
    parser.add_argument("--learning-rate", type=float, metavar="RATE")
    parser.add_argument("--seed", type=int)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting of a recipe; repeat for more",
    )
    common_options(parser, embeds=False)


def _mine(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.training.mining import check_folders, mine
    from llamaindex_code_retrieval.training.pairs import write_pairs

    out = Path(options.out)
    if not out.name.endswith((".jsonl", ".jsonl.gz")):
        raise ValueError(f"--out is {out}; its name must end in .jsonl or .jsonl.gz")
    if not out.parent.is_dir():
        raise ValueError(f"--out is {out}, but there is no folder {out.parent}; make it first")
    check_folders([source for source in options.sources if not GIT_URL.fullmatch(source)])  # before anything is cloned
    with tempfile.TemporaryDirectory() as clones, progress_bars() as progress:
        roots = [
            checkout(source, Path(clones, str(place))) if GIT_URL.fullmatch(source) else Path(source).expanduser()
            for place, source in enumerate(options.sources)
        ]
        report = mine(
            roots,
            languages=options.language,
            permissive_only=options.permissive_only,
            exclude=options.exclude,
            max_per_repository=options.max_per_repository,
            on_progress=progress,
        )
    if not report.pairs:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in {**report.dropped, **report.skipped}.items())
        raise ValueError(
            f"no pair in {', '.join(options.sources)}: {report.files:,} files read, {report.functions:,} functions "
            f"with a doc comment ({reasons or 'no source file'}); name a folder with documented functions"
        )
    write_pairs(out, report.pairs)
    facts: dict[str, Any] = {"pairs": len(report.pairs), "files": report.files, "functions": report.functions}
    for name in ("language", "repository", "license"):
        facts[name] = dict(Counter(getattr(pair, name) or "unknown" for pair in report.pairs).most_common())
    facts |= {"dropped": report.dropped, "skipped": report.skipped, "out": str(out)}
    if options.json:
        print_json(facts)
        return 0
    rows = [("files", f"{report.files:,}"), ("documented functions", f"{report.functions:,}")]
    for name in ("language", "repository", "license", "dropped", "skipped"):
        counts = list(facts[name].items())
        shown = [f"{count:,} {what}" for what, count in counts[:20]]
        shown += [f"and {len(counts) - 20:,} more"] if len(counts) > 20 else []
        if shown:
            rows.append((name, "\n".join(shown)))
    print_table(f"{len(report.pairs):,} pairs in {out}", rows)
    return 0


def _train(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.training import load_pairs, train_adapter
    from llamaindex_code_retrieval.training.processes import is_main_process

    recipe = _recipe(options)
    with progress_bars() as progress:
        run = train_adapter(
            load_pairs(*options.pairs),
            options.out,
            recipe=recipe,
            validation_pairs=load_pairs(*options.validate),
            start=options.start,
            device=options.device,
            resume=options.resume,
            sources=options.pairs,
            on_progress=progress,
        )
    if not is_main_process():
        return 0
    _print_training(run, _pushed(run, options), as_json=options.json)
    return 0


def _pushed(run: TrainingRun[Any], options: argparse.Namespace) -> dict[str, Any]:
    """Push the run's folder if ``--push`` says so, and return its record with the folder and the address."""
    record = {**run.record, "folder": str(run.folder)}
    if options.push and run.folder is not None:
        from llamaindex_code_retrieval.training.hub import push_run

        record["pushed"] = push_run(run.folder, options.push)
    return record


def _adapt(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.embedding import CodeEmbedding
    from llamaindex_code_retrieval.index.code_index import CodeIndex
    from llamaindex_code_retrieval.index.lock import update_lock
    from llamaindex_code_retrieval.training import adapt_to_repository

    for source in options.sources:
        if not Path(source).expanduser().is_dir():
            raise ValueError(f"{source} is not a folder; name a checkout with source code")
    recipe = _recipe(options)
    with progress_bars() as progress:
        run = adapt_to_repository(
            options.sources,
            options.adapter_out,
            recipe=recipe,
            minutes=options.minutes,
            start=options.start,
            device=options.device,
            on_progress=progress,
        )
    if run.folder is None or run.before is None or run.after is None:
        raise ValueError("no function was held out, so there is nothing to compare; name a larger code base")
    better = run.after["mrr"] > run.before["mrr"]
    adapter = str(run.folder.resolve()) if better else options.start  # None: the base's default one
    out = Path(options.out)
    with update_lock(out, seconds=options.wait, on_wait=print_waiting):
        ignore_by_git(out)
        embedding = CodeEmbedding(
            absolute(recipe.base), adapter=adapter, device=options.device, cache_folder=cache_folder(options)
        )
        index = CodeIndex(embedding)
        with progress_bars() as progress:
            report = index.update([Path(source) for source in options.sources], on_progress=progress)
        index.save(out)
    record = {**run.record, "folder": str(run.folder), "index": str(out), "indexed_with_adapter": better}
    _print_training(run, record, as_json=options.json)
    if not options.json:
        print_report(report, index, out, as_json=False)
    if not better:
        print_message("the adapter does not help on held-out functions; indexed without it")
    return 0


def _train_reranker(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.training.pair_sources import load_pairs
    from llamaindex_code_retrieval.training.recipes import load_reranker_recipe
    from llamaindex_code_retrieval.training.reranker import train_reranker

    recipe = load_reranker_recipe(options.recipe or options.variant or "adapters")
    if options.variant is not None and options.variant != recipe.train.variant:
        raise ValueError(
            f"the recipe {options.recipe} is for the variant {recipe.train.variant!r}; leave out --variant"
        )
    settings = _settings(options)
    if options.retriever is not None:
        settings["retriever"] = options.retriever
    with progress_bars() as progress:
        run = train_reranker(
            load_pairs(*options.pairs),
            options.out,
            recipe=recipe.with_settings(settings),
            validation_pairs=load_pairs(*options.validate),
            start=options.start,
            distractor_folders=options.among,
            device=options.device,
            cache_folder=cache_folder(options),
            resume=options.resume,
            sources=options.pairs,
            on_progress=progress,
        )
    record = _pushed(run, options)
    if options.json:
        print_json(record)
        return 0
    calibration = record["calibration"]
    rows = [
        ("base", f"{record['base']['name']}, fingerprint {record['base']['fingerprint']}"),
        ("variant", f"{record['train']['variant']}, {record['adapter']['method']}"),
        ("trained", f"{record['trained_parameters']:,} parameters; the base has {record['base_parameters']:,}"),
        ("pairs", f"{record['data']['pairs']:,}"),
        ("steps", f"{record['steps']:,}, best {record['best_step']:,}, in {record['seconds']:.0f} s"),
        ("peak memory", f"{record['peak_bytes'] / 2**20:,.0f} MiB"),
    ]
    for name, scores in record["calibration_scores"].items():
        rows.append((name, f"MRR {scores['mrr']:.4f}, R@1 {scores['r@1']:.4f}"))
    rows.append(("calibration error", f"{calibration['error']}"))
    rows.append(("fingerprint", record["fingerprint"]))
    print_table(f"Reranker {run.folder}", rows)
    return 0


def _distil(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.training.pair_sources import load_pairs
    from llamaindex_code_retrieval.training.queries import load_queries
    from llamaindex_code_retrieval.training.recipes import load_query_recipe

    if options.assistants and options.layers is not None:
        raise ValueError("--layers has no effect with --assistants, which chooses the layers; leave out one of them")
    limits = {name: getattr(options, name) for name in ("step", "threshold") if getattr(options, name) is not None}
    if limits and not options.assistants:
        raise ValueError(f"{', '.join(f'--{name}' for name in limits)} has an effect with --assistants only; add it")
    kind = options.kind or ("layers" if options.layers or options.assistants else "static")
    recipe = load_query_recipe(options.recipe or kind)
    if options.kind is not None and options.kind != recipe.student.kind:
        raise ValueError(f"the recipe {options.recipe} is for the kind {recipe.student.kind!r}; leave out --kind")
    settings = _settings(options)
    if options.teacher is not None:
        settings["teacher"] = options.teacher
    if options.layers is not None:
        settings["layers"] = _layers(options.layers)
    recipe = recipe.with_settings(settings)
    with progress_bars() as progress:
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
        pairs = load_pairs(*options.pairs)
        if options.assistants:
            from llamaindex_code_retrieval.training.assistants import search_assistants

            search, run = search_assistants(pairs, options.out, **limits, **arguments)
            return _print_searched(search, run, options)
        from llamaindex_code_retrieval.training.distil import distil_query_encoder

        run = distil_query_encoder(pairs, options.out, **arguments)
    record = _pushed(run, options)
    if options.json:
        print_json(record)
    else:
        _print_distilled(record)
    return 0


def _layers(given: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in given.split(","))
    except ValueError as error:
        raise ValueError(f"--layers takes numbers with commas between them, such as 0,5; got {given!r}") from error


def _print_searched(search: AssistantSearch, run: TrainingRun[QueryEncoder] | None, options: argparse.Namespace) -> int:
    record: dict[str, Any] = {} if run is None else _pushed(run, options)
    if options.json:
        tried = [{"path": each.lineage, "mrr": each.mrr} for each in search.tried]
        found = {"teacher_mrr": search.teacher_mrr, "threshold": search.threshold, "tried": tried}
        print_json({**record, "search": found})
        return 1 if run is None else 0
    students = [(str(len(search.tried[0].teachers[0])), "all", "", f"{search.teacher_mrr:.4f}")]
    for each in search.tried:
        chain = " -> ".join(str(len(layers)) for layers in each.teachers)
        students.append((str(len(each.layers)), ", ".join(map(str, each.layers)), chain, f"{each.mrr:.4f}"))
    headings = ("layers", "kept", "taught by", "MRR")
    title = f"Students, in {Path(options.out) / 'students'}"
    print_table(title, students, headings=headings, numeric=("layers", "MRR"))
    if run is None:
        print_message(
            f"even the largest student loses more than {search.threshold} MRR; allow more with --threshold, remove "
            "fewer layers with --step, or train longer with --epochs"
        )
        return 1
    _print_distilled(record)
    return 0


def _print_distilled(record: dict[str, Any]) -> None:
    kept, teacher = record["kept"], record["teacher"]
    times = record["milliseconds"]
    what = ", ".join(f"{name} {value}" for name, value in record["student"].items() if name not in ("kind", "adapter"))
    rows = [
        ("teacher", f"{teacher['name']}, {teacher['adapter']}, fingerprint {teacher['fingerprint']}"),
        ("student", f"{record['student']['kind']}, {what}"),
        ("queries", f"{record['data']['queries']:,}, {record['data']['pairs']:,} pairs"),
        ("steps", f"{record['steps']:,}, best {record['best_step']:,}, in {record['seconds']:.0f} s"),
        ("MRR", f"{kept['mrr']:.4f}, teacher {kept['teacher_mrr']:.4f}, on {kept['queries']} test queries"),
        ("retained", f"{kept['share']:.4f} of the MRR, 95 % interval {kept['low']:.4f} to {kept['high']:.4f}"),
        ("ms a query", f"{times['student']:.3f}, teacher {times['teacher']:.3f}"),
        ("fingerprint", record["fingerprint"]),
    ]
    print_table(f"Query encoder {record['folder']}", rows)
    if kept["high"] - kept["low"] > WIDE:
        print_message(
            f"{kept['queries']} test queries are too few for a comparison: the student may retain anything from "
            f"{kept['low']:.3f} to {kept['high']:.3f} of the MRR; give more with --validate",
        )


def _recipe(options: argparse.Namespace) -> Recipe:
    from llamaindex_code_retrieval.training.recipes import load_recipe

    settings = _settings(options)
    method = settings.pop("method", options.method)
    if options.method not in (None, method):
        raise ValueError(f"--method {options.method} and --set method={method} differ; leave one out")
    return load_recipe(options.recipe, method=method).with_settings(settings)


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return what was said of a recipe's settings on the command line."""
    settings: dict[str, Any] = {}
    for given in options.set:
        key, equals, value = given.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, got {given!r}")
        try:
            settings[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            settings[key.strip()] = value  # a bare word
    for key in ("base", "epochs", "batch_size", "learning_rate", "seed"):
        if getattr(options, key) is not None:
            settings[key] = getattr(options, key)
    if options.language:
        settings["languages"] = tuple(options.language)
    return settings


def _print_training(run: TrainingRun[Any], record: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(record)
        return
    share = record["trained_parameters"] / record["base_parameters"]
    rows = [
        ("base", f"{record['base']['name']}, fingerprint {record['base']['fingerprint']}"),
        ("method", record["adapter"]["method"]),
        ("trained", f"{record['trained_parameters']:,} of {record['base_parameters']:,} parameters ({share:.2%})"),
        ("pairs", f"{record['data']['pairs']:,}"),
        ("steps", f"{record['steps']:,}, best {record['best_step']:,}, in {record['seconds']:.0f} s"),
        ("peak memory", f"{record['peak_bytes'] / 2**20:,.0f} MiB"),
    ]
    for name, value in (run.before or {}).items():
        after = "" if run.after is None else f" -> {run.after[name]:.4f}"
        rows.append((f"held-out {name}", f"{value:.4f}{after}"))
    rows.append(("fingerprint", record["fingerprint"]))
    print_table(f"Adapter {run.folder}", rows)


def _recipes(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.training.recipes import (
        load_query_recipe,
        load_recipe,
        load_reranker_recipe,
        query_recipe_names,
        recipe_names,
        reranker_recipe_names,
    )

    recipes = {}
    for name in recipe_names():
        fixed = name.startswith("embedded-")  # has a method of its own
        recipes[name] = load_recipe(name, method=None if fixed else options.method).model_dump()
    recipes |= {name: load_reranker_recipe(name).model_dump() for name in reranker_recipe_names()}
    recipes |= {name: load_query_recipe(name).model_dump() for name in query_recipe_names()}
    if options.json:
        print_json(recipes)
        return 0
    rows = []
    for name, recipe in recipes.items():
        train = recipe["train"]
        settings = (train["epochs"], train["batch_size"], train["learning_rate"])
        row = (name, recipe["adapter"]["method"], ", ".join(recipe["languages"]) or "all", *settings)
        rows.append(tuple(map(str, row)))
    numeric = ("epochs", "batch", "learning rate")
    headings = ("name", "method", "languages", *numeric)
    print_table("Recipes; `code-retrieval recipes --json` shows all settings", rows, headings=headings, numeric=numeric)
    return 0
