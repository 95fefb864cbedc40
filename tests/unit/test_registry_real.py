"""Pushes and pulls by the command line, with the registry of the distribution project."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_registries import MODEL, PASSWORD, USER, write_release
from signers import write_private, write_public
from small_projects import bare, contents

from aoti_build.artifact.signing.private_keys import read_signing_key
from aoti_build.artifact.signing.sign import sign, write_signature

# bcrypt of PASSWORD, which is the only form that the registry reads.
HASHED = "$2a$05$wb2SCRbJwC3ICk9PRsOtO.AiJalFPBuVicv1.INXi9Ei7.bp1Bbsu"
PROGRAM = shutil.which("docker-registry")
START_SECONDS = 20

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="docker-registry is not installed; Debian has a package of that name"
)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """The address of a registry with one user."""
    (tmp_path / "users").write_text(f"{USER}:{HASHED}\n")
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "storage")}},
        "http": {"addr": "127.0.0.1:0"},
        "auth": {"htpasswd": {"realm": "test", "path": str(tmp_path / "users")}},
    }
    (tmp_path / "registry.yml").write_text(json.dumps(settings))
    log = tmp_path / "registry.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [PROGRAM or "", "serve", str(tmp_path / "registry.yml")],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"127.0.0.1:{port_in(log)}"
    finally:
        process.kill()
        process.wait()


def port_in(log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.02)
    pytest.fail(f"the registry did not start: {log.read_text()}")


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A signed release. Its public key is ``public.pem`` beside it."""
    release = write_release(tmp_path / "release")
    write_public(tmp_path / "public.pem", write_private(tmp_path / "key.pem"))
    write_signature(sign(release, read_signing_key(tmp_path / "key.pem")), release)
    return release


def test_a_release_comes_back_signed(
    host: str, signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    address = f"oci://{host}/team/models:1.4.0"
    denied = bare("release-push", "release", address, cwd=tmp_path)
    assert denied.returncode == 2
    assert "there are no credentials" in denied.stderr
    monkeypatch.setenv("AOTI_BUILD_REGISTRY_USER", USER)
    monkeypatch.setenv("AOTI_BUILD_REGISTRY_PASSWORD", PASSWORD)
    pushed = bare("release-push", "release", address, "--json", cwd=tmp_path)
    assert pushed.returncode == 0, pushed.stderr
    report = json.loads(pushed.stdout)
    assert (report["files"], report["uploaded"]) == (7, 6)

    # Another release with the same packages.
    (signed / "SHA256SUMS").write_text("others\n")
    write_signature(sign(signed, read_signing_key(tmp_path / "key.pem")), signed)
    again = bare("release-push", "release", address, "--json", cwd=tmp_path)
    assert again.returncode == 2
    assert "names something else already" in again.stderr
    later = f"oci://{host}/team/models:1.4.1"
    again = bare("release-push", "release", later, "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["uploaded"] == 2

    pinned = json.loads(again.stdout)["pinned"]
    words = ("release-pull", pinned, "--out", "out", "--public-key", "public.pem")
    pulled = bare(*words, cwd=tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    assert "signed by public.pem" in pulled.stdout
    assert f"digest: {pinned}" in pulled.stdout
    assert contents(tmp_path / "out") == contents(signed)

    damage(tmp_path / "storage", b"codecode")
    words = ("release-pull", address, "--out", "other", "--json")
    pulled = bare(*words, cwd=tmp_path)
    assert pulled.returncode == 4, pulled.stderr
    assert json.loads(pulled.stdout)["error"]["kind"] == "artifact"
    assert MODEL in pulled.stderr
    assert not list(tmp_path.glob("*other*"))
    for answer in (denied, pushed, again, pulled):
        assert PASSWORD not in answer.stdout + answer.stderr


def damage(storage: Path, start: bytes) -> None:
    """Change the blob that begins with these bytes, as a failing disk does."""
    for file in storage.rglob("data"):
        content = file.read_bytes()
        if content.startswith(start):
            file.write_bytes(b"X" + content[1:])
            return
    pytest.fail("there is no such blob")


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_other_tools_copy_a_release(
    host: str, signed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOTI_BUILD_REGISTRY_USER", USER)
    monkeypatch.setenv("AOTI_BUILD_REGISTRY_PASSWORD", PASSWORD)
    pushed = bare("release-push", "release", f"oci://{host}/a:1", cwd=tmp_path)
    assert pushed.returncode == 0, pushed.stderr
    login = f"--src-creds={USER}:{PASSWORD}", f"--dest-creds={USER}:{PASSWORD}"
    plain = "--src-tls-verify=false", "--dest-tls-verify=false"
    places = f"docker://{host}/a:1", f"docker://{host}/b:2"
    copied = subprocess.run(
        ["skopeo", "copy", *login, *plain, *places], capture_output=True, text=True, check=False
    )
    assert copied.returncode == 0, copied.stderr
    words = ("release-pull", f"oci://{host}/b:2", "--out", "out", "--public-key", "public.pem")
    pulled = bare(*words, cwd=tmp_path)
    assert pulled.returncode == 0, pulled.stderr
    assert contents(tmp_path / "out") == contents(signed)
