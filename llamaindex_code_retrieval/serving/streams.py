"""Read the events of answers in threads, a bounded number at once, and stop an answer when its reader leaves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager

import anyio
from anyio import to_thread

from llamaindex_code_retrieval.serving.answers import Event


class AnswerStreams:
    """Runs at most ``max_concurrent`` answers at once; others wait, at most ``max_waiting`` of them."""

    def __init__(self, *, max_concurrent: int = 8, max_waiting: int = 200, wait_seconds: float = 30.0) -> None:
        self._slots = anyio.Semaphore(max_concurrent)
        self._threads = anyio.CapacityLimiter(max_concurrent)  # of their own: waiting requests hold the others
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds

    @asynccontextmanager
    async def reading(self, events: Generator[Event, None, None]) -> AsyncIterator[AsyncIterator[Event]]:
        """Yield an iterator over ``events``, which are closed at the end of the block.

        Raises:
            TimeoutError: too many other answers are under way.
        """
        await self._take_slot()
        try:
            yield self._steps(events)
        finally:
            self._slots.release()
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(events.close, limiter=self._threads)

    async def _take_slot(self) -> None:
        message = "too many questions are being answered; ask again in a few seconds"
        if self._slots.statistics().tasks_waiting >= self._max_waiting:
            raise TimeoutError(message)
        try:
            with anyio.fail_after(self._wait_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise TimeoutError(message) from None

    async def _steps(self, events: Generator[Event, None, None]) -> AsyncIterator[Event]:
        while True:  # a step that is cancelled is waited for, so that no two threads are in the generator
            event = await to_thread.run_sync(next, events, None, limiter=self._threads)
            if event is None:
                return
            yield event
