from __future__ import annotations

import asyncio
import copy
import itertools
import json
import os
import re
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import fork, is_killed_at_step, save_adapter
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    ObjectType,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
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
from llamaindex_code_retrieval._io import sha256
from llamaindex_code_retrieval.index.lock import update_lock
from llamaindex_code_retrieval.index.manifest import read_manifest
from llamaindex_code_retrieval.retriever import Mode


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


def test_a_folder_that_lost_all_its_sources_empties_the_index(repository: Path, embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    added = index.update([repository]).added
    for path in ("Tax.java", "src/cart.py", "src/mail.py"):
        (repository / path).unlink()
    report = index.update()
    assert (report.removed, len(index), index.files) == (added, 0, 0)
    assert report.skipped == {"deleted": 3, "no known language": 1}
    assert CodeRetriever(index).retrieve("total price") == []


@pytest.mark.parametrize("root", ["src", Path("src")])
def test_one_path_is_not_a_list_of_roots(root: str | Path, embedding: CodeEmbedding) -> None:
    with pytest.raises(TypeError, match=r"roots must be a list of folders, got 'src'; use \['src'\]"):
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
            expected[mode].append(_hits(index.as_retriever(mode=mode, top_k=15), query))
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
                    hits = _hits(retriever, query)
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
    while not wrong and (updates < 20 or searches < 300):
        updates += 1
        index.update_texts(states[updates % 2])
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong[:1]


def _hits(retriever: CodeRetriever, query: QueryBundle) -> list[tuple[str, str]]:
    return [(hit.node_id, hit.node.get_content()) for hit in retriever.retrieve(query)]


def test_a_snapshot_stays_as_it_was(embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    index.update_texts(SOURCES)
    snapshot = index.snapshot
    query = embedding.get_query_embedding("add")
    before = (list(snapshot.nodes()), snapshot.search_vectors(query, top_k=9), snapshot.search_words("add", top_k=9))
    index.update_texts({"a.py": SOURCES["a.py"].replace("add", "sum"), "d.py": "def add(x):\n    return add(x)\n"})
    after = (list(snapshot.nodes()), snapshot.search_vectors(query, top_k=9), snapshot.search_words("add", top_k=9))
    assert after == before
    assert list(index.nodes()) != before[0]


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


# --- nodes of the caller's own ---------------------------------------------------------------------------------------

OWN_NODES = [
    TextNode(id_="bare", text="def f(): pass"),
    TextNode(
        id_="full",
        text="def g(): pass",
        metadata={"repo": "shop", "secret": "x", "lines": 3, "tags": ["a", "b"]},
        excluded_llm_metadata_keys=["secret"],
        excluded_embed_metadata_keys=["secret", "lines"],
        metadata_separator=" | ",
        metadata_template="{key}=>{value}",
        text_template="<<{metadata_str}>>{content}",
        mimetype="text/x-python",
        start_char_idx=3,
        end_char_idx=16,
        relationships={
            NodeRelationship.SOURCE: RelatedNodeInfo(node_id="document", metadata={"kind": "file"}, hash="h"),
            NodeRelationship.PARENT: RelatedNodeInfo(node_id="bare", node_type=ObjectType.TEXT),
            NodeRelationship.CHILD: [RelatedNodeInfo(node_id="a"), RelatedNodeInfo(node_id="b")],
            NodeRelationship.NEXT: RelatedNodeInfo(node_id="index"),
        },
    ),
    TextNode(id_="odd", text="x \ud800", metadata={"path": "caf\udce9", "language": "java"}),
    IndexNode(id_="index", text="the billing code base", index_id="billing"),
    ImageNode(id_="image", text="a plan of the code", image_url="https://example.org/plan.png"),
]


def test_own_nodes_come_back_whole(embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(embedding)
    index.update_nodes(OWN_NODES)
    index.save(tmp_path)
    for each in (index, CodeIndex.load(tmp_path, embedding=embedding), copy.deepcopy(index)):
        for node in OWN_NODES:
            again = each.node(node.node_id)
            assert type(again) is type(node)
            assert again.model_dump() == node.model_dump()
            assert again.ref_doc_id == node.ref_doc_id
            for metadata_mode in MetadataMode:
                assert again.get_content(metadata_mode) == node.get_content(metadata_mode)
    assert all(node.embedding is None for node in OWN_NODES)  # the caller's nodes are left alone
    again.metadata["repo"] = "changed"
    assert index.node(again.node_id).metadata.get("repo") != "changed"


def test_own_nodes_are_embedded_with_the_metadata_that_is_not_excluded(embedding: CodeEmbedding) -> None:
    index = CodeIndex(embedding)
    index.update_nodes(OWN_NODES)
    vectors = _vectors(index)
    for node in OWN_NODES:
        expected = embedding.get_text_embedding(node.get_content(MetadataMode.EMBED))
        assert vectors[node.node_id] == pytest.approx(expected, abs=1e-5)
    changed = [node.model_copy(deep=True) for node in OWN_NODES]
    changed[1].metadata["secret"] = "y"  # not embedded
    assert index.update_nodes(changed).embedded == 0
    assert index.node("full").metadata["secret"] == "y"
    changed[1].metadata["repo"] = "mall"
    report = index.update_nodes(changed)
    assert (report.embedded, report.added, report.removed) == (1, 1, 0)


class _OwnNode(TextNode):
    pass


@pytest.mark.parametrize(
    ("node", "error", "message"),
    [
        (Document(text="x"), TypeError, "nodes of the classes TextNode, IndexNode, ImageNode, got a Document"),
        (_OwnNode(text="x"), TypeError, "got a _OwnNode"),
        (IndexNode(id_="i", text="x", index_id="b", obj=TextNode()), ValueError, "object of IndexNode 'i' cannot be"),
        (TextNode(id_="n", text="x", metadata={"t": datetime(2020, 1, 1)}), TypeError, "node 'n' cannot be saved as"),
    ],
)
def test_a_node_that_cannot_be_saved_is_refused_at_once(
    node: TextNode, error: type[Exception], message: str, embedding: CodeEmbedding
) -> None:
    index = CodeIndex(embedding)
    with pytest.raises(error, match=message):
        index.update_nodes([node], on_progress=lambda *_: pytest.fail("embedded"))


# --- the parser ------------------------------------------------------------------------------------------------------


def by_number(number: int, document: BaseNode) -> str:
    return f"{document.node_id}#{number}"


def _every_node_zero(number: int, document: BaseNode) -> str:
    return "0"


def test_a_saved_index_keeps_its_parser(embedding: CodeEmbedding, tmp_path: Path) -> None:
    """Without the language, the changed file would become line windows."""
    parser = CodeNodeParser(language="python", max_lines=40, overlap_lines=4, include_prev_next_rel=False)
    index = CodeIndex(embedding, parser=parser)
    texts = {"script": "import os\n\n\ndef run():\n    return os.getcwd()\n"}
    index.update_texts(texts)
    index.save(tmp_path)
    again = CodeIndex.load(tmp_path, embedding=embedding)
    assert again.parser.to_dict() == parser.to_dict()
    changed = {"script": texts["script"].replace("run", "walk")}
    for each in (index, again):
        each.update_texts(changed)
    assert _scopes(again) == {"", "walk"}
    assert [node.to_dict() for node in again.nodes()] == [node.to_dict() for node in index.nodes()]


def test_a_parser_with_own_ids_must_be_given_again(embedding: CodeEmbedding, tmp_path: Path) -> None:
    parser = CodeNodeParser(id_func=by_number)
    index = CodeIndex(embedding, parser=parser)
    index.update_texts(SOURCES)
    index.save(tmp_path)
    with pytest.raises(ValueError, match=r"'by_number' as id_func, which cannot be restored from its name; pass"):
        CodeIndex.load(tmp_path, embedding=embedding)
    with pytest.raises(ValueError, match=r"built by a parser with id_func=.*by_number.*; pass an equal one"):
        CodeIndex.load(tmp_path, embedding=embedding, parser=CodeNodeParser())
    with pytest.raises(ValueError, match="built by a parser with max_lines=60, not 30"):
        CodeIndex.load(tmp_path, embedding=embedding, parser=CodeNodeParser(id_func=by_number, max_lines=30))
    again = CodeIndex.load(tmp_path, embedding=embedding, parser=parser)
    again.update_texts(SOURCES | {"new.py": "x = 1\n"})
    assert again.node("new.py#0").text == "x = 1"
    with pytest.raises(ValueError, match="nodes repeat the id of another one; the parser's id_func"):
        CodeIndex(embedding, parser=CodeNodeParser(id_func=_every_node_zero)).update_texts(SOURCES)


def test_a_parser_of_another_class_must_be_given_again(embedding: CodeEmbedding, tmp_path: Path) -> None:
    class OwnParser(CodeNodeParser):
        @classmethod
        def class_name(cls) -> str:
            return "OwnParser"

    CodeIndex(embedding, parser=OwnParser()).save(tmp_path)
    with pytest.raises(ValueError, match="built by a parser of the class OwnParser; pass it as parser"):
        CodeIndex.load(tmp_path, embedding=embedding)
    assert isinstance(CodeIndex.load(tmp_path, embedding=embedding, parser=OwnParser()).parser, OwnParser)


# --- other vector stores and other embedding models ------------------------------------------------------------------


def test_a_store_that_holds_nothing_of_the_index_is_refused(embedding: CodeEmbedding, tmp_path: Path) -> None:
    store, other = SimpleVectorStore(), SimpleVectorStore()
    index = CodeIndex(embedding, vector_store=store)
    index.update_texts(SOURCES)
    index.save(tmp_path)
    CodeIndex(embedding, vector_store=other).update_texts({"z.py": "z = 1\n"})
    for wrong in (SimpleVectorStore(), other, FaissStore(embedding.dim)):
        with pytest.raises(ValueError, match=r"holds none of the \d nodes of the index in .*; pass the store that"):
            CodeIndex.load(tmp_path, embedding=embedding, vector_store=wrong)
    again = CodeIndex.load(tmp_path, embedding=embedding, vector_store=store)
    assert _hits(again.as_retriever(), QueryBundle("add")) == _hits(index.as_retriever(), QueryBundle("add"))


@pytest.mark.parametrize("store", [SimpleVectorStore(), FaissStore(32)])
def test_two_indexes_in_one_store(store: BasePydanticVectorStore, embedding: CodeEmbedding) -> None:
    large, small = (CodeIndex(embedding, vector_store=store) for _ in range(2))
    small.update_texts(SOURCES)
    large.update_texts({f"f{i}.py": f"def f{i}(a, b):\n    return a + b + {i}\n" for i in range(30)})
    small.update_texts(SOURCES | {"d.go": "package d\n"})
    alone = CodeIndex(embedding)
    alone.update_texts(SOURCES | {"d.go": "package d\n"})
    for mode in ("dense", "fused"):
        for languages in (None, ["go", "java"]):
            retrievers = [each.as_retriever(mode=mode, top_k=4, languages=languages) for each in (small, alone)]
            hits = [_hits(retriever, QueryBundle("return a + b")) for retriever in retrievers]
            assert hits[0] == hits[1]


def test_what_a_store_lost_is_embedded_again(
    embedding: CodeEmbedding, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a crash between an update, which writes to the store, and ``save``."""
    store = SimpleVectorStore()
    index = CodeIndex(embedding, vector_store=store)
    index.update_texts(SOURCES)
    index.save(tmp_path)
    index.update_texts(SOURCES | {"a.py": "# a new first line\n" + SOURCES["a.py"]})
    again = CodeIndex.load(tmp_path, embedding=embedding, vector_store=store)
    assert "lacks 2 of the 6 nodes of the index" in caplog.text
    assert again.update_texts(SOURCES).embedded == 2
    paths = [hit.node.metadata["path"] for hit in again.as_retriever(mode="dense").retrieve("add")]
    assert sorted(paths) == sorted(node.metadata["path"] for node in again.nodes())
    assert again.update_texts(SOURCES).embedded == 0


class LetterCounts(BaseEmbedding):
    """Counts letters: vectors that are not of length 1, of a model that is not ours."""

    model_name: str = "letter-counts"
    first: str = "a"

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(text.lower().count(chr(ord(self.first) + i))) for i in range(20)]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@pytest.mark.parametrize("store", [None, SimpleVectorStore()])
def test_any_llamaindex_embedding(store: BasePydanticVectorStore | None, tmp_path: Path) -> None:
    model = LetterCounts()
    index = CodeIndex(model, vector_store=store)
    assert index.embedding is model
    assert index.update_texts(SOURCES).embedded == len(index)
    query = "read file"
    cosines = {}
    for node in index.nodes():
        a, b = np.asarray(model.get_text_embedding(node.text)), np.asarray(model.get_query_embedding(query))
        cosines[node.node_id] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    expected = sorted(cosines.items(), key=lambda item: -item[1])
    retriever = index.as_retriever(mode="dense")
    for hits in (retriever.retrieve(query), asyncio.run(retriever.aretrieve(query))):
        assert [hit.node_id for hit in hits] == [node_id for node_id, _ in expected]
        assert [hit.score for hit in hits] == pytest.approx([cosine for _, cosine in expected], abs=1e-6)

    index.save(tmp_path)
    manifest = read_manifest(tmp_path)
    assert manifest["embedding"] == {"class_name": model.class_name(), "model_name": "letter-counts"}
    again = CodeIndex.load(tmp_path, embedding=model, vector_store=store)
    assert again.embedding is model
    assert again.update_texts(SOURCES).embedded == 0
    assert _hits(again.as_retriever(), QueryBundle(query)) == _hits(index.as_retriever(), QueryBundle(query))


def test_an_index_of_another_embedding_needs_that_one(embedding: CodeEmbedding, tmp_path: Path) -> None:
    index = CodeIndex(LetterCounts())
    index.update_texts(SOURCES)
    index.save(tmp_path)
    with pytest.raises(ValueError, match=r"built with the model 'letter-counts' of the class .*; pass that model"):
        CodeIndex.load(tmp_path)
    for other in (embedding, LetterCounts(model_name="other")):
        with pytest.raises(ValueError, match="built by model 'letter-counts' with fingerprint"):
            CodeIndex.load(tmp_path, embedding=other)
    with pytest.raises(ValueError, match=r"has fingerprint \w+ but makes other vectors; rebuild it with"):
        CodeIndex.load(tmp_path, embedding=LetterCounts(first="c"))
    with pytest.raises(TypeError, match="must be a LlamaIndex embedding model, got a str"):
        CodeIndex("embedded")  # type: ignore[type-var]


def test_the_embedding_may_be_replaced(embedding: CodeEmbedding, adapter_folders: dict[str, Path]) -> None:
    index = CodeIndex(embedding)
    index.update_texts(SOURCES)
    query = QueryBundle("add")
    before = _hits(index.as_retriever(mode="dense"), query)
    index.embedding = CodeEmbedding(embedding.model_name, adapter=adapter_folders["lora"], precision="fp32")
    assert _hits(index.as_retriever(mode="dense"), query) == before  # by the old one until the update
    assert index.update_texts(SOURCES).embedded == len(index)
    _stores_what_each_adapter_makes(index)
    with pytest.raises(ValueError, match="have 32 dimensions, those of the new embedding 20; build another index"):
        index.embedding = LetterCounts()  # type: ignore[assignment]


@pytest.mark.parametrize("name", ["cache_folder", "device", "query_encoder"])
def test_options_of_a_given_embedding_are_refused(name: str, saved: Path, embedding: CodeEmbedding) -> None:
    with pytest.raises(ValueError, match=f"give {name} to the embedding, or leave the embedding out"):
        CodeIndex.load(saved, embedding=embedding, **{name: "cpu"})  # type: ignore[arg-type]


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
    with pytest.raises(ValueError, match=r"python does not exist; .*\(the adapter for 'python'\)"):
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
        ("{}", "damaged"),
        ('{"format": 99}', "format 99"),
        ('{"format": 3}', "damaged: .* has no valid 'generation'; build the index again"),
        (None, "no index"),
    ],
)
def test_bad_manifests(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        CodeIndex.load(tmp_path)


@pytest.mark.parametrize("change", [{"parser": None}, {"contents": None}, {"generation": 5}, {"roots": "/"}])
def test_a_manifest_with_a_wrong_value_is_damaged(change: dict[str, Any], saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps(manifest | change))
    [key] = change
    with pytest.raises(ValueError, match=f"damaged: .* has no valid '{key}'; build the index again"):
        CodeIndex.load(saved)


def test_an_index_of_the_older_format_is_read(saved: Path, embedding: CodeEmbedding) -> None:
    """Format 2 kept of a node what the parser's nodes need, in other words."""
    index = CodeIndex.load(saved, embedding=embedding)
    [nodes_file] = saved.rglob("nodes.jsonl")
    lines = []
    for node in index.nodes():
        relationships: dict[str, list[str]] = {}
        for relation, related in node.relationships.items():
            if relation != NodeRelationship.SOURCE:
                infos = related if isinstance(related, list) else [related]
                relationships[relation.name] = [info.node_id for info in infos]
        record = {"id": node.node_id, "text": node.text, "metadata": node.metadata, "relationships": relationships}
        record |= {"hidden": node.excluded_llm_metadata_keys}
        lines.append(record | {"start_char_idx": node.start_char_idx, "end_char_idx": node.end_char_idx})
    nodes_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = read_manifest(saved)
    manifest |= {"format": 2, "parser": {"max_lines": 60, "overlap_lines": 6}}
    manifest["contents"]["nodes.jsonl"] = sha256(nodes_file)
    (saved / "manifest.json").write_text(json.dumps(manifest))
    again = CodeIndex.load(saved, embedding=embedding)
    assert [node.to_dict() for node in again.nodes()] == [node.to_dict() for node in index.nodes()]
    assert again.update().embedded == 0


def _with_other_texts(folder: Path, embedding: CodeEmbedding) -> CodeIndex:
    index = CodeIndex.load(folder, embedding=embedding)
    index.update_texts({f"f{i}.py": f"def f{i}(): return {i}" for i in range(20)})
    return index


def test_an_error_while_saving_leaves_nothing_behind(saved: Path, embedding: CodeEmbedding) -> None:
    index = _with_other_texts(saved, embedding)
    before = sorted(path for path in saved.rglob("*") if path.is_file())

    def save_to_a_full_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))
        try:
            index.save(saved)
        except OSError:
            os._exit(7)

    assert os.waitstatus_to_exitcode(os.waitpid(fork(save_to_a_full_disk), 0)[1]) == 7
    assert sorted(path for path in saved.rglob("*") if path.is_file()) == before
    CodeIndex.load(saved, embedding=embedding)


def test_a_kill_at_any_step_of_saving_leaves_a_whole_index(saved: Path, embedding: CodeEmbedding) -> None:
    old, new = CodeIndex.load(saved, embedding=embedding), _with_other_texts(saved, embedding)
    states = [[node.node_id for node in index.nodes()] for index in (old, new)]
    step, found = 1, []
    while is_killed_at_step(step, lambda: new.save(saved)):
        step += 1
        index = CodeIndex.load(saved, embedding=embedding)
        found.append([node.node_id for node in index.nodes()])
        assert found[-1] in states
        assert CodeRetriever(index).retrieve("return f1")
        if found[-1] == states[1]:
            old.save(saved)  # so that the next kill meets the old index again
    assert found.count(states[0]) > 10
    assert found.count(states[1]) > 0
    assert len(list(saved.glob("data-*"))) == 1  # what the kills left behind is gone


def test_a_kill_at_any_step_of_the_first_save_leaves_a_folder_that_takes_the_next_one(
    embedding: CodeEmbedding, tmp_path: Path
) -> None:
    index = CodeIndex(embedding)
    index.update_texts(SOURCES)
    folders = (tmp_path / str(step) for step in itertools.count(1))
    step = 1
    while is_killed_at_step(step, lambda: index.save(next(folders))):
        next(folders)  # the child took it, in its own memory
        step += 1
    for folder in tmp_path.iterdir():
        index.save(folder)
        assert sorted(re.sub("[0-9a-f]{16}", "", path.name) for path in folder.iterdir()) == ["data-", "manifest.json"]
    assert step > 10


def test_a_reader_is_not_disturbed_by_a_writer(saved: Path, embedding: CodeEmbedding) -> None:
    states = [CodeIndex.load(saved, embedding=embedding), _with_other_texts(saved, embedding)]
    sizes = {len(index) for index in states}

    def save_for_ever() -> None:
        for index in itertools.cycle(states):
            index.save(saved)

    process = fork(save_for_ever)
    generations = set()
    try:
        while len(generations) < 20:
            assert len(CodeIndex.load(saved, embedding=embedding)) in sizes
            generations.add(read_manifest(saved)["generation"])
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def test_the_second_updater_waits_or_says_who_holds_it(tmp_path: Path) -> None:
    held_read, held_write = os.pipe()
    release_read, release_write = os.pipe()

    def hold() -> None:
        with update_lock(tmp_path, seconds=0):
            os.write(held_write, b"x")
            os.read(release_read, 1)

    process = fork(hold)
    os.read(held_read, 1)
    with (
        pytest.raises(TimeoutError, match=rf"being updated by process {process} on .* since"),
        update_lock(tmp_path, seconds=0.1),
    ):
        pass
    waiting: list[str] = []

    def on_wait(holder: str) -> None:
        waiting.append(holder)
        os.write(release_write, b"x")

    with update_lock(tmp_path, seconds=60, on_wait=on_wait):
        pass
    os.waitpid(process, 0)
    assert len(waiting) == 1
    assert f"process {process}" in waiting[0]
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
