"""Model cards of adapters, rerankers and query encoders: the README of a run's folder, as the hub reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llamaindex_code_retrieval.models.catalog import NO_ADAPTER, PUBLISHED, hub_name
from llamaindex_code_retrieval.models.locate import is_hub_name

_LICENSES = {model.hub_name: "apache-2.0" for model in PUBLISHED.values()}
"""Licences of bases, which also hold for what is trained on them; other bases are left to the author of the card."""
_TAGS = ("code-search", "code-retrieval", "llama-index")

_FILES = """![loss and validation](curves.svg)

`train_config.json` holds all settings, `log.jsonl` the numbers of each step.
"""


def model_card(record: Mapping[str, Any]) -> str:
    """Return the README of an adapter: what it is, how to use it, what it was trained on and what it scores."""
    base, method = record["base"], record["adapter"]["method"]
    is_adapter = method != "full"
    arguments = f'"{base["name"]}", adapter="path/to/this/folder"' if is_adapter else '"path/to/this/folder"'
    return f"""{_metadata(record, library="peft" if is_adapter else "transformers", tags=[method])}
# Code retrieval: {method} for {hub_name(base["name"])}

Trained by `code-retrieval train` of llamaindex-code-retrieval. The same weights embed queries and codes.

```python
from llamaindex_code_retrieval import CodeEmbedding

embedding = CodeEmbedding({arguments})
```

| | |
|---|---|
| base | {_base(record)}, pooling {base["pooling"]} |
| fingerprint of base and adapter | `{record["fingerprint"]}`, with the token limits of the training |
| token limits of the training | {record["max_query_tokens"]} for a query, {record["max_code_tokens"]} for a code |
{_provenance(record)}

{_validation(record)}

{_FILES}"""


def pretraining_card(record: Mapping[str, Any]) -> str:
    """Return the README of a pretraining, as :func:`model_card` does."""
    base, train, method = record["base"], record["train"], record["adapter"]["method"]
    is_adapter = method != "full"
    options = f"--base {base['name']} --start path/to/this/folder" if is_adapter else "--base path/to/this/folder"
    return f"""{_metadata(record, library="peft" if is_adapter else "transformers", tags=[method, "pretraining"])}
# Pretrained on source code: {method} for {hub_name(base["name"])}

Trained by `code-retrieval pretrain` of llamaindex-code-retrieval to predict masked tokens and masked names. It is the
first of two stages, and no model for retrieval yet. The second one trains it on pairs:

```sh
code-retrieval train {options} --pairs pairs.jsonl --out my-adapter
```

| | |
|---|---|
| base | {_base(record)} |
| fingerprint | `{record["fingerprint"]}` |
| started from | {record["start"] or "the base itself"} |
| batches that mask names, and the share of names | {train["name_batches"]:g}, {train["masked_names"]:g} |
| share of tokens masked in the others | {train["masked_tokens"]:g} |
| tokens of a text | {record["max_code_tokens"]} |
{_provenance(record)}

{_validation(record)}

{_FILES}"""


def average_card(record: Mapping[str, Any]) -> str:
    """Return the README of an average of adapters, whose record has no training of its own."""
    base = record["base"]["name"]
    rows = "\n".join(f"| {adapter['name']} | `{adapter['sha256']}` |" for adapter in record["averaged"])
    return f"""# Code retrieval: mean of LoRA adapters for {hub_name(base)}

Made by `code-retrieval average` of llamaindex-code-retrieval: rank {record["rank"]}, {record["kept"]:.2%} of the
squared change of the weights.

```python
from llamaindex_code_retrieval import CodeEmbedding

embedding = CodeEmbedding("{base}", adapter="path/to/this/folder")
```

| mean of | SHA-256 of its weights |
|---|---|
{rows}
"""


def reranker_card(record: Mapping[str, Any]) -> str:
    """Return the README of a reranker, as :func:`model_card` does."""
    train, retriever, calibration = record["train"], record["retriever"], record["calibration"]
    library = "peft" if train["variant"] == "adapters" else "transformers"
    tags = ["reranker", "cross-encoder", train["variant"]]
    scores = "\n".join(
        f"| {name} | {each['mrr']:.4f} | {each['r@1']:.4f} |" for name, each in record["calibration_scores"].items()
    )
    return f"""{_metadata(record, library=library, pipeline="text-ranking", tags=tags)}
# Reranker ({train["variant"]}) for {hub_name(record["base"]["name"])}: code retrieval

Trained by `code-retrieval train-reranker` of llamaindex-code-retrieval. It reads a query and a code together and
returns the probability that the code answers the query.

```python
from llamaindex_code_retrieval import CodeReranker

reranker = CodeReranker("path/to/this/folder", top_n=5)
```

| | |
|---|---|
| base | {_base(record)} |
| fingerprint | `{record["fingerprint"]}` |
| started from | {_start(record)} |
| first stage in training | {retriever["name"]}, fingerprint `{retriever["fingerprint"]}` |
| head, loss | {train["head"]}, {train["loss"]} |
| tokens of a pair | {train["max_tokens"]} |
| calibrated on | {record["calibration_queries"]} held-out queries, the first {calibration["depth"]} hits of each |
| expected calibration error | {calibration["error"]} |
{_provenance(record)}

| calibration queries | MRR | R@1 |
|---|---|---|
{scores}

{_validation(record)}

{_FILES}"""


def query_card(record: Mapping[str, Any]) -> str:
    """Return the README of a query encoder, as :func:`model_card` does."""
    teacher, student, train, kept = record["teacher"], record["student"], record["train"], record["kept"]
    adapter = "" if teacher["adapter"] == NO_ADAPTER else f', adapter="{teacher["adapter"]}"'
    settings = ", ".join(f"{name} {value}" for name, value in student.items() if name not in ("kind", "adapter"))
    tags = ["distillation", student["kind"]]
    chose = "did not choose" if "validation_queries" in record else "also chose"
    return f"""{_metadata(record, library="llamaindex-code-retrieval", tags=tags)}
# Query encoder ({student["kind"]}) for {hub_name(record["base"]["name"])}, adapter {teacher["adapter"]}

Trained by `code-retrieval distil` of llamaindex-code-retrieval. It embeds queries in place of its teacher, which
embeds the codes.

```python
from llamaindex_code_retrieval import CodeEmbedding

embedding = CodeEmbedding("{record["base"]["name"]}"{adapter}, query_encoder="path/to/this/folder")
```

| | |
|---|---|
| teacher | {teacher["name"]}, adapter {teacher["adapter"]}, fingerprint `{teacher["fingerprint"]}` |
| student | {student["kind"]}, {settings} |
| weights of the loss | {train["single"]} single, {train["dual"]} dual, {train["contrastive"]} contrastive |
| queries | {record["data"]["queries"]:,} |
| share of the teacher's MRR | {kept["share"]:.4f}, 95 % interval {kept["low"]:.4f} to {kept["high"]:.4f}, \
on {kept["queries"]} queries that {chose} the best step |
{_provenance(record)}

{_validation(record)}

{_FILES}"""


def static_card(record: Mapping[str, Any]) -> str:
    """Return the README of a static embedding model, as :func:`model_card` does."""
    train = record["train"]
    return f"""{_metadata(record, library="llamaindex-code-retrieval", tags=["static"])}
# Static embedding model for code retrieval

Trained by `code-retrieval train-static` of llamaindex-code-retrieval. A table of token vectors embeds queries and codes
without a transformer.

```python
from llamaindex_code_retrieval import CodeEmbedding

embedding = CodeEmbedding("path/to/this/folder")
```

| | |
|---|---|
| fingerprint | `{record["fingerprint"]}` |
| vectors | {train["dim"]} numbers, of at most {train["max_tokens"]} tokens of a text |
| started from | vectors of single tokens by {_base(record)} |
{_provenance(record)}

{_validation(record)}

{_FILES}"""


def _metadata(
    record: Mapping[str, Any], *, library: str, tags: Sequence[str], pipeline: str = "feature-extraction"
) -> str:
    """Return the YAML header, which the hub reads. It names a base and data sets only if they are from the hub."""
    base = hub_name(record["base"]["name"].partition("@")[0])
    on_hub = [source for source in record["data"]["sources"] if source.startswith("hf:")]
    fields: dict[str, Any] = {
        "library_name": library,
        "base_model": base if is_hub_name(base) else None,
        "license": _LICENSES.get(base),
        "language": ["en", "code"],
        "datasets": list(dict.fromkeys(source.removeprefix("hf:").partition(":")[0] for source in on_hub)),
        "pipeline_tag": pipeline,
        "tags": [*_TAGS, *tags],
    }
    lines = [f"{name}: {_yaml(value)}" for name, value in fields.items() if value]
    return "\n".join(["---", *lines, "---", ""])


def _yaml(value: str | list[str]) -> str:
    return value if isinstance(value, str) else f"[{', '.join(json.dumps(each) for each in value)}]"


def _base(record: Mapping[str, Any]) -> str:
    base = record["base"]
    known_as = "" if hub_name(base["name"]) == base["name"] else f" ({base['name']!r} in this package)"
    return f"{hub_name(base['name'])}{known_as}, fingerprint `{base['fingerprint']}`"


def _start(record: Mapping[str, Any]) -> str:
    start, blend = record.get("start"), record["train"].get("blend", 1)
    if start is None:
        return "a randomly initialised head"
    blended = f"; the weights are {blend:g} of the way from there to the trained ones" if blend < 1 else ""
    return f"{start['name']}, fingerprint `{start['fingerprint']}`{blended}"


def _provenance(record: Mapping[str, Any]) -> str:
    """Return the rows of a card that say what was trained, on which pairs, and how long."""
    data = record["data"]
    share = record["trained_parameters"] / record["base_parameters"]
    languages = ", ".join(f"{name or 'unknown'} {count:,}" for name, count in data["languages"].items())
    sources = ", ".join(dict.fromkeys(data["sources"])) or "memory"
    what = "pairs" if "pairs" in data else "texts"
    rows = [
        ("trained", f"{record['trained_parameters']:,} of {record['base_parameters']:,} parameters ({share:.2%})"),
        (what, f"{data[what]:,} (fingerprint `{data['fingerprint']}`), from {sources}"),
        ("languages", languages),
    ]
    if "licenses" in data:
        licenses = ", ".join(f"{name or 'not recorded'} {count:,}" for name, count in data["licenses"].items())
        rows.append(("licences of the code", licenses))
    rows += [
        ("steps", f"{record['steps']}, best {record['best_step']}, seed {record['train']['seed']}"),
        ("time, peak memory", f"{record['seconds'] / 60:.1f} min, {record['peak_bytes'] / 2**20:,.0f} MiB"),
        ("machine, date", f"{record['machine']}, {record['date']}"),
    ]
    return "\n".join(f"| {name} | {value} |" for name, value in rows)


def _validation(record: Mapping[str, Any]) -> str:
    """Return the table of scores before and after the training, and on which queries they are."""
    before, after = record["validation_before"], record["validation_best"]
    if not before or not after:
        return "Not validated in training."
    rows = "\n".join(f"| {name} | {value:.4f} | {after[name]:.4f} |" for name, value in before.items())
    return f"| validation | before | after |\n|---|---|---|\n{rows}\n\n{validation_note(record)}"


def validation_note(record: Mapping[str, Any]) -> str:
    """Return on which queries the validation scores of a record are, and whether these chose the best step."""
    if queries := record.get("report_queries"):
        return f"Measured on {queries} held-out queries that did not choose the best step."
    if texts := record.get("validation_texts"):
        return f"Share of the masked tokens predicted in {texts} held-out texts, which also chose the best step."
    queries = f"{count} queries" if (count := record.get("validation_queries")) else "queries"
    return f'Measured on the {queries} that chose the best step, so "after" is the best of several validations.'
