"""Functions of the C library that Python does not have."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def libc_function(name: str, arguments: str) -> Any:
    """A function of the C library, for what Python has none for; None where the library has none
    either.

    `arguments` spells the types: an int (i), 64 bits (q), a string of bytes (z)."""
    import ctypes  # not on the no-op path

    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return None
    types = {"i": ctypes.c_int, "q": ctypes.c_int64, "z": ctypes.c_char_p}
    function.argtypes = [types[one] for one in arguments]
    return function
