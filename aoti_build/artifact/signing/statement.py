"""What is signed: an in-toto Statement v1 whose predicate lists each file with its sha256.

The predicate is that of OpenSSF Model Signing v1.0, sections 5 and 6 of its specification:
https://github.com/ossf/model-signing-spec. `ignore_paths` of a statement is not followed: what it
names may not exist either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from aoti_build.artifact.signing import shape
from aoti_build.artifact.signing.files import parents
from aoti_build.artifact.signing.names import name_fault
from aoti_build.artifact.signing.refusals import (
    ASK_SENDER,
    MalformedSignature,
    UnsupportedSignature,
    some,
)
from aoti_build.common import fields
from aoti_build.common.digests import canonical_json, digest_bytes
from aoti_build.common.json_object import JsonObject

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_ALGORITHM = "sha256"
_METHOD = "files"
_WHAT = "the signed statement"

# in-toto lets these two have further fields. The specification closes the others.
_RESOURCE = fields.table({"name": fields.text, "digest": fields.text, "algorithm": fields.text})
_SUBJECT = fields.table({"name": fields.text, "digest": fields.table_of(fields.text, fields.text)})
_SERIALIZATION = shape.closed(
    {"method": fields.text, "hash_type": fields.text, "allow_symlinks": fields.flag},
    {"shard_size": fields.integer(1), "ignore_paths": fields.list_of(fields.text)},
)
_PREDICATE = shape.closed(
    {"serialization": _SERIALIZATION, "resources": fields.list_of(_RESOURCE, least=1)}
)
_HEAD = fields.table({"_type": fields.text, "predicateType": fields.text})
_SHAPE = shape.closed(
    {
        "_type": fields.text,
        "predicateType": fields.text,
        "subject": fields.list_of(_SUBJECT, least=1, most=1),
        "predicate": _PREDICATE,
    }
)


class Statement(NamedTuple):
    """The signed name of a directory, the sha256 of each file, and the digest over all of them."""

    name: str
    files: Mapping[str, str]
    root_digest: str


def statement_of(name: str, files: Mapping[str, str], signature_name: str) -> bytes:
    """The statement about files with their sha256, as canonical JSON.

    `name` is the directory's name. Verifiers do not rely on it. The reference tool takes the file
    `signature_name` for an unsigned one if `ignore_paths` does not name it.
    """
    resources = []
    for file, digest in sorted(files.items()):
        resources.append({"name": file, "algorithm": _ALGORITHM, "digest": digest})
    document = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {_ALGORITHM: _root_digest(resources)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": _METHOD,
                "hash_type": _ALGORITHM,
                "allow_symlinks": False,
                "ignore_paths": [signature_name],
            },
            "resources": resources,
        },
    }
    return canonical_json(document)


def read_statement(payload: bytes) -> Statement:
    """The statement in the payload of a verified signature.

    Raises:
        MalformedSignature: it is not in the format, or contradicts itself.
        UnsupportedSignature: it has another predicate or algorithm.
    """
    # First its types, so that another kind of statement is named as such.
    _require_types(shape.document_in(payload, _HEAD, _WHAT))
    document = shape.document_in(payload, _SHAPE, _WHAT)
    predicate = document["predicate"]
    _require_algorithms(predicate)
    resources = predicate["resources"]
    files = _files_in(resources)
    subject = document["subject"][0]
    root_digest = _root_digest(resources)
    if subject["digest"].get(_ALGORITHM) != root_digest:
        raise _malformed("the digest of its subject is not that of its files")
    return Statement(subject["name"], files, root_digest)


def _require_types(document: JsonObject) -> None:
    if document["_type"] != STATEMENT_TYPE:
        raise _malformed(f"_type is {document['_type'][:80]!r} and not {STATEMENT_TYPE}")
    predicate_type = document["predicateType"]
    if predicate_type != PREDICATE_TYPE:
        raise UnsupportedSignature(
            f"the signature is about something else: {predicate_type[:80]!r}",
            cause=f"only {PREDICATE_TYPE} is accepted",
            hint="sign the release again with a tool that follows OMS v1.0",
        )


def _require_algorithms(predicate: JsonObject) -> None:
    serialization = predicate["serialization"]
    if serialization["method"] != _METHOD or "shard_size" in serialization:
        raise UnsupportedSignature(
            f"the signature lists {serialization['method'][:40]!r}, and only 'files' is accepted",
            hint="sign the release again, file by file",
        )
    algorithms = [resource["algorithm"] for resource in predicate["resources"]]
    for algorithm in (serialization["hash_type"], *algorithms):
        if algorithm != _ALGORITHM:
            raise UnsupportedSignature(
                f"the digests are {algorithm[:40]!r}, and only {_ALGORITHM!r} is accepted",
                hint=f"sign the release again with {_ALGORITHM}",
            )


def _files_in(resources: list[JsonObject]) -> Mapping[str, str]:
    files: dict[str, str] = {}
    for resource in resources:
        name = resource["name"]
        digest = resource["digest"]
        fault = name_fault(name)
        if fault:
            raise _malformed(f"the name {name!a} {fault}")
        if not fields.is_digest(digest):
            raise _malformed(f"the digest of {name!r} is not a sha256")
        if name in files:
            raise _malformed(f"{name!r} is listed twice")
        files[name] = digest
    _require_no_file_in_a_file(files)
    return files


def _require_no_file_in_a_file(files: Mapping[str, str]) -> None:
    both = sorted({above for name in files for above in parents(name) if above in files})
    if both:
        raise _malformed(f"{some(both)} would be a file and a directory")


def _root_digest(resources: list[JsonObject]) -> str:
    """The sha256 over the bytes of all digests in their order, section 6.5.1."""
    return digest_bytes(b"".join(bytes.fromhex(resource["digest"]) for resource in resources))


def _malformed(cause: str) -> MalformedSignature:
    return MalformedSignature(f"{_WHAT} is malformed", cause=cause, hint=ASK_SENDER)
