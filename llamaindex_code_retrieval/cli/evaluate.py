"""The command ``eval``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llamaindex_code_retrieval._io import make_folder, write_atomically
from llamaindex_code_retrieval._optional import check_installed
from llamaindex_code_retrieval.cli.console import print_json, print_message, print_text, progress_bars
from llamaindex_code_retrieval.cli.options import cache_folder, common_options, refuse_without_effect
from llamaindex_code_retrieval.models.catalog import EMBEDDED

if TYPE_CHECKING:
    from llamaindex_code_retrieval.eval.results import Comparison, Report
    from llamaindex_code_retrieval.eval.runner import Outcome


def add_eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``eval``."""
    parser = commands.add_parser("eval", help="measure retrieval and answers, and compare them with a baseline")
    parser.add_argument(
        "suite",
        nargs="?",
        default=EMBEDDED,
        metavar="SUITE",
        help="what to measure: a TOML file or the name of a suite in the package (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        default="code-retrieval-report",
        metavar="DIR",
        help="folder of the report, and of what an interrupted run goes on from (default: %(default)s)",
    )
    parser.add_argument(
        "--rerank-k",
        metavar="K,K,...",
        help="measure rerankers only, by the number of hits that they score, such as 5,10,20",
    )
    parser.add_argument("--baseline", metavar="FILE", help="report.json of an earlier run to compare with")
    parser.add_argument("--gate", action="store_true", help="exit with 1 if a metric is significantly worse")
    parser.add_argument("--update-baseline", action="store_true", help="write the result to --baseline")
    common_options(parser)
    parser.set_defaults(run=run_eval)


def run_eval(options: argparse.Namespace) -> int:
    """Run a suite, write its report and compare it with the baseline."""
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file; name a folder")
    check_installed("matplotlib", "scipy", extra="eval", purpose="the HTML report")
    if options.rerank_k is not None:
        return _run_curves(options, out)
    from llamaindex_code_retrieval.eval.gate import compare
    from llamaindex_code_retrieval.eval.results import Report
    from llamaindex_code_retrieval.eval.runner import run_suite
    from llamaindex_code_retrieval.eval.suite import load_suite

    if options.baseline is None:
        refuse_without_effect(options, ("gate", "update_baseline"), "without --baseline FILE")
    if options.gate and options.update_baseline:
        raise ValueError("--gate compares with the baseline and --update-baseline replaces it; give one of them")
    if options.update_baseline:
        if Path(options.baseline).is_dir():
            raise ValueError(f"--baseline {options.baseline} is a folder; name a file to write the baseline to")
        make_folder(Path(options.baseline).parent)
    suite = load_suite(options.suite)
    baseline = Report.load(options.baseline) if options.baseline and not options.update_baseline else None
    with progress_bars() as progress:
        outcome = run_suite(
            suite,
            baseline=baseline,
            out=out,
            cache_folder=cache_folder(options),
            device=options.device,
            on_progress=progress,
        )
    out.mkdir(parents=True, exist_ok=True)
    outcome.report.save(out / "report.json")  # before the comparison, which may be refused
    compared = [] if baseline is None else compare(outcome.report, baseline, suite.gate)
    _write(outcome, compared, baseline, out)
    if options.update_baseline:
        outcome.report.slim().save(options.baseline)
    _print(outcome.report, compared, out, as_json=options.json)
    return 1 if options.gate and any(each.regression for each in compared) else 0


def _write(outcome: Outcome, compared: Sequence[Comparison], baseline: Report | None, out: Path) -> None:
    from llamaindex_code_retrieval.eval.report import html, junit, markdown

    report = outcome.report
    write_atomically(out / "report.html", html(report, compared, codes=outcome.codes, baseline=baseline))
    write_atomically(out / "report.md", markdown(report, compared))
    write_atomically(out / "junit.xml", junit(report, compared))


def _print(report: Report, compared: Sequence[Comparison], out: Path, *, as_json: bool) -> None:
    from llamaindex_code_retrieval.eval.gate import describe
    from llamaindex_code_retrieval.eval.report import markdown

    if as_json:
        comparisons = [asdict(each) | {"changed": len(each.changed)} for each in compared]
        print_json({**asdict(report), "comparisons": comparisons})
    else:
        print_text(markdown(report, compared))
    print_message(f"report in {out / 'report.html'}")
    for each in compared:
        if each.regression or each.inconclusive:
            kind = "regression" if each.regression else "inconclusive drop"
            print_message(f"{kind}: {describe(each)}")


def _run_curves(options: argparse.Namespace, out: Path) -> int:
    """Measure rerankers by the number of hits that they score."""
    from llamaindex_code_retrieval.eval.curve_runner import run_curves
    from llamaindex_code_retrieval.eval.report import curve_html, curve_markdown
    from llamaindex_code_retrieval.eval.rerank_curve import parse_ks
    from llamaindex_code_retrieval.eval.suite import load_suite

    refuse_without_effect(options, ("baseline", "gate", "update_baseline"), "with --rerank-k")
    ks, suite = parse_ks(options.rerank_k), load_suite(options.suite)
    with progress_bars() as progress:
        report = run_curves(
            suite, ks, out=out, cache_folder=cache_folder(options), device=options.device, on_progress=progress
        )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "curve.json", report.json())
    write_atomically(out / "curve.md", curve_markdown(report))
    write_atomically(out / "curve.html", curve_html(report))
    if options.json:
        print_json(json.loads(report.json()))
    else:
        print_text(curve_markdown(report))
    print_message(f"curves in {out / 'curve.html'}")
    return 0
