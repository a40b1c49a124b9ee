"""What the harness itself costs: all metrics of 10,000 queries with 1,000 hits each, and the gate's comparison of them.

python benchmarks/eval_cost.py [--queries 10000] [--hits 1000]
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import time
from datetime import date
from pathlib import Path

from llamaindex_code_retrieval.eval.metrics import METRICS, evaluate_run, first_relevant, per_query_metrics
from llamaindex_code_retrieval.eval.retrieval import collapse
from llamaindex_code_retrieval.eval.significance import paired_difference


def main() -> None:
    """Measure and write the result beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--hits", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = random.Random(0)
    ids = [f"path/to/file_{i}.py:{i % 997}" for i in range(5 * options.hits)]
    run = {f"q{i}": rng.sample(ids, options.hits) for i in range(options.queries)}
    # Half of the answers stand in the first ten, a third deeper, and the rest are not found.
    qrels = {
        query: {rng.choice((ranking[:10], ranking[:10], ranking[:10], ranking, ranking, ids)[rng.randrange(6)]): 1}
        for query, ranking in run.items()
    }
    first = {id_: id_ for id_ in ids}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds: dict[str, list[float]] = {"metrics": [], "ranks": [], "collapsed": [], "comparison": []}
    for _ in range(options.repeats):
        start = time.perf_counter()
        values = per_query_metrics(run, qrels, metrics=METRICS)
        seconds["metrics"].append(time.perf_counter() - start)
        start = time.perf_counter()
        first_relevant(run, qrels)
        seconds["ranks"].append(time.perf_counter() - start)
        start = time.perf_counter()
        once, judged = collapse(run, qrels, first)
        evaluate_run(once, judged, metrics=METRICS)
        seconds["collapsed"].append(time.perf_counter() - start)
        start = time.perf_counter()
        now = list(values["MRR"].values())
        paired_difference([min(1.0, value + rng.choice((0, 0, 0.1))) for value in now], now)
        seconds["comparison"].append(time.perf_counter() - start)
    result = {
        "date": date.today().isoformat(),
        "queries": options.queries,
        "hits": options.hits,
        "metrics": list(METRICS),
        "median_seconds": {stage: round(statistics.median(times), 2) for stage, times in seconds.items()},
        "peak_mib_beyond_the_run": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
