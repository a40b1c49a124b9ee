"""The command ``watch`` in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.cli.main import main


def test_edits_come_into_the_index_until_ctrl_c(embedding: CodeEmbedding, tmp_path: Path) -> None:
    source = tmp_path / "code"
    source.mkdir()
    (source / "a.py").write_text("def first():\n    return 1\n")
    with CodeIndex(embedding, tmp_path / "index") as index:
        index.update([source])
    command = [sys.executable, "-m", "llamaindex_code_retrieval.cli", "watch", "--json"]
    with subprocess.Popen(
        [*command, "--index", str(tmp_path / "index"), "--cache", str(tmp_path / "cache")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        assert "watching" in watching.stderr.readline()
        (source / "b.py").write_text("def second():\n    return 2\n")
        report = json.loads(watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=60) == 130
    assert (report["added"], report["removed"], report["files"]) == (1, 0, 2)
    with CodeIndex.open(tmp_path / "index", embedding=embedding) as index:
        assert {node.metadata["scope"] for node in index.nodes()} == {"first", "second"}


def test_an_index_without_folders_is_refused(
    embedding: CodeEmbedding, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with CodeIndex(embedding, tmp_path / "index") as index:
        index.update_texts({"a.py": "x = 1\n"})
    assert main(["watch", "--index", str(tmp_path / "index")]) == 2
    assert "was not made from folders" in capsys.readouterr().err
