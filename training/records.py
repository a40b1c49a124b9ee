"""What a training leaves beside its weights: settings, log, curves, model card; and where it is published."""

from __future__ import annotations

import importlib.metadata
import io
import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval.checkpoints import TRAIN_CONFIG
from llamaindex_code_retrieval.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.encoder import Encoder
from llamaindex_code_retrieval.files import write_atomically
from llamaindex_code_retrieval.training.adapters import AdapterConfig, save_adapter
from llamaindex_code_retrieval.training.contrastive import TrainResult
from llamaindex_code_retrieval.training.cross_encoder import TrainedReranker
from llamaindex_code_retrieval.training.loop import STATE
from llamaindex_code_retrieval.training.pairs import Pair, pairs_fingerprint
from llamaindex_code_retrieval.training.settings import LoopConfig

_VERSIONS = ("llamaindex-code-retrieval", "torch", "transformers", "peft", "tokenizers", "numpy")


def save_run(result: TrainResult, folder: str | Path, facts: Mapping[str, Any]) -> str:
    """Write adapter, ``train_config.json``, ``log.jsonl``, ``curves.svg`` and ``README.md``; return the fingerprint.

    ``facts`` are those of :func:`run_facts`. The adapter's own configuration comes after its weights and settings, so
    that a kill leaves no half adapter. The state of the unfinished run is removed last.
    """
    folder = Path(folder)
    _write_records(result.history, folder, facts)
    save_adapter(result.encoder, folder)
    fingerprint = _saved(result.encoder, folder).fingerprint
    write_atomically(folder / "README.md", model_card({**facts, "fingerprint": fingerprint}))
    (folder / STATE).unlink(missing_ok=True)
    return fingerprint


def save_reranker(result: TrainedReranker, folder: str | Path, facts: Mapping[str, Any]) -> str:
    """Write a reranker and its records as :func:`save_run` does, and return its fingerprint.

    An adapter is written last and a base first, because a folder with a base alone is no reranker, and one with an
    adapter alone would be taken for an embedding's.
    """
    folder, model = Path(folder), result.cross_encoder
    _write_records(result.history, folder, facts)
    if model.variant == "adapters":
        model.save(folder)
        save_adapter(model.encoder, folder)
    else:
        save_adapter(model.encoder, folder)
        model.save(folder, base=_saved(model.encoder, folder))
    fingerprint = CrossEncoder.load(folder, precision="fp32").fingerprint
    write_atomically(folder / "README.md", reranker_card({**facts, "fingerprint": fingerprint}))
    (folder / STATE).unlink(missing_ok=True)
    return fingerprint


def _write_records(history: Sequence[Mapping[str, Any]], folder: Path, facts: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TRAIN_CONFIG, json.dumps(facts, indent=2) + "\n")
    write_atomically(folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
    write_atomically(folder / "curves.svg", curves_svg(history))
    _tensorboard(history, folder)


def run_facts(
    result: TrainResult | TrainedReranker,
    *,
    pairs: Sequence[Pair],
    adapter: AdapterConfig,
    config: LoopConfig,
    sources: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return all that a run was: base, settings, data, sizes, scores, versions; and ``more`` facts."""
    encoder = result.encoder if isinstance(result, TrainResult) else result.cross_encoder.encoder
    scores = [entry for entry in result.history if "validation" in entry]
    return {
        "base": {
            "name": encoder.name,
            "fingerprint": encoder.base_fingerprint,
            "pooling": encoder.pooling,
            "architecture": encoder.architecture,
        },
        **more,
        "adapter": asdict(adapter),
        "train": asdict(config),
        "max_query_tokens": encoder.max_query_tokens,
        "max_code_tokens": encoder.max_code_tokens,
        "data": {
            "sources": list(sources),
            "pairs": len(pairs),
            "fingerprint": pairs_fingerprint(pairs),
            "languages": dict(Counter(pair.language for pair in pairs).most_common()),
            "repositories": len({pair.repository for pair in pairs if pair.repository}),
            "licenses": dict(Counter(pair.license for pair in pairs).most_common()),
        },
        "trained_parameters": result.trained,
        "base_parameters": result.base,
        "steps": result.steps,
        "best_step": result.best_step,
        "seconds": round(result.seconds, 1),
        "peak_bytes": result.peak_bytes,
        "validation_before": scores[0]["validation"] if scores else None,
        "validation_best": next((e["validation"] for e in scores if e["step"] == result.best_step), None),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {platform.system()}, {encoder.device.type}",
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS},
    }


def _saved(encoder: Encoder, folder: Path) -> Encoder:
    if hasattr(encoder.body, "peft_config"):
        return encoder.with_adapter(folder)
    return Encoder.from_pretrained(
        folder,
        precision="fp32",
        max_query_tokens=encoder.max_query_tokens,
        max_code_tokens=encoder.max_code_tokens,
    )


def curves_svg(history: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw the loss of each step and, where there was a validation, its MRR, over the steps."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    losses = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    scores = [(entry["step"], entry["validation"]["mrr"]) for entry in history if "validation" in entry]
    with rc_context({"svg.hashsalt": "code-retrieval", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        left = figure.add_subplot()
        left.plot(*zip(*losses, strict=True), color="#4477aa", linewidth=0.8, label="loss")
        left.set_xlabel("step")
        left.set_ylabel("loss", color="#4477aa")
        left.set_ylim(bottom=0)
        left.grid(alpha=0.3)
        if scores:
            right = left.twinx()
            right.plot(*zip(*scores, strict=True), color="#ee6677", marker="o", markersize=3, label="MRR")
            right.set_ylabel("validation MRR", color="#ee6677")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _tensorboard(history: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write the history as TensorBoard events where TensorBoard is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for entry in history:
            values = {**entry, **{f"validation/{k}": v for k, v in entry.get("validation", {}).items()}}
            for name, value in values.items():
                if isinstance(value, int | float) and name != "step":
                    writer.add_scalar(name, value, entry["step"])


def model_card(facts: Mapping[str, Any]) -> str:
    """Return the README of an adapter: what it is, how to use it, what it was made of and what it scored."""
    base, method = facts["base"], facts["adapter"]["method"]
    load = (
        f'CodeEmbedding("{base["name"]}", adapter="path/to/this/folder")'
        if method != "full"
        else 'CodeEmbedding("path/to/this/folder")'
    )
    return f"""---
library_name: {"peft" if method != "full" else "transformers"}
base_model: {base["name"]}
pipeline_tag: feature-extraction
tags: [code-search, code-retrieval, llama-index, {method}]
---

# {method} for {base["name"]}: code retrieval

Made by `code-retrieval train` of llamaindex-code-retrieval. Queries and codes are embedded by the same weights.

```python
from llamaindex_code_retrieval import CodeEmbedding

embedding = {load}
```

| | |
|---|---|
| base | {base["name"]}, fingerprint `{base["fingerprint"]}`, pooling {base["pooling"]} |
| fingerprint with this adapter | `{facts["fingerprint"]}`, at the token limits trained with |
| tokens trained with | {facts["max_query_tokens"]} of a query, {facts["max_code_tokens"]} of a code |
{_provenance(facts)}
![loss and validation](curves.svg)

All settings are in `train_config.json`, each step in `log.jsonl`.
"""


def reranker_card(facts: Mapping[str, Any]) -> str:
    """Return the README of a reranker, as :func:`model_card` does."""
    base, train = facts["base"], facts["train"]
    whole = train["variant"] != "adapters"
    calibration = facts["calibration"]
    return f"""---
library_name: {"transformers" if whole else "peft"}
base_model: {base["name"]}
pipeline_tag: text-ranking
tags: [code-search, code-retrieval, llama-index, reranker, cross-encoder, {train["variant"]}]
---

# Reranker ({train["variant"]}) for {base["name"]}: code retrieval

Made by `code-retrieval train-reranker` of llamaindex-code-retrieval. It reads a query and a code together and says how
probably the code answers the query.

```python
from llamaindex_code_retrieval import CodeReranker

reranker = CodeReranker("path/to/this/folder", top_n=5)
```

| | |
|---|---|
| base | {base["name"]}, fingerprint `{base["fingerprint"]}` |
| fingerprint | `{facts["fingerprint"]}` |
| first stage in training | {facts["retriever"]["name"]}, fingerprint `{facts["retriever"]["fingerprint"]}` |
| head, loss | {train["head"]}, {train["loss"]} |
| tokens of a pair | {train["max_tokens"]} |
| calibrated on | {facts["calibration_queries"]} held-out queries, the first {calibration["depth"]} hits of each |
| expected calibration error | {calibration["error"]} |
{_provenance(facts)}
![loss and validation](curves.svg)

All settings are in `train_config.json`, each step in `log.jsonl`.
"""


def _provenance(facts: Mapping[str, Any]) -> str:
    """Return the rows of a card that say what was trained on what, and what it scored."""
    data = facts["data"]
    share = facts["trained_parameters"] / facts["base_parameters"]
    rows = "\n".join(
        f"| {name} | {before:.4f} | {facts['validation_best'][name]:.4f} |"
        for name, before in (facts["validation_before"] or {}).items()
        if facts["validation_best"]
    )
    scores = f"\n| validation | before | after |\n|---|---|---|\n{rows}\n" if rows else "\nNot validated in training.\n"
    languages = ", ".join(f"{name or 'unknown'} {count:,}" for name, count in data["languages"].items())
    licenses = ", ".join(f"{name or 'not recorded'} {count:,}" for name, count in data["licenses"].items())
    return f"""| trained | {facts["trained_parameters"]:,} of {facts["base_parameters"]:,} parameters ({share:.2%}) |
| pairs | {data["pairs"]:,} (fingerprint `{data["fingerprint"]}`), from {", ".join(data["sources"]) or "memory"} |
| languages | {languages} |
| licences of the code | {licenses} |
| steps | {facts["steps"]}, best {facts["best_step"]}, seed {facts["train"]["seed"]} |
| time, peak memory | {facts["seconds"] / 60:.1f} min, {facts["peak_bytes"] / 2**20:,.0f} MiB |
| machine, date | {facts["machine"]}, {facts["date"]} |
{scores}
"""


def push_run(folder: str | Path, repository: str) -> str:
    """Upload a run's folder to the hub as ``org/name`` and return its address.

    Raises:
        OSError: the hub is out of reach, or refuses (not logged in, no right to write).
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=str(folder), ignore_patterns=[STATE, "tensorboard/*"]
        )
    except (HfHubHTTPError, OSError) as error:
        raise OSError(
            f"{folder} is saved, but could not be pushed to {repository} ({type(error).__name__}: {error}); "
            "log in with `hf auth login`, check the name and the network, and push again"
        ) from error
    return str(commit.commit_url)
