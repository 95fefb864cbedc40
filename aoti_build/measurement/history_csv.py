"""A history as a CSV file with the columns that the CSV importer of Apache Otava reads.

The importer wants one time column, metric columns that are numbers in every row, and attribute
columns, which it shows and does not interpret. It has no filter of rows. So a file holds one target
on one class of machines.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import timezone
from pathlib import Path

from aoti_build.common.outputs import write_output
from aoti_build.errors import UsageError
from aoti_build.measurement.history_entry import HistoryEntry, Series
from aoti_build.measurement.record import Metric

TIME = "time"
ATTRIBUTES = ("commit", "key", "package_sha256")
_FACT = "fact."
_BYTES = (Metric.MEMORY, Metric.SIZE)


def export_csv(entries: Sequence[HistoryEntry], file: Path) -> None:
    """Write entries of one target and one class of machines to `file`, ordered by time.

    Raises:
        UsageError: there is no entry, they are of several targets or classes of machines, or the
            file cannot be written.
    """
    write_output(file, csv_text(entries).encode())


def csv_text(entries: Sequence[HistoryEntry]) -> str:
    """The text of the file. Raises UsageError as `export_csv`."""
    subjects = sorted({f"{entry.target} on {entry.machine_class}" for entry in entries})
    if not subjects:
        raise UsageError("the history has no entry to write")
    if len(subjects) > 1:
        raise UsageError(
            f"one CSV file cannot hold {', '.join(subjects)}",
            cause="readers take all rows of a file for one series",
            hint="choose one with --target, or write {target} and {machine} into the file's name",
        )
    ordered = sorted(entries, key=lambda entry: entry.time)
    columns = metric_columns(ordered)
    facts = sorted({name for entry in ordered for name in entry.facts})
    filled = {column: _filled([_value(entry, column) for entry in ordered]) for column in columns}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([TIME, *ATTRIBUTES, *(_FACT + name for name in facts), *columns])
    for index, entry in enumerate(ordered):
        attributes = [entry.commit or "", entry.key, entry.package_sha256]
        values = [entry.facts.get(name, "") for name in facts]
        metrics = [repr(filled[column][index]) for column in columns]
        writer.writerow([_utc(entry), *attributes, *values, *metrics])
    return text.getvalue()


def metric_columns(entries: Sequence[HistoryEntry]) -> list[str]:
    """The columns with numbers, in the order in which the series appear in the entries."""
    columns: dict[str, None] = {}
    for entry in entries:
        for series in entry.series:
            columns.setdefault(column_of(series))
    return list(columns)


def column_of(series: Series) -> str:
    """The name of a column, which ends with the unit: ``artifact.used.steady.batch=2.seconds``."""
    words = [str(series.way or "package")]
    if series.cache is not None:
        words.append(str(series.cache))
    words.append(str(series.metric))
    words += [f"{name}={size}" for name, size in sorted(series.sizes.items())]
    words.append("bytes" if series.metric in _BYTES else "seconds")
    name = ".".join(words)
    return name.replace(", ", "-").replace(" ", "-")


def _value(entry: HistoryEntry, column: str) -> float | None:
    for series in entry.series:
        if column_of(series) == column:
            return series.median
    return None


def _filled(values: Sequence[float | None]) -> list[float]:
    """The values, with the one before in each gap, and the first one before it.

    The importer refuses an empty cell, and finds no step in a column with "nan". This is what
    Otava itself does with the gaps of its other sources.
    """
    last = next(value for value in values if value is not None)
    filled = []
    for value in values:
        if value is not None:
            last = value
        filled.append(last)
    return filled


def _utc(entry: HistoryEntry) -> str:
    return entry.time.astimezone(timezone.utc).isoformat(timespec="seconds")
