"""Static embedding models: a table worked out by hand, laws, what is refused, an index that needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from math import log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeReranker, Encoder
from llamaindex_code_retrieval.models.locate import is_static_model, locate, locate_model
from llamaindex_code_retrieval.models.static_encoder import quantize_rows
from llamaindex_code_retrieval.models.static_model import StaticModel
from tests.conftest import Shell

ROWS = [[0, 0], [127, 0], [0, 127], [127, 127]]
"""Rows of the tokens ``[UNK]``, ``read``, ``file`` and ``sum``, which int8 holds exactly."""


def write_model(folder: Path, *, rows: list[list[int]] = ROWS, max_tokens: int = 32) -> Path:
    """Write a static model of three words and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {"[UNK]": 0, "read": 1, "file": 2, "sum": 3}
    Tokenizer(WordLevel(words, unk_token="[UNK]")).save(str(folder / "tokenizer.json"))
    table, scales = quantize_rows(np.array(rows, dtype=np.float32))
    save_file({"table": table, "scales": scales}, folder / "static_model.safetensors")
    (folder / "static_model.json").write_text(json.dumps({"format": 1, "max_tokens": max_tokens}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("static") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> StaticModel:
    return StaticModel.load(folder)


def _unit(*numbers: float) -> NDArray[np.float64]:
    return np.array(numbers) / np.linalg.norm(numbers)


def test_vectors_by_hand(model: StaticModel) -> None:
    vectors = model.encode_codes(["readFile", "READ_FILE(sum)", "read read file", "{}", ""])
    expected = [_unit(1, 1), _unit(2, 2), _unit(1 + log(2), 1), [0, 0], [0, 0]]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.testing.assert_array_equal(model.encode_queries(["read a file"]), model.encode_codes(["a file: read"]))


@given(st.lists(st.sampled_from(["readFile", "sum of", "x", "", "\udcff read", "größe 读取"]), max_size=6))
def test_a_batch_is_its_texts_one_by_one(model: StaticModel, texts: list[str]) -> None:
    together = model.encode_codes(texts)
    assert together.shape == (len(texts), 2)
    for vector, text in zip(together, texts, strict=True):
        np.testing.assert_array_equal(vector, model.encode_codes([text])[0])


def test_the_limit_of_tokens(folder: Path) -> None:
    limited = StaticModel.load(folder, max_code_tokens=8)
    text = "read " * 8 + "file"
    assert limited.tokenize([text], side="code") == [[1] * 8]
    assert limited.tokenize([text], side="code", truncate=False) == [[1] * 8 + [2]]
    assert limited.tokenize([text], side="query") == [[1] * 8 + [2]]
    assert limited.is_truncated([text, "read"], side="code").tolist() == [True, False]
    np.testing.assert_allclose(limited.encode_codes([text]), [[1, 0]])
    with pytest.raises(ValueError, match="max_code_tokens must be at least 8, got 7"):
        StaticModel.load(folder, max_code_tokens=7)
    with pytest.raises(ValueError, match="side must be 'query' or 'code', got 'text'"):
        limited.encode([text], side="text")  # type: ignore[arg-type]


def test_the_memory_of_words_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = StaticModel.load(folder)
    expected = model.encode_codes(["read", "file"])
    monkeypatch.setattr("llamaindex_code_retrieval.models.static_model._MOST_WORDS", 5)
    model.encode_codes([" ".join(chr(97 + i) * 3 for i in range(20))])
    np.testing.assert_array_equal(model.encode_codes(["read", "file"]), expected)
    assert len(model._tokens._ids) == 2


def test_fingerprints(folder: Path, tmp_path: Path) -> None:
    base = CodeEmbedding(folder)
    assert base.fingerprint == CodeEmbedding(write_model(tmp_path / "same")).fingerprint
    changed = [[0, 0], [127, 0], [0, 127], [127, 126]]
    others = [
        CodeEmbedding(write_model(tmp_path / "other", rows=changed)),
        CodeEmbedding(folder, max_code_tokens=16),
        CodeEmbedding(folder, max_query_tokens=16),
    ]
    assert len({each.fingerprint for each in (base, *others)}) == 4


# --- as an embedding model -------------------------------------------------------------------------------------------


def test_an_embedding_model(folder: Path) -> None:
    embedding = CodeEmbedding(folder)
    assert (embedding.dim, embedding.pooling, embedding.precision, embedding.adapter) == (2, "mean", "fp32", "none")
    np.testing.assert_allclose(embedding.get_text_embedding("readFile"), _unit(1, 1), atol=1e-6)
    np.testing.assert_allclose(embedding.get_query_embedding("read"), [1, 0])
    np.testing.assert_allclose(embedding.embed_codes(["sum", "file"], ["python", ""]), [_unit(1, 1), [0, 1]], atol=1e-6)
    assert embedding.tokenize_code("read it") == [1, 0]
    assert embedding.for_language("java").fingerprint == embedding.fingerprint
    again = CodeEmbedding.from_dict(embedding.to_dict())
    assert again.fingerprint == embedding.fingerprint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adapter": "embedded-general"}, "adapter has no effect; leave it out"),
        ({"adapters": {"java": "embedded-general"}, "device": "cpu"}, "adapters and device have no effect; leave them"),
        ({"precision": "bf16"}, "precision has no effect"),
        ({"pooling": "cls"}, "pooling has no effect"),
        ({"merge_adapter": False}, "merge_adapter has no effect"),
        ({"runtime": "torch"}, "runtime has no effect"),
        ({"query_encoder": "auto"}, "leave query_encoder out"),
        ({"cache_folder": "cache"}, "faster than a cache finds its vector; leave cache_folder out"),
    ],
)
def test_options_without_effect_are_refused(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"is a static embedding model.*{message}"):
        CodeEmbedding(folder, **options)  # type: ignore[arg-type]


def test_there_is_no_transformer(folder: Path) -> None:
    embedding = CodeEmbedding(folder)
    for needs_transformer in (
        lambda: embedding.torch_encoder,
        lambda: Encoder.from_pretrained(folder),
    ):
        with pytest.raises(ValueError, match="is a static embedding model, a table that has no transformer"):
            needs_transformer()
    with pytest.raises(ValueError, match="takes no adapter, got embedded-general"):
        embedding.use_adapter("java", "embedded-general")
    assert CodeEmbedding(folder).fingerprint == embedding.fingerprint
    with pytest.raises(ValueError, match=r"was trained on the base 'embedded' .* leave the embedding out"):
        CodeReranker(embedding=embedding)


def test_locate(folder: Path, bert_folder: Path, tmp_path: Path) -> None:
    assert is_static_model(folder)
    assert not is_static_model(bert_folder)
    assert locate_model(folder) == folder
    assert locate_model(bert_folder) == locate(bert_folder) == bert_folder
    with pytest.raises(ValueError, match=r"holds no static_model\.json"):
        StaticModel.load(bert_folder)
    with pytest.raises(ValueError, match=r"unknown static model 'nowhere'.*known names: embedded-static"):
        StaticModel.load("nowhere")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("static_model.json", "{", "static_model.json"),
        ("static_model.json", '{"format": 2, "max_tokens": 32}', "has format 2 and this version reads format 1"),
        ("static_model.json", '{"format": 1}', "max_tokens"),
        ("tokenizer.json", "{}", r"tokenizer\.json is damaged"),
        ("static_model.safetensors", "", r"static_model\.safetensors cannot be read"),
    ],
)
def test_damaged_files(tmp_path: Path, file: str, content: str, message: str) -> None:
    damaged = write_model(tmp_path / "damaged")
    (damaged / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        CodeEmbedding(damaged)


def test_a_table_that_does_not_fit_its_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"table is \(3, 2\), expected \(4, 2\)"):
        CodeEmbedding(write_model(tmp_path / "small", rows=ROWS[:3]))


# --- as the model of an index ----------------------------------------------------------------------------------------


def _repository(folder: Path) -> Path:
    folder.mkdir()
    (folder / "io.py").write_text("def read_file(path):\n    return open(path).read()\n")
    (folder / "math.py").write_text("def sum_all(numbers):\n    return sum(numbers)\n")
    return folder


def test_an_index_names_its_model(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "idx"
    with CodeIndex(CodeEmbedding(folder), target) as index:
        index.update([_repository(tmp_path / "code")])
    with CodeIndex.open(target) as index:
        for mode in ("dense", "fused"):
            (first, *_) = index.search("read", mode=mode)
            assert first.node.metadata["path"] == "io.py"
        assert index.embedding.model_name == str(folder)


def test_the_command_line(folder: Path, shell: Shell, tmp_path: Path) -> None:
    code = _repository(tmp_path / "code")
    assert shell("index", code, "--out", "idx", "--model", folder, "--json")["embedded"] == 2
    (first, *_) = shell("search", "sum", "--index", "idx", "--mode", "dense", "--json")
    assert first["path"] == "math.py"
    (code / "io.py").write_text("def file_sum(path):\n    return 0\n")
    assert shell("update", "--index", "idx", "--json")["embedded"] == 1
    assert "def sum_all" in shell("chat", "--index", "idx", "--question", "sum")
    search, build = ("search", "sum", "--index", "idx"), ("index", code, "--out", "new", "--model", folder)
    shell.fails(*search, "--fast-query", says="--fast-query has no effect on an index of the static model")
    shell.fails(*search, "--device", "cpu", says="--device has no effect on an index of the static model")
    shell.fails("update", "--index", "idx", "--cache", "c", says="--cache has no effect on the static model")
    shell.fails(*build, "--cache", "c", says="--cache has no effect on the static model")
    shell.fails(*build, "--adapter", "embedded-general", says="adapter has no effect; leave it out")
    assert not Path("new").exists()


def test_an_index_of_another_version_of_the_model(shell: Shell, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    shell("index", _repository(tmp_path / "code"), "--out", "idx", "--model", folder)
    write_model(folder, rows=[[0, 0], [1, 0], [0, 1], [1, 2]])
    for options in ((), ("--refresh",)):
        shell.fails("search", "sum", "--index", "idx", *options, says=f"--out idx --model {folder}")


@pytest.mark.parametrize(
    "command", ["index CODE --out NEW --model MODEL", "update --index IDX", "search sum --index IDX"]
)
def test_no_command_imports_torch(command: str, folder: Path, tmp_path: Path) -> None:
    code = _repository(tmp_path / "code")
    with CodeIndex(CodeEmbedding(folder), tmp_path / "idx") as index:
        index.update([code])
    paths = {"CODE": code, "NEW": tmp_path / "new", "MODEL": folder, "IDX": tmp_path / "idx"}
    program = (
        "import sys\n"
        "from llamaindex_code_retrieval.cli.main import main\n"
        "assert main(sys.argv[1:]) == 0\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    words = [str(paths.get(word, word)) for word in command.split()]
    subprocess.run([sys.executable, "-c", program, *words], check=True)
