from __future__ import annotations

import itertools
import json
import os
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import fork, is_killed_at_step
from indexes import SOURCES, scopes_of
from llama_index.core.schema import (
    BaseNode,
    NodeRelationship,
)
from llamaindex_code_retrieval.index.manifest import read_manifest

from llamaindex_code_retrieval import (
    CodeEmbedding,
    CodeIndex,
    CodeNodeParser,
    CodeRetriever,
    EmbeddingCache,
)
from llamaindex_code_retrieval._io import sha256
from llamaindex_code_retrieval.index.lock import update_lock


@pytest.fixture
def embedding(bert_folder: Path) -> CodeEmbedding:
    return CodeEmbedding(str(bert_folder), precision="fp32")


@pytest.fixture
def saved(repository: Path, embedding: CodeEmbedding, tmp_path: Path) -> Path:
    index = CodeIndex(embedding)
    index.update([repository])
    index.save(tmp_path / "index")
    return tmp_path / "index"


def test_the_error_for_another_model_names_both_models_and_the_command(
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
    for node, old in zip(index.nodes(), again.nodes(), strict=True):
        assert old.excluded_embed_metadata_keys == list(node.metadata)
        old.excluded_embed_metadata_keys = node.excluded_embed_metadata_keys
        assert old == node
    assert again.update().embedded == 0


def test_an_update_parses_the_files_of_an_older_parser_again(saved: Path, embedding: CodeEmbedding) -> None:
    fresh = {node.node_id: node.metadata for node in CodeIndex.load(saved, embedding=embedding).nodes()}
    index = CodeIndex.load(saved, embedding=embedding)
    index.parser = CodeNodeParser(max_lines=2)  # stands for a version that made other nodes
    index.update()
    assert {node.node_id for node in index.nodes()} != fresh.keys()
    index.save(saved)
    manifest = read_manifest(saved)
    current = CodeNodeParser().to_dict()
    assert manifest["parser"] == current | {"max_lines": 2, "overlap_lines": 0}
    manifest["parser"] = {name: value for name, value in current.items() if name != "version"}
    (saved / "manifest.json").write_text(json.dumps(manifest))
    again = CodeIndex.load(saved, embedding=embedding)
    assert again.update().files == 3
    assert {node.node_id: node.metadata for node in again.nodes()} == fresh
    again.save(saved)
    assert read_manifest(saved)["parser"] == current
    assert again.update().added == 0


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
    step, loaded = 1, []
    while is_killed_at_step(step, lambda: new.save(saved)):
        step += 1
        index = CodeIndex.load(saved, embedding=embedding)
        loaded.append([node.node_id for node in index.nodes()])
        assert loaded[-1] in states
        assert CodeRetriever(index).retrieve("return f1")
        if loaded[-1] == states[1]:
            old.save(saved)  # so that the next kill meets the old index again
    assert loaded.count(states[0]) > 10
    assert loaded.count(states[1]) > 0
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


def test_a_second_update_waits_or_names_the_process_that_holds_the_lock(tmp_path: Path) -> None:
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
    assert scopes_of(again) == {"", "walk"}
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


@pytest.mark.parametrize("name", ["cache_folder", "device", "query_encoder"])
def test_options_of_a_given_embedding_are_refused(name: str, saved: Path, embedding: CodeEmbedding) -> None:
    with pytest.raises(ValueError, match=f"give {name} to the embedding, or leave the embedding out"):
        CodeIndex.load(saved, embedding=embedding, **{name: "cpu"})  # type: ignore[arg-type]
