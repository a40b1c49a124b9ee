"""Time and memory of the evaluation itself: metrics of 10,000 queries with 1,000 hits each, and one comparison.

The rankings are random. Measured are all default metrics, the ranks of the first relevant hits, the metrics with equal
codes counted as one, and the paired comparison of two runs; medians are reported. It takes about a minute on one core:

    python benchmarks/eval_cost.py [--queries 10000] [--hits 1000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import time
from collections.abc import Callable

from report import add_result_option, report

from llamaindex_code_retrieval.eval.metrics import METRICS, evaluate_run, first_relevant, per_query_metrics
from llamaindex_code_retrieval.eval.retrieval import collapse
from llamaindex_code_retrieval.eval.significance import paired_difference


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=10_000, help="number of queries (default: %(default)s)")
    parser.add_argument("--hits", type=int, default=1_000, help="hits of each query (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each part (default: %(default)s)")
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    rng = random.Random(0)
    ids = [f"path/to/file_{i}.py:{i % 997}" for i in range(5 * options.hits)]
    run = {f"q{i}": rng.sample(ids, options.hits) for i in range(options.queries)}
    # Half of the answers stand in the first ten, a third deeper, and the rest are not found.
    qrels = {
        query: {rng.choice((ranking[:10], ranking[:10], ranking[:10], ranking, ranking, ids)[rng.randrange(6)]): 1}
        for query, ranking in run.items()
    }
    representatives = {id_: id_ for id_ in ids}
    before = list(per_query_metrics(run, qrels, metrics=["MRR"])["MRR"].values())
    after = [min(1.0, value + rng.choice((0, 0, 0.1))) for value in before]
    stages: dict[str, Callable[[], object]] = {
        "metrics": lambda: per_query_metrics(run, qrels, metrics=METRICS),
        "ranks": lambda: first_relevant(run, qrels),
        "collapsed": lambda: evaluate_run(*collapse(run, qrels, representatives), metrics=METRICS),
        "comparison": lambda: paired_difference(before, after),
    }
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: dict[str, list[float]] = {stage: [] for stage in stages}
    for _ in range(options.repeats):
        for stage, work in stages.items():
            start = time.perf_counter()
            work()
            seconds[stage].append(time.perf_counter() - start)
    report(
        options.result,
        {
            "queries": options.queries,
            "hits": options.hits,
            "metrics": list(METRICS),
            "median_seconds": {stage: round(statistics.median(times), 2) for stage, times in seconds.items()},
            "peak_mib_beyond_the_run": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024),
        },
    )


if __name__ == "__main__":
    main()
