"""One model as an OpenVINO graph and in torch, both in fp32."""

from __future__ import annotations

from pathlib import Path

from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.graph_encoder import GraphEncoder
from llamaindex_code_retrieval.models.shared import SharedBase


def graph_of(folder: Path | str, adapter: Path | str = "none") -> GraphEncoder:
    encoder = SharedBase(str(folder), precision="fp32", runtime="openvino").with_adapter(adapter, merge=True)
    assert isinstance(encoder, GraphEncoder)
    return encoder


def torch_of(folder: Path | str, adapter: Path | str = "none") -> Encoder:
    return SharedBase(str(folder), precision="fp32", runtime="torch").torch_encoder(adapter, merge=True)
