"""Files with private and trusted keys: who could have written or read them, and what is in them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat
from signers import World, write_pem, write_private, write_public
from test_signing import needs_openssl

from aoti_build.artifact.signing import refusals, trust
from aoti_build.artifact.signing.private_keys import read_signing_key
from aoti_build.artifact.signing.sign import sign
from aoti_build.artifact.signing.trust import read_trusted_keys, system_trusted_keys
from aoti_build.artifact.signing.verify import verify_signature
from aoti_build.common.digests import digest_bytes
from aoti_build.errors import ExitCode

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two other users")
STRANGER = 20001


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def refusal(path: Path, **options: str | None) -> str:
    with pytest.raises(refusals.KeyFileError) as caught:
        read_signing_key(path, passphrase_variable=options.get("variable"))
    assert caught.value.exit_code == ExitCode.USAGE
    return str(caught.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key.pem"
    write_private(path)
    path.chmod(mode)
    text = refusal(path)
    assert "others" in text
    assert "chmod" in text


def test_an_encrypted_key_needs_its_passphrase(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "encrypted.pem"
    write_private(path, world.secret, passphrase=b"secret")
    assert "it is encrypted" in refusal(path)
    assert "--sign-passphrase" in refusal(path)
    assert "SIGN_PASS has no passphrase" in refusal(path, variable="SIGN_PASS")
    variable = "SIGN_PASS"
    monkeypatch.setenv(variable, "wrong")
    assert "check the passphrase" in refusal(path, variable="SIGN_PASS")
    monkeypatch.setenv("SIGN_PASS", "secret")
    assert "not encrypted" in refusal(tmp_path / "key.pem", variable="SIGN_PASS")
    key = read_signing_key(path, passphrase_variable=variable)
    assert verify_signature(sign(world.release, key), world.trusted()).files


def test_the_secret_is_in_no_text_of_the_key(world: World) -> None:
    assert "PrivateKey" not in repr(world.key)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (rsa.generate_private_key(65537, 2048), "RSA"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
    ],
    ids=["ed25519", "rsa", "secp256k1"],
)
def test_other_kinds_of_keys_are_refused(tmp_path: Path, key: object, message: str) -> None:
    write_private(tmp_path / "key.pem", key)
    text = refusal(tmp_path / "key.pem")
    assert message in text
    assert "openssl genpkey" in text
    public = write_public(tmp_path / "public.pem", key)
    with pytest.raises(refusals.KeyFileError, match=message):
        read_trusted_keys([public])


def test_files_that_hold_no_private_key(world: World, tmp_path: Path) -> None:
    write_private(tmp_path / "old.pem", world.secret, form=PrivateFormat.TraditionalOpenSSL)
    assert "it has EC PRIVATE KEY" in refusal(tmp_path / "old.pem")
    world.public.chmod(0o600)
    assert "it has PUBLIC KEY" in refusal(world.public)
    assert "name the file with the private key" in refusal(world.public)
    both = tmp_path / "both.pem"
    both.write_bytes((tmp_path / "key.pem").read_bytes() * 2)
    both.chmod(0o600)
    assert "it has PRIVATE KEY, PRIVATE KEY" in refusal(both)
    both.write_bytes((tmp_path / "key.pem").read_bytes()[:-10])
    assert "not in PEM format" in refusal(both)
    both.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    assert "cannot be read" in refusal(both)
    assert "No such file" in refusal(tmp_path / "none.pem")
    os.mkfifo(tmp_path / "pipe.pem", 0o600)
    assert "pipe" in refusal(tmp_path / "pipe.pem")


def test_a_trust_file_that_others_can_write_is_refused(world: World) -> None:
    world.public.chmod(0o664)
    with pytest.raises(refusals.KeyFileError, match="others could have written") as caught:
        world.trusted()
    assert "chmod go-w" in str(caught.value)


def test_a_trust_file_below_an_open_directory_is_refused(world: World) -> None:
    place = world.place / "open"
    place.mkdir()
    key = write_public(place / "key.pem", world.secret)
    place.chmod(0o777)
    with pytest.raises(refusals.KeyFileError, match="can be written to by others"):
        read_trusted_keys([key])
    link = world.place / "link.pem"
    link.symlink_to(key)
    with pytest.raises(refusals.KeyFileError, match="can be written to by others"):
        read_trusted_keys([link])
    place.chmod(0o1777)
    assert read_trusted_keys([link]).keys


def test_a_list_of_revoked_keys_that_others_can_write_is_refused(world: World) -> None:
    revoked = world.place / "revoked"
    revoked.write_text("")
    revoked.chmod(0o666)
    with pytest.raises(refusals.KeyFileError, match="others could have written"):
        world.trusted(revoked=revoked)


@only_root
def test_a_trust_file_of_another_user_is_refused(world: World) -> None:
    link = world.place / "link.pem"
    link.symlink_to(world.public)
    os.lchown(link, STRANGER, STRANGER)
    with pytest.raises(refusals.KeyFileError, match="symbolic link of user 20001"):
        read_trusted_keys([link])
    os.chown(world.public, STRANGER, STRANGER)
    with pytest.raises(refusals.KeyFileError, match="belongs to user 20001"):
        world.trusted()


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pem").symlink_to("a.pem")
    with pytest.raises(refusals.KeyFileError, match="cannot be read"):
        read_trusted_keys([tmp_path / "a.pem"])


def test_a_directory_of_keys_has_keys_and_a_list(world: World, umask: None) -> None:
    keys = world.place / "keys"
    keys.mkdir()
    write_public(keys / "new.pem", world.secret)
    old = write_private(world.place / "old-secret.pem")
    write_public(keys / "old.pem", old)
    (keys / "..data").mkdir()  # as Kubernetes has it
    (keys / "revoked").write_text(
        read_signing_key(world.place / "old-secret.pem").public.fingerprint
    )
    trusted = read_trusted_keys([keys], release=world.release)
    assert verify_signature(world.content, trusted).signer.name == "new.pem"
    signed_before = sign(world.release, read_signing_key(world.place / "old-secret.pem"))
    with pytest.raises(refusals.RevokedKey):
        verify_signature(signed_before, trusted)


@pytest.mark.parametrize("form", ["lines of Windows", "text around it"])
def test_a_key_is_revoked_by_the_digest_of_its_file(world: World, umask: None, form: str) -> None:
    """`sha256sum` prints another number for it than for the same key as openssl writes it."""
    content = world.public.read_bytes()
    if form == "lines of Windows":
        content = content.replace(b"\n", b"\r\n")
    else:
        content = b"# of CI\n" + content
    keys = world.place / "keys"
    keys.mkdir()
    write_pem(keys / "ours.pem", content)
    assert verify_signature(world.content, read_trusted_keys([keys])).files
    (keys / "revoked").write_text(digest_bytes(content))
    with pytest.raises(refusals.RevokedKey, match="ours"):
        verify_signature(world.content, read_trusted_keys([keys]))


def test_a_directory_of_keys_has_nothing_else(world: World, umask: None) -> None:
    keys = world.place / "keys"
    keys.mkdir()
    write_public(keys / "new.pem", world.secret)
    (keys / "revokd").write_text("")
    with pytest.raises(refusals.KeyFileError, match="of another kind"):
        read_trusted_keys([keys])


def test_what_holds_no_key_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(refusals.KeyFileError, match="no trusted key"):
        read_trusted_keys([])
    (tmp_path / "empty").mkdir(0o700)
    with pytest.raises(refusals.KeyFileError, match="no trusted key"):
        read_trusted_keys([tmp_path / "empty"])
    with pytest.raises(refusals.KeyFileError, match="has a PRIVATE KEY") as caught:
        read_trusted_keys([world.place / "key.pem"])
    assert "-pubout" in str(caught.value)
    bad = write_pem(
        tmp_path / "bad.pem", b"-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----"
    )
    with pytest.raises(refusals.KeyFileError, match="public key cannot be read"):
        read_trusted_keys([bad])
    with pytest.raises(refusals.KeyFileError, match="No such file"):
        read_trusted_keys([tmp_path / "none/key.pem"])


def test_a_cut_key_is_not_left_out(world: World) -> None:
    whole = world.public.read_bytes()
    for content in (b"no key", whole + whole[:60]):
        file = write_pem(world.place / "cut.pem", content)
        with pytest.raises(refusals.KeyFileError, match="not in PEM format"):
            read_trusted_keys([file])


@pytest.mark.parametrize("line", ["123", "g" * 64, "0" * 65])
def test_a_fingerprint_that_is_none_is_refused_with_its_line(world: World, line: str) -> None:
    revoked = write_pem(world.place / "revoked", f"# all\n{line}\n".encode())
    with pytest.raises(refusals.KeyFileError, match="revoked:2"):
        world.trusted(revoked=revoked)


def test_several_keys_of_one_file_are_trusted(world: World) -> None:
    other = write_public(world.place / "other.pem", ec.generate_private_key(ec.SECP384R1()))
    content = b"# old\n" + other.read_bytes() + b"\n# new\r\n" + world.public.read_bytes()
    both = write_pem(world.place / "both.pem", content)
    assert verify_signature(world.content, read_trusted_keys([both])).signer.name == "both.pem"


def test_a_host_without_trusted_keys_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "SYSTEM_KEYS", world.place / "none")
    with pytest.raises(refusals.KeyFileError, match="no directory of trusted keys"):
        system_trusted_keys()


@only_root
def test_the_keys_of_a_host_must_be_roots(
    world: World, umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = world.place / "trusted-keys"
    keys.mkdir()
    key = write_public(keys / "release.pem", world.secret)
    monkeypatch.setattr(trust, "SYSTEM_KEYS", keys)
    assert verify_signature(world.content, system_trusted_keys(release=world.release)).files
    # The caller may not be trusted with that either.
    for path in (key, keys):
        os.chown(path, STRANGER, STRANGER)
        with pytest.raises(refusals.KeyFileError, match=r"must be root's"):
            system_trusted_keys()
        os.chown(path, 0, 0)
    keys.chmod(0o775)
    with pytest.raises(refusals.KeyFileError, match="can be written to by others"):
        system_trusted_keys()


@needs_openssl
def test_keys_that_openssl_makes_sign_and_are_trusted(world: World) -> None:
    key, public = world.place / "made.pem", world.place / "made-public.pem"
    before = os.umask(0o077)
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]
    subprocess.run([*make, "-out", key], check=True, capture_output=True)
    os.umask(before)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    public.chmod(0o644)
    content = sign(world.release, read_signing_key(key))
    assert verify_signature(content, read_trusted_keys([public])).files
