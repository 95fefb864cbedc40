"""The page of `verify`: it stands alone, says everything in words, and no name can break it."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
from verify_documents import case, target, verify_report

import aoti_build
from aoti_build.report.html import html_page

HOSTILE = 'a <script>alert("1")</script> </style> ]]> & {{ 7 * 6 }} \x00\x1b[31m\ud800'
HISTOGRAM = {
    "decades": list(range(-12, 2)),
    "counts": [0, 0, 0, 0, 4321, 40, 1, 0, 0, 0, 0, 0, 0, 0],
    "zero": 5,
}
FIGURES = {
    "name": "output",
    "ok": True,
    "by": "allclose",
    "dtype": "float32",
    "shape": [4, 8],
    "atol": 1.5e-6,
    "rtol": 1.25e-5,
    "max_abs": 3.5e-7,
    "max_rel": None,
    "rmse": 2.5e-7,
    "cosine": 0.99999999,
    "snr_db": None,
    "psnr_db": 141.1,
    "reference_rms": 1.5,
    "mismatched": 1234,
    "needed_atol": 4.5e-7,
    "worst": {"index": [1, 3], "expected": "nan", "got": 2.25},
    "fp64": {"candidate_rmse": 5.5e-7, "reference_rmse": 6.5e-7, "allowed": 7.5e-7},
    "histogram": HISTOGRAM,
}
WRONG = {**FIGURES, "name": "['n']", "ok": False, "why": "3 of 8 values differ", "max_abs": 0.5}
OUT_OF_DATE = {"reason": "source-changed", "what": "model.py", "old": None, "new": "b"}
ERROR = {
    "message": "it is damaged",
    "where": "a.pt2",
    "cause": "cut off",
    "hint": "build it",
}
VOID = {"meta", "link", "br", "hr", "img", "input", "col", "wbr"}


class Page(HTMLParser):
    """Reads a page; every tag that is opened must be closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag not in {"code", "span"}:  # a new cell or line is a gap between words
            self.text += " "

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def having(self, tag: str, attribute: str) -> list[str]:
        return [
            attrs[attribute] or ""
            for found, attrs in self.tags
            if found == tag and attribute in attrs
        ]


def page(*targets: dict[str, Any], strict: bool = False) -> Page:
    return Page(html_page(verify_report(*targets, strict=strict)))


EVERYTHING = (
    target(
        "mismatch",
        cases=[
            case(FIGURES, WRONG),
            case(FIGURES, name="max", sizes={"batch": 32}),
            case(name="min", skipped="no room"),
        ],
        out_of_date=[OUT_OF_DATE],
        vacuous=[{"output": "output", "of": "inputs"}],
        refusals=[
            {"name": "rank 3", "ok": True, "said": "unmatched"},
            {"name": "rank 1", "ok": False, "said": "came"},
        ],
        no_fp64="no kernel",
        localization={
            "stage": "weights",
            "said": "other weights",
            "weights": [
                {"name": "fc.bias", "max_abs": None},
                {"name": "fc.weight", "max_abs": 0.25},
            ],
            "left": {
                "module": "fc",
                "class": "Linear",
                "source": "m.py:3",
                "figures": WRONG,
                "missing": ["drop"],
            },
        },
    ),
    target("refused", target="second/cpu", error=ERROR),
    target(
        "unavailable", target="third/cuda", out_of_date=[{"reason": "no-device", "what": "cuda"}]
    ),
)


@pytest.mark.parametrize("strict", [False, True])
def test_the_page_needs_nothing_else(strict: bool) -> None:
    text = html_page(verify_report(*EVERYTHING, strict=strict))
    assert not re.search(r"https?://|\ssrc=|<script|<link|@import|url\(", text)
    found = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert all(place.startswith("#t") for place in found.having("a", "href"))
    assert set(found.having("a", "href")) == {f"#{name}" for name in found.having("section", "id")}
    assert "width=device-width, initial-scale=1" in found.having("meta", "content")
    assert "prefers-color-scheme: dark" in text


def test_the_footer_explains_the_figures_and_names_the_release() -> None:
    footer = page(target()).words.partition("In a histogram,")[2]
    for said in (
        "\N{MINUS SIGN}7 counts the values whose absolute error is from 1e-7 to below 1e-6",
        "The dashed line is the smallest atol of the cases",
        f"Page by aoti_build {aoti_build.__version__}.",
    ):
        assert said in footer


def test_everything_is_told_in_words() -> None:
    words = page(*EVERYTHING).words
    for said in (
        "2 of 3 artifacts failed",
        "1 mismatch",
        "small/cpu",
        "second/cpu",
        "third/cuda",
        "unavailable",
        "no-device: cuda",
        "example batch 4 7",
        "max batch 32 7",
        "skipped: no room",
        "ok 3.50e-07",
        "failed 5.00e-01",
        "not compared",
        "failed in 1 of 1",
        "ok in 2 of 2",
        "3 of 8 values differ",
        "source-changed: model.py",
        "would pass for other inputs too",
        "no kernel",
        "rank 3 ok unmatched",
        "rank 1 failed came",
        "1 of 2 ok",
        "Where it differs from the model: weights",
        "fc [Linear]",
        "fc.bias none fc.weight 2.50e-01",
        "m.py:3",
        "it is damaged where a.pt2 cause cut off next build it",
    ):
        assert said in words, said


def test_every_figure_is_in_the_table_of_its_output() -> None:
    words = page(target(cases=[case(FIGURES)])).words
    for said in (
        "3.50e-07 infinite 2.50e-07 1,234",
        "allclose 1.50e-06 1.25e-05 4.50e-07",
        "1.50e+00 0.999999990 infinite 141.1",
        "5.50e-07 6.50e-07 7.50e-07",
        "[1, 3] nan 2.25",
        "float32 [4, 8]",
    ):
        assert said in words, said


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            {"by": "tolerance", "atol": 0.5, "rtol": 0.25},
            "atol 5.00e-01 plus rtol 2.50e-01 times |eager|, as models.yaml",
        ),
        (
            {"by": "fp64", "fp64": FIGURES["fp64"]},
            "RMSE to float64 of 7.50e-07; eager's own is 6.50e-07",
        ),
        ({"by": "equal", "mismatched": 0}, "All values must be equal"),
        ({"by": "agreement", "agreement": 0.9975}, "ok 0.997500"),
        ({"by": "iou", "iou": 0.5}, "ok 0.500000"),
        ({"by": "a-new-rule"}, "Decided by a-new-rule"),
        ({}, "example batch 4 7 ok"),
        ({"ok": False}, "example batch 4 7 failed"),
    ],
    ids=str,
)
def test_the_bound_is_told_and_figures_may_be_few(figures: dict[str, Any], said: str) -> None:
    assert said in page(target(cases=[case({"name": "n", "ok": True, **figures})])).words


def test_bounds_that_differ_between_cases_are_a_range() -> None:
    words = page(
        target(
            cases=[case(FIGURES), case({**FIGURES, "atol": 2.5e-6, "shape": [32, 8]}, name="max")]
        )
    ).words
    assert "atol 1.50e-06 to 2.50e-06" in words
    assert "float32 [4\N{EN DASH}32, 8]" in words


def test_the_matrix_has_a_titled_cell_for_each_case_and_output() -> None:
    titles = page(*EVERYTHING).having("td", "title")
    assert len(titles) == 3
    assert all("max abs" in title for title in titles)
    assert "3 of 8 values differ" in titles[1]


def test_the_histogram_counts_all_cases() -> None:
    found = page(target(cases=[case(FIGURES), case(FIGURES, name="max")]))
    (said,) = found.having("svg", "aria-label")
    assert "8,642 from 1e-8 to below 1e-7" in said
    assert "10 values without any" in said
    heights = [float(height) for height in found.having("rect", "height")]
    assert len(heights) == 4
    assert max(heights) == heights[1]
    assert min(heights) > 0
    assert "8.6k" in found.words
    assert (
        len([attrs for tag, attrs in found.tags if tag == "line" and attrs["class"] == "atol"]) == 1
    )


@pytest.mark.parametrize(
    "histogram",
    [
        {**HISTOGRAM, "counts": [0] * 14},
        {"decades": [], "counts": [], "zero": 0},
        {**HISTOGRAM, "zero": 0},
    ],
)
def test_histograms_may_be_empty(histogram: dict[str, Any]) -> None:
    assert "ok" in page(target(cases=[case({**FIGURES, "histogram": histogram})])).words


def test_doubts_fail_only_with_strict() -> None:
    doubtful = target(
        cases=[case(FIGURES)],
        out_of_date=[OUT_OF_DATE],
        vacuous=[{"output": "output", "of": "weights"}],
    )
    lenient, strict = page(doubtful), page(doubtful, strict=True)
    assert "1 artifact passed" in lenient.words
    assert "fails: strict" not in lenient.words
    assert "1 of 1 artifact failed" in strict.words
    assert strict.words.count("(fails: strict)") == 2


def test_an_unavailable_device_fails_only_with_strict() -> None:
    assert "0 of 1 artifact passed, none failed" in page(target("unavailable")).words
    absent = target("unavailable", out_of_date=[{"reason": "no-device", "what": "cuda"}])
    words = page(absent, strict=True).words
    assert "1 of 1 artifact failed" in words
    assert "no-device: cuda" in words
    assert "out_of_date" not in words


@pytest.mark.parametrize(
    "verdict", ["crashed", "timeout", "unverified", "missing", "not-known-yet"]
)
def test_any_other_verdict_is_a_failure(verdict: str) -> None:
    words = page(target(verdict, error=ERROR)).words
    assert "1 of 1 artifact failed" in words
    assert f"✗ {verdict}" in words


def test_hostile_texts_are_only_text() -> None:
    hostile = {"name": HOSTILE, "ok": False, "why": HOSTILE, "dtype": HOSTILE, "by": HOSTILE}
    found = page(
        target(
            "mismatch",
            target=HOSTILE,
            cases=[
                case(hostile, name=HOSTILE, sizes={HOSTILE: 1}),
                case(name="max", skipped=HOSTILE),
            ],
            refusals=[{"name": HOSTILE, "ok": False, "said": HOSTILE}],
            out_of_date=[
                {"reason": "source-changed", "what": HOSTILE, "old": HOSTILE, "new": None}
            ],
            vacuous=[{"output": HOSTILE, "of": "inputs"}],
            no_fp64=HOSTILE,
            localization={"stage": "none", "said": HOSTILE, "weights": [], "left": None},
            error={"message": HOSTILE, "cause": HOSTILE},
        ),
    )
    assert "script" not in {tag for tag, _ in found.tags}
    assert (
        'a <script>alert("1")</script> </style> ]]> & {{ 7 * 6 }} \ufffd\ufffd[31m\ufffd'
        in found.text
    )
    assert not re.search("[\x00-\x08\x0b-\x1f\ud800-\udfff]", found.text)


def test_no_targets_make_a_page() -> None:
    assert "0 artifacts passed" in page().words


def test_importing_the_module_imports_neither_jinja2_nor_torch() -> None:
    program = (
        "import sys, aoti_build.report.html; assert not {'jinja2', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
