"""Pages in headless Chromium: nothing is wider than the page, at three widths."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from report_samples import full_project, history
from small_projects import REPOSITORY
from verify_documents import case, target, verify_report

from aoti_build.commands.report.command import report
from aoti_build.commands.report.history import History
from aoti_build.report.html import html_page
from aoti_build.report.page import report_page


def _tool() -> ModuleType:
    path = REPOSITORY / "tools" / "page_screenshots.py"
    specification = importlib.util.spec_from_file_location("page_screenshots", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["page_screenshots"] = module
    specification.loader.exec_module(module)
    return module


screenshots = _tool()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(screenshots.find_chromium() is None, reason="there is no Chromium"),
]


@pytest.mark.parametrize("width", screenshots.WIDTHS)
def test_the_report_fits(tmp_path: Path, width: int) -> None:
    project = full_project(tmp_path)
    made = report(project, project.targets, history=History({"resnet18/cpu": history()}))
    page = tmp_path / "report.html"
    # As with all tables unfolded.
    page.write_text(report_page(made).replace("<details>", "<details open>"))
    found_width, _, wide = screenshots.measure(screenshots.find_chromium(), page, width)
    assert (found_width, wide) == (width, "")


def test_the_page_of_verify_fits_on_a_phone(tmp_path: Path) -> None:
    figures = {"name": "output", "ok": True, "max_abs": 1e-7, "atol": 1e-4}
    page = tmp_path / "verify.html"
    page.write_text(html_page(verify_report(target("passed", cases=[case(figures)]))))
    found_width, _, wide = screenshots.measure(screenshots.find_chromium(), page, 360)
    assert (found_width, wide) == (360, "")


def test_what_is_too_wide_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "wide.html"
    page.write_text('<!DOCTYPE html><body><p class="long" style="width:900px">x</p></body>')
    found_width, _, wide = screenshots.measure(screenshots.find_chromium(), page, 360)
    assert found_width > 360
    assert wide == "P.long"
