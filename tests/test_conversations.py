"""Conversations are bounded in number, length and age."""

from __future__ import annotations

import pytest
from llama_index.core.base.llms.types import ChatMessage

from llamaindex_code_retrieval.serving.conversations import Conversations


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_conversation_used_least_recently_is_forgotten_first() -> None:
    conversations = Conversations(limit=2, max_turns=1, max_age=60, clock=Clock())
    first, second = (conversations.find_or_begin(None)[0] for _ in range(2))
    assert conversations.find_or_begin(first.id) == (first, False)
    third, _ = conversations.find_or_begin(None)
    assert len(conversations) == 2
    assert [conversations.find_or_begin(each.id)[1] for each in (first, third, second)] == [False, False, True]


def test_a_conversation_ages_from_its_last_use() -> None:
    clock = Clock()
    conversations = Conversations(limit=9, max_turns=1, max_age=60, clock=clock)
    mine, _ = conversations.find_or_begin(None)
    for clock.now in (60.0, 120.0):
        assert conversations.find_or_begin(mine.id) == (mine, False)
    clock.now = 170.0
    conversations.remember(mine, [])  # a long answer ends
    clock.now = 230.0
    assert conversations.find_or_begin(mine.id) == (mine, False)
    clock.now = 290.1
    renewed, is_new = conversations.find_or_begin(mine.id)
    assert is_new
    assert renewed.id != mine.id
    assert len(conversations) == 1


def test_only_the_last_turns_are_remembered() -> None:
    conversations = Conversations(limit=9, max_turns=2, max_age=60)
    mine, _ = conversations.find_or_begin(None)
    conversations.remember(mine, [ChatMessage(content=str(number)) for number in range(6)])
    assert [message.content for message in mine.messages] == ["2", "3", "4", "5"]


def test_ids_are_long_and_random() -> None:
    conversations = Conversations(limit=100, max_turns=1, max_age=60)
    ids = {conversations.find_or_begin("known")[0].id for _ in range(100)}
    assert len(ids) == 100
    assert min(map(len, ids)) >= 32
    assert "known" not in ids


def test_limits_are_positive() -> None:
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        Conversations(limit=0, max_turns=1, max_age=60)
    with pytest.raises(ValueError, match="max_turns must be at least 1, got 0"):
        Conversations(limit=1, max_turns=0, max_age=60)
