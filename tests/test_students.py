"""Query encoders with a backbone as OpenVINO graphs: the vectors of torch, without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import CORPUS
from students import QUERIES, save_student, torch_encoder, trained_student

from llamaindex_code_retrieval._io import default_cache_folder
from llamaindex_code_retrieval.models.adapter_set import AdapterSettings, LazyAdapterSet
from llamaindex_code_retrieval.models.catalog import Runtime
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import ARTIFACTS
from llamaindex_code_retrieval.models.graph_encoder import GraphEncoder
from llamaindex_code_retrieval.models.graphs.students import with_layers
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.models.query_encoder_config import QueryEncoderConfig

LAYERS = ARTIFACTS / "embedded-general-layers"


def load(student: Path, base: Path | str, adapter: Path | str = "none", runtime: Runtime = "auto") -> QueryEncoder:
    settings = AdapterSettings(model_name=str(base), adapter=str(adapter), precision="fp32", runtime=runtime)
    return QueryEncoder.load_for(student, teachers=LazyAdapterSet(settings))


@pytest.mark.parametrize("name", ["lora", "full", "transformer"])
@pytest.mark.parametrize("base", ["bert", "mpnet", "distilbert", "t5", "codet5p", "codesage"])
def test_the_graph_of_a_student_has_the_vectors_of_torch(
    name: str, base: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(f"{base}_folder")
    teacher = torch_encoder(folder)
    student = save_student(name, trained_student(name, teacher), teacher, tmp_path)
    expected = QueryEncoder.load(student, teacher=teacher)
    found = load(student, folder, runtime="openvino")
    assert isinstance(found.encoder, GraphEncoder)
    assert (found.fingerprint, found.teacher, found.dim) == (expected.fingerprint, expected.teacher, expected.dim)
    np.testing.assert_allclose(found.encode_queries(QUERIES), expected.encode_queries(QUERIES), atol=1e-5)
    assert isinstance(load(student, folder, runtime="torch").encoder, Encoder)


def test_a_student_of_an_adapted_teacher_is_a_graph(
    bert_folder: Path, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    teacher = torch_encoder(bert_folder, adapter_folders["lora"])
    student = save_student("lora", trained_student("lora", teacher), teacher, tmp_path)
    found = load(student, bert_folder, adapter_folders["lora"], runtime="openvino")
    expected = QueryEncoder.load(student, teacher=teacher)
    assert found.fingerprint == expected.fingerprint
    np.testing.assert_allclose(found.encode_queries(QUERIES), expected.encode_queries(QUERIES), atol=1e-5)


def test_the_shipped_layers_equal_torch(tmp_path: Path) -> None:
    """They are loaded without a comparison, because this test makes it."""
    found = load(LAYERS, "embedded", "embedded-general", runtime="openvino").encode_queries([*QUERIES, *CORPUS])
    teacher = torch_encoder(Path("embedded"), Path("embedded-general"))
    quantized = QueryEncoder.load(LAYERS, teacher=teacher).encode_queries([*QUERIES, *CORPUS])
    assert (found * quantized).sum(axis=1).min() > 0.98
    folder = shutil.copytree(LAYERS, tmp_path / "fp32")
    replace(QueryEncoderConfig.read(folder), int8=False).write(folder)
    whole = QueryEncoder.load(folder, teacher=teacher).encode_queries([*QUERIES, *CORPUS])
    np.testing.assert_allclose(found, whole, atol=1e-4)


def test_the_shipped_layers_embed_without_torch_and_transformers() -> None:
    code = (
        "import sys; from llamaindex_code_retrieval import CodeEmbedding\n"
        "embedding = CodeEmbedding(query_encoder='embedded-general-layers')\n"
        "assert len(embedding.get_query_embedding('read a file')) == 384\n"
        "print({'torch', 'transformers', 'peft'} & sys.modules.keys())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_each_student_is_compared_with_torch_once(
    bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODE_RETRIEVAL_CACHE", str(tmp_path / "cache"))
    teacher = torch_encoder(bert_folder)
    students = [save_student(n, trained_student(n, teacher), teacher, tmp_path / n) for n in ("full", "transformer")]
    for _ in range(2):
        vectors = [load(student, bert_folder).encode_queries(QUERIES) for student in students]
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01
    records = list((default_cache_folder() / "graphs").iterdir())
    assert len(records) == 3  # the teacher's, too
    for record in records:
        record.write_text('{"cosine": 0.5}')  # as if the graphs differed
    copied = shutil.copytree(students[0], tmp_path / "copy")
    assert isinstance(load(copied, bert_folder).encoder, Encoder)


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("lora", "adapter_model.safetensors", "adapter_model.safetensors"),
        ("lora", "query_encoder.safetensors", "cannot be read"),
        ("full", "query_encoder.safetensors", "cannot be read"),
        ("transformer", "config.json", "cannot be read"),
    ],
)
def test_damaged_folders_are_refused(name: str, file: str, message: str, bert_folder: Path, tmp_path: Path) -> None:
    teacher = torch_encoder(bert_folder)
    folder = save_student(name, trained_student(name, teacher), teacher, tmp_path)
    (folder / file).unlink()
    with pytest.raises(ValueError, match=message):
        load(folder, bert_folder)


def test_kept_layers_are_numbered_anew() -> None:
    names = ["wte.weight", *(f"h.{number}.mlp.c_fc.weight" for number in range(4)), "ln_f.bias"]
    arrays = {name: np.array([float(number)]) for number, name in enumerate(names)}
    kept = with_layers(arrays, [1, 3])
    assert {name: array[0] for name, array in kept.items()} == {
        "wte.weight": 0,
        "h.0.mlp.c_fc.weight": 2,
        "h.1.mlp.c_fc.weight": 4,
        "ln_f.bias": 5,
    }
