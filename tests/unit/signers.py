"""Keys, certificates and signed directories for tests. Needs cryptography."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from aoti_build.artifact.signing import base64_text
from aoti_build.artifact.signing.dsse import signed_bytes
from aoti_build.artifact.signing.private_keys import SigningKey, read_signing_key
from aoti_build.artifact.signing.sign import sign, write_signature
from aoti_build.artifact.signing.trust import TrustedKeys, read_trusted_keys

NOW = datetime(2026, 6, 1, tzinfo=timezone.utc)
FILES = {
    "release.json": b"{}",
    "models/resnet18/cpu/model.pt2": b"code",
    "models/resnet18/cpu/manifest.json": b"manifest",
    "models/resnet18-b/cpu/model.pt2": b"more code",
    ".hidden": b"",
    ".git/config": b"[core]",
    ".gitattributes": b"*",
}


def write_private(
    path: Path,
    key: Any = None,
    *,
    passphrase: bytes | None = None,
    form: PrivateFormat = PrivateFormat.PKCS8,
) -> Any:
    """Write a private key that only its owner can read, and return it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    encryption: Any = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    path.write_bytes(key.private_bytes(Encoding.PEM, form, encryption))
    path.chmod(0o600)
    return key


def write_public(path: Path, key: Any) -> Path:
    """Write the public key of a private key, and return the path."""
    return write_pem(
        path,
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


def write_pem(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o644)
    return path


def write_files(directory: Path, files: Mapping[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return directory


class World:
    """A signed directory, the key that signed it, and those who trust it."""

    def __init__(self, place: Path, curve: ec.EllipticCurve | None = None) -> None:
        self.place = place
        self.release = write_files(place / "release-1.2")
        self.secret = write_private(
            place / "key.pem", ec.generate_private_key(curve or ec.SECP256R1())
        )
        self.public = write_public(place / "signer.pem", self.secret)
        self.key: SigningKey = read_signing_key(place / "key.pem")
        self.content = sign(self.release, self.key)
        self.signature = write_signature(self.content, self.release)

    def trusted(self, **options: Any) -> TrustedKeys:
        return read_trusted_keys([self.public], **options)

    def document(self) -> Any:
        """The signature file as JSON."""
        return json.loads(self.content)

    def statement(self) -> Any:
        """What it signs as JSON."""
        return json.loads(base64_text.decode(self.document()["dsseEnvelope"]["payload"]))

    def signed(self, payload: bytes) -> bytes:
        """A signature file over another payload, by the same key."""
        document = self.document()
        envelope = document["dsseEnvelope"]
        envelope["payload"] = base64_text.encode(payload)
        signature = self.key.sign(signed_bytes(payload))
        envelope["signatures"] = [{"sig": base64_text.encode(signature)}]
        return json.dumps(document).encode()

    def resigned(self, change: Callable[[Any], object]) -> bytes:
        """A signature file over the statement with a change, by the same key."""
        statement = self.statement()
        change(statement)
        return self.signed(json.dumps(statement).encode())


class Holder:
    """Someone with a private key and a certificate."""

    def __init__(self, name: str, key: Any = None) -> None:
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.certificate: x509.Certificate

    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def certify(
    subject: Holder,
    issuer: Holder | None = None,
    *,
    authority: bool = False,
    path_length: int | None = None,
    begin: datetime = NOW - timedelta(days=1),
    end: datetime = NOW + timedelta(days=365),
    extensions: list[tuple[x509.ExtensionType, bool]] | None = None,
    hash_type: hashes.HashAlgorithm | None = None,
) -> Holder:
    """Give a certificate to `subject`, by itself without an issuer."""
    signer = issuer or subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject.name)
        .issuer_name(signer.name)
        .public_key(subject.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if extensions is None:
        extensions = authority_use(path_length) if authority else signer_use()
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    subject.certificate = builder.sign(signer.key, hash_type or hashes.SHA256())
    return subject


def authority_use(path_length: int | None = None) -> list[tuple[x509.ExtensionType, bool]]:
    return [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (key_usage("key_cert_sign"), True),
    ]


def signer_use() -> list[tuple[x509.ExtensionType, bool]]:
    return [
        (key_usage("digital_signature"), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
    ]


def key_usage(*uses: str) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: name in uses for name in names})
