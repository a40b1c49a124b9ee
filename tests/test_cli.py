"""The command line as a whole: exit codes, help, version, models, streams, and errors that nobody expects."""

from __future__ import annotations

import importlib.metadata
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Shell

from llamaindex_code_retrieval.cli.console import prepare_streams
from llamaindex_code_retrieval.cli.main import main
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES, LANGUAGES
from llamaindex_code_retrieval.models.catalog import BASES
from llamaindex_code_retrieval.models.locate import shipped_query_encoders, shipped_rerankers


def test_help_of_every_command(shell: Shell) -> None:
    out = shell("--help")
    assert "exit codes:" in out
    commands = [line.split()[0] for line in out.splitlines() if line.startswith("    ") and line[4] != " "]
    assert {
        "index",
        "update",
        "search",
        "info",
        "models",
        "languages",
        "demo",
        "eval",
        "benchmark",
        "mine",
        "train",
    } <= set(commands)
    for command in commands:
        described = shell(command, "--help")
        assert described.isascii()
        assert "pydantic" not in described


def test_version(shell: Shell) -> None:
    assert shell("--version") == f"code-retrieval {importlib.metadata.version('llamaindex-code-retrieval')}\n"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["index"], ["models", "x"]])
def test_arguments_that_do_not_parse_exit_with_2(shell: Shell, arguments: list[str]) -> None:
    shell.fails(*arguments, says="error: ")
    assert shell.err.startswith("usage: code-retrieval")


def test_languages(shell: Shell) -> None:
    rows = {row["name"]: row for row in shell("languages", "--json")}
    assert list(rows) == list(LANGUAGES)
    assert {name for name, row in rows.items() if "definitions" in row["divided_by"]} == {*CODE_LANGUAGES, "notebook"}
    assert rows["markdown"]["divided_by"] == "headings"
    assert ".pyi" in rows["python"]["extensions"]
    assert "Rakefile" in rows["ruby"]["file_names"]
    assert "node" in rows["javascript"]["shebangs"]
    _title, headings, *printed, advice = shell("languages").splitlines()
    assert headings == "name\tdivided by\textensions\tfile names\tprograms in #!"
    assert [line.split("\t") for line in printed] == [
        [name, row["divided_by"], *(" ".join(row[key]) for key in ("extensions", "file_names", "shebangs"))]
        for name, row in rows.items()
    ]
    assert "--ext .EXTENSION=LANGUAGE" in advice


def test_models(shell: Shell) -> None:
    bases = {base["name"]: base for base in shell("models", "--json")}
    names = set(bases)
    assert bases["embedded"]["default_adapter"] == "embedded-general"
    for kind, shipped in (
        ("adapters", ["embedded-general"]),
        ("rerankers", shipped_rerankers()),
        ("query_encoders", shipped_query_encoders()),
    ):
        assert bases["embedded"][kind] == shipped
        assert bases["microsoft/codebert-base"][kind] == []
    assert bases["embedded-large"]["default_adapter"] == "embedded-large-general"
    assert bases["embedded-large"]["adapters"] == ["embedded-large-general"]
    assert {"embedded", "Salesforce/codet5p-110m-embedding", "microsoft/unixcoder-base"} <= names
    printed = shell("models")
    assert names <= {line.split("\t")[0] for line in printed.splitlines()}
    for name in ("embedded-general", "embedded-reranker", "embedded-general-static"):
        assert name in printed


# --- errors ----------------------------------------------------------------------------------------------------------


def test_an_error_that_nobody_expects_is_not_no_hit(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broken table of models stands for any fault of the package."""
    monkeypatch.setitem(BASES, "broken", None)  # type: ignore[arg-type]
    shell.fails("models", says="code-retrieval: error: internal error: AttributeError: 'NoneType' object has no attri")
    assert "This is a fault of code-retrieval. Please report it" in shell.err
    assert "--debug" in shell.err
    shell("--debug", "models", code=2)
    assert shell.err.startswith("Traceback (most recent call last):")
    assert "AttributeError" in shell.err


def test_debug_shows_the_traceback_of_an_expected_error(shell: Shell) -> None:
    shell("--debug", "info", "--index", "nowhere\x1b", code=2)
    assert shell.err.startswith("Traceback (most recent call last):")
    assert shell.err.endswith("\n")
    assert "code-retrieval: error: there is no index in nowhere\\x1b" in shell.err
    assert "\x1b" not in shell.err


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_encoding_of_the_terminal(
    shell: Shell, indexed: Path, repository: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "é❱.py").write_text("def café():\n    return '日本❱'\n", encoding="utf-8")
    (repository / "é.txt").write_text("nothing")
    for arguments in (["update"], ["search", "café"], ["search", "café", "--json"], ["info"], ["models"]):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        where = [] if arguments == ["models"] else ["--index", str(indexed)]
        assert main([*arguments, *where]) == 0
        streams[0].seek(0)
        printed = streams[0].read()
        if arguments == ["search", "café"]:
            assert ("é>.py:1" if encoding == "cp1252" else "\\xe9>.py:1") in printed
            assert ("> 1 def café" if encoding == "cp1252" else "> 1 def caf\\xe9") in printed
            assert "\\u65e5\\u672c>" in printed
        elif "--json" not in arguments:
            assert printed.rstrip().startswith(("Index", "Base"))
            assert "\t" in printed  # between the columns of a table


def test_log_records_and_results_of_libraries_do_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library prints by itself is escaped by the stream."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    prepare_streams()
    print("café")
    stream.seek(0)
    assert stream.read() == "caf\\xe9\n"


def test_a_closed_pipe_is_no_error() -> None:
    """The reader has gone before the first line is written, as with ``| true``."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "llamaindex_code_retrieval.cli", "models"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.returncode == 141
    assert done.stderr == ""
