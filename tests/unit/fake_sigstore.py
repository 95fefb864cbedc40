"""A Sigstore instance for tests, with keys of its own: an authority, a log of certificates and a
log of signatures, which answer over http on this host.

What they answer is what RFC 6962 and the interfaces of Fulcio v2 and Rekor v1 say, as far as the
library sigstore asks for it. Needs cryptography.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from signers import Holder, key_usage

PROVIDER = "https://ci.example.com"
IDENTITY = "https://ci.example.com/shop/.ci/release.yml@refs/heads/main"
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_TIMESTAMPS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_SINCE = {"start": "2020-01-01T00:00:00Z"}
_LIFE = timedelta(minutes=10)
_PRECERTIFICATE = 1
_SHA256_ECDSA = bytes([4, 3])


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def public_der(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def signature(key: Any, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def compact(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def token_of(identity: str = IDENTITY, **claims: Any) -> str:
    """An identity token. Its signature is none, because only a real authority would verify it."""
    now = int(time.time())
    body = {"iss": PROVIDER, "sub": identity, "aud": "sigstore", "iat": now, "exp": now + 86400}
    parts = [compact({"alg": "RS256", "typ": "JWT"}), compact({**body, **claims}), b"signature"]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def claims_of(token: str) -> Any:
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


class FakeSigstore:
    """The keys and the answers of an instance.

    `tokens` and `proposed` are what it received. `change` alters an answer, given its path and its
    content, before it is sent. `status` is that of all answers.
    """

    def __init__(self, place: Path, url: str = "http://127.0.0.1:1") -> None:
        self.url = url
        self.authority = Holder("Fake authority")
        self.certificate_log = ec.generate_private_key(ec.SECP256R1())
        self.log = ec.generate_private_key(ec.SECP256R1())
        self.authority.certificate = self._root()
        self.tokens: list[str] = []
        self.proposed: list[Any] = []
        self.change: Callable[[str, Any], Any] = lambda path, answer: answer
        self.status = 201
        self.trusted_root = self._write(place / "trusted_root.json", self._trusted_root())
        self.trust_config = self._write(place / "trust_config.json", self._trust_config())

    def answer(self, path: str, token: str, request: Any) -> Any:
        """The answer to a request."""
        if path == "/api/v2/signingCert":
            self.tokens.append(token)
            csr = base64.b64decode(request["certificateSigningRequest"])
            claims = claims_of(token)
            key = x509.load_pem_x509_csr(csr).public_key()
            chain = [self.certify(key, claims["sub"], claims["iss"]), self.authority.certificate]
            texts = [one.public_bytes(Encoding.PEM).decode() for one in chain]
            return {"signedCertificateEmbeddedSct": {"chain": {"certificates": texts}}}
        assert path == "/api/v1/log/entries"
        self.proposed.append(request)
        content = request["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        entry = self.entry(envelope, content["verifiers"][0])
        return {"uuid": entry}

    def certify(
        self, key: Any, identity: str, provider: str, *, begin: datetime | None = None
    ) -> x509.Certificate:
        """A certificate for ten minutes, which the log of certificates has."""
        begin = begin or datetime.now(timezone.utc) - timedelta(seconds=5)
        kind = x509.RFC822Name if "@" in identity and "/" not in identity else None
        name = kind(identity) if kind else x509.UniformResourceIdentifier(identity)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.authority.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + _LIFE)
            .add_extension(key_usage("digital_signature"), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(self._authority_key(), critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER, provider.encode()), False)
        )
        precertificate = builder.sign(self.authority.key, hashes.SHA256())
        timestamps = self._timestamps(precertificate.tbs_certificate_bytes)
        builder = builder.add_extension(x509.UnrecognizedExtension(_TIMESTAMPS, timestamps), False)
        return builder.sign(self.authority.key, hashes.SHA256())

    def entry(self, envelope: Any, verifier: str, *, when: int | None = None) -> Any:
        """The second of two entries of the log: an envelope and the base64 of a certificate."""
        when = when or int(time.time())
        payload = base64.b64decode(envelope["payload"])
        signatures = [
            {"signature": one["sig"], "verifier": verifier} for one in envelope["signatures"]
        ]
        spec = {
            "envelopeHash": _sha256_of(compact(envelope)),
            "payloadHash": _sha256_of(payload),
            "signatures": signatures,
        }
        body = compact({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        first, second = _leaf(b"another entry"), _leaf(body)
        root = hashlib.sha256(b"\x01" + first + second).digest()
        head = {
            "body": b64(body),
            "integratedTime": when,
            "logIndex": 1,
            "logID": self.log_id.hex(),
        }
        proof = {
            "logIndex": 1,
            "treeSize": 2,
            "rootHash": root.hex(),
            "hashes": [first.hex()],
            "checkpoint": self._checkpoint(2, root),
        }
        promise = b64(signature(self.log, compact(head)))
        return {**head, "verification": {"inclusionProof": proof, "signedEntryTimestamp": promise}}

    def bundle(
        self,
        payload: bytes,
        identity: str = IDENTITY,
        provider: str = PROVIDER,
        *,
        key: Any = None,
        begin: datetime | None = None,
        when: int | None = None,
    ) -> Any:
        """A signature file as JSON, over any payload, without the library."""
        from aoti_build.artifact.signing.dsse import PAYLOAD_TYPE, signed_bytes

        key = key or ec.generate_private_key(ec.SECP256R1())
        certificate = self.certify(key.public_key(), identity, provider, begin=begin)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            signed = signature(key, signed_bytes(payload))
        else:
            signed = key.sign(signed_bytes(payload))
        envelope = {
            "payload": b64(payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": b64(signed)}],
        }
        pem = b64(certificate.public_bytes(Encoding.PEM))
        return {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": {"rawBytes": b64(certificate.public_bytes(Encoding.DER))},
                "tlogEntries": [_in_bundle(self.entry(envelope, pem, when=when))],
            },
            "dsseEnvelope": envelope,
        }

    @property
    def log_id(self) -> bytes:
        return hashlib.sha256(public_der(self.log)).digest()

    def _root(self) -> x509.Certificate:
        key, now = self.authority.key, datetime.now(timezone.utc)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.authority.name)
            .issuer_name(self.authority.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=3650))
            .not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage("key_cert_sign", "crl_sign"), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        )
        return builder.sign(key, hashes.SHA256())

    def _authority_key(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.key.public_key())

    def _timestamps(self, tbs: bytes) -> bytes:
        """The list of the one timestamp of a precertificate, RFC 6962, sections 3.2 and 3.3."""
        log_id = hashlib.sha256(public_der(self.certificate_log)).digest()
        moment = struct.pack("!Q", int(time.time() * 1000))
        issuer = hashlib.sha256(public_der(self.authority.key)).digest()
        entry = struct.pack("!H", _PRECERTIFICATE) + issuer + _with_size(tbs, 3)
        signed = signature(self.certificate_log, b"\x00\x00" + moment + entry + b"\x00\x00")
        one = b"\x00" + log_id + moment + b"\x00\x00" + _SHA256_ECDSA + _with_size(signed, 2)
        content = _with_size(_with_size(one, 2), 2)
        return b"\x04" + _der_length(len(content)) + content

    def _checkpoint(self, size: int, root: bytes) -> str:
        note = f"log.example.com\n{size}\n{b64(root)}\n"
        signed = b64(self.log_id[:4] + signature(self.log, note.encode()))
        return f"{note}\n\N{EM DASH} log.example.com {signed}\n"

    def _trusted_root(self) -> Any:
        certificates = [{"rawBytes": b64(self.authority.der())}]
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [_log(self.url, self.log)],
            "certificateAuthorities": [
                {
                    "subject": {"organization": "example", "commonName": "authority"},
                    "uri": self.url,
                    "certChain": {"certificates": certificates},
                    "validFor": _SINCE,
                }
            ],
            "ctlogs": [_log(self.url, self.certificate_log)],
        }

    def _trust_config(self) -> Any:
        service = {"url": self.url, "majorApiVersion": 1, "validFor": _SINCE, "operator": "us"}
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": self._trusted_root(),
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [service],
                "oidcUrls": [service],
                "rekorTlogUrls": [service],
                "rekorTlogConfig": {"selector": "ANY"},
            },
        }

    def _write(self, path: Path, document: Any) -> Path:
        path.write_text(json.dumps(document))
        path.chmod(0o644)
        return path


def _log(url: str, key: Any) -> Any:
    return {
        "baseUrl": url,
        "hashAlgorithm": "SHA2_256",
        "publicKey": {
            "rawBytes": b64(public_der(key)),
            "keyDetails": "PKIX_ECDSA_P256_SHA_256",
            "validFor": _SINCE,
        },
        "logId": {"keyId": b64(hashlib.sha256(public_der(key)).digest())},
    }


def _in_bundle(entry: Any) -> Any:
    """An entry of the log as the signature file has it."""
    proof = entry["verification"]["inclusionProof"]
    return {
        "logIndex": str(entry["logIndex"]),
        "logId": {"keyId": b64(bytes.fromhex(entry["logID"]))},
        "kindVersion": {"kind": "dsse", "version": "0.0.1"},
        "integratedTime": str(entry["integratedTime"]),
        "inclusionPromise": {"signedEntryTimestamp": entry["verification"]["signedEntryTimestamp"]},
        "inclusionProof": {
            "logIndex": str(proof["logIndex"]),
            "rootHash": b64(bytes.fromhex(proof["rootHash"])),
            "treeSize": str(proof["treeSize"]),
            "hashes": [b64(bytes.fromhex(one)) for one in proof["hashes"]],
            "checkpoint": {"envelope": proof["checkpoint"]},
        },
        "canonicalizedBody": entry["body"],
    }


def _sha256_of(data: bytes) -> Any:
    return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}


def _leaf(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def _with_size(data: bytes, width: int) -> bytes:
    return len(data).to_bytes(width, "big") + data


def _der_length(length: int) -> bytes:
    if length < 0x80:
        return bytes([length])
    return b"\x81" + bytes([length]) if length < 0x100 else b"\x82" + length.to_bytes(2, "big")


@contextmanager
def running(place: Path) -> Iterator[FakeSigstore]:
    """An instance that answers until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            answer = sigstore.change(self.path, sigstore.answer(self.path, token, request))
            self._send(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

        def do_GET(self) -> None:
            # The reference tool asks for the provider, also if it has a token.
            names = ("authorization_endpoint", "token_endpoint")
            self._send(json.dumps(dict.fromkeys(names, sigstore.url)).encode())

        def _send(self, content: bytes) -> None:
            self.send_response(sigstore.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        sigstore = FakeSigstore(place, f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield sigstore
        server.shutdown()
