"""Tokens that an agent reads until it sees the answer: the tool ``search_code`` against grep and whole files.

The questions and checkouts are those of ``repositories.py``. An agent reads the output of ``search_code`` from its
beginning; a target counts within a budget if a passage with its lines (its file, where it names no lines) ends before
the budget does. Counted are all tokens of the output, headings included. "named" also counts places that the output
names without code. The reported figure is recall: the share of a question's targets, averaged over the questions.

The other agent greps the files of the index for each word of the question (three letters or more, no function words,
any case), and reads whole files, those with most of the words first. These are the rules of semble's benchmark, whose
figures for its 63 repositories are published; its passages are counted without headings.

    python benchmarks/agent_tokens.py QUESTIONS [REPOSITORIES] [--repository NAME …] [--model embedded-static]
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

from checkouts import add_question_options
from llama_index.core.utils import get_tokenizer
from report import add_result_option, report

from llamaindex_code_retrieval import CodeEmbedding, CodeIndex
from llamaindex_code_retrieval.eval.repository_questions import RepositoryQuestions, load_questions
from llamaindex_code_retrieval.eval.targets import Place, Target
from llamaindex_code_retrieval.serving.service import CodeService
from llamaindex_code_retrieval.serving.tools import run_tool

BUDGETS = (500, 1000, 2000, 4000, 8000, 16000)
PUBLISHED = {
    "semble": {"500": 0.685, "2000": 0.938, "8000": 0.991},
    "grep": {"500": 0.001, "2000": 0.037, "8000": 0.212},
}
"""Of semble's benchmark, for all of its repositories."""
_LIMIT = 30
"""Hits with code, the most that the tool returns."""
_CAP = 32_000
"""Tokens after which an agent gives up."""
_PLACE = re.compile(r"(?P<path>.+?):(?P<first>\d+)(?:-(?P<last>\d+))?(?:\s|$)")
_FENCE = re.compile(r"`{3,}|~{3,}")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_LEAST_LETTERS = 3
_FUNCTION_WORDS = frozenset(
    "the and for are was were with that this from what which where when how why who does did has have had can could "
    "should would will may might into onto over under after before between during about also but its not nor yet both "
    "either neither than then they all any each few more most other some such only own same too very just out off "
    "there here been being you your our their them these those".split()
)


class Unit(NamedTuple):
    """A part of what an agent reads, and the place whose code it shows or names."""

    tokens: int
    place: Place
    is_code: bool = True


def recall(units: Sequence[Unit], targets: Sequence[Target], budget: int, *, named: bool = False) -> float:
    """Return the share of the targets that the units within a budget of tokens cover.

    >>> units = [Unit(400, Place("a.py", 1, 20)), Unit(300, Place("b.py", 5, 9))]
    >>> targets = [Target("a.py"), Target("b.py", 9, 12)]
    >>> recall(units, targets, 500), recall(units, targets, 700)
    (0.5, 1.0)
    """
    spent, places = 0, []
    for unit in units:
        spent += unit.tokens
        if spent > budget:
            break
        if unit.is_code or named:
            places.append(unit.place)
    return fmean(any(target.is_covered_by(place) for place in places) for target in targets)


def tokens_to_first(units: Sequence[Unit], targets: Sequence[Target], cap: int) -> int:
    """Return the tokens up to the end of the first unit with code of a target, or ``cap`` if there is none below it."""
    spent = 0
    for unit in units:
        spent += unit.tokens
        if unit.is_code and any(target.is_covered_by(unit.place) for target in targets):
            return min(spent, cap)
    return cap


class SourceFile(NamedTuple):
    """A file that can be read whole."""

    lower: str
    """Its text in lower case."""
    lines: int
    tokens: int


def grep_units(question: str, files: Mapping[str, SourceFile]) -> Iterator[Unit]:
    """Yield whole files, those first that hold most of the question's words."""
    words = {word.lower() for word in _WORD.findall(question) if len(word) >= _LEAST_LETTERS} - _FUNCTION_WORDS
    hits = {path: sum(word in file.lower for word in words) for path, file in files.items()}
    for path, found in sorted(hits.items(), key=lambda hit: (-hit[1], hit[0])):
        if not found:
            return
        yield Unit(files[path].tokens, Place(path, 1, files[path].lines))


def search_units(output: str, count: Callable[[str], int]) -> Iterator[Unit]:
    """Yield the parts of the output of ``search_code``, each with the place that its heading or its line names.

    >>> text = "### a.py:1-3 f\\n```python\\ndef f():\\n```\\n\\nMore places:\\nb.py:7 g"
    >>> [(unit.place, unit.is_code) for unit in search_units(text, len)]
    [(Place(path='a.py', start_line=1, end_line=3), True), (Place(path='b.py', start_line=7, end_line=7), False)]
    """
    place: Place | None = None
    block, fence, is_listed = "", "", False
    for line in [*output.split("\n"), "### "]:  # the last one ends the last block
        if fence:
            fence = "" if line == fence else fence
        elif found := _FENCE.match(line):
            fence = found[0]
        elif line.startswith("### ") or line == "More places:":
            if place is not None:
                yield Unit(count(block), place)
                block = ""
            place = _place(line.removeprefix("### ")) if _PLACE.match(line.removeprefix("### ")) else None
            is_listed = line == "More places:"
        elif is_listed and _PLACE.match(line):
            yield Unit(count(line + "\n"), _place(line), is_code=False)
            continue
        block += line + "\n"


def _place(line: str) -> Place:
    found = _PLACE.match(line)
    if found is None:
        raise ValueError(f"a result must begin with its place, got {line!r}")
    first = int(found["first"])
    return Place(found["path"], first, int(found["last"] or first))


def measure(repository: RepositoryQuestions, folder: Path, model: str) -> dict[str, list[tuple[list[Unit], str]]]:
    """Return what both agents read for each question about the repository in ``folder``, with the question's id."""
    tokenizer = get_tokenizer()
    units: dict[str, list[tuple[list[Unit], str]]] = {"search_code": [], "grep": []}
    with tempfile.TemporaryDirectory() as index_folder:
        with CodeIndex(CodeEmbedding(model), Path(index_folder, "index")) as index:
            index.update([folder / repository.root])
            with index.view(words=False) as view:
                paths = view.reading.paths()
        files = {}
        for path in paths:
            text = (folder / repository.root / path).read_text(encoding="utf-8", errors="replace")
            files[path] = SourceFile(text.lower(), text.count("\n") + 1, len(tokenizer(text)))
        with CodeService([Path(index_folder, "index")], read_only=True) as service:
            for id_, question in repository.by_id.items():
                output = run_tool(service, "search_code", {"query": question.query, "limit": _LIMIT})
                found = list(search_units(output, lambda text: len(tokenizer(text))))
                units["search_code"].append((found, id_))
                units["grep"].append((list(grep_units(question.query, files)), id_))
    return units


def summary(read: Sequence[tuple[list[Unit], str]], targets: Mapping[str, Sequence[Target]]) -> dict[str, Any]:
    """Return recall by budget with code and by name alone, and the median of the tokens up to the first target."""
    first = [tokens_to_first(units, targets[id_], _CAP) for units, id_ in read]
    return {
        "recall": {str(budget): _mean_recall(read, targets, budget) for budget in BUDGETS},
        "named": {str(budget): _mean_recall(read, targets, budget, named=True) for budget in BUDGETS},
        "tokens_to_first": {"median": median(first), "mean": round(fmean(first)), "cap": _CAP},
    }


def _mean_recall(
    read: Sequence[tuple[list[Unit], str]], targets: Mapping[str, Sequence[Target]], budget: int, *, named: bool = False
) -> float:
    return round(fmean(recall(units, targets[id_], budget, named=named) for units, id_ in read), 4)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_question_options(parser)
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    parser = make_parser()
    options = parser.parse_args()
    if options.repositories is None or not Path(options.repositories).is_dir():
        parser.error("name the folder with the checkouts, or set CODE_RETRIEVAL_REPOSITORIES")
    known = {each.name: each for each in load_questions(options.questions)}
    if unknown := set(options.repository or ()) - known.keys():
        parser.error(f"no questions about {', '.join(sorted(unknown))}; there are some about {', '.join(known)}")
    read: dict[str, list[tuple[list[Unit], str]]] = {"search_code": [], "grep": []}
    targets: dict[str, Sequence[Target]] = {}
    for name in options.repository or known:
        folder = Path(options.repositories, name)
        if not folder.is_dir():
            print(f"skipped {name}: there is no folder {folder}", file=sys.stderr)
            continue
        targets |= {id_: question.targets for id_, question in known[name].by_id.items()}
        for agent, found in measure(known[name], folder, options.model).items():
            read[agent] += found
        print(f"{name}: {len(known[name].questions)} questions", file=sys.stderr)
    if not targets:
        return
    figures = {agent: summary(found, targets) for agent, found in read.items()}
    report(options.result, {"model": options.model, "questions": len(targets), **figures, "published": PUBLISHED})


if __name__ == "__main__":
    main()
