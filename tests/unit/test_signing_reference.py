"""The reference tool of OpenSSF Model Signing accepts our signatures, and we accept its.

It is looked for on the PATH: ``pip install 'aoti_build[sign-interop]'``, best in an environment of
its own. No model is compiled here.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fake_sigstore import IDENTITY, PROVIDER, running, token_of
from signers import (
    FILES,
    Holder,
    World,
    certify,
    write_files,
    write_pem,
    write_private,
    write_public,
)

from aoti_build.artifact.signing import refusals
from aoti_build.artifact.signing.compare import compare_directory
from aoti_build.artifact.signing.keyless import read_trusted_identity
from aoti_build.artifact.signing.keyless_signing import KeylessSigner
from aoti_build.artifact.signing.private_keys import read_signing_key
from aoti_build.artifact.signing.sign import sign, write_signature
from aoti_build.artifact.signing.trust import read_trusted_keys
from aoti_build.artifact.signing.verify import read_signature, verify_signature


def why_absent() -> str:
    """Why the reference tool cannot be used; empty if it can."""
    if shutil.which("model_signing") is None:
        return "model_signing is not installed: pip install 'aoti_build[sign-interop]'"
    answer = subprocess.run(["model_signing", "--version"], capture_output=True, check=False)
    if answer.returncode != 0:
        return "model_signing does not start: it needs pyOpenSSL as well"
    return ""


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_absent()), reason=why_absent()),
]
# The reference tool leaves these out of everything unless it is told not to.
WITHOUT_GIT = {name: content for name, content in FILES.items() if not name.startswith(".git")}
CURVES = [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()]


def reference(*words: str | Path) -> str:
    """What the reference tool says to these words, and how it ended."""
    answer = subprocess.run(
        ["model_signing", *words], capture_output=True, text=True, check=False, timeout=120
    )
    return f"{answer.returncode} {answer.stdout}{answer.stderr}"


def verdict(world: World, *words: str | Path) -> str:
    return reference(
        *("verify", "key", world.release, "--signature", world.signature),
        *("--public_key", world.public, *words),
    )


def signed(place: Path, files: Any, curve: Any = CURVES[0]) -> World:
    world = World(place, curve)
    shutil.rmtree(world.release)
    write_files(world.release, files)
    write_signature(sign(world.release, world.key), world.release)
    return world


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_it_accepts_our_signature_by_a_key(tmp_path: Path, curve: Any) -> None:
    world = signed(tmp_path, WITHOUT_GIT, curve)
    assert verdict(world).startswith("0 ")
    assert verdict(world, "--no-ignore-git-paths").startswith("0 ")
    (world.release / ".hidden").write_bytes(b"x")
    assert "Hash mismatch" in verdict(world)


def test_files_of_git_need_an_option_there(tmp_path: Path) -> None:
    world = signed(tmp_path, FILES)
    assert "Missing files" in verdict(world)
    assert verdict(world, "--no-ignore-git-paths").startswith("0 ")


def test_what_it_lets_pass_is_refused_here(tmp_path: Path) -> None:
    world = signed(tmp_path, WITHOUT_GIT)
    listing = verify_signature(read_signature(world.release), world.trusted())
    for extra in (".git/hooks/post-checkout", ".gitattributes", ".github/workflow.yml"):
        file = world.release / extra
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"evil")
        assert verdict(world).startswith("0 ")
        assert "Extra files" in verdict(world, "--no-ignore-git-paths")
        with pytest.raises(refusals.ListingMismatch):
            compare_directory(listing, world.release)
        file.unlink()
    shutil.rmtree(world.release / ".git")
    shutil.rmtree(world.release / ".github")
    compare_directory(listing, world.release)
    (world.release / "models/empty").mkdir()
    assert verdict(world, "--no-ignore-git-paths").startswith("0 ")
    with pytest.raises(refusals.ListingMismatch):
        compare_directory(listing, world.release)


@pytest.mark.parametrize("curve", CURVES, ids=lambda curve: curve.name)
def test_we_accept_its_signature_by_a_key(tmp_path: Path, curve: Any) -> None:
    world = World(tmp_path, curve)
    words = ("--private_key", tmp_path / "key.pem", "--signature", world.signature)
    for option in ((), ("--no-ignore-git-paths",)):
        world.signature.unlink()
        assert reference("sign", "key", world.release, *words, *option).startswith("0 ")
        listing = verify_signature(read_signature(world.release), world.trusted())
        if option:
            compare_directory(listing, world.release)
            assert set(listing.files) == set(FILES)
        else:
            # It left them out, and they are here.
            with pytest.raises(refusals.ListingMismatch, match="never signed"):
                compare_directory(listing, world.release)


def test_certificates_are_accepted_in_both_directions(tmp_path: Path) -> None:
    root = certify(Holder("root"), authority=True, **years())
    between = certify(Holder("between"), root, authority=True, **years())
    signer = certify(Holder("release"), between, **years())
    release = write_files(tmp_path / "release", WITHOUT_GIT)
    key = tmp_path / "key.pem"
    write_private(key, signer.key)
    trusted = write_pem(tmp_path / "root.pem", root.pem())
    leaf, rest = (
        write_pem(tmp_path / "leaf.pem", signer.pem()),
        write_pem(tmp_path / "between.pem", between.pem()),
    )
    signature = release / "model.sig"
    verify = ("verify", "certificate", release, "--signature", signature, "--certificate_chain")

    write_signature(sign(release, read_signing_key(key, certificates=[leaf, rest])), release)
    assert reference(*verify, trusted).startswith("0 ")
    assert not reference(*verify, other_root(tmp_path)).startswith("0 ")

    signature.unlink()
    said = reference(
        *("sign", "certificate", release, "--private_key", key, "--signature", signature),
        *("--signing_certificate", leaf, "--certificate_chain", rest),
    )
    assert said.startswith("0 "), said
    listing = verify_signature(read_signature(release), read_trusted_keys([trusted]))
    compare_directory(listing, release)
    assert listing.signer.subject == "CN=release"


def test_it_has_no_ed25519_key_either(tmp_path: Path) -> None:
    """Ed25519 is not in the format's registry of algorithms."""
    from cryptography.hazmat.primitives.asymmetric import ed25519

    release = write_files(tmp_path / "release", WITHOUT_GIT)
    write_private(tmp_path / "key.pem", ed25519.Ed25519PrivateKey.generate())
    said = reference("sign", "key", release, "--private_key", tmp_path / "key.pem")
    assert not said.startswith("0 ")
    public = write_public(tmp_path / "public.pem", ed25519.Ed25519PrivateKey.generate())
    with pytest.raises(refusals.KeyFileError):
        read_trusted_keys([public])


def years() -> dict[str, Any]:
    """The reference tool compares with the beginning of validity, and we with the present."""
    from datetime import datetime, timedelta, timezone

    now = datetime.now(timezone.utc)
    return {"begin": now - timedelta(days=1), "end": now + timedelta(days=1000)}


def other_root(place: Path) -> Path:
    return write_pem(place / "other.pem", certify(Holder("root"), authority=True, **years()).pem())


# The library leaves the closing of its connections to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(
    importlib.util.find_spec("sigstore") is None, reason="sigstore is not installed here"
)
def test_keyless_signatures_are_accepted_in_both_directions(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    release = write_files(tmp_path / "release", WITHOUT_GIT)
    signature = release / "model.sig"
    token = tmp_path / "token"
    token.write_text(token_of())
    token.chmod(0o600)
    names = ("--identity", IDENTITY, "--identity_provider", PROVIDER)
    with running(tmp_path) as sigstore:
        ours = KeylessSigner(token, sigstore.trust_config).sign(release)
        config = ("--signature", signature, "--trust_config", sigstore.trust_config)
        write_signature(ours.content, release)
        assert reference("verify", "sigstore", release, *config, *names).startswith("0 ")
        words = (*config, "--identity_token", token_of())
        assert reference("sign", "sigstore", release, *words).startswith("0 ")
    assert signature.read_bytes() != ours.content
    trusted = read_trusted_identity(IDENTITY, PROVIDER, trusted_root=sigstore.trusted_root)
    compare_directory(verify_signature(read_signature(release), trusted), release)
