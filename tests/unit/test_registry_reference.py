"""Addresses of registries, and how a registry is asked: encrypted unless it is on this host."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from fake_registries import REPOSITORY, Call, FakeRegistry, Reply, running_registry, write_release
from signers import write_private
from small_projects import contents

from aoti_build.commands.release.pull import pull
from aoti_build.commands.release.push import push
from aoti_build.errors import NetworkError, UsageError
from aoti_build.registry import transport
from aoti_build.registry.credentials import find_credentials
from aoti_build.registry.reference import Reference, parse_reference
from aoti_build.registry.transport import Transport

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci://ghcr.io/us/models:1.4.0", Reference("ghcr.io", "us/models", "1.4.0")),
        ("oci://localhost:5000/a:v_1", Reference("localhost:5000", "a", "v_1")),
        (f"oci://h/a@{DIGEST}", Reference("h", "a", None, DIGEST)),
        (f"oci://h/a__b/c-d:1@{DIGEST}", Reference("h", "a__b/c-d", "1", DIGEST)),
        ("oci://[::1]:5000/a:1", Reference("[::1]:5000", "a", "1")),
    ],
)
def test_an_address_is_read_and_written(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ghcr.io/us/models:1",
        "docker://h/a:1",
        "oci://h",
        "oci://h/",
        "oci://h/a",
        "oci://h/A:1",
        "oci://h/a/../b:1",
        "oci://h//a:1",
        "oci://h/a:",
        "oci://h/a:-1",
        "oci://h/a:1/2",
        "oci://h/a:1@",
        f"oci://h/a@sha256:{'0' * 63}",
        f"oci://h/a@SHA256:{'0' * 64}",
        f"oci://h/a:{'1' * 129}",
        f"oci://h/{'a' * 256}:1",
        "oci://-h/a:1",
        "oci://h..i/a:1",
        "oci://h:0/a:1",
        "oci://h:65536/a:1",
        "oci://h?x/a:1",
        "oci://h\n/a:1",
        "oci:///a:1",
    ],
)
def test_what_is_no_address_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a release"):
        parse_reference(text)


def test_a_password_in_an_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parse_reference("oci://me:secret@h/a:1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "insecure", "scheme"),
    [
        ("registry.example.org", False, "https"),
        ("registry.example.org", True, "http"),
        ("localhost:5000", False, "http"),
        ("127.0.0.2", False, "http"),
        ("[::1]:5000", False, "http"),
        ("localhost.example.org", False, "https"),
        ("10.0.0.1:5000", False, "https"),
        ("127.0.0.1.example.org", False, "https"),
    ],
)
def test_only_a_registry_on_this_host_is_asked_without_encryption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, insecure: bool, scheme: str
) -> None:
    asked: list[str] = []

    def send(_: Transport, method: str, url: str, *__: object) -> object:
        asked.append(url)
        raise NetworkError("stop")

    monkeypatch.setattr(Transport, "send", send)
    with pytest.raises(NetworkError, match="stop"):
        pull(f"oci://{host}/a/b:1", str(tmp_path / "out"), insecure=insecure)
    assert asked == [f"{scheme}://{host}/v2/a/b/manifests/1"]


def test_the_registry_of_docker_has_names_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    auths = '{"auths": {"https://index.docker.io/v1/": {"auth": "bWU6c2VjcmV0"}}}'
    (tmp_path / "config.json").write_text(auths)
    found = find_credentials("docker.io")
    assert found is not None
    assert (found.user, found.password) == ("me", "secret")
    assert "secret" not in repr(found)
    assert find_credentials("index.docker.io") is None


# Encrypted connections. The host of the test plays another one.


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself. Its key lies beside it, as ``key.pem``."""
    key = write_private(tmp_path / "key.pem")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry")])
    now = datetime.now(timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "authority.pem"
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return path


@pytest.fixture
def encrypted(
    authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeRegistry]:
    encryption = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    encryption.load_cert_chain(authority, authority.with_name("key.pem"))
    monkeypatch.setattr(Reference, "is_on_this_host", False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setattr(transport, "DELAYS", (0.0,))
    with running_registry(encryption) as registry:
        yield registry


def test_an_authority_of_ones_own(
    encrypted: FakeRegistry, authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = write_release(tmp_path / "release")
    with pytest.raises(NetworkError, match="certificate of the registry is not trusted") as caught:
        push(str(release), encrypted.address())
    assert "SSL_CERT_FILE" in str(caught.value)
    assert not encrypted.calls
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    push(str(release), encrypted.address())
    pull(encrypted.address(), str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(release)


def test_an_encrypted_registry_leads_to_nothing_plain(
    encrypted: FakeRegistry, authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    push(str(write_release(tmp_path / "release")), encrypted.address())
    monkeypatch.setenv("AOTI_BUILD_REGISTRY_USER", "me")
    monkeypatch.setenv("AOTI_BUILD_REGISTRY_PASSWORD", "secret")
    with running_registry() as plain:
        challenge = f'Bearer realm="http://{plain.host}/token"'
        replies = {
            "redirect": Reply(307, headers={"Location": f"http://{plain.host}/{REPOSITORY}"}),
            "token": Reply(401, headers={"WWW-Authenticate": challenge}),
        }
        for reply in replies.values():

            def fault(_: Call, reply: Reply = reply) -> Reply:
                return reply

            encrypted.fault = fault
            with pytest.raises(NetworkError):
                pull(encrypted.address(), str(tmp_path / "out"))
        assert not plain.calls
