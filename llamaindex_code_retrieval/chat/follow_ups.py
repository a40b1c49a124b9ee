"""Follow-up questions: search for them together with the question that they follow, without an LLM."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage, MessageRole

_WORD = re.compile(r"[^\W\d]\w*")
_CODE_NAME = re.compile(r"`[^`\n]+`|\w\.\w|[a-z0-9]_[a-z0-9]|[a-z][A-Z]|\w\(\)")
"""What only names in code have."""
_WORDS_BACK = frozenset("it its they them their these those this there then one ones same else".split())
"""Words that stand for something said before."""
_THAT = re.compile(
    r"\b(?:is|are|does|do|of|for|to|in|with|by|from|when|if|calls?|uses?) that\b|^that\b|\bthat\W*$", re.I
)
"""As a pronoun, and not as in "the function that reads"."""
_OPENING = re.compile(r"(?:and|but|so|also|what about|how about|what if|what else)\b", re.I)
_EMPTY_WORDS = frozenset(
    "and are but can do does how is not or so then was what when where which who why yes no".split()
)
_LONGEST = 10
"""Words; a longer question with such a word mostly says itself what it means."""


def is_follow_up(question: str) -> bool:
    """Return whether a question can only be understood after the previous ones.

    >>> is_follow_up("And where is it called?"), is_follow_up("Where is `Session.send` called?")
    (True, False)
    """
    if _CODE_NAME.search(question):
        return False
    words = [word.lower() for word in _WORD.findall(question)]
    if _OPENING.match(question.strip()) or _EMPTY_WORDS.issuperset(words):
        return True
    return len(words) <= _LONGEST and bool(_WORDS_BACK.intersection(words) or _THAT.search(question))


def completed(question: str, history: Sequence[ChatMessage]) -> str:
    """Return what to search for: a follow-up, twice, before the last question in ``history`` that stands alone.

    Once and after that question, which has more words, it would often find what answers the question.
    """
    if not is_follow_up(question):
        return question
    earlier = [each.content or "" for each in history if each.role == MessageRole.USER]
    topic = next((each for each in reversed(earlier) if not is_follow_up(each)), "")
    return f"{question} {question} {topic}" if topic else question
