"""Keeps calls of a model apart from operations that change it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Lets calls run side by side, and an exclusive operation alone.

    `alone` waits for running calls, and calls that start then wait until it ends.

    A call takes no lock as long as nothing runs alone. It first notes that it runs and then looks
    for an exclusive operation. Such an operation first announces itself and then looks for running
    calls. So at least one of the two sees the other.
    """

    def __init__(self) -> None:
        # An entry for each running call. To append and to pop are atomic.
        self._running: list[None] = []
        self._is_taken = False
        self._changed = threading.Condition()

    def enter(self) -> None:
        self._running.append(None)
        while self._is_taken:
            self.leave()
            with self._changed:
                while self._is_taken:
                    self._changed.wait()
            self._running.append(None)

    def leave(self) -> None:
        self._running.pop()
        if self._is_taken:
            with self._changed:
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            while self._is_taken:
                self._changed.wait()
            self._is_taken = True
        # From here on an interrupt must open the gate again, even during the wait for calls.
        try:
            with self._changed:
                while self._running:
                    self._changed.wait()
            yield
        finally:
            with self._changed:
                self._is_taken = False
                self._changed.notify_all()
