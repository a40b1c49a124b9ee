"""``Conversations``: histories of questions and answers in memory, each known only to the one who began it."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from llama_index.core.base.llms.types import ChatMessage

_ID_BYTES = 24


@dataclass(slots=True)
class Conversation:
    """The messages of one conversation; ``lock`` is held while a question of it is answered."""

    id: str
    messages: Sequence[ChatMessage] = ()
    used: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Conversations:
    """Keeps the conversations that were used last, at most ``limit``, each for ``max_age`` seconds after its last use.

    An id is random, and no method lists ids: a conversation cannot be found without the id that its first answer gave.

    >>> conversations = Conversations(limit=10, max_turns=5, max_age=60)
    >>> mine, is_new = conversations.find_or_begin(None)
    >>> conversations.find_or_begin(mine.id) == (mine, False)
    True
    >>> conversations.find_or_begin("guessed")[1]
    True
    """

    def __init__(
        self, *, limit: int, max_turns: int, max_age: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        for name, value in (("limit", limit), ("max_turns", max_turns)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self._limit = limit
        self._max_messages = 2 * max_turns  # a question and its answer
        self._max_age = max_age
        self._clock = clock
        self._by_id: OrderedDict[str, Conversation] = OrderedDict()  # the one used last is the last
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._by_id)

    def find_or_begin(self, id_: str | None) -> tuple[Conversation, bool]:
        """Return the conversation with this id, and whether it is new because there was none."""
        now = self._clock()
        with self._lock:
            self._forget(now)
            found = self._by_id.get(id_) if id_ else None
            conversation = found or Conversation(secrets.token_urlsafe(_ID_BYTES))
            conversation.used = now
            self._by_id[conversation.id] = conversation
            self._by_id.move_to_end(conversation.id)
            while len(self._by_id) > self._limit:
                self._by_id.popitem(last=False)
        return conversation, found is None

    def remember(self, conversation: Conversation, messages: Sequence[ChatMessage]) -> None:
        """Replace the messages of a conversation by the last turns of ``messages``."""
        conversation.messages = tuple(messages[-self._max_messages :])
        conversation.used = self._clock()

    def _forget(self, now: float) -> None:
        old = [each.id for each in self._by_id.values() if now - each.used > self._max_age]
        for id_ in old:
            del self._by_id[id_]
