"""Follow-up questions: complete them with the names that the previous answer was about, without an LLM."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.schema import NodeWithScore

from llamaindex_code_retrieval.chat.citations import Citations
from llamaindex_code_retrieval.chat.passages import NUMBER

_NAMES = 3
"""Names that are added to a question."""
_WORDS_BACK = frozenset("it its they them their this that these those he she there then one ones same else".split())
"""Words that stand for something said before."""
_OPENING = re.compile(r"(and|but|so|or|also|why|what about|how about|what if|what else)\b[\s,]*", re.IGNORECASE)
_FEW_WORDS = 4
"""Words of a question that says too little to be one of its own."""
_WORD = re.compile(r"[^\W\d]\w*")
_CODE_NAME = re.compile(
    r"`([^`\n]+)`|\b(\w+(?:\.\w+)+|[a-z0-9]+(?:_[a-z0-9]+)+|[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+|\w+(?=\(\)))"
)
"""A code span, or a word that is written as only names in code are."""


def is_follow_up(question: str) -> bool:
    """Return whether a question can only be understood after the previous ones.

    >>> is_follow_up("And where is it called?"), is_follow_up("Where is `Session.send` called?")
    (True, False)
    """
    if _CODE_NAME.search(question):
        return False
    words = [word.lower() for word in _WORD.findall(question)]
    return bool(_WORDS_BACK.intersection(words) or _OPENING.match(question.strip()) or len(words) <= _FEW_WORDS)


def completed(question: str, history: Sequence[ChatMessage], passages: Sequence[NodeWithScore]) -> str:
    """Return a question for the search: a follow-up with the names that the last answer in ``history`` was about.

    ``passages`` are those of that answer; the names are the scopes of the ones it cites or, if it cites none, of those
    it names, else of the first. Without passages, they are names in the answer that look like code.
    """
    answer = next((each.content or "" for each in reversed(history) if each.role == MessageRole.ASSISTANT), "")
    if not answer or not is_follow_up(question):
        return question
    names = _scopes(answer, passages) or _code_names(answer)
    return " ".join([question, *names[:_NAMES]])


def _scopes(answer: str, passages: Sequence[NodeWithScore]) -> list[str]:
    """Return the scopes of the passages that an answer is about."""
    scopes = {hit.node.metadata.get(NUMBER): str(hit.node.metadata.get("scope") or "") for hit in passages}
    cited = [scopes.get(each.number, "") for each in Citations.of(passages).find(answer) if each.number is not None]
    named = [scope for scope in scopes.values() if re.search(rf"\b{re.escape(scope.split('.')[-1])}\b", answer)]
    found = [*filter(None, cited)] or [*filter(None, named)] or [*filter(None, scopes.values())][:1]
    return list(dict.fromkeys(found))


def _code_names(text: str) -> list[str]:
    return list(dict.fromkeys(next(filter(None, match.groups())) for match in _CODE_NAME.finditer(text)))
