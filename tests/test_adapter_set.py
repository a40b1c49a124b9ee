"""An index with an adapter for each language."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import save_adapter
from indexes import SOURCES, node_in, vectors_of

from llamaindex_code_retrieval import (
    CodeEmbedding,
    CodeIndex,
    CodeRetriever,
)
from llamaindex_code_retrieval.index.folder import describe


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
        report = index.update_nodes([node_in("a", "x + y", language)])
        assert report.embedded == embedded
        assert vectors_of(index)["a"] == pytest.approx(
            embedding.embed_codes(["x + y"], [language])[0].tolist(), abs=1e-3
        )
    same_text = [node_in(i, "x + y", i) for i in ("go", "python")]
    assert index.update_nodes(same_text).embedded == 1
    _stores_what_each_adapter_makes(index)
