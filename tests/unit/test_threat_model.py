"""The page on threats names tests that show what it says."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "explanation" / "threat-model.md"


def test_the_named_tests_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE.read_text()))
    assert named
    defined: set[str] = set()
    for file in TESTS.rglob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", file.read_text(), re.M))
    assert named - defined == set()


def test_every_attempt_against_a_registry_names_a_test() -> None:
    _, _, rest = PAGE.read_text().partition("## Registries")
    section, _, _ = rest.partition("\n## ")
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) > 10
    for row in rows[2:]:
        assert re.search(r"\| `test_\w+`[^|]* \|$", row), row
