"""Load a Hugging Face sequence-classification checkpoint of the kind of BERT or RoBERTa as an OpenVINO graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llamaindex_code_retrieval._io import read_json, sha256, short_hash
from llamaindex_code_retrieval.models.calibration import Calibration
from llamaindex_code_retrieval.models.catalog import Precision
from llamaindex_code_retrieval.models.files import CONFIG, DAMAGED, TOKENIZER_CONFIG
from llamaindex_code_retrieval.models.graph_scorer import GraphScorer, PairGraph
from llamaindex_code_retrieval.models.graphs.bert import MODEL_TYPES, PADDED_POSITIONS
from llamaindex_code_retrieval.models.graphs.build import EncoderWeights
from llamaindex_code_retrieval.models.graphs.pairs import first_token_graph
from llamaindex_code_retrieval.models.graphs.post_norm import parameters
from llamaindex_code_retrieval.models.graphs.unsupported import UnsupportedModelError, fitting_weights
from llamaindex_code_retrieval.models.pair_layout import PairLayout
from llamaindex_code_retrieval.models.pair_scorer import PairScorer
from llamaindex_code_retrieval.models.reranker_config import USUAL_MAX_TOKENS
from llamaindex_code_retrieval.models.reranker_graph import compiled
from llamaindex_code_retrieval.models.spec import EncoderSpec
from llamaindex_code_retrieval.models.tokenization import read_tokenizer
from llamaindex_code_retrieval.models.weights import Array

_HEADS = {"bert": ("pooler.dense", "classifier")}
_OTHER_HEADS = ("classifier.dense", "classifier.out_proj")


def load_checkpoint_graph(folder: Path, *, precision: Precision, load_torch: Callable[[], PairScorer]) -> GraphScorer:
    """Return the checkpoint in ``folder`` as a graph, compared with torch; see :func:`.compiled`.

    Raises:
        UnsupportedModelError: a graph cannot express the model, or its log-odds differ from torch's.
        ValueError: damaged files.
    """
    return compiled(_read(folder), precision=precision, load_torch=load_torch)


def _read(folder: Path) -> PairGraph:
    config = read_json(folder / CONFIG, remedy=DAMAGED)
    if config.get("model_type") not in MODEL_TYPES or config.get("is_decoder"):
        raise UnsupportedModelError(f"a checkpoint of the type {config.get('model_type')!r}")
    if len(config.get("id2label") or (0, 1)) not in (1, 2):
        raise UnsupportedModelError(f"a checkpoint with {len(config['id2label'])} labels")
    try:
        tokenizer = read_tokenizer(folder)
    except FileNotFoundError as error:
        raise UnsupportedModelError("a checkpoint without tokenizer.json") from error
    spec = EncoderSpec(
        architecture="bert",
        pooling="cls",
        max_query_tokens=USUAL_MAX_TOKENS,
        max_code_tokens=USUAL_MAX_TOKENS,
        positions=None,
    )
    weights = EncoderWeights.read(folder, spec)
    layout = PairLayout.of_tokenizer(tokenizer, has_types=int(config.get("type_vocab_size", 0)) > 1)
    names = _HEADS.get(config["model_type"], _OTHER_HEADS)
    with fitting_weights():
        dense, out = (parameters(weights.arrays, name) for name in names)
        positions = _positions(folder, config, weights.arrays)
    return PairGraph(
        first_token_graph(weights, dense, out, has_types=_has_types(layout)),
        tokenizer,
        layout,
        max_tokens=USUAL_MAX_TOKENS,
        positions=positions,
        calibration=Calibration(),
        fingerprint=short_hash(map(sha256, [*sorted(folder.glob("*.safetensors")), folder / CONFIG])),
    )


def _has_types(layout: PairLayout) -> bool:
    """Return whether the code and what follows have type 1 and all before has type 0; ``False``: all have type 0.

    Raises:
        UnsupportedModelError: other types.
    """
    if layout.types is None:
        return False
    before, query, between, code, after = layout.types
    first, second = {*before, query, *between}, {code, *after}
    if first == {0} and len(second) == 1 and second <= {0, 1}:
        return second == {1}
    raise UnsupportedModelError("a tokenizer with other token types than 0 for the query and 1 for the code")


def _positions(folder: Path, config: Mapping[str, Any], arrays: Mapping[str, Array]) -> int:
    """Return how many tokens the checkpoint reads at most."""
    positions = len(arrays["embeddings.position_embeddings.weight"])
    if config["model_type"] in PADDED_POSITIONS:
        positions -= int(config["pad_token_id"]) + 1
    file = folder / TOKENIZER_CONFIG
    limit = read_json(file, remedy=DAMAGED).get("model_max_length") if file.is_file() else None
    return positions if limit is None else min(positions, int(limit))
