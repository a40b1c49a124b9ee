"""The commands eval and benchmark."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from llamaindex_code_retrieval.cli.console import print_json, print_message, print_text, progress_bars
from llamaindex_code_retrieval.cli.options import cache_folder, common_options
from llamaindex_code_retrieval.models.catalog import EMBEDDED


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    evaluate = commands.add_parser("eval", help="measure retrieval and answers, and compare them with a baseline")
    evaluate.add_argument(
        "suite", nargs="?", default=EMBEDDED, metavar="SUITE", help="TOML file, or one of ours (default: %(default)s)"
    )
    evaluate.add_argument("--out", default="code-retrieval-report", metavar="DIR", help="default: %(default)s")
    evaluate.add_argument(
        "--rerank-k", metavar="K,K,...", help="instead, measure systems with a reranker by the number of hits it reads"
    )
    evaluate.add_argument("--baseline", metavar="FILE", help="an earlier report.json to compare with")
    evaluate.add_argument("--gate", action="store_true", help="exit with 1 if something got significantly worse")
    evaluate.add_argument("--update-baseline", action="store_true", help="write the result to --baseline, for review")
    common_options(evaluate)
    evaluate.set_defaults(run=_eval)

    benchmark = commands.add_parser("benchmark", help="make a fixed benchmark of the documented functions in folders")
    benchmark.add_argument("sources", nargs="+", metavar="PATH")
    benchmark.add_argument("--out", required=True, metavar="DIR", help="a new folder, in BEIR's layout")
    benchmark.add_argument("--split", default="test", help="default: %(default)s")
    benchmark.add_argument("--queries", type=int, metavar="N", help="so many of them, drawn by chance (default: all)")
    benchmark.add_argument("--json", action="store_true", help="machine-readable")
    benchmark.set_defaults(run=_benchmark)


def _eval(options: argparse.Namespace) -> int:
    if options.rerank_k is not None:
        return _eval_curves(options)
    from llamaindex_code_retrieval._io import write_atomically
    from llamaindex_code_retrieval.eval.gate import compare, describe
    from llamaindex_code_retrieval.eval.report import html, junit, markdown
    from llamaindex_code_retrieval.eval.results import Report
    from llamaindex_code_retrieval.eval.runner import run_suite
    from llamaindex_code_retrieval.eval.suite import load_suite

    if (options.gate or options.update_baseline) and not options.baseline:
        raise ValueError("--gate and --update-baseline need to know the file: name it with --baseline")
    if options.gate and options.update_baseline:
        raise ValueError("--gate compares with the baseline and --update-baseline replaces it; give one of them")
    suite = load_suite(options.suite)
    baseline = Report.load(options.baseline) if options.baseline and not options.update_baseline else None
    out = Path(options.out)
    with progress_bars() as progress:
        outcome = run_suite(
            suite, out=out, cache_folder=cache_folder(options), device=options.device, on_progress=progress
        )
    report = outcome.report
    out.mkdir(parents=True, exist_ok=True)
    report.save(out / "report.json")  # before the comparison, which may be refused
    compared = [] if baseline is None else compare(report, baseline, suite.rules)
    write_atomically(out / "report.html", html(report, compared, codes=outcome.codes, baseline=baseline))
    write_atomically(out / "report.md", markdown(report, compared))
    write_atomically(out / "junit.xml", junit(report, compared))
    if options.update_baseline:
        report.slim().save(options.baseline)
    regressions = [each for each in compared if each.regression]
    if options.json:
        facts = asdict(report)
        facts["comparisons"] = [asdict(each) | {"changed": len(each.changed)} for each in compared]
        print_json(facts)
    else:
        print_text(markdown(report, compared))
    print_message(f"report in {out / 'report.html'}")
    for each in compared:
        if each.regression or each.inconclusive:
            kind = "regression" if each.regression else "inconclusive drop"
            print_message(f"{kind}: {describe(each)}")
    return 1 if regressions and options.gate else 0


def _eval_curves(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval._io import write_atomically
    from llamaindex_code_retrieval.eval.report import curve_html, curve_markdown
    from llamaindex_code_retrieval.eval.rerank_curve import parse_ks
    from llamaindex_code_retrieval.eval.runner import run_curves
    from llamaindex_code_retrieval.eval.suite import load_suite

    if options.baseline or options.gate or options.update_baseline:
        raise ValueError(
            "--rerank-k measures curves, which are compared with no baseline; leave it out, or --baseline, --gate and "
            "--update-baseline"
        )
    ks, out = parse_ks(options.rerank_k), Path(options.out)
    with progress_bars() as progress:
        report = run_curves(
            load_suite(options.suite),
            ks,
            out=out,
            cache_folder=cache_folder(options),
            device=options.device,
            on_progress=progress,
        )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "curve.json", report.json())  # before the page, for which matplotlib may be missing
    write_atomically(out / "curve.md", curve_markdown(report))
    write_atomically(out / "curve.html", curve_html(report))
    if options.json:
        print_json(json.loads(report.json()))
    else:
        print_text(curve_markdown(report))
    print_message(f"curves in {out / 'curve.html'}")
    return 0


def _benchmark(options: argparse.Namespace) -> int:
    from llamaindex_code_retrieval.eval.datasets import documented_functions, save_beir
    from llamaindex_code_retrieval.index.sources import read_sources

    out = Path(options.out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists already; name a new folder")
    benchmark = documented_functions(read_sources(map(Path, options.sources)), name=out.name)
    if options.queries:
        benchmark = benchmark.sample(options.queries)
    save_beir(benchmark, out, split=options.split)
    facts = {
        "folder": str(out),
        "codes": len(benchmark.corpus),
        "queries": len(benchmark.queries),
        "fingerprint": benchmark.fingerprint,
    }
    if options.json:
        print_json(facts)
    else:
        counts = f"{facts['codes']:,} codes and {facts['queries']:,} queries"
        print_text(f"{counts} in {out}, fingerprint {facts['fingerprint']}")
    return 0
