from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import save_adapter
from llama_index.core.schema import NodeRelationship, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llamaindex_code_retrieval import (
    CodeEmbedding,
    CodeIndex,
    CodeNodeParser,
    CodeRetriever,
    EmbeddingCache,
    FaissStore,
)
from llamaindex_code_retrieval.index.storage import read_manifest, update_lock


@pytest.fixture
def embedding(bert_folder: Path) -> CodeEmbedding:
    return CodeEmbedding(str(bert_folder), precision="fp32")


def _node(node_id: str, text: str, language: str) -> TextNode:
    return TextNode(id_=node_id, text=text, metadata={"language": language}, excluded_embed_metadata_keys=["language"])


def _texts(index: CodeIndex) -> dict[str, str]:
    return {f"{node.metadata['path']}:{node.metadata['start_line']}": node.text for node in index.nodes()}


def _scopes(index: CodeIndex) -> set[str]:
    return {node.metadata["scope"] for node in index.nodes()}


def test_indexes_a_repository(repository: Path, embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    stages: list[tuple[str, int, int]] = []
    report = index.update([repository], on_progress=lambda *step: stages.append(step))
    assert {"Cart", "Cart.__init__", "Cart.add", "Cart.total", "send_receipt", "Tax.withTax"} <= _scopes(index)
    assert (report.files, report.nodes, report.added, report.removed) == (3, len(index), len(index), 0)
    assert report.embedded == len(index)
    assert report.skipped == {"no known language": 1}
    assert set(index.languages) == {"java", "python"}
    assert ("parse", 3, 3) in stages
    assert ("embed", len(index), len(index)) in stages
    total = next(node for node in index.nodes() if node.metadata["scope"] == "Cart.total")
    assert total.metadata["path"] == "src/cart.py"
    assert total.text.startswith("    def total(self):")
    assert total.relationships[NodeRelationship.SOURCE].node_id == "src/cart.py"  # type: ignore[union-attr]
    assert total.excluded_embed_metadata_keys
    np.testing.assert_allclose(
        index.vector_store.vectors([total.node_id])[0],  # type: ignore[attr-defined]
        embedding.get_text_embedding(total.text),
        atol=1e-5,
    )


def test_update_embeds_only_what_changed_and_removes_what_is_gone(repository: Path, embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    index.update([repository])
    nothing = index.update()
    assert (nothing.added, nothing.removed, nothing.embedded) == (0, 0, 0)

    cart = repository / "src" / "cart.py"
    cart.write_text("# a new first line\n\n" + cart.read_text().replace("item, price", "thing, price"))
    (repository / "Tax.java").unlink()
    report = index.update()
    assert report.embedded == 2  # the comment and `add`; all else only moved
    assert report.added > 2
    assert "Tax.withTax" not in _scopes(index)

    fresh = CodeIndex(embedding)
    fresh.update([repository])
    assert _texts(index) == _texts(fresh)
    for mode in ("dense", "bm25", "fused"):
        asked = [CodeRetriever(i, mode=mode).retrieve("total price of the items") for i in (index, fresh)]  # type: ignore[arg-type]
        assert [hit.node_id for hit in asked[0]] == [hit.node_id for hit in asked[1]]
        np.testing.assert_allclose(*[[hit.score for hit in hits] for hits in asked], atol=1e-5)


def test_update_refreshes_what_surrounds_an_unchanged_node(repository: Path, embedding: CodeEmbedding) -> None:
    """A method keeps text, lines and id when its class is renamed; its scope and parent must follow all the same."""
    index = CodeIndex(embedding)
    index.update([repository])
    cart = repository / "src" / "cart.py"
    cart.write_text(cart.read_text().replace("class Cart:", "class Till:"))
    report = index.update()
    assert (report.added, report.removed, report.embedded) == (1, 1, 1)  # the header alone
    assert "Till.add" in _scopes(index)
    fresh = CodeIndex(embedding)
    fresh.update([repository])
    assert [node.to_dict() for node in index.nodes()] == [node.to_dict() for node in fresh.nodes()]


def test_save_load_search(repository: Path, embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(embedding, parser=CodeNodeParser(max_lines=40, overlap_lines=4))
    index.update([repository])
    index.save(tmp_path / "index")
    manifest = read_manifest(tmp_path / "index")
    assert (manifest["format"], manifest["dim"], manifest["files"]) == (3, 32, 3)
    assert manifest["fingerprint"] == embedding.fingerprint
    assert not [p for p in (tmp_path / "index").rglob("*") if p.suffix in (".pkl", ".pickle", ".tmp")]

    again = CodeIndex.load(tmp_path / "index")
    assert again.parser.max_lines == 40
    assert [node.to_dict() for node in again.nodes()] == [node.to_dict() for node in index.nodes()]
    query = "send the receipt by mail"
    hits = CodeRetriever(index).retrieve(query)
    assert [(h.node_id, h.score) for h in CodeRetriever(again).retrieve(query)] == [(h.node_id, h.score) for h in hits]
    assert again.update().added == 0


def test_several_roots_get_prefixes(repository: Path, tmp_path: Path, embedding: CodeEmbedding) -> None:
    other = tmp_path / "other" / "shop"
    other.mkdir(parents=True)
    (other / "x.py").write_text("def x():\n    return 1\n")
    index = CodeIndex(embedding)
    index.update([repository, other])
    assert {node.metadata["path"] for node in index.nodes()} == {
        "shop/Tax.java",
        "shop/src/cart.py",
        "shop/src/mail.py",
        "shop-2/x.py",
    }
    assert index.file_of("shop-2/x.py") == other / "x.py"
    assert index.file_of("shop/src/cart.py").is_file()


def test_another_vector_store(repository: Path, embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(embedding, vector_store=SimpleVectorStore())
    reference = CodeIndex(embedding)
    for each in (index, reference):
        each.update([repository])
    (repository / "Tax.java").unlink()
    for each in (index, reference):
        each.update()
    hits = [CodeRetriever(each).retrieve("total of all prices") for each in (index, reference)]
    assert [hit.node_id for hit in hits[0]] == [hit.node_id for hit in hits[1]]
    index.save(tmp_path / "index")
    with pytest.raises(ValueError, match="keeps its vectors in a SimpleVectorStore; pass it"):
        CodeIndex.load(tmp_path / "index", embedding=embedding)
    again = CodeIndex.load(tmp_path / "index", embedding=embedding, vector_store=index.vector_store)
    assert [hit.node_id for hit in CodeRetriever(again).retrieve("total of all prices")] == [h.node_id for h in hits[0]]


def test_own_nodes(embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    index.update_nodes([TextNode(id_="a", text="read the file"), TextNode(id_="b", text="add numbers")])
    assert CodeRetriever(index, mode="bm25").retrieve("numbers")[0].node_id == "b"
    report = index.update_nodes([TextNode(id_="b", text="add numbers"), TextNode(id_="c", text="")])
    assert (report.added, report.removed, len(index)) == (1, 1, 2)
    for store in (None, SimpleVectorStore()):
        index = CodeIndex(embedding, vector_store=store)
        index.update_nodes([TextNode(id_="a", text="read the file"), TextNode(id_="b", text="x y z")])
        report = index.update_nodes([TextNode(id_="a", text="add numbers"), TextNode(id_="b", text="x y z")])
        assert (report.added, report.removed, report.embedded, len(index)) == (1, 0, 1, 2)
        hit = CodeRetriever(index, mode="dense").retrieve("add numbers")[0]
        assert (hit.node_id, hit.node.get_content()) == ("a", "add numbers")
        assert hit.score == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ValueError, match="repeat the id"):
        index.update_nodes([TextNode(id_="a", text="x"), TextNode(id_="a", text="y")])


def test_nothing_to_index(tmp_path: Path, embedding: CodeEmbedding) -> None:
    (tmp_path / "README.md").write_text("text")
    with pytest.raises(ValueError, match=r"no source file in .*1 no known language"):
        CodeIndex(embedding).update([tmp_path])
    with pytest.raises(ValueError, match="name at least one folder"):
        CodeIndex(embedding).update()


def test_files_that_cannot_be_parsed_are_counted_and_found(tmp_path: Path, embedding: CodeEmbedding) -> None:
    (tmp_path / "bad.py").write_text("))) ]] def ((( {{{ quokka\n" * 20)
    (tmp_path / "good.py").write_text("def good():\n    return 1\n")
    index = CodeIndex(embedding)
    assert index.update([tmp_path]).unparsed_files == 1
    assert CodeRetriever(index, mode="bm25").retrieve("quokka")[0].node.metadata["path"] == "bad.py"


def test_truncation_is_counted(tmp_path: Path, bert_folder: Path) -> None:
    (tmp_path / "long.py").write_text("def f():\n    return [" + "1, " * 100 + "]\n")
    (tmp_path / "short.py").write_text("x = 1\n")
    report = CodeIndex(CodeEmbedding(str(bert_folder))).update([tmp_path])
    assert report.truncated == 1


# --- an adapter for each language ------------------------------------------------------------------------------------

SOURCES = {
    "a.py": "def read_file(path):\n    return open(path).read()\n\n\ndef add(a, b):\n    return a + b\n",
    "B.java": "class B {\n  int add(int a, int b) { return a + b; }\n}\n",
    "c.go": "package c\n\nfunc Add(a int, b int) int {\n\treturn a + b\n}\n",
}


def _vectors(index: CodeIndex) -> dict[str, list[float]]:
    store = index.vector_store
    assert isinstance(store, FaissStore)
    return {node.node_id: store.vectors([node.node_id])[0].tolist() for node in index.nodes()}


def _stores_what_each_adapter_makes(index: CodeIndex) -> None:
    for node in index.nodes():
        one = index.embedding.for_language(node.metadata["language"])
        assert _vectors(index)[node.node_id] == pytest.approx(one.get_text_embedding(node.text), abs=1e-5)


def test_nodes_are_embedded_by_their_languages_adapter(
    bert_folder: Path, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    adapters = {"python": adapter_folders["lora"], "java": adapter_folders["ia3"], "ruby": adapter_folders["adalora"]}
    embedding = CodeEmbedding(str(bert_folder), adapters=adapters, precision="fp32")
    index = CodeIndex(embedding)
    index.update_texts(SOURCES)
    _stores_what_each_adapter_makes(index)
    assert [(one.fingerprint, languages) for one, languages in index.adapter_groups()] == [
        (embedding.fingerprints[""], ["go"]),
        (embedding.fingerprints["java"], ["java"]),
        (embedding.fingerprints["python"], ["python"]),
    ]
    assert [languages for _, languages in index.adapter_groups(["java", "cobol"])] == [["java"]]

    index.save(tmp_path / "index")
    manifest = read_manifest(tmp_path / "index")
    assert manifest["fingerprint"] == embedding.fingerprint
    assert manifest["adapters"] == {k: v for k, v in embedding.fingerprints.items() if k}
    again = CodeIndex.load(tmp_path / "index")
    assert again.embedding.to_dict() | {"precision": "fp32"} == embedding.to_dict()  # that is each machine's own
    assert _vectors(again) == _vectors(index)
    assert again.update_texts(SOURCES).embedded == 0


def test_an_index_names_the_language_whose_adapter_is_another(
    bert_folder: Path, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    adapters = {"python": save_adapter("lora", bert_folder, tmp_path / "python"), "java": adapter_folders["ia3"]}
    index = CodeIndex(CodeEmbedding(str(bert_folder), adapters=adapters))
    index.update_texts(SOURCES)
    index.save(tmp_path / "index")
    for other, named in (
        ({"python": adapter_folders["ia3"], "java": adapter_folders["ia3"]}, r"\(another adapter for python\)"),
        ({"python": tmp_path / "python"}, r"\(another adapter for java\)"),
        ({}, r"\(another adapter for java, python\)"),
    ):
        with pytest.raises(ValueError, match=named):
            CodeIndex.load(tmp_path / "index", embedding=CodeEmbedding(str(bert_folder), adapters=other))
    save_adapter("lora", bert_folder, tmp_path / "python", seed=9)  # trained anew in place
    with pytest.raises(ValueError, match=r"fingerprint .* \(another adapter for python\); rebuild it with"):
        CodeIndex.load(tmp_path / "index")
    shutil.rmtree(tmp_path / "python")
    with pytest.raises(ValueError, match=r"unknown adapter .*'python'"):
        CodeIndex.load(tmp_path / "index")


@pytest.mark.parametrize("loaded", [False, True])
def test_update_after_a_swap_embeds_that_language_alone(
    loaded: bool, bert_folder: Path, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    made = {"adapters": {"python": adapter_folders["lora"]}, "precision": "fp32"}
    index = CodeIndex(CodeEmbedding(str(bert_folder), **made))  # type: ignore[arg-type]
    index.update_texts(SOURCES)
    if loaded:
        index.save(tmp_path)
        index = CodeIndex.load(tmp_path, embedding=CodeEmbedding(str(bert_folder), **made))  # type: ignore[arg-type]
    before, made_by = _vectors(index), index.embedding.fingerprint
    query = "return a + b"
    hits = [(hit.node_id, hit.score) for hit in CodeRetriever(index, mode="dense").retrieve(query)]
    index.embedding.use_adapter("python", adapter_folders["ia3"])
    # Until the update it is searched by the adapters that made its vectors, and saved with them.
    assert [(hit.node_id, hit.score) for hit in CodeRetriever(index, mode="dense").retrieve(query)] == hits
    index.save(tmp_path)
    assert read_manifest(tmp_path)["fingerprint"] == made_by

    report = index.update_texts(SOURCES)
    assert (report.added, report.removed, report.embedded) == (0, 0, index.languages["python"])
    _stores_what_each_adapter_makes(index)
    after = _vectors(index)
    same = {node_id for node_id in before if before[node_id] == after[node_id]}
    assert same == {node.node_id for node in index.nodes() if node.metadata["language"] != "python"}
    index.save(tmp_path)
    assert _vectors(CodeIndex.load(tmp_path)) == after

    index.embedding.use_adapter("java", adapter_folders["ia3"])  # a swap and a changed file at once
    changed = SOURCES | {"c.go": SOURCES["c.go"].replace("Add", "Sum")}
    report = index.update_texts(changed)
    assert report.embedded == index.languages["java"] + 1
    _stores_what_each_adapter_makes(index)
    index.embedding.use_adapter("", adapter_folders["ia3"])  # what Python and Java have already
    assert index.update_texts(changed).embedded == index.languages["go"]
    assert len(index.adapter_groups()) == 1


def test_a_node_given_another_language_is_embedded_anew(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    embedding = CodeEmbedding(str(bert_folder), adapters={"python": adapter_folders["lora"]})
    index = CodeIndex(embedding)
    for language, embedded in (("c", 1), ("python", 1), ("python", 0), ("go", 1), ("rust", 0)):
        report = index.update_nodes([_node("a", "x + y", language)])
        assert report.embedded == embedded
        assert _vectors(index)["a"] == pytest.approx(embedding.embed_codes(["x + y"], [language])[0].tolist(), abs=1e-5)
    same_text = [_node(i, "x + y", i) for i in ("go", "python")]
    assert index.update_nodes(same_text).embedded == 1
    _stores_what_each_adapter_makes(index)


@pytest.mark.parametrize("store", [FaissStore(32), FaissStore(32, exact_limit=40), SimpleVectorStore()])
def test_search_among_languages(store: BasePydanticVectorStore, embedding: CodeEmbedding) -> None:
    """Exactly the ranking over all, with the others taken out; in any vector store."""
    index = CodeIndex(embedding, vector_store=store)
    languages = ["python", "java", "go"]
    nodes = [_node(f"{i}", f"return {i} + {i % 7}", languages[min(i % 20, 2)]) for i in range(60)]
    index.update_nodes(nodes)
    query = embedding.get_query_embedding("return 4 + 4")
    everything = index.search_vectors(query, top_k=60)
    for wanted in (["python"], ["java"], ["python", "java"], ["cobol"], languages):
        among = [hit for hit in everything if index.node(hit[0]).metadata["language"] in wanted]
        for top_k in (1, 2, 5, 60):
            got = index.search_vectors(query, top_k=top_k, languages=wanted)
            assert len(got) == min(top_k, len(among)) or not getattr(store, "is_exact", True)
            if getattr(store, "is_exact", True):
                assert [node_id for node_id, _ in got] == [node_id for node_id, _ in among[:top_k]]
            assert all(index.node(node_id).metadata["language"] in wanted for node_id, _ in got)
    everything = index.search_words("return 4", top_k=60)
    among = [hit for hit in everything if index.node(hit[0]).metadata["language"] == "java"]
    assert index.search_words("return 4", top_k=2, languages=["java"]) == among[:2]


def test_adapters_with_another_vector_store(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    embedding = CodeEmbedding(str(bert_folder), adapters={"python": adapter_folders["lora"]})
    indexes = [CodeIndex(embedding), CodeIndex(embedding, vector_store=SimpleVectorStore())]
    for swap in (None, adapter_folders["ia3"]):
        embedding.use_adapter("java", swap)
        for index in indexes:
            index.update_texts(SOURCES)
        hits = [CodeRetriever(index, mode="dense", top_k=3).retrieve("add two numbers") for index in indexes]
        assert [hit.node_id for hit in hits[0]] == [hit.node_id for hit in hits[1]]
        assert [hit.score for hit in hits[0]] == [hit.score for hit in hits[1]]


# --- damage, other models, other processes ---------------------------------------------------------------------------


@pytest.fixture
def saved(repository: Path, embedding: CodeEmbedding, tmp_path: Path) -> Path:
    index = CodeIndex(embedding)
    index.update([repository])
    index.save(tmp_path / "index")
    return tmp_path / "index"


def test_an_index_of_another_model_names_both_and_the_way_out(
    saved: Path, roberta_folder: Path, repository: Path
) -> None:
    other = CodeEmbedding(str(roberta_folder))
    with pytest.raises(ValueError, match="fingerprint") as error:
        CodeIndex.load(saved, embedding=other)
    message = str(error.value)
    assert read_manifest(saved)["fingerprint"] in message
    assert other.fingerprint in message
    assert f"code-retrieval index {repository} --out {saved}" in message


def test_model_that_changed_on_disk_since_is_noticed(repository: Path, bert_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(bert_folder, model)
    index = CodeIndex(CodeEmbedding(str(model)))
    index.update([repository])
    index.save(tmp_path / "index")
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"layer_norm_eps": 0.1}))
    with pytest.raises(ValueError, match="was built by model"):
        CodeIndex.load(tmp_path / "index")


def _shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [Path.unlink, _shorten, _flip])
@pytest.mark.parametrize("name", ["nodes.jsonl", "files.json", "vectors.faiss", "vocab.index.json"])
def test_damage_is_noticed(name: str, damage: Callable[[Path], None], saved: Path, embedding: CodeEmbedding) -> None:
    [file] = saved.rglob(name)
    damage(file)
    with pytest.raises(ValueError, match=r"damaged or half copied: .*; rebuild it with: code-retrieval index"):
        CodeIndex.load(saved, embedding=embedding)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": 99}', "format 99"),
        ('{"format": 2}', "damaged"),
        (None, "no index"),
    ],
)
def test_bad_manifests(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        CodeIndex.load(tmp_path)


SAVE_FOREVER = """
import sys
from llamaindex_code_retrieval import CodeIndex
index = CodeIndex.load(sys.argv[1])
print("loaded", flush=True)
while True:
    index.update_texts({f"f{i}.py": f"def f{i}(): return {i}" for i in range(len(index) % 7 + 2)})
    index.save(sys.argv[1])
"""


def test_a_kill_at_any_moment_leaves_a_whole_index(saved: Path, embedding: CodeEmbedding) -> None:
    for pause in (0.05, 0.11, 0.23):
        process = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(saved)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "loaded\n"
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        index = CodeIndex.load(saved, embedding=embedding)
        assert len(list(index.nodes())) == len(index) > 0
        assert CodeRetriever(index).retrieve("return f1")
    index.save(saved)
    assert len(list(saved.glob("data-*"))) == 1  # what the kills left behind is gone


def test_reader_is_not_disturbed_by_a_writer(saved: Path, embedding: CodeEmbedding) -> None:
    process = subprocess.Popen([sys.executable, "-c", SAVE_FOREVER, str(saved)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        for _ in range(30):
            assert len(CodeIndex.load(saved, embedding=embedding)) > 0
    finally:
        process.kill()
        process.wait()


def _hold(folder: str, seconds: float, held: multiprocessing.synchronize.Event) -> None:
    with update_lock(folder, seconds=0):
        held.set()
        time.sleep(seconds)


def test_the_second_updater_waits_or_says_who_holds_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), 2.0, held))
    process.start()
    assert held.wait(60)
    with (
        pytest.raises(TimeoutError, match=rf"being updated by process {process.pid} on .* since"),
        update_lock(tmp_path, seconds=0.1),
    ):
        pass
    said: list[str] = []
    with update_lock(tmp_path, seconds=30, on_wait=said.append):
        pass
    assert len(said) == 1
    assert f"process {process.pid}" in said[0]
    process.join()
    assert not (tmp_path / ".lock-holder.json").exists()


def test_interrupted_indexing_goes_on_from_the_cache(
    repository: Path, bert_folder: Path, tmp_path: Path, saved: Path
) -> None:
    for i in range(300):
        (repository / f"f{i}.py").write_text(f"def f{i}():\n    return {i}\n")
    before = read_manifest(saved)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "embed":
            raise KeyboardInterrupt

    index = CodeIndex(CodeEmbedding(str(bert_folder), cache_folder=tmp_path / "cache"))
    with pytest.raises(KeyboardInterrupt):
        index.update([repository], on_progress=stop)
    assert read_manifest(saved) == before
    assert len(EmbeddingCache(tmp_path / "cache")) == 256  # one portion, kept


def test_missing_roots_are_an_error_and_the_index_stays(
    saved: Path, repository: Path, embedding: CodeEmbedding
) -> None:
    index = CodeIndex.load(saved, embedding=embedding)
    shutil.rmtree(repository)
    with pytest.raises(ValueError, match="not a folder"):
        index.update()
    assert CodeRetriever(index).retrieve("total")


def test_empty_index_answers_nothing(embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(embedding)
    assert CodeRetriever(index).retrieve("anything") == []
    index.save(tmp_path)
    assert len(CodeIndex.load(tmp_path, embedding=embedding)) == 0
    assert isinstance(index.vector_store, FaissStore)
