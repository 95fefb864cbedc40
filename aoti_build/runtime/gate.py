"""Keeps calls of a model apart from operations that change it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Lets calls run side by side, and an exclusive operation alone.

    `alone` waits for running calls, and calls that start then wait until it ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._calls = 0
        self._alone = False

    def enter(self) -> None:
        with self._lock:
            while self._alone:
                self._changed.wait()
            self._calls += 1

    def leave(self) -> None:
        with self._lock:
            self._calls -= 1
            if self._alone:
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._lock:
            while self._alone:
                self._changed.wait()
            self._alone = True
        # From here on an interrupt must open the gate again, even during the wait for calls.
        try:
            with self._lock:
                while self._calls:
                    self._changed.wait()
            yield
        finally:
            with self._lock:
                self._alone = False
                self._changed.notify_all()
