"""The result of `verify` as one page that needs nothing else: no network, no script, no second
file.

This module says what is on the page, `figures`, `histogram` and `spelling` how one output's figures
look, and `verify.html.j2` where all of it goes. Whether something is well is always a word too,
never a colour alone. jinja2, which torch brings along, is imported by who asks for a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aoti_build import __version__
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.report.figures import Figures, bounds, tables
from aoti_build.report.histogram import histogram_of
from aoti_build.report.junit import printable, reason_text, vacuous_text
from aoti_build.report.spelling import duration, loss, part, scientific, yes_no

TEMPLATE = Path(__file__).with_name("verify.html.j2")
GOOD, BAD, WARNING, NEUTRAL = "good", "bad", "warning", "neutral"  # classes of the style sheet
_MANY_OUTPUTS = 12  # more are shown closed, except failed ones

View = dict[str, Any]


def html_page(report: Mapping[str, Any]) -> str:
    """One page for a document of `verify`. With `provenance` in it, as manifests have, the head
    says when it was made and from what."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        _page(_printable(report))
    )


def _page(report: Mapping[str, Any]) -> View:
    strict = bool(report.get("strict"))
    alone = len(report["targets"]) == 1
    targets = [
        _target(number, target, strict, alone) for number, target in enumerate(report["targets"], 1)
    ]
    failed = sum(target["state"] == BAD for target in targets)
    provenance = {
        name: value for name, value in (report.get("provenance") or {}).items() if value is not None
    }
    verdicts = [target["verdict"] for target in targets]
    return {
        "ok": bool(report.get("ok", not failed)),
        "headline": _headline(failed, verdicts),
        "strict": strict,
        "cpp": report.get("runtime") == "cpp",
        "targets": targets,
        "totals": [
            {
                "verdict": verdict,
                "count": verdicts.count(verdict),
                "state": _verdict_state(verdict, strict),
            }
            for verdict in dict.fromkeys(verdicts)
        ],
        "seconds": duration(sum(target.get("seconds") or 0.0 for target in report["targets"])),
        "created": str(provenance.pop("created", "")),
        "versions": {name.replace("_", " "): yes_no(value) for name, value in provenance.items()},
        "release": __version__,
    }


def _headline(failed: int, verdicts: Sequence[str]) -> str:
    total, passed = len(verdicts), verdicts.count(VerdictKind.PASSED)
    noun = "artifact" if total == 1 else "artifacts"
    if failed:
        return f"{failed} of {total} {noun} failed"
    return (
        f"{total} {noun} passed"
        if passed == total
        else f"{passed} of {total} {noun} passed, none failed"
    )


def _target(number: int, target: Mapping[str, Any], strict: bool, alone: bool) -> View:
    cases, refusals = target.get("cases") or [], target.get("refusals") or []
    figures = [output for case in cases for output in case["outputs"]]
    names = list(dict.fromkeys(output["name"] for output in figures))
    out_of_date = [reason_text(reason) for reason in target.get("out_of_date") or ()]
    vacuous = [vacuous_text(entry) for entry in target.get("vacuous") or ()]
    state = _verdict_state(target["verdict"], strict)
    doubts = []
    if out_of_date and state != NEUTRAL:
        doubts.append("out_of_date")
    if vacuous:
        doubts.append("vacuous")
    return {
        "id": f"t{number}",
        "name": target["target"],
        "verdict": target["verdict"],
        "state": BAD if strict and doubts else state,
        "verdict_state": state,
        "doubts": [{"word": word, "state": BAD if strict else WARNING} for word in doubts],
        "seconds": duration(target.get("seconds") or 0.0),
        "out_of_date": out_of_date,
        "vacuous": vacuous,
        "no_fp64": target.get("no_fp64"),
        "baseline": [loss(lost) for lost in target.get("baseline") or ()],
        "error": _error(target.get("error")),
        "localization": _localization(target.get("localization")),
        "names": names,
        "has_seeds": any("seed" in case for case in cases),
        "rows": [_row(case, names) for case in cases],
        "outputs": [_output(name, cases, len(names) <= _MANY_OUTPUTS and alone) for name in names],
        "compared": len(figures),
        "failed": sum(not output["ok"] for output in figures),
        "worst": scientific(
            max((output.get("max_abs") or 0.0 for output in figures), default=None)
        ),
        "refusals": refusals,
        "refused": sum(bool(refusal["ok"]) for refusal in refusals),
    }


def _verdict_state(verdict: str, strict: bool) -> str:
    """An unknown verdict is bad: a newer release may have one, and only `passed` means that all is
    well."""
    if verdict in (VerdictKind.UNAVAILABLE, VerdictKind.INCOMPLETE):
        return BAD if strict else NEUTRAL
    return GOOD if verdict == VerdictKind.PASSED else BAD


def _error(error: Mapping[str, Any] | None) -> View | None:
    if not error:
        return None
    labels = {"where": "where", "cause": "cause", "hint": "next", "log": "log"}
    answers = [(label, str(error[key])) for key, label in labels.items() if error.get(key)]
    return {"message": str(error["message"]), "answers": answers}


def _localization(localization: Mapping[str, Any] | None) -> View | None:
    if not localization:
        return None
    left = {
        "module": "",
        "class": "",
        "source": "",
        "figures": None,
        "missing": [],
        **(localization.get("left") or {}),
    }
    weights = [
        {"name": entry["name"], "max_abs": scientific(entry["max_abs"])}
        for entry in localization.get("weights") or ()
    ]
    answers = [
        ("module", f"{left['module'] or 'the model itself'} [{left['class']}]"),
        ("source", left["source"]),
    ]
    answers += [
        ("output", (left["figures"] or {}).get("why", "")),
        ("not run", ", ".join(left["missing"])),
    ]
    return {
        "stage": localization.get("stage"),
        "said": localization.get("said", ""),
        "answers": (
            [(label, answer) for label, answer in answers if answer]
            if localization.get("left")
            else []
        ),
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
    known = [
        f"{label} {scientific(output[key])}" for label, key in parts if output.get(key) is not None
    ]
    title = "; ".join([*known, *([output["why"]] if output.get("why") else [])])
    figure = ""
    if output.get("by") in {"agreement", "iou"}:
        figure = part(output.get(output["by"]))
    elif output.get("max_abs") is not None:
        figure = scientific(output["max_abs"])
    elif output.get("mismatched") is not None:
        figure = f"{output['mismatched']:,} differ"
    return {**_verdict(output), "figure": figure, "title": title or "no figures"}


def _verdict(output: Figures) -> View:
    return {"word": "ok", "state": GOOD} if output["ok"] else {"word": "failed", "state": BAD}


def _output(name: str, cases: Iterable[Mapping[str, Any]], few: bool) -> View:
    """All that is known of one output: a row per case, the bounds in words, and the histogram over
    all cases."""
    found = [
        (case, output) for case in cases for output in case["outputs"] if output["name"] == name
    ]
    figures = [output for _, output in found]
    heads = [
        {"case": case["name"], "seed": str(case.get("seed", "")), **_verdict(output)}
        for case, output in found
    ]
    failed = [
        f"{case['name']}: {output.get('why', 'out of bounds')}"
        for case, output in found
        if not output["ok"]
    ]
    return {
        "name": name,
        "kind": _kind(figures),
        "state": BAD if failed else GOOD,
        "summary": (
            f"failed in {len(failed)} of {len(found)}"
            if failed
            else f"ok in {len(found)} of {len(found)}"
        ),
        "open": few or bool(failed),
        "why": failed,
        "bounds": bounds(figures),
        "tables": tables(figures, heads),
        "histogram": histogram_of(figures),
    }


def _kind(figures: Sequence[Figures]) -> str:
    """``float32 [1-32, 1000]``: the dtype, and each axis with the range of its sizes over the
    cases."""
    dtypes = ", ".join(dict.fromkeys(output["dtype"] for output in figures if "dtype" in output))
    shapes = [output["shape"] for output in figures if "shape" in output]
    if len({len(shape) for shape in shapes}) != 1:
        return dtypes
    ends = [(min(sizes), max(sizes)) for sizes in zip(*shapes, strict=True)]
    axes = [str(low) if low == high else f"{low}\N{EN DASH}{high}" for low, high in ends]
    return f"{dtypes} [{', '.join(axes)}]"


def _printable(value: Any) -> Any:
    """The document with every text fit for a page."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_printable(key): _printable(entry) for key, entry in value.items()}
    return [_printable(entry) for entry in value] if isinstance(value, list | tuple) else value
