"""The adapters and the reranker that come with the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCardData
from safetensors.torch import load_file

from llamaindex_code_retrieval import CodeEmbedding, CodeReranker
from llamaindex_code_retrieval.models.catalog import (
    BASES,
    DEFAULT_ADAPTERS,
    DEFAULT_RERANKER,
    EMBEDDED,
    EMBEDDED_LARGE,
    EMBEDDED_STATIC,
    hub_name,
)
from llamaindex_code_retrieval.models.encoder import Encoder
from llamaindex_code_retrieval.models.files import ARTIFACTS
from llamaindex_code_retrieval.models.locate import (
    locate_adapter,
    shipped_adapters,
    shipped_query_encoders,
    shipped_rerankers,
)
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.models.static_model import StaticModel


def test_what_is_shipped() -> None:
    assert set(shipped_adapters()) == {"embedded-general", "embedded-large-general"}
    assert set(DEFAULT_ADAPTERS.values()) <= set(shipped_adapters())
    assert shipped_rerankers() == [DEFAULT_RERANKER]
    assert shipped_query_encoders() == ["embedded-bare-static", "embedded-general-layers", "embedded-general-static"]


@pytest.mark.parametrize("base_name", DEFAULT_ADAPTERS)
def test_shipped_adapters_fit_and_have_a_record(base_name: str) -> None:
    name = DEFAULT_ADAPTERS[base_name]
    try:
        base = Encoder.from_pretrained(base_name, precision="fp32")
    except ValueError as error:
        pytest.skip(f"the base of {name} is not installed: {error}")
    adapted = base.with_adapter(name)
    assert adapted.base_fingerprint == base.base_fingerprint
    code = "def read(path):\n    with open(path) as file:\n        return file.read()"
    assert 0.5 < float((adapted.encode_codes([code]) @ base.encode_codes([code]).T)[0, 0]) < 0.9999
    settings = json.loads((ARTIFACTS / name / "train_config.json").read_text())
    trained = sum(tensor.numel() for tensor in load_file(ARTIFACTS / name / "adapter_model.safetensors").values())
    assert trained == settings["trained_parameters"] <= 0.12 * settings["base_parameters"]
    assert settings["base"]["fingerprint"] == base.base_fingerprint
    assert settings["data"]["licenses"]
    assert f"`{settings['fingerprint']}`" in (ARTIFACTS / name / "README.md").read_text()
    for file in ("README.md", "log.jsonl", "curves.svg"):
        assert (ARTIFACTS / name / file).stat().st_size > 100


def test_all_that_is_shipped_is_small() -> None:
    assert sum(file.stat().st_size for file in ARTIFACTS.rglob("*")) < 60_000_000


@pytest.mark.parametrize("name", shipped_rerankers())
@pytest.mark.usefixtures("embedded_model")
def test_shipped_rerankers_fit_and_have_a_record(name: str) -> None:
    embedding = CodeEmbedding()
    reranker = CodeReranker(name, embedding=embedding)
    settings = json.loads((ARTIFACTS / name / "train_config.json").read_text())
    assert settings["base"]["fingerprint"] == embedding.encoder.base_fingerprint
    assert settings["retriever"]["name"] == "embedded, embedded-general"
    assert settings["data"]["licenses"]
    assert list(reranker.calibration.ceilings) == ["0.8", "0.9", "0.95", "0.99"]
    assert reranker.calibration.error is not None
    assert reranker.calibration.repository_weight == 0
    assert f"`{reranker.fingerprint}`" in (ARTIFACTS / name / "README.md").read_text()
    for file in ("README.md", "log.jsonl", "curves.svg"):
        assert (ARTIFACTS / name / file).stat().st_size > 100
    codes = ["def read(path):\n    return open(path).read()", "def send(mail):\n    server.sendmail(mail)", "x = 1"]
    right, *wrong = reranker.score("read a file into a string", codes)
    assert right > 2 * max(wrong)


@pytest.mark.parametrize("name", shipped_query_encoders())
@pytest.mark.usefixtures("embedded_model")
def test_shipped_query_encoders_agree_with_their_teachers(name: str) -> None:
    settings = json.loads((ARTIFACTS / name / "train_config.json").read_text())
    teacher = CodeEmbedding(adapter=settings["teacher"]["adapter"])
    student = QueryEncoder.load(name, teacher=teacher.torch_encoder)
    assert student.teacher == teacher.fingerprint == settings["teacher"]["fingerprint"]
    assert student.fingerprint == settings["fingerprint"]
    queries = ["read a file line by line", "sort a dictionary by value", "python convert string to date"]
    cosines = student.encode_queries(queries) @ teacher.encoder.encode_queries(queries).T
    assert float(np.diagonal(cosines).min()) > 0.8  # of the query itself
    assert (cosines.argmax(axis=1) == np.arange(3)).all()
    for file in ("README.md", "log.jsonl", "curves.svg"):
        assert (ARTIFACTS / name / file).stat().st_size > 100


def test_the_static_model_has_a_record_and_finds_code() -> None:
    folder = ARTIFACTS / EMBEDDED_STATIC
    model, base = StaticModel.load(), BASES[EMBEDDED_STATIC]
    assert (model.dim, model.max_query_tokens, model.max_code_tokens) == (
        base.dim,
        base.max_query_tokens,
        base.max_code_tokens,
    )
    settings = json.loads((folder / "train_config.json").read_text())
    assert settings["fingerprint"] == model.fingerprint
    assert f"`{model.fingerprint}`" in (folder / "README.md").read_text()
    assert settings["data"]["licenses"]
    codes = ["def read(path):\n    return open(path).read()", "def send(mail):\n    server.sendmail(mail)", "x = 1"]
    scores = model.encode_queries(["load the content of a text file", "deliver an email"]) @ model.encode_codes(codes).T
    assert scores.argmax(axis=1).tolist() == [0, 1]
    for file in ("README.md", "log.jsonl", "curves.svg"):
        assert (folder / file).stat().st_size > 100
    assert sum(file.stat().st_size for file in folder.iterdir()) < 9_000_000


@pytest.mark.usefixtures("embedded_model")
def test_auto_is_the_static_student_of_this_teacher(other_adapter: Path) -> None:
    embedding = CodeEmbedding(query_encoder="auto")
    assert embedding.query_encoder == "embedded-general-static"
    with pytest.raises(ValueError, match="no query encoder comes with the package for the fingerprint"):
        CodeEmbedding(adapter=str(other_adapter), query_encoder="auto")


@pytest.mark.usefixtures("embedded_model")
def test_the_default_of_embedded_and_none() -> None:
    default, bare = CodeEmbedding(), CodeEmbedding(adapter="none")
    named = CodeEmbedding(adapter=DEFAULT_ADAPTERS[EMBEDDED])
    assert default.adapter == named.adapter == "embedded-general"
    assert default.fingerprint == named.fingerprint != bare.fingerprint
    assert bare.adapter == "none"
    vectors = bare.torch_encoder.encode_codes(["x = 1"])
    np.testing.assert_array_equal(vectors, Encoder.from_pretrained(EMBEDDED).encode_codes(["x = 1"]))
    assert CodeEmbedding.from_dict(bare.to_dict()).fingerprint == bare.fingerprint
    assert CodeEmbedding.from_dict(default.to_dict()).fingerprint == default.fingerprint
    assert CodeEmbedding(pooling="cls").adapter == "none"  # ours was trained for mean pooling


def test_a_shipped_name_wins_over_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "embedded-general").mkdir()
    assert locate_adapter("embedded-general").parent == ARTIFACTS
    with pytest.raises(ValueError, match="known names: embedded-general"):
        locate_adapter("embedded-cobol")


@pytest.mark.parametrize("name", [*shipped_adapters(), *shipped_rerankers(), *shipped_query_encoders()])
def test_shipped_artifacts_name_their_base_as_the_hub_does(name: str) -> None:
    folder = ARTIFACTS / name
    base = hub_name(EMBEDDED_LARGE if "large" in name else EMBEDDED)
    if (folder / "adapter_config.json").is_file():
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == base
    _, header, card = (folder / "README.md").read_text().split("---\n", 2)
    metadata = ModelCardData(**yaml.safe_load(header))
    assert metadata.base_model == base
    assert (metadata.license, metadata.language) == ("apache-2.0", ["en", "code"])
    assert metadata.library_name == ("peft" if name not in shipped_query_encoders() else "llamaindex-code-retrieval")
    assert f'"{name}"' in card
