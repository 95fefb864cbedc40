"""Versions of releases are ordered as people expect, and addresses of repositories keep no
secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from aoti_build.artifact.bundle.checkout import public_address, repository_name
from aoti_build.artifact.bundle.versions import read_version
from aoti_build.errors import UsageError

ORDERED = [
    "0.9",
    "1.0.dev1",
    "1.0.dev2",
    "1.0a1",
    "1.0-beta.1",
    "1.0b2",
    "1.0.0-rc.1",
    "1.0rc2",
    "1.0",
    "1.0.post1",
    "1.0.1",
    "1.2",
    "1.10",
    "2026.1",
]


def test_the_order() -> None:
    versions = [read_version(text) for text in ORDERED]
    assert versions == sorted(versions)
    assert len(set(versions)) == len(ORDERED)


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0.0"), ("1.0", "1.0+build.7"), ("1.0rc1", "1.0-rc.1"), ("1.0alpha2", "1.0a2")],
)
def test_equal_versions(one: str, other: str) -> None:
    assert read_version(one) == read_version(other)


@pytest.mark.parametrize(
    "text",
    [
        *("", "v1.0", "1.", "1..2", "1.0-", "1.0+", "one", "1.0 ", "1.0\n", "../1", "1/2", "1.0x1"),
        *("\N{ARABIC-INDIC DIGIT ONE}", "1" * 65, "1.0-rc.1.2"),
    ],
)
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(UsageError, match="is not a version"):
        read_version(text)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://example.org/us/shop.git", "https://example.org/us/shop.git"),
        ("https://token@example.org/us/shop", "https://example.org/us/shop"),
        ("https://me:word@example.org:8443/shop?t=1#x", "https://example.org:8443/shop"),
        ("ssh://git@example.org:22/us/shop", "ssh://example.org:22/us/shop"),
        ("git@example.org:us/shop.git", "ssh://example.org/us/shop.git"),
        ("example.org:us/shop.git", "ssh://example.org/us/shop.git"),
        ("/home/me/shop", None),
        ("../shop", None),
        ("file:///home/me/shop", None),
        ("https://example.org:port/shop", None),
    ],
)
def test_public_addresses(address: str, public: str | None) -> None:
    assert public_address(address) == public


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://example.org/us/shop.git", "shop"),
        ("https://example.org/us/shop/", "shop"),
        ("https://example.org/", "example.org"),
        (None, "place"),
    ],
)
def test_the_name_of_a_project(address: str | None, name: str) -> None:
    assert repository_name(address, Path("/some/place")) == name
