"""manifest.json: what is written is read back, and whatever else lies there is a reason and never
an exception."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from small_projects import sealed

from aoti_build.artifact.manifest import (
    MANIFEST,
    MODEL,
    REFERENCE_DATA,
    FileRecord,
    Manifest,
    NoManifest,
    read_manifest,
)
from aoti_build.artifact.reasons import REASON_OF_GROUP
from aoti_build.common.digests import block_size, digest_bytes
from aoti_build.models_file.project import Project

NO_WRITES = {"inputs": [], "buffers": []}
MANIFEST_VALUE = Manifest(
    target="small/cpu",
    models_file="models.yaml",
    key="a" * 64,
    graph_key="b" * 64,
    weights={"external": True, "alignment": 64},
    source={
        **{group: {} for group in REASON_OF_GROUP},
        "spec": {"seed": 0, "kwargs.width": [1, 2]},
        "sources": {"model.py": "c" * 64, "gone.py": None},
    },
    files={MODEL: FileRecord("d" * 64, 3), REFERENCE_DATA: FileRecord("e" * 64, 4)},
    requires={
        "device": "cpu",
        "platform": "linux",
        "machine": "x86_64",
        "torch": "2.14.1",
        "cpu_features": ["avx2"],
    },
    signature={
        "inputs": [],
        "outputs": [{"name": "output", "dtype": "float32", "shape": ["batch", 4]}],
        "dims": {"batch": {"min": 1, "max": 8, "multiple_of": 1}},
        "mutates": NO_WRITES,
    },
    check={"passed": True, "tolerance": {"atol": 1e-4, "rtol": None, "outputs": {}}},
    seconds={"total": 1.5},
    reasons=({"reason": "no-artifact", "what": "", "old": None, "new": None},),
    provenance={"created": "2024-01-01T00:00:00+00:00", "git_dirty": False},
)
DOCUMENT = json.loads(json.dumps(MANIFEST_VALUE.as_json()))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


def test_it_is_read_back_as_it_was(tmp_path: Path) -> None:
    MANIFEST_VALUE.write(tmp_path)
    assert read_manifest(tmp_path) == MANIFEST_VALUE


def test_it_says_what_it_is(tmp_path: Path) -> None:
    MANIFEST_VALUE.write(tmp_path)
    document = json.loads((tmp_path / MANIFEST).read_text())
    assert document["format"] == "aoti-build/manifest"
    assert document["format_version"] == 5


def test_a_release_that_does_not_know_memory_formats_does_not_read_them(tmp_path: Path) -> None:
    """It would pass contiguous tensors to code that takes others."""
    formatted = {**MANIFEST_VALUE.signature, "inputs": [IMAGE], "dims": {"batch": DIM}}
    manifest = replace(MANIFEST_VALUE, signature=formatted)
    manifest.write(tmp_path)
    assert json.loads((tmp_path / MANIFEST).read_text())["format_version"] == 6
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize("change", [{"action": "reused"}, {"sha256": "0" * 64}, {"sha256": None}])
def test_an_edit_that_leaves_it_well_formed_is_damage(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    MANIFEST_VALUE.write(tmp_path)
    document = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**document, **change}))
    found = read_manifest(tmp_path)
    assert is_damage(found)
    assert "edited" in str(found)


def test_one_that_was_never_compared_says_why(tmp_path: Path) -> None:
    unverified = {**DOCUMENT["check"], "passed": None, "why": "this processor lacks avx512f"}
    found = read(tmp_path, {**DOCUMENT, "check": unverified})
    assert isinstance(found, Manifest)
    assert found.unverified == "this processor lacks avx512f"
    assert MANIFEST_VALUE.unverified is None


@pytest.mark.parametrize(
    "check",
    [{"passed": False}, {"passed": "yes"}, {"passed": None}, {"passed": None, "why": 1}, {}],
)
def test_an_artifact_whose_check_did_not_pass_is_none(
    tmp_path: Path, check: dict[str, Any]
) -> None:
    assert is_damage(
        read(tmp_path, {**DOCUMENT, "check": {**DOCUMENT["check"], **check} if check else {}})
    )


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
    "content",
    [b"", b"[]", b"3", b"null", b'"x"', b"{}", b'{"format": "x"}', b"\xff\xff", b"{"],
    ids=repr,
)
def test_what_is_no_manifest_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    assert is_damage(read_manifest(tmp_path))


def test_a_directory_in_its_place_is_damage(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).mkdir()
    assert is_damage(read_manifest(tmp_path))


@pytest.mark.parametrize("field", sorted({*DOCUMENT} - {"sha256"}))
def test_a_missing_field_is_damage(tmp_path: Path, field: str) -> None:
    assert is_damage(
        read(tmp_path, {name: value for name, value in DOCUMENT.items() if name != field})
    )


@pytest.mark.parametrize(
    "field",
    sorted({*DOCUMENT} - {"sha256", "target", "models_file", "key", "graph_key", "action"}),
)
@pytest.mark.parametrize("value", [None, 7, "text", [3]], ids=repr)
def test_a_field_of_another_type_is_damage(tmp_path: Path, field: str, value: object) -> None:
    assert is_damage(read(tmp_path, {**DOCUMENT, field: value}))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {MODEL: {"sha256": "d" * 64, "size": 3}},
        {REFERENCE_DATA: {"sha256": "d" * 64, "size": 3}},
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
        {REFERENCE_DATA: DOCUMENT["files"][REFERENCE_DATA]},
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
        (
            "signature",
            {
                "inputs": [],
                "outputs": [{"dtype": "float32"}],
                "dims": {},
                "mutates": {"inputs": [], "buffers": []},
            },
        ),
        ("signature", {"inputs": [{"name": 3}], "outputs": [], "dims": {}, "mutates": NO_WRITES}),
        ("signature", {"inputs": "input", "outputs": [], "dims": {}, "mutates": NO_WRITES}),
        ("signature", {"inputs": None, "outputs": [], "dims": {}, "mutates": NO_WRITES}),
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


LEAF = {"name": "x", "dtype": "float32", "shape": [2, "batch"]}
IMAGE = {
    "name": "image",
    "dtype": "float32",
    "shape": ["batch", 3, 8, 8],
    "memory_format": "channels_last",
}
DIM = {"min": 1, "max": 8, "multiple_of": 1}
IMPORT = {"module": "torchvision.extension", "operators": ["torchvision::nms"], "types": ["a.B"]}
WEIGHT = {"name": "w", "kind": "parameter", "dtype": "float32", "shape": [2], "device": "cpu"}
REASON = {"reason": "forced", "what": "", "old": None, "new": None}
CASE = {
    "name": "example",
    "sizes": {},
    "seed": 0,
    "outputs": [{"name": "y", "ok": True, "max_abs": 0.1}],
}
GOOD: dict[str, Any] = {
    **DOCUMENT,
    "format_version": 6,
    "signature": {
        "inputs": [LEAF, IMAGE, {"name": "c", "constant": "2.0"}],
        "outputs": [
            LEAF,
            {"name": "n", "number": "int", "value": "batch"},
            {"name": "c", "constant": "None"},
        ],
        "dims": {"batch": DIM},
        "weights": [{**WEIGHT, "stride": [1], "tied_to": "v", "view": True}],
        "mutates": {"inputs": ["x"], "buffers": ["last"]},
    },
    "check": {
        "passed": True,
        "tolerance": {"atol": 1e-4, "rtol": None, "outputs": {"y": {"iou": 0.5, "atol": None}}},
        "cases": [CASE],
        "vacuous": [{"output": "y", "of": "inputs"}],
        "no_fp64": None,
        "seconds": 0.5,
    },
    "requires": {
        **DOCUMENT["requires"],
        "compute_capability": "9.0",
        "gpu_code": ["sm_90"],
        "imports": [IMPORT],
        "instructions": {"seen": None, "why": "no objdump"},
    },
    "reasons": [REASON],
    "provenance": {
        "aoti_build": "1",
        "created": "2024-01-01",
        "git_commit": None,
        "git_dirty": None,
    },
    "source": {
        **DOCUMENT["source"],
        "sources": {
            "model.py": "c" * 64,
            "gone.py": None,
            "data": "directory",
            "/abs/\udcff": "c" * 64,
        },
        "distributions": {"*": "d" * 64, "torch": None},
        "modules": {"apex": None, "numpy": "installed"},
        "variables": {"HOME": "c" * 64},
        "toolchain": {"torch": "2.14.1"},
    },
}
HUGE = 10**400
MODULES = [
    "",
    ".ops",
    "..",
    "a/b",
    "a.b.",
    "a b",
    "os;x",
    "import",
    "a\0",
    "\ud800",
    "/srv/x.py",
    "a" * 300,
    3,
    None,
]
NAMES = [
    "../x/cpu",
    "/cpu",
    "x",
    "x/cpu/y",
    "x/tpu",
    "x\0/cpu",
    "\ud800/cpu",
    "x" * 600 + "/cpu",
    "./cpu",
    "x/cpu-..",
    3,
]
# Each is written with a right digest of itself, and each made somebody crash or lead out before.
CRAFTED: list[tuple[str, Any]] = [
    *(("target", name) for name in NAMES),
    ("target", "small/cuda"),  # whose requirements are a CPU's
    *(("models_file", name) for name in ["", "a\0", "/x", "x" * 5000, 3, None]),
    *(("key", key) for key in ["../../../../home/x", "", "A" * 64, None, 3]),
    *(("graph_key", key) for key in ["../" * 30, "b" * 63, True]),
    *(
        ("weights", value)
        for value in [{}, {"external": True}, {"external": 1, "alignment": 64}, {"external": False}]
    ),
    *(
        ("weights", {"external": True, "alignment": value})
        for value in [0, -64, True, 64.0, "64", HUGE]
    ),
    ("files", {**DOCUMENT["files"], "..": {"sha256": "d" * 64, "size": 3}}),
    ("files", {**DOCUMENT["files"], "manifest.json": {"sha256": "d" * 64, "size": 3}}),
    ("files", {**DOCUMENT["files"], "a\0b": {"sha256": "d" * 64, "size": 3}}),
    *(("files.model.pt2.size", size) for size in [-1, True, 3.0, "3", HUGE, None]),
    ("files.model.pt2.blocks", {"size": 1, "blake3": ["d" * 64] * 65}),
    ("files.model.pt2.blocks", [1]),
    *(("requires.device", value) for value in ["tpu", None, ["cpu"], True]),
    *(("requires.machine", value) for value in ["\x1b[2J", "a\nb", "", "x" * 300, None]),
    *(("requires.compute_capability", value) for value in ["9", "9.x", ".", "9.0\n", 9.0, None]),
    ("requires.instructions", {"seen": "avx2"}),
    ("requires.instructions", []),
    *(("requires.imports", value) for value in [[], {}, "os", ["os"], [{"module": "os"}]]),
    *(("requires.imports", [{**IMPORT, "module": value}]) for value in MODULES),
    *(
        ("requires.imports", [{**IMPORT, "operators": [value]}])
        for value in ["nms", "a::b()", "::", "__import__", 3]
    ),
    ("signature.outputs", [{"name": "n", "number": "tensor", "value": "1"}]),
    ("signature.outputs", [{"name": "n", "number": "int"}]),
    ("signature.inputs", [{"name": "n", "number": "int", "value": "1"}]),
    *(
        ("signature.dims", value)
        for value in [None, [], {"batch": 8}, {"batch": {"min": 1, "max": 8}}]
    ),
    *(("signature.dims.batch.multiple_of", value) for value in [0, -1, True, 1.5, "1", HUGE]),
    *(("signature.dims.batch.max", value) for value in [None, "8", HUGE, -1]),
    *(
        ("signature.inputs", value)
        for value in [[3], [{}], [{"name": "x"}], [{**LEAF, "constant": 3}], {"x": LEAF}]
    ),
    *(
        ("signature.inputs", [{**LEAF, "dtype": value}])
        for value in ["", "nn.Module", "__class__", 3, None]
    ),
    *(
        ("signature.inputs", [{**LEAF, "shape": value}])
        for value in [3, [-1], [1.5], [None], [[]], [HUGE], [True]]
    ),
    *(
        ("signature.inputs", [{**IMAGE, "memory_format": value}])
        for value in ["contiguous", "channels_last_3d", "channels", None, 4, ["channels_last"]]
    ),
    *(
        ("signature.inputs", [{**LEAF, "shape": [value]}])
        for value in ["n", "batch*batch", "", "2", "batch + n"]
    ),
    *(("signature.weights", value) for value in [None, {}, [3], [{}], [{**WEIGHT, "kind": "x"}]]),
    *(("signature.weights", [{**WEIGHT, "stride": value}]) for value in [3, [None], ["1"]]),
    *(("signature.weights", [{**WEIGHT, "tied_to": value}]) for value in [3, None, ["w"]]),
    *(
        ("signature.special", [value])
        for value in [{"batch": 0}, {"batch": 10**9}, {"n": 2}, {"batch": "2"}, 3]
    ),
    *(
        ("signature.computed_in", value)
        for value in [{"y": "nn"}, {"y": 8}, ["int8"], {"y": "load"}]
    ),
    *(
        ("signature.mutates", value)
        for value in [[], {}, {"inputs": [3], "buffers": []}, {"inputs": []}]
    ),
    *(
        ("check.cases", value)
        for value in [None, {}, [3], [{}], [{"name": "x"}], [{"name": "x", "outputs": 3}]]
    ),
    ("check.cases", [{"name": "x", "outputs": [{"name": "y", "ok": True, "max_abs": "1"}]}]),
    ("check.cases", [{"name": "x", "outputs": [{"name": "y", "ok": 1}]}]),
    *(
        ("check.tolerance", value)
        for value in [None, 3, [], {}, {"atol": "1", "rtol": None, "outputs": {}}]
    ),
    ("check.passed", 1),
    *(("seconds.total", value) for value in [None, "1", True, HUGE, []]),
    *(
        ("reasons", value)
        for value in [[3], [{}], [{"reason": "forced"}], [{**REASON, "reason": 3}], {"a": REASON}]
    ),
    *(("action", value) for value in [None, 3, "", "\x1b[2J", "x" * 100]),
    *(("provenance.git_commit", value) for value in [3, [], True]),
    *(("provenance.created", value) for value in [3, None, {}]),
    *(
        ("source.sources", value)
        for value in [[], None, {"a": 3}, {"a": "x"}, {"a\0": None}, {"a": ["c" * 64]}]
    ),
    *(("source.distributions", value) for value in [{"": "1"}, {"a\0b": 3}, {"torch": 2}, []]),
    *(("source.modules", value) for value in [{"a": 3}, {"a": True}, []]),
    *(("source.variables", value) for value in [{"A": "secret"}, {"A": 3}, []]),
    *(("source.toolchain", value) for value in [{"torch": None}, {"torch": 2}, []]),
    ("source.spec", {"a": json.loads("[" * 250 + "]" * 250)}),
    # A reader takes an entry with a dtype for a tensor, whatever else it has.
    ("signature.inputs", [{"name": "x", "constant": "1", "dtype": 5}]),
    ("signature.outputs", [{"name": "y", "number": "int", "value": "3", "dtype": 5}]),
]


def changed(place: str, value: Any) -> dict[str, Any]:
    """The good manifest with one value replaced, found by name; the names of files have dots."""
    document = json.loads(json.dumps(GOOD))
    names = place.replace("model.pt2", "MODEL").split(".")
    *above, last = [MODEL if name == "MODEL" else name for name in names]
    table = document
    for name in above:
        table = table[name]
    table[last] = value
    return document


def test_every_field_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, GOOD)
    assert isinstance(found, Manifest), found
    assert json.loads(json.dumps(found.as_json())) == sealed(json.loads(json.dumps(GOOD)))


def test_a_constant_may_have_a_field_of_any_type_that_nobody_reads(tmp_path: Path) -> None:
    inputs = [*GOOD["signature"]["inputs"], {"name": "k", "constant": "1", "shape": 5}]
    assert isinstance(read(tmp_path, changed("signature.inputs", inputs)), Manifest)


def test_fields_of_a_later_release_are_left_alone(tmp_path: Path) -> None:
    for place in ("new", "requires.new", "signature.new", "check.new", "provenance.new"):
        assert isinstance(read(tmp_path, changed(place, {"a": [1]})), Manifest)


@pytest.mark.parametrize(("place", "value"), CRAFTED, ids=lambda value: repr(value)[:40])
def test_a_crafted_field_is_damage_whatever_digest_it_has(
    tmp_path: Path, place: str, value: Any
) -> None:
    assert is_damage(read(tmp_path, changed(place, value)))


def test_a_name_that_stands_twice_is_damage(tmp_path: Path) -> None:
    text = json.dumps(sealed(GOOD))
    (tmp_path / MANIFEST).write_text(text.replace('"action"', '"target": "other/cpu", "action"', 1))
    assert is_damage(read_manifest(tmp_path))


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
    assert record.blocks == tuple(
        blake3(content[at : at + BLOCK]).hexdigest() for at in range(0, len(content), BLOCK)
    )
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
    assert (record.blocks, record.as_json()) == (
        (),
        {"sha256": digest_bytes(b"x" * BLOCK), "size": BLOCK},
    )
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
def test_blocks_that_do_not_cover_the_file_are_no_record(
    large: Path, change: Callable[[Any], object]
) -> None:
    document = FileRecord.of(large).as_json()
    change(document["blocks"])
    with pytest.raises((KeyError, TypeError, ValueError)):
        FileRecord.parse(document)


@given(st.integers(0, 1 << 50))
def test_no_file_has_more_than_64_blocks(size: int) -> None:
    block = block_size(size)
    assert block >= BLOCK
    assert -(-size // block) <= 64


def test_a_manifest_without_a_later_group_is_out_of_date_and_not_damaged(
    project: Project, published: Path
) -> None:
    """What a release that adds a group to the source key finds of earlier artifacts."""
    document = json.loads((published / MANIFEST).read_text())
    del document["source"]["modules"]
    (published / MANIFEST).write_text(json.dumps(sealed(document)))
    manifest = read_manifest(published)
    assert isinstance(manifest, Manifest)
    assert manifest.source["modules"] == {}
