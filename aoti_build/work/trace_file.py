"""Reads the trace of an earlier build, for a summary of it."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.work.watch import Interval

_MICROSECONDS = 1e6
_KINDS = ("target", "process", "phase", "stage", "program", "wait")


def read_trace(path: Path) -> list[Interval]:
    """The intervals in a trace that `Trace.write` wrote. An event of another kind is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such trace.
    """
    try:
        document = json.loads(_unpacked(read_bytes(path, RECORD_LIMIT)))
        events = document["traceEvents"]
        return [_interval(event) for event in events if _is_interval(event)]
    except (EOFError, KeyError, TypeError, RecursionError, AttributeError) as error:
        raise ValueError(f"it is no trace of a build: {error}") from None


def _unpacked(packed: bytes) -> bytes:
    """The content of a gzip file. A few bytes may unpack to very many, so there is a limit."""
    with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
        content = file.read(RECORD_LIMIT + 1)
    if len(content) > RECORD_LIMIT:
        raise ValueError(f"it unpacks to more than {RECORD_LIMIT} bytes")
    return content


def _is_interval(event: Any) -> bool:
    return event.get("ph") == "X" and event.get("cat") in _KINDS


def _interval(event: Any) -> Interval:
    return Interval(
        target=str(event["args"]["target"]),
        process=int(event["pid"]),
        kind=event["cat"],
        name=str(event["name"]),
        start=float(event["ts"]) / _MICROSECONDS,
        seconds=float(event["dur"]) / _MICROSECONDS,
    )
