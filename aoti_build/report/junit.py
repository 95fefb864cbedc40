"""The report of `verify` as JUnit XML, which Jenkins, GitLab and GitHub's readers show as tests.

Each target is a suite. It has a test for each case and output, and one for each input that must be
refused. A test named `artifact` stands for a verdict that no figure explains. Doubts that count as
failures have tests of their own. At least one test fails or is in error exactly if the report is
not ok, so that the summary of CI agrees with the exit code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from msgspec import UNSET

from aoti_build.commands.verdicts import VerdictKind
from aoti_build.commands.verify.report import (
    CPP,
    CUDA_GRAPHS,
    OUT_OF_DATE,
    VACUOUS,
    Verdict,
    VerifyReport,
)
from aoti_build.errors import AotiBuildError
from aoti_build.figures import CallFigures, OutputFigures, as_json
from aoti_build.report.figures import figure
from aoti_build.report.spelling import loss, vacuous_text, xml_text

# In JUnit a failure is a wrong result, and an error is a test that could not be carried out.
FAILURE = "failure"
ERROR = "error"
SKIPPED = "skipped"
# The path of a figure -> its name in the report.
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
    "fp64.candidate_rmse": "rmse to float64",
    "fp64.reference_rmse": "eager's rmse to float64",
    "fp64.rounded_rmse": "rmse to float64 if rounded otherwise",
    "fp64.allowed": "allowed rmse to float64",
}
# The text of a figure that is None because there is no such number.
_NULL_TEXTS = {"max_rel": "infinite", "snr_db": "infinite", "psnr_db": "infinite"}
# Verdicts that are a failure of the artifact. All others that count as a failure are errors.
_FAILURE_VERDICTS = (VerdictKind.MISMATCH, VerdictKind.UNAVAILABLE, VerdictKind.INCOMPLETE)

# Behind the name of a target, for packages that are not called as usual.
_SUFFIXES = {CPP: " (C++)", CUDA_GRAPHS: " (CUDA graphs)"}


@dataclass(frozen=True)
class _Test:
    """A test case. `result` is empty if it passed."""

    name: str
    result: str = ""
    kind: str = ""
    message: str = ""
    text: str = ""
    seconds: float = 0.0
    properties: Mapping[str, str] = field(default_factory=dict)


def junit_xml(report: VerifyReport) -> str:
    """The report as JUnit XML, to be written as UTF-8."""
    root = Element("testsuites", {"name": "aoti_build verify"})
    all_tests: list[_Test] = []
    for verdict in report.verdicts:
        tests = _tests(verdict, report.failures(verdict))
        all_tests += tests
        # CI can then show several runtimes of one target.
        name = verdict.target.name + _SUFFIXES.get(verdict.runtime, "")
        attributes = {"name": xml_text(name), **_counts(tests)}
        suite = SubElement(root, "testsuite", attributes)
        for test in tests:
            _add_test(suite, name, test)
    root.attrib |= _counts(all_tests)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _tests(verdict: Verdict, failures: Sequence[str]) -> list[_Test]:
    tests = [*_output_tests(verdict), *_refusal_tests(verdict)]
    # A failed output or refusal says why there is a mismatch.
    is_explained = any(test.result == FAILURE for test in tests)
    tests += _verdict_tests(verdict, failures, is_explained)
    tests += _doubt_tests(verdict, failures)
    if not tests:
        tests = [_Test("artifact")]
    # The tests are not timed one by one. Some readers add up the times, so the first test has the
    # time of all.
    tests[0] = replace(tests[0], seconds=verdict.seconds)
    return tests


def _output_tests(verdict: Verdict) -> Iterator[_Test]:
    for name, case in _named_cases(verdict.cases):
        if case.skipped:
            yield _Test(
                name,
                SKIPPED,
                "skipped",
                message=case.skipped,
            )
        for output in case.outputs:
            yield _output_test(name, case, output, verdict)


def _named_cases(cases: Sequence[CallFigures]) -> Iterator[tuple[str, CallFigures]]:
    """Each case with a unique name.

    The seed is in the names of all but the first case of the same name. So the first keeps its
    name, and its history in CI, however many seeds are tried.
    """
    names = set()
    for case in cases:
        name = case.name
        if name in names:
            name += f" (seed {case.seed})"
        names.add(case.name)
        yield name, case


def _output_test(
    case_name: str,
    case: CallFigures,
    output: OutputFigures,
    verdict: Verdict,
) -> _Test:
    name = f"{case_name}: {output.name}"
    properties = {**_figure_texts(output), **_doubt_texts(verdict, output.name)}
    if output.ok:
        return _Test(name, properties=properties)
    why = "out of bounds" if output.why is None else output.why
    sizes = [f"{dim} {size}" for dim, size in case.sizes.items()]
    # Some readers do not show properties, so the text of a failure repeats them.
    facts = {
        "why": why,
        **_figure_texts(output),
        "sizes": ", ".join(sizes),
        "seed": str(case.seed),
        "cause": verdict.localization.said if verdict.localization else "",
        **_doubt_texts(verdict, output.name),
    }
    return _Test(
        name,
        FAILURE,
        "mismatch",
        message=why,
        text=_labelled_lines(facts),
        properties=properties,
    )


def _labelled_lines(facts: Mapping[str, object]) -> str:
    """A line for each fact that is not empty."""
    lines = []
    for label, fact in facts.items():
        if fact:
            lines.append(f"{label}: {fact}")
    return "\n".join(lines)


def _figure_texts(output: OutputFigures) -> dict[str, str]:
    """The text of each figure that was computed, by its name."""
    texts = {}
    for path, label in _FIGURES.items():
        value = figure(output, path)
        if value is not UNSET:
            texts[label] = _figure_text(path, value)
    worst = output.worst
    if worst is not None:
        expected = _value_text(worst.expected, digits=9)
        got = _value_text(worst.got, digits=9)
        texts["worst"] = f"expected {expected}, got {got} at {_value_text(worst.index)}"
    return texts


def _figure_text(path: str, value: object) -> str:
    if value is None:
        return _NULL_TEXTS.get(path, "none")
    # The distance of a cosine from 1 matters, so it needs more digits.
    return f"{value:.12f}" if path == "cosine" else _value_text(value)


def _value_text(value: object, digits: int = 6) -> str:
    """A value as text. 9 digits distinguish two float32."""
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value_text, value))}]"
    return str(value)


def _doubt_texts(verdict: Verdict, output: str) -> dict[str, str]:
    """Facts that a reader of this output's figures should know, even if nothing failed."""
    texts = {}
    if verdict.out_of_date:
        texts[OUT_OF_DATE] = "; ".join(map(str, verdict.out_of_date))
    vacuous = [vacuous_text(entry) for entry in verdict.vacuous if entry.output == output]
    if vacuous:
        texts[VACUOUS] = "; ".join(vacuous)
    if verdict.no_fp64:
        texts["no float64 reference"] = verdict.no_fp64
    losses = [loss(as_json(entry)) for entry in verdict.baseline if entry.name == output]
    if losses:
        texts["against its baseline"] = "; ".join(losses)
    return texts


def _refusal_tests(verdict: Verdict) -> Iterator[_Test]:
    for refusal in verdict.refusals:
        name = refusal.name
        if refusal.ok:
            yield _Test(name)
        else:
            message = refusal.said or "it was not refused"
            yield _Test(
                name,
                FAILURE,
                "refusal",
                message=message,
                text=f"{name}\n{message}",
            )


def _verdict_tests(
    verdict: Verdict, failures: Sequence[str], is_explained: bool
) -> Iterator[_Test]:
    """The test `artifact`, unless the artifact passed or another test explains the mismatch."""
    kind = verdict.verdict
    if kind == VerdictKind.PASSED or (kind == VerdictKind.MISMATCH and is_explained):
        return
    result = FAILURE if kind in _FAILURE_VERDICTS else ERROR
    if kind not in failures:
        result = SKIPPED
    if verdict.error is not None:
        message = verdict.error.message
        text = _error_text(verdict.error)
    else:
        message = "; ".join(_verdict_causes(verdict)) or f"the verdict is {kind}"
        text = message
    yield _Test(
        "artifact",
        result,
        kind,
        message=message,
        text=text,
    )


def _verdict_causes(verdict: Verdict) -> list[str]:
    # Of an unavailable artifact, `out_of_date` says why it is unavailable.
    if verdict.verdict == VerdictKind.UNAVAILABLE:
        return [str(reason) for reason in verdict.out_of_date]
    causes = []
    if verdict.verdict == VerdictKind.INCOMPLETE:
        for name, case in _named_cases(verdict.cases):
            if case.skipped:
                causes.append(f"{name} was skipped")
    return causes


def _error_text(error: AotiBuildError) -> str:
    """All answers of the error, one a line."""
    answers = {
        "where": error.where,
        "cause": error.cause,
        "next": error.hint,
        "log": error.log,
    }
    lines = _labelled_lines(answers)
    return f"{error.message}\n{lines}" if lines else error.message


def _doubt_tests(verdict: Verdict, failures: Sequence[str]) -> Iterator[_Test]:
    """A failed test for each doubt that counts as a failure."""
    doubts = {
        OUT_OF_DATE: [str(reason) for reason in verdict.out_of_date],
        VACUOUS: [vacuous_text(entry) for entry in verdict.vacuous],
    }
    for kind, lines in doubts.items():
        if kind in failures:
            yield _Test(
                kind,
                FAILURE,
                kind,
                message=f"{kind}: {'; '.join(lines)}",
                text="\n".join(lines),
            )


def _add_test(suite: Element, target: str, test: _Test) -> None:
    attributes = {
        "name": xml_text(test.name),
        "classname": xml_text(target),
        "time": f"{test.seconds:.3f}",
    }
    element = SubElement(suite, "testcase", attributes)
    if test.properties:
        properties = SubElement(element, "properties")
        for name, value in test.properties.items():
            attributes = {"name": xml_text(name), "value": xml_text(value)}
            SubElement(properties, "property", attributes)
    if test.result:
        # Readers show the message in one line.
        message = next(iter(test.message.splitlines()), "")
        attributes = {"type": xml_text(test.kind), "message": xml_text(message)}
        result = SubElement(element, test.result, attributes)
        result.text = xml_text(test.text or test.message)


def _counts(tests: Sequence[_Test]) -> dict[str, str]:
    results = [test.result for test in tests]
    return {
        "tests": str(len(tests)),
        "failures": str(results.count(FAILURE)),
        "errors": str(results.count(ERROR)),
        "skipped": str(results.count(SKIPPED)),
        "time": f"{sum(test.seconds for test in tests):.3f}",
    }
