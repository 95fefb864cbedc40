"""Lets several workers time their calls in turn, so that a disturbance meets all of them.

On a shared machine a model is a few per cent slower now than it was a second ago. Samples that are
taken one after the other differ by that. Here the workers of a round are alive at the same time,
each with its model loaded, and every one times calls for some milliseconds before the next does.
They still are fresh processes, and their starts do not overlap.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from aoti_build.common.resources import available_memory
from aoti_build.work.processes import stop_all
from aoti_build.work.worker import OnTurn

SampleT = TypeVar("SampleT")
# Takes a sample. Its worker calls the function when it waits for its turn.
TakeInTurns = Callable[[OnTurn], SampleT]
# What a process needs beside its model, most of it for torch.
_PROCESS_BYTES = 500 << 20
# The memory of a GPU is not known without torch.
_MOST_BYTES = 8 << 30


def fit_together(sizes: Iterable[int]) -> bool:
    """Whether packages of so many bytes may be loaded at the same time, each in its process."""
    # A model needs about as much for what it computes as for its weights, or less.
    needed = sum(2 * size + _PROCESS_BYTES for size in sizes)
    return needed <= min(_MOST_BYTES, available_memory() // 2)


def take_in_turns(takes: Mapping[str, TakeInTurns[SampleT]]) -> dict[str, Future[SampleT]]:
    """Take samples at the same time, with timed calls in turns. The result has those that have
    ended, in the same order, with their values or errors.

    The workers start one after the other: each has loaded its model before the next one starts. A
    sample that fails leaves the others their turns.
    """
    turns = _Turns(takes)
    samples: dict[str, Future[SampleT]] = {}
    with ThreadPoolExecutor(len(takes), "sample") as pool:
        try:
            for name, take in takes.items():
                samples[name] = pool.submit(turns.attend, name, take)
                turns.wait_for_first_question(name)
            wait(samples.values())
        except BaseException:
            # Ctrl-C. Without their workers the threads end.
            stop_all()
            raise
    return samples


class _Turns:
    """Gives turns to those of `names` that have not left.

    Nobody gets the first turn before all wait for it. The order is that of `names`, and its
    opposite every second time (A B, B A), so that no one is always first.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._changed = threading.Condition()
        self._present = list(names)
        self._waiting: set[str] = set()
        self._coming: list[str] = []
        self._holder: str | None = None
        self._is_reversed = False

    def attend(self, name: str, take: TakeInTurns[SampleT]) -> SampleT:
        """Take a sample with the turns of `name`, which leaves after that."""
        try:
            return take(lambda: self._wait(name))
        finally:
            self._leave(name)

    def wait_for_first_question(self, name: str) -> None:
        """Wait until `name` wants its first turn, or has left."""
        with self._changed:
            self._changed.wait_for(lambda: name in self._waiting or name not in self._present)

    def _wait(self, name: str) -> None:
        with self._changed:
            self._waiting.add(name)
            if self._holder == name:
                self._holder = None
            self._give_turn()
            self._changed.wait_for(lambda: self._holder == name)
            self._waiting.discard(name)

    def _leave(self, name: str) -> None:
        with self._changed:
            self._present.remove(name)
            self._coming = [other for other in self._coming if other != name]
            if self._holder == name:
                self._holder = None
            self._give_turn()

    def _give_turn(self) -> None:
        """Give the next turn if all wait for one."""
        if self._present and self._holder is None and self._waiting >= {*self._present}:
            if not self._coming:
                self._coming = list(self._present)
                if self._is_reversed:
                    self._coming.reverse()
                self._is_reversed = not self._is_reversed
            self._holder = self._coming.pop(0)
        self._changed.notify_all()
