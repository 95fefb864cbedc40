"""A `.pt2` is read as what it is or refused with an ArtifactError, whatever it is."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packages import AARCH64, BLOB, FOLDER, LIBRARY, METADATA, ROOT, WRAPPER, elf, members, write

from aoti_build.artifact.pt2.contents import contents
from aoti_build.artifact.pt2.directory import BadZip, _read_entry
from aoti_build.artifact.pt2.package import open_archive
from aoti_build.errors import ArtifactError

FULL = 0xFFFFFFFF  # in a 32-bit field: the number stands in a 64-bit one

quick = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def refused(path: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        open_archive(path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    return caught.value.message


def test_a_package_is_read(tmp_path: Path) -> None:
    with open_archive(write(tmp_path / "model.pt2", members())) as archive:
        (model,) = archive.models
        assert (archive.root, archive.format_version) == ("model/", 0)
        assert (model.name, model.device, model.machine, model.isa) == (
            "model",
            "cpu",
            "x86_64",
            "AVX2",
        )
        assert (model.libraries, model.weights) == ((LIBRARY,), (BLOB,))
        archive.check()


def test_a_compressed_package_is_read_too(tmp_path: Path) -> None:
    """As another program's zip would make it from an unpacked one."""
    files = members()
    with open_archive(write(tmp_path / "model.pt2", files, method=zipfile.ZIP_DEFLATED)) as archive:
        assert archive.read(WRAPPER, 1 << 20) == files[WRAPPER]
        assert archive.reader(WRAPPER)(100, 50) == files[WRAPPER][100:150]
        assert archive.models[0].machine == "x86_64"
        archive.check()


def test_several_models_and_a_package_without_a_folder(tmp_path: Path) -> None:
    files = {name.removeprefix(f"{ROOT}/"): content for name, content in members().items()}
    other = {name.replace("/model/", "/second/"): content for name, content in files.items()}
    with open_archive(write(tmp_path / "model.pt2", {**other, **files})) as archive:
        assert [model.name for model in archive.models] == ["second", "model"]


def test_a_link_to_a_package_is_followed(tmp_path: Path) -> None:
    (tmp_path / "latest.pt2").symlink_to(write(tmp_path / "model.pt2", members()))
    assert open_archive(tmp_path / "latest.pt2").models


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.pt2").touch()
    (tmp_path / "dangling.pt2").symlink_to("gone.pt2")
    (tmp_path / "loop.pt2").symlink_to("loop.pt2")
    os.mkfifo(tmp_path / "pipe.pt2")
    assert refused(tmp_path / "empty.pt2") == "the file is empty"
    assert refused(tmp_path) == "a directory, not a .pt2 file"
    assert refused(tmp_path / "dangling.pt2") == "a link to gone.pt2, which does not exist"
    assert refused(tmp_path / "loop.pt2") == "the file cannot be read"
    assert refused(tmp_path / "pipe.pt2") == "not a regular file"
    assert refused(tmp_path / "missing.pt2") == "there is no such file"
    assert refused(tmp_path / "no\0name.pt2") == "the file cannot be read"


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(elf())
    assert refused(path) == "not a zip archive, so not a .pt2 package"


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_package_is_refused(part: float, tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", members())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "truncated" in refused(path)


def test_something_before_or_behind_a_package_is_refused(tmp_path: Path) -> None:
    """Another reader may take the archive in it for the whole, or this one for another."""
    path = write(tmp_path / "model.pt2", members())
    whole = path.read_bytes()
    path.write_bytes(b"#!/bin/sh\n" + whole)
    assert "something was put before it" in refused(path)
    path.write_bytes(whole + b"tail")
    assert "something was appended" in refused(path)


@pytest.mark.parametrize(
    "name",
    [f"{ROOT}/../../etc/passwd", "../evil", "/etc/passwd", f"{ROOT}//x", f"{ROOT}/./x", "C:/x"],
)
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    assert "leads out of the archive" in refused(
        write(tmp_path / "model.pt2", {**members(), name: b""})
    )


@pytest.mark.parametrize("name", [f"{ROOT}\\..\\evil", f"{ROOT}/\x1b[2Jx", f"{ROOT}/new\nline"])
def test_a_name_that_no_file_should_have_is_refused(name: str, tmp_path: Path) -> None:
    assert "impossible name" in refused(write(tmp_path / "model.pt2", {**members(), name: b""}))


def test_a_name_with_a_nul_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", {**members(), f"{ROOT}/secretQname": b""})
    path.write_bytes(path.read_bytes().replace(b"secretQname", b"secret\0name"))
    assert "impossible name" in refused(path)


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path / "model.pt2", {**members(), f"{FOLDER}Xode": b"1", f"{FOLDER}code": b"2"}
    )
    path.write_bytes(path.read_bytes().replace(b"Xode", b"code"))
    assert "twice" in refused(path)


@pytest.mark.parametrize(
    ("mode", "word"),
    [(0o120777, "symbolic link"), (0o010644, "not a plain file"), (0o060644, "not a plain file")],
)
def test_a_member_that_is_no_plain_file_is_refused(mode: int, word: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", members())
    link = zipfile.ZipInfo(f"{ROOT}/link")
    link.external_attr = mode << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert word in refused(path)


def test_an_encrypted_member_is_refused(tmp_path: Path) -> None:
    patch(path := write(tmp_path / "model.pt2", members()), LIBRARY, 8, b"\x01\x00")
    assert "is encrypted" in refused(path)


def test_an_unknown_compression_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", members(), method=zipfile.ZIP_LZMA)
    assert "compressed by method 14" in refused(path)


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    files = {**members(), f"{FOLDER}bomb": bytes(8 << 20)}
    assert "a zip bomb" in refused(
        write(tmp_path / "model.pt2", files, method=zipfile.ZIP_DEFLATED)
    )


def test_many_harmless_sizes_that_are_a_bomb_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoti_build.artifact.pt2.directory._LARGEST_INFLATED", 4 << 20)
    files = {**members(), **{f"{FOLDER}{number}": bytes(1 << 20) for number in range(5)}}
    assert "a zip bomb" in refused(
        write(tmp_path / "model.pt2", files, method=zipfile.ZIP_DEFLATED)
    )


def test_a_member_that_inflates_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    """And no more of it is inflated than it takes to see that."""
    files = {**members(), f"{ROOT}/more": bytes(64 << 20)}
    path = write(tmp_path / "model.pt2", files, method=zipfile.ZIP_DEFLATED)
    patch(path, f"{ROOT}/more", 24, struct.pack("<L", 10), local=22)
    tracemalloc.start()
    with open_archive(path) as archive, pytest.raises(ArtifactError, match="more is damaged"):
        archive.read(f"{ROOT}/more", 1 << 20)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 << 20


def test_overlapping_members_are_refused(tmp_path: Path) -> None:
    """One range of bytes behind many names is how a small zip becomes a large one."""
    path, inner = tmp_path / "model.pt2", f"{ROOT}/inner"
    write(path, {inner: b"content"})
    record = path.read_bytes().partition(b"PK\x01\x02")[0]
    write(path, {**members(), f"{ROOT}/outer": record, inner: b"content"})
    patch(path, inner, 42, struct.pack("<L", path.read_bytes().index(record)))
    assert "overlaps another member" in refused(path)


def test_a_header_that_differs_from_the_directory_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", members())
    data = path.read_bytes()
    path.write_bytes(
        data.replace(LIBRARY.encode(), LIBRARY.replace("wrapper.so", "wrapper.sX").encode(), 1)
    )
    assert "differs from the archive's directory" in refused(path)


def test_an_altered_member_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", members())
    path.write_bytes(path.read_bytes().replace(b"cpp_fused_relu_0", b"cpp_fused_evil_0"))
    with (
        open_archive(path) as archive,
        pytest.raises(ArtifactError, match=r"kernel\.cpp is damaged"),
    ):
        archive.check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop(f"{ROOT}/archive_format"), "lacks archive_format"),
        (lambda files: files.pop(f"{ROOT}/archive_version"), "lacks model/archive_version"),
        (lambda files: files.update({f"{ROOT}/archive_format": b"zip"}), "of the format b'zip'"),
        (
            lambda files: files.update({f"{ROOT}/archive_version": b"1"}),
            "format version 1; this release reads 0",
        ),
        (lambda files: files.update({"other/file": b""}), "is outside the package's folder"),
        (lambda files: files.pop(LIBRARY), "consists of C++ source only"),
        (
            lambda files: [files.pop(name) for name in (*files,) if name.endswith((".so", ".cpp"))],
            "lacks its shared",
        ),
        (lambda files: files.pop(METADATA), "lacks its metadata"),
        (lambda files: files.update({METADATA: b"{"}), "is not JSON"),
        (lambda files: files.update({METADATA: b"[" * 100_000}), "is not JSON"),
        (lambda files: files.update({METADATA: b"\xff"}), "is not JSON"),
        (lambda files: files.update({METADATA: b'{"a": 1}'}), "is not a table of texts"),
        (lambda files: files.update({METADATA: b"[]"}), "is not a table of texts"),
        (lambda files: files.update({METADATA: bytes(2 << 20)}), "exceeds the"),
        (lambda files: files.update({LIBRARY: b"MZ"}), "is not a shared library of Linux"),
        (
            lambda files: files.update({LIBRARY: elf(AARCH64)}),
            "is for aarch64, its metadata is for x86_64",
        ),
        (
            lambda files: [files.pop(name) for name in (*files,) if FOLDER in name],
            "no compiled model",
        ),
        (lambda files: files.clear(), "the archive is empty"),
    ],
)
def test_a_package_that_lacks_or_garbles_something_is_refused(
    change: Callable[[dict[str, bytes]], object], message: str, tmp_path: Path
) -> None:
    files = members()
    change(files)
    assert message in refused(write(tmp_path / "model.pt2", files))


def test_an_exported_program_is_no_compiled_model(tmp_path: Path) -> None:
    files = {"m/archive_format": b"pt2", "m/archive_version": b"0", "m/models/model.json": b"{}"}
    with pytest.raises(ArtifactError, match="no compiled code") as caught:
        open_archive(write(tmp_path / "model.pt2", files))
    assert "torch.export.load" in str(caught.value)


def test_another_machine_is_told(tmp_path: Path) -> None:
    with open_archive(write(tmp_path / "model.pt2", members(AARCH64))) as archive:
        archive.check_machine("aarch64")
        with pytest.raises(ArtifactError, match="built for aarch64, this host is x86_64"):
            archive.check_machine("x86_64")


def test_opening_reads_little_of_a_large_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "model.pt2", {**members(), BLOB: bytes(32 << 20)})
    read = 0
    pread = os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal read
        read += size
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    open_archive(path).close()
    assert read < 200_000


def test_a_zip_with_64_bit_records_is_read(tmp_path: Path) -> None:
    """As torch writes it, whatever its size: the numbers stand in both end records."""
    path = as_zip64(write(tmp_path / "model.pt2", members()))
    assert open_archive(path).models
    data = path.read_bytes()
    at = data.rindex(b"PK\x06\x06")
    path.write_bytes(data[: at + 32] + struct.pack("<Q", 3) + data[at + 40 :])
    assert "two end records that differ" in refused(path)


def test_members_with_64_bit_sizes_and_offsets_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Python writes members behind 4 GiB; here it takes 1 KiB for that much. Smaller sizes and
    offsets keep their 32-bit fields."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1024)
    files = {f"{ROOT}/a": b"small", f"{ROOT}/large": os.urandom(2000), **members()}
    path = write(tmp_path / "model.pt2", files)
    assert path.read_bytes().count(struct.pack("<2L", FULL, FULL)) >= 2
    with open_archive(path) as archive:
        assert {name: archive.read(name, 1 << 20) for name in files} == files
        archive.check()


def entry_of(sizes: tuple[int, int, int], extra: bytes) -> bytes:
    """The directory's entry of a member with these sizes (plain, compressed) and this offset."""
    size, compressed, header = sizes
    fixed = struct.pack("<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 0, 0, compressed, size, 1,
        len(extra), 0, 0, 0, 0, header)  # fmt: skip
    return fixed + b"a" + extra


def field(kind: int, *numbers: int) -> bytes:
    return struct.pack(f"<2H{len(numbers)}Q", kind, 8 * len(numbers), *numbers)


@pytest.mark.parametrize(
    ("sizes", "extra", "read"),
    [
        ((FULL, FULL, FULL), field(1, 50, 50, 7), (50, 50, 7)),
        ((FULL, FULL, 9), field(1, 50, 50), (50, 50, 9)),
        ((50, 50, FULL), field(1, 9), (50, 50, 9)),
        ((50, FULL, FULL), field(1, 50, 9, 1234), (50, 50, 9)),
        ((50, 50, FULL), field(0x5455, 3) + field(1, 9), (50, 50, 9)),
        ((50, 50, FULL), field(1, 9) + field(1, 8), (50, 50, 9)),
        (
            (50, 50, FULL),
            struct.pack("<2H", 2, 16) + field(1, 7) + bytes(4) + field(1, 9),
            (50, 50, 9),
        ),
        ((50, 50, FULL), field(0x5455) + field(1, 9), (50, 50, 9)),
        ((50, 50, FULL), field(1) + field(1, 8), (50, 50, 8)),
    ],
    ids=[
        "all",
        "sizes",
        "offset",
        "more",
        "behind another",
        "first",
        "inside another",
        "behind an empty",
        "second",
    ],
)
def test_64_bit_numbers_stand_in_for_those_that_are_too_large(
    sizes: tuple[int, int, int], extra: bytes, read: tuple[int, int, int]
) -> None:
    entry = _read_entry(entry_of(sizes, extra), 0)
    assert (entry.size, entry.compressed, entry.header) == read


@pytest.mark.parametrize(
    "extra",
    [b"", b"\1\0", field(1), field(1, 50), field(2, 50, 50), field(1, 50, 50)[:-1]],
    ids=["none", "cut", "empty", "too few", "of another kind", "cut in a number"],
)
def test_a_member_without_its_64_bit_numbers_is_refused(extra: bytes) -> None:
    with pytest.raises(BadZip, match=r"^a has no size in the archive's directory$"):
        _read_entry(entry_of((FULL, FULL, 0), extra), 0)


def test_a_member_whose_64_bit_size_is_beyond_the_file_is_refused(tmp_path: Path) -> None:
    directory = entry_of((FULL, FULL, 0), field(1, 1 << 40, 1 << 40))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), 0, 0)
    (tmp_path / "model.pt2").write_bytes(directory + end)
    assert "a is beyond the end of the archive" in refused(tmp_path / "model.pt2")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", {**members(), f"{ROOT}/secretQname": b""})
    path.write_bytes(path.read_bytes().replace(b"secretQname", b"secret\xffname"))
    assert "name is not UTF-8" in refused(path)


def test_a_folder_is_no_member_and_has_no_content(tmp_path: Path) -> None:
    path = write(tmp_path / "model.pt2", {**members(), f"{ROOT}/extra/": b""})
    with open_archive(path) as archive:
        assert f"{ROOT}/extra/" not in archive.members
    write(path, {**members(), f"{ROOT}/extraQ": b"content"})
    path.write_bytes(path.read_bytes().replace(b"extraQ", b"extra/"))
    assert "is a folder with content" in refused(path)


def test_a_directory_of_too_many_members_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "model.pt2", members())
    monkeypatch.setattr("aoti_build.artifact.pt2.directory._MOST_MEMBERS", len(members()))
    open_archive(path).close()
    monkeypatch.setattr("aoti_build.artifact.pt2.directory._MOST_MEMBERS", len(members()) - 1)
    assert "exceeds the limits" in refused(path)


@quick
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_package_cut_anywhere_is_refused(cut: float, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.pt2", members()).read_bytes()
    path = tmp_path / "model.pt2"
    path.write_bytes(whole[: int(len(whole) * cut)])
    refused(path)


@quick
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 40),
    method=st.sampled_from([0, 8]),
    wide=st.booleans(),
)
def test_a_package_with_altered_bytes_is_read_or_refused(
    seed: int, count: int, method: int, wide: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.pt2", members(), method=method)
    data = bytearray((as_zip64(path) if wide else path).read_bytes())
    chance = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(count):
        # Records at the end are what a reader steers by: half of the changes go there.
        low = len(data) - 1500 if chance.random() < 0.5 else 0
        data[chance.randrange(max(0, low), len(data))] = chance.choice(
            [0, 1, 0x7F, 0xFF, chance.randrange(256)]
        )
    path.write_bytes(data)
    survives(path)


@quick
@given(content=st.binary(max_size=2000), at=st.floats(0, 1), replace=st.booleans())
def test_a_package_with_bytes_spliced_in_is_read_or_refused(
    content: bytes, at: float, replace: bool, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.pt2", members())
    data = path.read_bytes()
    start = int(len(data) * at)
    path.write_bytes(data[:start] + content + data[start + len(content) * replace :])
    survives(path)


@quick
@given(
    content=st.binary(max_size=300),
    head=st.sampled_from([b"", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"]),
)
def test_any_bytes_are_refused(content: bytes, head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(head + content + b"PK\x05\x06" * bool(len(content) % 2) + content[:18])
    refused(path)


@quick
@given(
    changes=st.dictionaries(
        st.sampled_from(
            [*members(), f"{FOLDER}k.cubin", f"{FOLDER}extra.json", f"{ROOT}/data/weights/weight_0"]
        ),
        st.binary(max_size=400),
        max_size=8,
    ),
    method=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_any_contents_are_read_or_refused(
    changes: dict[str, bytes], method: int, tmp_path: Path
) -> None:
    survives(write(tmp_path / "model.pt2", {**members(), **changes}, method=method))


def survives(path: Path) -> None:
    """Read all there is: nothing but an ArtifactError may come of it."""
    with contextlib.suppress(ArtifactError), open_archive(path) as archive:
        contents(archive)
        archive.check()


def patch(path: Path, name: str, at: int, new: bytes, *, local: int | None = None) -> None:
    """Overwrite a field of a member's entry in the directory, and in its own header too."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - 46
    header = data.index(name.encode()) - 30
    data[entry + at : entry + at + len(new)] = new
    if local is not None:
        data[header + local : header + local + len(new)] = new
    path.write_bytes(data)


def as_zip64(path: Path) -> Path:
    """The same archive with the 64-bit end records that torch's writer always adds."""
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    count, size, start = struct.unpack_from("<HLL", data, end + 10)
    record = b"PK\x06\x06" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, count, count, size, start)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, end, 1)
    path.write_bytes(data[:end] + record + locator + data[end:])
    return path
