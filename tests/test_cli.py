"""The command line as a user meets it: output, exit codes, and what happens when something is wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Shell
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.index.storage import read_manifest, update_lock


@pytest.fixture
def indexed(shell: Shell, repository: Path, bert_folder: Path, tmp_path: Path) -> Path:
    shell("index", repository, "--out", tmp_path / "idx", "--model", bert_folder)
    return tmp_path / "idx"


def test_index_and_search_with_the_embedded_model(shell: Shell, repository: Path) -> None:
    out = shell("index", repository)
    assert "3" in out
    assert "java 2, python 6" in out
    out = shell("search", "send an email to the customer", "--top-n", 2)
    first = out.splitlines()[0]
    assert "shop/src/mail.py:4" in first  # from here
    assert "send_receipt" in first
    assert "smtplib.SMTP" in out
    assert out.count(". shop/") == 2
    hits = shell("search", "sum of all prices in the cart", "--json", "--mode", "dense")
    assert hits[0]["scope"] == "Cart.total"
    assert hits[0]["rank"] == 1
    assert Path(hits[0]["file"]).read_text().splitlines()[hits[0]["start_line"] - 1] == "    def total(self):"
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


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


def test_rerank(shell: Shell, indexed: Path, bert_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cross-encoder"
    BertForSequenceClassification(BertConfig.from_pretrained(bert_folder, num_labels=1)).save_pretrained(folder)
    BertTokenizerFast.from_pretrained(bert_folder).save_pretrained(folder)
    hits = shell("search", "total", "--index", indexed, "--rerank", folder, "--top-n", 3, "--json")
    assert len(hits) == 3
    assert all(0 < hit["score"] < 1 for hit in hits)
    default = shell("search", "total", "--index", indexed, "--rerank", "--top-n", 1, "--early-exit", 0.9, "--json")
    assert len(default) == 1  # on a base of its own: the index has another one
    shell("search", "total", "--index", indexed, "--rerank", "nowhere", code=2)
    assert "unknown reranker 'nowhere'" in shell.err
    shell("search", "total", "--index", indexed, "--rerank", "--early-exit", 0.5, code=2)
    assert "cannot stop at confidence 0.5: it was calibrated at 0.8, 0.9, 0.95, 0.99" in shell.err


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


def test_info_and_models(shell: Shell, indexed: Path) -> None:
    assert shell("info", "--index", indexed, "--json")["fingerprint"] == read_manifest(indexed)["fingerprint"]
    assert "fingerprint" in shell("info", "--index", indexed)
    names = {base["name"] for base in shell("models", "--json")}
    assert {"embedded", "Salesforce/codet5p-110m-embedding", "microsoft/unixcoder-base"} <= names
    printed = shell("models")
    assert "codesage" in printed
    assert "embedded-reranker" in printed


def test_no_hit_is_exit_code_1(shell: Shell, indexed: Path) -> None:
    assert shell("search", "zzzzzz", "--mode", "bm25", "--index", indexed, code=1) == ""
    assert shell.err == "code-retrieval: no hit\n"


# --- wrong input -----------------------------------------------------------------------------------------------------


def _wrong(shell: Shell, *arguments: object, says: str) -> None:
    shell(*arguments, code=2)
    assert says in shell.err
    assert "Traceback" not in shell.err
    assert shell.out == ""


def test_wrong_places(shell: Shell, repository: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    _wrong(shell, "index", "missing", says="missing is not a folder (missing)")
    _wrong(shell, "index", repository / "Tax.java", says="is not a folder (a file)")
    _wrong(shell, "index", empty, says="no source file in")
    _wrong(shell, "index", repository, "--out", repository / "Tax.java", says="is a file; name a folder for the index")
    _wrong(shell, "search", "x", says="there is no index in .code-retrieval; build one with: code-retrieval index PATH")
    _wrong(shell, "update", "--index", empty, says="there is no index in")
    _wrong(shell, "info", says="there is no index in")
    assert not Path(".code-retrieval").exists()  # nothing half-written
    assert list(empty.iterdir()) == []


def test_a_folder_of_other_things_is_not_written_to(shell: Shell, repository: Path, bert_folder: Path) -> None:
    (repository / "data-raw").mkdir()
    before = sorted(path.name for path in repository.iterdir())
    _wrong(
        shell,
        "index",
        repository,
        "--out",
        repository,
        says="holds other things than an index (.git, Tax.java, data-raw)",
    )
    with pytest.raises(ValueError, match="name a new or an empty folder"):
        CodeIndex(CodeEmbedding(str(bert_folder))).save(repository)
    assert sorted(path.name for path in repository.iterdir()) == before


def test_nothing_that_can_be_read(shell: Shell, tmp_path: Path) -> None:
    root = tmp_path / "only-trouble"
    root.mkdir()
    (root / "binary.py").write_bytes(b"\0" * 100)
    (root / "loop").symlink_to(root, target_is_directory=True)
    with (root / "huge.py").open("wb") as file:
        file.truncate(50_000_000)
    _wrong(shell, "index", root, says=f"no source file in {root} (")
    assert "1 binary" in shell.err
    assert "1 larger than 1,000,000 bytes" in shell.err
    (root / "latin.py").write_bytes(b"def caf\xe9():\n    return 1\n")
    report = shell("index", root, "--json")
    assert (report["files"], report["replaced_files"]) == (1, 1)
    assert report["skipped"] == {"binary": 1, "larger than 1,000,000 bytes": 1}


def test_wrong_settings(shell: Shell, indexed: Path, repository: Path) -> None:
    _wrong(shell, "search", "x", "--index", indexed, "--top-n", 0, says="--top-n must be at least 1, got 0")
    _wrong(shell, "search", "  ", "--index", indexed, says="the question is empty")
    _wrong(
        shell,
        "index",
        repository,
        "--out",
        "new",
        "--model",
        "nonsense",
        says="known names: Salesforce/codet5-base, Salesforce/codet5p-110m",
    )
    _wrong(shell, "index", repository, "--out", "new", "--adapter", "nonsense", says="unknown adapter 'nonsense'")
    _wrong(shell, "index", repository, "--out", "new", "--max-lines", 1, says="max_lines")
    assert not Path("new").exists()
    for arguments in (["nonsense"], ["search"], ["index", "x", "--precision", "int3"], []):
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        assert exit_.value.code == 2


def test_a_failed_index_leaves_the_old_one(shell: Shell, indexed: Path, tmp_path: Path) -> None:
    before = read_manifest(indexed)
    empty = tmp_path / "empty"
    empty.mkdir()
    _wrong(shell, "index", empty, "--out", indexed, says="no source file")
    assert read_manifest(indexed) == before
    shell("search", "total", "--index", indexed)


def test_index_of_a_changed_model(shell: Shell, repository: Path, bert_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(bert_folder, model)
    shell("index", repository, "--out", "idx", "--model", model)
    old = read_manifest("idx")["fingerprint"]
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"layer_norm_eps": 0.1}))
    _wrong(shell, "search", "x", "--index", "idx", says=f"fingerprint {old}, but the model at hand has fingerprint")
    assert f"rebuild it with: code-retrieval index {repository}" in shell.err
    shutil.rmtree(model)
    _wrong(shell, "search", "x", "--index", "idx", says=f"folder {model} does not exist")


def test_model_folder_is_found_from_elsewhere(
    shell: Shell, repository: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bert_folder, tmp_path / "model")
    shell("index", repository, "--out", "idx", "--model", "model")
    monkeypatch.chdir(repository)
    shell("search", "total", "--index", tmp_path / "idx")


def test_damaged_index(shell: Shell, indexed: Path) -> None:
    [file] = indexed.rglob("nodes.jsonl")
    file.write_bytes(file.read_bytes()[:100])
    _wrong(shell, "search", "x", "--index", indexed, says="damaged or half copied")
    _wrong(shell, "update", "--index", indexed, says="rebuild it with: code-retrieval index")


def test_second_updater_says_who_holds_it(shell: Shell, indexed: Path, repository: Path) -> None:
    with update_lock(indexed, seconds=0):
        _wrong(shell, "update", "--index", indexed, "--wait", 0.1, says=f"being updated by process {os.getpid()}")
        _wrong(shell, "index", repository, "--out", indexed, "--wait", 0, says="being updated by process")
        assert shell("search", "total", "--index", indexed)  # readers need no lock


def test_no_faiss_installed(indexed: Path) -> None:
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "from llamaindex_code_retrieval.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "search", "x", "--index", str(indexed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install faiss-cpu" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_indexing_keeps_the_old_index_and_the_work(shell: Shell, indexed: Path, tmp_path: Path) -> None:
    """The real command, the real model, a real SIGINT; then the same command goes on from the cache."""
    big = tmp_path / "big"
    big.mkdir()
    for i in range(60):
        body = "".join(f"    total_{j} = {i} + {j} * compute(value_{j})\n" for j in range(20))
        (big / f"m{i}.py").write_text("\n".join(f"def f{i}_{k}(x):\n{body}" for k in range(20)))
    before = read_manifest(indexed)
    cache = tmp_path / "cache"
    command = [
        sys.executable,
        "-m",
        "llamaindex_code_retrieval.cli",
        "index",
        str(big),
        "--out",
        str(indexed),
        "--cache",
        str(cache),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    from llamaindex_code_retrieval import EmbeddingCache

    deadline = time.monotonic() + 600  # a busy machine takes its time
    while time.monotonic() < deadline and not (cache.exists() and len(EmbeddingCache(cache))):
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert out == ""
    assert read_manifest(indexed) == before
    assert len(CodeIndex.load(indexed)) == before["nodes"]
    kept = len(EmbeddingCache(cache))
    assert 0 < kept < 1_200
    assert kept % 256 == 0
