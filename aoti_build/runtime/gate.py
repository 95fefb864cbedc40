"""Keeps calls of a model apart from operations that change it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

# Who waits looks again after this time, in case an interrupt has swallowed the notice.
_SECONDS = 1.0


def turns(count: int) -> AbstractContextManager[Any]:
    """A context that at most `count` threads are in at once.

    torch's loader waits for a free runner without releasing the interpreter's lock. The call that
    has the runner may need that lock, to free an input or to run a Python operator. So no more
    calls may reach the loader than it has runners.
    """
    if count == 1:
        return threading.RLock()
    return threading.BoundedSemaphore(count)


class Gate:
    """Lets calls run side by side, and an exclusive operation alone.

    `alone` waits for running calls, and calls that start then wait until it ends.

    A call takes no lock as long as nothing runs alone. It first notes that it runs and then looks
    for an exclusive operation. Such an operation first announces itself and then looks for running
    calls. So at least one of the two sees the other.
    """

    def __init__(self) -> None:
        # The running calls. To add and to discard one is atomic.
        self._running: set[object] = set()
        self._is_taken = False
        self._changed = threading.Condition()

    def enter(self, call: object) -> None:
        """Note that `call` runs, once nothing runs alone.

        An interrupt can come at any point in here. So the caller enters inside the `try` statement
        whose `finally` leaves.
        """
        self._running.add(call)
        while self._is_taken:
            self.leave(call)
            with self._changed:
                while self._is_taken:
                    self._changed.wait(_SECONDS)
            self._running.add(call)

    def leave(self, call: object) -> None:
        """Note that `call` has ended. A call that never entered may leave too."""
        self._running.discard(call)
        if self._is_taken:
            with self._changed:
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            while self._is_taken:
                self._changed.wait(_SECONDS)
            self._is_taken = True
        # From here on an interrupt must open the gate again, even during the wait for calls.
        try:
            with self._changed:
                while self._running:
                    self._changed.wait(_SECONDS)
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()
