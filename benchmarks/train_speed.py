"""Training speed and peak memory of LoRA: this package against the trainer of sentence-transformers.

Both train the same base on the same pairs, with the same batch size, token limit and LoRA settings. They take turns,
each run in a process of its own, and medians are reported. This package computes texts without padding;
sentence-transformers needs flash attention for that (`unpad_inputs`), so it pads on a CPU. The pairs are CoSQA's, or
without $CODE_RETRIEVAL_DATA/cosqa mined from Python's standard library. The packages `sentence-transformers`, `peft`
and `datasets` are required. It takes about 10 minutes on two cores:

    python benchmarks/train_speed.py [--repeats 3] [--steps 5]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Literal

from report import add_result_option, report
from runs import run_in_process

BATCH, TOKENS = 64, 256


def distinct_pairs(steps: int) -> list[tuple[str, str]]:
    """Return pairs (query, code) of distinct codes for ``steps`` batches and a first one."""
    from llamaindex_code_retrieval.eval import data_folder
    from llamaindex_code_retrieval.training import load_pairs, mine

    folder = data_folder("cosqa")
    library = Path(sysconfig.get_path("stdlib"))
    pairs = load_pairs(str(folder)) if folder is not None else mine([library / "email", library / "asyncio"]).pairs
    query_of = {pair.code: pair.query for pair in reversed(pairs)}
    return [(query, code) for code, query in query_of.items()][: BATCH * (steps + 1)]


def ours(steps: int, *, device: str = "cpu", precision: Literal["fp32", "bf16"] = "fp32") -> float:
    """Return the seconds of a step of this package; the first one is not counted."""
    from llamaindex_code_retrieval import Encoder
    from llamaindex_code_retrieval.training import AdapterConfig, Pair, TrainConfig
    from llamaindex_code_retrieval.training.adapters import attach_adapter
    from llamaindex_code_retrieval.training.contrastive import fit_adapter

    pairs = [Pair(query=query, code=code) for query, code in distinct_pairs(steps)]
    encoder = Encoder.from_pretrained(
        "embedded", device=device, precision="fp32", max_query_tokens=TOKENS, max_code_tokens=TOKENS
    )
    config = TrainConfig(epochs=1, batch_size=BATCH, precision=precision)
    adapter = AdapterConfig(rank=8, targets="attention")
    stamps = [
        entry["seconds"] for entry in fit_adapter(attach_adapter(encoder, adapter), pairs, adapter, config).history
    ]
    return _seconds_per_step(stamps)


def peer(steps: int) -> float:
    """Return the seconds of a step of sentence-transformers; the first one is not counted."""
    from datasets import Dataset
    from peft import LoraConfig, TaskType
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from transformers import TrainerCallback

    from llamaindex_code_retrieval.models.locate import locate

    model = SentenceTransformer(str(locate("embedded")), device="cpu")
    model.max_seq_length = TOKENS
    model.add_adapter(
        LoraConfig(task_type=TaskType.FEATURE_EXTRACTION, r=8, lora_alpha=16, target_modules=["query", "value"])
    )
    stamps: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: object, **more: object) -> None:
            stamps.append(time.perf_counter())

    pairs = distinct_pairs(steps)
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH,
            num_train_epochs=1,
            learning_rate=1e-3,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({"anchor": [q for q, _ in pairs], "positive": [c for _, c in pairs]}),
            loss=MultipleNegativesRankingLoss(
                model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
            ),
            callbacks=[Clock()],
        ).train()
    return _seconds_per_step(stamps)


def _seconds_per_step(stamps: list[float]) -> float:
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each trainer (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=5, help="steps that are timed, after a first one (default: %(default)s)"
    )
    parser.add_argument("--run", choices=("ours", "peer"), help=argparse.SUPPRESS)
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    options = make_parser().parse_args()
    if options.run:
        seconds = (ours if options.run == "ours" else peer)(options.steps)
        print(json.dumps({"seconds": seconds, "kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
        return
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for _ in range(options.repeats):
        for name, results in runs.items():
            results.append(run_in_process(__file__, ["--run", name, "--steps", str(options.steps)]))
            print(name, results[-1], file=sys.stderr, flush=True)
    figures: dict[str, float] = {"repeats": options.repeats, "steps": options.steps}
    for name, results in runs.items():
        figures[f"{name}_pairs_per_second"] = round(BATCH / statistics.median(each["seconds"] for each in results), 2)
        figures[f"{name}_peak_mib"] = round(statistics.median(each["kib"] for each in results) / 1024)
    ratios = [peer["seconds"] / ours["seconds"] for ours, peer in zip(*runs.values(), strict=True)]
    figures["ratio"] = round(statistics.median(ratios), 2)
    report(options.result, figures)


if __name__ == "__main__":
    main()
