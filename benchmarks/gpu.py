"""Speed on a GPU: embedding in fp32 and bf16, padded and packed, LlamaIndex's HuggingFaceEmbedding, one training.

All embed the same nodes of Python's standard library with the same weights, the embedded base without an adapter; the
peer runs as it comes, and once more in bf16 with batches of 256. Medians of three rounds in turn. "packed" is without
padding, where the encoder does that on the device. The training is that of ``train_speed.py``. No network is needed; it
ends within 5 minutes, with what was measured until then. Without a GPU it says so and exits with 2; a processor is
measured with ``--device cpu``:

    python benchmarks/gpu.py [--texts 4000] [--minutes 5] [--device cpu]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from llama_index.core.schema import Document
from report import add_result_option, report
from train_speed import BATCH, ours

from llamaindex_code_retrieval import CodeNodeParser, Encoder
from llamaindex_code_retrieval.cli.demo import MODULES, library_sources
from llamaindex_code_retrieval.models.locate import locate

ROUNDS = 3
PRECISIONS: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16")
PEER = "HuggingFaceEmbedding"
_PEER_BATCH = 256

Embed = Callable[[list[str]], object]


def library_texts(count: int) -> list[str]:
    """Return the texts of nodes of the standard library, repeated if they are fewer than ``count``."""
    documents = [Document(text=text, metadata={"path": path}) for path, text in library_sources(MODULES).items()]
    texts = [node.get_content() for node in CodeNodeParser().get_nodes_from_documents(documents)]
    return [texts[i % len(texts)] for i in range(count)]


def systems(device: str) -> tuple[dict[str, Embed], dict[str, str]]:
    """Return what embeds texts, by name, and why others are left out."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embed: dict[str, Embed] = {}
    left_out: dict[str, str] = {}
    for precision in PRECISIONS:
        encoder = Encoder.from_pretrained("embedded", device=device, precision=precision)
        embed[f"Encoder, {precision}, padded"] = padded(encoder).encode_codes
        if encoder.packs:
            embed[f"Encoder, {precision}, packed"] = encoder.encode_codes
        else:
            left_out[f"Encoder, {precision}, packed"] = f"the encoder pads its batches on {device}"
    base = str(locate("embedded"))
    embed[PEER] = HuggingFaceEmbedding(base, device=device).get_text_embedding_batch
    embed[f"{PEER}, bf16, batches of {_PEER_BATCH}"] = HuggingFaceEmbedding(
        base, device=device, embed_batch_size=_PEER_BATCH, model_kwargs={"dtype": torch.bfloat16}
    ).get_text_embedding_batch
    return embed, left_out


def padded(encoder: Encoder) -> Encoder:
    """Return the encoder with the attention of torch, which pads its batches."""

    def change(base: Any) -> Any:
        base.set_attn_implementation("sdpa")
        return base

    return encoder.with_backbone(change)


def embedding_seconds(embed: dict[str, Embed], texts: list[str], *, until: float) -> dict[str, list[float]]:
    """Return the seconds of each round, by system; those that the time was not enough for have none."""
    seconds: dict[str, list[float]] = {name: [] for name in embed}
    for turn in range(ROUNDS):
        for name, work in embed.items():
            if time.monotonic() > until:
                break
            if turn == 0:
                work(texts[:_PEER_BATCH])  # warm-up
            start = time.perf_counter()
            work(texts)  # returns vectors in the memory of the processor, so the device has finished
            seconds[name].append(time.perf_counter() - start)
            print(f"{name}: {len(texts) / seconds[name][-1]:.0f}/s", file=sys.stderr, flush=True)
    return seconds


def training_rates(device: str, steps: int, *, until: float) -> dict[str, float]:
    """Return pairs a second, by precision, while there is time."""
    rates: dict[str, float] = {}
    for precision in PRECISIONS:
        if time.monotonic() < until:
            rates[precision] = round(BATCH / ours(steps, device=device, precision=precision), 1)
            print(f"training, {precision}: {rates[precision]} pairs/s", file=sys.stderr, flush=True)
    return rates


def peak_gpu_mib(device: str) -> int | None:
    """Return the largest memory that torch used of a GPU."""
    return round(torch.cuda.max_memory_allocated(device) / 2**20) if device.startswith("cuda") else None


def rates_of(seconds: dict[str, list[float]], texts: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return texts a second and the ratio to the peer as it comes, by system."""
    medians = {name: statistics.median(values) for name, values in seconds.items() if values}
    return {
        name: {
            "functions_per_second": round(len(texts) / value, 1),
            **({"times_as_fast": round(medians[PEER] / value, 2)} if PEER in medians else {}),
        }
        for name, value in medians.items()
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=4000, help="nodes that are embedded (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, help="steps of each training (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=5, help="nothing is started after it (default: %(default)s)")
    parser.add_argument("--device", default="cuda", help="torch device (default: %(default)s)")
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    parser = make_parser()
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device on this machine; measure the processor with --device cpu")
    until = time.monotonic() + 60 * options.minutes
    texts = library_texts(options.texts)
    embed, left_out = systems(options.device)
    # The peers and the trainings are slow: a third of the time is left for the trainings.
    seconds = embedding_seconds(embed, texts, until=until - 20 * options.minutes)
    peak = peak_gpu_mib(options.device)
    report(
        options.result,
        {
            "device": options.device,
            "texts": len(texts),
            "rounds": min(map(len, seconds.values())),
            "embedding": rates_of(seconds, texts),
            "left_out": left_out,
            "peak_gpu_mib_of_embedding": peak,
            "training_pairs_per_second": training_rates(options.device, options.steps, until=until),
            "training_steps": options.steps,
        },
    )


if __name__ == "__main__":
    main()
