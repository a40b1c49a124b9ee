"""The command serve."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Shell

from llamaindex_code_retrieval.cli.listening import listen

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")


@pytest.fixture
def used_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["--port", "99999"], "must be a port from 0 to 65535, got '99999'"),
        (["--llm", "gpt"], "unknown LLM 'gpt'"),
        (["--timeout", "3"], "--timeout has no effect with --llm extractive"),
        (["--host", "0.0.0.0"], "lets other machines read the code and needs a token"),
        (["--host", "no such host", "--token-file", "token"], "cannot listen on no such host port 0"),
        (["--token-file", "missing"], "missing"),
        (["--token-file", "short"], "at least 16 ASCII characters"),
        (["--read-only"], "has no index"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_wrong_input_is_said_before_an_index_is_made(
    shell: Shell, repository: Path, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.delenv("CODE_RETRIEVAL_TOKEN", raising=False)
    (repository / "token").write_text("a-token-of-24-characters")
    (repository / "short").write_text("secret")
    shell.fails("serve", *arguments, *([] if "--port" in arguments else ["--port", "0"]), says=says)
    assert not (repository / ".code-retrieval").exists()


def test_connections_do_not_wait_for_acknowledgements() -> None:
    """Else each answer over a kept connection takes 40 ms more (Nagle's algorithm with delayed acknowledgements)."""
    with closing(listen("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        connection, _ = listener.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_is_said_before_an_index_is_made(shell: Shell, repository: Path, used_port: int) -> None:
    shell.fails("serve", repository, "--port", used_port, says=f"port {used_port} of 127.0.0.1 is in use")
    assert not (repository / ".code-retrieval").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_prints_its_address_answers_and_stops(indexed: Path, number: signal.Signals) -> None:
    command = [
        sys.executable,
        "-m",
        "llamaindex_code_retrieval.cli",
        "serve",
        str(indexed),
        "--port",
        "0",
        "--read-only",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as server:
        try:
            assert server.stderr is not None
            first = server.stderr.readline()
            address = re.search(r"serving shop at (http://127\.0\.0\.1:\d+/) ", first)
            assert address is not None, first + server.stderr.read()
            with urllib.request.urlopen(f"{address[1]}api/search?question=total&limit=1", timeout=60) as response:
                assert len(json.load(response)["hits"]) == 1
            server.send_signal(number)
            rest = server.communicate(timeout=60)[1]
        finally:
            server.kill()
    assert server.returncode == 0, rest
    assert "search 'total': ok" in rest
    assert "code-retrieval: stopped\n" in rest
    assert "Traceback" not in rest
