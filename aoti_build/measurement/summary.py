"""Summaries of the calls of one process."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from aoti_build.common.percentiles import nearest_rank
from aoti_build.measurement.record import Steady

# Of the histogram. More would not show on a page.
_BARS = 24
# No clock tells more than nanoseconds, and more digits only make the file longer.
_DIGITS = 9
# The dim whose size is the number of items in a call.
_BATCH = "batch"


def steady_of(times: Sequence[float], sizes: Mapping[str, int]) -> Steady:
    """The summary of the seconds of calls at `sizes` of the dims. There is at least one call.

    Percentiles are by nearest rank, so each of them was measured.
    """
    ordered = sorted(round(time, _DIGITS) for time in times)
    total = math.fsum(ordered)
    items = len(ordered) * sizes.get(_BATCH, 1)
    counts, edges = _histogram(ordered)
    return Steady(
        sizes=dict(sizes),
        p50=nearest_rank(ordered, 0.5),
        p95=nearest_rank(ordered, 0.95),
        p99=nearest_rank(ordered, 0.99),
        calls=len(ordered),
        samples_per_second=items / total,
        histogram=counts,
        histogram_edges=edges,
    )


def _histogram(ordered: Sequence[float]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The counts of calls between two edges, the upper one included, and these upper edges.

    The edges have equal distances from the shortest call to that of the 99th percentile. The last
    edge is the longest call: a few outliers do not make all other bars invisible.
    """
    shortest, usual, longest = ordered[0], nearest_rank(ordered, 0.99), ordered[-1]
    width = (usual - shortest) / _BARS
    edges = [round(shortest + width * number, _DIGITS) for number in range(1, _BARS)]
    edges = sorted({edge for edge in edges if edge < longest} | {usual, longest})
    counts = [0] * len(edges)
    for time in ordered:
        counts[bisect_left(edges, time)] += 1
    return tuple(counts), tuple(edges)
