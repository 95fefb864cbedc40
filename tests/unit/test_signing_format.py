"""The signature file is read strictly: no byte can be changed, and nothing odd is accepted."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from signers import World

from aoti_build.artifact.signing import refusals
from aoti_build.artifact.signing.base64_text import decode, encode
from aoti_build.artifact.signing.bundle import SIGNATURE_LIMIT
from aoti_build.artifact.signing.dsse import signed_bytes
from aoti_build.artifact.signing.names import name_fault
from aoti_build.artifact.signing.statement import read_statement, statement_of
from aoti_build.artifact.signing.verify import verify_signature
from aoti_build.common.digests import digest_bytes
from aoti_build.errors import SignatureError

Change = Callable[[Any], object]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("flipped", [0x01, 0x20, 0x80])
def test_no_byte_of_the_file_can_be_changed(world: World, flipped: int) -> None:
    trusted = world.trusted()
    for index in range(len(world.content)):
        changed = bytearray(world.content)
        changed[index] ^= flipped
        with pytest.raises(SignatureError):
            verify_signature(bytes(changed), trusted)


@given(data=st.data())
def test_no_part_of_the_file_can_be_changed(world: World, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(world.content) - 1))
    end = data.draw(st.integers(start, min(start + 8, len(world.content))))
    inserted = data.draw(st.binary(max_size=8))
    changed = world.content[:start] + inserted + world.content[end:]
    blank = b" \t\r\n"
    if changed.translate(None, blank) == world.content.translate(None, blank):
        return  # JSON lets blanks stand between its parts
    with pytest.raises(SignatureError):
        verify_signature(changed, world.trusted())


@given(data=st.data())
def test_no_byte_of_the_payload_can_be_changed(world: World, data: st.DataObject) -> None:
    document = world.document()
    envelope = document["dsseEnvelope"]
    payload = bytearray(decode(envelope["payload"]))
    index = data.draw(st.integers(0, len(payload) - 1))
    payload[index] ^= data.draw(st.integers(1, 255))
    envelope["payload"] = encode(bytes(payload))
    with pytest.raises(refusals.BadSignature):
        verify_signature(json.dumps(document).encode(), world.trusted())


@given(data=st.data())
def test_no_byte_of_the_signature_can_be_changed(world: World, data: st.DataObject) -> None:
    document = world.document()
    (entry,) = document["dsseEnvelope"]["signatures"]
    signature = bytearray(decode(entry["sig"]))
    index = data.draw(st.integers(0, len(signature) - 1))
    signature[index] ^= data.draw(st.integers(1, 255))
    entry["sig"] = encode(bytes(signature))
    with pytest.raises(refusals.BadSignature):
        verify_signature(json.dumps(document).encode(), world.trusted())


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_with_an_error_of_ours(world: World, content: bytes) -> None:
    with pytest.raises(refusals.MalformedSignature):
        verify_signature(content, world.trusted())


_names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda name: not name_fault(name)
)


@given(
    files=st.dictionaries(_names, st.binary(max_size=4), min_size=1, max_size=6),
    name=st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(
        lambda text: "\0" not in text
    ),
)
def test_a_statement_is_read_as_it_was_written(files: dict[str, bytes], name: str) -> None:
    digests = {file: digest_bytes(content) for file, content in files.items()}
    if any(f"{one}/" in other for one in files for other in files):
        return  # a file is no directory
    statement = read_statement(statement_of(name, digests, "model.sig"))
    assert statement.files == digests
    assert statement.name == name


def test_the_statement_is_that_of_the_specification(world: World) -> None:
    """Sections 5 and 6 of OMS v1.0, with its digest over all files computed by hand."""
    statement = world.statement()
    predicate = statement["predicate"]
    names = [resource["name"] for resource in predicate["resources"]]
    assert names == sorted(names)
    digests = b"".join(bytes.fromhex(resource["digest"]) for resource in predicate["resources"])
    assert statement["subject"] == [
        {"name": "release-1.2", "digest": {"sha256": digest_bytes(digests)}}
    ]
    assert predicate["serialization"] == {
        "method": "files",
        "hash_type": "sha256",
        "allow_symlinks": False,
        "ignore_paths": ["model.sig"],
    }


def test_the_signed_text_is_that_of_dsse() -> None:
    expected = b"DSSEv1 28 application/vnd.in-toto+json 5 hello"
    assert signed_bytes(b"hello") == expected


def text_changes() -> list[tuple[str, Callable[[bytes], bytes], str]]:
    doubled = b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",'
    return [
        ("byte order mark", lambda content: b"\xef\xbb\xbf" + content, "malformed"),
        ("utf-16", lambda content: content.decode().encode("utf-16"), "malformed"),
        ("utf-32", lambda content: content.decode().encode("utf-32-le"), "malformed"),
        ("doubled key", lambda content: doubled + content[1:], "occurs twice"),
        ("list", lambda content: b"[" + content + b"]", "not a table"),
        ("two", lambda content: content + content, "malformed"),
        ("number", lambda _: b"2.0", "not a table"),
        ("infinite", lambda content: content[:-1] + b',"x":Infinity}', "not a JSON number"),
        ("deep", lambda _: b"[" * 100_000, "malformed"),
        ("large", lambda content: content + b" " * SIGNATURE_LIMIT, "too large"),
    ]


@pytest.mark.parametrize(
    ("change", "message"), [pytest.param(*row[1:], id=row[0]) for row in text_changes()]
)
def test_odd_json_is_refused(world: World, change: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(refusals.MalformedSignature, match=message):
        verify_signature(change(world.content), world.trusted())


def set_field(*path: Any) -> Change:
    """A change that sets the field at `path`, whose last part is the value."""
    *names, last, value = path

    def change(document: Any) -> None:
        for name in names:
            document = document[name]
        document[last] = value

    return change


def remove_field(*path: Any) -> Change:
    *names, last = path

    def change(document: Any) -> None:
        for name in names:
            document = document[name]
        del document[last]

    return change


def second_signature(document: Any) -> None:
    document["dsseEnvelope"]["signatures"].append({"sig": encode(b"bad")})


def two_kinds(document: Any) -> None:
    document["verificationMaterial"]["x509CertificateChain"] = {
        "certificates": [{"rawBytes": encode(b"x")}]
    }


def with_blank(document: Any) -> None:
    document["dsseEnvelope"]["payload"] += "\n"


def url_safe(document: Any) -> None:
    payload = decode(document["dsseEnvelope"]["payload"]) + b"\xff\xfe\xff"
    document["dsseEnvelope"]["payload"] = base64.urlsafe_b64encode(payload).decode()


def unused_bits(document: Any) -> None:
    document["dsseEnvelope"]["signatures"][0]["sig"] = "AB=="


MATERIAL = "verificationMaterial"
KEY = ("verificationMaterial", "publicKey")
ENVELOPE = "dsseEnvelope"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field("mediaType", "application/vnd.dev.sigstore.bundle.v0.2+json"), "mediaType"),
        (set_field("mediaType", "application/vnd.dev.sigstore.bundle.v0.3+json "), "mediaType"),
        (remove_field("mediaType"), "lacks mediaType"),
        (set_field("messageSignature", {}), "unknown field 'messageSignature'"),
        (remove_field(MATERIAL), "lacks verificationMaterial"),
        (remove_field(ENVELOPE), "lacks dsseEnvelope"),
        (set_field(ENVELOPE, "payloadType", "application/json"), "payloadType"),
        (set_field(ENVELOPE, "payloadType", "application/vnd.in-toto+JSON"), "payloadType"),
        (set_field(ENVELOPE, "extra", 1), "unknown field 'extra'"),
        (set_field(ENVELOPE, "signatures", []), "has 0 signatures"),
        (second_signature, "has 2 signatures, and exactly one"),
        (set_field(ENVELOPE, "signatures", 0, "alg", "none"), "unknown field 'alg'"),
        (set_field(ENVELOPE, "signatures", 0, "sig", ""), "not a text"),
        (set_field(ENVELOPE, "payload", "?"), "payload is not base64"),
        (with_blank, "payload is not"),
        (url_safe, "payload is not base64"),
        (unused_bits, "sig is not the one base64 text"),
        (two_kinds, "2 kinds of signers"),
        (remove_field(*KEY), "0 kinds of signers"),
        (set_field(*KEY, "hint", ""), "names no key"),
        (set_field(*KEY, "hint", 2.0), "not a text"),
        (set_field(MATERIAL, "tlogEntries", {}), "not a list"),
    ],
)
def test_another_bundle_is_refused(world: World, change: Change, message: str) -> None:
    document = world.document()
    change(document)
    with pytest.raises(refusals.MalformedSignature, match=message):
        verify_signature(json.dumps(document).encode(), world.trusted())


def old_public_key(world: World) -> Change:
    """As tools before 1.1 wrote it."""

    def change(document: Any) -> None:
        raw = encode(world.key.public.pem)
        document[MATERIAL]["publicKey"] = {"rawBytes": raw, "keyDetails": "PKIX"}

    return change


@pytest.mark.parametrize("keyid", ["", None, "anything"])
def test_what_the_specification_leaves_open_is_accepted(world: World, keyid: str | None) -> None:
    for change in (
        set_field(ENVELOPE, "signatures", 0, "keyid", keyid),
        set_field(MATERIAL, "tlogEntries", []),
        set_field(MATERIAL, "timestampVerificationData", {}),
        set_field(*KEY, "hint", world.key.public.fingerprint),
        old_public_key(world),
    ):
        document = world.document()
        change(document)
        assert verify_signature(json.dumps(document).encode(), world.trusted()).files


def test_keyless_signatures_are_refused_as_such(world: World) -> None:
    document = world.document()
    document[MATERIAL] = {"certificate": {"rawBytes": encode(b"x")}, "tlogEntries": [{}]}
    with pytest.raises(refusals.UnsupportedSignature, match="keyless Sigstore") as caught:
        verify_signature(json.dumps(document).encode(), world.trusted())
    assert "--identity NAME" in str(caught.value)


@pytest.mark.parametrize(
    ("material", "message"),
    [
        ({"hint": "0" * 64}, "signed by 0000"),
        ({"rawBytes": encode(b"key")}, "key that is in the signature"),
        # The hint counts if there is one.
        ({"hint": "0" * 64, "rawBytes": encode(b"key")}, "signed by 0000"),
    ],
)
def test_an_unknown_key_is_named_and_those_that_are_trusted(
    world: World, material: Any, message: str
) -> None:
    document = world.document()
    document[MATERIAL]["publicKey"] = material
    with pytest.raises(refusals.UnknownKey, match=message) as caught:
        verify_signature(json.dumps(document).encode(), world.trusted())
    assert f"signer.pem ({digest_bytes(world.public.read_bytes())})" in str(caught.value)


RESOURCES = ("predicate", "resources")
SERIALIZATION = ("predicate", "serialization")


def repeat(statement: Any) -> None:
    statement["predicate"]["resources"].append(statement["predicate"]["resources"][0])


def second_subject(statement: Any) -> None:
    statement["subject"] *= 2


def order(statement: Any) -> None:
    statement["predicate"]["resources"].reverse()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field("_type", "https://in-toto.io/Statement/v0.1"), "_type"),
        (remove_field("predicateType"), "lacks predicateType"),
        (remove_field("subject"), "lacks subject"),
        (set_field("subject", []), "subject"),
        (second_subject, "subject"),
        (set_field("extra", 1), "unknown field 'extra'"),
        (set_field("predicate", {}), "predicate"),
        (set_field("predicate", "extra", 1), "unknown field 'extra'"),
        (set_field(*SERIALIZATION, "extra", 1), "unknown field 'extra'"),
        (set_field(*SERIALIZATION, "allow_symlinks", 0), "neither true nor false"),
        (set_field(*SERIALIZATION, "shard_size", 2.0), "not an integer"),
        (set_field(*RESOURCES, []), "resources"),
        (set_field(*RESOURCES, 0, "digest", "00"), "not a sha256"),
        (set_field(*RESOURCES, 0, "digest", "A" * 64), "not a sha256"),
        (set_field(*RESOURCES, 0, "digest", "a" * 64), "digest of its subject"),
        (set_field("subject", 0, "digest", {"sha256": "0" * 64}), "digest of its subject"),
        (set_field("subject", 0, "digest", {"sha512": "0" * 64}), "digest of its subject"),
        (order, "digest of its subject"),
        (repeat, "listed twice"),
        (set_field(*RESOURCES, 0, "name", "../x"), "leads out"),
        (set_field(*RESOURCES, 0, "name", "a/../../x"), "leads out"),
        (set_field(*RESOURCES, 0, "name", "/etc/passwd"), "absolute"),
        (set_field(*RESOURCES, 0, "name", "./x"), "shortest form"),
        (set_field(*RESOURCES, 0, "name", "a//x"), "shortest form"),
        (set_field(*RESOURCES, 0, "name", "a/"), "shortest form"),
        (set_field(*RESOURCES, 0, "name", ""), "shortest form"),
        (set_field(*RESOURCES, 0, "name", "a\\x"), "backslash"),
        (set_field(*RESOURCES, 0, "name", "a\0x"), "not a text"),
        (set_field(*RESOURCES, 0, "name", "a\nx"), "cannot be shown"),
        (set_field(*RESOURCES, 0, "name", "\udcff"), "cannot be shown"),
        (set_field(*RESOURCES, 0, "name", "\ud800"), "malformed"),
        (set_field(*RESOURCES, 0, "name", "x" * 5000), "too long"),
        (set_field(*RESOURCES, 0, "name", "e\N{COMBINING ACUTE ACCENT}"), "NFC"),
        (set_field(*RESOURCES, 0, "name", "models"), "a file and a directory"),
    ],
)
def test_an_odd_statement_is_refused_though_it_is_signed(
    world: World, change: Change, message: str
) -> None:
    with pytest.raises(refusals.MalformedSignature, match=message):
        verify_signature(world.resigned(change), world.trusted())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field("predicateType", "https://model_signing/Digests/v0.1"), "Digests/v0.1"),
        (set_field("predicateType", "https://slsa.dev/provenance/v1"), "slsa.dev"),
        (set_field(*SERIALIZATION, "method", "shards"), "'shards'"),
        (set_field(*SERIALIZATION, "shard_size", 2), "only 'files'"),
        (set_field(*SERIALIZATION, "hash_type", "blake2b"), "'blake2b'"),
        (set_field(*SERIALIZATION, "hash_type", "md5"), "'md5'"),
        (set_field(*RESOURCES, 0, "algorithm", "sha1"), "'sha1'"),
    ],
)
def test_other_algorithms_are_refused_though_they_are_signed(
    world: World, change: Change, message: str
) -> None:
    with pytest.raises(refusals.UnsupportedSignature, match=message) as caught:
        verify_signature(world.resigned(change), world.trusted())
    assert caught.value.hint


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b'{"_type":"a","_type":"a"}', "{}".encode("utf-16")]
)
def test_a_payload_that_is_no_statement_is_refused(world: World, payload: bytes) -> None:
    with pytest.raises(refusals.MalformedSignature):
        verify_signature(world.signed(payload), world.trusted())


def test_further_fields_that_in_toto_allows_are_ignored(world: World) -> None:
    def change(statement: Any) -> None:
        statement["subject"][0]["uri"] = "https://example.org"
        statement["predicate"]["resources"][0]["media_type"] = "x"

    assert verify_signature(world.resigned(change), world.trusted()).files


def test_ignored_paths_of_a_statement_are_not_ignored(world: World, tmp_path: Path) -> None:
    from aoti_build.artifact.signing.compare import compare_directory

    change = set_field(*SERIALIZATION, "ignore_paths", ["models", ".git"])
    listing = verify_signature(world.resigned(change), world.trusted())
    compare_directory(listing, world.release)
    hook = world.release / ".git/hook"
    hook.write_bytes(b"")
    try:
        with pytest.raises(refusals.ListingMismatch, match=r"\.git/hook"):
            compare_directory(listing, world.release)
    finally:
        hook.unlink()


@pytest.mark.parametrize(
    "message",
    [
        # The signed text of tools before 1.0, and those of other types.
        lambda payload: f"DSSEV1 28 application/vnd.in-toto+json {len(payload)} {payload}".encode(),
        lambda payload: payload,
        lambda payload: b"DSSEv1 16 application/json %d " % len(payload) + payload,
    ],
)
def test_a_signature_over_another_text_is_bad(
    world: World, message: Callable[[bytes], bytes]
) -> None:
    document = world.document()
    envelope = document["dsseEnvelope"]
    signature = world.key.sign(message(decode(envelope["payload"])))
    envelope["signatures"][0]["sig"] = encode(signature)
    with pytest.raises(refusals.BadSignature, match=r"signer\.pem"):
        verify_signature(json.dumps(document).encode(), world.trusted())


def test_the_key_alone_decides_which_hash_is_used(tmp_path: Path) -> None:
    world = World(tmp_path, ec.SECP384R1())
    document = world.document()
    payload = decode(document["dsseEnvelope"]["payload"])
    weaker = world.secret.sign(signed_bytes(payload), ec.ECDSA(hashes.SHA256()))
    document["dsseEnvelope"]["signatures"][0]["sig"] = encode(weaker)
    with pytest.raises(refusals.BadSignature):
        verify_signature(json.dumps(document).encode(), world.trusted())


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_the_curves_of_the_specification_sign(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    world = World(tmp_path, curve)
    assert verify_signature(world.content, world.trusted()).files
