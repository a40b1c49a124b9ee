"""Speed of the node parser on real repositories, and its laws: nothing lost, nothing changed, nothing unbounded.

The folder holds repositories of any languages. For each language: megabytes per second of the outline alone, of the
whole node parser, and of the parser that counts the tokens of the default embedding (median of the repeats), the share
of the files that become windows only, and the violations of the laws, with the names of the files; of each repository
whether an updated index is that of a fresh build. The exit status is 1 if a law is broken. With ``--fuzz`` the files
are mutations of the real ones, drawn with a seed, and each must also be parsed in a time that its size bounds; in one
of five the tokens are counted. Of the definitions beside a line into which a bracket or quote is put, the share that is
still found is measured. ``--keep`` saves files that break a law. Both kinds of runs keep the figures of the other in
the file; a run of some languages or repositories prints its figures and writes no file:

    python benchmarks/parsing.py FOLDER [--language NAME] [--repository NAME] [--repeats 3]
    python benchmarks/parsing.py FOLDER --fuzz 1000 [--seed 0] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkouts import add_checkout_options, is_partial, selected_files
from laws import Text, check, update_violations
from mutations import mutate
from report import add_result_option, environment, report

from llamaindex_code_retrieval import CodeEmbedding, CodeNodeParser
from llamaindex_code_retrieval.languages.syntax import definitions, parse
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES
from llamaindex_code_retrieval.languages.text import outline_text

_MAX_FUZZED = 200_000  # characters of a file that is mutated
_MAX_UPDATED = 100  # files of a repository whose update is checked
_BREAK_A_LINE = 4  # one of so many files that are mutated is also parsed with one broken line
_COUNT_TOKENS = 5  # tokens are counted in one of so many mutations
_SHOWN = 10  # violations printed for each language


@dataclass(slots=True)
class Measurement:
    """What is measured in the files of a language."""

    files: int = 0
    bytes: int = 0
    nodes: int = 0
    windows: int = 0  # files that are windows only
    outline_seconds: list[float] = field(default_factory=list)
    parser_seconds: list[float] = field(default_factory=list)
    bounded_seconds: list[float] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    kept: list[float] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Return what the report says of the language."""
        figures: dict[str, Any] = {"files": self.files, "megabytes": round(self.bytes / 1e6, 2), "nodes": self.nodes}
        if self.outline_seconds:
            figures["outline_megabytes_per_second"] = _rate(self.bytes, self.outline_seconds)
            figures["parser_megabytes_per_second"] = _rate(self.bytes, self.parser_seconds)
            figures["bounded_megabytes_per_second"] = _rate(self.bytes, self.bounded_seconds)
        if self.kept:
            figures["definitions_kept_beside_a_broken_line"] = round(statistics.fmean(self.kept), 4)
        figures["files_in_windows"] = round(self.windows / self.files, 4)
        figures["slowest_seconds"] = round(self.slowest[0], 2)
        figures["violations"] = len(self.violations)
        return figures


def _rate(size: int, seconds: Sequence[float]) -> float:
    return round(size / 1e6 / max(statistics.median(seconds), 1e-9), 2)


def measure(texts: Sequence[Text], parser: CodeNodeParser, *, repeats: int) -> Measurement:
    """Check the laws on real files of a language, and time the outline and the whole parser."""
    found = Measurement(files=len(texts), bytes=sum(len(text.text.encode(errors="replace")) for text in texts))
    ids: Counter[str] = Counter()
    for text in texts:
        start = time.process_time()
        nodes, broken = check(text, parser)
        found.slowest = max(found.slowest, ((time.process_time() - start) / 2, text.name))
        found.nodes += len(nodes)
        found.windows += {node.metadata["kind"] for node in nodes} == {"window"}
        found.violations += [f"{text.name}: {each}" for each in broken]
        ids.update(node.node_id for node in nodes)
    found.violations += [
        f"{id_}: {count} nodes of different files have this id" for id_, count in ids.items() if count > 1
    ]
    for _ in range(repeats):
        start = time.process_time()
        for text in texts:
            if text.language in CODE_LANGUAGES:
                parse(text.text, text.language)
            else:
                outline_text(text.text, text.language)
        found.outline_seconds.append(time.process_time() - start)
        unbounded = CodeNodeParser(max_lines=parser.max_lines)
        for each, seconds in ((unbounded, found.parser_seconds), (parser, found.bounded_seconds)):
            start = time.process_time()
            for text in texts:
                text.nodes(each)
            seconds.append(time.process_time() - start)
    return found


def fuzz(texts: Sequence[Text], parser: CodeNodeParser, *, count: int, seed: int, keep: Path | None) -> Measurement:
    """Check the laws on mutations of real files of a language, and that each is parsed in time."""
    found = Measurement()
    texts = [text for text in texts if len(text.text) <= _MAX_FUZZED] or texts[:1]
    unbounded = CodeNodeParser(max_lines=parser.max_lines)
    for number in range(count):
        draw = random.Random(f"{seed}-{texts[0].language}-{number}")
        first, second = draw.choice(texts), draw.choice(texts)
        text = Text(first.name, mutate(first.text, second.text, draw), first.language)
        start = time.process_time()
        nodes, broken = check(text, parser if number % _COUNT_TOKENS == 0 else unbounded)
        seconds = (time.process_time() - start) / 2
        if seconds > text.max_seconds:
            broken.append(f"{seconds:.1f} s for {len(text.text)} characters; {text.max_seconds:.1f} s are allowed")
        if text.language in CODE_LANGUAGES and number % _BREAK_A_LINE == 0:
            found.kept += kept_definitions(first, draw)
        found.files += 1
        found.bytes += len(text.text.encode(errors="replace"))
        found.nodes += len(nodes)
        found.windows += {node.metadata["kind"] for node in nodes} == {"window"}
        found.slowest = max(found.slowest, (seconds, f"mutation {number} of {text.name}"))
        found.violations += [f"mutation {number} of {text.name}: {each}" for each in broken]
        if broken and keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            file = keep / f"{text.language}-{seed}-{number}{Path(text.name).suffix}"
            file.write_bytes(text.text.encode(errors="surrogatepass"))
    return found


def kept_definitions(text: Text, draw: random.Random) -> list[float]:
    """Return the share of the definitions that are found after a bracket or quote is put into a line of code.

    Those that the line is a part of do not count. The list is empty if no others are in the file.
    """
    lines = text.text.split("\n")
    row = draw.choice([row for row, line in enumerate(lines) if line.strip()] or [0])
    before = definitions(text.text, text.language)
    others = Counter(each.symbol for each in before if not each.start_line <= row + 1 <= each.end_line)
    place = draw.randint(0, len(lines[row]))
    lines[row] = lines[row][:place] + draw.choice("()[]{}\"'") + lines[row][place:]
    after = Counter(each.symbol for each in definitions("\n".join(lines), text.language))
    return [(others & after).total() / others.total()] if others else []


def check_updates(texts: Sequence[Text]) -> list[str]:
    """Return the repositories whose updated index differs from a new one; of each, at most 100 files are read."""
    by_repository: dict[str, list[Text]] = {}
    for text in texts:
        by_repository.setdefault(text.name.partition("/")[0], []).append(text)
    broken = []
    for name, of_repository in sorted(by_repository.items()):
        some = random.Random(0).sample(of_repository, min(_MAX_UPDATED, len(of_repository)))
        broken += [f"{name}: {each}" for each in update_violations(some)]
    print(f"updates of {len(by_repository)} repositories: {len(broken)} violations", *broken, sep="\n  ", flush=True)
    return broken


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_checkout_options(parser)
    parser.add_argument("--repeats", type=int, default=3, help="timings of each language (default: %(default)s)")
    parser.add_argument("--fuzz", type=int, default=0, metavar="N", help="parse N mutations of files of each language")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: %(default)s)")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="folder for mutations that break a law")
    add_result_option(parser, __file__)
    return parser


def main() -> int:
    options_parser = make_parser()
    options = options_parser.parse_args()
    embedding = CodeEmbedding("embedded")
    parser = CodeNodeParser(max_tokens=embedding.max_code_tokens, tokenizer=embedding.tokenize_code)
    measured: dict[str, Measurement] = {}
    every: list[Text] = []
    for language, files in selected_files(options_parser, options).items():
        texts = [Text(file.name, file.read(), language) for file in files]
        if options.fuzz:
            found = fuzz(texts, parser, count=options.fuzz, seed=options.seed, keep=options.keep)
        else:
            found = measure(texts, parser, repeats=options.repeats)
            every += texts
        measured[language] = found
        print(f"{language}: {found.figures()}, slowest: {found.slowest[1]}", flush=True)
        for violation in found.violations[:_SHOWN]:
            print(f"  {violation}", flush=True)
    broken = check_updates(every) if every else []
    if not is_partial(options):
        figures = {language: found.figures() for language, found in measured.items()}
        record = json.loads(options.result.read_text(encoding="utf-8")) if options.result.is_file() else {}
        if options.fuzz:
            record |= {"fuzzed": {"seed": options.seed, "languages": figures}}
        else:
            record |= {"repositories": len(list(options.folder.glob("*/"))), "update_violations": len(broken)}
            record |= {"languages": figures}
        report(options.result, {key: value for key, value in record.items() if key not in environment()})
    return int(bool(broken) or any(found.violations for found in measured.values()))


if __name__ == "__main__":
    sys.exit(main())
