"""A process that embeds texts with one system after another, for ``index_speed.py``; it speaks JSON, a line each.

It runs in any interpreter that has the packages of its systems: the backends of sentence-transformers need another
release of transformers than this package. All systems load the same checkpoint with the same token limit.

    {"call": "load", "system": "HuggingFaceEmbedding", "model": FOLDER, …}    ->  {"precision": "fp32"}
    {"call": "embed", "system": …, "texts": […], "batch_size": 8}             ->  {"seconds": 1.5}

With ``"vectors": FILE`` the vectors are saved as ``.npy``. An error is answered by ``{"error": MESSAGE}``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

OURS = "CodeEmbedding"
LLAMAINDEX = "HuggingFaceEmbedding"
ST = "sentence-transformers"
TORCH = (f"{ST}, torch fp32", f"{ST}, torch bf16")
BACKENDS = (
    f"{ST}, ONNX fp32",
    f"{ST}, ONNX int8",
    f"{ST}, OpenVINO fp32",
    f"{ST}, OpenVINO bf16",
    f"{ST}, OpenVINO int8",
)

Embed = Callable[[Sequence[str], int], Any]
"""Returns the vectors of texts, computed in batches of this size."""


def load_ours(model: str, max_tokens: int, settings: dict[str, Any]) -> tuple[Embed, str]:
    """Load CodeEmbedding without an adapter; the batch size is its own."""
    from llamaindex_code_retrieval import CodeEmbedding

    embedding = CodeEmbedding(adapter="none", max_code_tokens=max_tokens, **settings)
    embedding.get_text_embedding_batch(["load the weights"])
    return lambda texts, _: embedding.get_text_embedding_batch(list(texts)), embedding.precision


def load_llamaindex(model: str, max_tokens: int) -> tuple[Embed, str]:
    """Load LlamaIndex's own embedding as it comes, with its own batch size."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    embedding = HuggingFaceEmbedding(model, max_length=max_tokens, device="cpu")
    return lambda texts, _: embedding.get_text_embedding_batch(list(texts)), "fp32"


def load_sentence_transformers(name: str, model: str, max_tokens: int, calibration: Sequence[str]) -> tuple[Embed, str]:
    """Load sentence-transformers with the backend and precision that end the name."""
    backend, precision = name.rpartition(", ")[2].split()
    load = {"torch": _torch, "ONNX": _onnx, "OpenVINO": _openvino}[backend]
    transformer = load(model, precision, calibration)
    transformer.max_seq_length = max_tokens

    def embed(texts: Sequence[str], batch_size: int) -> Any:
        return transformer.encode(list(texts), batch_size=batch_size, normalize_embeddings=True)

    return embed, precision


def _torch(model: str, precision: str, calibration: Sequence[str]) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    return SentenceTransformer(model, device="cpu", model_kwargs={"dtype": dtype})


def _onnx(model: str, precision: str, calibration: Sequence[str]) -> Any:
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    transformer = SentenceTransformer(model, device="cpu", backend="onnx")
    if precision == "fp32":
        return transformer
    with tempfile.TemporaryDirectory() as folder:
        transformer.save_pretrained(folder)
        export_dynamic_quantized_onnx_model(transformer, "avx512_vnni", folder)
        return SentenceTransformer(
            folder, device="cpu", backend="onnx", model_kwargs={"file_name": "onnx/model_qint8_avx512_vnni.onnx"}
        )


def _openvino(model: str, precision: str, calibration: Sequence[str]) -> Any:
    from sentence_transformers import SentenceTransformer, export_static_quantized_openvino_model

    hint = {"fp32": {"INFERENCE_PRECISION_HINT": "f32"}, "bf16": {"INFERENCE_PRECISION_HINT": "bf16"}, "int8": {}}
    options: dict[str, Any] = {"ov_config": hint[precision]}
    transformer = SentenceTransformer(model, device="cpu", backend="openvino", model_kwargs=options)
    if precision != "int8":
        return transformer
    with tempfile.TemporaryDirectory() as folder:
        transformer.save_pretrained(folder)
        texts = Path(folder, "calibration")
        texts.mkdir()
        lines = [json.dumps({"text": text}) for text in calibration]
        (texts / "train.jsonl").write_text("\n".join(lines), encoding="utf-8")
        export_static_quantized_openvino_model(
            transformer,
            None,
            folder,
            dataset_name=str(texts),
            dataset_config_name="default",
            dataset_split="train",
            column_name="text",
        )
        options["file_name"] = "openvino/openvino_model_qint8_quantized.xml"
        return SentenceTransformer(folder, device="cpu", backend="openvino", model_kwargs=options)


class Worker:
    """The systems that have been loaded, by name."""

    def __init__(self) -> None:
        self._systems: dict[str, Embed] = {}

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        """Load a system and return its precision and the seconds that it took."""
        name, model, max_tokens = request["system"], request["model"], request["max_tokens"]
        start = time.perf_counter()
        if name.startswith(OURS):
            self._systems[name], precision = load_ours(model, max_tokens, request.get("settings", {}))
        elif name == LLAMAINDEX:
            self._systems[name], precision = load_llamaindex(model, max_tokens)
        else:
            self._systems[name], precision = load_sentence_transformers(
                name, model, max_tokens, request.get("calibration", ())
            )
        return {"precision": precision, "seconds": time.perf_counter() - start}

    def embed(self, request: dict[str, Any]) -> dict[str, Any]:
        """Embed texts and return the seconds that it took; a ``vectors`` file is written afterwards."""
        start = time.perf_counter()
        vectors = self._systems[request["system"]](request["texts"], request["batch_size"])
        seconds = time.perf_counter() - start
        if "vectors" in request:
            np.save(request["vectors"], np.asarray(vectors, dtype=np.float32))
        return {"seconds": seconds}


def main() -> None:
    """Answer requests on stdin until it ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker = Worker()
    calls = {"load": worker.load, "embed": worker.embed}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = calls[request["call"]](request)
        except Exception as error:  # of any library: the system is left out and the reason reported
            answer = {"error": f"{type(error).__name__}: {error}"[:500]}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
