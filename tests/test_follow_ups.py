"""Which questions are follow-ups, and what is searched for."""

from __future__ import annotations

import pytest
from llama_index.core.llms import ChatMessage

from llamaindex_code_retrieval.chat.follow_ups import completed, is_follow_up


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("and where is it called?", True),
        ("Why?", True),
        ("And from environment variables?", True),
        ("what happens when that fails?", True),
        ("how long is it cached?", True),
        ("who calls that?", True),
        ("session management", False),
        ("find the function that parses headers", False),
        ("how are cookies signed before a response is sent", False),
        ("what does `open_session` do with it?", False),
        ("where is Session.send used, and what calls it?", False),
        ("how does SessionInterface save them", False),
        ("how does the application find out that it runs in debug mode and how does it say so", False),
    ],
)
def test_what_is_a_follow_up(question: str, expected: bool) -> None:
    assert is_follow_up(question) is expected


def test_a_follow_up_is_searched_for_twice_before_the_last_question_that_stands_alone() -> None:
    history = [
        ChatMessage(role="user", content="how is a receipt sent?"),
        ChatMessage(role="assistant", content="By mail."),
        ChatMessage(role="user", content="how are prices summed?"),
        ChatMessage(role="assistant", content="In a loop."),
        ChatMessage(role="user", content="and where is it called?"),
        ChatMessage(role="assistant", content="In the cart."),
    ]
    assert completed("why?", history) == "why? why? how are prices summed?"
    assert completed("how is tax computed", history) == "how is tax computed"
    assert completed("why?", []) == "why?"
