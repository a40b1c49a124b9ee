"""The commands index, update and info."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import Shell

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, EmbeddingCache
from llamaindex_code_retrieval.index.lock import update_lock
from llamaindex_code_retrieval.index.manifest import read_manifest


@pytest.mark.usefixtures("embedded_model")
def test_adapters_of_the_embedded_model(shell: Shell, repository: Path, tmp_path: Path) -> None:
    """The shipped one by default, none on demand, and one for a language."""
    fingerprints = {}
    for name, options in {
        "default": [],
        "none": ["--adapter", "none"],
        "java": ["--adapter", "none", "--language-adapter", "java=embedded-java"],
    }.items():
        report = shell("index", repository, "--out", tmp_path / name, *options, "--json")
        fingerprints[name] = report["fingerprint"]
        assert shell("search", "send an email to the customer", "--index", tmp_path / name, "--json")
    assert fingerprints["default"] == CodeEmbedding().fingerprint
    assert fingerprints["none"] == CodeEmbedding(adapter="none").fingerprint
    assert len(set(fingerprints.values())) == 3
    assert read_manifest(tmp_path / "java")["embedding"]["adapters"] == {"java": "embedded-java"}
    assert "embedded-general" in shell("models")
    shell("index", repository, "--out", tmp_path / "x", "--language-adapter", "java", code=2)
    assert "--language-adapter takes LANGUAGE=ADAPTER, got 'java'" in shell.err
    shell("index", repository, "--out", tmp_path / "x", "--adapter", "embedded-cobol", code=2)
    assert "known names: embedded-general" in shell.err
    assert not (tmp_path / "x").exists()


def test_update(shell: Shell, indexed: Path, repository: Path) -> None:
    (repository / "src" / "mail.py").unlink()
    (repository / "src" / "new.py").write_text("def brandNewThing():\n    return 1\n")
    report = shell("update", "--index", indexed, "--json")
    assert (report["added"], report["removed"], report["embedded"]) == (1, 2, 1)
    assert shell("search", "brand new thing", "--index", indexed, "--json")[0]["path"] == "src/new.py"
    assert "0 / 0" in shell("update", "--index", indexed)


def test_git_url_is_cloned_and_updated(shell: Shell, repository: Path, bert_folder: Path, tmp_path: Path) -> None:
    shell("index", f"file://{repository}", "--out", "idx", "--model", bert_folder, "--max-lines", 10)
    assert Path("idx/sources/shop/src/cart.py").is_file()
    (repository / "more.py").write_text("def moreAndMore():\n    return 1\n")
    git = ["git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "more"], check=True)
    assert shell("update", "--index", "idx", "--json")["added"] == 1
    assert shell("index", f"file://{repository}", "--out", "idx", "--model", bert_folder, "--json")["files"] == 4
    shell("index", f"file://{tmp_path}/nowhere/shop", "--out", "idx", code=2)
    assert "another repository" in shell.err
    repository.rename(tmp_path / "moved")
    shell("update", "--index", "idx", code=2)
    assert "git fetch failed" in shell.err
    shutil.rmtree("idx/sources/shop")
    shell("update", "--index", "idx", code=2)
    assert "sources/shop is not a folder (missing)" in shell.err
    shell("index", f"file://{tmp_path}/nowhere", "--out", "idx2", code=2)
    assert "git clone failed" in shell.err
    assert not Path("idx2").exists()


def test_index_inside_the_checkout_does_not_index_itself(shell: Shell, repository: Path, bert_folder: Path) -> None:
    os.chdir(repository)
    shell("index", f"file://{repository}", ".", "--model", bert_folder)
    report = shell("index", f"file://{repository}", ".", "--model", bert_folder, "--json")
    assert report["files"] == 6  # three in the clone, three here
    status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True)
    assert status.stdout == ""


def test_a_folder_of_other_things_is_not_written_to(shell: Shell, repository: Path, bert_folder: Path) -> None:
    (repository / "data-raw").mkdir()
    before = sorted(path.name for path in repository.iterdir())
    shell.fails(
        "index",
        repository,
        "--out",
        repository,
        says="holds other things than an index (.git, Tax.java, data-raw)",
    )
    with pytest.raises(ValueError, match="name a new or an empty folder"):
        CodeIndex(CodeEmbedding(str(bert_folder))).save(repository)
    assert sorted(path.name for path in repository.iterdir()) == before


@pytest.mark.usefixtures("embedded_model")
def test_nothing_that_can_be_read(shell: Shell, tmp_path: Path) -> None:
    root = tmp_path / "only-trouble"
    root.mkdir()
    (root / "binary.py").write_bytes(b"\0" * 100)
    (root / "loop").symlink_to(root, target_is_directory=True)
    with (root / "huge.py").open("wb") as file:
        file.truncate(50_000_000)
    shell.fails("index", root, says=f"no source file in {root} (")
    assert "1 binary" in shell.err
    assert "1 larger than 1,000,000 bytes" in shell.err
    (root / "latin.py").write_bytes(b"def caf\xe9():\n    return 1\n")
    report = shell("index", root, "--json")
    assert (report["files"], report["replaced_files"]) == (1, 1)
    assert report["skipped"] == {"binary": 1, "larger than 1,000,000 bytes": 1}


def test_a_failed_index_leaves_the_old_one(shell: Shell, indexed: Path, tmp_path: Path) -> None:
    before = read_manifest(indexed)
    empty = tmp_path / "empty"
    empty.mkdir()
    shell.fails("index", empty, "--out", indexed, says="no source file")
    assert read_manifest(indexed) == before
    shell("search", "total", "--index", indexed)


def test_model_folder_is_found_from_elsewhere(
    shell: Shell, repository: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bert_folder, tmp_path / "model")
    shell("index", repository, "--out", "idx", "--model", "model")
    monkeypatch.chdir(repository)
    shell("search", "total", "--index", tmp_path / "idx")


def test_second_updater_says_who_holds_it(shell: Shell, indexed: Path, repository: Path) -> None:
    with update_lock(indexed, seconds=0):
        shell.fails("update", "--index", indexed, "--wait", 0.1, says=f"being updated by process {os.getpid()}")
        shell.fails("index", repository, "--out", indexed, "--wait", 0, says="being updated by process")
        assert shell("search", "total", "--index", indexed)  # readers need no lock


def test_info(shell: Shell, indexed: Path) -> None:
    info = shell("info", "--index", indexed, "--json")
    assert info["fingerprint"] == read_manifest(indexed)["fingerprint"]
    assert info["bytes"] == sum(path.stat().st_size for path in indexed.rglob("*") if path.is_file())
    assert info["fingerprint"] in shell("info", "--index", indexed)


def test_ctrl_c_while_embedding_keeps_the_old_index_and_the_vectors(
    shell: Shell, indexed: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGINT after the first 256 vectors are in the cache; the same command goes on from there."""
    big = tmp_path / "big"
    big.mkdir()
    for i in range(3):
        (big / f"m{i}.py").write_text("\n".join(f"def f{i}_{k}(x):\n    return {i} + {k}\n" for k in range(100)))
    before = read_manifest(indexed)
    command = ["index", big, "--out", indexed, "--model", bert_folder, "--cache", tmp_path / "cache"]
    put = EmbeddingCache.put

    def interrupt(*arguments: object) -> None:
        put(*arguments)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddingCache, "put", interrupt)
        shell(*command, code=130)
    assert shell.out == ""
    assert "code-retrieval: interrupted; files on disk are complete" in shell.err
    assert "Traceback" not in shell.err
    assert read_manifest(indexed) == before
    assert len(CodeIndex.load(indexed)) == before["nodes"]
    with EmbeddingCache(tmp_path / "cache") as cache:
        assert len(cache) == 256
    assert shell(*command, "--json")["nodes"] == 300
    with EmbeddingCache(tmp_path / "cache") as cache:
        assert len(cache) == 300


def test_wrong_places(shell: Shell, repository: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    shell.fails("index", "missing", says="missing is not a folder (missing)")
    shell.fails("index", repository / "Tax.java", says="is not a folder (a file)")
    shell.fails("index", empty, says="no source file in")
    out = repository / "Tax.java"
    shell.fails("index", repository, "--out", out, says="is a file; name a folder for the index")
    shell.fails("update", "--index", empty, says="there is no index in")
    shell.fails("info", says="there is no index in .code-retrieval; build one with: code-retrieval index PATH")
    assert not Path(".code-retrieval").exists()  # nothing half-written
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "nonsense"], "known names: Salesforce/codet5-base, Salesforce/codet5p-110m"),
        (["--model", "./nothing"], "folder ./nothing does not exist"),
        (["--adapter", "nonsense"], "'nonsense'"),
        (["--adapter", "./nothing"], "folder ./nothing does not exist"),
        (["--language-adapter", "java"], "--language-adapter takes LANGUAGE=ADAPTER, got 'java'"),
        (["--language-adapter", "jav=embedded-java"], "unknown language 'jav'; known are python, java"),
        (["--language-adapter", "java=nonsense"], "'nonsense'"),
        (["--language-adapter", "java=none", "--language-adapter", "java=none"], "names java twice"),
        (["--max-lines", "1"], "max_lines must be at least 2, got 1"),
        (["--max-lines", "0"], "argument --max-lines: must be at least 1, got 0"),
        (["--max-lines", "20", "--overlap-lines", "10"], "overlap_lines must be"),
        (["--overlap-lines", "-1"], "argument --overlap-lines: must be at least 0, got -1"),
        (["--max-code-tokens", "0"], "argument --max-code-tokens: must be at least 1, got 0"),
        (["--precision", "int3"], "invalid choice: 'int3'"),
        (["--wait", "-1"], "argument --wait: must be a number of seconds of at least 0, got '-1'"),
        (["--wait", "nan"], "argument --wait: must be a number of seconds of at least 0, got 'nan'"),
        (["--cache", "shop/Tax.java"], "--cache shop/Tax.java is a file; name a folder"),
    ],
)
def test_wrong_settings(shell: Shell, repository: Path, arguments: list[str], says: str) -> None:
    shell.fails("index", repository, "--out", "new", *arguments, says=says)
    assert "pydantic" not in shell.err
    assert not Path("new").exists()


def test_a_wrong_adapter_is_refused_before_the_clone(shell: Shell, tmp_path: Path) -> None:
    shell.fails("index", f"file://{tmp_path}/nowhere", "--adapter", "nonsense", says="'nonsense'")


def test_short_nodes_need_no_other_overlap(shell: Shell, repository: Path, bert_folder: Path) -> None:
    """The default overlap is for long nodes; with short ones it follows."""
    shell("index", repository, "--out", "idx", "--model", bert_folder, "--max-lines", 4, "--json")
    assert read_manifest("idx")["parser"]["max_lines"] == 4
