"""The outputs of a target on the page of `verify`: each with its figures in all cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from aoti_build.figures import CallFigures, OutputFigures
from aoti_build.report.figures import RowHead, Table, bounds, tables
from aoti_build.report.histogram import HistogramImage, histogram_of

# States, which are classes of the style sheet.
GOOD = "good"
BAD = "bad"
WARNING = "warning"
NEUTRAL = "neutral"


@dataclass(frozen=True)
class OutputView:
    """One output. `why` has the failed cases with their reasons, and `bounds` the rules that
    decided."""

    name: str
    kind: str
    state: str
    summary: str
    open: bool
    why: Sequence[str]
    bounds: Sequence[str]
    tables: Sequence[Table]
    histogram: HistogramImage | None


def output_mark(output: OutputFigures) -> tuple[str, str]:
    """The result of an output as a word and a state."""
    return ("ok", GOOD) if output.ok else ("failed", BAD)


def output_view(name: str, cases: Iterable[CallFigures], is_open: bool) -> OutputView:
    """The output `name` in all `cases` that have it. A failed output is open in any event."""
    outputs = []
    heads = []
    failures = []
    for case in cases:
        for output in case.outputs:
            if output.name != name:
                continue
            outputs.append(output)
            word, state = output_mark(output)
            heads.append(
                RowHead(
                    case.name,
                    case.seed,
                    word,
                    state,
                )
            )
            if not output.ok:
                why = "out of bounds" if output.why is None else output.why
                failures.append(f"{case.name}: {why}")
    total = len(outputs)
    failed_summary = f"failed in {len(failures)} of {total}"
    ok_summary = f"ok in {total} of {total}"
    return OutputView(
        name=name,
        kind=_kind(outputs),
        state=BAD if failures else GOOD,
        summary=failed_summary if failures else ok_summary,
        open=is_open or bool(failures),
        why=failures,
        bounds=bounds(outputs),
        tables=tables(outputs, heads),
        histogram=histogram_of(outputs),
    )


def _kind(outputs: Sequence[OutputFigures]) -> str:
    """``float32 [1-32, 1000]``: the dtype, and the range of each axis over the cases."""
    # A dict keeps the order, which a set would not.
    dtypes: dict[str, None] = {}
    shapes = []
    for output in outputs:
        if output.dtype is not None:
            dtypes[output.dtype] = None
        if output.shape is not None:
            shapes.append(output.shape)
    dtype = ", ".join(dtypes)
    ranks = {len(shape) for shape in shapes}
    # Without a common rank there are no common axes.
    if len(ranks) != 1:
        return dtype
    axes = [_axis(sizes) for sizes in zip(*shapes, strict=True)]
    return f"{dtype} [{', '.join(axes)}]"


def _axis(sizes: Sequence[int]) -> str:
    low = min(sizes)
    high = max(sizes)
    return str(low) if low == high else f"{low}\N{EN DASH}{high}"
