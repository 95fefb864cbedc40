"""manifest.json: what is written is read back, and whatever else lies there is a reason and never an exception."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_projects import sealed

from aoti_build.digests import block_digest, block_size, digest_bytes
from aoti_build.fingerprint import REASONS
from aoti_build.manifest import GOLDEN, MANIFEST, MODEL, FileRecord, Manifest, NoManifest, read_manifest

MANIFEST_VALUE = Manifest(
    target="small/cpu",
    models_file="models.yaml",
    key="a" * 64,
    graph_key="b" * 64,
    weights={"apart": True, "alignment": 64},
    source={
        **{group: {} for group in REASONS},
        "spec": {"seed": 0, "kwargs.width": [1, 2]},
        "sources": {"model.py": "c" * 64, "gone.py": None},
    },
    files={MODEL: FileRecord("d" * 64, 3), GOLDEN: FileRecord("e" * 64, 4)},
    requires={"device": "cpu", "platform": "linux", "machine": "x86_64", "torch": "2.14.1", "cpu_features": ["avx2"]},
    signature={
        "inputs": [],
        "outputs": [{"name": "output", "dtype": "float32", "shape": ["batch", 4]}],
        "dims": {"batch": {"min": 1, "max": 8, "multiple_of": 1}},
    },
    check={"passed": True, "tolerance": {"atol": 1e-4, "rtol": None, "outputs": {}}},
    seconds={"total": 1.5},
    reasons=({"reason": "no-artifact", "what": "", "old": None, "new": None},),
    provenance={"created": "2024-01-01T00:00:00+00:00", "git_dirty": False},
)
DOCUMENT = json.loads(json.dumps(MANIFEST_VALUE.as_json()))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def test_it_is_read_back_as_it_was(tmp_path: Path) -> None:
    MANIFEST_VALUE.write(tmp_path)
    assert read_manifest(tmp_path) == MANIFEST_VALUE


def test_it_says_what_it_is(tmp_path: Path) -> None:
    MANIFEST_VALUE.write(tmp_path)
    document = json.loads((tmp_path / MANIFEST).read_text())
    assert document["format"] == "aoti-build/manifest"
    assert document["format_version"] == 2


@pytest.mark.parametrize("change", [{"action": "reused"}, {"sha256": "0" * 64}, {"sha256": None}])
def test_an_edit_that_leaves_it_well_formed_is_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    MANIFEST_VALUE.write(tmp_path)
    document = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**document, **change}))
    found = read_manifest(tmp_path)
    assert is_damage(found)
    assert "edited" in str(found)


def test_one_that_was_never_compared_says_why(tmp_path: Path) -> None:
    unchecked = {**DOCUMENT["check"], "passed": None, "why": "this processor lacks avx512f"}
    found = read(tmp_path, {**DOCUMENT, "check": unchecked})
    assert isinstance(found, Manifest)
    assert found.unchecked == "this processor lacks avx512f"
    assert MANIFEST_VALUE.unchecked is None


@pytest.mark.parametrize(
    "check", [{"passed": False}, {"passed": "yes"}, {"passed": None}, {"passed": None, "why": 1}, {}]
)
def test_an_artifact_whose_check_did_not_pass_is_none(tmp_path: Path, check: dict[str, Any]) -> None:
    assert is_damage(read(tmp_path, {**DOCUMENT, "check": {**DOCUMENT["check"], **check} if check else {}}))


def test_none_at_all_is_not_damage(tmp_path: Path) -> None:
    for directory in (tmp_path / "absent", tmp_path):
        assert read_manifest(directory) == NoManifest(damaged=False, why="no manifest.json")


def test_files_without_a_manifest_are_damage(tmp_path: Path) -> None:
    (tmp_path / MODEL).touch()
    assert read_manifest(tmp_path) == NoManifest(damaged=True, why="no manifest.json")


def test_a_later_version_is_refused_and_named(tmp_path: Path) -> None:
    found = read(tmp_path, {**DOCUMENT, "format_version": 7})
    assert isinstance(found, NoManifest)
    assert found.damaged
    assert "7" in found.why


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b"null", b'"x"', b"{}", b'{"format": "x"}', b"\xff\xff", b"{"], ids=repr
)
def test_what_is_no_manifest_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    assert is_damage(read_manifest(tmp_path))


def test_a_directory_in_its_place_is_damage(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    assert is_damage(read_manifest(tmp_path))


@pytest.mark.parametrize("field", sorted({*DOCUMENT} - {"sha256"}))
def test_a_missing_field_is_damage(tmp_path: Path, field: str) -> None:
    assert is_damage(read(tmp_path, {name: value for name, value in DOCUMENT.items() if name != field}))


@pytest.mark.parametrize(
    "field",
    sorted({*DOCUMENT} - {"sha256", "target", "models_file", "key", "graph_key", "action"}),
)
@pytest.mark.parametrize("value", [None, 3, "text", [3]], ids=repr)
def test_a_field_of_another_type_is_damage(tmp_path: Path, field: str, value: object) -> None:
    assert is_damage(read(tmp_path, {**DOCUMENT, field: value}))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {MODEL: {"sha256": "d" * 64, "size": 3}},
        {GOLDEN: {"sha256": "d" * 64, "size": 3}},
        {**DOCUMENT["files"], MODEL: {"sha256": "d" * 64}},
        {**DOCUMENT["files"], MODEL: {"sha256": "d" * 64, "size": "large"}},
        {**DOCUMENT["files"], "../../outside": {"sha256": "d" * 64, "size": 3}},
        {**DOCUMENT["files"], "/etc/passwd": {"sha256": "d" * 64, "size": 3}},
        {**DOCUMENT["files"], MODEL: {"sha256": "../" * 21 + "x", "size": 3}},
        {**DOCUMENT["files"], MODEL: {"sha256": "D" * 64, "size": 3}},
        {**DOCUMENT["files"], MODEL: {"sha256": "d" * 63, "size": 3}},
        {**DOCUMENT["files"], MODEL: {"sha256": "d" * 64, "size": float("inf")}},
        {**DOCUMENT["files"], MODEL: {"sha256": "d" * 64, "size": float("nan")}},
        {MODEL: DOCUMENT["files"][MODEL]},
        {GOLDEN: DOCUMENT["files"][GOLDEN]},
    ],
    ids=lambda files: ",".join(files) or "none",
)
def test_files_that_no_artifact_has_are_damage(tmp_path: Path, files: dict[str, Any]) -> None:
    assert is_damage(read(tmp_path, {**DOCUMENT, "files": files}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seconds", {"total": 10**400}),
        ("signature", []),
        ("signature", {}),
        ("signature", {"inputs": [], "outputs": [{"dtype": "float32"}], "dims": {}}),
        ("signature", {"inputs": [{"name": 3}], "outputs": [], "dims": {}}),
        ("signature", {"inputs": "input", "outputs": [], "dims": {}}),
        ("signature", {"inputs": None, "outputs": [], "dims": {}}),
        ("requires", []),
        ("requires", {}),
        ("requires", {**DOCUMENT["requires"], "torch": 2}),
        ("requires", {**DOCUMENT["requires"], "cpu_features": "avx2"}),
        ("requires", {**DOCUMENT["requires"], "cpu_features": [["avx2"]]}),
        ("requires", {**DOCUMENT["requires"], "compute_capability": 9.0}),
        ("requires", {**DOCUMENT["requires"], "gpu_code": ["sm_80", 90]}),
        ("requires", {**DOCUMENT["requires"], "gpu_code": 1}),
    ],
    ids=str,
)
def test_tables_of_another_shape_are_damage(tmp_path: Path, field: str, value: object) -> None:
    assert is_damage(read(tmp_path, {**DOCUMENT, field: value}))


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000], ids=["lists", "tables"])
def test_what_is_nested_too_deep_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    assert is_damage(read_manifest(tmp_path))


def test_cut_at_every_byte_it_is_damage(tmp_path: Path) -> None:
    MANIFEST_VALUE.write(tmp_path)
    whole = (tmp_path / MANIFEST).read_bytes()
    for length in range(len(whole.rstrip())):
        (tmp_path / MANIFEST).write_bytes(whole[:length])
        assert is_damage(read_manifest(tmp_path))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_byte_is_never_an_exception(data: st.DataObject) -> None:
    content = bytearray(json.dumps(DOCUMENT).encode())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / MANIFEST).write_bytes(content)
        assert isinstance(read_manifest(Path(directory)), Manifest | NoManifest)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(DOCUMENT)), ANY_JSON)
def test_any_value_in_any_field_is_never_an_exception(field: str, value: object) -> None:
    with tempfile.TemporaryDirectory() as directory:
        assert isinstance(read(Path(directory), {**DOCUMENT, field: value}), Manifest | NoManifest)


def read(directory: Path, document: Mapping[str, Any]) -> Manifest | NoManifest:
    (directory / MANIFEST).write_text(json.dumps(sealed(document)))
    return read_manifest(directory)


def is_damage(found: Manifest | NoManifest) -> bool:
    return isinstance(found, NoManifest) and found.damaged and bool(found.why)


BLOCK = 4 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of two blocks and a bit."""
    path = tmp_path_factory.mktemp("large") / "model.pt2"
    path.write_bytes(bytes(range(256)) * (2 * BLOCK // 256) + b"the end")
    return path


def test_a_large_file_is_recorded_by_block_as_well(large: Path) -> None:
    record = FileRecord.of(large)
    content = large.read_bytes()
    assert record.sha256 == digest_bytes(content)
    assert (record.size, record.block) == (len(content), BLOCK)
    assert record.blocks == tuple(block_digest(content[at : at + BLOCK]) for at in range(0, len(content), BLOCK))
    assert record.matches(large)
    assert FileRecord.parse(json.loads(json.dumps(record.as_json()))) == record


@pytest.mark.parametrize("place", [0, BLOCK - 1, BLOCK, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 6])
def test_no_flipped_bit_goes_unnoticed(large: Path, tmp_path: Path, place: int) -> None:
    content = bytearray(large.read_bytes())
    content[place] ^= 1
    (tmp_path / "altered").write_bytes(content)
    assert not FileRecord.of(large).matches(tmp_path / "altered")


@pytest.mark.parametrize("end", [b"", b"the en", b"the end!"])
def test_another_size_goes_not_unnoticed(large: Path, tmp_path: Path, end: bytes) -> None:
    (tmp_path / "altered").write_bytes(large.read_bytes()[: 2 * BLOCK] + end)
    assert not FileRecord.of(large).matches(tmp_path / "altered")


def test_blocks_alone_make_no_match(large: Path, tmp_path: Path) -> None:
    """A record may have the sha256 of one file and the blocks of another."""
    other = tmp_path / "other"
    other.write_bytes(bytes(reversed(large.read_bytes())))
    true, false = FileRecord.of(large), FileRecord.of(other)
    for crafted in (replace(false, sha256=true.sha256), replace(true, sha256=false.sha256)):
        assert not crafted.matches(large)
        assert not crafted.matches(other)


def test_a_small_file_is_recorded_by_one_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * BLOCK)
    record = FileRecord.of(tmp_path / "file")
    assert (record.blocks, record.as_json()) == ((), {"sha256": digest_bytes(b"x" * BLOCK), "size": BLOCK})
    assert record.matches(tmp_path / "file")


@pytest.mark.parametrize(
    "change",
    [
        lambda blocks: blocks["blake3"].pop(),
        lambda blocks: blocks["blake3"].append("0" * 64),
        lambda blocks: blocks["blake3"].append("../../etc"),
        lambda blocks: blocks.update(size=0),
        lambda blocks: blocks.update(size=2 * BLOCK),
        lambda blocks: blocks.pop("size"),
        lambda blocks: blocks.update(blake3=7),
    ],
)
def test_blocks_that_do_not_cover_the_file_are_no_record(large: Path, change: Callable[[Any], object]) -> None:
    document = FileRecord.of(large).as_json()
    change(document["blocks"])
    with pytest.raises((KeyError, TypeError, ValueError)):
        FileRecord.parse(document)


@given(st.integers(0, 1 << 50))
def test_no_file_has_more_than_64_blocks(size: int) -> None:
    block = block_size(size)
    assert block >= BLOCK
    assert -(-size // block) <= 64
