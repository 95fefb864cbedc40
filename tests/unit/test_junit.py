"""JUnit XML of `verify`: what CI counts agrees with the exit code, and whoever reads a failure
finds its figures."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from verify_documents import case, target, verify_report

from aoti_build.report.junit import junit_xml

HOSTILE = 'a <script>alert("1")</script> ]]> & \x00\x1b[31m\ud800'
FIGURES = {
    "name": "output",
    "ok": True,
    "by": "fp64",
    "dtype": "float32",
    "shape": [2, 4],
    "atol": 1e-6,
    "rtol": 1e-5,
    "max_abs": 0.5,
    "max_rel": None,
    "rmse": 0.25,
    "cosine": 0.999999999875,
    "snr_db": None,
    "reference_rms": 1.5,
    "mismatched": 3,
    "needed_atol": 0.125,
    "worst": {"index": [1, 3], "expected": "nan", "got": 2.25},
    "fp64": {"candidate_rmse": 3e-7, "reference_rmse": 1e-7, "allowed": 2e-7},
    "histogram": {"decades": [-2, -1], "counts": [3, 1], "zero": 4},
}
WRONG = {**FIGURES, "name": "['n']", "ok": False, "why": "3 of 8 values differ"}
OUT_OF_DATE = {"reason": "source-changed", "what": "model.py", "old": None, "new": "b" * 64}


def suites(*targets: dict[str, Any], strict: bool = False) -> ElementTree.Element:
    text = junit_xml(verify_report(*targets, strict=strict))
    return ElementTree.fromstring(text.encode())  # noqa: S314 - our own text


def counts(element: ElementTree.Element) -> tuple[int, int, int, int]:
    tests, failures, errors, skipped = (
        int(element.attrib[n]) for n in ("tests", "failures", "errors", "skipped")
    )
    return tests, failures, errors, skipped


def test_a_suite_per_target_and_a_test_per_case_and_output_and_refusal() -> None:
    other = {**FIGURES, "name": "other"}
    root = suites(
        target(cases=[case(FIGURES, other), case(FIGURES, other, name="max")]),
        target(
            target="second/cpu",
            refusals=[{"name": "batch 33: above max 32", "ok": True, "said": "too large"}],
        ),
    )
    assert root.tag == "testsuites"
    assert [suite.get("name") for suite in root] == ["small/cpu", "second/cpu"]
    names = ["example: output", "example: other", "max: output", "max: other"]
    assert [test.get("name") for test in root[0].iter("testcase")] == names
    assert [test.get("name") for test in root[1].iter("testcase")] == ["batch 33: above max 32"]
    assert {test.get("classname") for test in root[0].iter("testcase")} == {"small/cpu"}
    assert (counts(root), counts(root[0])) == ((5, 0, 0, 0), (4, 0, 0, 0))


def test_the_counts_are_those_of_the_elements() -> None:
    root = suites(
        target("mismatch", cases=[case(FIGURES, WRONG), case(name="max", skipped="no room")]),
        target("crashed", error={"message": "SIGSEGV"}),
        target("unavailable"),
    )
    assert counts(root) == (5, 1, 1, 2)
    names = [test.get("name") for test in root.iter("testcase")]
    assert names == ["example: output", "example: ['n']", "max", "artifact", "artifact"]
    for element in (root, *root):
        found = (
            sum(1 for _ in element.iter(tag)) for tag in ("testcase", "failure", "error", "skipped")
        )
        assert counts(element) == tuple(found)


def test_times_are_seconds_and_add_up() -> None:
    root = suites(target(cases=[case(FIGURES, FIGURES)]), target("crashed", seconds=0.5))
    assert (root.get("time"), root[0].get("time")) == ("1.750", "1.250")
    assert sum(float(test.attrib["time"]) for test in root.iter("testcase")) == 1.75


def test_a_failure_carries_its_figures() -> None:
    root = suites(
        target(
            "mismatch",
            cases=[case(WRONG)],
            localization={"stage": "compile", "said": "layer1 differs"},
        )
    )
    (failure,) = root.iter("failure")
    assert failure.get("message") == "3 of 8 values differ"
    lines = (failure.text or "").splitlines()
    assert {
        "why: 3 of 8 values differ",
        "decided by: fp64",
        "shape: [2, 4]",
        "max abs: 0.5",
        "max rel: infinite",
        "rmse: 0.25",
        "cosine: 0.999999999875",
        "allowed rmse to float64: 2e-07",
        "worst: expected nan, got 2.25 at [1, 3]",
        "sizes: batch 4",
        "seed: 7",
        "cause: layer1 differs",
    } <= set(lines)


def test_a_passed_test_has_its_figures_as_properties() -> None:
    found = properties(suites(target(cases=[case(FIGURES)])))
    assert (found["max abs"], found["beyond bounds"], found["rmse to float64"]) == (
        "0.5",
        "3",
        "3e-07",
    )


def test_doubts_are_seen_without_strict_and_fail_with_it() -> None:
    doubtful = target(
        cases=[case(FIGURES)],
        out_of_date=[OUT_OF_DATE],
        vacuous=[{"output": "output", "of": "weights"}],
    )
    lenient, strict = suites(doubtful), suites(doubtful, strict=True)
    assert counts(lenient) == (1, 0, 0, 0)
    assert properties(lenient)["out_of_date"].startswith("source-changed: model.py")
    assert (
        properties(lenient)["vacuous"] == "output: the comparison would pass for other weights too"
    )
    assert counts(strict) == (3, 2, 0, 0)
    assert [failure.get("type") for failure in strict.iter("failure")] == ["out_of_date", "vacuous"]


@pytest.mark.parametrize(
    "verdict", ["crashed", "timeout", "unverified", "refused", "missing", "not-known-yet"]
)
def test_what_could_not_be_checked_is_an_error(verdict: str) -> None:
    said = {
        "message": "it broke",
        "where": "a.pt2",
        "cause": "x\ny",
        "hint": "mend it",
        "log": "l",
    }
    root = suites(target(verdict, error=said))
    assert counts(root) == (1, 0, 1, 0)
    (error,) = root.iter("error")
    assert (error.get("type"), error.get("message")) == (verdict, "it broke")
    assert error.text == "it broke\nwhere: a.pt2\ncause: x\ny\nnext: mend it\nlog: l"
    assert counts(suites(target(verdict, error=None))) == (1, 0, 1, 0)


def test_an_unavailable_device_is_skipped_unless_strict() -> None:
    absent = target(
        "unavailable",
        out_of_date=[{"reason": "no-device", "what": "cuda", "old": None, "new": None}],
    )
    (skipped,) = suites(absent).iter("skipped")
    assert skipped.get("message") == "no-device: cuda"
    assert counts(suites(absent, strict=True)) == (1, 1, 0, 0)


def test_an_input_that_was_not_refused_fails() -> None:
    refusals = [
        {"name": "rank 3", "ok": False, "said": "was answered"},
        {"name": "rank 1", "ok": True, "said": "no"},
    ]
    root = suites(target("mismatch", cases=[case(FIGURES)], refusals=refusals))
    assert counts(root) == (3, 1, 0, 0)
    (failure,) = root.iter("failure")
    assert (failure.get("type"), failure.get("message")) == ("refusal", "was answered")


def test_a_mismatch_that_nothing_explains_fails_all_the_same() -> None:
    assert counts(suites(target("mismatch", cases=[case(skipped="no room")]))) == (2, 1, 0, 1)


def test_seeds_do_not_share_a_name() -> None:
    root = suites(target(cases=[case(FIGURES), case(FIGURES, seed=8), case(FIGURES, seed=9)]))
    names = [test.get("name") for test in root.iter("testcase")]
    assert names == ["example: output", "example (seed 8): output", "example (seed 9): output"]


def test_what_xml_cannot_hold_is_replaced_and_the_rest_kept() -> None:
    hostile = {"name": HOSTILE, "ok": False, "why": HOSTILE}
    root = suites(
        target(
            "mismatch",
            target=HOSTILE,
            cases=[case(hostile, name=HOSTILE), case(name="max", skipped=HOSTILE)],
            refusals=[{"name": HOSTILE, "ok": False, "said": HOSTILE}],
            out_of_date=[
                {"reason": "source-changed", "what": HOSTILE, "old": HOSTILE, "new": None}
            ],
            vacuous=[{"output": HOSTILE, "of": "inputs"}],
            no_fp64=HOSTILE,
        ),
        target("crashed", error={"message": HOSTILE, "cause": HOSTILE}),
        strict=True,
    )
    shown = 'a <script>alert("1")</script> ]]> & \ufffd\ufffd[31m\ufffd'
    assert root[0].get("name") == shown
    # An error takes colours away, instead of replacing their first character.
    in_error = shown.replace("[31m\ufffd", "")
    assert {error.get("message") for error in root.iter("error")} == {in_error}
    assert not list(root.iter("script"))


@pytest.mark.parametrize(
    "few", [{}, {"shape": [2], "dtype": "int64"}, {"by": "equal", "mismatched": 0}]
)
@pytest.mark.parametrize("ok", [True, False])
def test_figures_may_be_few(few: dict[str, Any], ok: bool) -> None:
    assert counts(suites(target(cases=[case({"name": "n", "ok": ok, **few})])))[0] == 1


def test_no_targets_is_an_empty_report() -> None:
    assert counts(suites()) == (0, 0, 0, 0)


def properties(root: ElementTree.Element) -> dict[str, str]:
    return {entry.attrib["name"]: entry.attrib["value"] for entry in root.iter("property")}
