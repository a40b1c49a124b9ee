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

import safetensors.numpy
import safetensors.torch

from llamaindex_code_retrieval.checkpoints import QUERY_CONFIG, QUERY_WEIGHTS, TRAIN_CONFIG
from llamaindex_code_retrieval.cross_encoder import CrossEncoder
from llamaindex_code_retrieval.encoder import Encoder
from llamaindex_code_retrieval.files import write_atomically
from llamaindex_code_retrieval.models import NO_ADAPTER
from llamaindex_code_retrieval.query_encoder import BODY_CONFIG, FORMAT, TOKENIZER
from llamaindex_code_retrieval.training.adapters import AdapterConfig, save_adapter
from llamaindex_code_retrieval.training.contrastive import TrainResult
from llamaindex_code_retrieval.training.cross_encoder import TrainedReranker
from llamaindex_code_retrieval.training.distillation import Distilled, Search, StaticStudent, Student
from llamaindex_code_retrieval.training.loop import STATE, Finished
from llamaindex_code_retrieval.training.pairs import Pair, pairs_fingerprint
from llamaindex_code_retrieval.training.settings import LoopConfig, StudentConfig

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


def save_query_encoder(
    student: Student, folder: str | Path, config: StudentConfig, *, teacher: Mapping[str, str], max_tokens: int
) -> None:
    """Write what ``QueryEncoder.load`` reads; ``teacher`` has its name, adapter and fingerprint.

    ``query_encoder.json`` comes before any weights, because a folder with them alone would be taken for something else.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made: Any = student
    facts = {
        "format": FORMAT,
        "kind": config.kind,
        "teacher": dict(teacher),
        "layers": list(config.layers) if config.kind == "layers" else [],
        "buckets": config.buckets if config.kind == "static" else 0,
        "int8": config.int8 and config.kind != "static",
        "max_tokens": max_tokens,
    }
    write_atomically(folder / QUERY_CONFIG, json.dumps(facts, indent=1) + "\n")
    if isinstance(made, StaticStudent):
        write_atomically(folder / TOKENIZER, made.tokenizer_json())
        write_atomically(folder / QUERY_WEIGHTS, safetensors.numpy.save(made.tensors()))
        return
    if hasattr(made.body, "peft_config"):
        trained = {name: p for name, p in made.body.proj.named_parameters() if p.requires_grad}  # none: the base's own
    else:
        trained = dict(made.body.named_parameters())
    if trained:
        tensors = {name: p.detach().cpu().contiguous() for name, p in trained.items()}
        write_atomically(folder / QUERY_WEIGHTS, safetensors.torch.save(tensors))
    if config.kind == "transformer":
        write_atomically(folder / BODY_CONFIG, made.body.config.to_json_string())
    elif hasattr(made.body, "peft_config"):
        save_adapter(made, folder)


def save_distillation(result: Distilled, folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Write the records of a student that :func:`save_query_encoder` has saved, and remove the unfinished run's state.

    ``facts`` are those of :func:`run_facts`, with ``teacher``, ``student`` and ``kept``.
    """
    folder = Path(folder)
    _write_records(result.history, folder, facts)
    write_atomically(folder / "README.md", query_card(facts))
    (folder / STATE).unlink(missing_ok=True)


def _write_records(history: Sequence[Mapping[str, Any]], folder: Path, facts: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TRAIN_CONFIG, json.dumps(facts, indent=2) + "\n")
    write_atomically(folder / "log.jsonl", "".join(json.dumps(entry) + "\n" for entry in history))
    write_atomically(folder / "curves.svg", curves_svg(history))
    _tensorboard(history, folder)


def run_facts(
    result: Finished,
    encoder: Encoder,
    *,
    pairs: Sequence[Pair],
    adapter: AdapterConfig,
    config: LoopConfig,
    sources: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """Return all that a run on ``encoder``'s base was: settings, data, sizes, scores, versions; and ``more`` facts."""
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


def search_svg(search: Search) -> bytes:
    """Draw the students of a search: layers against MRR, a line from each to the one who taught it."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    scores = {each.path: each.mrr for each in search.tried}
    scores |= {each.teacher: search.teacher_mrr for each in search.tried if len(each.teacher) == 1}
    with rc_context({"svg.hashsalt": "code-retrieval", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        for path, mrr in scores.items():
            if len(path) > 1:
                axes.plot([len(path[-2]), len(path[-1])], [scores[path[:-1]], mrr], color="#4477aa", linewidth=0.8)
            chosen = search.chosen is not None and path == search.chosen.path
            axes.plot(len(path[-1]), mrr, "o", color="#ee6677" if chosen else "#4477aa", markersize=9 if chosen else 5)
            label = "-".join(str(len(layers)) for layers in path)
            axes.annotate(label, (len(path[-1]), mrr), textcoords="offset points", xytext=(6, 4), fontsize=8)
        axes.set_xlabel("layers (6-4-2 has 2 and was taught by the 4 that the 6 taught)")
        axes.set_ylabel("validation MRR")
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
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
| begun with | {_begun(facts)} |
| first stage in training | {facts["retriever"]["name"]}, fingerprint `{facts["retriever"]["fingerprint"]}` |
| head, loss | {train["head"]}, {train["loss"]} |
| tokens of a pair | {train["max_tokens"]} |
| calibrated on | {facts["calibration_queries"]} held-out queries, the first {calibration["depth"]} hits of each |
| expected calibration error | {calibration["error"]} |
{_provenance(facts)}
![loss and validation](curves.svg)

All settings are in `train_config.json`, each step in `log.jsonl`.
"""


def _begun(facts: Mapping[str, Any]) -> str:
    start, blend = facts.get("start"), facts["train"].get("blend", 1)
    if start is None:
        return "a head that knows nothing"
    blended = f"; these weights are {blend:g} of the way from it to what was learned" if blend < 1 else ""
    return f"{start['name']}, fingerprint `{start['fingerprint']}`{blended}"


def query_card(facts: Mapping[str, Any]) -> str:
    """Return the README of a query encoder, as :func:`model_card` does."""
    base, teacher, student = facts["base"], facts["teacher"], facts["student"]
    adapter = "" if teacher["adapter"] == NO_ADAPTER else f', adapter="{teacher["adapter"]}"'
    what = ", ".join(f"{name} {value}" for name, value in student.items() if name not in ("kind", "adapter"))
    train = facts["train"]
    kept = facts["kept"]
    return f"""---
library_name: llamaindex-code-retrieval
base_model: {base["name"]}
pipeline_tag: feature-extraction
tags: [code-search, code-retrieval, llama-index, distillation, {student["kind"]}]
---

# Query encoder ({student["kind"]}) for {base["name"]}, {teacher["adapter"]}

Made by `code-retrieval distil` of llamaindex-code-retrieval. It embeds queries in place of its teacher, whose vectors
of code stay.

```python
from llamaindex_code_retrieval import CodeEmbedding

embedding = CodeEmbedding("{base["name"]}"{adapter}, query_encoder="path/to/this/folder")
```

| | |
|---|---|
| teacher | {teacher["name"]}, {teacher["adapter"]}, fingerprint `{teacher["fingerprint"]}` |
| student | {student["kind"]}, {what} |
| loss | {train["single"]} single, {train["dual"]} dual, {train["contrastive"]} contrastive |
| queries | {facts["data"]["queries"]:,} |
| share of the teacher's MRR, validation | {kept["share"]:.4f}, 95 % interval {kept["low"]:.4f} to {kept["high"]:.4f} |
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
