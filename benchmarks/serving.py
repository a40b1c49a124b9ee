"""Speed of what serves agents and people: the MCP server by the official client, and the web page's API.

Some packages of Python's standard library are indexed once. Measured are: cold starts of ``code-retrieval mcp``, from
the start of the process to the first answer of ``search_code``, with the full model and with a query encoder; the
latency of ``search_code`` one call after the other; concurrent calls over HTTP; the memory of the server as calls go
on; the time from a question to the first piece of its answer on the page (extractive writer); and users who ask the
page at once, each the next question when the last is answered. It takes about 6 minutes on two cores:

    python benchmarks/serving.py [--calls 10000] [--concurrent 100] [--users 50] [--seconds 60] [--processes 5]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import httpx
from mcp import StdioServerParameters
from mcp.client.client import Client
from report import add_result_option, report

PACKAGES = ("asyncio", "concurrent", "email", "http", "importlib", "json", "logging", "unittest", "urllib", "xml")
QUESTIONS = (
    "parse the headers of a message",
    "how are cookies stored between requests",
    "where is the event loop closed",
    "retry a request after a redirect",
    "rotate a log file when it is too large",
    "find the spec of a module",
    "Queue.put",
    "decode a JSON string with escapes",
    "which tests are skipped and why",
    "quote special characters of a URL",
)
VARIANTS: Mapping[str, tuple[str, ...]] = {"full model": (), "`--fast-query`": ("--fast-query",)}
_COMMAND = [sys.executable, "-m", "llamaindex_code_retrieval.cli"]
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+\S*")
_MEMORY_AT = (0.1, 0.5, 1.0)
"""Shares of the calls after which the memory of the server is read."""


class Server(NamedTuple):
    """A running server."""

    address: str
    pid: int

    def memory_mib(self) -> int:
        """Return its resident memory."""
        lines = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


def make_index(folder: Path) -> dict[str, int]:
    """Index the packages, and return the numbers of files and nodes."""
    from llamaindex_code_retrieval import CodeEmbedding, CodeIndex

    with CodeIndex(CodeEmbedding(), folder) as index:
        counts = index.update([Path(sysconfig.get_path("stdlib"), name) for name in PACKAGES])
    return {"files": counts.files, "nodes": counts.nodes}


@contextmanager
def serving(*arguments: str) -> Iterator[Server]:
    """Run a server over HTTP on a free port."""
    with subprocess.Popen([*_COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        try:
            line = next((line for line in run.stdout if _ADDRESS.search(line)), "")
            found = _ADDRESS.search(line)
            if found is None:
                raise RuntimeError(f"{' '.join(arguments)} did not start")
            threading.Thread(target=lambda: [None for _ in run.stdout or ()], daemon=True).start()  # its log
            yield Server(found[0].rstrip("/;"), run.pid)
        finally:
            run.terminate()


@asynccontextmanager
async def connected(*arguments: str) -> AsyncIterator[Client]:
    """Start the MCP server over stdio and connect to it."""
    with open(os.devnull, "w") as log:
        from mcp.client.stdio import stdio_client

        command = StdioServerParameters(
            command=_COMMAND[0], args=[*_COMMAND[1:], "mcp", *arguments], env=dict(os.environ)
        )
        async with Client(stdio_client(command, errlog=log)) as client:
            yield client


async def search(client: Client, question: str) -> float:
    """Return the seconds of one call.

    Raises:
        RuntimeError: the tool answers with an error, or finds nothing.
    """
    start = time.perf_counter()
    result = await client.call_tool("search_code", {"query": question})
    seconds = time.perf_counter() - start
    text = getattr(result.content[0], "text", "")
    if result.is_error or not text.startswith("### "):
        raise RuntimeError(f"search_code of {question!r} answered: {text[:200]}")
    return seconds


async def cold_starts(index: str, processes: int) -> dict[str, dict[str, float]]:
    """Return the median seconds from the start of a process to the connection, and to the first answer."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for turn in range(processes + 1):
        for name, options in VARIANTS.items():
            start = time.perf_counter()
            async with connected(index, *options) as client:
                ready = time.perf_counter() - start
                await search(client, QUESTIONS[0])
                answered = time.perf_counter() - start
            if turn:  # the first one warms the disk
                seconds[name].append((ready, answered))
    return {
        name: {
            "connected_s": round(statistics.median(ready for ready, _ in runs), 3),
            "first_answer_s": round(statistics.median(answered for _, answered in runs), 3),
            "slowest_s": round(max(answered for _, answered in runs), 3),
        }
        for name, runs in seconds.items()
    }


async def latency(index: str, calls: int = 300) -> dict[str, dict[str, float]]:
    """Return percentiles of ``search_code`` over stdio, one call after the other, in milliseconds."""
    figures = {}
    for name, options in VARIANTS.items():
        async with connected(index, *options) as client:
            for question in QUESTIONS:
                await search(client, question)
            questions = itertools.islice(itertools.cycle(QUESTIONS), calls)
            figures[name] = percentiles([await search(client, question) for question in questions])
    return figures


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and the maximum in milliseconds.

    >>> percentiles([0.001] * 90 + [0.002] * 10)
    {'p50': 1.0, 'p95': 2.0, 'max': 2.0}
    """
    ordered = sorted(seconds)
    ranks = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    return {
        name: round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)
        for name, share in ranks.items()
    }


async def concurrent_calls(server: Server, calls: int) -> dict[str, Any]:
    """Return how long it takes until ``calls`` that are sent at once are answered; an error ends the benchmark."""
    async with Client(server.address) as client:
        await search(client, QUESTIONS[0])
        seconds: list[float] = []

        async def one(question: str) -> None:
            seconds.append(await search(client, question))

        start = time.perf_counter()
        async with anyio.create_task_group() as group:
            for question in itertools.islice(itertools.cycle(QUESTIONS), calls):
                group.start_soon(one, question)
        return {
            "calls": calls,
            "errors": 0,
            "seconds": round(time.perf_counter() - start, 2),
            "ms": percentiles(seconds),
        }


async def memory(server: Server, calls: int) -> dict[str, Any]:
    """Return the server's memory in MiB after some of the calls, by their number."""
    marks = {max(1, round(share * calls)) for share in _MEMORY_AT}
    found: dict[str, int] = {}
    async with Client(server.address) as client:
        for number, question in enumerate(itertools.islice(itertools.cycle(QUESTIONS), calls), start=1):
            await search(client, question)
            if number in marks:
                found[str(number)] = server.memory_mib()
    return found


class Asked(NamedTuple):
    """How long an answer of the page took, in seconds."""

    first_piece: float
    whole: float


async def ask(client: httpx.AsyncClient, question: str) -> Asked:
    """Ask the page and read the stream to its end.

    Raises:
        RuntimeError: the answer is an error, or has no text.
    """
    start = time.perf_counter()
    first, event = 0.0, ""
    async with client.stream("POST", "/api/ask", json={"question": question}) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {(await response.aread())[:200]!r}")
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif event == "error":
                raise RuntimeError(json.loads(line.removeprefix("data: "))["error"])
            elif event == "text" and not first:
                first = time.perf_counter() - start
    if not first or event != "done":
        raise RuntimeError(f"{question!r} was not answered")
    return Asked(first, time.perf_counter() - start)


async def answers(server: Server, *, users: int, seconds: float) -> dict[str, Any]:
    """Return the times of answers, first one after the other, then with ``users`` at once."""
    async with httpx.AsyncClient(
        base_url=server.address, timeout=120, limits=httpx.Limits(max_connections=None)
    ) as client:
        for question in QUESTIONS:
            await ask(client, question)
        alone = [await ask(client, question) for question in QUESTIONS * 3]
        crowd: list[Asked] = []
        errors: list[str] = []
        end = time.perf_counter() + seconds

        async def user(number: int) -> None:
            for question in itertools.islice(itertools.cycle(QUESTIONS), number, None):
                if time.perf_counter() >= end:
                    return
                try:
                    crowd.append(await ask(client, question))
                except (RuntimeError, httpx.HTTPError) as error:
                    errors.append(f"{type(error).__name__}: {error}")

        async with anyio.create_task_group() as group:
            for number in range(users):
                group.start_soon(user, number)
    return {
        "first_piece_ms": percentiles([each.first_piece for each in alone]),
        "whole_ms": percentiles([each.whole for each in alone]),
        "crowd": {
            "users": users,
            "seconds": seconds,
            "answers": len(crowd),
            "errors": len(errors),
            "first_errors": errors[:3],
            "first_piece_ms": percentiles([each.first_piece for each in crowd]),
        },
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000, help="calls of the measured memory (default: %(default)s)")
    parser.add_argument("--concurrent", type=int, default=100, help="calls at once (default: %(default)s)")
    parser.add_argument("--users", type=int, default=50, help="users of the page at once (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="how long they ask (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=5, help="cold starts of each kind (default: %(default)s)")
    add_result_option(parser, __file__)
    return parser


async def measure(options: argparse.Namespace, index: str) -> dict[str, Any]:
    """Measure the servers, one after the other."""
    figures: dict[str, Any] = {"cold_start": await cold_starts(index, options.processes)}
    figures["search_code_ms"] = await latency(index)
    _log(json.dumps(figures))
    with serving("mcp", index, "--http", "0") as server:
        figures["concurrent"] = await concurrent_calls(server, options.concurrent)
        figures["memory_mib"] = await memory(server, options.calls)
    _log(json.dumps(figures))
    with serving("serve", index, "--port", "0") as server:
        figures["page"] = await answers(server, users=options.users, seconds=options.seconds)
        figures["page"]["memory_mib"] = server.memory_mib()
    return figures


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    options = make_parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = make_index(Path(folder, "index"))
        figures = anyio.run(measure, options, str(Path(folder, "index")))
    report(options.result, {**counts, **figures})


if __name__ == "__main__":
    main()
