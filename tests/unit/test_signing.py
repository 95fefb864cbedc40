"""A release is signed, and a verifier accepts exactly the signed files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurve
from signers import FILES, World, write_files, write_private, write_public

from aoti_build.artifact.signing import private_keys, refusals
from aoti_build.artifact.signing.compare import compare_directory, compare_modes, modes_of
from aoti_build.artifact.signing.private_keys import read_signing_key
from aoti_build.artifact.signing.public_keys import ecdsa
from aoti_build.artifact.signing.sign import sign, write_signature
from aoti_build.artifact.signing.trust import read_trusted_keys
from aoti_build.artifact.signing.verify import read_signature, verify_signature
from aoti_build.common.digests import digest_bytes
from aoti_build.errors import BuildError, ExitCode, SignatureError, ToolchainError

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl here")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def verify(world: World, directory: Path | None = None) -> None:
    directory = directory or world.release
    listing = verify_signature(read_signature(directory), world.trusted(release=directory))
    compare_directory(listing, directory)


def test_what_was_signed_is_accepted_and_says_who_signed(world: World) -> None:
    listing = verify_signature(read_signature(world.release), world.trusted())
    compare_directory(listing, world.release)
    assert listing.files == {name: digest_bytes(content) for name, content in FILES.items()}
    assert listing.name == "release-1.2"
    assert (listing.signer.kind, listing.signer.name) == ("key", "signer.pem")


@needs_openssl
def test_openssl_prints_the_same_fingerprint_and_hint(world: World) -> None:
    listing = verify_signature(world.content, world.trusted())
    printed = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", world.public, "-outform", "DER"],
        capture_output=True,
        check=True,
    ).stdout
    assert listing.signer.fingerprint == digest_bytes(printed)
    assert world.key.public.pem == world.public.read_bytes()


def test_the_same_files_get_the_same_signature_file(world: World) -> None:
    assert sign(world.release, world.key) == world.content


def test_an_old_openssl_signs_as_well(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def old_ecdsa(curve: EllipticCurve, *, deterministic: bool = False) -> ECDSA:
        if deterministic:
            raise UnsupportedAlgorithm("OpenSSL 3.0")
        return ecdsa(curve)

    monkeypatch.setattr(private_keys, "ecdsa", old_ecdsa)
    content = sign(world.release, world.key)
    assert content != world.content
    assert verify_signature(content, world.trusted()).files


def test_the_directory_may_get_another_name(world: World) -> None:
    moved = world.release.rename(world.place / "elsewhere")
    verify(world, moved)
    (world.place / "current").symlink_to(moved)
    verify(world, world.place / "current")


def test_an_odd_name_of_the_directory_is_not_signed(world: World) -> None:
    moved = world.release.rename(world.place / "release\n1.2")
    listing = verify_signature(sign(moved, world.key), world.trusted())
    assert listing.name == "release"


def remove(release: Path) -> None:
    (release / "models/resnet18/cpu/manifest.json").unlink()


def change(release: Path) -> None:
    (release / "models/resnet18/cpu/model.pt2").write_bytes(b"evil")


def change_hidden(release: Path) -> None:
    (release / ".gitattributes").write_bytes(b"x")


def add(release: Path) -> None:
    (release / "models/resnet18/cpu/model2.pt2").write_bytes(b"")


def add_hidden(release: Path) -> None:
    (release / ".git/hook").write_bytes(b"")


def add_second_signature(release: Path) -> None:
    shutil.copy(release / "model.sig", release / "models/model.sig")


def add_directory(release: Path) -> None:
    (release / "models/resnet18/cuda").mkdir()


def exchange(release: Path) -> None:
    (release / "models/resnet18").rename(release / "models/x")
    (release / "models/resnet18-b").rename(release / "models/resnet18")
    (release / "models/x").rename(release / "models/resnet18-b")


def file_for_directory(release: Path) -> None:
    shutil.rmtree(release / ".git")
    (release / ".git").write_bytes(b"")


def directory_for_file(release: Path) -> None:
    (release / ".hidden").unlink()
    (release / ".hidden").mkdir()


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (remove, "missing: 'models/resnet18/cpu/manifest.json'"),
        (change, "changed since they were signed: 'models/resnet18/cpu/model.pt2'"),
        (change_hidden, "changed since they were signed: '.gitattributes'"),
        (add, "never signed: 'models/resnet18/cpu/model2.pt2'"),
        (add_hidden, "never signed: '.git/hook'"),
        (add_second_signature, "never signed: 'models/model.sig'"),
        (add_directory, "without signed files: 'models/resnet18/cuda'"),
        (exchange, "missing"),
        (file_for_directory, "missing: '.git/config'"),
        (directory_for_file, "missing: '.hidden'"),
    ],
)
def test_other_files_are_refused(
    world: World, attack: Callable[[Path], None], message: str
) -> None:
    attack(world.release)
    with pytest.raises(refusals.ListingMismatch, match=re.escape(message)) as caught:
        verify(world)
    assert caught.value.exit_code == ExitCode.UNFIT_ARTIFACT
    assert caught.value.hint


def link_for_file(release: Path) -> None:
    file = release / "models/resnet18/cpu/model.pt2"
    file.rename(release.parent / "outside")
    file.symlink_to(release.parent / "outside")


def link_for_directory(release: Path) -> None:
    (release / "models").rename(release.parent / "outside")
    (release / "models").symlink_to("../outside")


def add_link(release: Path) -> None:
    (release / "models/latest").symlink_to("resnet18")


def add_pipe(release: Path) -> None:
    os.mkfifo(release / "pipe")


def pipe_for_file(release: Path) -> None:
    (release / ".hidden").unlink()
    os.mkfifo(release / ".hidden")


def decomposed_name(release: Path) -> None:
    (release / "cafe\N{COMBINING ACUTE ACCENT}").write_bytes(b"")


def backslash(release: Path) -> None:
    (release / "models\\x").write_bytes(b"")


def reversed_text(release: Path) -> None:
    (release / "model\N{RIGHT-TO-LEFT OVERRIDE}2tp.").write_bytes(b"")


def not_utf8(release: Path) -> None:
    Path(os.fsdecode(os.fsencode(release) + b"/\xff")).write_bytes(b"")


UNFIT = [
    (link_for_file, "symbolic link"),
    (link_for_directory, "symbolic link"),
    (add_link, "symbolic link"),
    (add_pipe, "neither a regular file"),
    (pipe_for_file, "neither a regular file"),
    (decomposed_name, "NFC"),
    (backslash, "backslash"),
    (reversed_text, "cannot be shown"),
    (not_utf8, "cannot be shown"),
]


@pytest.mark.parametrize(("attack", "message"), UNFIT)
def test_what_no_release_may_have_is_refused(
    world: World, attack: Callable[[Path], None], message: str
) -> None:
    attack(world.release)
    with pytest.raises(refusals.UnfitFiles, match=message):
        verify(world)


@pytest.mark.parametrize(("attack", "message"), UNFIT)
def test_it_is_not_signed_either(
    world: World, attack: Callable[[Path], None], message: str
) -> None:
    attack(world.release)
    with pytest.raises(refusals.UnfitFiles, match=message):
        sign(world.release, world.key)


def test_a_file_that_cannot_be_read_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("aoti_build.artifact.signing.files.digest_file", refuse)
    with pytest.raises(refusals.UnfitFiles, match="Permission denied"):
        verify(world)


def test_the_signature_of_another_release_is_refused(world: World) -> None:
    other = write_files(world.place / "release-1.1", {**FILES, "release.json": b"{1}"})
    write_signature(sign(other, world.key), other)
    shutil.copy(other / "model.sig", world.release / "model.sig")
    with pytest.raises(refusals.ListingMismatch, match=r"release\.json"):
        verify(world)


def test_a_digest_that_was_made_again_needs_a_new_signature(world: World) -> None:
    change(world.release)
    write_private(world.place / "evil.pem")
    write_signature(sign(world.release, read_signing_key(world.place / "evil.pem")), world.release)
    with pytest.raises(refusals.UnknownKey, match=r"signer\.pem"):
        verify(world)


def test_a_key_from_the_release_proves_nothing(world: World) -> None:
    key = write_public(world.release / "key.pem", world.secret)
    link = world.place / "link.pem"
    link.symlink_to(key)
    keys = world.place / "keys"
    keys.mkdir(0o700)
    (keys / "a.pem").symlink_to(key)
    for path in (key, world.release, link, keys):
        with pytest.raises(refusals.KeyFileError, match="proves nothing"):
            read_trusted_keys([path], release=world.release)


def test_a_list_of_revoked_keys_from_the_release_is_refused(world: World) -> None:
    (world.release / "revoked").write_text("")
    with pytest.raises(refusals.KeyFileError, match="proves nothing"):
        world.trusted(revoked=world.release / "revoked", release=world.release)


def test_a_revoked_key_is_refused(world: World) -> None:
    fingerprint = world.key.public.fingerprint.upper()
    pairs = [fingerprint[start : start + 2] for start in range(0, 64, 2)]
    revoked = world.place / "list"
    revoked.write_text(f"# stolen in May\n\n{':'.join(pairs)}  # of CI\n")
    revoked.chmod(0o600)
    with pytest.raises(refusals.RevokedKey, match=world.key.public.fingerprint):
        verify_signature(world.content, world.trusted(revoked=revoked))
    revoked.write_text(digest_bytes(world.public.read_bytes()))
    with pytest.raises(refusals.RevokedKey, match=r"signer\.pem"):
        verify_signature(world.content, world.trusted(revoked=revoked))
    revoked.write_text("0" * 64)
    assert verify_signature(world.content, world.trusted(revoked=revoked))


def missing(signature: Path) -> None:
    signature.unlink()


def empty(signature: Path) -> None:
    signature.write_bytes(b"")


def truncated(signature: Path) -> None:
    signature.write_bytes(signature.read_bytes()[:-20])


def gigabyte(signature: Path) -> None:
    os.truncate(signature, 1 << 30)


def pipe(signature: Path) -> None:
    signature.unlink()
    os.mkfifo(signature)


def link(signature: Path) -> None:
    signature.rename(signature.parent.parent / "outside.sig")
    signature.symlink_to("../outside.sig")


def device(signature: Path) -> None:
    signature.unlink()
    signature.symlink_to("/dev/zero")


def directory(signature: Path) -> None:
    signature.unlink()
    signature.mkdir()


@pytest.mark.parametrize(
    ("attack", "error", "message"),
    [
        (missing, refusals.NoSignature, "not signed"),
        (empty, refusals.MalformedSignature, "is empty"),
        (truncated, refusals.MalformedSignature, "malformed"),
        (gigabyte, refusals.UnreadableSignature, "exceeds"),
        (pipe, refusals.UnreadableSignature, "pipe"),
        (link, refusals.UnreadableSignature, "symbolic link"),
        (device, refusals.UnreadableSignature, "symbolic link"),
        (directory, refusals.UnreadableSignature, "directory"),
    ],
)
def test_a_signature_file_that_is_none_has_its_own_message(
    world: World, attack: Callable[[Path], None], error: type[SignatureError], message: str
) -> None:
    attack(world.signature)
    with pytest.raises(error, match=message) as caught:
        verify(world)
    assert caught.value.hint


def test_a_directory_in_place_of_the_signature_is_not_left_out(world: World) -> None:
    """The signature is read first. A caller who has it from elsewhere is not deceived either."""
    directory(world.signature)
    with pytest.raises(refusals.ListingMismatch, match=r"model\.sig"):
        compare_directory(verify_signature(world.content, world.trusted()), world.release)


def test_a_signature_may_be_kept_elsewhere(world: World) -> None:
    world.signature.unlink()
    content = sign(world.release, world.key, signature_name="other.sig")
    listing = verify_signature(content, world.trusted())
    compare_directory(listing, world.release, signature_name="other.sig")
    write_signature(content, world.release)
    with pytest.raises(refusals.ListingMismatch, match=r"model\.sig"):
        compare_directory(listing, world.release, signature_name="other.sig")


def test_a_signer_that_was_killed_leaves_nothing_that_counts(world: World) -> None:
    world.signature.rename(world.release / ".model.sig.x7a")
    with pytest.raises(refusals.NoSignature):
        verify(world)
    with pytest.raises(refusals.UnfitFiles, match="signer that was killed"):
        sign(world.release, world.key)


def test_empty_directories_are_not_signed(world: World) -> None:
    (world.release / "models/a/b").mkdir(parents=True)
    with pytest.raises(refusals.UnfitFiles, match="cannot be signed: 'models/a', 'models/a/b'"):
        sign(world.release, world.key)


def test_a_directory_without_files_is_not_signed(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(refusals.UnfitFiles, match="no file to sign"):
        sign(tmp_path / "empty", world.key)
    with pytest.raises(refusals.UnfitFiles, match="No such file"):
        sign(tmp_path / "none", world.key)


def test_a_private_key_is_not_published_with_what_it_signs(world: World) -> None:
    write_private(world.release / "models/key.pem", world.secret)
    key = read_signing_key(world.release / "models/key.pem")
    with pytest.raises(refusals.UnfitFiles, match="private key is in the directory"):
        sign(world.release, key)


def test_a_full_disk_is_an_error_of_the_build(world: World) -> None:
    with pytest.raises(BuildError):
        write_signature(world.content, world.release / "release.json")


def test_changed_modes_are_refused(world: World) -> None:
    names = FILES.keys()
    for name in names:
        (world.release / name).chmod(0o644)
    modes = modes_of(world.release, names)
    assert set(modes.values()) == {0o644}
    compare_modes(modes, world.release)
    (world.release / "release.json").chmod(0o664)
    with pytest.raises(refusals.ModeMismatch, match=r"'release\.json' has mode 0664"):
        compare_modes(modes, world.release)


@pytest.mark.parametrize("name", ["../key.pem", "/etc/passwd", "absent"])
def test_modes_of_other_files_are_not_looked_up(world: World, name: str) -> None:
    with pytest.raises(refusals.UnfitFiles):
        compare_modes({name: 0o644}, world.release)


def test_many_differences_are_counted(world: World) -> None:
    write_files(world.release, {f"extra{number}": b"" for number in range(9)})
    with pytest.raises(
        refusals.ListingMismatch, match=r"never signed: 'extra0', .*'extra4' and 4 more"
    ):
        verify(world)


def test_without_cryptography_the_error_says_what_to_install(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = world.trusted()
    monkeypatch.setitem(sys.modules, "cryptography.x509", None)
    for call in (
        lambda: verify_signature(world.content, trusted),
        world.trusted,
        lambda: read_signing_key(world.place / "key.pem"),
    ):
        with pytest.raises(ToolchainError, match=r"pip install 'aoti_build\[sign\]'"):
            call()


def test_nothing_imports_cryptography_before_it_is_used() -> None:
    modules = "aoti_build.artifact.signing.compare, aoti_build.artifact.signing.sign"
    script = f"import sys, {modules}; print('cryptography' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "False\n"
