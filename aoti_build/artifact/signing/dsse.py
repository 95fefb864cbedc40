"""The envelope DSSE v1: a payload with one signature over its bytes and their type.

The format is https://github.com/secure-systems-lab/dsse, `protocol.md` and `envelope.md`.
"""

from __future__ import annotations

from typing import NamedTuple

from aoti_build.artifact.signing import base64_text, shape
from aoti_build.artifact.signing.refusals import MalformedSignature
from aoti_build.common import fields
from aoti_build.common.json_object import JsonObject

PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Envelope(NamedTuple):
    """The bytes that are signed, and the signature."""

    payload: bytes
    signature: bytes


_SIGNATURE = shape.closed({"sig": shape.long_text}, {"keyid": fields.or_none(fields.text)})
# `keyid` selects no key in OMS.
SHAPE = shape.closed(
    {
        "payload": shape.long_text,
        "payloadType": fields.one_of(PAYLOAD_TYPE),
        "signatures": fields.list_of(_SIGNATURE),
    }
)


def signed_bytes(payload: bytes) -> bytes:
    """The text that a signature signs: DSSE's pre-authentication encoding (PAE).

    It has the length of each part, so that no other payload and type give the same text.
    """
    head = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} "
    return head.encode() + payload


def envelope_as_json(envelope: Envelope) -> JsonObject:
    return {
        "payload": base64_text.encode(envelope.payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": base64_text.encode(envelope.signature)}],
    }


def read_envelope(document: JsonObject) -> Envelope:
    """The envelope in a document that has `SHAPE`. Raises `MalformedSignature`."""
    signatures = document["signatures"]
    if len(signatures) != 1:
        raise MalformedSignature(
            f"the signature file has {len(signatures)} signatures, and exactly one is accepted",
            hint="sign the release again, with one key",
        )
    return Envelope(
        payload=shape.decoded("payload", document["payload"]),
        signature=shape.decoded("sig", signatures[0]["sig"]),
    )
