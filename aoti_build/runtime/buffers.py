"""Buffers for the pieces of a file that one thread reads and others use.

This module does not import torch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future


class Buffers:
    """Memory for `count` pieces of up to `size` bytes, which is used again and again.

    New pages for each piece would cost as much as the read.
    """

    def __init__(self, size: int, count: int) -> None:
        self._buffers = deque(memoryview(bytearray(size)) for _ in range(count))
        # What still uses each buffer, in their order.
        self._uses: deque[Sequence[Future[None]]] = deque()

    def next(self) -> memoryview:
        """The buffer for the next piece, which nothing uses any more. Raises what a use raised."""
        if len(self._uses) == len(self._buffers):
            self._wait_for_oldest()
        return self._buffers[0]

    def lend(self, uses: Sequence[Future[None]]) -> None:
        """Keep the buffer that `next` returned until these are done."""
        self._uses.append(uses)
        self._buffers.rotate(-1)

    def wait(self) -> None:
        """Wait for all uses. Raises what one of them raised."""
        while self._uses:
            self._wait_for_oldest()

    def _wait_for_oldest(self) -> None:
        for use in self._uses.popleft():
            use.result()
