from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from indexes import SOURCES, scopes_of
from llama_index.core.schema import BaseNode

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, CodeNodeParser, CodeRetriever
from llamaindex_code_retrieval.index.folder import describe
from llamaindex_code_retrieval.index.storage import Storage


@pytest.fixture
def saved(repository: Path, embedding: CodeEmbedding, tmp_path: Path) -> Path:
    with CodeIndex(embedding, tmp_path / "index") as index:
        index.update([repository])
    return tmp_path / "index"


def test_the_error_for_another_model_names_both_models_and_the_command(
    saved: Path, roberta_folder: Path, repository: Path
) -> None:
    other = CodeEmbedding(str(roberta_folder))
    with pytest.raises(ValueError, match="fingerprint") as error:
        CodeIndex.open(saved, embedding=other)
    message = str(error.value)
    assert describe(saved)["fingerprint"] in message
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
        CodeIndex.open(tmp_path / "index")


def test_an_update_parses_the_files_of_an_older_parser_again(saved: Path, embedding: CodeEmbedding) -> None:
    fresh = {node.node_id: node.metadata for node in CodeIndex.open(saved, embedding=embedding).nodes()}
    index = CodeIndex.open(saved, embedding=embedding)
    index.parser = CodeNodeParser(max_lines=2)  # stands for a version that made other nodes
    index.update()
    assert {node.node_id for node in index.nodes()} != fresh.keys()
    current = CodeNodeParser().to_dict()
    assert describe(saved)["parser"] == current | {"max_lines": 2, "overlap_lines": 0}
    storage = Storage(saved)
    with storage.writing() as writing:
        writing.put_settings({"parser": {name: value for name, value in current.items() if name != "version"}})
    again = CodeIndex.open(saved, embedding=embedding)
    assert again.update().files == 3
    assert {node.node_id: node.metadata for node in again.nodes()} == fresh
    assert describe(saved)["parser"] == current
    assert again.update().added == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("parser", "parser of the index in .* cannot be restored: .*'maz_lines'.*; build the index again"),
        ("embedding", "model of the index in .* cannot be restored: .*'maz_lines'; build the index again"),
        ("words", r"is damaged \(the setting 'words' has other keys than were saved\)"),
        ("vectors", r"is damaged \(the setting 'vectors' has other keys than were saved\)"),
    ],
)
def test_damaged_settings_are_named(name: str, message: str, saved: Path) -> None:
    storage = Storage(saved)
    with storage.writing() as writing:
        value = writing.settings(name).get(name) or {}
        writing.put_settings({name: value | {"maz_lines": 60}})
    with pytest.raises(ValueError, match=message):
        CodeIndex.open(saved)


def test_missing_roots_are_an_error_and_the_index_stays(
    saved: Path, repository: Path, embedding: CodeEmbedding
) -> None:
    index = CodeIndex.open(saved, embedding=embedding)
    shutil.rmtree(repository)
    with pytest.raises(ValueError, match="not a folder"):
        index.update()
    assert CodeRetriever(index).retrieve("total")


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
    again = CodeIndex.open(tmp_path, embedding=embedding)
    assert again.parser.to_dict() == parser.to_dict()
    changed = {"script": texts["script"].replace("run", "walk")}
    for each in (index, again):
        each.update_texts(changed)
    assert scopes_of(again) == {"", "walk"}
    assert [node.to_dict() for node in again.nodes()] == [node.to_dict() for node in index.nodes()]


def test_a_parser_with_own_ids_must_be_given_again(embedding: CodeEmbedding, tmp_path: Path) -> None:
    parser = CodeNodeParser(id_func=by_number)
    index = CodeIndex(embedding, parser=parser)
    index.update_texts(SOURCES)
    index.save(tmp_path)
    with pytest.raises(ValueError, match=r"'by_number' as id_func, which cannot be restored from its name; pass"):
        CodeIndex.open(tmp_path, embedding=embedding)
    with pytest.raises(ValueError, match=r"built by a parser with id_func=.*by_number.*; pass an equal one"):
        CodeIndex.open(tmp_path, embedding=embedding, parser=CodeNodeParser())
    with pytest.raises(ValueError, match="built by a parser with max_lines=60, not 30"):
        CodeIndex.open(tmp_path, embedding=embedding, parser=CodeNodeParser(id_func=by_number, max_lines=30))
    again = CodeIndex.open(tmp_path, embedding=embedding, parser=parser)
    again.update_texts(SOURCES | {"new.py": "x = 1\n"})
    assert again.node("new.py#0").text == "x = 1"
    with pytest.raises(ValueError, match="nodes repeat the id of another one; the parser's id_func"):
        CodeIndex(embedding, parser=CodeNodeParser(id_func=_every_node_zero)).update_texts(SOURCES)


def test_a_parser_of_another_class_must_be_given_again(embedding: CodeEmbedding, tmp_path: Path) -> None:
    class OwnParser(CodeNodeParser):
        @classmethod
        def class_name(cls) -> str:
            return "OwnParser"

    CodeIndex(embedding, tmp_path, parser=OwnParser()).close()
    with pytest.raises(ValueError, match="built by a parser of the class OwnParser; pass it as parser"):
        CodeIndex.open(tmp_path, embedding=embedding)
    assert isinstance(CodeIndex.open(tmp_path, embedding=embedding, parser=OwnParser()).parser, OwnParser)


@pytest.mark.parametrize("name", ["cache_folder", "device", "query_encoder"])
def test_options_of_a_given_embedding_are_refused(name: str, saved: Path, embedding: CodeEmbedding) -> None:
    with pytest.raises(ValueError, match=f"give {name} to the embedding, or leave the embedding out"):
        CodeIndex.open(saved, embedding=embedding, **{name: "cpu"})  # type: ignore[arg-type]
