"""The result of `verify` as one page that needs nothing else: no network, no script, no second file.

This module turns figures into text and the histogram into rectangles; `verify.html.j2` says where they go. Whether
something is well is always a word too, never a colour alone. jinja2, which torch brings along, is imported by who
asks for a page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aoti_build import __version__
from aoti_build.report.junit import printable, reason_text, vacuous_text

TEMPLATE = Path(__file__).with_name("verify.html.j2")
GOOD, BAD, WARNING, NEUTRAL = "good", "bad", "warning", "neutral"  # classes of the style sheet
_MANY_OUTPUTS = 12  # more are shown closed, except failed ones
# Of the histogram, in the units of its own viewBox.
_COLUMN, _GAP, _TOP, _BASE, _HEIGHT = 24, 10, 22, 96, 116

View = dict[str, Any]
Figures = Mapping[str, Any]
_Column = tuple[str, str, Callable[[Any], str], str]


def html_page(report: Mapping[str, Any]) -> str:
    """One page for a document of `verify`. With `provenance` in it, as manifests have, the head says when it was made
    and from what."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(_page(_printable(report)))


def _page(report: Mapping[str, Any]) -> View:
    strict = bool(report.get("strict"))
    alone = len(report["targets"]) == 1
    targets = [_target(number, target, strict, alone) for number, target in enumerate(report["targets"], 1)]
    failed = sum(target["state"] == BAD for target in targets)
    provenance = {name: value for name, value in (report.get("provenance") or {}).items() if value is not None}
    verdicts = [target["verdict"] for target in targets]
    return {
        "ok": bool(report.get("ok", not failed)),
        "headline": _headline(failed, verdicts),
        "strict": strict,
        "cpp": report.get("runtime") == "cpp",
        "targets": targets,
        "totals": [
            {"verdict": verdict, "count": verdicts.count(verdict), "state": _verdict_state(verdict, strict)}
            for verdict in dict.fromkeys(verdicts)
        ],
        "seconds": _seconds(sum(target.get("seconds") or 0.0 for target in report["targets"])),
        "created": str(provenance.pop("created", "")),
        "versions": {name.replace("_", " "): _yes_no(value) for name, value in provenance.items()},
        "release": __version__,
    }


def _headline(failed: int, verdicts: Sequence[str]) -> str:
    total, passed = len(verdicts), verdicts.count("passed")
    noun = "artifact" if total == 1 else "artifacts"
    if failed:
        return f"{failed} of {total} {noun} failed"
    return f"{total} {noun} passed" if passed == total else f"{passed} of {total} {noun} passed, none failed"


def _target(number: int, target: Mapping[str, Any], strict: bool, alone: bool) -> View:
    cases, refusals = target.get("cases") or [], target.get("refusals") or []
    figures = [output for case in cases for output in case["outputs"]]
    names = list(dict.fromkeys(output["name"] for output in figures))
    stale = [reason_text(reason) for reason in target.get("stale") or ()]
    vacuous = [vacuous_text(entry) for entry in target.get("vacuous") or ()]
    state = _verdict_state(target["verdict"], strict)
    doubts = ["stale"] * bool(stale and state != NEUTRAL) + ["vacuous"] * bool(vacuous)
    return {
        "id": f"t{number}",
        "name": target["target"],
        "verdict": target["verdict"],
        "state": BAD if strict and doubts else state,
        "verdict_state": state,
        "doubts": [{"word": word, "state": BAD if strict else WARNING} for word in doubts],
        "seconds": _seconds(target.get("seconds") or 0.0),
        "stale": stale,
        "vacuous": vacuous,
        "no_fp64": target.get("no_fp64"),
        "error": _error(target.get("error")),
        "deep": _deep(target.get("deep")),
        "names": names,
        "has_seeds": any("seed" in case for case in cases),
        "rows": [_row(case, names) for case in cases],
        "outputs": [_output(name, cases, len(names) <= _MANY_OUTPUTS and alone) for name in names],
        "compared": len(figures),
        "failed": sum(not output["ok"] for output in figures),
        "worst": _scientific(max((output.get("max_abs") or 0.0 for output in figures), default=None)),
        "refusals": refusals,
        "refused": sum(bool(refusal["ok"]) for refusal in refusals),
    }


def _verdict_state(verdict: str, strict: bool) -> str:
    """An unknown verdict is bad: a newer release may have one, and only `passed` means that all is well."""
    if verdict == "unavailable":
        return BAD if strict else NEUTRAL
    return GOOD if verdict == "passed" else BAD


def _error(error: Mapping[str, Any] | None) -> View | None:
    if not error:
        return None
    labels = {"where": "where", "cause": "cause", "hint": "next", "log": "log"}
    answers = [(label, str(error[key])) for key, label in labels.items() if error.get(key)]
    return {"message": str(error["message"]), "answers": answers}


def _deep(deep: Mapping[str, Any] | None) -> View | None:
    if not deep:
        return None
    left = {"module": "", "class": "", "source": "", "figures": None, "missing": [], **(deep.get("left") or {})}
    weights = [{"name": entry["name"], "max_abs": _scientific(entry["max_abs"])} for entry in deep.get("weights") or ()]
    answers = [("module", f"{left['module'] or 'the model itself'} [{left['class']}]"), ("source", left["source"])]
    answers += [("output", (left["figures"] or {}).get("why", "")), ("not run", ", ".join(left["missing"]))]
    return {
        "stage": deep.get("stage"),
        "said": deep.get("said", ""),
        "answers": [(label, answer) for label, answer in answers if answer] if deep.get("left") else [],
        "weights": weights,
    }


def _row(case: Mapping[str, Any], names: Sequence[str]) -> View:
    """A row of the shape matrix."""
    by_name = {output["name"]: output for output in case["outputs"]}
    return {
        "case": case["name"],
        "sizes": [f"{dim} {size}" for dim, size in (case.get("sizes") or {}).items()],
        "seed": str(case.get("seed", "")),
        "skipped": case.get("skipped"),
        "cells": [_cell(by_name[name]) if name in by_name else None for name in names],
    }


def _cell(output: Figures) -> View:
    """The verdict with the one figure that says most about it; the rest is in the title."""
    parts = [("max abs", "max_abs"), ("RMSE", "rmse"), ("atol", "atol"), ("rtol", "rtol")]
    known = [f"{label} {_scientific(output[key])}" for label, key in parts if output.get(key) is not None]
    title = "; ".join([*known, *([output["why"]] if output.get("why") else [])])
    figure = ""
    if output.get("by") in {"agreement", "iou"}:
        figure = _part(output.get(output["by"]))
    elif output.get("max_abs") is not None:
        figure = _scientific(output["max_abs"])
    elif output.get("mismatched") is not None:
        figure = f"{output['mismatched']:,} differ"
    return {**_verdict(output), "figure": figure, "title": title or "no figures"}


def _verdict(output: Figures) -> View:
    return {"word": "ok", "state": GOOD} if output["ok"] else {"word": "failed", "state": BAD}


def _output(name: str, cases: Iterable[Mapping[str, Any]], few: bool) -> View:
    """All that is known of one output: a row per case, the bounds in words, and the histogram over all cases."""
    found = [(case, output) for case in cases for output in case["outputs"] if output["name"] == name]
    figures = [output for _, output in found]
    failed = [f"{case['name']}: {output.get('why', 'out of bounds')}" for case, output in found if not output["ok"]]
    return {
        "name": name,
        "kind": _kind(figures),
        "state": BAD if failed else GOOD,
        "summary": f"failed in {len(failed)} of {len(found)}" if failed else f"ok in {len(found)} of {len(found)}",
        "open": few or bool(failed),
        "why": failed,
        "bounds": _bounds(figures),
        "tables": [_figures(groups, found) for groups in _groups(figures)],
        "histogram": _histogram(figures),
    }


def _kind(figures: Sequence[Figures]) -> str:
    """``float32 [1-32, 1000]``: the dtype, and each axis with the range of its sizes over the cases."""
    dtypes = ", ".join(dict.fromkeys(output["dtype"] for output in figures if "dtype" in output))
    shapes = [output["shape"] for output in figures if "shape" in output]
    if len({len(shape) for shape in shapes}) != 1:
        return dtypes
    ends = [(min(sizes), max(sizes)) for sizes in zip(*shapes, strict=True)]
    axes = [str(low) if low == high else f"{low}\N{EN DASH}{high}" for low, high in ends]
    return f"{dtypes} [{', '.join(axes)}]"


def _figures(groups: Sequence[View], found: Sequence[tuple[Mapping[str, Any], Figures]]) -> View:
    """A table: a row per case, a column per figure."""
    columns = [column for group in groups for column in group["columns"]]
    rows = [
        {
            "case": case["name"],
            "seed": str(case.get("seed", "")),
            **_verdict(output),
            "cells": [column["spell"](output) for column in columns],
        }
        for case, output in found
    ]
    return {"groups": groups, "rows": rows}


def _groups(figures: Sequence[Figures]) -> list[list[View]]:
    """For each table, the columns that some case of an output has, under their groups' titles."""
    tables = []
    for groups in _TABLES:
        present = [{"title": title, "columns": _present(columns, figures)} for title, columns in groups.items()]
        tables.append([group for group in present if group["columns"]])
    return [groups for groups in tables if groups]


def _present(columns: Sequence[_Column], figures: Sequence[Figures]) -> list[View]:
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


def _bounds(figures: Sequence[Figures]) -> list[str]:
    """The rules that decided, in words, each with the range of its bounds over the cases."""
    sentences = []
    for rule in dict.fromkeys(output.get("by") for output in figures):
        ruled = [output for output in figures if output.get("by") == rule]
        if rule is not None:
            count = f" ({len(ruled)} of {len(figures)} cases)" if len(ruled) < len(figures) else ""
            sentences.append(_bound(str(rule), ruled) + count)
    return sentences


def _bound(rule: str, figures: Sequence[Figures]) -> str:
    def between(path: str) -> str:
        values = [_at(output, path) for output in figures if _has(output, path)]
        ends = list(dict.fromkeys(_scientific(value) for value in (min(values), max(values)))) if values else ["?"]
        return " to ".join(ends)

    if rule in {"tolerance", "allclose"}:
        source = "as models.yaml says" if rule == "tolerance" else "chosen from the dtype and the output's scale"
        return f"Allowed: atol {between('atol')} plus rtol {between('rtol')} times |eager|, {source}"
    if rule == "fp64":
        return f"Allowed: RMSE to float64 of {between('fp64.allowed')}; eager's own is {between('fp64.reference_rmse')}"
    known = {
        "equal": "All values must be equal",
        "agreement": "Decided by the part of values, or of classes, that agree with eager's",
        "iou": "Decided by the mean intersection over union of the classes",
    }
    return known.get(rule, f"Decided by {rule}")


def _histogram(figures: Sequence[Figures]) -> View | None:
    """Rectangles of the counts of all cases together, with logarithmic heights: one value far out must be seen."""
    histograms = [output["histogram"] for output in figures if output.get("histogram")]
    counts: dict[int, int] = {}
    for histogram in histograms:
        for decade, count in zip(histogram["decades"], histogram["counts"], strict=True):
            counts[decade] = counts.get(decade, 0) + count
    if not counts:
        return None
    zero = sum(histogram.get("zero", 0) for histogram in histograms)
    decades = range(min(counts), max(counts) + 1)
    bars = [(0, "none", zero)]
    bars += [(_COLUMN * place + _GAP, str(decade), counts.get(decade, 0)) for place, decade in enumerate(decades, 1)]
    most = max(count for *_, count in bars)
    said = [f"{count:,} from 1e{decade} to below 1e{decade + 1}" for decade, count in sorted(counts.items()) if count]
    return {
        "width": _COLUMN * (len(decades) + 1) + _GAP,
        "height": _HEIGHT,
        "base": _BASE,
        "bars": [_bar(x, label, count, most) for x, label, count in bars],
        "atol": _marker(figures, decades),
        "said": f"absolute errors of {len(histograms)} cases: " + ", ".join([f"{zero:,} values without any", *said]),
    }


def _bar(x: int, label: str, count: int, most: int) -> View:
    height = round((_BASE - _TOP) * math.log1p(count) / math.log1p(most), 1) if count else 0
    bar = {"x": x + 2, "width": _COLUMN - 4, "middle": x + _COLUMN // 2, "y": _BASE - height, "height": height}
    return {**bar, "label": label.replace("-", "\N{MINUS SIGN}"), "count": _compact(count) if count else ""}


def _marker(figures: Sequence[Figures], decades: range) -> float | None:
    """Where the smallest atol of the cases is on the axis; None if it is not on it."""
    values = [output["atol"] for output in figures if output.get("atol")]
    place = math.log10(min(values)) - decades[0] if values else -1.0
    return round(_GAP + _COLUMN * (1 + place), 1) if 0 <= place <= len(decades) else None


def _scientific(value: Any) -> str:
    """Of constant width, so that a column of errors lines up; texts such as "nan" as they are."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    return "0" if value == 0 else f"{value:.2e}"


def _infinite(value: Any) -> str:
    return "infinite" if value is None else _scientific(value)


def _decibels(value: Any) -> str:
    return "infinite" if value is None else f"{value:.1f}"


def _part(value: Any) -> str:
    return "none" if value is None else f"{value:.6f}"


def _cosine(value: Any) -> str:
    return "none" if value is None else f"{value:.9f}"


def _exact(value: Any) -> str:
    """With as many digits as tell two float32 apart."""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def _index(value: Any) -> str:
    return "[" + ", ".join(map(str, value)) + "]"


def _compact(count: int) -> str:
    """Four characters at most, to stand on a bar."""
    value, units = float(count), ["", "k", "M", "G", "T"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.1f}{units[0]}" if value < 9.95 and units[0] else f"{value:.0f}{units[0]}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _yes_no(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _printable(value: Any) -> Any:
    """The document with every text fit for a page."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_printable(key): _printable(entry) for key, entry in value.items()}
    return [_printable(entry) for entry in value] if isinstance(value, list | tuple) else value


# Two tables, since one would be wider than a screen.
# Title of a group -> its columns: label, where it is in the figures, how it is spelt, what it means.
_ERRORS: Mapping[str, Sequence[_Column]] = {
    "error": (
        ("max abs", "max_abs", _scientific, "largest absolute error"),
        ("max rel", "max_rel", _infinite, "largest error relative to eager's value"),
        ("RMSE", "rmse", _scientific, "root mean square error"),
        ("differ", "mismatched", "{:,}".format, "values beyond the bounds"),
    ),
    "bounds": (
        ("by", "by", str, "the rule that decided"),
        ("atol", "atol", _scientific, "allowed absolute error"),
        ("rtol", "rtol", _scientific, "allowed error relative to eager's value"),
        ("needed", "needed_atol", _scientific, "the smallest atol that passes with this rtol"),
        ("agreement", "agreement", _part, "part of equal values, or of equal classes"),
        ("IoU", "iou", _part, "mean intersection over union of the classes"),
    ),
}
_SCALE: Mapping[str, Sequence[_Column]] = {
    "signal": (
        ("RMS", "reference_rms", _scientific, "root mean square of eager's output"),
        ("cosine", "cosine", _cosine, "cosine similarity to eager's output"),
        ("SNR dB", "snr_db", _decibels, "signal to noise ratio"),
        ("PSNR dB", "psnr_db", _decibels, "peak signal to noise ratio"),
    ),
    "RMSE to float64": (
        ("artifact", "fp64.candidate_rmse", _scientific, "the artifact's RMSE to eager in float64"),
        ("eager", "fp64.reference_rmse", _scientific, "eager's own RMSE to eager in float64"),
        (
            "TF32",
            "fp64.tf32_rmse",
            _scientific,
            "RMSE to float64 of the model in TF32, where that is allowed",
        ),
        ("allowed", "fp64.allowed", _scientific, "the RMSE to float64 that is allowed"),
    ),
    "worst value": (
        ("index", "worst.index", _index, "where the two are furthest apart"),
        ("expected", "worst.expected", _exact, "eager's value there"),
        ("got", "worst.got", _exact, "the artifact's value there"),
    ),
}
_TABLES = (_ERRORS, _SCALE)
