"""The command ``train-ranking``."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from llamaindex_code_retrieval.cli.console import print_json, print_table, progress_bars
from llamaindex_code_retrieval.cli.options import cache_folder, common_options

if TYPE_CHECKING:
    from llamaindex_code_retrieval.training.train_ranking import RankingRun


def add_train_ranking(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``train-ranking``."""
    parser = commands.add_parser("train-ranking", help="fit the weights of the ranking to questions with known answers")
    parser.add_argument(
        "questions", type=Path, help="questions about repositories: repos.json and annotations, or a file"
    )
    parser.add_argument(
        "repositories",
        type=Path,
        help="the repository of a file of questions, else the folder in which each repository is a folder of its name",
    )
    parser.add_argument("--out", type=Path, default=Path("ranking.json"), help="file to write (default: %(default)s)")
    parser.add_argument(
        "--also",
        nargs=2,
        type=Path,
        action="append",
        default=[],
        metavar=("QUESTIONS", "REPOSITORIES"),
        help="further questions to fit the weights to, which are not measured; may be repeated",
    )
    parser.add_argument(
        "--weight",
        type=_weight,
        action="append",
        default=[],
        metavar="CATEGORY=W",
        help="how much a question of a category counts (default: 1); may be repeated",
    )
    parser.add_argument("--l2", type=float, help="how strongly the weights are kept small (default: 0.02)")
    parser.add_argument(
        "--file-penalty",
        type=float,
        metavar="P",
        help="what each further hit of a file loses for each of its hits before (default: 2)",
    )
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="start from weights of 0, for hundreds of questions (default: from the default ranking)",
    )
    parser.add_argument("--ablation", action="store_true", help="measure the ranking without each feature as well")
    parser.add_argument(
        "--indexes", type=Path, metavar="DIR", help="folder in which the indexes are kept for the next run"
    )
    common_options(parser)
    parser.set_defaults(run=run_train_ranking)


def run_train_ranking(options: argparse.Namespace) -> int:
    """Fit a ranking and print its means."""
    from llamaindex_code_retrieval import CodeEmbedding
    from llamaindex_code_retrieval.training.ranking_model import RankingConfig
    from llamaindex_code_retrieval.training.train_ranking import QuestionSet, train_ranking

    config = RankingConfig(category_weights=dict(options.weight))
    if options.l2 is not None:
        config = replace(config, l2=options.l2, name_l2=4 * options.l2)
    if options.file_penalty is not None:
        config = replace(config, file_penalty=options.file_penalty)
    sets = [
        QuestionSet(questions=questions, repositories=repositories)
        for questions, repositories in ((options.questions, options.repositories), *options.also)
    ]
    with progress_bars() as progress:
        run = train_ranking(
            sets[0],
            options.out,
            also=sets[1:],
            config=config,
            embedding=CodeEmbedding(cache_folder=cache_folder(options), device=options.device),
            from_default=not options.from_scratch,
            ablation=options.ablation,
            indexes=options.indexes,
            on_progress=progress,
        )
    if options.json:
        print_json({"file": str(options.out), **asdict(run)})
    else:
        _print_run(run, options.out)
    return 0


def _weight(text: str) -> tuple[str, float]:
    category, is_given, weight = text.rpartition("=")
    try:
        if is_given and category:
            return category, float(weight)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"a weight is CATEGORY=NUMBER, as in commit=0.1, got {text!r}")


def _print_run(run: RankingRun, out: Path) -> None:
    means = {"default ranking": run.before, "cross-validated": run.cross_validated, "fitted (has seen them)": run.after}
    rows = [
        (name, ", ".join(f"{category} {value:.4f}" for category, value in values.items()))
        for name, values in means.items()
        if values is not None
    ]
    rows += [
        (f"without {name}", f"{values['all'] - (run.cross_validated or values)['all']:+.4f}")
        for name, values in (run.ablation or {}).items()
    ]
    print_table(f"Ranking {out}, NDCG@10 of {run.questions} questions", rows)
