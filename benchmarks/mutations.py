"""Mutations of source files, as editors, merges and broken tools make them: the inputs of ``parsing.py --fuzz``."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_MAX_CHARACTERS = 1_000_000
_INSERTED = (
    *"()[]{}<>\"'`\\#/*;:,=@$%&|!?~^+-_ \t\r\n\0\f\v",
    *(
        "/*",
        "*/",
        "//",
        '"""',
        "'''",
        "<!--",
        "-->",
        "#if 0",
        "#endif",
        "=begin",
        "{-",
        "-}",
        "<<EOF",
        "${",
        "#{",
        "$$",
    ),
    *(
        "\r\n",
        "\u2028",
        "\u2029",
        "\x85",
        "\ufeff",
        "\u200b",
        "\u202e",
        "\ud800",
        "\U0001f600",
        "e\u0301",
        "ß",
        "\x1b[0m",
    ),
    *("end", "class", "def", "function", "begin", "do", "\n<<<<<<< HEAD\n", "\n=======\n", "\n>>>>>>> other\n"),
)

Mutation = Callable[[str, str, random.Random], str]


def mutate(text: str, other: str, draw: random.Random) -> str:
    """Return ``text`` after one to four mutations, some of which take parts of ``other``.

    >>> mutate("a\\nb\\n", "c\\n", random.Random(0)) == mutate("a\\nb\\n", "c\\n", random.Random(0))
    True
    """
    for mutation in draw.choices(MUTATIONS, k=draw.randint(1, 4)):
        text = mutation(text, other, draw)[:_MAX_CHARACTERS]
    return text


def _slice(lines: Sequence[str], draw: random.Random) -> tuple[int, int]:
    first = draw.randrange(len(lines))
    return first, min(len(lines), first + draw.choice((1, 1, 1, 2, 5, 20)))


def delete_lines(text: str, other: str, draw: random.Random) -> str:
    """Delete up to 20 lines."""
    lines = text.split("\n")
    first, end = _slice(lines, draw)
    return "\n".join(lines[:first] + lines[end:])


def duplicate_lines(text: str, other: str, draw: random.Random) -> str:
    """Repeat up to 20 lines, up to 50 times."""
    lines = text.split("\n")
    first, end = _slice(lines, draw)
    return "\n".join(lines[:first] + lines[first:end] * draw.choice((2, 2, 3, 50)) + lines[end:])


def swap_lines(text: str, other: str, draw: random.Random) -> str:
    """Exchange two lines."""
    lines = text.split("\n")
    first, second = draw.randrange(len(lines)), draw.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    return "\n".join(lines)


def cut(text: str, other: str, draw: random.Random) -> str:
    """Keep the beginning or the end."""
    place = draw.randint(0, len(text))
    return text[:place] if draw.random() < 0.5 else text[place:]


def insert(text: str, other: str, draw: random.Random) -> str:
    """Insert brackets, quotes, words or odd characters in one to five places."""
    for piece in draw.choices(_INSERTED, k=draw.randint(1, 5)):
        place = draw.randint(0, len(text))
        text = text[:place] + piece * draw.choice((1, 1, 1, 2, 40)) + text[place:]
    return text


def delete_characters(text: str, other: str, draw: random.Random) -> str:
    """Delete up to 200 characters."""
    place = draw.randint(0, len(text))
    return text[:place] + text[place + draw.choice((1, 1, 2, 10, 200)) :]


def join_lines(text: str, other: str, draw: random.Random) -> str:
    """Make a very long line: join up to 2,000 lines, or repeat a piece of a line."""
    lines = text.split("\n")
    first = draw.randrange(len(lines))
    if draw.random() < 0.5:
        return "\n".join([*lines[:first], " ".join(lines[first : first + 2000]), *lines[first + 2000 :]])
    lines[first] *= draw.choice((10, 500))
    return "\n".join(lines)


def change_line_ends(text: str, other: str, draw: random.Random) -> str:
    """Write some or all line ends as CR LF, CR or a form feed."""
    end, share = draw.choice(("\r\n", "\r", "\n\f")), draw.choice((0.1, 1.0))
    pieces = text.split("\n")
    return pieces[0] + "".join((end if draw.random() < share else "\n") + piece for piece in pieces[1:])


def splice(text: str, other: str, draw: random.Random) -> str:
    """Continue with a part of another file."""
    place, start = draw.randint(0, len(text)), draw.randint(0, len(other))
    return text[:place] + other[start : start + draw.choice((50, 1000, 20_000))] + draw.choice(("", text[place:]))


MUTATIONS: Sequence[Mutation] = (
    delete_lines,
    duplicate_lines,
    swap_lines,
    cut,
    insert,
    delete_characters,
    join_lines,
    change_line_ends,
    splice,
)
