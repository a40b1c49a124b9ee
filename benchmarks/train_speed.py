"""Training speed and memory: our LoRA against sentence-transformers' trainer, same base, pairs, batch and LoRA.

Each run is a process of its own (so that peak memory is its own), both in turn, several times; medians are quoted.
Without $CODE_RETRIEVAL_DATA/cosqa the pairs are mined from Python's standard library.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

BATCH, TOKENS = 64, 256
RESULT = Path(__file__).with_suffix(".json")


def pairs(steps: int) -> list[tuple[str, str]]:
    """Return the first pairs of distinct queries and codes."""
    from llamaindex_code_retrieval.eval import data_folder
    from llamaindex_code_retrieval.training.mining import mine
    from llamaindex_code_retrieval.training.pair_sources import load_pairs

    folder = data_folder("cosqa")
    stdlib = Path(sysconfig.get_path("stdlib"))
    found = load_pairs(str(folder)) if folder is not None else mine([stdlib / "email", stdlib / "asyncio"]).pairs
    distinct = {pair.code: pair.query for pair in reversed(found)}
    return [(query, code) for code, query in distinct.items()][: BATCH * (steps + 1)]


def ours(steps: int) -> float:
    """Return seconds a step; the first is not counted."""
    from llamaindex_code_retrieval.models.encoder import Encoder
    from llamaindex_code_retrieval.training.adapters import attach_adapter
    from llamaindex_code_retrieval.training.config import AdapterConfig, TrainConfig
    from llamaindex_code_retrieval.training.contrastive import fit_adapter
    from llamaindex_code_retrieval.training.pairs import Pair

    data = [Pair(query=query, code=code) for query, code in pairs(steps)]
    encoder = Encoder.from_pretrained("embedded", precision="fp32", max_query_tokens=TOKENS, max_code_tokens=TOKENS)
    config = TrainConfig(epochs=1, batch_size=BATCH, precision="fp32")
    adapter = AdapterConfig(rank=8, targets="attention")
    history = fit_adapter(attach_adapter(encoder, adapter), data, adapter, config).history
    return (history[-1]["seconds"] - history[0]["seconds"]) / (len(history) - 1)


def theirs(steps: int) -> float:
    """Return seconds a step; the first is not counted."""
    from datasets import Dataset
    from peft import LoraConfig, TaskType
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesSymmetricRankingLoss
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

    data = pairs(steps)
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
            train_dataset=Dataset.from_dict({"anchor": [q for q, _ in data], "positive": [c for _, c in data]}),
            loss=MultipleNegativesSymmetricRankingLoss(model),
            callbacks=[Clock()],
        ).train()
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def main() -> None:
    """Run both in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="that are timed, after a first one (default: %(default)s)")
    parser.add_argument("--run", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        seconds = (ours if options.run == "ours" else theirs)(options.steps)
        print(json.dumps({"seconds": seconds, "kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
        return
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for _ in range(options.repeats):
        for name, results in runs.items():
            command = [sys.executable, __file__, "--run", name, "--steps", str(options.steps)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(name, results[-1], file=sys.stderr)
    facts: dict[str, float] = {}
    for name, results in runs.items():
        facts[f"{name}_pairs_per_second"] = round(BATCH / statistics.median(each["seconds"] for each in results), 2)
        facts[f"{name}_peak_mib"] = round(statistics.median(each["kib"] for each in results) / 1024)
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in zip(*runs.values(), strict=True)]
    facts["ratio"] = round(statistics.median(ratios), 2)
    RESULT.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
