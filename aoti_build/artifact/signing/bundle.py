"""The signature file: a Sigstore bundle v0.3 as JSON, of the kind key, certificate or sigstore.

Which fields it has is section 4 of https://github.com/ossf/model-signing-spec with its schemas.
"""

from __future__ import annotations

from typing import NamedTuple

from aoti_build.artifact.signing import base64_text, dsse, shape
from aoti_build.artifact.signing.dsse import Envelope
from aoti_build.artifact.signing.refusals import ASK_SENDER, MalformedSignature
from aoti_build.common import fields
from aoti_build.common.digests import canonical_json
from aoti_build.common.json_object import JsonObject

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
# The listing of a hundred thousand files fits.
SIGNATURE_LIMIT = 32 << 20
_MOST_CERTIFICATES = 10
_KEY = "publicKey"
_CHAIN = "x509CertificateChain"
_KEYLESS = "certificate"
_WHAT = "the signature file"


class KeyMaterial(NamedTuple):
    """Which key signed: the digest of its PEM text or, in older bundles, the key itself."""

    hint: str
    raw: bytes


class ChainMaterial(NamedTuple):
    """Certificates in DER. The first is the signer's, and the others lead to a trusted one."""

    certificates: tuple[bytes, ...]


class KeylessMaterial(NamedTuple):
    """A keyless signature, which `keyless` verifies. `text` is the signature file as it was read.

    It is canonical JSON, so that another parser cannot read anything else.
    """

    text: bytes


class Bundle(NamedTuple):
    """A parsed signature file. Nothing of it is verified."""

    material: KeyMaterial | ChainMaterial | KeylessMaterial
    envelope: Envelope


_PUBLIC_KEY = fields.table({}, {"hint": fields.text, "rawBytes": shape.long_text})
_CERTIFICATE = fields.table({"rawBytes": shape.long_text})
_CERTIFICATES = fields.table(
    {"certificates": fields.list_of(_CERTIFICATE, least=1, most=_MOST_CERTIFICATES)}
)
# Entries of logs and timestamps belong to keyless signatures, whose library checks them. Nothing
# else relies on them.
_MATERIAL = fields.table(
    {},
    {
        _KEY: _PUBLIC_KEY,
        _CHAIN: _CERTIFICATES,
        _KEYLESS: _CERTIFICATE,
        "tlogEntries": fields.list_of(fields.anything),
        "timestampVerificationData": fields.table({}),
    },
)
_SHAPE = shape.closed(
    {
        "mediaType": fields.one_of(MEDIA_TYPE),
        "verificationMaterial": _MATERIAL,
        "dsseEnvelope": dsse.SHAPE,
    }
)


def bundle_as_bytes(material: KeyMaterial | ChainMaterial, envelope: Envelope) -> bytes:
    """The signature file: canonical JSON on one line, without fields that nothing relies on."""
    return canonical_json(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": _material_as_json(material),
            "dsseEnvelope": dsse.envelope_as_json(envelope),
        }
    )


def read_bundle(content: bytes) -> Bundle:
    """Parse a signature file. Raises `MalformedSignature` if it is not in the format."""
    if not content:
        raise MalformedSignature("the signature file is empty", hint=ASK_SENDER)
    if len(content) > SIGNATURE_LIMIT:
        raise MalformedSignature("the signature file is too large", hint=ASK_SENDER)
    document = shape.document_in(content, _SHAPE, _WHAT)
    return Bundle(
        material=_read_material(document),
        envelope=dsse.read_envelope(document["dsseEnvelope"]),
    )


def _material_as_json(material: KeyMaterial | ChainMaterial) -> JsonObject:
    if isinstance(material, KeyMaterial):
        return {_KEY: {"hint": material.hint}}
    certificates = [{"rawBytes": base64_text.encode(der)} for der in material.certificates]
    return {_CHAIN: {"certificates": certificates}}


def _read_material(document: JsonObject) -> KeyMaterial | ChainMaterial | KeylessMaterial:
    """The signer in a signature file that has `_SHAPE`."""
    material = document["verificationMaterial"]
    kinds = [kind for kind in (_KEY, _CHAIN, _KEYLESS) if kind in material]
    if kinds == [_KEY]:
        return _read_key(material[_KEY])
    if kinds == [_CHAIN]:
        texts = [entry["rawBytes"] for entry in material[_CHAIN]["certificates"]]
        return ChainMaterial(tuple(shape.decoded("rawBytes", text) for text in texts))
    if kinds == [_KEYLESS]:
        return KeylessMaterial(canonical_json(document))
    raise MalformedSignature(
        f"{_WHAT} is malformed",
        cause=f"it has {len(kinds)} kinds of signers, and exactly one is accepted",
        hint=ASK_SENDER,
    )


def _read_key(document: JsonObject) -> KeyMaterial:
    raw = b""
    if "rawBytes" in document:
        raw = shape.decoded("rawBytes", document["rawBytes"])
    hint = document.get("hint", "")
    if not hint and not raw:
        raise MalformedSignature(
            f"{_WHAT} is malformed",
            cause="publicKey names no key",
            hint=ASK_SENDER,
        )
    return KeyMaterial(hint, raw)
