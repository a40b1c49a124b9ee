from __future__ import annotations

import copy
import multiprocessing
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_adapter
from hypothesis import given, settings
from hypothesis import strategies as st
from indexes import SOURCES, HashEmbedding, hits_of, scopes_of, vectors_of
from llama_index.core.schema import BaseNode, NodeRelationship, QueryBundle, TextNode
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from llamaindex_code_retrieval import (
    CodeEmbedding,
    CodeIndex,
    CodeNodeParser,
    CodeRetriever,
    FaissStore,
)
from llamaindex_code_retrieval.index import SourceOptions
from llamaindex_code_retrieval.index.filters import NodeFilter
from llamaindex_code_retrieval.index.folder import describe
from llamaindex_code_retrieval.index.storage import FORMAT
from llamaindex_code_retrieval.index.view import View
from llamaindex_code_retrieval.retriever import Mode


@pytest.fixture
def embedding(bert_folder: Path) -> CodeEmbedding:
    return CodeEmbedding(str(bert_folder), precision="fp32")


def _node(node_id: str, text: str, language: str) -> TextNode:
    return TextNode(id_=node_id, text=text, metadata={"language": language}, excluded_embed_metadata_keys=["language"])


def _texts(index: CodeIndex) -> dict[str, str]:
    return {f"{node.metadata['path']}:{node.metadata['start_line']}": node.text for node in index.nodes()}


def test_indexes_a_repository(repository: Path, embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    stages: list[tuple[str, int, int]] = []
    report = index.update([repository], on_progress=lambda *step: stages.append(step))
    assert {"Cart", "Cart.__init__", "Cart.add", "Cart.total", "send_receipt", "Tax.withTax"} <= scopes_of(index)
    assert (report.files, report.nodes, report.added, report.removed) == (3, len(index), len(index), 0)
    assert report.embedded == len(index)
    assert report.left_out == report.unknown == report.encodings == {}
    assert set(index.languages) == {"java", "python"}
    assert ("read", 3, 3) in stages
    total = next(node for node in index.nodes() if node.metadata["scope"] == "Cart.total")
    assert total.metadata["path"] == "src/cart.py"
    assert total.text.startswith("    def total(self):")
    assert total.relationships[NodeRelationship.SOURCE].node_id == "src/cart.py"  # type: ignore[union-attr]
    assert total.excluded_embed_metadata_keys
    np.testing.assert_allclose(index.vectors([total.node_id])[0], embedding.get_text_embedding(total.text), atol=1e-3)


def test_update_embeds_only_what_changed_and_removes_what_is_gone(repository: Path, embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    index.update([repository])
    nothing = index.update()
    assert (nothing.added, nothing.removed, nothing.embedded) == (0, 0, 0)

    cart = repository / "src" / "cart.py"
    cart.write_text("# a new first line\n\n" + cart.read_text().replace("item, price", "thing, price"))
    (repository / "Tax.java").unlink()
    report = index.update()
    assert report.added == report.embedded == 2  # the comment and `add`; all else only moved
    assert "Tax.withTax" not in scopes_of(index)

    fresh = CodeIndex(embedding)
    fresh.update([repository])
    assert _texts(index) == _texts(fresh)
    for mode in ("dense", "bm25", "fused"):
        results = [CodeRetriever(i, mode=mode).retrieve("total price of the items") for i in (index, fresh)]  # type: ignore[arg-type]
        assert [hit.node_id for hit in results[0]] == [hit.node_id for hit in results[1]]
        if mode != "bm25":  # words of removed nodes may still count in the frequencies of words
            np.testing.assert_allclose(*[[hit.score for hit in hits] for hits in results], atol=1e-3)


def test_update_refreshes_scope_and_relations_of_an_unchanged_node(repository: Path, embedding: CodeEmbedding) -> None:
    """A method keeps text, lines and id when its class is renamed; its scope and parent must change."""
    index = CodeIndex(embedding)
    index.update([repository])
    cart = repository / "src" / "cart.py"
    cart.write_text(cart.read_text().replace("class Cart:", "class Till:"))
    report = index.update()
    assert (report.added, report.removed, report.embedded) == (1, 1, 1)  # the header alone
    assert "Till.add" in scopes_of(index)
    fresh = CodeIndex(embedding)
    fresh.update([repository])
    assert [node.to_dict() for node in index.nodes()] == [node.to_dict() for node in fresh.nodes()]


def test_save_load_search(repository: Path, embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(embedding, parser=CodeNodeParser(max_lines=40, overlap_lines=4))
    index.update([repository])
    index.save(tmp_path / "index")
    saved = describe(tmp_path / "index")
    assert (saved["format"], saved["dim"], saved["files"], saved["nodes"]) == (FORMAT, 32, 3, len(index))
    assert saved["fingerprint"] == embedding.fingerprint
    assert not [p for p in (tmp_path / "index").rglob("*") if p.suffix in (".pkl", ".pickle", ".tmp")]

    again = CodeIndex.open(tmp_path / "index")
    assert again.parser.max_lines == 40
    assert [node.to_dict() for node in again.nodes()] == [node.to_dict() for node in index.nodes()]
    query = "send the receipt by mail"
    hits, found = (CodeRetriever(each).retrieve(query) for each in (index, again))
    assert [hit.node_id for hit in found] == [hit.node_id for hit in hits]
    # Kernels may be chosen anew for the model that is loaded a second time.
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in hits], abs=1e-3)
    assert again.update().added == 0


class _TextAsId(CodeNodeParser):
    """Its ids do not depend on lines, so that functions keep theirs when they change places."""

    def _parse_nodes(self, nodes: Sequence[BaseNode], show_progress: bool = False, **kwargs: Any) -> list[BaseNode]:
        parsed = super()._parse_nodes(nodes, show_progress, **kwargs)
        for node in parsed:
            node.id_ = node.get_content().strip()
        return parsed


def test_words_are_found_after_functions_changed_places(embedding: CodeEmbedding) -> None:
    functions = ["def read():\n    return 1\n", "def write():\n    return 2\n", "def send():\n    return 3\n"]
    index = CodeIndex(embedding, parser=_TextAsId())
    index.update_texts({"a.py": "\n".join(functions)})
    assert index.update_texts({"a.py": "\n".join(reversed(functions))}).added == 0
    for function in functions:
        hits = CodeRetriever(index, mode="bm25").retrieve(function.split("(")[0].removeprefix("def "))
        assert [hit.node_id for hit in hits] == [function.strip()]


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
        CodeIndex.open(tmp_path / "index", embedding=embedding)
    again = CodeIndex.open(tmp_path / "index", embedding=embedding, vector_store=index.vector_store)
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
        assert hit.score == pytest.approx(1.0, abs=1e-3)
    with pytest.raises(ValueError, match="repeat the id"):
        index.update_nodes([TextNode(id_="a", text="x"), TextNode(id_="a", text="y")])


def test_nothing_to_index(tmp_path: Path, embedding: CodeEmbedding) -> None:
    (tmp_path / "Cargo.lock").write_text("text")
    (tmp_path / "a.png").write_bytes(b"\0")
    with pytest.raises(ValueError, match=r"no file to index in .* \(1 binary \(\.png\), 1 lock \(\.lock\)\)"):
        CodeIndex(embedding).update([tmp_path])
    with pytest.raises(ValueError, match="name at least one folder"):
        CodeIndex(embedding).update()


def test_settings_of_the_sources_are_kept_until_others_are_given(tmp_path: Path, embedding: CodeEmbedding) -> None:
    root = tmp_path / "shop"
    (root / "docs").mkdir(parents=True)
    for path in ("a.py", "docs/b.py", "c.foo"):
        (root / path).write_text("def f():\n    return 1\n")
    index = CodeIndex(embedding)
    sources = SourceOptions(exclude=("docs",), ext={".foo": "python"})
    assert index.update([root], sources=sources).left_out == {"excluded": {".py": 1}}
    assert scopes_of(index) == {"f"}
    index.save(tmp_path / "index")
    again = CodeIndex.open(tmp_path / "index")
    assert again.sources == sources
    report = again.update()
    assert (report.added, report.embedded, report.left_out) == (0, 0, {"excluded": {".py": 1}})
    assert again.update(sources=SourceOptions()).unknown == {".foo": 1}
    assert again.sources == SourceOptions()
    index.update_texts({"a.py": "x = 1\n"})
    assert index.sources == sources  # for the next update from the folders


def test_a_file_is_parsed_again_in_another_language(tmp_path: Path, embedding: CodeEmbedding) -> None:
    (tmp_path / "a.foo").write_text("class A {\n  int f() { return 1; }\n}\n")
    index = CodeIndex(embedding)
    index.update([tmp_path])
    assert scopes_of(index) == {""}
    for language in ("java", "csharp"):
        index.update(sources=SourceOptions(ext={".foo": language}))
        assert set(index.languages) == {language}
        assert "A.f" in scopes_of(index)


def test_wrong_settings_of_a_root_are_found_before_anything_is_read(tmp_path: Path, embedding: CodeEmbedding) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for root in (good, bad):
        root.mkdir()
        (root / "a.py").write_text("x = 1\n")
    (bad / ".code-retrieval.toml").write_text("excludes = ['a']\n")
    index = CodeIndex(embedding)
    with pytest.raises(ValueError, match=r"bad/\.code-retrieval\.toml: there is no setting 'excludes'"):
        index.update([good, bad])
    assert len(index) == 0


def test_files_that_cannot_be_parsed_are_counted_and_found(tmp_path: Path, embedding: CodeEmbedding) -> None:
    (tmp_path / "bad.py").write_text("))) ]] def ((( {{{ quokka\n" * 20)
    (tmp_path / "good.py").write_text("def good():\n    return 1\n")
    index = CodeIndex(embedding)
    assert index.update([tmp_path]).unparsed_files == 1
    assert CodeRetriever(index, mode="bm25").retrieve("quokka")[0].node.metadata["path"] == "bad.py"


def test_truncation_is_counted(tmp_path: Path, bert_folder: Path) -> None:
    (tmp_path / "long.py").write_text("def f():\n    return [" + "1, " * 100 + "]\n")
    (tmp_path / "short.py").write_text("x = 1\n")
    embedding = CodeEmbedding(str(bert_folder))
    assert CodeIndex(embedding).update([tmp_path]).truncated == 0
    own_bound = CodeNodeParser(max_tokens=1000, tokenizer=embedding.tokenize_code)
    assert CodeIndex(embedding, parser=own_bound).update([tmp_path]).truncated == 1


def test_an_update_with_another_model_bounds_the_nodes_by_its_tokens(bert_folder: Path, repository: Path) -> None:
    index = CodeIndex(CodeEmbedding(str(bert_folder)))
    index.update([repository])
    index.embedding = CodeEmbedding(str(bert_folder), max_code_tokens=20)
    assert index.update().truncated == 0
    fresh = CodeIndex(index.embedding)
    fresh.update([repository])
    assert vectors_of(index) == vectors_of(fresh)


def test_parents_are_not_indexed(embedding: CodeEmbedding) -> None:
    text = "class A:\n    def f(self):\n        return 1\n\n    def g(self):\n        return 2\n"
    index, plain = CodeIndex(embedding, parser=CodeNodeParser(max_parent_lines=99)), CodeIndex(embedding)
    index.update_texts({"a.py": text})
    plain.update_texts({"a.py": text})
    assert [node.node_id for node in index.nodes()] == [node.node_id for node in plain.nodes()]
    assert {node.parent_node is None for node in index.nodes()} == {False}


def test_a_folder_that_lost_all_its_sources_empties_the_index(repository: Path, embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    added = index.update([repository]).added
    for path in ("Tax.java", "src/cart.py", "src/mail.py"):
        (repository / path).unlink()
    report = index.update()
    assert (report.removed, len(index), index.files) == (added, 0, 0)
    assert report.left_out == {"deleted": {".py": 2, ".java": 1}}
    assert CodeRetriever(index).retrieve("total price") == []
    assert index.update().files == 0


@pytest.mark.parametrize("root", ["src", Path("src")])
def test_one_path_is_not_a_list_of_roots(root: str | Path, embedding: CodeEmbedding) -> None:
    with pytest.raises(TypeError, match=r"roots must be a list, got the string 'src'; write \['src'\]"):
        CodeIndex(embedding).update(root)  # type: ignore[arg-type]


# --- searches during an update ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("store_class", [FaissStore, SimpleVectorStore])
def test_a_search_during_updates_sees_one_state(store_class: type, embedding: CodeEmbedding) -> None:
    """While one thread updates, each search returns exactly what the index before or after an update returns."""
    query = QueryBundle("return the number", embedding=embedding.get_query_embedding("return the number"))
    states = [
        {f"f{i}.py": f"def f{i}(x):\n    return {i} + number_{i % 7 * factor}\n" for i in range(40)}
        for factor in (1, 2)
    ]
    modes: list[Mode] = ["dense", "bm25", "fused"]
    expected: dict[Mode, list[list[tuple[str, str]]]] = {mode: [] for mode in modes}
    for texts in states:
        index = CodeIndex(embedding)
        index.update_texts(texts)
        for mode in modes:
            expected[mode].append(hits_of(index.as_retriever(mode=mode, top_k=15), query))
    index = CodeIndex(embedding, vector_store=None if store_class is FaissStore else store_class())
    index.update_texts(states[0])
    wrong: list[object] = []
    searches = 0
    stop = threading.Event()

    def search() -> None:
        nonlocal searches
        retrievers = {mode: index.as_retriever(mode=mode, top_k=15) for mode in modes}
        while not stop.is_set():
            for mode, retriever in retrievers.items():
                try:
                    hits = hits_of(retriever, query)
                except Exception as error:  # as many as there are, to be shown below
                    hits = [(type(error).__name__, str(error))]
                # The nearest nodes in another store than ours may be replaced while it is searched.
                if hits not in expected[mode] and (store_class is FaissStore or mode == "bm25" or len(hits) < 2):
                    wrong.append((mode, hits))
                searches += 1

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    updates = 0
    while not wrong and (updates < 15 or searches < 150):
        updates += 1
        index.update_texts(states[updates % 2])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong[:1]


def test_a_view_stays_as_it_was(embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    index.update_texts(SOURCES)
    query = embedding.get_query_embedding("add")

    def content(view: View) -> list[object]:
        return [list(view.reading.all_rows()), view.nearest(query, top_k=9), view.matching("add", top_k=9)]

    with index.view() as view:
        before = content(view)
        index.update_texts({"a.py": SOURCES["a.py"].replace("add", "sum"), "d.py": "def add(x):\n    return add(x)\n"})
        assert content(view) == before
    with index.view() as view:
        assert all(new != old for new, old in zip(content(view), before, strict=True))


def test_updates_of_two_threads_wait_for_each_other(embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    inside: list[str] = []

    def update(name: str) -> None:
        def on_progress(stage: str, done: int, total: int) -> None:
            inside.append(name)
            time.sleep(0.001)  # the other thread would run here

        index.update_texts({f"{name}{i}.py": f"x = {i}\n" for i in range(20)}, on_progress=on_progress)

    with ThreadPoolExecutor() as pool:
        list(pool.map(update, ["a", "b"]))
    assert len(list(groupby(inside))) == 2
    assert len(index) == index.files == 20


def _sent_there_and_back(index: CodeIndex) -> CodeIndex:
    """Send an index to another process and back."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(copy.copy, index).result()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, _sent_there_and_back])
def test_a_copy_of_an_index_in_memory_is_independent(duplicate: Callable[[CodeIndex], CodeIndex]) -> None:
    index = CodeIndex(HashEmbedding())
    index.update_texts(SOURCES)
    copied = duplicate(index)
    for mode in ("dense", "bm25", "fused"):
        hits = [hits_of(each.as_retriever(mode=mode), QueryBundle("add")) for each in (index, copied)]
        assert hits[0] == hits[1]
    copied.update_texts({"a.py": SOURCES["a.py"]})
    assert (len(index), len(copied)) == (6, 2)
    index.close()
    assert copied.search("add")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, _sent_there_and_back])
def test_a_copy_of_an_index_in_a_folder_is_on_that_folder(
    duplicate: Callable[[CodeIndex], CodeIndex], tmp_path: Path
) -> None:
    index = CodeIndex(HashEmbedding(), tmp_path)
    copied = duplicate(index)
    index.update_texts(SOURCES)
    assert copied.folder == index.folder
    assert hits_of(copied.as_retriever(), QueryBundle("add")) == hits_of(index.as_retriever(), QueryBundle("add"))


# --- other vector stores ---------------------------------------------------------------------------------------------


def test_a_store_that_holds_nothing_of_the_index_is_refused(embedding: CodeEmbedding, tmp_path: Path) -> None:
    store, other = SimpleVectorStore(), SimpleVectorStore()
    index = CodeIndex(embedding, vector_store=store)
    index.update_texts(SOURCES)
    index.save(tmp_path)
    CodeIndex(embedding, vector_store=other).update_texts({"z.py": "z = 1\n"})
    for wrong in (SimpleVectorStore(), other, FaissStore(embedding.dim)):
        with pytest.raises(ValueError, match=r"holds none of the \d nodes of the index in .*; pass the store that"):
            CodeIndex.open(tmp_path, embedding=embedding, vector_store=wrong)
    again = CodeIndex.open(tmp_path, embedding=embedding, vector_store=store)
    assert hits_of(again.as_retriever(), QueryBundle("add")) == hits_of(index.as_retriever(), QueryBundle("add"))


def test_a_store_of_another_dimension_is_refused(embedding: CodeEmbedding, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"store has 8 dimensions, the embedding 32; pass FaissStore\(32\)"):
        CodeIndex(embedding, vector_store=FaissStore(8))
    CodeIndex(embedding, tmp_path, vector_store=FaissStore(32)).close()
    with pytest.raises(ValueError, match=r"store has 8 dimensions, the embedding 32; pass FaissStore\(32\)"):
        CodeIndex.open(tmp_path, embedding=embedding, vector_store=FaissStore(8))


def test_an_index_with_its_own_vectors_takes_no_store(embedding: CodeEmbedding, tmp_path: Path) -> None:
    CodeIndex(embedding, tmp_path).close()
    with pytest.raises(ValueError, match="keeps its vectors itself; leave vector_store out"):
        CodeIndex.open(tmp_path, embedding=embedding, vector_store=FaissStore(32))


@pytest.mark.parametrize("store", [SimpleVectorStore(), FaissStore(32)])
def test_two_indexes_in_one_store(store: BasePydanticVectorStore, embedding: CodeEmbedding) -> None:
    large, small = (CodeIndex(embedding, vector_store=store) for _ in range(2))
    small.update_texts(SOURCES)
    large.update_texts({f"f{i}.py": f"def f{i}(a, b):\n    return a + b + {i}\n" for i in range(30)})
    small.update_texts(SOURCES | {"d.go": "package d\n"})
    alone = CodeIndex(embedding)
    alone.update_texts(SOURCES | {"d.go": "package d\n"})
    for mode in ("dense", "fused"):
        for languages in (None, ("go", "java")):
            filters = None if languages is None else NodeFilter(languages=languages)
            retrievers = [each.as_retriever(mode=mode, top_k=4, filters=filters) for each in (small, alone)]
            hits = [hits_of(retriever, QueryBundle("return a + b")) for retriever in retrievers]
            assert hits[0] == hits[1]


def test_a_store_that_lost_nodes_is_named_and_searched_without_them(
    embedding: CodeEmbedding, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a crash between an update, which writes to the store, and the persistence of the store."""
    store = SimpleVectorStore()
    CodeIndex(embedding, tmp_path / "old", vector_store=store).update_texts({"a.py": SOURCES["a.py"]})
    index = CodeIndex.open(tmp_path / "old", embedding=embedding, vector_store=copy.deepcopy(store))
    index.update_texts(SOURCES)
    assert caplog.text == ""
    again = CodeIndex.open(tmp_path / "old", embedding=embedding, vector_store=store)
    assert "lacks 4 of the 6 nodes of the index" in caplog.text
    assert "remove the index and build it again" in caplog.text
    hits = again.as_retriever(mode="dense").retrieve("add")
    assert {hit.node.metadata["path"] for hit in hits} == {"a.py"}
    assert len(again.as_retriever(mode="bm25").retrieve("add")) == 3


# --- an adapter for each language ------------------------------------------------------------------------------------


def _stores_what_each_adapter_makes(index: CodeIndex) -> None:
    for node in index.nodes():
        one = index.embedding.for_language(node.metadata["language"])
        assert vectors_of(index)[node.node_id] == pytest.approx(one.get_text_embedding(node.text), abs=1e-3)


def test_nodes_are_embedded_by_their_languages_adapter(
    bert_folder: Path, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    adapters = {"python": adapter_folders["lora"], "java": adapter_folders["ia3"], "ruby": adapter_folders["adalora"]}
    embedding = CodeEmbedding(str(bert_folder), adapters=adapters, precision="fp32")
    index = CodeIndex(embedding)
    index.update_texts(SOURCES)
    _stores_what_each_adapter_makes(index)
    groups = {tuple(group.languages): group.fingerprint for group in index.adapter_groups()}
    assert groups == {
        (language,): embedding.fingerprints.get(language, embedding.fingerprints[""])
        for language in ("go", "java", "python")
    }
    assert [group.embedder.fingerprint for group in index.adapter_groups()] == list(groups.values())
    assert [group.languages for group in index.adapter_groups(languages=["java", "cobol"])] == [["java"]]

    index.save(tmp_path / "index")
    saved = describe(tmp_path / "index")
    assert saved["fingerprint"] == embedding.fingerprint
    assert saved["adapters"] == {k: v for k, v in embedding.fingerprints.items() if k}
    again = CodeIndex.open(tmp_path / "index")
    assert again.embedding.to_dict() | {"precision": "fp32"} == embedding.to_dict()  # that is each machine's own
    assert vectors_of(again) == vectors_of(index)
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
            CodeIndex.open(tmp_path / "index", embedding=CodeEmbedding(str(bert_folder), adapters=other))
    save_adapter("lora", bert_folder, tmp_path / "python", seed=9)  # trained again in place
    with pytest.raises(ValueError, match=r"fingerprint .* \(another adapter for python\); rebuild it with"):
        CodeIndex.open(tmp_path / "index")
    shutil.rmtree(tmp_path / "python")
    with pytest.raises(ValueError, match=r"python does not exist; .*\(the adapter for 'python'\)"):
        CodeIndex.open(tmp_path / "index")


@pytest.mark.parametrize("loaded", [False, True])
def test_update_after_a_swap_embeds_that_language_alone(
    loaded: bool, bert_folder: Path, adapter_folders: dict[str, Path], tmp_path: Path
) -> None:
    options = {"adapters": {"python": adapter_folders["lora"]}, "precision": "fp32"}
    index = CodeIndex(CodeEmbedding(str(bert_folder), **options))  # type: ignore[arg-type]
    index.update_texts(SOURCES)
    if loaded:
        index.save(tmp_path / "index")
        index = CodeIndex.open(tmp_path / "index", embedding=CodeEmbedding(str(bert_folder), **options))  # type: ignore[arg-type]
    before, made_by = vectors_of(index), index.embedding.fingerprint
    query = "return a + b"
    hits = [(hit.node_id, hit.score) for hit in CodeRetriever(index, mode="dense").retrieve(query)]
    index.embedding.use_adapter("python", adapter_folders["ia3"])
    # Until the update it is searched by the adapters that made its vectors, and saved with them.
    assert [(hit.node_id, hit.score) for hit in CodeRetriever(index, mode="dense").retrieve(query)] == hits
    index.save(tmp_path / "before")
    assert describe(tmp_path / "before")["fingerprint"] == made_by

    report = index.update_texts(SOURCES)
    assert (report.added, report.removed, report.embedded) == (0, 0, index.languages["python"])
    _stores_what_each_adapter_makes(index)
    after = vectors_of(index)
    same = {node_id for node_id in before if before[node_id] == after[node_id]}
    assert same == {node.node_id for node in index.nodes() if node.metadata["language"] != "python"}
    index.save(tmp_path / "after")
    assert vectors_of(CodeIndex.open(tmp_path / "after")) == after

    index.embedding.use_adapter("java", adapter_folders["ia3"])  # a swap and a changed file at once
    changed = SOURCES | {"c.go": SOURCES["c.go"].replace("Add", "Sum")}
    report = index.update_texts(changed)
    assert report.embedded == index.languages["java"] + 1
    _stores_what_each_adapter_makes(index)
    index.embedding.use_adapter("", adapter_folders["ia3"])  # what Python and Java have already
    assert index.update_texts(changed).embedded == index.languages["go"]
    assert len(index.adapter_groups()) == 1


def test_a_node_whose_language_changes_is_embedded_again(bert_folder: Path, adapter_folders: dict[str, Path]) -> None:
    embedding = CodeEmbedding(str(bert_folder), adapters={"python": adapter_folders["lora"]})
    index = CodeIndex(embedding)
    for language, embedded in (("c", 1), ("python", 1), ("python", 0), ("go", 1), ("rust", 0)):
        report = index.update_nodes([_node("a", "x + y", language)])
        assert report.embedded == embedded
        assert vectors_of(index)["a"] == pytest.approx(
            embedding.embed_codes(["x + y"], [language])[0].tolist(), abs=1e-3
        )
    same_text = [_node(i, "x + y", i) for i in ("go", "python")]
    assert index.update_nodes(same_text).embedded == 1
    _stores_what_each_adapter_makes(index)


@pytest.mark.parametrize("store", [None, FaissStore(32), FaissStore(32, exact_limit=40), SimpleVectorStore()])
def test_search_among_languages(store: BasePydanticVectorStore | None, embedding: CodeEmbedding) -> None:
    """Exactly the ranking over all, with the others taken out; in any vector store."""
    index = CodeIndex(embedding, vector_store=store)
    languages = ["python", "java", "go"]
    nodes = [_node(f"{i}", f"return {i} + {i % 7}", languages[min(i % 20, 2)]) for i in range(60)]
    index.update_nodes(nodes)
    query = embedding.get_query_embedding("return 4 + 4")
    is_exact = getattr(store, "is_exact", True)
    with index.view() as view:
        nearest = index.nearest_in(view)
        everything, everything_in_words = nearest(query, top_k=60), view.matching("return 4", top_k=60)
        assert len(everything) == 60 or not is_exact
        for wanted in (["python"], ["java"], ["python", "java"], ["cobol"], languages):
            condition = NodeFilter(languages=tuple(wanted)).where()
            among = [hit for hit in everything if index.node(hit.id).metadata["language"] in wanted]
            for top_k in (1, 2, 5, 60):
                got = nearest(query, top_k=top_k, condition=condition)
                if is_exact:
                    assert got == among[:top_k]
                assert all(index.node(hit.id).metadata["language"] in wanted for hit in got)
            among = [hit for hit in everything_in_words if index.node(hit.id).metadata["language"] in wanted]
            assert view.matching("return 4", top_k=2, condition=condition) == among[:2]


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


def test_empty_index_answers_nothing(embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(embedding)
    assert CodeRetriever(index).retrieve("anything") == []
    index.save(tmp_path / "index")
    again = CodeIndex.open(tmp_path / "index", embedding=embedding)
    assert len(again) == again.files == 0
    assert CodeRetriever(again).retrieve("anything") == []


def test_words_alone_need_no_model(bert_folder: Path, tmp_path: Path) -> None:
    """The model is gone, the words are searched as with it, and all that needs the model says why it cannot."""
    model = tmp_path / "model"
    shutil.copytree(bert_folder, model)
    index = CodeIndex(CodeEmbedding(str(model), device="cpu"))
    index.update_texts({"a.py": "def send_mail():\n    return 1\n", "b.py": "def parse_date():\n    return 2\n"})
    index.save(tmp_path / "idx")
    hits = CodeRetriever(index, mode="bm25").retrieve("parse the date")
    shutil.rmtree(model)
    with pytest.raises(ValueError, match="does not exist"):
        CodeIndex.open(tmp_path / "idx")
    loaded = CodeIndex.open(tmp_path / "idx", words_only=True)
    assert [(hit.node_id, hit.score) for hit in CodeRetriever(loaded, mode="bm25").retrieve("parse the date")] == [
        (hit.node_id, hit.score) for hit in hits
    ]
    for mode in ("dense", "fused"):
        with pytest.raises(ValueError, match="loaded with words_only=True, without its model"):
            CodeRetriever(loaded, mode=mode).retrieve("parse the date")
    with pytest.raises(ValueError, match="words_only=True"):
        loaded.update_texts({"c.py": "def other():\n    return 3\n"})
    with pytest.raises(ValueError, match="words_only loads no model; leave out device"):
        CodeIndex.open(tmp_path / "idx", words_only=True, device="cpu")


# --- an update and a new index are equal -----------------------------------------------------------------------------

CONTENTS: dict[str, list[bytes]] = {
    "a.py": [
        b"def f():\n    return 1\n",
        b"class A:\n    def f(self):\n        return 2\n",
        b"# coding: latin-1\nx = '\xe9'\n",
    ],
    "src/b.java": [b"class B { int f() { return 1; } }\n", "\ufeffclass B {}\r\n".encode("utf-16-le"), b"\0"],
    "src/c.go": [b"package c\n\nfunc F() {}\n", b"// Code generated by x. DO NOT EDIT.\npackage c\n"],
    "README.md": [b"# Title\n\nText.\n\n## Part\n\nMore.\n", b"No heading.\r"],
    "ci.yml": [b"jobs:\n  test:\n    steps: []\nname: ci\n", b"name: [\n"],
    "tool": [b"#!/bin/sh\necho\n", b"#!/usr/bin/env python3\ndef main():\n    pass\n", b"notes\n"],
    "x.foo": [b"def g(x)\n  x\nend\n", b"def g(x):\n    return x\n", b""],
    "Cargo.lock": [b"[[package]]\n"],
    ".gitignore": [b"src/\n", b"*\n!*/\n!*.py\n", b"*.md\n!README.md\n"],
    ".code-retrieval.toml": [b"exclude = ['*.go']\n", b"include = ['*.lock']\nmax-file-size = 25\n"],
}
EDITS = st.one_of(
    st.sampled_from([(path, content) for path, contents in CONTENTS.items() for content in contents]),
    st.tuples(st.sampled_from(list(CONTENTS)), st.none()),
)
OPTIONS = st.sampled_from(
    [
        None,
        SourceOptions(),
        SourceOptions(exclude=("src",)),
        SourceOptions(only=("*.py", "*.foo"), ext={".foo": "ruby"}),
        SourceOptions(ext={".foo": "python", ".md": "text"}, include=("*",)),
        SourceOptions(max_file_size="30B"),
    ]
)


def _contents(index: CodeIndex) -> dict[str, tuple[str, str, str]]:
    with index.view() as view:
        return {path: (file.digest, file.language, file.left_out) for path, file in view.reading.files().items()}


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(st.tuples(st.lists(EDITS, min_size=1, max_size=4), OPTIONS), min_size=1, max_size=4))
def test_an_updated_index_equals_a_new_one(
    steps: list[tuple[list[tuple[str, bytes | None]], SourceOptions | None]],
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "first.py").write_text("def first():\n    return 0\n")
        updated = CodeIndex(HashEmbedding())
        report = updated.update([root])
        for edits, options in steps:
            for path, content in edits:
                (root / path).parent.mkdir(exist_ok=True)
                if content is None:
                    (root / path).unlink(missing_ok=True)
                else:
                    (root / path).write_bytes(content)
            report = updated.update(sources=options)
        fresh = CodeIndex(HashEmbedding())
        if not len(updated):
            return  # all is left out
        report_of_fresh = fresh.update([root], sources=updated.sources)
        assert [node.to_dict() for node in updated.nodes()] == [node.to_dict() for node in fresh.nodes()]
        assert _contents(updated) == _contents(fresh)
        assert updated.languages == fresh.languages
        for counts in ("files", "nodes", "unparsed_files", "left_out", "unknown", "encodings"):
            assert getattr(report, counts) == getattr(report_of_fresh, counts)
        vectors, vectors_of_fresh = vectors_of(updated), vectors_of(fresh)
        for node_id, vector in vectors.items():
            np.testing.assert_allclose(vector, vectors_of_fresh[node_id], atol=1e-3)
        with updated.view() as view, fresh.view() as view_of_fresh:
            hits = [each.matching("return f part", top_k=99) for each in (view, view_of_fresh)]
        assert {hit.id for hit in hits[0]} == {hit.id for hit in hits[1]}
