"""Quote code for tools: the lines that matter, numbered lines, and one line for a place. LlamaIndex is not imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from llamaindex_code_retrieval._code_words import code_words
from llamaindex_code_retrieval.chat.headers import header_lines
from llamaindex_code_retrieval.chat.passages import Passage, Range
from llamaindex_code_retrieval.index.related import has_name, names_of
from llamaindex_code_retrieval.ranking.features import Words, stem

_LONGEST_LINE = 300  # characters


def excerpt(
    lines: Sequence[str], question: str, *, path: str, first: int, symbol: str, language: str, most_lines: int
) -> Passage:
    """Return the passage of at most ``most_lines`` lines of a definition that begins at line ``first``.

    These are its signature with the beginning of its documentation, the lines with most words of the question, each
    with the line before and after it, and as many further ones from the top. Long lines are cut.

    >>> code = ["def pay(order):", "    x = 1", "    y = 2", "    z = 3", "    charge(card)", "    return x"]
    >>> print(excerpt(code, "charge it", path="a", first=1, symbol="pay", language="python", most_lines=4).text)
    def pay(order):
    ...
        z = 3
        charge(card)
        return x
    """
    numbered = {number: _cut(line) for number, line in enumerate(lines, start=first)}
    numbers = sorted(numbered)
    if len(numbers) <= most_lines:
        kept = set(numbers)
    else:
        declares = any(has_name(line, name) for name in names_of(symbol) for line in lines)  # a later part may not
        kept = set(header_lines(numbered, numbers, symbol)[: max(1, most_lines // 2)]) if declares else set()
        _add_best(kept, numbered, question, most_lines)
    is_cut = bool(numbers) and max(kept) < numbers[-1]
    return Passage.of_lines(path, numbered, kept, is_cut=is_cut, language=language)


def _add_best(kept: set[int], lines: Mapping[int, str], question: str, most_lines: int) -> None:
    """Add the lines that fit the question best, each with its neighbours, then those from the top."""
    words = Words.of(question, lambda _: 1.0)
    found = {number: words.found(frozenset(map(stem, code_words(line)))) for number, line in lines.items()}
    counts = Counter(word for each in found.values() for word in each)
    worth = {number: sum(1 / counts[word] for word in each) for number, each in found.items()}
    for number in sorted(lines, key=lambda number: (-worth[number], number)):
        near = {each for each in (number - 1, number, number + 1) if each in lines} - kept
        if worth[number] and len(kept) + len(near) <= most_lines:
            kept |= near
    for number, line in lines.items():
        if len(kept) < most_lines and line.strip():
            kept.add(number)


def numbered_lines(lines: Mapping[int, str], shown: Iterable[int]) -> list[str]:
    """Return lines with their numbers before them; long ones are cut, and unknown ones are empty."""
    return [f"{number:>5} {_cut(lines.get(number, ''))}".rstrip() for number in shown]


def more_lines(path: str, shown: int, last: int) -> str:
    """Return how to read on after line ``shown`` of what ends at line ``last``."""
    return f"({last - shown:,} more lines: read {path}:{shown + 1}-{last})"


def place_line(path: str, ranges: Iterable[Range], scope: str, note: str = "") -> str:
    """Return the line that stands for a place.

    >>> place_line("src/cart.py", [Range(3, 5)], "Cart.total", "calls it")
    'src/cart.py:3-5 Cart.total (calls it)'
    """
    heading = Passage(path, "", tuple(ranges), scope)
    return " ".join(filter(None, (heading.place, heading.safe_scope, f"({note})" if note else "")))


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}…"
