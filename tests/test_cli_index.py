"""The commands index, update and info."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Shell

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex, EmbeddingCache
from llamaindex_code_retrieval.index.folder import read_settings, rebuild_command
from llamaindex_code_retrieval.index.lock import update_lock


@pytest.mark.usefixtures("embedded_model")
def test_adapters_of_the_embedded_model(shell: Shell, repository: Path, other_adapter: Path, tmp_path: Path) -> None:
    """The shipped one by default, none on demand, and one for a language."""
    fingerprints = {}
    for name, options in {
        "default": [],
        "none": ["--adapter", "none"],
        "java": ["--adapter", "none", "--language-adapter", f"java={other_adapter}"],
    }.items():
        report = shell("index", repository, "--out", tmp_path / name, *options, "--json")
        fingerprints[name] = report["fingerprint"]
        assert shell("search", "send an email to the customer", "--index", tmp_path / name, "--json")
    assert fingerprints["default"] == CodeEmbedding().fingerprint
    assert fingerprints["none"] == CodeEmbedding(adapter="none").fingerprint
    assert len(set(fingerprints.values())) == 3
    assert read_settings(tmp_path / "java")["embedding"]["adapters"] == {"java": str(other_adapter)}
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
    assert (report["added"], report["removed"], report["embedded"]) == (1, 3, 1)  # the function in mail.py is two parts
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
        file.write(b"x = 1\n" * 200_000)
    shell.fails("index", root, says=f"no file to index in {root} (1 binary (.py), 1 symbolic link, 1 too large (.py))")
    (root / "latin.py").write_bytes(b"def caf\xe9():\n    return 1\n")
    report = shell("index", root, "--json")
    assert report["files"] == 1
    assert report["encodings"] == {"guessed": {"cp1252": 1}}
    assert report["left_out"] == {"binary": {".py": 1}, "symbolic link": {"": 1}, "too large": {".py": 1}}


def test_the_report_says_what_was_left_out_and_how_to_take_it_in(
    shell: Shell, repository: Path, bert_folder: Path
) -> None:
    (repository / "rows.csv").write_text("a,b\n")
    (repository / "logo.svg").write_text("<svg/>\n")
    (repository / "Cargo.lock").write_text("x\n")
    (repository / "page.foo").write_text("some text\n")
    (repository / "large.txt").write_text("a line\n" * 200_000)
    (repository / "wide.py").write_text("x = 1\n", encoding="utf-16")
    command = ["index", repository, "--out", "idx", "--model", bert_folder]
    rows = dict(line.split("\t") for line in shell(*command).splitlines()[1:])
    assert rows["left out"] == (
        "2 data (.csv 1, .svg 1), 1 lock (.lock), 1 too large (.txt); "
        "take in with --include GLOB or --max-file-size SIZE"
    )
    assert rows["read as text"] == (
        "1 files of no known kind (.foo); name their language with --ext .EXTENSION=LANGUAGE"
    )
    assert rows["not UTF-8"] == "1 byte order mark (utf-16-le)"
    report = shell(*command, "--json")
    assert report["left_out"] == {"data": {".csv": 1, ".svg": 1}, "lock": {".lock": 1}, "too large": {".txt": 1}}
    assert report["unknown"] == {".foo": 1}
    assert report["encodings"] == {"byte order mark": {"utf-16-le": 1}}

    more = [
        "--include",
        "*.csv",
        "--include",
        "*.lock",
        "--max-file-size",
        "2MB",
        "--ext",
        ".foo=markdown",
        "--exclude",
        "src/",
    ]
    taken = shell(*command, *more, "--json")
    assert taken["left_out"] == {"data": {".svg": 1}, "excluded": {".py": 2}}
    assert taken["unknown"] == {".csv": 1, ".lock": 1}
    assert taken["languages"]["markdown"] == 1
    saved = read_settings("idx")
    assert saved["sources"] == {
        "include": ["*.csv", "*.lock"],
        "exclude": ["src/"],
        "ext": {".foo": "markdown"},
        "max_file_size": 2_000_000,
    }
    again = shell("update", "--index", "idx", "--json")
    assert (again["added"], again["removed"], again["left_out"]) == (0, 0, taken["left_out"])
    assert "max_file_size=2000000" in shell("info", "--index", "idx")
    command_again = rebuild_command(Path("idx"), saved)
    assert (
        "'--include=*.csv' '--include=*.lock' --exclude=src/ --ext=.foo=markdown --max-file-size=2000000"
        in command_again
    )


def test_settings_of_the_folder(shell: Shell, repository: Path, bert_folder: Path) -> None:
    (repository / "pyproject.toml").write_text('[tool.code-retrieval]\nonly = ["*.java"]\n')
    command = ["index", repository, "--out", "idx", "--model", bert_folder, "--json"]
    assert list(shell(*command)["languages"]) == ["java"]
    assert list(shell(*command, "--only", "*.py")["languages"]) == ["python"]
    (repository / "pyproject.toml").write_text('[tool.code-retrieval]\nlanguages = ["java"]\n')
    assert shell("update", "--index", "idx", "--json", code=2) == ""
    shell.fails(*command, says=f"{repository}/pyproject.toml: there is no setting 'languages'; there are exclude, ext,")


def test_a_failed_index_leaves_the_old_one(shell: Shell, indexed: Path, tmp_path: Path) -> None:
    before = read_settings(indexed)
    empty = tmp_path / "empty"
    empty.mkdir()
    shell.fails("index", empty, "--out", indexed, says="no file to index")
    assert read_settings(indexed) == before
    shell("search", "total", "--index", indexed)


def test_model_folder_is_found_from_elsewhere(
    shell: Shell, repository: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bert_folder, tmp_path / "model")
    shell("index", repository, "--out", "idx", "--model", "model")
    monkeypatch.chdir(repository)
    shell("search", "total", "--index", tmp_path / "idx")


def test_second_updater_says_who_holds_it(shell: Shell, indexed: Path, repository: Path) -> None:
    def hold() -> None:
        with update_lock(indexed, seconds=0):
            held.set()
            release.wait()

    held, release = threading.Event(), threading.Event()
    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(timeout=60)
        shell.fails("update", "--index", indexed, "--wait", 0.1, says=f"being updated by process {os.getpid()}")
        shell.fails("index", repository, "--out", indexed, "--wait", 0, says="being updated by process")
        assert shell("search", "total", "--index", indexed)  # readers need no lock
    finally:
        release.set()
        holder.join()


def test_info(shell: Shell, indexed: Path) -> None:
    info = shell("info", "--index", indexed, "--json")
    assert info["fingerprint"] == read_settings(indexed)["fingerprint"]
    assert info["bytes"] == sum(path.stat().st_size for path in indexed.rglob("*") if path.is_file())
    assert info["fingerprint"] in shell("info", "--index", indexed)


def test_ctrl_c_while_embedding_keeps_the_old_index_and_the_vectors(
    shell: Shell, indexed: Path, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGINT when the vectors of the first files are in the cache; the same command goes on from there."""
    big = tmp_path / "big"
    big.mkdir()
    for i in range(4):
        (big / f"m{i}.py").write_text("\n".join(f"def f{i}_{k}(x):\n    return {i} + {k}\n" for k in range(200)))
    before = list(CodeIndex.open(indexed).nodes())
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
    assert list(CodeIndex.open(indexed).nodes()) == before
    with EmbeddingCache(tmp_path / "cache") as cache:
        assert len(cache) == 512
    assert shell(*command, "--json")["nodes"] == 800
    with EmbeddingCache(tmp_path / "cache") as cache:
        assert len(cache) == 800


def test_wrong_places(shell: Shell, repository: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    shell.fails("index", "missing", says="missing is not a folder (missing)")
    shell.fails("index", repository / "Tax.java", says="is not a folder (a file)")
    shell.fails("index", empty, says="no file to index in")
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
        (["--language-adapter", "jav=embedded-general"], "unknown language 'jav'; known are python, java"),
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
        (["--exclude", "[a"], "--exclude: the glob '[a' matches nothing"),
        (["--only", "!a"], "--only: the glob '!a' begins with '!'"),
        (["--include", ""], "--include: the glob '' matches nothing"),
        (["--ext", ".foo"], "--ext takes .EXT=LANGUAGE, as in .foo=python, got '.foo'"),
        (["--ext", ".foo=cobol"], "--ext: unknown language 'cobol'; known are python, java"),
        (["--ext", "foo=python"], "--ext: an extension begins with a dot"),
        (["--ext", ".foo=python", "--ext", ".foo=java"], "--ext names .foo twice"),
        (["--max-file-size", "many"], "--max-file-size: a size is a number of bytes or one with a unit"),
        (["--max-file-size", "0"], "--max-file-size must be greater than or equal to 1, got 0"),
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
    assert read_settings("idx")["parser"]["max_lines"] == 4


def test_index_updates_an_index_in_place(shell: Shell, indexed: Path, repository: Path, bert_folder: Path) -> None:
    command = ["index", repository, "--out", indexed, "--model", bert_folder, "--json"]
    assert shell(*command)["embedded"] == 0
    (repository / "new.py").write_text("def brand_new_thing():\n    return 1\n")
    report = shell(*command)
    assert (report["added"], report["embedded"], report["files"]) == (1, 1, 4)
    assert shell(*command, "--only", "*.java")["files"] == 1


@pytest.mark.parametrize("manifest", ['{"format": 3, "roots": ["/code/shop"], "sources": {"only": ["*.py"]}}', "{"])
def test_an_index_of_an_older_format_is_refused_and_built_again_in_place(
    manifest: str, shell: Shell, repository: Path, bert_folder: Path
) -> None:
    old = Path("idx")
    data = old / "data-0123456789abcdef"
    data.mkdir(parents=True)
    (data / "nodes.jsonl").write_text("{}\n")
    (old / "manifest.json").write_text(manifest)
    again = (
        "code-retrieval index /code/shop '--only=*.py' --out idx" if len(manifest) > 1 else "code-retrieval index PATH"
    )
    for command in (["search", "x"], ["search", "x", "--mode", "bm25"], ["update"], ["info"]):
        shell.fails(*command, "--index", old, says="this version reads format 5; build it again with: " + again)
    assert sorted(path.name for path in old.iterdir()) == [data.name, "manifest.json"]
    shell("index", repository, "--only", "*.py", "--out", old, "--model", bert_folder)
    assert shell("search", "total", "--index", old, "--mode", "bm25", "--json")[0]["scope"] == "Cart.total"
    assert not data.exists()
    assert not (old / "manifest.json").exists()


def test_update_goes_on_after_an_interrupted_index(
    shell: Shell, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGINT while the second batch of nodes is embedded: all are in the index, and the first ones have vectors."""
    big = tmp_path / "big"
    big.mkdir()
    for i in range(4):
        (big / f"m{i}.py").write_text("\n".join(f"def f{i}_{k}(x):\n    return {i} + {k}\n" for k in range(200)))
    embed, calls = CodeEmbedding.embed_codes, []

    def interrupt(embedding: CodeEmbedding, codes: list[str], languages: list[str], **options: Any) -> object:
        calls.append(len(codes))
        if len(calls) == 2:
            with CodeIndex.open("idx", words_only=True) as index:
                while len(index) < 800 or index.missing_vectors > 288:
                    time.sleep(0.01)
            signal.raise_signal(signal.SIGINT)
        return embed(embedding, codes, languages, **options)

    options = ["--model", bert_folder, "--max-lines", 10, "--exclude", "m9*", "--cache", tmp_path / "cache"]
    with monkeypatch.context() as patched:
        patched.setattr(CodeEmbedding, "embed_codes", interrupt)
        shell("index", big, "--out", "idx", *options, code=130)
    assert calls == [512, 288]
    info = shell("info", "--index", "idx", "--json")
    assert (info["nodes"], info["missing_vectors"]) == (800, 288)
    assert shell("search", "f1_7", "--mode", "bm25", "--index", "idx", "--json")
    report = shell("update", "--index", "idx", "--json")
    assert (report["embedded"], report["nodes"], report["left_out"]) == (288, 800, {})
    info = shell("info", "--index", "idx", "--json")
    assert info["parser"]["max_lines"] == 10
    assert info["sources"] == {"exclude": ["m9*"]}


def test_update_reads_all_files_again_after_an_interrupted_index_with_another_parser(
    shell: Shell, bert_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first files have nodes by the new parser; the index is as a whole by one of both."""
    big = tmp_path / "big"
    big.mkdir()
    for i in range(4):
        (big / f"m{i}.py").write_text(
            "\n".join(f"def f{i}_{k}(x):\n    y = 1\n    y = {k}\n    y += {i}\n    return y\n" for k in range(200))
        )
    shell("index", big, "--out", "idx", "--model", bert_folder)
    expected = [node.text for node in CodeIndex.open("idx").nodes()]
    embed, calls = CodeEmbedding.embed_codes, []

    def interrupt(embedding: CodeEmbedding, codes: list[str], languages: list[str], **options: Any) -> object:
        calls.append(len(codes))
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return embed(embedding, codes, languages, **options)

    with monkeypatch.context() as patched:
        patched.setattr(CodeEmbedding, "embed_codes", interrupt)
        shell("index", big, "--out", "idx", "--model", bert_folder, "--max-lines", 4, code=130)
    assert len(list(CodeIndex.open("idx").nodes())) > len(expected)
    shell("update", "--index", "idx")
    assert [node.text for node in CodeIndex.open("idx").nodes()] == expected
