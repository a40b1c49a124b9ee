"""Sentences of an answer are matched to passages by names and words, and only where one passage matches."""

from __future__ import annotations

import pytest
from llama_index.core.schema import NodeWithScore, TextNode

from llamaindex_code_retrieval.chat import attribute_sentences
from llamaindex_code_retrieval.chat.attribution import sentences


def passage(number: int, path: str, scope: str, text: str) -> NodeWithScore:
    lines = [[10 * number, 10 * number + text.count("\n")]]
    metadata = {"path": path, "scope": scope, "lines": lines, "citation": number, "language": "python"}
    return NodeWithScore(node=TextNode(text=text, metadata=metadata))


PASSAGES = [
    passage(1, "src/mail.py", "Mailer.send", "def send(self, address):\n    return self.open_socket(address)"),
    passage(2, "src/socket.py", "open_socket", "def open_socket(address):\n    raise RefusedError(address)"),
    passage(
        3,
        "src/cart.py",
        "Cart.total",
        "def total(self):\n    # prices of items, then rebate, shipping and taxes\n    ...",
    ),
    passage(4, "tests/test_mail.py", "test_send", "def test_send():\n    assert Mailer().send('a') is None"),
]


@pytest.mark.parametrize(
    ("answer", "numbers"),
    [
        ("`Mailer.send` opens a socket.", [1]),
        ("Mailer.send calls `open_socket()`.", [1]),  # the only one with both
        ("`open_socket` is called.", [2]),  # two have it, and one defines it
        ("It fails with `RefusedError`.", []),  # the subject is in another sentence
        ("A `RefusedError` is raised.", [2]),
        ("An error RefusedError is raised. `Cart.total` adds up.", [2, 3]),
        ("The function `total` in `src/cart.py` adds up.", [3]),
        ("The function `total` in `src/mail.py` adds up.", []),
        ("`Mailer.close` is called.", []),  # no passage has it
        ("`open_socket` and `close_socket` are called.", []),
        ("The `address` is read.", []),  # two have it and none defines it
        ("The `self` is read.", []),
        ("`test_send` tests it.", []),  # passages of tests are not cited
        ("The prices of all items are added, then rebate, shipping and taxes.", [3]),
        ("Prices are computed.", []),
        ("The mail is sent to the people who asked for it in the form on the page.", []),
        ("```python\nMailer.send()\n```", []),
        ("1. **First**, `Mailer.send` runs:\n2. `Cart.total` too", [1, 3]),
        ("", []),
    ],
)
def test_a_sentence_is_matched_to_exactly_one_passage(answer: str, numbers: list[int]) -> None:
    assert [each.citation.number for each in attribute_sentences(answer, PASSAGES)] == numbers


def test_the_order_and_number_of_other_passages_does_not_matter() -> None:
    answer = "`Mailer.send` opens it. A `RefusedError` is raised."
    forward, backward = (attribute_sentences(answer, order) for order in (PASSAGES, PASSAGES[::-1]))
    assert forward == backward
    assert [str(each.citation) for each in forward] == ["[1] src/mail.py:10-11", "[2] src/socket.py:20-21"]
    twice = [*PASSAGES, passage(5, "src/other.py", "Mailer.send", "def send(self): ...  # RefusedError")]
    assert attribute_sentences(answer, twice) == []
    assert attribute_sentences(answer, []) == []


def test_sentences_are_those_of_the_answer_without_fenced_code() -> None:
    answer = "It loads `a.b`, e.g. v1.2. Then:\n\n* one\n* two\n```\ncode. More\n```\n# End"
    assert list(sentences(answer)) == ["It loads `a.b`, e.g.", "v1.2.", "Then:", "one", "two", "End"]


@pytest.mark.parametrize("garbage", ["a" * 50_000, "a." * 20_000, ". " * 20_000, "." + " " * 50_000, "`a` " * 20_000])
def test_a_long_answer_of_garbage(garbage: str) -> None:
    assert attribute_sentences(garbage, PASSAGES) == []
