"""Query encoders: layers that are kept, what comes back from a folder, and use in embeddings, indexes and commands."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from students import QUERIES, STUDENTS, save_student, torch_encoder, trained_student
from torch import nn
from transformers import T5EncoderModel

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeRetriever, EmbeddingCache, Encoder
from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.eval.runner import run_suite
from llamaindex_code_retrieval.eval.suite import load_suite
from llamaindex_code_retrieval.index.storage import Storage
from llamaindex_code_retrieval.models.modify import keep_layers, layer_count, quantize
from llamaindex_code_retrieval.models.query_encoder import QueryEncoder
from llamaindex_code_retrieval.training.checkpoints import save_query_encoder
from llamaindex_code_retrieval.training.students import StaticStudent

CODES = ["def read(path):\n    return open(path).read()", "int add(int a, int b) { return a + b; }"]
FAMILIES = ["bert", "roberta", "t5", "codet5p", "codesage"]


@pytest.fixture(scope="session")
def folders(
    bert_folder: Path, roberta_folder: Path, t5_folder: Path, codet5p_folder: Path, codesage_folder: Path
) -> dict[str, Path]:
    found = [bert_folder, roberta_folder, t5_folder, codet5p_folder, codesage_folder]
    return dict(zip(FAMILIES, found, strict=True))


# --- layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_equal_the_teacher_and_one_does_not(family: str, folders: dict[str, Path]) -> None:
    teacher = torch_encoder(folders[family])
    before = teacher.encode_queries(QUERIES)
    whole = teacher.with_backbone(partial(keep_layers, numbers=[0, 1]))
    np.testing.assert_allclose(whole.encode_queries(QUERIES), before, atol=1e-6)
    for layer in (0, 1):
        part = teacher.with_backbone(partial(keep_layers, numbers=[layer]))
        assert layer_count(part.backbone) == 1
        assert np.abs(part.encode_queries(QUERIES) - before).max() > 1e-3
    assert layer_count(teacher.base) == 2
    np.testing.assert_array_equal(teacher.encode_queries(QUERIES), before)  # the teacher is as it was


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_layers_share_the_teachers_weights(family: str, folders: dict[str, Path]) -> None:
    teacher = torch_encoder(folders[family])
    part: Any = teacher.with_backbone(partial(keep_layers, numbers=[1]))
    places = {tensor.data_ptr() for tensor in teacher.base.parameters()}
    assert all(tensor.data_ptr() in places for tensor in part.backbone.parameters())
    base: Any = teacher.base
    assert part.backbone.get_input_embeddings().weight.data_ptr() == base.get_input_embeddings().weight.data_ptr()
    assert sum(p.numel() for p in part.backbone.parameters()) < sum(p.numel() for p in base.parameters())


def test_bert_without_its_first_layer_equals_the_second_one(bert_folder: Path) -> None:
    teacher = torch_encoder(bert_folder)
    ids = teacher.tokenize(QUERIES[:1], side="query")
    base: Any = teacher.base
    with torch.inference_mode():
        hidden = base.encoder.layer[1](base.embeddings(torch.tensor(ids)))
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        ours, _ = teacher.with_backbone(partial(keep_layers, numbers=[1])).hidden_states(ids)
    torch.testing.assert_close(ours, hidden, atol=1e-5, rtol=0)


def test_t5_without_its_first_layer_keeps_the_position_biases(t5_folder: Path) -> None:
    """A T5 of one layer whose weights are the second's and whose position biases are the first's, by transformers."""
    reference = T5EncoderModel.from_pretrained(t5_folder)
    weights = reference.state_dict()
    first, second = "encoder.block.0.", "encoder.block.1."
    bias = first + "layer.0.SelfAttention.relative_attention_bias.weight"
    own = {key: weight for key, weight in weights.items() if not key.startswith((first, second))}
    own |= {first + key.removeprefix(second): weight for key, weight in weights.items() if key.startswith(second)}
    config = reference.config
    config.num_layers = 1
    small = T5EncoderModel(config).eval()
    small.load_state_dict({**own, bias: weights[bias]})
    teacher = torch_encoder(t5_folder)
    ids = teacher.tokenize(QUERIES[:1], side="query")
    with torch.inference_mode():
        expected = small(input_ids=torch.tensor(ids)).last_hidden_state
        found, _ = teacher.with_backbone(partial(keep_layers, numbers=[1])).hidden_states(ids)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layers", [(), (2,), (0, 2), (1, 0), (0, 0), (-1,)])
def test_layers_that_do_not_exist_are_refused(layers: tuple[int, ...], t5_folder: Path) -> None:
    with pytest.raises(ValueError, match="layers must be numbers in rising order from 0 to 1 for this model"):
        torch_encoder(t5_folder).with_backbone(lambda base: keep_layers(base, layers))


def test_a_backbone_of_unknown_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="does not know where Linear has its layers"):
        layer_count(torch.nn.Linear(2, 2))


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("family", ["bert", "bert with an adapter", "t5", "codet5p", "codesage"])
def test_a_saved_student_loads_unchanged(
    name: str, family: str, folders: dict[str, Path], adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    base, _, adapter = family.partition(" ")
    teacher = torch_encoder(folders[base], adapter_folders["lora"] if adapter else None)
    before = teacher.encode_queries(QUERIES)
    student = trained_student(name, teacher)
    folder = save_student(name, student, teacher, tmp_path / "out")
    loaded = QueryEncoder.load(folder, teacher=teacher)
    expected = student.to_static_encoder() if isinstance(student, StaticStudent) else student
    vectors = expected.encode_queries(QUERIES)
    np.testing.assert_allclose(loaded.encode_queries(QUERIES), vectors, atol=1e-5)
    assert vectors.shape == before.shape
    assert np.abs(vectors - before).max() > 1e-2
    assert (loaded.kind, loaded.teacher) == (STUDENTS[name][0].kind, teacher.fingerprint)
    np.testing.assert_array_equal(teacher.encode_queries(QUERIES), before)
    assert loaded.fingerprint == QueryEncoder.load(folder, teacher=teacher).fingerprint
    assert loaded.fingerprint != teacher.fingerprint


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["lora", "full", "transformer"])
def test_int8_is_close_and_has_another_fingerprint(
    name: str, precision: str, bert_folder: Path, tmp_path: Path
) -> None:
    teacher = Encoder.from_pretrained(bert_folder, precision=precision)  # type: ignore[arg-type]
    student = trained_student(name, torch_encoder(bert_folder))
    teacher_record = {"name": "x", "adapter": "none", "fingerprint": teacher.fingerprint}
    loaded = []
    for int8 in (False, True):
        config = STUDENTS[name][0].replace(int8=int8)
        save_query_encoder(student, tmp_path / str(int8), config, teacher=teacher_record, max_tokens=16)
        loaded.append(QueryEncoder.load(tmp_path / str(int8), teacher=teacher))
    whole, eight = (each.encode_queries(QUERIES) for each in loaded)
    assert not np.array_equal(whole, eight)
    assert (whole * eight).sum(axis=1).min() > 0.99
    assert loaded[0].fingerprint != loaded[1].fingerprint


def test_int8_keeps_rows_of_small_weights() -> None:
    # A thousandth of the largest row's size is under half a step of a scale for both: it would come out as 0.
    layer = nn.Linear(4, 2, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[1000.0, -500.0, 250.0, 1000.0], [1.0, -0.5, 0.25, 1.0]]))
    large, small = quantize(nn.Sequential(layer))(torch.tensor([[1.0, 1.0, 1.0, 1.0]]))[0].tolist()
    assert large == pytest.approx(1750, rel=0.01)
    assert small == pytest.approx(1.75, rel=0.01)


@pytest.mark.parametrize("name", STUDENTS)
def test_queries_are_truncated_at_max_tokens(name: str, bert_folder: Path, tmp_path: Path) -> None:
    teacher = torch_encoder(bert_folder)
    loaded = QueryEncoder.load(save_student(name, trained_student(name, teacher), teacher, tmp_path), teacher=teacher)
    words = ["x", "read"] * 20
    long, cut, short = loaded.encode_queries([" ".join(words), " ".join(words[:16]), " ".join(words[:12])])
    np.testing.assert_allclose(long, cut, atol=1e-6)
    assert not np.allclose(long, short, atol=1e-6)


def test_other_weights_have_another_fingerprint(bert_folder: Path, tmp_path: Path) -> None:
    teacher = torch_encoder(bert_folder)
    fingerprints = set()
    for name in STUDENTS:
        student: Any = trained_student(name, teacher)
        fingerprints.add(
            QueryEncoder.load(save_student(name, student, teacher, tmp_path / name), teacher=teacher).fingerprint
        )
        with torch.no_grad():
            next(p for p in student.parameters() if p.requires_grad).mul_(2).add_(1)
        fingerprints.add(
            QueryEncoder.load(save_student(name, student, teacher, tmp_path / name), teacher=teacher).fingerprint
        )
    assert len(fingerprints) == 2 * len(STUDENTS)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory, bert_folder: Path) -> dict[str, Path]:
    """A student of each kind of the tiny BERT."""
    teacher = torch_encoder(bert_folder)
    root = tmp_path_factory.mktemp("students")
    return {name: save_student(name, trained_student(name, teacher), teacher, root / name) for name in STUDENTS}


def test_a_student_of_another_teacher_is_refused(
    saved: dict[str, Path], bert_folder: Path, roberta_folder: Path, adapter_folders: dict[str, Path]
) -> None:
    own = torch_encoder(bert_folder).fingerprint
    for other in (torch_encoder(roberta_folder), torch_encoder(bert_folder, adapter_folders["lora"])):
        for folder in saved.values():
            with pytest.raises(
                ValueError, match=f"fingerprint {own}, and the vectors here are of .* {other.fingerprint}"
            ):
                QueryEncoder.load(folder, teacher=other)


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("static", "query_encoder.json", "{", "is not valid JSON"),
        ("static", "query_encoder.json", "[]", "must hold a JSON dict, not a list"),
        (
            "static",
            "query_encoder.json",
            '{"format": 1, "kind": "static"}',
            "is incomplete or damaged",
        ),
        ("static", "query_encoder.json", None, "holds no query_encoder.json, so it is no query encoder"),
        ("static", "query_encoder.safetensors", None, "cannot be read"),
        ("static", "query_encoder.safetensors", "cut", "cannot be read"),
        ("static", "tokenizer.json", None, "is damaged"),
        ("static", "tokenizer.json", "{}", "is damaged"),
        ("lora", "adapter_config.json", None, "tensors are missing"),
        ("lora", "adapter_model.safetensors", None, "holds no adapter_model.safetensors"),
        ("lora", "adapter_model.safetensors", "cut", "cannot be read"),
        ("lora", "query_encoder.safetensors", None, "cannot be read"),
        ("lora", "query_encoder.safetensors", "cut", "cannot be read"),
        ("full", "query_encoder.safetensors", None, "cannot be read"),
        ("full", "query_encoder.safetensors", "cut", "cannot be read"),
        ("transformer", "query_encoder.safetensors", "cut", "cannot be read"),
        ("transformer", "config.json", "{", "is not valid JSON"),
        ("transformer", "config.json", None, "cannot be read"),
    ],
)
def test_damaged_folders_are_refused(
    name: str, file: str, content: str | None, message: str, saved: dict[str, Path], bert_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved[name], tmp_path / "out"))
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        QueryEncoder.load(folder, teacher=torch_encoder(bert_folder))
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("static", {"bias": None}, "1 of 6 tensors are missing: bias"),
        ("static", {"projection": None}, "tensors are missing: projection"),
        ("static", {"more": torch.ones(2)}, "1 tensors are unexpected: more"),
        ("static", {"scales": torch.ones(1)}, r"scales is \(1,\), expected"),
        ("static", {"outer": torch.ones(8)}, r"outer is \(8,\), expected \(8, 32\)"),
        ("static", {"projection": torch.full((8, 32), torch.nan)}, "NaN or infinite values in 1 tensors: projection"),
        ("lora", {"bias": torch.ones(1)}, r"bias is \(1,\), expected \(32,\)"),
        ("full", {"proj.bias": torch.ones(1)}, r"proj.bias is \(1,\), expected \(32,\)"),  # copying would spread it
        ("transformer", {"proj.bias": torch.full((32,), torch.inf)}, "NaN or infinite values in 1 tensors: proj.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    name: str,
    change: dict[str, torch.Tensor | None],
    message: str,
    saved: dict[str, Path],
    bert_folder: Path,
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(saved[name], tmp_path / "out"))
    weights = load_file(folder / "query_encoder.safetensors") | change
    save_file(
        {key: weight for key, weight in weights.items() if weight is not None}, folder / "query_encoder.safetensors"
    )
    with pytest.raises(ValueError, match=f"query_encoder.safetensors .*{message}.*distil it again"):
        QueryEncoder.load(folder, teacher=torch_encoder(bert_folder))


@pytest.mark.parametrize(("key", "value"), [("format", 2), ("kind", "bigram")])
def test_another_format_is_refused(
    key: str, value: object, saved: dict[str, Path], bert_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(saved["static"], tmp_path / "out"))
    facts = json.loads((folder / "query_encoder.json").read_text()) | {key: value}
    (folder / "query_encoder.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"this version reads format 1 and static, layers, transformer: distil it"):
        QueryEncoder.load(folder, teacher=torch_encoder(bert_folder))


def test_folders_of_other_models_are_refused(
    saved: dict[str, Path], bert_folder: Path, adapter_folders: dict[str, Path]
) -> None:
    for folder in saved.values():
        with pytest.raises(ValueError, match="embeds queries only; give it as query_encoder, or to --fast-query"):
            torch_encoder(bert_folder, folder)
    for folder in (adapter_folders["lora"], bert_folder):
        with pytest.raises(ValueError, match=r"holds no query_encoder\.json, so it is no query encoder"):
            QueryEncoder.load(folder, teacher=torch_encoder(bert_folder))
    with pytest.raises(ValueError, match="unknown query encoder 'nowhere'"):
        QueryEncoder.load("nowhere", teacher=torch_encoder(bert_folder))
    with pytest.raises(ValueError, match="no query encoder comes with the package for the fingerprint"):
        QueryEncoder.load("auto", teacher=torch_encoder(bert_folder))


# --- use -------------------------------------------------------------------------------------------------------------


def _embedding(base: Path, **options: Any) -> CodeEmbedding:
    return CodeEmbedding(str(base), precision="fp32", **options)


@pytest.mark.parametrize("name", STUDENTS)
def test_the_student_embeds_queries_and_the_teacher_codes(
    name: str, saved: dict[str, Path], bert_folder: Path, tmp_path: Path
) -> None:
    plain = _embedding(bert_folder)
    fast = _embedding(bert_folder, query_encoder=saved[name], cache_folder=tmp_path)
    student = QueryEncoder.load(saved[name], teacher=plain.torch_encoder).encode_queries(QUERIES)
    plain.embed_queries(QUERIES)  # what a cache would hold
    np.testing.assert_allclose(fast.embed_queries(QUERIES), student, atol=1e-5)
    np.testing.assert_allclose(fast.get_query_embedding(QUERIES[0]), student[0], atol=1e-5)
    assert np.abs(student - plain.embed_queries(QUERIES)).max() > 1e-2
    assert fast.get_text_embedding_batch(CODES) == plain.get_text_embedding_batch(CODES)
    assert fast.fingerprint == plain.fingerprint
    assert fast.model_dump() == plain.model_dump() | {"query_encoder": str(saved[name])}


def test_async_methods_and_copies_keep_the_student(saved: dict[str, Path], bert_folder: Path) -> None:
    fast = _embedding(bert_folder, query_encoder=str(saved["static"]))
    vector = fast.get_query_embedding("read a file")
    assert asyncio.run(fast.aget_query_embedding("read a file")) == vector
    rebuild, (options,) = fast.__reduce__()
    again = rebuild(json.loads(json.dumps(options)))
    assert again.query_encoder == str(saved["static"])
    for other in (again, fast.uncached(), fast.for_language("python")):
        assert other.get_query_embedding("read a file") == vector


def test_the_default_adapter_stays(saved: dict[str, Path], bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    fast = _embedding(bert_folder, query_encoder=saved["static"])
    before = fast.fingerprint
    for adapter in (adapter_folders["lora"], None):
        with pytest.raises(ValueError, match="the default adapter cannot be replaced"):
            fast.use_adapter("", adapter)
    assert (fast.fingerprint, fast.adapter) == (before, "none")
    fast.use_adapter("java", adapter_folders["lora"])
    assert list(fast.adapters) == ["java"]


def test_languages_with_their_own_adapter_do_not_use_the_student(
    saved: dict[str, Path], bert_folder: Path, adapter_folders: dict[str, Path]
) -> None:
    adapters = {"java": str(adapter_folders["lora"])}
    plain = _embedding(bert_folder, adapters=adapters)
    fast = _embedding(bert_folder, adapters=adapters, query_encoder=saved["static"])
    student = QueryEncoder.load(saved["static"], teacher=plain.torch_encoder).encode_queries(QUERIES)
    for language in ("", "python"):
        np.testing.assert_array_equal(fast.for_language(language).embed_queries(QUERIES), student)
    java = fast.for_language("java")
    assert java.query_encoder is None
    np.testing.assert_array_equal(java.embed_queries(QUERIES), plain.for_language("java").embed_queries(QUERIES))
    np.testing.assert_array_equal(fast.embed_codes(CODES, ["java", "c"]), plain.embed_codes(CODES, ["java", "c"]))


@pytest.fixture
def indexed(repository: Path, bert_folder: Path, tmp_path: Path) -> Path:
    index = CodeIndex(_embedding(bert_folder))
    index.update([repository])
    index.save(tmp_path / "idx")
    return tmp_path / "idx"


def test_an_index_is_searched_with_the_student(
    indexed: Path, saved: dict[str, Path], bert_folder: Path, roberta_folder: Path, tmp_path: Path
) -> None:
    index = CodeIndex.open(indexed, query_encoder=saved["static"])
    student = QueryEncoder.load(saved["static"], teacher=torch_encoder(bert_folder)).encode_queries(["total price"])[0]
    hits = CodeRetriever(index, top_k=100, mode="dense").retrieve("total price")
    texts = [hit.node.get_content(metadata_mode="embed") for hit in hits]  # type: ignore[arg-type]
    codes = _embedding(bert_folder).get_text_embedding_batch(texts)
    assert len(hits) >= 5
    np.testing.assert_allclose([hit.score for hit in hits], np.array(codes) @ student, atol=1e-3)
    teacher = torch_encoder(roberta_folder)
    other = save_student("static", trained_student("static", teacher), teacher, tmp_path / "other")
    with pytest.raises(ValueError, match=r"was distilled from .* take a query encoder of that model, or distil one"):
        CodeIndex.open(indexed, query_encoder=other)


def test_the_command(
    indexed: Path,
    saved: dict[str, Path],
    adapter_folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    search = ["search", "total price", "--index", str(indexed), "--mode", "dense", "--json"]
    found = {}
    for name, more in {"plain": [], "fast": ["--fast-query", str(saved["static"])]}.items():
        assert main([*search, *more]) == 0
        found[name] = {(hit["file"], hit["start_line"]): hit["score"] for hit in json.loads(capsys.readouterr().out)}
    assert found["plain"].keys() == found["fast"].keys()  # a small repository: all of it is found
    assert found["plain"] != found["fast"]
    for more, message in (
        (str(adapter_folders["lora"]), "so it is no query encoder; name one that comes with the package"),
        ("nowhere", "unknown query encoder 'nowhere'"),
        ("auto", "no query encoder comes with the package for the fingerprint"),
    ):
        assert main([*search, "--fast-query", more]) == 2
        printed = capsys.readouterr()
        assert message in printed.err
        assert printed.out == ""


def test_a_static_student_loads_the_model_only_to_embed_code(
    indexed: Path, saved: dict[str, Path], bert_folder: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(indexed, moved)
    storage = Storage(moved)
    with storage.writing() as writing:
        embedding = writing.settings("embedding")["embedding"]
        writing.put_settings({"embedding": embedding | {"model_name": str(tmp_path / "gone")}})
    storage.close()
    index = CodeIndex.open(moved, query_encoder=saved["static"])
    there = CodeIndex.open(indexed, query_encoder=saved["static"])
    assert len(CodeRetriever(index, top_k=3).retrieve("total price")) == 3
    assert index.embedding.fingerprints == there.embedding.fingerprints == {"": torch_encoder(bert_folder).fingerprint}
    assert there.embedding.dim == there.embedding.encoder.dim
    with pytest.raises(ValueError, match="gone"):
        index.embedding.get_text_embedding("def f(): pass")
    with pytest.raises(ValueError, match="give query_encoder to the embedding"):
        CodeIndex.open(indexed, embedding=there.embedding, query_encoder=saved["static"])


def test_a_changed_model_is_refused_when_it_is_loaded(
    saved: dict[str, Path], bert_folder: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(bert_folder, base)
    saved_settings = _embedding(base).to_dict()
    config = json.loads((base / "config.json").read_text()) | {"layer_norm_eps": 0.1}
    (base / "config.json").write_text(json.dumps(config))
    embedding = CodeEmbedding.from_dict(saved_settings, query_encoder=saved["static"])
    assert len(embedding.get_query_embedding("total price")) == embedding.dim
    with pytest.raises(ValueError, match="its weights, adapter, tokenizer or limits have changed"):
        embedding.get_text_embedding("def f(): pass")


def test_the_cache_is_keyed_by_the_precision_in_force(
    saved: dict[str, Path], bert_folder: Path, tmp_path: Path
) -> None:
    """A static student does not load the base, so the precision is not known when the embedding is built."""
    settings = _embedding(bert_folder).to_dict() | {"precision": "auto"}
    embedding = CodeEmbedding.from_dict(settings, query_encoder=saved["static"], cache_folder=tmp_path)
    assert embedding.precision == "auto"
    embedding.get_text_embedding("x")
    key = EmbeddingCache.key(f"{embedding.fingerprint}-{embedding.encoder.precision}", "code", "x")
    assert len(EmbeddingCache(tmp_path).get([key])) == 1


@pytest.mark.parametrize(("option", "value"), [("precision", "fp8"), ("pooling", "max")])
def test_wrong_names_are_refused_where_the_base_is_not_loaded(
    option: str, value: str, saved: dict[str, Path], bert_folder: Path
) -> None:
    settings = _embedding(bert_folder).to_dict() | {option: value}
    with pytest.raises(ValueError, match=rf"(?s){option}.*{value}"):
        CodeEmbedding.from_dict(settings, query_encoder=saved["static"])


def test_torch_is_not_imported_for_a_static_student(indexed: Path, saved: dict[str, Path]) -> None:
    search = ["search", "total price", "--index", str(indexed), "--fast-query", str(saved["static"])]
    script = (
        f"import sys; from llamaindex_code_retrieval.cli.main import main; code = main({search!r}); "
        "print({'torch', 'transformers', 'peft'} & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "set()"


def test_a_suite_compares_the_student_with_its_teacher(
    saved: dict[str, Path], bert_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "shop").mkdir()
    code = 'def {0}(x):\n    """{1} the {0}."""\n    y = {0}.{1}(x)\n    return y\n\n\n'
    words = ("price", "total", "cart", "order", "item")
    (tmp_path / "shop" / "all.py").write_text("".join(code.format(word, verb) for word in words for verb in ["add"]))
    system = f'[[system]]\nname = "{{0}}"\nmodel = "{bert_folder}"\nmode = "dense"\n'
    fast = system.format("fast") + f'query_encoder = "{saved["static"]}"\n'
    task = 'depth = 5\n[[task]]\nname = "own"\nrepository = ["shop"]\n'
    (tmp_path / "suite.toml").write_text(task + system.format("plain") + fast)
    report = run_suite(
        load_suite(tmp_path / "suite.toml"), out=tmp_path / "out", cache_folder=tmp_path / "cache"
    ).report
    plain, student = report.retrieval
    assert student.fingerprint.startswith(f"{plain.fingerprint}+")
    assert student.top != plain.top
