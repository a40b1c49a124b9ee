"""Bound the requests of a service: how many run at once and how long one waits; log a line for each."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from llamaindex_code_retrieval._io import printable

logger = logging.getLogger("llamaindex_code_retrieval.serving")
"""Has one record of level INFO for each request."""
_LONGEST_DETAIL = 120
"""Characters of a question in the log."""


class Requests:
    """Lets ``max_concurrent`` requests run at once; others wait up to ``timeout_seconds``, then are refused."""

    def __init__(self, *, max_concurrent: int, timeout_seconds: float) -> None:
        if max_concurrent < 1:
            raise ValueError(f"max_concurrent must be at least 1, got {max_concurrent}")
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be over 0, got {timeout_seconds}")
        self._slots = threading.BoundedSemaphore(max_concurrent)
        self._max_concurrent = max_concurrent
        self._timeout = timeout_seconds
        self._lock = threading.Lock()
        self._is_closed = False
        self.count = 0
        """Requests so far."""
        self.failed = 0
        """Those that raised an error, because of their arguments or of the state of an index."""

    @contextmanager
    def run(self, name: str, detail: str) -> Iterator[None]:
        """Run a request in the block, and log its name, what it is about, how it ended, and the time it took.

        Raises:
            TimeoutError: too many requests are running.
            ValueError: the service is closed.
        """
        start = time.perf_counter()
        outcome = "ok"
        try:
            with self._slot():
                yield
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
            raise
        finally:
            with self._lock:
                self.count += 1
                self.failed += outcome != "ok"
            about = printable(detail[:_LONGEST_DETAIL])
            seconds = time.perf_counter() - start
            logger.info("%s %s: %s, %.0f ms", name, about, printable(outcome[: 2 * _LONGEST_DETAIL]), 1000 * seconds)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        self._check_open()
        if not self._slots.acquire(timeout=self._timeout):
            raise TimeoutError(
                f"{self._max_concurrent} requests are running and none ended within {self._timeout:g} s; try again in "
                "a few seconds"
            )
        try:
            self._check_open()
            yield
        finally:
            self._slots.release()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ValueError("the service is closed; start it again")

    def close(self) -> None:
        """Refuse further requests, and wait for those that run."""
        if self._is_closed:
            return
        self._is_closed = True
        deadline = time.monotonic() + self._timeout
        for _ in range(self._max_concurrent):
            self._slots.acquire(timeout=max(0.0, deadline - time.monotonic()))
