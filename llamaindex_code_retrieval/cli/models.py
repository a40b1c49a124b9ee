"""The command ``models``."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from llamaindex_code_retrieval._io import read_json
from llamaindex_code_retrieval.cli.console import print_json, print_table, print_text
from llamaindex_code_retrieval.cli.options import json_option
from llamaindex_code_retrieval.models.catalog import BASES, DEFAULT_ADAPTERS, known_name
from llamaindex_code_retrieval.models.files import ADAPTER_CONFIG, ARTIFACTS, DAMAGED
from llamaindex_code_retrieval.models.locate import shipped_adapters, shipped_query_encoders, shipped_rerankers
from llamaindex_code_retrieval.models.query_encoder_config import QueryEncoderConfig


def add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command ``models``."""
    parser = commands.add_parser("models", help="list the models known by name")
    json_option(parser)
    parser.set_defaults(run=run_models)


def run_models(options: argparse.Namespace) -> int:
    """Print the base models, adapters, rerankers and query encoders that are known by name."""
    if options.json:
        print_json([asdict(base) | _artifacts_of(base.name) for base in BASES.values()])
        return 0
    rows = []
    for base in BASES.values():
        tokens = f"{base.max_query_tokens}/{base.max_code_tokens}"
        rows.append((base.name, base.architecture, base.pooling, str(base.dim), tokens, f"{base.millions} M"))
    print_table(
        "Base models known by name; folders and hub names of these architectures work too",
        rows,
        headings=("name", "architecture", "pooling", "dim", "query/code tokens", "parameters"),
        numeric=("dim", "query/code tokens", "parameters"),
    )
    default = ", ".join(f"{adapter} for {base}" for base, adapter in DEFAULT_ADAPTERS.items())
    print_text(f"Adapters in the package: {', '.join(shipped_adapters())} (default: {default})")
    print_text(f"Rerankers in the package: {', '.join(shipped_rerankers())}")
    print_text(f"Query encoders in the package: {', '.join(shipped_query_encoders())}")
    return 0


def _artifacts_of(base: str) -> dict[str, Any]:
    """Return the names of the package's adapters, rerankers and query encoders for a base model."""
    from llamaindex_code_retrieval.models.reranker_config import RerankerConfig

    adapters = {
        name: read_json(ARTIFACTS / name / ADAPTER_CONFIG, remedy=DAMAGED)["base_model_name_or_path"]
        for name in shipped_adapters()
    }
    rerankers = {name: RerankerConfig.read(ARTIFACTS / name).base_name for name in shipped_rerankers()}
    encoders = {name: QueryEncoderConfig.read(ARTIFACTS / name).teacher_name for name in shipped_query_encoders()}
    names = {"adapters": adapters, "rerankers": rerankers, "query_encoders": encoders}
    return {"default_adapter": DEFAULT_ADAPTERS.get(base)} | {
        kind: [name for name, other in bases.items() if known_name(other) == base] for kind, bases in names.items()
    }
