"""Excerpts show the lines of a definition that matter, within a number of lines."""

from __future__ import annotations

import pytest

from llamaindex_code_retrieval.chat.excerpts import excerpt, numbered_lines
from llamaindex_code_retrieval.chat.passages import Range

PAY = [
    "@log",
    "def pay(order):",
    '    """Pay an order."""',
    *(f"    step_{i}()" for i in range(40)),
    "    charge_card(order)",
    "    return True",
]


def passage_of(question: str, most_lines: int, *, symbol: str = "pay", lines: list[str] = PAY):  # type: ignore[no-untyped-def]
    return excerpt(lines, question, path="pay.py", first=10, symbol=symbol, language="python", most_lines=most_lines)


def test_a_short_definition_is_quoted_as_it_is() -> None:
    passage = passage_of("anything", len(PAY))
    assert passage.text == "\n".join(PAY)
    assert passage.ranges == (Range(10, 54),)


def test_the_signature_and_the_best_lines_are_quoted() -> None:
    passage = passage_of("where is the card charged", 7)
    assert passage.text.split("\n") == [
        *PAY[:4],
        "...",
        *PAY[-3:],
    ]
    assert passage.place == "pay.py:10-13,52-54"


@pytest.mark.parametrize("most_lines", [1, 2, 3, 5, 10, 44])
def test_no_excerpt_has_more_lines(most_lines: int) -> None:
    passage = passage_of("where is the card charged", most_lines)
    quoted = [line for line in passage.text.split("\n") if line != "..."]
    assert len(quoted) <= most_lines + 1  # a single line between two ranges stands in place of dots
    assert passage.text.endswith("...") == (passage.ranges[-1].last < 54)


def test_a_later_part_has_no_signature_to_show() -> None:
    part = [f"    step_{i}()" for i in range(20)] + ["    charge_card(order)", "    return True"]
    passage = passage_of("charge the card", 3, lines=part)
    assert passage.text.split("\n") == part[19:]


def test_long_lines_are_cut() -> None:
    assert len(passage_of("x", 1, lines=["x" * 5_000]).text) < 400
    assert numbered_lines({7: "y" * 5_000}, [7, 8])[1] == "    8"
    assert len(numbered_lines({7: "y" * 5_000}, [7])[0]) < 400
