"""Functions of the C library that Python does not offer."""

from __future__ import annotations

from functools import cache
from typing import Any


@cache
def libc_function(name: str, argument_types: str) -> Any:
    """A function of the C library, or None if this library does not have it.

    `argument_types` has one letter for each argument: ``i`` is an int, ``q`` a 64-bit integer,
    ``z`` a byte string.
    """
    import ctypes  # not on the no-op path

    types = {
        "i": ctypes.c_int,
        "q": ctypes.c_int64,
        "z": ctypes.c_char_p,
    }
    try:
        library = ctypes.CDLL(None, use_errno=True)
        function = getattr(library, name)
    except (OSError, AttributeError):
        return None
    function.argtypes = [types[letter] for letter in argument_types]
    return function
