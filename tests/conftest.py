"""What all tests have in common."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    # A shell lets jobs in the background ignore SIGINT, and programs that tests start and interrupt
    # would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
