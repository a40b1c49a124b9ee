"""The files of a checkpoint folder, by name."""

from __future__ import annotations

from pathlib import Path

ARTIFACTS = Path(__file__).resolve().parents[1] / "artifacts"
"""The folder of the adapters, rerankers and query encoders that come with the package."""

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
WEIGHTS = "model.safetensors"
SHARDS = "model.safetensors.index.json"
"""Names the shard of each tensor where the weights of a model are in several files."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

TRAIN_CONFIG = "train_config.json"
"""The record that this package's training writes beside weights."""

RERANKER_CONFIG = "reranker.json"
"""Marks the folder of a reranker of this package."""
HEAD_WEIGHTS = "head.safetensors"

QUERY_CONFIG = "query_encoder.json"
"""Marks the folder of a query encoder."""
QUERY_WEIGHTS = "query_encoder.safetensors"

STATIC_CONFIG = "static_model.json"
"""Marks the folder of a static embedding model."""
STATIC_WEIGHTS = "static_model.safetensors"

DAMAGED = "the checkpoint is damaged, fetch it again"
"""The remedy that messages give for a file of a checkpoint that cannot be read."""
