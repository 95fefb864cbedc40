"""The page of `report`: it stands alone, is accessible, and no name or figure can break it."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from report_samples import (
    BASE,
    COMPARISONS,
    MACHINE,
    full_project,
    history,
    publish_bench,
    record_of,
)
from small_projects import publish_fake, write_project

from aoti_build.artifact.manifest import BENCH, Manifest
from aoti_build.artifact.paths import artifact_directory, trace_path
from aoti_build.commands.report.bench import Bench, BenchState
from aoti_build.commands.report.command import ProjectReport, report
from aoti_build.commands.report.history import History, HistorySeries
from aoti_build.measurement.record import (
    Base,
    BenchRecord,
    ComparisonRecord,
    Row,
    Sample,
    Steady,
    Way,
)
from aoti_build.models_file import Project
from aoti_build.report.markdown import markdown_text
from aoti_build.report.page import report_page
from aoti_build.report.scales import tight_scale
from aoti_build.report.templates import render

HOSTILE = 'a <script>alert("1")</script> </style> </svg> {{ 7 * 6 }} \x00\x1b[31m\ud800 | `b` @you'
VOID = {"meta", "link", "br", "hr", "img", "input", "col", "wbr"}


class Page(HTMLParser):
    """Reads a page. Every element that is opened must be closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.source = text
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
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

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    @property
    def words(self) -> str:
        return " ".join(" ".join(text for _, text in self.texts).split())

    def having(self, tag: str, attribute: str) -> list[str]:
        return [
            attrs[attribute] or ""
            for found, attrs in self.tags
            if found == tag and attribute in attrs
        ]


def page_of(project: Project, **options: Any) -> Page:
    return Page(report_page(report(project, project.targets, **options)))


@pytest.fixture
def full(tmp_path: Path) -> Project:
    return full_project(tmp_path)


@pytest.fixture
def full_report(full: Project) -> ProjectReport:
    return report(full, full.targets, history=History({"resnet18/cpu": history()}))


@pytest.fixture
def page(full_report: ProjectReport) -> Page:
    return Page(report_page(full_report))


def test_the_page_needs_nothing_else(page: Page) -> None:
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "image", "use"}
    assert "@import" not in page.source
    assert "url(" not in page.source
    assert not re.search(r"https?://", page.source)
    assert all(reference.startswith("#") for reference in page.having("a", "href"))
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_links_and_labels_lead_to_one_element_each(page: Page) -> None:
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    named = [reference.removeprefix("#") for reference in page.having("a", "href")]
    for _, attrs in page.tags:
        named += (attrs.get("aria-labelledby") or "").split()
    assert named
    assert set(named) <= set(identifiers)


def test_the_overview_says_what_is_known_of_each_target(page: Page) -> None:
    for text in ("resnet18/cpu", "up-to-date", "passed", "86 %", "74.0 ms", "37.1 ms"):
        assert text in page.words
    assert "1 of 4 worse" in page.words
    assert "unavailable" in page.words
    assert "no artifact" in page.words


def test_what_is_missing_is_said_with_its_command(page: Page) -> None:
    code = [text for tag, text in page.texts if tag == "code"]
    assert "invoke build --target resnet18/cuda" in code
    assert "invoke bench --target encoder/cpu" in code


def test_reasons_stages_and_trace_are_shown(page: Page) -> None:
    assert "source-changed: model.py aaaaaaaaaaaa -> bbbbbbbbbbbb" in page.words
    for text in ("compile", "20.0 s", "start of workers, publication", "3.60 s"):
        assert text in page.words
    assert "Critical path" in page.words
    assert "g++ model.cpp" in page.words


def test_a_step_of_the_history_is_marked_and_explained(page: Page) -> None:
    assert ("text", "+8.3 %") in page.texts
    assert "2026-11-16 12:00:00 UTC (1523456789ab): +8.3 %; torch 2.13.0 -> 2.14.1" in page.words
    assert page.source.count('<circle class="point"') == 24


def test_a_way_that_failed_is_shown_with_its_error(page: Page) -> None:
    assert "onnxruntime was not measured" in page.words
    assert "the operator aten::grid_sampler is not supported" in page.words


def test_every_chart_has_a_title_and_its_figures_as_text(page: Page) -> None:
    charts = [attrs for tag, attrs in page.tags if tag == "svg" and "role" in attrs]
    assert len(charts) >= 7
    descriptions = [text for tag, text in page.texts if tag == "desc"]
    titles = [text for tag, text in page.texts if tag == "title"]
    assert len(descriptions) == len(charts)
    assert len(titles) > len(charts)
    assert any("torch.compile, empty cache: 23.8 s" in text for text in descriptions)
    cells = [text for tag, text in page.texts if tag == "td"]
    for figure in ("23.8 s", "1.061 to 1.106", "37.1 ms", "36.3 ms"):
        assert figure in cells


def test_headings_are_in_order_and_landmarks_are_there(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    for before, after in pairwise(levels):
        assert after <= before + 1
    names = [tag for tag, _ in page.tags]
    assert names.count("main") == 1
    assert "header" in names
    assert "footer" in names
    assert page.having("html", "lang") == ["en"]


def test_tables_have_heads_captions_and_a_box_that_the_keyboard_reaches(page: Page) -> None:
    names = [tag for tag, _ in page.tags]
    assert names.count("table") == names.count("caption")
    heads = [attrs for tag, attrs in page.tags if tag == "th"]
    assert all(attrs.get("scope") in ("col", "row") for attrs in heads)
    for tag, attrs in page.tags:
        if "scroll" in (attrs.get("class") or "").split():
            assert tag == "div"
            assert attrs["tabindex"] == "0"
            assert attrs["role"] == "region"
            assert attrs["aria-label"]


def test_a_state_is_a_word_and_a_sign_besides_its_colour(page: Page) -> None:
    signs = {"good": "✓", "bad": "✗", "warning": "!", "neutral": "–"}  # noqa: RUF001
    pills = re.findall(
        r'<span class="pill (\w+)"><span aria-hidden="true">(.)</span> ([^<]+)<', page.source
    )
    assert {state for state, _, _ in pills} == set(signs)
    assert all(signs[state] == sign and word.strip() for state, sign, word in pills)


def test_light_dark_phone_and_print_have_rules(page: Page) -> None:
    for rule in ("prefers-color-scheme: dark", "max-width: 40rem", "@media print", "tabular-nums"):
        assert rule in page.source
    assert "width=device-width" in page.having("meta", "content")[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_enough_contrast(page: Page, scheme: str) -> None:
    colours = _colours(page.source, scheme)
    pairs = [(text, back) for text in ("ink", "soft", "link") for back in ("paper", "card")]
    for state in ("good", "bad", "warning", "neutral"):
        pairs += [(state, f"{state}-bg"), (state, "card")]
    for text, background in pairs:
        assert _contrast(colours[text], colours[background]) >= 4.5, (text, background)


def _colours(source: str, scheme: str) -> dict[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", source, re.S)
    block = blocks[0] if scheme == "light" else blocks[1]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", block))


def _contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    digits = colour[1:]
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    parts = []
    for index in (0, 2, 4):
        value = int(digits[index : index + 2], 16) / 255
        parts.append(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def test_a_project_without_artifacts_has_a_page_too(project: Project) -> None:
    made = report(project, project.targets)
    page = Page(report_page(made))
    assert "There is no readable artifact" in page.words
    assert "no-artifact" in page.words
    assert "There is no trace" in page.words
    assert made.as_json()["ok"] is True
    assert "| `small/cpu` | build | no artifact |" in markdown_text(made)


def test_no_target_at_all(project: Project) -> None:
    made = report(project, ())
    assert "lists no target" in Page(report_page(made)).words
    assert "There are no targets." in markdown_text(made)


@pytest.mark.usefixtures("published")
def test_an_unreadable_benchmark_is_named(project: Project) -> None:
    (artifact_directory(project, project.targets[0]) / BENCH).write_text("{")
    page = page_of(project)
    assert "unreadable" in page.words
    assert "bench.json beside the artifact cannot be read" in page.words
    assert "Cold start" not in page.words


def test_figures_of_an_earlier_artifact_are_not_those_of_this_one(project: Project) -> None:
    manifest = publish_fake(project)
    publish_bench(project, project.targets[0], manifest, package_sha256="0" * 64)
    made = report(project, project.targets)
    page = Page(report_page(made))
    assert "The benchmark is of an earlier artifact" in page.words
    assert ("td", "outdated") in page.texts
    assert "an earlier artifact." in page.words
    assert made.targets[0].record is None
    assert "Cold start of" not in markdown_text(made)


@pytest.mark.usefixtures("published")
def test_an_unreadable_trace_is_named(project: Project) -> None:
    path = trace_path(project)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no gzip")
    assert "The trace of the last build cannot be read" in page_of(project).words


@pytest.mark.usefixtures("published")
def test_the_newest_verify_counts_if_it_is_of_this_artifact(project: Project) -> None:
    directory = artifact_directory(project, project.targets[0])
    made = report(project, project.targets)
    manifest = made.targets[0].manifest
    assert manifest is not None
    assert made.targets[0].verification is not None
    assert made.targets[0].verification.source == "build"
    _write_verdict(directory, manifest.key)
    page = page_of(project)
    assert "mismatch" in page.words
    assert "it differs" in page.words
    _write_verdict(directory, "0" * 64)
    assert "mismatch" not in page_of(project).words


def _write_verdict(directory: Path, key: str) -> None:
    output = {"name": "output", "ok": False, "max_abs": 0.5}
    document = {
        "format": "aoti-build/verdict",
        "format_version": 2,
        "key": key,
        "verdict": "mismatch",
        "cases": [{"name": "example", "sizes": {}, "seed": 0, "outputs": [output]}],
        "refusals": [],
        "error": {"message": "it differs"},
    }
    (directory / "verify.json").write_text(json.dumps(document))


def test_no_text_breaks_the_page(project: Project) -> None:
    reason = {"reason": "source-changed", "what": HOSTILE, "old": None, "new": None}
    manifest = publish_fake(project)
    record = record_of(
        manifest,
        machine=replace(MACHINE, machine_class=HOSTILE, facts={HOSTILE: HOSTILE}),
        rows=(Row(Way.EAGER, None, error=HOSTILE),),
        comparisons=(replace(COMPARISONS[0], base=HOSTILE, verdict=HOSTILE, why=HOSTILE),),
        base=replace(BASE, name=HOSTILE),
    )
    made = report(project, project.targets)
    target = made.targets[0]
    object.__setattr__(target, "bench", Bench(BenchState.MEASURED, record))
    series = history()[0]
    hostile = HistorySeries(HOSTILE, series.unit, HOSTILE, series.points, series.steps)
    object.__setattr__(target, "history", (hostile,))
    object.__setattr__(made, "name", HOSTILE)
    object.__setattr__(made, "notes", (HOSTILE,))
    object.__setattr__(manifest, "reasons", (reason,))
    object.__setattr__(target.step, "manifest", manifest)
    page = Page(report_page(made))
    assert "<script" not in page.source
    assert "{{ 7 * 6 }}" in page.words
    assert not set(page.source) & {"\x00", "\x1b", "\ud800"}
    text = markdown_text(made)
    assert "<script" not in text
    assert "@you" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith(" |") for line in rows)


@pytest.fixture(scope="module")
def any_report(tmp_path_factory: pytest.TempPathFactory) -> ProjectReport:
    """The report of one target, for tests that put another benchmark into it."""
    project = write_project(tmp_path_factory.mktemp("any") / "project")
    publish_fake(project)
    return report(project, project.targets)


def _few(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=2).map(tuple)


SIZES = st.dictionaries(st.text(max_size=9), st.integers(), max_size=2)
COMPARISON = st.builds(ComparisonRecord, sizes=SIZES)
STEADY = st.builds(
    Steady,
    sizes=SIZES,
    histogram=_few(st.integers(min_value=0)),
    histogram_edges=_few(st.floats()),
)
RECORD = st.builds(
    BenchRecord,
    rows=_few(st.builds(Row, samples=_few(st.builds(Sample, steady=_few(STEADY))))),
    comparisons=_few(COMPARISON),
    base=st.none() | st.builds(Base, comparisons=_few(COMPARISON), samples=st.just(())),
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(record=RECORD, state=st.sampled_from(BenchState))
def test_any_benchmark_has_a_page(
    any_report: ProjectReport, record: BenchRecord, state: BenchState
) -> None:
    (target,) = any_report.targets
    shown = dataclasses.replace(target, bench=Bench(state, record))
    made = dataclasses.replace(any_report, targets=(shown,))
    page = Page(report_page(made))
    for tag in ("rect", "line", "circle", "text"):
        for name in ("x", "x1", "x2", "cx"):
            for place in page.having(tag, name):
                assert 0 <= float(place.removesuffix("%")) <= 100
    markdown_text(made)
    made.as_json()


def test_templates_exist() -> None:
    with pytest.raises(Exception, match="absent"):
        render("absent.html.j2")


def test_a_manifest_without_stages_or_reasons(project: Project) -> None:
    manifest: Manifest = publish_fake(project, seconds={}, provenance={})
    assert manifest.reasons == ()
    words = page_of(project).words
    assert "Why it was built" not in words
    assert "Where its time went" not in words


def test_a_project_of_the_name_of_its_directory(tmp_path: Path) -> None:
    project = write_project(tmp_path / "my models & more")
    page = page_of(project)
    assert ("h1", "my models & more") in page.texts


def test_a_scale_whose_width_no_float_holds() -> None:
    assert tight_scale([5e-324]).at(5e-324) == 0.0
