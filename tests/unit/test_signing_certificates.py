"""Signatures with certificates: which ways to a trusted certificate are accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from signers import (
    NOW,
    Holder,
    authority_use,
    certify,
    key_usage,
    signer_use,
    write_files,
    write_pem,
    write_private,
    write_public,
)

from aoti_build.artifact.signing import refusals
from aoti_build.artifact.signing.base64_text import encode
from aoti_build.artifact.signing.private_keys import read_signing_key
from aoti_build.artifact.signing.sign import sign
from aoti_build.artifact.signing.trust import TrustedKeys, read_trusted_keys
from aoti_build.artifact.signing.verify import SignedListing, verify_signature
from aoti_build.common.digests import digest_bytes
from aoti_build.errors import SignatureError


class Chain:
    """A root, an authority that it certified, and a signer."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.root = certify(Holder("root"), authority=True)
        self.between = certify(Holder("between"), self.root, authority=True, path_length=0)
        self.signer = certify(Holder("release"), self.between)
        self.release = write_files(place / "release")
        write_private(place / "key.pem", self.signer.key)
        self.content = self.signed(self.signer, self.between)

    def signed(self, *chain: Holder) -> bytes:
        """The release signed with these certificates, by the signer's key."""
        file = write_pem(self.place / "chain.pem", b"".join(holder.pem() for holder in chain))
        key = read_signing_key(self.place / "key.pem", certificates=[file], now=NOW)
        return sign(self.release, key)

    def claimed(self, *chain: bytes) -> bytes:
        """The same signature with any certificates in DER, as an attacker would write it."""
        document = json.loads(self.content)
        certificates = [{"rawBytes": encode(der)} for der in chain]
        document["verificationMaterial"]["x509CertificateChain"]["certificates"] = certificates
        return json.dumps(document).encode()

    def trusted(self, *holders: Holder, **options: Any) -> TrustedKeys:
        content = b"".join(holder.pem() for holder in holders or (self.root,))
        return read_trusted_keys([write_pem(self.place / "root.pem", content)], **options)

    def verify(self, content: bytes, *holders: Holder) -> SignedListing:
        return verify_signature(content, self.trusted(*holders), now=NOW)

    def with_leaf(self, **options: Any) -> bytes:
        """A signature whose first certificate is another one of the same key."""
        leaf = certify(Holder("release", self.signer.key), self.between, **options)
        return self.claimed(leaf.der(), self.between.der())


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("chain"))


def test_a_way_to_a_trusted_certificate_is_accepted(chain: Chain) -> None:
    signer = chain.verify(chain.content).signer
    assert (signer.kind, signer.name, signer.subject) == ("certificate", "root.pem", "CN=release")
    assert signer.valid_until == NOW + timedelta(days=365)


def test_the_order_of_the_others_and_the_root_among_them_do_not_matter(chain: Chain) -> None:
    leaf, between, root = chain.signer.der(), chain.between.der(), chain.root.der()
    for certificates in ((leaf, between, root), (leaf, root, between)):
        assert chain.verify(chain.claimed(*certificates)).files


def test_any_certificate_on_the_way_may_be_the_trusted_one(chain: Chain) -> None:
    assert chain.verify(chain.content, chain.between).files
    assert chain.verify(chain.claimed(chain.signer.der()), chain.between).files
    assert chain.verify(chain.claimed(chain.signer.der()), chain.signer).files


def test_a_certificate_of_its_own_is_accepted_if_it_is_the_trusted_one(chain: Chain) -> None:
    own = certify(Holder("self", chain.signer.key))
    content = chain.signed(own)
    assert chain.verify(content, own).files
    with pytest.raises(refusals.UntrustedCertificate, match="CN=self"):
        chain.verify(content)


def test_a_way_that_ends_elsewhere_is_refused(chain: Chain) -> None:
    stranger = certify(Holder("root"), authority=True)
    with pytest.raises(refusals.UntrustedCertificate, match="vouches for CN=between"):
        chain.verify(chain.content, stranger)
    with pytest.raises(refusals.UntrustedCertificate, match="vouches for CN=release"):
        chain.verify(chain.claimed(chain.signer.der()))


def test_a_root_that_is_shipped_is_not_trusted(chain: Chain) -> None:
    root = certify(Holder("root", ec.generate_private_key(ec.SECP256R1())), authority=True)
    leaf = certify(Holder("release", chain.signer.key), root)
    with pytest.raises(refusals.UntrustedCertificate):
        chain.verify(chain.claimed(leaf.der(), root.der()))


def test_keys_and_certificates_do_not_stand_for_each_other(chain: Chain) -> None:
    public = write_public(chain.place / "public.pem", chain.signer.key)
    with pytest.raises(refusals.UntrustedCertificate, match="no certificate is trusted"):
        verify_signature(chain.content, read_trusted_keys([public]), now=NOW)
    by_key = sign(chain.release, read_signing_key(chain.place / "key.pem"))
    assert verify_signature(by_key, read_trusted_keys([public]))
    with pytest.raises(refusals.UnknownKey):
        chain.verify(by_key, chain.signer)


def test_the_signature_must_be_by_the_certified_key(chain: Chain) -> None:
    other = certify(Holder("other"), chain.between)
    with pytest.raises(refusals.BadSignature, match=r"root\.pem"):
        chain.verify(chain.claimed(other.der(), chain.between.der()))


@pytest.mark.parametrize("whose", ["signer", "between", "root"])
@pytest.mark.parametrize("days", [-2, 366])
def test_every_certificate_on_the_way_must_be_valid_now(
    tmp_path: Path, whose: str, days: int
) -> None:
    chain = Chain(tmp_path)
    moment = NOW + timedelta(days=days)
    # The others live longer.
    long = {"begin": NOW - timedelta(days=9), "end": NOW + timedelta(days=999)}
    options: dict[str, Any] = {"signer": long, "between": long, "root": long, whose: {}}
    certify(chain.root, authority=True, **options["root"])
    certify(chain.between, chain.root, authority=True, **options["between"])
    certify(chain.signer, chain.between, **options["signer"])
    content = chain.claimed(chain.signer.der(), chain.between.der())
    assert verify_signature(content, chain.trusted(), now=NOW)
    names = {"signer": "release", "between": "between", "root": "root"}
    with pytest.raises(refusals.ExpiredCertificate, match=f"CN={names[whose]} is not valid"):
        verify_signature(content, chain.trusted(), now=moment)


def test_without_a_time_it_is_the_present(chain: Chain) -> None:
    expired = {"begin": NOW - timedelta(days=9), "end": NOW - timedelta(days=8)}
    leaf = certify(Holder("release", chain.signer.key), **expired)
    with pytest.raises(refusals.ExpiredCertificate):
        verify_signature(chain.claimed(leaf.der()), chain.trusted(leaf))


@pytest.mark.parametrize("whose", ["signer", "between", "root"])
def test_a_revoked_key_anywhere_on_the_way_is_refused(chain: Chain, whose: str) -> None:
    key = getattr(chain, whose).key
    write_private(chain.place / f"{whose}-secret.pem", key)
    fingerprint = read_signing_key(chain.place / f"{whose}-secret.pem").public.fingerprint
    revoked = write_pem(chain.place / "revoked", fingerprint.encode())
    with pytest.raises(refusals.RevokedKey, match=fingerprint):
        verify_signature(chain.content, chain.trusted(revoked=revoked), now=NOW)


@pytest.mark.parametrize("whose", ["signer", "between", "root"])
@pytest.mark.parametrize("form", ["der", "pem"])
def test_a_certificate_is_revoked_by_its_own_digest_too(
    chain: Chain, whose: str, form: str
) -> None:
    """As ``openssl x509 -fingerprint -sha256`` and ``sha256sum`` print it."""
    fingerprint = digest_bytes(getattr(getattr(chain, whose), form)())
    revoked = write_pem(chain.place / "revoked", fingerprint.encode())
    with pytest.raises(refusals.RevokedKey):
        verify_signature(chain.content, chain.trusted(revoked=revoked), now=NOW)


def test_a_trusted_certificate_is_revoked_by_the_digest_of_its_file(chain: Chain) -> None:
    root = write_pem(chain.place / "noted.pem", b"# ours\n" + chain.root.pem())
    revoked = write_pem(chain.place / "revoked", digest_bytes(root.read_bytes()).encode())
    with pytest.raises(refusals.RevokedKey):
        verify_signature(chain.content, read_trusted_keys([root], revoked=revoked), now=NOW)


def test_a_renewed_root_takes_the_place_of_an_expired_one(chain: Chain) -> None:
    """Both have the same name and the same key. Their order does not matter."""
    times = {"begin": NOW - timedelta(days=99), "end": NOW - timedelta(days=9)}
    expired = certify(Holder("root", chain.root.key), authority=True, **times)
    for holders in ((expired, chain.root), (chain.root, expired)):
        assert chain.verify(chain.content, *holders).files
    with pytest.raises(refusals.ExpiredCertificate):
        chain.verify(chain.content, expired)


CONSTRAINTS = (x509.BasicConstraints(ca=False, path_length=None), True)
SERVER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
CODE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        ([CONSTRAINTS], "does not say what it is for"),
        ([(key_usage("key_agreement"), True)], "no digitalSignature"),
        ([(key_usage("key_agreement"), True), (CODE, False)], "no digitalSignature"),
        ([(SERVER, False)], "no codeSigning"),
        ([(key_usage("digital_signature"), True), (SERVER, False)], "no codeSigning"),
        ([*signer_use(), (x509.InhibitAnyPolicy(0), True)], "critical extension 2.5.29.54"),
    ],
)
def test_a_certificate_for_another_use_does_not_sign(
    chain: Chain, extensions: Any, message: str
) -> None:
    with pytest.raises(refusals.UntrustedCertificate, match=message):
        chain.verify(chain.with_leaf(extensions=extensions))


@pytest.mark.parametrize(
    "extensions", [[(key_usage("digital_signature"), True)], [(CODE, True)], signer_use()]
)
def test_one_word_for_signing_is_enough(chain: Chain, extensions: Any) -> None:
    assert chain.verify(chain.with_leaf(extensions=extensions)).files


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        ([], "not that of an authority"),
        ([CONSTRAINTS], "not that of an authority"),
        (
            [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (key_usage("digital_signature"), True),
            ],
            "no keyCertSign",
        ),
        (
            [
                (x509.BasicConstraints(ca=True, path_length=None), True),
                (x509.NameConstraints([x509.DNSName("example.org")], None), True),
            ],
            "critical extension 2.5.29.30",
        ),
        ([*authority_use(), (SERVER, False)], "ExtendedKeyUsage has no codeSigning"),
    ],
)
def test_a_certificate_that_is_no_authority_issues_nothing(
    chain: Chain, extensions: Any, message: str
) -> None:
    between = certify(Holder("between"), chain.root, extensions=extensions)
    leaf = certify(Holder("release", chain.signer.key), between)
    with pytest.raises(refusals.UntrustedCertificate, match=message):
        chain.verify(chain.claimed(leaf.der(), between.der()))
    # Not even if it is trusted itself.
    with pytest.raises(refusals.UntrustedCertificate, match=message):
        chain.verify(chain.claimed(leaf.der()), between)


@pytest.mark.parametrize("use", ["CODE_SIGNING", "ANY_EXTENDED_KEY_USAGE"])
def test_an_authority_for_signing_code_issues_certificates(chain: Chain, use: str) -> None:
    uses = x509.ExtendedKeyUsage([getattr(ExtendedKeyUsageOID, use)])
    between = certify(Holder("b"), chain.root, extensions=[*authority_use(), (uses, False)])
    leaf = certify(Holder("release", chain.signer.key), between)
    assert chain.verify(chain.claimed(leaf.der(), between.der())).files


def test_an_authority_issues_no_more_authorities_than_it_may(chain: Chain) -> None:
    below = certify(Holder("below"), chain.between, authority=True)
    leaf = certify(Holder("release", chain.signer.key), below)
    with pytest.raises(refusals.UntrustedCertificate, match="only 0 may stand below"):
        chain.verify(chain.claimed(leaf.der(), below.der(), chain.between.der()))


def test_weak_hashes_and_short_keys_vouch_for_nothing(chain: Chain) -> None:
    weak = {
        "short": rsa.generate_private_key(65537, 1024),  # noqa: S505 - it is refused
        "curve": ec.generate_private_key(ec.SECP224R1()),
        "dsa": dsa.generate_private_key(1024),  # noqa: S505 - it is refused
    }
    for name in ("weak", *weak):
        root = certify(Holder(name, weak.get(name)), authority=True)
        leaf = certify(Holder("release", chain.signer.key), root)
        if name == "weak":
            leaf = certify(leaf, root, hash_type=hashes.SHA3_256())
        with pytest.raises(refusals.UntrustedCertificate, match="vouches for CN=release"):
            chain.verify(chain.claimed(leaf.der()), root)


def test_an_authority_may_have_an_rsa_key_and_a_signer_may_not(chain: Chain) -> None:
    root = certify(Holder("rsa", rsa.generate_private_key(65537, 2048)), authority=True)
    leaf = certify(Holder("release", chain.signer.key), root)
    assert chain.verify(chain.claimed(leaf.der()), root).files
    with pytest.raises(refusals.UnsupportedSignature, match="not accepted"):
        chain.verify(chain.claimed(certify(root).der()), root)


@pytest.mark.parametrize("content", [b"x", b"0\x82", b"\x30\x00"])
def test_what_is_no_certificate_is_refused(chain: Chain, content: bytes) -> None:
    with pytest.raises(refusals.MalformedSignature, match="certificate cannot be read"):
        chain.verify(chain.claimed(content))
    with pytest.raises(refusals.MalformedSignature, match="certificate cannot be read"):
        chain.verify(chain.claimed(chain.signer.der(), content))


@pytest.mark.parametrize("kind", [b"\x0d\x07release", b"\x03\x07\x00elease"])
def test_a_name_of_an_odd_type_is_refused(chain: Chain, kind: bytes) -> None:
    der = chain.signer.der().replace(b"\x0c\x07release", kind)
    with pytest.raises(refusals.MalformedSignature, match="certificate cannot be read"):
        chain.verify(chain.claimed(der))


def test_a_certificate_with_a_negative_number_is_refused(chain: Chain) -> None:
    """cryptography warns of it, and warnings are errors here."""
    der = bytearray(chain.signer.der())
    begin = der.index(b"\xa0\x03\x02\x01\x02\x02") + 7
    der[begin] |= 0x80
    with pytest.raises(SignatureError):
        chain.verify(chain.claimed(bytes(der)))


@pytest.mark.parametrize("count", [0, 11])
def test_the_number_of_certificates_is_limited(chain: Chain, count: int) -> None:
    with pytest.raises(refusals.MalformedSignature, match="right length"):
        chain.verify(chain.claimed(*[chain.signer.der()] * count))


@given(data=st.data())
def test_no_byte_of_a_certificate_can_be_changed(chain: Chain, data: st.DataObject) -> None:
    certificates = [bytearray(chain.signer.der()), bytearray(chain.between.der())]
    changed = data.draw(st.sampled_from(certificates))
    index = data.draw(st.integers(0, len(changed) - 1))
    changed[index] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SignatureError):
        chain.verify(chain.claimed(*map(bytes, certificates)))


def expired(chain: Chain) -> Holder:
    end = NOW - timedelta(hours=1)
    return certify(Holder("release", chain.signer.key), chain.between, end=end)


def for_servers(chain: Chain) -> Holder:
    return certify(Holder("release", chain.signer.key), chain.between, extensions=[(SERVER, False)])


def of_another(chain: Chain) -> Holder:
    return certify(Holder("release"), chain.between)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (expired, refusals.ExpiredCertificate),
        (for_servers, refusals.UntrustedCertificate),
        (of_another, refusals.KeyFileError),
    ],
)
def test_a_signer_is_told_before_it_signs(
    chain: Chain, make: Callable[[Chain], Holder], error: type[Exception]
) -> None:
    with pytest.raises(error):
        chain.signed(make(chain))


def test_a_file_of_certificates_has_certificates(chain: Chain) -> None:
    public = write_public(chain.place / "public.pem", chain.signer.key)
    bad = write_pem(
        chain.place / "bad.pem", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
    )
    for file, message in ((public, "among certificates"), (bad, "certificate cannot be read")):
        with pytest.raises(refusals.KeyFileError, match=message):
            read_signing_key(chain.place / "key.pem", certificates=[file], now=NOW)
    with pytest.raises(refusals.KeyFileError, match="certificate cannot be read"):
        read_trusted_keys([bad])
