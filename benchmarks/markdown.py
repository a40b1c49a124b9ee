"""Markdown of the tables: rows, numbers, and the line that says when and where figures were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table.

    >>> print(table(["", "pairs/s"], [["ours", "17.9"]]))
    |  | pairs/s |
    |---|---|
    | ours | 17.9 |
    """
    lines = [f"| {' | '.join(row)} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with separators of thousands; empty for ``None``.

    >>> number(12345.678), number(0.25, 3), number(None)
    ('12,346', '0.250', '')
    """
    return "" if value is None else f"{value:,.{digits}f}"


def percent(share: float | None) -> str:
    """Return a share as a percentage.

    >>> percent(0.625), percent(None)
    ('62 %', '')
    """
    return "" if share is None else f"{100 * share:.0f} %"


def measured(figures: Mapping[str, Any]) -> str:
    """Return the date, the machine and torch's version in a sentence.

    >>> measured({"date": "2026-11-26T08:57:28+00:00", "machine": "CPU, 2 cores", "versions": {"torch": "2.13.0"}})
    'Measured on 2026-11-26: CPU, 2 cores; torch 2.13.0.'
    """
    return f"Measured on {figures['date'][:10]}: {figures['machine']}; torch {figures['versions']['torch']}."
