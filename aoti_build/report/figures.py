"""All figures of one output: tables with a row for each case and a column for each figure, and the
bounds in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from aoti_build.figures import OutputFigures
from aoti_build.report.spelling import (
    cosine,
    decibels,
    exact,
    index,
    infinite,
    part,
    scientific,
)

# Figures that may be None because there is no such number, for instance because it is infinite. Any
# other figure that is None was not computed.
_NULLABLE = ("max_rel", "cosine", "snr_db", "psnr_db")
_RULES = {
    "equal": "All values must be equal",
    "agreement": "Decided by the part of values, or of classes, that agree with eager's",
    "iou": "Decided by the mean intersection over union of the classes",
}


@dataclass(frozen=True)
class Column:
    """A column of figures. `path` leads to the figure in an `OutputFigures`, `spell` makes its
    text, and `title` explains it."""

    label: str
    path: str
    spell: Callable[[Any], str]
    title: str

    def cell(self, output: OutputFigures) -> str:
        value = figure(output, self.path)
        return "" if value is UNSET else self.spell(value)


@dataclass(frozen=True)
class Group:
    """Columns under a common title."""

    title: str
    columns: Sequence[Column]


@dataclass(frozen=True)
class RowHead:
    """The case of a row and the result of its comparison, as a word and as a class of the style
    sheet."""

    case: str
    seed: int
    word: str
    state: str


@dataclass(frozen=True)
class Row:
    """A row with a text for each column of its table."""

    head: RowHead
    cells: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Groups of columns, and a row for each case."""

    groups: Sequence[Group]
    rows: Sequence[Row]


def figure(output: OutputFigures, path: str) -> Any:
    """The figure at a path such as "fp64.allowed"; UNSET if it was not computed."""
    value: Any = output
    for name in path.split("."):
        value = getattr(value, name)
        if value is UNSET or (value is None and name not in _NULLABLE):
            return UNSET
    return value


def tables(outputs: Sequence[OutputFigures], heads: Sequence[RowHead]) -> list[Table]:
    """The tables of an output, with a row for each case. `outputs` has its figures in each case,
    and `heads` the heads of the rows.

    A column without figures is left out, and so is a group or a table without columns.
    """
    result = []
    for all_groups in _TABLES:
        groups = _groups_with_figures(all_groups, outputs)
        if not groups:
            continue
        columns = [column for group in groups for column in group.columns]
        rows = []
        for head, output in zip(heads, outputs, strict=True):
            cells = [column.cell(output) for column in columns]
            rows.append(Row(head, cells))
        result.append(Table(groups, rows))
    return result


def _groups_with_figures(groups: Sequence[Group], outputs: Sequence[OutputFigures]) -> list[Group]:
    result = []
    for group in groups:
        columns = []
        for column in group.columns:
            if any(figure(output, column.path) is not UNSET for output in outputs):
                columns.append(column)
        if columns:
            result.append(Group(group.title, columns))
    return result


def bounds(outputs: Sequence[OutputFigures]) -> list[str]:
    """The rules that decided, in words, each with the range of its bounds over the cases."""
    by_rule: dict[str, list[OutputFigures]] = {}
    for output in outputs:
        if output.by is not None:
            by_rule.setdefault(output.by, []).append(output)
    sentences = []
    for rule, ruled in by_rule.items():
        sentence = _bound(rule, ruled)
        if len(ruled) < len(outputs):
            sentence += f" ({len(ruled)} of {len(outputs)} cases)"
        sentences.append(sentence)
    return sentences


def _bound(rule: str, outputs: Sequence[OutputFigures]) -> str:
    if rule in {"tolerance", "allclose"}:
        atol = _range(outputs, "atol")
        rtol = _range(outputs, "rtol")
        if rule == "tolerance":
            source = "as models.yaml says"
        else:
            source = "chosen from the dtype and the output's scale"
        return f"Allowed: atol {atol} plus rtol {rtol} times |eager|, {source}"
    if rule == "fp64":
        allowed = _range(outputs, "fp64.allowed")
        reference = _range(outputs, "fp64.reference_rmse")
        return f"Allowed: RMSE to float64 of {allowed}; eager's own is {reference}"
    return _RULES.get(rule, f"Decided by {rule}")


def _range(outputs: Sequence[OutputFigures], path: str) -> str:
    """The smallest and the largest value of a figure."""
    values: list[Any] = []
    for output in outputs:
        value = figure(output, path)
        if value is not UNSET:
            values.append(value)
    if not values:
        return "?"
    # Two values that look the same are no range.
    low = scientific(min(values))
    high = scientific(max(values))
    return low if low == high else f"{low} to {high}"


_ERRORS = Group(
    "error",
    (
        Column("max abs", "max_abs", scientific, "largest absolute error"),
        Column("max rel", "max_rel", infinite, "largest error relative to eager's value"),
        Column("RMSE", "rmse", scientific, "root mean square error"),
        Column("differ", "mismatched", "{:,}".format, "values beyond the bounds"),
    ),
)
_BOUNDS = Group(
    "bounds",
    (
        Column("by", "by", str, "the rule that decided"),
        Column("atol", "atol", scientific, "allowed absolute error"),
        Column("rtol", "rtol", scientific, "allowed error relative to eager's value"),
        Column("needed", "needed_atol", scientific, "the smallest atol that passes with this rtol"),
        Column("agreement", "agreement", part, "part of equal values, or of equal classes"),
        Column("IoU", "iou", part, "mean intersection over union of the classes"),
    ),
)
_SIGNAL = Group(
    "signal",
    (
        Column("RMS", "reference_rms", scientific, "root mean square of eager's output"),
        Column("cosine", "cosine", cosine, "cosine similarity to eager's output"),
        Column("SNR dB", "snr_db", decibels, "signal to noise ratio"),
        Column("PSNR dB", "psnr_db", decibels, "peak signal to noise ratio"),
    ),
)
_FLOAT64 = Group(
    "RMSE to float64",
    (
        Column(
            "artifact",
            "fp64.candidate_rmse",
            scientific,
            "the artifact's RMSE to eager in float64",
        ),
        Column("eager", "fp64.reference_rmse", scientific, "eager's own RMSE to eager in float64"),
        Column(
            "rounded",
            "fp64.rounded_rmse",
            scientific,
            "RMSE to float64 of the model if it is rounded otherwise: in TF32, or to other steps",
        ),
        Column("allowed", "fp64.allowed", scientific, "the RMSE to float64 that is allowed"),
    ),
)
_WORST_VALUE = Group(
    "worst value",
    (
        Column("index", "worst.index", index, "where the two are furthest apart"),
        Column("expected", "worst.expected", exact, "eager's value there"),
        Column("got", "worst.got", exact, "the artifact's value there"),
    ),
)
# Two tables, because one would be wider than a screen.
_TABLES = (
    (_ERRORS, _BOUNDS),
    (_SIGNAL, _FLOAT64, _WORST_VALUE),
)
