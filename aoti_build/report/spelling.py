"""Figures as text, each kind in one way, so that a column of them lines up."""

from __future__ import annotations

from typing import Any


def scientific(value: Any) -> str:
    """Of constant width, so that a column of errors lines up; texts such as "nan" as they are."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return "0" if value == 0 else f"{value:.2e}"


def infinite(value: Any) -> str:
    return "infinite" if value is None else scientific(value)


def decibels(value: Any) -> str:
    return "infinite" if value is None else f"{value:.1f}"


def part(value: Any) -> str:
    return "none" if value is None else f"{value:.6f}"


def cosine(value: Any) -> str:
    return "none" if value is None else f"{value:.9f}"


def exact(value: Any) -> str:
    """With as many digits as tell two float32 apart."""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def index(value: Any) -> str:
    return "[" + ", ".join(map(str, value)) + "]"


def compact(count: int) -> str:
    """Four characters at most, to stand on a bar."""
    value, units = float(count), ["", "k", "M", "G", "T"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f}{units[0]}" if value < 9.95 and units[0] else f"{value:.0f}{units[0]}"


def duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def yes_no(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def loss(figures: Any) -> str:
    """What an output loses against the baseline's: ``output: 38.2 dB, relative RMSE 1.23e-02``."""
    if figures["relative_rmse"] is None:
        return f"{figures['name']}: the baseline's is zero everywhere"
    failed = "" if figures["ok"] else ", more than `limit`"
    ratio, relative = decibels(figures["sqnr_db"]), scientific(figures["relative_rmse"])
    return f"{figures['name']}: {ratio} dB, relative RMSE {relative}{failed}"
