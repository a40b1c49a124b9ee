"""Functions, methods and classes that the parser finds in real code, against an independent reference.

The folder holds repositories of any languages. The reference is Universal Ctags; where ctags has no parser it is the
table of regular expressions in ``declarations.py``. A definition agrees with the reference if its name and the line of
its name are equal. Prototypes and methods without a body are ``optional``: right if they are found, no fault if they
are not. The mistakes of the reference that ``ctags_mistakes.json`` lists are left out and counted. ``--show`` prints
differences. A run of some languages or repositories prints its figures and writes no file:

    python benchmarks/definitions.py FOLDER [--language NAME] [--repository NAME] [--files 1000] [--show 20]
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from checkouts import CheckoutFile, add_checkout_options, is_partial, selected_files
from ctags import CTAGS, Tag, ctags_definitions
from declarations import DECLARATIONS, declared
from report import add_result_option, report

from llamaindex_code_retrieval.languages.syntax import Definition, definitions
from llamaindex_code_retrieval.languages.table import CODE_LANGUAGES

KINDS = ("function", "method", "class")
MISTAKES = Path(__file__).with_name("ctags_mistakes.json")
_OBJECTIVE_C = re.compile(r"(?m)^@(?:interface|protocol|implementation|class)\b")
_MAX_LINE = 2000  # characters; a file with a longer line is minified or data
_QUALIFIER = re.compile(r".*(?:::|\\|(?<=\w)[.:](?=[\w-]+$))", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A mistake of the reference in a language: tags that it ``reports`` wrongly, or definitions that it ``misses``.

    ``kind`` and ``name`` are regular expressions for the whole kind and name; ``line`` is one for a part of the source
    line, and of the two lines before it if the mistake is that it misses a definition. ``{name}`` in ``line`` stands
    for the name and ``{first}`` for its first word. A kind is that of the reference, or of the definition it misses.
    """

    mistake: str
    reason: str
    kind: str = ".*"
    name: str = ".*"
    line: str = ""

    def covers(self, kind: str, name: str, line: str) -> bool:
        """Return whether this mistake explains a difference."""
        if not (re.fullmatch(self.kind, kind) and re.fullmatch(self.name, name)):
            return False
        pattern = self.line.replace("{name}", re.escape(name)).replace("{first}", re.escape(name.split()[0]))
        return re.search(pattern, line, re.MULTILINE) is not None


class Difference(NamedTuple):
    """A definition that only one side has, with its source line."""

    side: str  # "missing" if the reference has it, "extra" if it does not
    file: str
    line: int
    kind: str
    name: str
    source: str

    def __str__(self) -> str:
        return f"{self.side:7} {self.file}:{self.line} {self.kind} {self.name} | {self.source.strip()[:120]}"


@dataclass(slots=True)
class Comparison:
    """Counts of a language, by kind; ``excused`` counts what each mistake of the reference covers."""

    mistakes: Sequence[Mistake]
    files: int = 0
    lines: int = 0
    required: Counter[str] = field(default_factory=Counter)
    recalled: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    correct: Counter[str] = field(default_factory=Counter)
    optional: Counter[str] = field(default_factory=Counter)
    same_kind: int = 0
    excused: Counter[tuple[str, str]] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)

    def add(self, file: str, source: str, ours: Sequence[Definition], tags: Sequence[Tag]) -> None:
        """Count the definitions of a file."""
        lines = source.split("\n")
        self.files += 1
        self.lines += len(lines)
        pairs, duplicates = _match(ours, tags)
        for tag in tags:
            if tag in duplicates:
                continue
            line = lines[tag.line - 1]
            if not tag.required or _is_abstract(lines, tag):
                self.optional["found" if tag in pairs else "left out"] += 1
                continue
            if tag not in pairs and self._excuse("reports", tag.reference_kind, tag.name, line):
                continue
            self.required[tag.kind] += 1
            if tag in pairs:
                self.recalled[tag.kind] += 1
                self.same_kind += ours[pairs[tag]].kind == tag.kind
            else:
                self.differences.append(Difference("missing", file, tag.line, tag.reference_kind, tag.name, line))
        matched = set(pairs.values())
        for number, definition in enumerate(ours):
            line = lines[definition.name_line - 1]
            correct = number in matched
            near = "\n".join(lines[max(definition.start_line, definition.name_line - 2) - 1 : definition.name_line])
            if not correct and self._excuse("misses", definition.kind, definition.symbol, near):
                continue
            self.found[definition.kind] += 1
            self.correct[definition.kind] += correct
            if not correct:
                row = (definition.name_line, definition.kind, definition.symbol, line)
                self.differences.append(Difference("extra", file, *row))

    def _excuse(self, mistake: str, kind: str, name: str, line: str) -> bool:
        for each in self.mistakes:
            if each.mistake == mistake and each.covers(kind, name, line):
                self.excused[mistake, each.reason] += 1
                return True
        return False

    def figures(self) -> dict[str, Any]:
        """Return what the report says of the language; the reference is taken to be right in ``if_always_right``."""
        by_side: Counter[str] = Counter()
        by_reason: Counter[str] = Counter()
        for (side, reason), number in self.excused.items():
            by_side[side] += number
            by_reason[reason] += number
        return {
            "files": self.files,
            "lines": self.lines,
            "definitions": self.found.total(),
            "reference": self.required.total(),
            "recall": _shares(self.recalled, self.required),
            "precision": _shares(self.correct, self.found),
            "same_kind": _share(self.same_kind, self.recalled.total()),
            "optional": dict(self.optional),
            "if_always_right": {
                "recall": _share(self.recalled.total(), self.required.total() + by_side["reports"]),
                "precision": _share(self.correct.total(), self.found.total() + by_side["misses"]),
            },
            "mistakes_of_the_reference": dict(by_reason.most_common()),
        }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _shares(part: Counter[str], whole: Counter[str]) -> dict[str, float | None]:
    shares = {kind: _share(part[kind], whole[kind]) for kind in KINDS if whole[kind]}
    return {"all": _share(part.total(), whole.total()), **shares}


def _key(name: str) -> str:
    """Return the last part of a name, without quotes and spaces.

    >>> [_key(name) for name in ("operator ==", "M.f", "A::B", "a:b:", "`%+%`", "GET /users/:id")]
    ['operator==', 'f', 'B', 'a:b:', '%+%', 'GET/users/:id']
    """
    return _QUALIFIER.sub("", "".join(name.split()).strip("`'\"")) or name


def _is_abstract(lines: Sequence[str], tag: Tag) -> bool:
    """Return whether a function has a semicolon instead of a body, or is the overload of a Python function."""
    if tag.kind == "class":
        return False
    if any("overload" in line for line in lines[max(0, tag.line - 4) : tag.line - 1] if line.lstrip().startswith("@")):
        return True
    code = "\n".join(lines[tag.line - 1 : tag.line + 30])
    code = code[max(0, code.find(_key(tag.name))) :]
    depth, last = 0, 0
    for match in re.finditer(r"[(){};=]", code):
        depth += {"(": 1, ")": -1}.get(match[0], 0)
        if depth <= 0 and match[0] in "{;=":
            return match[0] == ";" and last > 0
        last = match.end()
    return False


def _match(ours: Sequence[Definition], tags: Sequence[Tag]) -> tuple[dict[Tag, int], set[Tag]]:
    """Return the number of the definition of each tag, and the tags that repeat the name of a definition in its lines.

    Such are the clauses of a function and the name behind ``typedef struct``.
    """
    by_place: dict[tuple[str, int], list[int]] = {}
    by_name: dict[str, list[int]] = {}
    for number, definition in enumerate(ours):
        by_place.setdefault((_key(definition.symbol), definition.name_line), []).append(number)
        by_name.setdefault(_key(definition.symbol), []).append(number)
    pairs: dict[Tag, int] = {}
    for tag in sorted(tags, key=lambda tag: not tag.required):
        here = by_place.get((_key(tag.name), tag.line), [])
        if here:
            pairs[tag] = here.pop(next((i for i, number in enumerate(here) if ours[number].kind == tag.kind), 0))
    matched = set(pairs.values())
    duplicates = {
        tag
        for tag in tags
        if tag not in pairs
        and any(number in matched and _holds(ours, number, tag.line) for number in by_name.get(_key(tag.name), ()))
    }
    return pairs, duplicates


def _holds(ours: Sequence[Definition], number: int, line: int) -> bool:
    """Return whether a line is in a definition and not in one that is nested in it and starts on a later line."""
    outer = ours[number]
    if not outer.start_line <= line <= outer.end_line:
        return False
    for inner in ours[number + 1 :]:
        if inner.start_line > line:
            return True
        if inner.start_line > outer.start_line and inner.start_line <= line <= inner.end_line:
            return False
    return True


def _reference(files: Sequence[CheckoutFile], sources: Sequence[str], language: str) -> Iterator[list[Tag]]:
    """Yield the tags of each source."""
    if language in DECLARATIONS:
        yield from (declared(source, language) for source in sources)
        return
    groups: dict[tuple[str, str], list[int]] = {}
    for number, file in enumerate(files):
        extension = file.path.suffix[1:] or "txt"
        parser = language
        if language == "c" and extension == "h":  # the parser of C++ reads C headers too
            parser = "objectivec" if _OBJECTIVE_C.search(sources[number]) else "cpp"
        groups.setdefault((parser, extension), []).append(number)
    found: dict[int, list[Tag]] = {}
    for (parser, extension), numbers in groups.items():
        tags = ctags_definitions([sources[number] for number in numbers], parser, extension=extension)
        found |= dict(zip(numbers, tags, strict=True))
    yield from (found[number] for number in range(len(sources)))


def compare(files: Sequence[CheckoutFile], language: str, mistakes: Sequence[Mistake]) -> Comparison:
    """Compare the definitions of ``files`` with those of the reference."""
    comparison = Comparison(mistakes)
    read = [(file, file.read()) for file in files]
    kept = [(file, source) for file, source in read if max(map(len, source.split("\n"))) <= _MAX_LINE]
    sources = [source for _, source in kept]
    tags = _reference([file for file, _ in kept], sources, language)
    for (file, source), reference in zip(kept, tags, strict=True):
        comparison.add(file.name, source, definitions(source, language), reference)
    return comparison


def load_mistakes(file: Path = MISTAKES) -> dict[str, list[Mistake]]:
    """Return the known mistakes of the reference, by language; a key of the file names several languages, or ``*``."""
    found: dict[str, list[Mistake]] = {}
    for languages, rows in json.loads(file.read_text(encoding="utf-8")).items():
        for language in CTAGS.keys() | DECLARATIONS.keys() if languages == "*" else languages.split():
            found.setdefault(language, []).extend(Mistake(**row) for row in rows)
    return found


def _print_differences(comparison: Comparison, count: int) -> None:
    for side in ("missing", "extra"):
        rows = [each for each in comparison.differences if each.side == side]
        step = max(1, len(rows) // count) if count else 1  # spread over the files
        for row in rows[::step][:count]:
            print(f"  {row}")
        if len(rows) > count > 0:
            print(f"  ... {len(rows)} {side} in all")
    if count:
        for (_, reason), number in comparison.excused.most_common():
            print(f"  {number:5} mistakes of the reference: {reason}")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_checkout_options(parser)
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N differences of each side")
    add_result_option(parser, __file__)
    return parser


def main() -> None:
    parser = make_parser()
    options = parser.parse_args()
    mistakes = load_mistakes()
    figures: dict[str, Any] = {}
    for language, files in selected_files(parser, options).items():
        if language not in CODE_LANGUAGES:
            continue
        comparison = compare(files, language, mistakes.get(language, []))
        row = figures[language] = comparison.figures()
        print(f"{language}: recall {row['recall']}, precision {row['precision']}, {row['definitions']} definitions")
        _print_differences(comparison, options.show)
    if not is_partial(options):
        report(options.result, {"repositories": len(list(options.folder.iterdir())), "languages": figures})


if __name__ == "__main__":
    main()
