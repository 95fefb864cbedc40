"""Keyless signatures, with a Sigstore instance of the tests' own: who is accepted, and what is
refused with which message. No network but this host's is used, and none to verify."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fake_sigstore import IDENTITY, PROVIDER, FakeSigstore, b64, running, token_of
from signers import FILES, World, write_files

from aoti_build.artifact.signing import refusals
from aoti_build.artifact.signing.compare import compare_directory
from aoti_build.artifact.signing.keyless import TrustedIdentity, read_trusted_identity
from aoti_build.artifact.signing.keyless_signing import KeylessSigner, require_no_token
from aoti_build.artifact.signing.sign import statement_about, write_signature
from aoti_build.artifact.signing.statement import statement_of
from aoti_build.artifact.signing.verify import Trusted, read_signature, verify_signature
from aoti_build.errors import NetworkError, SignatureError, ToolchainError, UsageError

needs_sigstore = pytest.mark.skipif(
    importlib.util.find_spec("sigstore") is None,
    reason="sigstore is not installed: pip install 'aoti_build[sigstore]'",
)
# The library leaves the closing of its connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
STATEMENT = statement_of("release", {"model.pt2": "0" * 64}, "model.sig")
OTHER = statement_of("release", {"model.pt2": "1" * 64}, "model.sig")


class Signed:
    """A directory that an identity signed, and the instance that confirmed it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.release = write_files(place / "release-1.2")
        self.token = token_of()
        self.token_file = place / "token"
        self.write_token(self.token + "\n")
        with running(place) as self.sigstore:
            self.content = self.signer().sign(self.release).content
        write_signature(self.content, self.release)

    def write_token(self, text: str) -> None:
        self.token_file.write_text(text)
        self.token_file.chmod(0o600)

    def signer(self) -> KeylessSigner:
        return KeylessSigner(self.token_file, self.sigstore.trust_config)

    def trusted(self, identity: str = IDENTITY, provider: str = PROVIDER) -> TrustedIdentity:
        return read_trusted_identity(identity, provider, trusted_root=self.sigstore.trusted_root)

    def document(self) -> Any:
        return json.loads(self.content)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    place = tmp_path_factory.mktemp("keyless")
    place.chmod(0o700)
    return Signed(place)


@pytest.fixture
def signer(signed: Signed, tmp_path: Path) -> Iterator[tuple[KeylessSigner, FakeSigstore]]:
    """A signer with a token, and the instance that it asks."""
    tmp_path.chmod(0o700)
    token = tmp_path / "token"
    token.write_text(signed.token)
    token.chmod(0o600)
    with running(tmp_path) as sigstore:
        yield KeylessSigner(token, sigstore.trust_config), sigstore


def refused(
    content: bytes, trusted: Trusted, error: type[SignatureError], part: str
) -> SignatureError:
    """It is refused with this class, and a message with this part."""
    with pytest.raises(SignatureError) as caught:
        verify_signature(content, trusted)
    assert type(caught.value) is error, caught.value
    assert part in str(caught.value)
    assert caught.value.exit_code == 4
    assert caught.value.hint
    assert len(str(caught.value)) < 1000
    return caught.value


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sigstore", None)
    for name in ("sigstore.sign", "sigstore.verify"):
        monkeypatch.setitem(sys.modules, name, None)
    asks: list[Callable[[], object]] = [
        lambda: read_trusted_identity(IDENTITY, PROVIDER),
        KeylessSigner().require_ready,
    ]
    for ask in asks:
        with pytest.raises(ToolchainError, match="need the package sigstore") as caught:
            ask()
        assert "aoti_build[sigstore]" in str(caught.value)


def test_an_identity_needs_a_provider() -> None:
    for names in (("", PROVIDER), (IDENTITY, "")):
        with pytest.raises(UsageError, match="an identity and its provider"):
            read_trusted_identity(*names)


@needs_sigstore
def test_a_signature_is_verified_without_a_network(
    signed: Signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: Any) -> None:
        raise AssertionError("a verification asks the network")

    monkeypatch.setattr(socket.socket, "connect", connect)
    listing = verify_signature(read_signature(signed.release), signed.trusted())
    compare_directory(listing, signed.release)
    assert set(listing.files) == set(FILES)
    assert listing.signer.kind == "sigstore"
    assert (listing.signer.name, listing.signer.provider) == (IDENTITY, PROVIDER)


@needs_sigstore
def test_what_is_signed_is_the_statement_of_all_kinds(signed: Signed) -> None:
    expected = statement_about(signed.release, None, "")
    envelope = signed.document()["dsseEnvelope"]
    assert base64.b64decode(envelope["payload"]) == expected
    (proposed,) = signed.sigstore.proposed
    assert json.loads(proposed["spec"]["proposedContent"]["envelope"]) == envelope


@needs_sigstore
def test_the_token_reaches_the_authority_alone(signed: Signed) -> None:
    assert signed.sigstore.tokens == [signed.token]
    assert signed.token not in json.dumps(signed.sigstore.proposed)
    assert signed.token.encode() not in signed.content
    assert signed.token not in repr(signed.signer())


@needs_sigstore
@pytest.mark.parametrize("identity", ["me@example.com", IDENTITY + "x", IDENTITY[:-1], "*", ""])
def test_another_identity(signed: Signed, identity: str) -> None:
    trusted = TrustedIdentity(identity, PROVIDER, signed.trusted().verifier)
    error = refused(
        signed.content, trusted, refusals.UnknownIdentity, "another identity than the required"
    )
    assert IDENTITY in str(error.cause)


@needs_sigstore
def test_another_provider(signed: Signed) -> None:
    trusted = signed.trusted(provider="https://accounts.example.com")
    error = refused(signed.content, trusted, refusals.UnknownIdentity, "another identity provider")
    assert PROVIDER in str(error.cause)


@needs_sigstore
def test_keys_and_identities_do_not_stand_for_each_other(signed: Signed, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    world = World(tmp_path)
    error = refused(world.content, signed.trusted(), refusals.UnknownIdentity, "signed with a key")
    assert "--public-key" in str(error.hint)
    error = refused(
        signed.content, world.trusted(), refusals.UnsupportedSignature, "keyless Sigstore"
    )
    assert "--identity NAME --identity-provider URL" in str(error.hint)
    assert "signed with a key" in str(error.hint)


@needs_sigstore
def test_another_instance(signed: Signed, tmp_path: Path) -> None:
    other = FakeSigstore(tmp_path)
    content = json.dumps(other.bundle(STATEMENT)).encode()
    refused(content, signed.trusted(), refusals.UntrustedCertificate, "no authority")
    trusted = read_trusted_identity(IDENTITY, PROVIDER)
    refused(content, trusted, refusals.UntrustedCertificate, "no authority")


def at(document: Any, *path: Any) -> Any:
    for step in path:
        document = document[step]
    return document


def put(*path_and_value: Any) -> Callable[[Any], None]:
    """What sets a field of a signature file."""
    *path, name, value = path_and_value

    def change(document: Any) -> None:
        at(document, *path)[name] = value

    return change


def drop(*path: Any) -> Callable[[Any], None]:
    *above, name = path

    def change(document: Any) -> None:
        del at(document, *above)[name]

    return change


def twice(*path: Any) -> Callable[[Any], None]:
    return lambda document: at(document, *path).append(at(document, *path)[0])


def other_base64(*path: Any) -> Callable[[Any], None]:
    *above, name = path

    def change(document: Any) -> None:
        place = at(document, *above)
        place[name] = place[name][:4] + "\n" + place[name][4:]

    return change


MATERIAL = "verificationMaterial"
ENTRY = (MATERIAL, "tlogEntries", 0)
PROOF = (*ENTRY, "inclusionProof")
ENVELOPE = "dsseEnvelope"
BAD = refusals.BadSignature
MALFORMED = refusals.MalformedSignature
ATTACKS: dict[str, tuple[Callable[[Any], object], type[SignatureError], str]] = {
    "statement": (put(ENVELOPE, "payload", b64(OTHER)), BAD, "DSSE: invalid signature"),
    "signature": (put(ENVELOPE, "signatures", 0, "sig", b64(b"0")), BAD, "invalid signature"),
    "two signatures": (twice(ENVELOPE, "signatures"), MALFORMED, "2 signatures"),
    "no signature": (put(ENVELOPE, "signatures", []), MALFORMED, "0 signatures"),
    "type of the statement": (put(ENVELOPE, "payloadType", "text/plain"), MALFORMED, "payloadType"),
    "no entry": (put(MATERIAL, "tlogEntries", []), MALFORMED, "exactly one log entry"),
    "no entries": (drop(MATERIAL, "tlogEntries"), MALFORMED, "tlogEntries"),
    "two entries": (twice(MATERIAL, "tlogEntries"), MALFORMED, "exactly one log entry"),
    "no promise": (drop(*ENTRY, "inclusionPromise"), MALFORMED, "inclusion promise"),
    "no proof": (drop(*ENTRY, "inclusionProof"), MALFORMED, "inclusionProof"),
    "no checkpoint": (drop(*PROOF, "checkpoint"), MALFORMED, "checkpoint"),
    "time": (put(*ENTRY, "integratedTime", "1"), refusals.UntrustedCertificate, "no authority"),
    "endless time": (put(*ENTRY, "integratedTime", str(2**64 - 1)), BAD, "not valid"),
    "entry": (put(*ENTRY, "canonicalizedBody", b64(b"{}")), BAD, "root hash"),
    "root hash": (put(*PROOF, "rootHash", b64(b"0" * 32)), BAD, "root hash"),
    "way to the root": (put(*PROOF, "hashes", []), BAD, "wrong size"),
    "position": (put(*PROOF, "logIndex", "0"), BAD, "root hash"),
    "size of the log": (put(*PROOF, "treeSize", "1"), MALFORMED, "treeSize"),
    "checkpoint": (put(*PROOF, "checkpoint", "envelope", "log\n2\nAA==\n\n"), BAD, "not valid"),
    "promise": (
        put(*ENTRY, "inclusionPromise", "signedEntryTimestamp", b64(b"0")),
        BAD,
        "inclusion promise",
    ),
    "certificate": (put(MATERIAL, "certificate", "rawBytes", b64(b"0")), BAD, "not valid"),
    "older format": (
        put("mediaType", "application/vnd.dev.sigstore.bundle+json;version=0.2"),
        MALFORMED,
        "mediaType",
    ),
    "unknown field": (put(*ENTRY, "more", 1), MALFORMED, "more"),
    "unknown field of the material": (put(MATERIAL, "more", 1), MALFORMED, "more"),
    "name of a field": (
        lambda d: at(d, *ENTRY).update(integrated_time=at(d, *ENTRY).pop("integratedTime")),
        MALFORMED,
        "clients write it",
    ),
    "text of a number": (put(*PROOF, "logIndex", "01"), MALFORMED, "clients write it"),
    "text of bytes": (other_base64(*ENTRY, "canonicalizedBody"), MALFORMED, "clients write it"),
    "text of the statement": (other_base64(ENVELOPE, "payload"), MALFORMED, "base64"),
    "a key as well": (put(MATERIAL, "publicKey", {"hint": "0"}), MALFORMED, "2 kinds of signers"),
    "a chain": (
        lambda d: d[MATERIAL].update(
            x509CertificateChain={"certificates": [d[MATERIAL].pop("certificate")]}
        ),
        refusals.UnknownIdentity,
        "signed with a key",
    ),
    "another content": (put("messageSignature", {"signature": b64(b"0")}), MALFORMED, "message"),
}


@needs_sigstore
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_changed_signature_file(signed: Signed, attack: str) -> None:
    change, error, part = ATTACKS[attack]
    document = signed.document()
    change(document)
    refused(json.dumps(document).encode(), signed.trusted(), error, part)


@needs_sigstore
def test_a_doubled_key_of_the_file(signed: Signed) -> None:
    text = signed.content.decode()
    doubled = text.replace('"tlogEntries":', '"tlogEntries":[],"tlogEntries":')
    refused(doubled.encode(), signed.trusted(), MALFORMED, "malformed")


@needs_sigstore
def test_parts_of_another_signature_by_the_same_identity(signed: Signed) -> None:
    """Each part is valid by itself. They must belong together."""
    sigstore = signed.sigstore
    for name in ("certificate", "tlogEntries"):
        one, other = sigstore.bundle(STATEMENT), sigstore.bundle(OTHER)
        one[MATERIAL][name] = other[MATERIAL][name]
        refused(json.dumps(one).encode(), signed.trusted(), BAD, "not valid")
    one, other = sigstore.bundle(STATEMENT), sigstore.bundle(OTHER)
    one[ENVELOPE] = other[ENVELOPE]
    refused(json.dumps(one).encode(), signed.trusted(), BAD, "not valid")


@needs_sigstore
def test_a_certificate_that_had_expired_when_the_log_took_the_signature(signed: Signed) -> None:
    begin = datetime.now(timezone.utc) - timedelta(hours=1)
    late = signed.sigstore.bundle(STATEMENT, begin=begin)
    content = json.dumps(late).encode()
    refused(content, signed.trusted(), refusals.UntrustedCertificate, "no authority")
    # The certificate has expired by now in any case. The time in the log counts.
    in_time = int((begin + timedelta(minutes=1)).timestamp())
    early = signed.sigstore.bundle(STATEMENT, begin=begin, when=in_time)
    assert verify_signature(json.dumps(early).encode(), signed.trusted()).files


@needs_sigstore
def test_a_certificate_that_no_log_has(signed: Signed, tmp_path: Path) -> None:
    unlogged = FakeSigstore(tmp_path)
    unlogged.authority, unlogged.log = signed.sigstore.authority, signed.sigstore.log
    content = json.dumps(unlogged.bundle(STATEMENT)).encode()
    refused(content, signed.trusted(), BAD, "")
    unlogged.certificate_log = signed.sigstore.certificate_log
    assert verify_signature(json.dumps(unlogged.bundle(STATEMENT)).encode(), signed.trusted())
    unlogged.log = ec.generate_private_key(ec.SECP256R1())
    content = json.dumps(unlogged.bundle(STATEMENT)).encode()
    refused(content, signed.trusted(), BAD, "")


@needs_sigstore
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_key_of_another_kind(signed: Signed, kind: str) -> None:
    key: Any = ed25519.Ed25519PrivateKey.generate()
    document = signed.sigstore.bundle(STATEMENT, key=key)
    if kind == "rsa":
        secret = rsa.generate_private_key(65537, 2048)
        certificate = signed.sigstore.certify(secret.public_key(), IDENTITY, PROVIDER)
        from cryptography.hazmat.primitives.serialization import Encoding

        raw = b64(certificate.public_bytes(Encoding.DER))
        document[MATERIAL]["certificate"]["rawBytes"] = raw
    content = json.dumps(document).encode()
    refused(content, signed.trusted(), refusals.UnsupportedSignature, "key that is not accepted")


@needs_sigstore
@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda d: d.update(predicateType="https://slsa.dev/x"), "UnsupportedSignature", "else"),
        (lambda d: d["predicate"]["resources"][0].update(name="../x"), "MalformedSignature", ""),
        (lambda d: d.update(more=1), "MalformedSignature", "statement is malformed"),
    ],
)
def test_a_statement_is_judged_as_with_keys(
    signed: Signed, change: Callable[[Any], object], error: str, match: str
) -> None:
    statement = json.loads(STATEMENT)
    change(statement)
    content = json.dumps(signed.sigstore.bundle(json.dumps(statement).encode())).encode()
    refused(content, signed.trusted(), getattr(refusals, error), match)
    doubled = STATEMENT.replace(b'"predicateType":', b'"predicateType":"x","predicateType":')
    content = json.dumps(signed.sigstore.bundle(doubled)).encode()
    refused(content, signed.trusted(), MALFORMED, "statement is malformed")


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for name, below in inner:
        yield from leaves(below, (*path, name))


@needs_sigstore
def test_no_content_leads_to_another_exception(signed: Signed) -> None:
    trusted = signed.trusted()
    chance = random.Random(18)  # noqa: S311 - the same examples each time
    values = ["", "AAAA", "x", "\ud800", None, 0, -1, 2**70, 1.5, True, [], {}, [{}], "9" * 25]
    for path in list(leaves(signed.document()))[1:]:
        for value in chance.sample(values, 5):
            document = signed.document()
            if at(document, *path) == value:
                continue
            put(*path, value)(document)
            with pytest.raises(SignatureError):
                verify_signature(json.dumps(document).encode(), trusted)
    for _ in range(300):
        raw = bytearray(base64.b64decode(signed.document()[MATERIAL]["certificate"]["rawBytes"]))
        raw[chance.randrange(len(raw))] = chance.randrange(256)
        document = signed.document()
        if at(document, MATERIAL, "certificate", "rawBytes") == b64(raw):
            continue
        document[MATERIAL]["certificate"]["rawBytes"] = b64(raw)
        with pytest.raises(SignatureError):
            verify_signature(json.dumps(document).encode(), trusted)


@needs_sigstore
def test_the_trusted_root_is_read_like_a_key(signed: Signed, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    file = tmp_path / "root.json"

    def error(**options: Any) -> str:
        with pytest.raises(refusals.KeyFileError) as caught:
            read_trusted_identity(IDENTITY, PROVIDER, trusted_root=file, **options)
        return str(caught.value)

    assert "cannot be read" in error()
    os.mkfifo(file)
    assert "cannot be read" in error()
    file.unlink()
    for text in (
        "",
        "{}",
        "[]",
        "x",
        '{"mediaType": "x"}',
        "\ud800".encode(errors="surrogatepass"),
    ):
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        file.chmod(0o644)
        assert "trusted root cannot be read" in error()
    document = json.loads(signed.sigstore.trusted_root.read_text())
    for name in ("tlogs", "certificateAuthorities"):
        file.write_text(json.dumps({**document, name: []}))
        assert "trusted root cannot be read" in error()
    file.write_text(json.dumps(document))
    assert "from the release itself" in error(release=tmp_path)
    file.chmod(0o666)
    assert "others could have written" in error()


@needs_sigstore
def test_the_public_instance_needs_no_home(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    trusted = read_trusted_identity(IDENTITY, PROVIDER)
    refused(signed.content, trusted, refusals.UntrustedCertificate, "no authority")
    assert list(tmp_path.iterdir()) == []


TOKENS = {
    "empty": (" \n", "no identity token"),
    "no token": ("x", "cannot be used"),
    "cut": (token_of()[:40], "cannot be used"),
    "expired": (token_of(exp=1), "expired"),
    "another audience": (token_of(aud="shop"), "Audience"),
    "no subject": (token_of(sub=None), "cannot be used"),
    "no text": ("\u00e9", "cannot be used"),
}


@needs_sigstore
@pytest.mark.parametrize("case", TOKENS)
def test_a_token_that_cannot_be_used(signed: Signed, tmp_path: Path, case: str) -> None:
    tmp_path.chmod(0o700)
    text, match = TOKENS[case]
    file = tmp_path / "token"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(UsageError) as caught:
        KeylessSigner(file, signed.sigstore.trust_config).require_ready()
    assert match in str(caught.value)
    assert caught.value.exit_code == 2
    if len(text) > 10:
        assert text not in chain_of(caught.value)


def chain_of(error: BaseException | None) -> str:
    """The texts of an error and of all errors behind it."""
    texts = []
    while error is not None:
        texts += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


@needs_sigstore
def test_a_token_that_others_can_read(signed: Signed, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    file = tmp_path / "token"
    file.write_text(signed.token)
    file.chmod(0o640)
    with pytest.raises(UsageError, match="others can read the identity token"):
        KeylessSigner(file).require_ready()
    with pytest.raises(UsageError, match="cannot be read"):
        KeylessSigner(tmp_path / "absent").require_ready()


def test_a_token_in_place_of_a_file_is_not_repeated() -> None:
    token = token_of()
    with pytest.raises(UsageError, match="got a token") as caught:
        require_no_token("--identity-token-file", token)
    assert token not in chain_of(caught.value)
    for name in ("token", "./eyJ", "eyJ.token", "/run/secrets/a.b.c"):
        require_no_token("--identity-token-file", name)


@needs_sigstore
def test_a_token_in_the_directory_is_not_signed(signed: Signed, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    file = tmp_path / "token"
    file.write_text(signed.token)
    file.chmod(0o600)
    with pytest.raises(refusals.UnfitFiles, match="identity token is in the directory"):
        KeylessSigner(file, signed.sigstore.trust_config).sign(tmp_path)


@pytest.fixture
def no_ci(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No CI service, as the library knows them."""
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@needs_sigstore
def test_without_a_ci_service_no_browser_is_opened(no_ci: pytest.MonkeyPatch) -> None:
    def opened(*_: Any, **__: Any) -> None:
        raise AssertionError("a browser was opened")

    no_ci.setattr("webbrowser.open", opened)
    with pytest.raises(UsageError, match="no identity token to sign with") as caught:
        KeylessSigner().require_ready()
    assert "id-token: write" in str(caught.value)


@needs_sigstore
def test_the_token_of_a_ci_service(no_ci: pytest.MonkeyPatch, signed: Signed) -> None:
    no_ci.setenv("GITLAB_CI", "true")
    no_ci.delenv("SIGSTORE_ID_TOKEN", raising=False)
    with pytest.raises(UsageError, match="gives no identity token"):
        KeylessSigner().require_ready()
    no_ci.setenv("SIGSTORE_ID_TOKEN", signed.token)
    KeylessSigner(trust_config=signed.sigstore.trust_config).require_ready()
    no_ci.delenv("GITLAB_CI")
    no_ci.setenv("GITHUB_ACTIONS", "true")
    no_ci.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", raising=False)
    with pytest.raises(UsageError, match="gives no identity token") as caught:
        KeylessSigner().require_ready()
    assert "id-token: write" in str(caught.value)


@needs_sigstore
def test_a_configuration_that_is_none(signed: Signed, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    file = tmp_path / "config.json"
    file.write_text(signed.sigstore.trusted_root.read_text())
    file.chmod(0o644)
    with pytest.raises(UsageError, match="configuration of Sigstore cannot be read"):
        KeylessSigner(signed.token_file, file).require_ready()


def damaged(path: str, change: Callable[[Any], object]) -> Callable[[str, Any], Any]:
    """What changes the answer at a path."""

    def answer(asked: str, content: Any) -> Any:
        if asked == path:
            change(content)
        return content

    return answer


LOG = "/api/v1/log/entries"


def entry_of(answer: Any) -> Any:
    return answer["uuid"]


SERVICES: dict[str, tuple[int, Callable[[str, Any], Any], type[Exception], str]] = {
    "refuses": (400, lambda path, answer: answer, UsageError, "refuses to sign"),
    "fails": (500, lambda path, answer: answer, NetworkError, "did not sign"),
    "answers no JSON": (201, lambda path, answer: b"<html>", NetworkError, "did not sign"),
    "answers another JSON": (201, lambda path, answer: {}, NetworkError, "did not sign"),
    "answers a list": (201, lambda path, answer: [1], NetworkError, "did not sign"),
    "the log answers a list": (
        201,
        lambda path, answer: [1] if path == LOG else answer,
        NetworkError,
        "did not sign",
    ),
    "gives no proof": (
        201,
        damaged(LOG, lambda answer: entry_of(answer)["verification"].pop("inclusionProof")),
        NetworkError,
        "did not sign",
    ),
    "gives a wrong promise": (
        201,
        damaged(
            LOG, lambda answer: entry_of(answer)["verification"].update(signedEntryTimestamp="MA==")
        ),
        NetworkError,
        "no valid signature",
    ),
    "gives another entry": (
        201,
        damaged(LOG, lambda answer: entry_of(answer).update(integratedTime=1)),
        NetworkError,
        "no valid signature",
    ),
}


@needs_sigstore
@pytest.mark.parametrize("case", SERVICES)
def test_services_that_fail(
    signed: Signed, signer: tuple[KeylessSigner, FakeSigstore], case: str
) -> None:
    keyless, sigstore = signer
    sigstore.status, sigstore.change, error, match = SERVICES[case]
    with pytest.raises(error, match=match) as caught:
        keyless.sign(signed.release)
    assert signed.token not in chain_of(caught.value)


@needs_sigstore
def test_services_that_are_not_there(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(NetworkError, match="did not sign") as caught:
        KeylessSigner(signed.token_file, FakeSigstore(tmp_path).trust_config).sign(signed.release)
    assert signed.token not in chain_of(caught.value)


@needs_sigstore
def test_the_signer_says_who_signed(
    signed: Signed, signer: tuple[KeylessSigner, FakeSigstore]
) -> None:
    keyless, _ = signer
    made = keyless.sign(signed.release)
    assert (made.identity, made.provider) == (IDENTITY, PROVIDER)
    assert keyless.token_file is not None
    keyless.token_file.write_text(token_of("me@example.com"))
    assert keyless.sign(signed.release).identity == "me@example.com"
