"""Model cards of adapters, rerankers and query encoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamaindex_code_retrieval.models.catalog import NO_ADAPTER


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
