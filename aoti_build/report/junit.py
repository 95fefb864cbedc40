"""The result of `verify` as JUnit XML, which Jenkins, GitLab and GitHub's readers show as tests.

A suite per target. Its tests: one per case and output, and one per input that must be refused;
`artifact`, if it could not be checked at all; with `strict` also what is out of date or vacuous.
Some test fails or is in error exactly if the document is not `ok`, so that CI's summary and the
exit code agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from aoti_build.artifact.reasons import Reason
from aoti_build.commands.verdicts import VerdictKind
from aoti_build.report.spelling import loss

FAILURE, ERROR, SKIPPED = "failure", "error", "skipped"
# What XML 1.0 cannot hold, not even escaped: control characters, lone surrogates, two
# non-characters.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FIGURES: Mapping[str, str] = {
    "by": "decided by",
    "dtype": "dtype",
    "shape": "shape",
    "max_abs": "max abs",
    "max_rel": "max rel",
    "rmse": "rmse",
    "reference_rms": "reference rms",
    "cosine": "cosine",
    "snr_db": "SNR (dB)",
    "psnr_db": "PSNR (dB)",
    "mismatched": "beyond bounds",
    "atol": "atol",
    "rtol": "rtol",
    "needed_atol": "needed atol",
    "agreement": "agreement",
    "iou": "IoU",
}
_FP64: Mapping[str, str] = {
    "candidate_rmse": "rmse to float64",
    "reference_rmse": "eager's rmse to float64",
    "rounded_rmse": "rmse to float64 if rounded otherwise",
    "allowed": "allowed rmse to float64",
}
_ANSWERS = {"where": "where", "cause": "cause", "hint": "next", "log": "log"}
_NULL = {"max_rel": "infinite", "snr_db": "infinite", "psnr_db": "infinite"}


@dataclass(frozen=True)
class _Test:
    """A testcase. `result` is empty if it passed."""

    name: str
    result: str = ""
    kind: str = ""
    message: str = ""
    text: str = ""
    seconds: float = 0.0
    properties: Mapping[str, str] = field(default_factory=dict)


def junit_xml(report: Mapping[str, Any]) -> str:
    """JUnit XML of a document of `verify`, to be written as UTF-8. With `provenance` in it, suites
    have its time."""
    strict = bool(report.get("strict"))
    created = (report.get("provenance") or {}).get("created")
    root = Element("testsuites", {"name": "aoti_build verify"})
    everything: list[_Test] = []
    for target in report["targets"]:
        tests = _tests(target, strict)
        everything += tests
        # A name of its own, so that CI can show both runtimes of one target.
        name = target["target"] + (" (C++)" if target.get("runtime") == "cpp" else "")
        suite = SubElement(root, "testsuite", {"name": printable(name), **_counts(tests)})
        if created:
            suite.set("timestamp", printable(str(created)))
        for test in tests:
            _testcase(suite, name, test)
    root.attrib |= _counts(everything)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def printable(text: str) -> str:
    """The text with U+FFFD for what neither XML nor a page can hold: messages quote whatever other
    programs print."""
    return _NOT_XML.sub("\ufffd", text)


def case_names(cases: list[Mapping[str, Any]]) -> list[str]:
    """A name for each case of a target. The seed is in it from the second of a name on, so that the
    first keeps its name, and CI its history, however many seeds are tried."""
    names: list[str] = []
    for case in cases:
        known = case["name"] in names
        names.append(f"{case['name']} (seed {case.get('seed')})" if known else case["name"])
    return names


def reason_text(reason: Mapping[str, Any]) -> str:
    """``source-changed: model.py``, as in every other report."""
    return str(
        Reason(reason["reason"], reason.get("what", ""), reason.get("old"), reason.get("new"))
    )


def vacuous_text(entry: Mapping[str, Any]) -> str:
    return f"{entry['output']}: the comparison would pass for other {entry['of']} too"


def error_text(error: Mapping[str, Any]) -> str:
    """All that the error answers, a line for each."""
    lines = [str(error["message"])]
    lines += [f"{label}: {error[key]}" for key, label in _ANSWERS.items() if error.get(key)]
    return "\n".join(lines)


def _tests(target: Mapping[str, Any], strict: bool) -> list[_Test]:
    """The first has the time of all: they are not timed one by one, and some readers add the times
    up."""
    tests = [*_outputs(target), *_refusals(target)]
    explained = any(test.result == FAILURE for test in tests)
    tests += [*_artifact(target, strict, explained), *(_demands(target) if strict else ())]
    first = tests[0] if tests else _Test("artifact")
    return [replace(first, seconds=target.get("seconds") or 0.0), *tests[1:]]


def _artifact(target: Mapping[str, Any], strict: bool, explained: bool) -> Iterator[_Test]:
    """A verdict that no figure explains."""
    verdict = target["verdict"]
    if verdict == VerdictKind.PASSED or (verdict == VerdictKind.MISMATCH and explained):
        return
    said = (
        [reason_text(reason) for reason in target.get("out_of_date", ())]
        if verdict == VerdictKind.UNAVAILABLE
        else []
    )
    if verdict == VerdictKind.INCOMPLETE:
        said = [f"{name} was skipped" for name in _skipped(target)]
    error = target.get("error") or {"message": "; ".join(said) or f"the verdict is {verdict}"}
    lenient = FAILURE if strict else SKIPPED
    result = {
        VerdictKind.MISMATCH: FAILURE,
        VerdictKind.UNAVAILABLE: lenient,
        VerdictKind.INCOMPLETE: lenient,
    }.get(verdict, ERROR)
    yield _Test("artifact", result, verdict, error["message"], error_text(error))


def _skipped(target: Mapping[str, Any]) -> list[str]:
    cases = target.get("cases", [])
    return [
        name for name, case in zip(case_names(cases), cases, strict=True) if case.get("skipped")
    ]


def _outputs(target: Mapping[str, Any]) -> Iterator[_Test]:
    cases = target.get("cases", [])
    for name, case in zip(case_names(cases), cases, strict=True):
        if case.get("skipped"):
            yield _Test(name, SKIPPED, "skipped", case["skipped"])
        for output in case["outputs"]:
            yield _output(f"{name}: {output['name']}", case, output, target)


def _output(
    name: str, case: Mapping[str, Any], output: Mapping[str, Any], target: Mapping[str, Any]
) -> _Test:
    figures, doubts = _figures(output), _doubts(target, output["name"])
    if output["ok"]:
        return _Test(name, properties={**figures, **doubts})
    sizes = ", ".join(f"{dim} {size}" for dim, size in case.get("sizes", {}).items())
    localization = target.get("localization") or {}
    why = output.get("why", "out of bounds")
    context = {
        "sizes": sizes,
        "seed": str(case.get("seed", "")),
        "cause": localization.get("said", ""),
    }
    lines = {"why": why, **figures, **context, **doubts}
    text = "\n".join(f"{label}: {value}" for label, value in lines.items() if value)
    return _Test(name, FAILURE, "mismatch", why, text, properties={**figures, **doubts})


def _doubts(target: Mapping[str, Any], name: str) -> dict[str, str]:
    """What somebody should know who reads the figures of this output, whether or not anything
    failed."""
    out_of_date = "; ".join(reason_text(reason) for reason in target.get("out_of_date", ()))
    vacuous = "; ".join(
        vacuous_text(entry) for entry in target.get("vacuous", ()) if entry["output"] == name
    )
    lost = "; ".join(loss(entry) for entry in target.get("baseline") or () if entry["name"] == name)
    doubts = {
        "out_of_date": out_of_date,
        "vacuous": vacuous,
        "no float64 reference": target.get("no_fp64"),
    }
    doubts["against its baseline"] = lost
    return {label: text for label, text in doubts.items() if text}


def _figures(output: Mapping[str, Any]) -> dict[str, str]:
    found = {label: _figure(key, output[key]) for key, label in _FIGURES.items() if key in output}
    found |= {
        label: _spelt(output["fp64"][key])
        for key, label in _FP64.items()
        if key in (output.get("fp64") or {})
    }
    if worst := output.get("worst"):
        at = _spelt(worst["index"])
        found["worst"] = (
            f"expected {_spelt(worst['expected'], 9)}, got {_spelt(worst['got'], 9)} at {at}"
        )
    return found


def _figure(key: str, value: Any) -> str:
    if value is None:
        return _NULL.get(key, "none")
    # What matters is how far below 1 it is.
    return f"{value:.12f}" if key == "cosine" else _spelt(value)


def _refusals(target: Mapping[str, Any]) -> Iterator[_Test]:
    for refusal in target.get("refusals", ()):
        name, said = refusal["name"], refusal.get("said") or "it was not refused"
        yield (
            _Test(name)
            if refusal["ok"]
            else _Test(name, FAILURE, "refusal", said, f"{name}\n{said}")
        )


def _demands(target: Mapping[str, Any]) -> Iterator[_Test]:
    """What `strict` minds beside the verdict, of artifacts that could be looked at."""
    if target["verdict"] == VerdictKind.UNAVAILABLE:
        return
    demands = {
        "out_of_date": [reason_text(reason) for reason in target.get("out_of_date", ())],
        "vacuous": [vacuous_text(entry) for entry in target.get("vacuous", ())],
    }
    for kind, lines in demands.items():
        if lines:
            yield _Test(kind, FAILURE, kind, f"{kind}: {'; '.join(lines)}", "\n".join(lines))


def _testcase(suite: Element, target: str, test: _Test) -> None:
    names = {
        "name": printable(test.name),
        "classname": printable(target),
        "time": f"{test.seconds:.3f}",
    }
    case = SubElement(suite, "testcase", names)
    _properties(case, test.properties)
    if test.result:
        message = next(iter(test.message.splitlines()), "")
        said = SubElement(
            case, test.result, {"type": printable(test.kind), "message": printable(message)}
        )
        said.text = printable(test.text or test.message)


def _properties(parent: Element, facts: Mapping[str, str]) -> None:
    if facts:
        properties = SubElement(parent, "properties")
        for name, value in facts.items():
            SubElement(properties, "property", {"name": printable(name), "value": printable(value)})


def _counts(tests: list[_Test]) -> dict[str, str]:
    results = [test.result for test in tests]
    return {
        "tests": str(len(tests)),
        "failures": str(results.count(FAILURE)),
        "errors": str(results.count(ERROR)),
        "skipped": str(results.count(SKIPPED)),
        "time": f"{sum(test.seconds for test in tests):.3f}",
    }


def _spelt(value: Any, digits: int = 6) -> str:
    """9 digits tell two float32 apart."""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return (
        "[" + ", ".join(map(_spelt, value)) + "]" if isinstance(value, list | tuple) else str(value)
    )
