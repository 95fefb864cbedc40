"""release.json is read as it was written, and nothing else is taken for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aoti_build.artifact.bundle.record import (
    PreviousRelease,
    ReleasedTarget,
    ReleaseFile,
    ReleaseRecord,
    Source,
    Verification,
    parse_release,
    release_json,
)
from aoti_build.errors import ArtifactError

RECORD = ReleaseRecord(
    name="shop",
    version="1.2",
    created="2026-01-02T03:04:05Z",
    aoti_build="1.0",
    source=Source(commit="a" * 40, dirty=False),
    targets=(
        ReleasedTarget(
            target="net/cpu",
            key="0" * 64,
            graph_key="1" * 64,
            package_sha256="2" * 64,
            size=5,
            requires={"device": "cpu"},
            key_parts={"spec": "3" * 64},
            toolchain={"torch": "2.14.1"},
            verification=Verification(passed=True, cases=8, at="2026-01-02T03:04:05Z"),
        ),
    ),
    files={"models/net/cpu/model.pt2": ReleaseFile(sha256="2" * 64, size=5, mode="644")},
    previous=PreviousRelease(version="1.1", sha256="4" * 64),
)


def written(**changes: Any) -> bytes:
    return json.dumps({**release_json(RECORD), **changes}).encode()


def test_round_trip() -> None:
    assert parse_release(written(), "release.json") == RECORD


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"format_version": 2},
        {"format_version": 1.0},
        {"format_version": True},
        {"unheard_of": 1},
        {"version": 1.2},
        {"targets": {}},
        {"source": "\udc80"},
        {"files": {"a": "\udc80"}},
        {"files": {"a": {"sha256": "0", "size": 2.0, "mode": "644"}}},
    ],
)
def test_another_document_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError) as caught:
        parse_release(written(**change), "release.json")
    assert caught.value.where == "release.json"
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b'{"a": NaN}'])
def test_no_json_is_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError):
        parse_release(content, "release.json")


def test_a_doubled_name_is_refused() -> None:
    doubled = written().replace(b'{"format"', b'{"version": "9", "format"')
    with pytest.raises(ArtifactError, match="occurs twice"):
        parse_release(doubled, "release.json")
