"""Updates of an index: from folders, from texts and from nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from indexes import scopes_of, vectors_of
from llama_index.core.schema import BaseNode, NodeRelationship, TextNode
from llama_index.core.vector_stores import SimpleVectorStore

from llamaindex_code_retrieval import (
    CodeEmbedding,
    CodeIndex,
    CodeNodeParser,
    CodeRetriever,
)
from llamaindex_code_retrieval.index import SourceOptions


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
