"""The files that `verify` writes: JUnit XML that CI can count, and a page that stands alone."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from aoti_build.report.html import html_page
from aoti_build.report.junit import junit_xml

HOSTILE = "<script>alert(1)</script>]]>&\x00\x1b"
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
    "cosine": 0.99,
    "snr_db": None,
    "psnr_db": 12.5,
    "reference_rms": 1.0,
    "mismatched": 0,
    "needed_atol": 0.1,
    "fp64": {"candidate_rmse": 1e-7, "reference_rmse": 1e-7, "allowed": 2e-7},
    "histogram": {"decades": [-3, -2, -1], "counts": [0, 3, 1], "zero": 4},
}
WRONG = {
    **FIGURES,
    "name": "['n']",
    "ok": False,
    "why": "3 of 8 values differ",
    "worst": {"index": [1], "expected": "nan", "got": 2.0},
}


def target(verdict: str = "passed", **fields: Any) -> dict[str, Any]:
    plain = {"stale": [], "cases": [], "refusals": [], "vacuous": [], "no_fp64": None, "deep": None, "error": None}
    return {"target": "small/cpu", "verdict": verdict, "seconds": 1.25, **plain, **fields}


def document(*targets: dict[str, Any], strict: bool = False) -> dict[str, Any]:
    return {"ok": False, "strict": strict, "targets": list(targets)}


def case(*outputs: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": "example", "sizes": {"batch": 4}, "seed": 0, "outputs": list(outputs), **fields}


REASON = {"reason": "source-changed", "what": HOSTILE, "old": None, "new": "a"}
REPORT = document(
    target(
        "mismatch",
        cases=[case(FIGURES, WRONG), case(name="max", skipped="no room")],
        refusals=[
            {"name": "rank 3", "ok": True, "said": "unmatched"},
            {"name": "batch 9", "ok": False, "said": HOSTILE},
        ],
        stale=[REASON],
        vacuous=[{"output": "output", "of": "inputs"}],
        no_fp64=HOSTILE,
        deep={"stage": "weights", "said": HOSTILE},
    ),
    target("crashed", target="second/cpu", error={"kind": "build", "message": HOSTILE, "cause": "SIGSEGV"}),
    target("unavailable", target="third/cuda", stale=[{"reason": "no-device", "what": "cuda"}]),
)


def parsed(report: dict[str, Any]) -> ElementTree.Element:
    return ElementTree.fromstring(junit_xml(report))  # noqa: S314 - our own text


def test_every_comparison_and_every_refusal_is_a_case() -> None:
    suite = parsed(REPORT)[0]
    names = [found.get("name") for found in suite]
    assert names[:5] == ["example: output", "example: ['n']", "max", "rank 3", "batch 9"]
    assert {suite.get("failures"), suite.get("errors"), suite.get("skipped")} == {"2", "0", "1"}
    assert suite.get("tests") == str(len(suite))


def test_a_failure_carries_its_figures_and_an_error_its_words() -> None:
    root = parsed(REPORT)
    (failure,) = root.findall(".//testcase[@name=\"example: ['n']\"]/failure")
    assert "why: 3 of 8 values differ" in str(failure.text)
    assert "rmse: 0.25" in str(failure.text)
    (error,) = root.findall(".//error")
    assert "SIGSEGV" in str(error.text)
    assert (root.get("failures"), root.get("errors"), root.get("skipped")) == ("2", "1", "2")


def test_strict_makes_failures_of_what_is_stale_vacuous_or_unavailable() -> None:
    assert parsed({**REPORT, "strict": True}).get("failures") == "5"


class Page(HTMLParser):
    """Collects text and attributes, and checks that tags are balanced."""

    VOID = frozenset({"meta", "rect", "line", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    "figures", [{"name": "n", "ok": True, "by": "equal", "mismatched": 0}, {"name": "n", "ok": False}]
)
def test_figures_may_be_few(figures: dict[str, Any]) -> None:
    report = document(target(cases=[case(figures)]))
    assert "n" in Page(html_page(report)).text
    assert parsed(report).get("tests") == "1"
