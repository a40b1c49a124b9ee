"""The MCP server, by the official client over stdio and over HTTP, and by clients that break the protocol."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Shell

pytest.importorskip("mcp", reason="needs the extra mcp")

import anyio.from_thread
from mcp import StdioServerParameters
from mcp.client.client import Client

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex

CART = (
    '"""A shopping cart."""\n\n\nclass Cart:\n    """Holds items."""\n\n    def total(self, items):\n'
    '        """Sum the prices of all items."""\n        return sum(item.price for item in items)\n\n\n'
    "def empty_cart():\n    return Cart()\n"
)
TOKEN = "a-token-of-24-characters"
COMMAND = [sys.executable, "-m", "llamaindex_code_retrieval.cli", "mcp"]
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
Call = Callable[..., tuple[str, bool]]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with an index."""
    folder = tmp_path_factory.mktemp("mcp") / "shop"
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "cart.py").write_text(CART)
    (folder / "src" / "fences.md").write_text("# Fences\n\nText before.\n\n````text\ninner\n````\n\nText after.\n")
    (folder / "src" / "long.py").write_text("".join(f"number_{i} = {i}\n" for i in range(3_000)))
    (folder / "binary.bin").write_bytes(b"\0" * 100)
    (folder / "link.py").symlink_to("/etc/passwd")
    with CodeIndex(CodeEmbedding("embedded-static"), folder / ".code-retrieval") as index:
        index.update([folder])
    return folder


@pytest.fixture(scope="module")
def portal() -> Iterator[anyio.from_thread.BlockingPortal]:
    with anyio.from_thread.start_blocking_portal() as portal:
        yield portal


@contextmanager
def connected(portal: anyio.from_thread.BlockingPortal, server: Any) -> Iterator[Client]:
    with portal.wrap_async_context_manager(Client(server)) as client:
        yield client


@pytest.fixture(scope="module")
def stdio(portal: anyio.from_thread.BlockingPortal, shop: Path) -> Iterator[Client]:
    command = StdioServerParameters(command=COMMAND[0], args=[*COMMAND[1:], str(shop)], env=dict(os.environ))
    with connected(portal, command) as client:
        yield client


@pytest.fixture(scope="module")
def address(shop: Path) -> Iterator[str]:
    """The address of a server over HTTP on a free port."""
    command = [*COMMAND, str(shop), "--http", "0", "--read-only"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as server:
        try:
            assert server.stderr is not None
            first = server.stderr.readline()
            found = re.search(r"serving shop at (http://127\.0\.0\.1:\d+/mcp)", first)
            assert found is not None, first + server.stderr.read()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(server.stderr.read)  # the log of requests must not fill the pipe
                yield found[1]
                server.send_signal(signal.SIGTERM)
                assert server.wait(60) == 0
        finally:
            server.kill()


@pytest.fixture(scope="module", params=["stdio", "http"])
def call(request: pytest.FixtureRequest, portal: anyio.from_thread.BlockingPortal) -> Iterator[Call]:
    """Calls a tool over each transport; returns the text, and whether it is an error."""
    if request.param == "stdio":
        yield partial(call_tool, portal, request.getfixturevalue("stdio"))
    else:
        with connected(portal, request.getfixturevalue("address")) as client:
            yield partial(call_tool, portal, client)


def call_tool(
    portal: anyio.from_thread.BlockingPortal, client: Client, name: str, **arguments: object
) -> tuple[str, bool]:
    result = portal.call(partial(client.call_tool, name, arguments))
    [content] = result.content
    return content.text, result.is_error


def test_tools_say_what_they_are_for_and_take(portal: anyio.from_thread.BlockingPortal, stdio: Client) -> None:
    tools = {tool.name: tool for tool in portal.call(stdio.list_tools).tools}
    assert list(tools) == ["search_code", "read_code", "find_related", "outline", "index_status"]
    for tool in tools.values():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint is True
        assert tool.input_schema["additionalProperties"] is False
        assert len(tool.description or "") > 100
    search = tools["search_code"].input_schema
    assert search["required"] == ["query"]
    assert list(search["properties"]) == ["query", "limit", "paths", "languages", "kind", "include_tests"]
    assert (search["properties"]["limit"]["minimum"], search["properties"]["limit"]["maximum"]) == (1, 30)


def test_code_is_found_and_read(call: Call) -> None:
    text, is_error = call("search_code", query="sum the prices of the items", limit=1)
    assert not is_error
    assert text.startswith(
        "### src/cart.py:7-9 Cart.total\n```python\n    def total(self, items):\n"
        '        """Sum the prices of all items."""\n        return sum(item.price for item in items)\n```\n\n'
        "More places:\n"
    )
    text, is_error = call("read_code", path="src/cart.py", start=12, end=13)
    assert (text, is_error) == (
        "### src/cart.py:12-13\n```python\n   12 def empty_cart():\n   13     return Cart()\n```",
        False,
    )
    assert call("read_code", path="src/cart.py:12-13")[0] == text


def test_related_code_outlines_and_the_state(call: Call) -> None:
    assert "src/cart.py:12-13 empty_cart (" in call("find_related", path="src/cart.py", line=4)[0]
    assert call("outline", path="src/cart.py")[0].split("\n")[:3] == [
        "### src/cart.py",
        "4-9 Cart `class Cart:`",
        "7-9 Cart.total `def total(self, items):`",
    ]
    assert call("outline")[0] == "### shop\nsrc/ (3 files)"
    assert call("outline", path="src")[0].split("\n")[1] == "src/cart.py: Cart, empty_cart"
    assert "languages: python" in call("index_status")[0]


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("find_code", {}, "there is no tool 'find_code'; there are search_code, read_code, find_related, outline"),
        ("search_code", {"text": "x"}, "search_code has no argument 'text'; it takes query, limit, paths, languages"),
        ("index_status", {"x": 1}, "index_status has no argument 'x'; it takes no arguments"),
        ("search_code", {}, "the question is empty"),
        ("search_code", {"query": 5}, "query must be a text, got 5"),
        ("search_code", {"query": "x", "limit": 31}, "limit must be a whole number from 1 to 30, got 31"),
        ("search_code", {"query": "x", "kind": "verb"}, "unknown kind 'verb'; known are function, method"),
        ("search_code", {"query": "x", "languages": ["klingon"]}, "unknown language 'klingon'; the index has"),
        ("search_code", {"query": "x" * 9_000}, "9,000 characters and at most 8,000"),
        ("read_code", {}, "path is missing"),
        ("read_code", {"path": "../secret"}, "outside the served folders"),
        ("read_code", {"path": "/etc/passwd"}, "outside the served folders"),
        ("read_code", {"path": "link.py"}, "symbolic link"),
        ("read_code", {"path": "binary.bin"}, "binary"),
        ("read_code", {"path": "src/card.py"}, "did you mean src/cart.py"),
        ("read_code", {"path": "src/cart.py", "start": 99}, "has 13 lines, so there is no line 99"),
        ("read_code", {"path": "src/cart.py", "start": 0}, "start must be a whole number from 1"),
        ("find_related", {"path": "src/cart.py", "line": 1_000}, "no node of the index is at"),
        ("outline", {"path": "lib"}, "there is no file or folder 'lib'"),
    ],
)
def test_wrong_calls_are_answered_by_the_way_out(call: Call, name: str, arguments: dict[str, Any], says: str) -> None:
    text, is_error = call(name, **arguments)
    assert is_error
    assert text.startswith("error: ")
    assert says in text


def test_a_list_may_be_a_single_text(call: Call) -> None:
    text, is_error = call("search_code", query="text", paths="*.md", limit="3")
    assert not is_error
    assert "src/fences.md" in text
    assert ".py" not in text


def test_quoted_text_cannot_close_its_fence(call: Call) -> None:
    text, _ = call("read_code", path="src/fences.md")
    assert text.count("`````") == 2
    assert text.endswith("`````")


def test_results_are_bounded_and_say_how_to_read_on(call: Call) -> None:
    text, _ = call("read_code", path="src/long.py")
    assert 15_000 < len(text) <= 20_000
    rest = re.search(r"\(([\d,]+) more lines: read src/long\.py:(\d+)-3000\)$", text)
    assert rest is not None
    following, _ = call("read_code", path=f"src/long.py:{rest[2]}-3000")
    assert following.split("\n")[2] == f"{int(rest[2]):>5} number_{int(rest[2]) - 1} = {int(rest[2]) - 1}"


def test_a_hundred_calls_at_once(portal: anyio.from_thread.BlockingPortal, stdio: Client, address: str) -> None:
    with connected(portal, address) as http, ThreadPoolExecutor(50) as pool:
        calls = [partial(call_tool, portal, (stdio, http)[i % 2], "search_code") for i in range(100)]
        answers = list(pool.map(lambda each: each(query="sum the prices"), calls))
    assert len(set(answers)) == 1
    assert not answers[0][1]


# --- clients that break the protocol ---------------------------------------------------------------------------------


@pytest.fixture
def process(shop: Path) -> Iterator[subprocess.Popen[str]]:
    command = [*COMMAND, str(shop), "--read-only"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=os.environ) as process:
        yield process
        process.kill()


def send(process: subprocess.Popen[str], *lines: str) -> None:
    assert process.stdin is not None
    process.stdin.write("".join(f"{line}\n" for line in lines))
    process.stdin.flush()


def test_garbage_is_survived_and_stdout_has_only_the_protocol(process: subprocess.Popen[str]) -> None:
    send(process, "garbage", '{"jsonrpc": "2.0", "id"', "[]", "\x00", json.dumps(INITIALIZE))
    assert process.stdin is not None
    assert process.stdout is not None
    for line in process.stdout:
        message = json.loads(line)
        if message.get("id") == 1:
            break
    assert message["result"]["serverInfo"]["name"] == "code-retrieval"
    call = {"name": "read_code", "arguments": {"path": "src/cart.py", "start": 1, "end": 1}}
    send(process, json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}))
    send(process, json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}))
    send(process, '{"jsonrpc": "2.0", "id": 3, "method": "no/such"}')
    answers = {message["id"]: message for message in map(json.loads, (process.stdout.readline() for _ in range(2)))}
    assert "A shopping cart." in answers[2]["result"]["content"][0]["text"]
    assert "error" in answers[3]
    process.stdin.write('{"jsonrpc": "2.0", "id": 4, "meth')  # half a message, then the client leaves
    process.stdin.close()
    assert process.wait(60) == 0
    assert process.stdout.read() == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_server_that_waits_for_its_client(process: subprocess.Popen[str], number: signal.Signals) -> None:
    send(process, json.dumps(INITIALIZE))
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(number)
    assert process.wait(60) == 128 + number


def request(address: str, body: bytes, **headers: str) -> tuple[int, str]:
    sent = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, sent), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_requests_from_elsewhere_are_refused(address: str) -> None:
    body = json.dumps(INITIALIZE).encode()
    assert request(address, body)[0] == 200
    assert request(address, body, host="evil.example")[0] == 403  # a name that leads to this machine
    assert request(address, body, origin="http://evil.example")[0] == 403
    assert request(address, b"garbage")[0] == 400
    assert request(address, b"{}", content_length="1500000")[0] == 413  # before the body is read
    with pytest.raises(urllib.error.HTTPError, match="405"):
        urllib.request.urlopen(address, timeout=60)
    with urllib.request.urlopen(address.replace("/mcp", "/health"), timeout=60) as answer:
        assert json.load(answer) == {"status": "ok", "repositories": {"shop": "ready"}}


def test_a_client_that_leaves_midway_harms_no_other(address: str) -> None:
    host, port = re.findall(r"//([\d.]+):(\d+)", address)[0]
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n{half")
    assert request(address, json.dumps(INITIALIZE).encode())[0] == 200


def test_other_machines_need_a_token(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    command = [*COMMAND, str(shop), "--read-only", "--http", "0", "--token-file", str(tmp_path / "token")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as server:
        try:
            assert server.stderr is not None
            [address] = re.findall(r"http://\S+/mcp", server.stderr.readline())
            body = json.dumps(INITIALIZE).encode()
            assert request(address, body)[0] == 401
            assert request(address, body, authorization="Bearer wrong")[0] == 401
            assert request(address, body, authorization=f"Bearer {TOKEN}")[0] == 200
        finally:
            server.kill()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "nowhere is not a folder"),
        (["--read-only"], "has no index"),
        (["--http", "x"], "must be a port from 0 to 65535, got 'x'"),
        (["--http", ":1"], "must be PORT or HOST:PORT"),
        (["--http", "0.0.0.0:0"], "lets other machines read the code and needs a token"),
        (["--token-file", "token"], "--token-file has no effect without --http"),
        (["--write"], "--write has no effect without --install"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--install", "codex", "--http", "0"], "--http has no effect with --install"),
        (["--install", "codex", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_wrong_options_are_refused(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, arguments: list[str], says: str
) -> None:
    monkeypatch.delenv("CODE_RETRIEVAL_TOKEN", raising=False)
    shell.fails("mcp", *arguments, says=says)
    assert not Path(".code-retrieval").exists()


def test_a_port_in_use_is_named(shell: Shell, shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        shell.fails("mcp", shop, "--http", port, says=f"port {port} of 127.0.0.1 is in use")
