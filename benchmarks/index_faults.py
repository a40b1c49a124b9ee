"""kill -9 at random moments of ``index``, ``update`` and ``watch``, and what is left of the index afterwards.

A repository of 300 functions is edited at random before each kill. The moment of the kill is drawn from the time
between the first write into the index folder and the end of an undisturbed run. After each kill:

- ``search`` must answer (exit code 0 or 1), and every node of an unchanged file must still be in the index;
- one more ``update`` (``index``, where the kill came before there was an index) must make the index equal to a fresh
  build: the same paths, lines and texts, and the same hits in each mode.

Readers in other processes open and search the index all the time; none may see an error. The exit code is 1 if anything
was wrong. 100 kills take about 40 minutes on two cores:

    python benchmarks/index_faults.py [--kills 100] [--readers 2]
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from llama_index.core.schema import QueryBundle, TextNode
from report import add_result_option, report
from scale_workload import library_files

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.retriever import Mode

COMMANDS = ("index", "update", "watch")
QUESTIONS = ("parse a date", "open a file for reading", "remove the item", "compare two values", "abspath")
_CLI = [sys.executable, "-m", "llamaindex_code_retrieval.cli"]
_FILES = 15  # of 20 functions each
_TOP_K = 10
_START_SECONDS = 120.0  # that a process may take until its first write
_PAUSE_SECONDS = 0.1  # of a reader, so that the processes that are killed get on
_SHOWN = 20  # problems that are recorded with their text

Row = tuple[str, int, int, str]
"""Path, first and last line, and text of a node."""


def rows_of(nodes: Iterator[TextNode]) -> Counter[Row]:
    """Return the nodes as rows that can be compared between two indexes."""
    return Counter((n.metadata["path"], n.metadata["start_line"], n.metadata["end_line"], n.text) for n in nodes)


class Searches:
    """Opens indexes with one model, and searches them for :data:`QUESTIONS`."""

    def __init__(self, cache: Path) -> None:
        self._embedding = CodeEmbedding(cache_folder=cache)
        self._vectors = {question: self._embedding.get_query_embedding(question) for question in QUESTIONS}

    def open(self, folder: Path) -> CodeIndex:
        """Open the index in ``folder``."""
        index: CodeIndex = CodeIndex.open(folder, embedding=self._embedding)
        return index

    def fresh(self, root: Path) -> CodeIndex:
        """Return a new index of ``root``."""
        index = CodeIndex(self._embedding)
        index.update([root])
        return index

    def hits(self, index: CodeIndex, question: str, mode: Mode) -> set[tuple[str, int]]:
        """Return path and first line of the hits."""
        query = QueryBundle(query_str=question, embedding=self._vectors[question])
        hits = index.as_retriever(top_k=_TOP_K, mode=mode).retrieve(query)
        return {(hit.node.metadata["path"], hit.node.metadata["start_line"]) for hit in hits}


class Repository:
    """A folder of Python files that is edited at random."""

    def __init__(self, root: Path, draw: random.Random) -> None:
        self.root = root
        self._draw = draw
        self._count = 0
        for number, template in enumerate(itertools.islice(library_files(), _FILES)):
            file = root / f"package{number % 3}" / f"{template.stem}_{number}{template.extension}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(template.text, encoding="utf-8")

    def edit(self) -> None:
        """Change one to four files: a line, a new function, a copy, another name, or none of the file any more."""
        for _ in range(self._draw.randint(1, 4)):
            files = sorted(self.root.rglob("*.py"))
            file, self._count = self._draw.choice(files), self._count + 1
            new = file.with_name(f"file_{self._count}.py")
            action = self._draw.choice(["line", "function", "copy", "rename", "remove"])
            if action == "line":
                lines = file.read_text(encoding="utf-8").split("\n")
                lines[self._draw.randrange(len(lines))] += f"  # revision {self._count}"
                file.write_text("\n".join(lines), encoding="utf-8")
            elif action == "function":
                with file.open("a", encoding="utf-8") as opened:
                    opened.write(f"\n\ndef added_{self._count}(path):\n    return open(path).read()\n")
            elif action == "copy" or len(files) <= _FILES // 2:
                shutil.copy(file, new)
            elif action == "rename":
                file.rename(new)
            else:
                file.unlink()

    def texts(self) -> dict[str, str]:
        """Return the files by path."""
        return {
            file.relative_to(self.root).as_posix(): file.read_text(encoding="utf-8") for file in self.root.rglob("*.py")
        }


@dataclass
class Findings:
    """What was done, and what was wrong afterwards."""

    kills: Counter[str] = field(default_factory=Counter)
    finished_before_the_kill: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, problem: str, detail: str) -> None:
        """Count a problem."""
        self.problems[problem] += 1
        if len(self.examples) < _SHOWN:
            self.examples.append(f"{problem}: {detail}"[:2000])
        print(f"{problem}: {detail}", file=sys.stderr, flush=True)


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``code-retrieval`` to its end."""
    return subprocess.run([*_CLI, *map(str, arguments)], capture_output=True, text=True, check=False)


def _state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return the size and time of each file."""
    state = {}
    for file in folder.rglob("*") if folder.is_dir() else ():
        try:
            status = file.stat()
        except FileNotFoundError:  # a writer replaces files
            continue
        state[file] = (status.st_size, status.st_mtime_ns)
    return state


def wait_for_write(process: subprocess.Popen[bytes], folder: Path, before: dict[Path, tuple[int, int]]) -> None:
    """Return when the process has written into ``folder``, or has ended, or after :data:`_START_SECONDS`."""
    end = time.monotonic() + _START_SECONDS
    while process.poll() is None and _state(folder) == before and time.monotonic() < end:
        time.sleep(0.01)


@dataclass(frozen=True)
class Faults:
    """The kills, and the checks after each of them."""

    folder: Path
    repository: Repository
    searches: Searches
    draw: random.Random
    findings: Findings

    def arguments(self, command: str, index: Path) -> list[str]:
        """Return the command line of ``command``."""
        where = [str(self.repository.root), "--out", str(index)] if command == "index" else ["--index", str(index)]
        return [*_CLI, command, *where, "--cache", str(self.folder / "cache")]

    def seconds_of_work(self, command: str, index: Path) -> float:
        """Return the seconds from the first write to the end of an undisturbed ``index`` or ``update``."""
        self.repository.edit()
        before = _state(index)
        process = subprocess.Popen(self.arguments(command, index), stdout=subprocess.DEVNULL)
        wait_for_write(process, index, before)
        start = time.monotonic()
        if process.wait() != 0:
            raise RuntimeError(f"{command} failed without a kill, with exit code {process.returncode}")
        return time.monotonic() - start

    def kill(self, command: str, index: Path, seconds: float) -> None:
        """Start ``command`` and kill it at a moment in the ``seconds`` after its first write."""
        before = _state(index)
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(self.arguments(command, index), stdout=log, stderr=log)
            wait_for_write(process, index, before)
            if command == "watch":  # the first update is that of the edits before; the kill comes in that of others
                time.sleep(self.draw.uniform(0, 2 * seconds))
                before = _state(index)
                self.repository.edit()
                wait_for_write(process, index, before)
            time.sleep(self.draw.uniform(0, seconds))
            process.send_signal(signal.SIGKILL)
            process.wait()
        self.findings.kills[command] += 1
        if process.returncode != -signal.SIGKILL:
            self.findings.finished_before_the_kill[command] += 1
        if process.returncode not in (0, -signal.SIGKILL):
            log_text = (self.folder / "log").read_text(encoding="utf-8", errors="replace")
            self.findings.add(f"{command} failed", log_text[-1000:])

    def check_killed(self, index: Path, old: dict[str, str], kept: Counter[Row]) -> None:
        """Check that the index answers, and that it has the rows of the files that did not change since ``old``."""
        search = run_command("search", QUESTIONS[0], "--index", index, "--fast-query", "--json")
        if search.returncode not in (0, 1):
            self.findings.add("search failed after a kill", search.stderr[-1000:])
            return
        new = self.repository.texts()
        unchanged = {path for path in old if new.get(path) == old[path]}
        rows = rows_of(self.searches.open(index).nodes())
        lost = [row for row in kept if row[0] in unchanged and rows[row] != kept[row]]
        if lost:
            self.findings.add("rows lost or doubled by a kill", f"{len(lost)}, such as {lost[0]}")

    def check_updated(self, index: Path, *, is_new: bool = False) -> Counter[Row]:
        """Update the index, compare it with a fresh one, and return its rows."""
        command = "update"
        process = self._finish(command, index)
        if process.returncode == 2 and "no index" in process.stderr and is_new:
            command = "index"
            process = self._finish(command, index)
        fresh = self.searches.fresh(self.repository.root)
        wanted = rows_of(fresh.nodes())
        if process.returncode != 0:
            self.findings.add(f"{command} failed after a kill", process.stderr[-1000:])
            return wanted
        updated = self.searches.open(index)
        rows = rows_of(updated.nodes())
        if rows != wanted:
            more, less = rows - wanted, wanted - rows
            detail = f"{more.total()} rows too many, {less.total()} missing: {list(more + less)[:1]}"
            self.findings.add("rows differ from a fresh build", detail)
        for mode in get_args(Mode):
            for question in QUESTIONS:
                found, expected = (self.searches.hits(each, question, mode) for each in (updated, fresh))
                if found != expected:
                    detail = f"{question!r}: {sorted(found ^ expected)}"
                    self.findings.add(f"hits of mode {mode} differ from a fresh build", detail)
        return wanted

    def _finish(self, command: str, index: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.arguments(command, index), capture_output=True, text=True, check=False)

    def run(self, kills: int, commands: Sequence[str], index: Path) -> None:
        """Kill the commands in turns; every other ``index`` builds a new index, which no reader reads."""
        work = {command: self.seconds_of_work(command, index) for command in ("index", "update")}
        work["watch"] = work["update"]
        kept = self.check_updated(index)
        for number in range(kills):
            command = commands[number % len(commands)]
            print(f"kill {number + 1} of {kills}: {command}", file=sys.stderr, flush=True)
            old = self.repository.texts()
            self.repository.edit()
            if command == "index" and number // len(commands) % 2:
                new = self.folder / f"new-{number}"
                self.kill(command, new, work[command])
                self.check_updated(new, is_new=True)
                shutil.rmtree(new, ignore_errors=True)
            else:
                self.kill(command, index, work[command])
                self.check_killed(index, old, kept)
            kept = self.check_updated(index)


# --- readers, in processes of their own ------------------------------------------------------------------------------


def read_until_stopped(index: Path, cache: Path) -> dict[str, Any]:
    """Search the index, opened once and opened anew, until the file ``stop`` lies beside it."""
    searches = Searches(cache)
    counts: Counter[str] = Counter()
    errors: list[str] = []
    once = searches.open(index)
    for question in itertools.cycle(QUESTIONS):
        if (index.parent / "stop").exists():
            break
        time.sleep(_PAUSE_SECONDS)
        for mode in get_args(Mode):
            try:
                for opened in (once, searches.open(index)):
                    counts["searches"] += 1
                    counts["without hits"] += not searches.hits(opened, question, mode)
            except Exception as error:  # whatever a reader gets is counted
                errors.append(f"{type(error).__name__}: {error}"[:500])
    return {**counts, "errors": len(errors), "examples": sorted(set(errors))[:_SHOWN]}


@contextmanager
def readers(count: int, index: Path, cache: Path, findings: list[dict[str, Any]]) -> Iterator[None]:
    """Run readers meanwhile, and append what each of them found to ``findings``."""
    command = [sys.executable, __file__, "--read", str(index), "--read-cache", str(cache)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        yield
    finally:
        (index.parent / "stop").touch()
        for process in processes:
            output = process.communicate()[0].splitlines()
            failed = {"errors": 1, "examples": [f"exit code {process.returncode}"]}
            findings.append(json.loads(output[-1]) if output else failed)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--readers", type=int, default=2, metavar="N", help="processes that search meanwhile")
    parser.add_argument("--seed", type=int, default=0, help="of the edits and the moments (default: %(default)s)")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)  # in the processes that this script starts
    parser.add_argument("--read-cache", type=Path, help=argparse.SUPPRESS)
    add_result_option(parser, __file__)
    return parser


def main() -> int:
    options = make_parser().parse_args()
    if options.read:
        print(json.dumps(read_until_stopped(options.read, options.read_cache)))
        return 0
    commands = [command for command in COMMANDS if run_command(command, "--help").returncode == 0]
    findings = Findings()
    read: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="index-faults-") as name:
        folder, draw = Path(name), random.Random(options.seed)
        cache, index = folder / "cache", folder / "index"
        repository = Repository(folder / "repository", draw)
        run_command("index", repository.root, "--out", index, "--cache", cache)
        faults = Faults(folder, repository, Searches(cache), draw, findings)
        with readers(options.readers, index, cache, read):
            faults.run(options.kills, commands, index)
    figures = {
        "kills": dict(findings.kills),
        "finished_before_the_kill": dict(findings.finished_before_the_kill),
        "commands_left_out": sorted(set(COMMANDS) - set(commands)),
        "problems": dict(findings.problems),
        "examples": findings.examples,
        "readers": read,
    }
    report(options.result, figures)
    return 1 if findings.problems or any(each["errors"] for each in read) else 0


if __name__ == "__main__":
    sys.exit(main())
