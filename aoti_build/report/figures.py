"""All figures of one output: tables with a row per case and a column per figure, and the bounds in
words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aoti_build.report.spelling import cosine, decibels, exact, index, infinite, part, scientific

Figures = Mapping[str, Any]
_Column = tuple[str, str, Callable[[Any], str], str]


def tables(figures: Sequence[Figures], heads: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per case, which starts with its head; of the columns those that some case has, under
    their groups' titles."""
    made = []
    for groups in _TABLES:
        found = {title: _present(columns, figures) for title, columns in groups.items()}
        present = [
            {"title": title, "columns": columns} for title, columns in found.items() if columns
        ]
        columns = [column for columns in found.values() for column in columns]
        rows = [
            {**head, "cells": [column["spell"](output) for column in columns]}
            for head, output in zip(heads, figures, strict=True)
        ]
        made.append({"groups": present, "rows": rows})
    return [table for table in made if table["groups"]]


def bounds(figures: Sequence[Figures]) -> list[str]:
    """The rules that decided, in words, each with the range of its bounds over the cases."""
    sentences = []
    for rule in dict.fromkeys(output.get("by") for output in figures):
        ruled = [output for output in figures if output.get("by") == rule]
        if rule is not None:
            count = f" ({len(ruled)} of {len(figures)} cases)" if len(ruled) < len(figures) else ""
            sentences.append(_bound(str(rule), ruled) + count)
    return sentences


def _present(columns: Sequence[_Column], figures: Sequence[Figures]) -> list[dict[str, Any]]:
    return [
        {"label": label, "title": explained, "spell": _speller(path, spell)}
        for label, path, spell, explained in columns
        if any(_has(output, path) for output in figures)
    ]


def _speller(path: str, spell: Callable[[Any], str]) -> Callable[[Figures], str]:
    return lambda output: spell(_at(output, path)) if _has(output, path) else ""


def _has(output: Figures, path: str) -> bool:
    head, _, rest = path.partition(".")
    return head in output and (not rest or (output[head] is not None and rest in output[head]))


def _at(output: Figures, path: str) -> Any:
    head, _, rest = path.partition(".")
    return output[head][rest] if rest else output[head]


def _bound(rule: str, figures: Sequence[Figures]) -> str:
    def between(path: str) -> str:
        values = [_at(output, path) for output in figures if _has(output, path)]
        ends = (
            list(dict.fromkeys(scientific(value) for value in (min(values), max(values))))
            if values
            else ["?"]
        )
        return " to ".join(ends)

    if rule in {"tolerance", "allclose"}:
        source = (
            "as models.yaml says"
            if rule == "tolerance"
            else "chosen from the dtype and the output's scale"
        )
        return (
            f"Allowed: atol {between('atol')} plus rtol {between('rtol')} times |eager|, {source}"
        )
    if rule == "fp64":
        return (
            f"Allowed: RMSE to float64 of {between('fp64.allowed')}; eager's own is"
            f" {between('fp64.reference_rmse')}"
        )
    known = {
        "equal": "All values must be equal",
        "agreement": "Decided by the part of values, or of classes, that agree with eager's",
        "iou": "Decided by the mean intersection over union of the classes",
    }
    return known.get(rule, f"Decided by {rule}")


# Two tables, since one would be wider than a screen. Title of a group -> its columns: label, where
# it is in the figures, how it is spelt, what it means.
_ERRORS: Mapping[str, Sequence[_Column]] = {
    "error": (
        ("max abs", "max_abs", scientific, "largest absolute error"),
        ("max rel", "max_rel", infinite, "largest error relative to eager's value"),
        ("RMSE", "rmse", scientific, "root mean square error"),
        ("differ", "mismatched", "{:,}".format, "values beyond the bounds"),
    ),
    "bounds": (
        ("by", "by", str, "the rule that decided"),
        ("atol", "atol", scientific, "allowed absolute error"),
        ("rtol", "rtol", scientific, "allowed error relative to eager's value"),
        ("needed", "needed_atol", scientific, "the smallest atol that passes with this rtol"),
        ("agreement", "agreement", part, "part of equal values, or of equal classes"),
        ("IoU", "iou", part, "mean intersection over union of the classes"),
    ),
}
_SCALE: Mapping[str, Sequence[_Column]] = {
    "signal": (
        ("RMS", "reference_rms", scientific, "root mean square of eager's output"),
        ("cosine", "cosine", cosine, "cosine similarity to eager's output"),
        ("SNR dB", "snr_db", decibels, "signal to noise ratio"),
        ("PSNR dB", "psnr_db", decibels, "peak signal to noise ratio"),
    ),
    "RMSE to float64": (
        ("artifact", "fp64.candidate_rmse", scientific, "the artifact's RMSE to eager in float64"),
        ("eager", "fp64.reference_rmse", scientific, "eager's own RMSE to eager in float64"),
        (
            "rounded",
            "fp64.rounded_rmse",
            scientific,
            "RMSE to float64 of the model if it is rounded otherwise: in TF32, or to other steps",
        ),
        ("allowed", "fp64.allowed", scientific, "the RMSE to float64 that is allowed"),
    ),
    "worst value": (
        ("index", "worst.index", index, "where the two are furthest apart"),
        ("expected", "worst.expected", exact, "eager's value there"),
        ("got", "worst.got", exact, "the artifact's value there"),
    ),
}
_TABLES = (_ERRORS, _SCALE)
