"""Speed of embedding code: CodeEmbedding against LlamaIndex's HuggingFaceEmbedding and sentence-transformers.

All embed the same functions of CoSQA with the same weights, those of the embedded base without an adapter, and the same
token limit, on all cores. sentence-transformers is measured in torch (fp32, bf16) and, with ``--peer-python``, in ONNX
Runtime (fp32, dynamic int8) and OpenVINO (fp32, bf16, static int8 calibrated on CoSQA): each with all batch sizes, then
with its best one in turn with the others for several rounds. HuggingFaceEmbedding runs as it comes. Reported are
medians, the median of the ratios within a round, and MRR on CoSQA dev with a part of its codes, so that a configuration
that loses quality is seen.

The roofline: the matrix products of the model's layers alone are measured in each round and precision. A system's share
of it is what it computes for real tokens, without padding, divided by that limit.

Peak memory is that of a whole ``code-retrieval index`` process. It takes about 25 minutes on two cores:

    make peers  # once: the virtual environment of sentence-transformers' other backends
    export CODE_RETRIEVAL_DATA=…
    python benchmarks/index_speed.py --peer-python .venv-peers/bin/python [--rounds 5] [--minutes 40]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from embedding_worker import BACKENDS, LLAMAINDEX, OURS, ST, TORCH
from report import add_result_option, report
from roofline import Chain, flop_of, layer_shapes, limits, read_config
from runs import run_command

from llamaindex_code_retrieval.eval import Benchmark, data_folder, evaluate_run, load_beir
from llamaindex_code_retrieval.models.locate import locate

MAX_TOKENS = 256
BATCH_SIZES = (8, 16, 32, 64)
QUALITY = 0.002
"""A configuration whose MRR is lower than HuggingFaceEmbedding's by more is not among the best of its library."""
STATIC = f"{OURS}, embedded-static"
"""Another model, a table of tokens: it is here for its rate and MRR, and computes no matrix products."""
OUR_SETTINGS: dict[str, dict[str, Any]] = {
    OURS: {"device": "cpu"},
    f"{OURS}, fp32": {"device": "cpu", "precision": "fp32"},
    f"{OURS}, torch": {"device": "cpu", "runtime": "torch"},
    STATIC: {"model_name": "embedded-static"},
}
_CALIBRATION = 300
"""Codes that sentence-transformers' static quantization is calibrated on, its own default number."""


class Process:
    """A process of ``embedding_worker.py`` in an interpreter."""

    def __init__(self, python: str) -> None:
        script = str(Path(__file__).with_name("embedding_worker.py"))
        self._process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, call: str, **request: Any) -> dict[str, Any]:
        """Return the answer to a request; it has a key ``error`` if the system failed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"call": call, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"error": "its process has ended"}
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


@dataclass
class System:
    """A loaded system and what was measured of it."""

    name: str
    process: Process
    precision: str
    load_seconds: float
    batch_size: int = 0
    """0: the system's own."""
    sweep: dict[int, float] = field(default_factory=dict)
    """Batch size -> seconds."""
    seconds: list[float] = field(default_factory=list)
    mrr: float = 0.0

    def embed(self, texts: Sequence[str], *, batch_size: int | None = None, vectors: Path | None = None) -> float:
        """Embed texts, save the vectors if a file is given, and return the seconds."""
        request: dict[str, Any] = {} if vectors is None else {"vectors": str(vectors)}
        size = self.batch_size if batch_size is None else batch_size
        answer = self.process.ask("embed", system=self.name, texts=list(texts), batch_size=size, **request)
        if "error" in answer:
            raise RuntimeError(f"{self.name}: {answer['error']}")
        seconds: float = answer["seconds"]
        return seconds


class Systems:
    """The systems that could be loaded, each in the process of its group, and why others are left out."""

    def __init__(self) -> None:
        self.loaded: dict[str, System] = {}
        self.left_out: dict[str, str] = {}
        self._processes: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.close()

    def load(self, python: str, settings: Mapping[str, Any], **options: Any) -> None:
        """Load systems, given as names with their settings, in one process of an interpreter."""
        process = Process(python)
        self._processes.append(process)
        for name, own in settings.items():
            _log(f"loading {name}")
            answer = process.ask(
                "load", system=name, model=str(locate("embedded")), max_tokens=MAX_TOKENS, settings=own, **options
            )
            if "error" in answer:
                _log(f"{name} is left out: {answer['error']}")
                self.left_out[name] = answer["error"]
            else:
                self.loaded[name] = System(name, process, answer["precision"], answer["seconds"])

    def for_each(self, work: Callable[[System], None]) -> None:
        """Do the work with each system, and leave out those that fail."""
        for name, system in list(self.loaded.items()):
            try:
                work(system)
            except RuntimeError as error:
                _log(f"{name} is left out: {error}")
                self.left_out[name] = str(error)
                del self.loaded[name]


def load_systems(systems: Systems, peer_python: str | None, calibration: Sequence[str]) -> None:
    """Load all systems: ours, those that this interpreter has the packages of, and those of the other interpreter."""
    systems.load(sys.executable, OUR_SETTINGS)
    systems.load(sys.executable, {name: {} for name in (LLAMAINDEX, *TORCH)})
    if peer_python is None:
        systems.left_out |= dict.fromkeys(BACKENDS, "no --peer-python was given")
    else:
        systems.load(peer_python, {name: {} for name in BACKENDS}, calibration=list(calibration))


def sweep(system: System, texts: Sequence[str]) -> None:
    """Warm a system up, and find the fastest batch size of a configuration of sentence-transformers."""
    system.embed(texts[:64], batch_size=BATCH_SIZES[0])
    if system.name.startswith(ST):
        system.sweep = {size: system.embed(texts, batch_size=size) for size in BATCH_SIZES}
        system.batch_size = min(system.sweep, key=lambda size: system.sweep[size])
        _log(f"{system.name}: {', '.join(f'{len(texts) / s:.1f}/s at {size}' for size, s in system.sweep.items())}")


def take_turns(
    systems: Systems, limits_: Mapping[str, Chain], texts: Sequence[str], *, rounds: int, until: float
) -> dict[str, float]:
    """Embed the texts with each system in each round, until the time is over; return the median of each limit."""
    measured: dict[str, list[float]] = {precision: [] for precision in limits_}
    for turn in range(rounds):
        if turn and time.monotonic() > until:
            _log(f"the time is over after {turn} of {rounds} rounds")
            break
        for precision, limit in limits_.items():
            measured[precision].append(limit.flop_per_second())
        systems.for_each(lambda system: system.seconds.append(system.embed(texts)))
        rates = (f"{name} {len(texts) / each.seconds[-1]:.1f}/s" for name, each in systems.loaded.items())
        _log(f"round {turn + 1}: {', '.join(rates)}")
    return {precision: statistics.median(values) for precision, values in measured.items()}


def pool_of(benchmark: Benchmark, codes: int) -> dict[str, str]:
    """Return the answers to all queries, and other codes drawn at random up to ``codes``."""
    answers = {code for judged in benchmark.qrels.values() for code, score in judged.items() if score > 0}
    others = sorted(benchmark.corpus.keys() - answers)
    random.Random(0).shuffle(others)
    chosen = answers | set(others[: max(0, codes - len(answers))])
    return {code: text for code, text in benchmark.corpus.items() if code in chosen}


def measure_quality(system: System, benchmark: Benchmark, pool: Mapping[str, str]) -> None:
    """Set the MRR of a system by exact search among the codes of the pool."""
    ids = list(pool)
    with tempfile.TemporaryDirectory() as folder:
        codes, queries = Path(folder, "codes.npy"), Path(folder, "queries.npy")
        system.embed(list(pool.values()), vectors=codes)
        system.embed(list(benchmark.queries.values()), vectors=queries)
        cosines = np.load(queries) @ np.load(codes).T
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :1000]
    run = {query: [ids[i] for i in row] for query, row in zip(benchmark.queries, order, strict=True)}
    system.mrr = evaluate_run(run, benchmark.qrels, metrics=("MRR",))["MRR"]
    _log(f"{system.name}: MRR {system.mrr:.4f}")


def index_in_process(root: Path) -> dict[str, float]:
    """Run ``code-retrieval index`` on ``root`` without a cache and return its figures and its peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "llamaindex_code_retrieval.cli", "index", str(root), "--json"]
        finished = run_command([*command, "--out", f"{folder}/index", "--cache", f"{folder}/cache"])
    record = json.loads(finished.stdout)
    return {
        "files": record["files"],
        "nodes": record["nodes"],
        "truncated": record["truncated"],
        "seconds_whole_process": round(finished.seconds, 1),
        "nodes_per_second": round(record["nodes"] / record["seconds"], 1),
        "peak_memory_mib": finished.peak_mib,
    }


def token_lengths(texts: Sequence[str]) -> list[int]:
    """Return the number of tokens of each text that is read, special tokens included."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(locate("embedded") / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]


def rows_of(
    systems: Mapping[str, System], lengths: Sequence[int], limit_of: Mapping[str, float], flop: int
) -> dict[str, dict[str, Any]]:
    """Return the figures of each system."""
    peer, rows = systems.get(LLAMAINDEX), {}
    for name, system in systems.items():
        seconds = statistics.median(system.seconds)
        row: dict[str, Any] = {
            "precision": system.precision,
            "batch_size": system.batch_size or None,
            "functions_per_second": round(len(lengths) / seconds, 1),
            "tokens_per_second": round(sum(lengths) / seconds),
            "MRR": round(system.mrr, 4),
            "load_seconds": round(system.load_seconds, 1),
        }
        if name != STATIC:
            row["gflop_per_second"] = round(flop / seconds / 1e9, 1)
        if name != STATIC and system.precision in limit_of:
            row["share_of_limit"] = round(flop / seconds / limit_of[system.precision], 3)
        if peer is not None:
            row["times_as_fast"] = round(_median_ratio(peer.seconds, system.seconds), 2)
        if system.sweep:
            row["sweep"] = {str(size): round(len(lengths) / value, 1) for size, value in system.sweep.items()}
        rows[name] = row
    return rows


def _median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def compared_with_the_best(systems: Mapping[str, System]) -> dict[str, Any]:
    """Return the fastest configuration of sentence-transformers that keeps the quality, and how ours compares."""
    required = systems[LLAMAINDEX].mrr - QUALITY if LLAMAINDEX in systems else 0.0
    kept = [each for name, each in systems.items() if name.startswith(ST) and each.mrr >= required]
    if not kept:
        return {}
    best = min(kept, key=lambda each: statistics.median(each.seconds))
    return {"name": best.name, "times_as_fast": round(_median_ratio(best.seconds, systems[OURS].seconds), 2)}


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=400, help="functions drawn at random (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each system (default: %(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=40, help="no further round is started after this (default: %(default)s)"
    )
    parser.add_argument(
        "--codes", type=int, default=2000, help="codes for MRR, answers included (default: %(default)s)"
    )
    parser.add_argument(
        "--queries", type=int, default=500, help="queries for MRR, drawn at random (default: all %(default)s of dev)"
    )
    parser.add_argument(
        "--peer-python", metavar="FILE", help="interpreter with benchmarks/peers.txt (default: leave these out)"
    )
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    until = time.monotonic() + 60 * options.minutes
    folder = data_folder("cosqa")
    if folder is None:
        raise SystemExit("set CODE_RETRIEVAL_DATA to the folder that holds cosqa/")
    dev = load_beir(folder, split="dev").sample(options.queries)
    shuffled = random.Random(0).sample(sorted(dev.corpus), len(dev.corpus))
    texts, calibration = (
        [dev.corpus[code] for code in codes] for codes in (shuffled[: options.texts], shuffled[-_CALIBRATION:])
    )
    _log("code-retrieval index")
    index_command = index_in_process(Path(sysconfig.get_path("stdlib")) / "email")
    config, lengths = read_config(locate("embedded")), token_lengths(texts)
    flop = flop_of(config, lengths)
    pool = pool_of(dev, options.codes)
    with Systems() as systems:
        load_systems(systems, options.peer_python, calibration)
        systems.for_each(lambda system: sweep(system, texts))
        limits_ = limits(layer_shapes(config))
        limit_of = take_turns(systems, limits_, texts, rounds=options.rounds, until=until)
        systems.for_each(lambda system: measure_quality(system, dev, pool))
    report(
        options.result,
        {
            "texts": len(texts),
            "tokens": sum(lengths),
            "max_tokens": MAX_TOKENS,
            "flop": flop,
            "rounds": len(systems.loaded[OURS].seconds),
            "quality": {"queries": len(dev.queries), "codes": len(pool)},
            "limits": {
                precision: {"gflop_per_second": round(value / 1e9, 1), "fastest": limits_[precision].name}
                for precision, value in limit_of.items()
            },
            "systems": rows_of(systems.loaded, lengths, limit_of, flop),
            "best_of_sentence_transformers": compared_with_the_best(systems.loaded),
            "left_out": systems.left_out,
            "index_command_on_email_package": index_command,
        },
    )


if __name__ == "__main__":
    main()
