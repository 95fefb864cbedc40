"""The result of `verify` as JUnit XML, which Jenkins, GitLab and GitHub's readers show as tests.

A suite per target. Its tests: `artifact` (it is there, fit for this host, and ran), one per case and output, one per
input that must be refused, and with `strict` whether it is up to date and whether its comparisons show anything. Some
test fails or is in error exactly if the document is not `ok`, so that CI's summary and the exit code agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

FAILURE, ERROR, SKIPPED = "failure", "error", "skipped"
# What XML 1.0 cannot hold, not even escaped: control characters, lone surrogates, two non-characters.
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
    "allowed": "allowed rmse to float64",
}
_NULL = {"max_rel": "infinite", "snr_db": "infinite", "psnr_db": "infinite"}


@dataclass(frozen=True)
class _Test:
    """A testcase. `result` is empty if it passed; `figures` become properties."""

    name: str
    result: str = ""
    kind: str = ""
    message: str = ""
    text: str = ""
    seconds: float = 0.0
    figures: Mapping[str, str] = field(default_factory=dict)


def junit_xml(report: Mapping[str, Any]) -> str:
    """JUnit XML of a document of `verify`, to be written as UTF-8. With `provenance` in it, suites have its time."""
    strict = bool(report.get("strict"))
    created = (report.get("provenance") or {}).get("created")
    root = Element("testsuites", {"name": "aoti_build verify"})
    everything: list[_Test] = []
    for target in report["targets"]:
        tests = _tests(target, strict)
        everything += tests
        suite = SubElement(root, "testsuite", {"name": printable(target["target"]), **_counts(tests)})
        if created:
            suite.set("timestamp", printable(str(created)))
        _properties(suite, _facts(target))
        for test in tests:
            _testcase(suite, target["target"], test)
    root.attrib |= _counts(everything)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def printable(text: str) -> str:
    """The text with U+FFFD for what neither XML nor a page can hold: messages quote whatever other programs print."""
    return _NOT_XML.sub("\ufffd", text)


def case_names(cases: list[Mapping[str, Any]]) -> list[str]:
    """A name for each case of a target. The seed is in it from the second of a name on, so that the first keeps its
    name, and CI its history, however many seeds are tried."""
    names: list[str] = []
    for case in cases:
        known = case["name"] in names
        names.append(f"{case['name']} (seed {case.get('seed')})" if known else case["name"])
    return names


def reason_text(reason: Mapping[str, Any]) -> str:
    """``source-changed: model.py``, with the values where it has any."""
    head = f"{reason['reason']}: {reason['what']}" if reason.get("what") else str(reason["reason"])
    old, new = reason.get("old"), reason.get("new")
    return head if old is None and new is None else f"{head} {_spelt(old)} -> {_spelt(new)}"


def vacuous_text(entry: Mapping[str, Any]) -> str:
    return f"{entry['output']}: the comparison would pass for other {entry['of']} too"


def _tests(target: Mapping[str, Any], strict: bool) -> list[_Test]:
    compared = [*_outputs(target), *_refusals(target)]
    explained = any(test.result == FAILURE for test in compared)
    return [_artifact(target, strict, explained), *compared, *(_demands(target) if strict else ())]


def _artifact(target: Mapping[str, Any], strict: bool, explained: bool) -> _Test:
    """The artifact as a whole. Its time is the target's: the parts are not timed one by one."""
    verdict, seconds = target["verdict"], target.get("seconds") or 0.0
    if verdict == "passed" or (verdict == "mismatch" and explained):
        return _Test("artifact", seconds=seconds)
    stale = [reason_text(reason) for reason in target.get("stale", ())]
    error = target.get("error") or {"message": "; ".join(stale) if verdict == "unavailable" and stale else verdict}
    result = {"mismatch": FAILURE, "unavailable": FAILURE if strict else SKIPPED}.get(verdict, ERROR)
    return _Test("artifact", result, verdict, error["message"], error_text(error), seconds)


def error_text(error: Mapping[str, Any]) -> str:
    """All that the error answers, a line for each."""
    lines = [str(error["message"])]
    lines += [f"{label}: {error[key]}" for key, label in _ANSWERS.items() if error.get(key)]
    return "\n".join(lines)


_ANSWERS = {"where": "where", "cause": "cause", "hint": "next", "log": "log"}


def _outputs(target: Mapping[str, Any]) -> Iterator[_Test]:
    cases = target.get("cases", [])
    for name, case in zip(case_names(cases), cases, strict=True):
        if case.get("skipped"):
            yield _Test(name, SKIPPED, "skipped", case["skipped"])
        for output in case["outputs"]:
            yield _output(f"{name}: {output['name']}", case, output, target)


def _output(name: str, case: Mapping[str, Any], output: Mapping[str, Any], target: Mapping[str, Any]) -> _Test:
    figures = _figures(output)
    if output["ok"]:
        return _Test(name, figures=figures)
    sizes = ", ".join(f"{dim} {size}" for dim, size in case.get("sizes", {}).items())
    deep = target.get("deep") or {}
    context = {"sizes": sizes, "seed": _spelt(case.get("seed")), "cause": deep.get("said", "")}
    why = output.get("why", "out of bounds")
    lines = [f"{label}: {value}" for label, value in {**figures, **context}.items() if value]
    return _Test(name, FAILURE, "mismatch", why, "\n".join([why, *lines]), figures=figures)


def _figures(output: Mapping[str, Any]) -> dict[str, str]:
    found = {label: _NULL.get(key, "none") if output[key] is None else _spelt(output[key])
             for key, label in _FIGURES.items() if key in output}  # fmt: skip
    found |= {label: _spelt(output["fp64"][key]) for key, label in _FP64.items() if key in (output.get("fp64") or {})}
    if worst := output.get("worst"):
        at = _spelt(worst["index"])
        found["worst"] = f"expected {_spelt(worst['expected'])}, got {_spelt(worst['got'])} at {at}"
    return found


def _refusals(target: Mapping[str, Any]) -> Iterator[_Test]:
    for refusal in target.get("refusals", ()):
        name, said = f"refusal: {refusal['name']}", refusal.get("said") or "it was not refused"
        yield _Test(name) if refusal["ok"] else _Test(name, FAILURE, "refusal", said, f"{refusal['name']}\n{said}")


def _demands(target: Mapping[str, Any]) -> Iterator[_Test]:
    """What `strict` asks for beside the verdict, of artifacts that could be looked at."""
    if target["verdict"] in {"unavailable", "missing", "refused"}:
        return
    demands = {
        "up-to-date": ("stale", [reason_text(reason) for reason in target.get("stale", ())]),
        "not-vacuous": ("vacuous", [vacuous_text(entry) for entry in target.get("vacuous", ())]),
    }
    for name, (kind, lines) in demands.items():
        yield _Test(name, FAILURE, kind, f"{kind}: {'; '.join(lines)}", "\n".join(lines)) if lines else _Test(name)


def _facts(target: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [("verdict", target["verdict"])]
    facts += [("stale", reason_text(reason)) for reason in target.get("stale", ())]
    facts += [("vacuous", vacuous_text(entry)) for entry in target.get("vacuous", ())]
    if target.get("no_fp64"):
        facts.append(("no_fp64", target["no_fp64"]))
    if target.get("deep"):
        facts.append(("deep", f"{target['deep'].get('stage')}: {target['deep'].get('said')}"))
    return facts


def _testcase(suite: Element, target: str, test: _Test) -> None:
    names = {"name": printable(test.name), "classname": printable(target), "time": f"{test.seconds:.3f}"}
    case = SubElement(suite, "testcase", names)
    _properties(case, list(test.figures.items()))
    if test.result:
        message = next(iter(test.message.splitlines()), "")
        said = SubElement(case, test.result, {"type": printable(test.kind), "message": printable(message)})
        said.text = printable(test.text or test.message)


def _properties(parent: Element, facts: list[tuple[str, str]]) -> None:
    if facts:
        properties = SubElement(parent, "properties")
        for name, value in facts:
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


def _spelt(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, float):
        return f"{value:.9g}"
    return "[" + ", ".join(map(_spelt, value)) + "]" if isinstance(value, list | tuple) else str(value)
