"""`release --sign-sigstore`, `verify --release --identity`, and a loader that wants a key."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_sigstore import IDENTITY, PROVIDER, FakeSigstore, running, token_of
from releases import Release, make_release
from small_projects import TWO_MODELS, FakeWorker, inv, publish_fake, write_project

from aoti_build.artifact.bundle.signed import OldRelease
from aoti_build.artifact.signing import refusals
from aoti_build.artifact.signing.compare import compare_directory
from aoti_build.artifact.signing.keyless import read_trusted_identity
from aoti_build.artifact.signing.sign import statement_about
from aoti_build.artifact.signing.verify import read_signature, verify_signature
from aoti_build.commands.release.command import ReleaseOptions, release
from aoti_build.commands.release.report import ReleaseReport
from aoti_build.commands.verify_release.command import verify_release
from aoti_build.commands.verify_release.options import VerifyReleaseOptions
from aoti_build.commands.verify_release.report import ReleaseVerification
from aoti_build.errors import NetworkError, SignatureError, UsageError
from aoti_build.models_file import Project
from aoti_build.report.release_verification_text import release_verification_lines
from aoti_build.runtime.signed import open_release

needs_sigstore = pytest.mark.skipif(
    importlib.util.find_spec("sigstore") is None,
    reason="sigstore is not installed: pip install 'aoti_build[sigstore]'",
)
# The library leaves the closing of its connections to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
NAMES = ("--identity", IDENTITY, "--identity-provider", PROVIDER)


class Received:
    """A release that an identity signed, and the trusted root of its instance."""

    def __init__(self, release: Release, sigstore: FakeSigstore) -> None:
        self.release = release
        self.root = sigstore.trusted_root

    def options(self, **options: Any) -> VerifyReleaseOptions:
        named = {
            "identity": IDENTITY,
            "identity_provider": PROVIDER,
            "trusted_root": str(self.root),
        }
        return VerifyReleaseOptions(directory=self.release.bundle, **{**named, **options})

    def verify(self, **options: Any) -> ReleaseVerification:
        return verify_release(self.options(**options))


@pytest.fixture(scope="module")
def made() -> list[Release]:
    """The release that all tests copy, once it is made."""
    return []


@pytest.fixture
def received(
    made: list[Release],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    fake_worker: FakeWorker,
) -> Received:
    tmp_path.chmod(0o700)
    if not made:
        made.append(make_release(tmp_path_factory.mktemp("made")))
    fake_worker.calls.clear()
    copy = made[0].copy(tmp_path / "received")
    sigstore = FakeSigstore(tmp_path)
    statement = statement_about(copy.bundle, None, "")
    (copy.bundle / "model.sig").write_text(json.dumps(sigstore.bundle(statement)))
    return Received(copy, sigstore)


@needs_sigstore
def test_a_good_release(received: Received, fake_worker: FakeWorker) -> None:
    report = received.verify()
    assert report.error is None
    signer = report.as_json()["signer"]
    assert (signer["kind"], signer["name"], signer["provider"]) == ("sigstore", IDENTITY, PROVIDER)
    text = "\n".join(release_verification_lines(report))
    assert f"signed by {IDENTITY}, for whom {PROVIDER} vouched" in text
    assert "exactly the signed ones" in text
    assert fake_worker.calls == ["check", "probe"] * 3


@needs_sigstore
def test_what_is_refused_before_a_package_is_run(
    received: Received, fake_worker: FakeWorker
) -> None:
    def refused(error: type[SignatureError], match: str, **options: Any) -> None:
        with pytest.raises(error, match=match) as caught:
            received.verify(**options)
        assert type(caught.value) is error
        assert caught.value.exit_code == 4
        assert fake_worker.calls == []

    refused(refusals.UnknownIdentity, "another identity than", identity="me@example.com")
    refused(refusals.UnknownIdentity, "another identity provider", identity_provider="https://x")
    refused(refusals.UntrustedCertificate, "no authority", trusted_root=None)
    refused(OldRelease, "1.5 or later", min_version="1.5")
    package = received.release.file("model.pt2")
    package.write_bytes(package.read_bytes() + b"x")
    refused(refusals.ListingMismatch, "changed since they were signed")
    received.release.sign()
    refused(refusals.UnknownIdentity, "signed with a key")
    (received.release.bundle / "model.sig").unlink()
    refused(refusals.NoSignature, "not signed")


@needs_sigstore
def test_keys_do_not_accept_it(received: Received, fake_worker: FakeWorker) -> None:
    keys = (str(received.release.public),)
    with pytest.raises(refusals.UnsupportedSignature, match="keyless Sigstore"):
        verify_release(VerifyReleaseOptions(directory=received.release.bundle, keys=keys))
    assert fake_worker.calls == []


@needs_sigstore
def test_the_loader_wants_a_key(received: Received) -> None:
    bundle = received.release.bundle
    with (
        pytest.raises(refusals.UnsupportedSignature, match="keyless Sigstore") as caught,
        open_release(bundle, received.release.public, None, "full"),
    ):
        pass
    assert "loads or pulls with keys needs a release that is signed with a key" in str(caught.value)
    identity: Any = read_trusted_identity(IDENTITY, PROVIDER, trusted_root=received.root)
    with (
        pytest.raises(UsageError, match="names no key"),
        open_release(bundle, identity, None, "full"),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"identity_provider": None}, "needs both --identity and"),
        ({"identity": None}, "--identity-provider needs both"),
        ({"identity": None, "identity_provider": None}, "--trusted-root needs both"),
        ({"identity": ""}, "--identity names nothing"),
        ({"identity_provider": ""}, "--identity-provider names nothing"),
        ({"trusted_root": ""}, "--trusted-root names nothing"),
        ({"keys": ("key.pem",)}, "--identity and --public-key exclude"),
        ({"unsigned": True}, "--identity and --unsigned exclude"),
    ],
)
def test_options_that_do_not_fit(
    received: Received, fake_worker: FakeWorker, options: Any, match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        received.verify(**options)
    assert fake_worker.calls == []


@needs_sigstore
def test_the_task_of_a_receiver(received: Received, tmp_path: Path) -> None:
    words = ["verify", "--release", str(received.release.bundle), "--trusted-root"]
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    wrong = inv(*words, str(received.root), *NAMES[:3], "https://x", cwd=tmp_path)
    assert wrong.returncode == 4
    assert "another identity provider" in wrong.stderr
    missing = inv(*words, str(received.root), *NAMES[:2], cwd=tmp_path)
    assert missing.returncode == 2
    alone = inv("verify", *NAMES, cwd=tmp_path)
    assert alone.returncode == 2
    assert "--identity is for releases" in alone.stderr


@pytest.fixture
def two(tmp_path: Path, fake_worker: FakeWorker) -> Project:
    """Two targets, both up to date."""
    tmp_path.chmod(0o700)
    project = write_project(tmp_path / "project", TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
    return project


@pytest.fixture
def sigstore(tmp_path: Path) -> Iterator[FakeSigstore]:
    tmp_path.chmod(0o700)
    with running(tmp_path) as instance:
        yield instance


def token_file(tmp_path: Path, token: str) -> str:
    file = tmp_path / "token"
    file.write_text(token)
    file.chmod(0o600)
    return str(file)


def make(project: Project, lines: list[str], **options: Any) -> ReleaseReport:
    named = {
        "version": "1.4.0",
        "directory": str(project.root / "out"),
        "allow_dirty": True,
        "sign_sigstore": True,
    }
    return release(
        project, project.targets, ReleaseOptions(**{**named, **options}), on_line=lines.append
    )


@needs_sigstore
def test_a_release_is_signed_as_the_token_says(
    two: Project, tmp_path: Path, sigstore: FakeSigstore
) -> None:
    lines: list[str] = []
    options = {"trust_config": str(sigstore.trust_config)}
    report = make(two, lines, token_file=token_file(tmp_path, token_of()), **options)
    assert report.error is None, report.error
    assert report.as_json()["release"]["signature"] == "model.sig"
    assert lines == [f"signed as {IDENTITY}, for whom {PROVIDER} vouched"]
    trusted = read_trusted_identity(IDENTITY, PROVIDER, trusted_root=sigstore.trusted_root)
    listing = verify_signature(read_signature(two.root / "out"), trusted)
    compare_directory(listing, two.root / "out")


@needs_sigstore
def test_a_token_that_ends_during_the_build(
    two: Project, tmp_path: Path, sigstore: FakeSigstore, fake_worker: FakeWorker
) -> None:
    """The token of the start is checked, and that of the end is used."""
    options = {
        "token_file": token_file(tmp_path, token_of()),
        "trust_config": str(sigstore.trust_config),
    }
    fake_worker.during = lambda *_: token_file(tmp_path, token_of(exp=1))
    with pytest.raises(UsageError, match="token cannot be used"):
        make(two, [], **options)
    assert not (two.root / "out").exists()
    assert sigstore.tokens == []
    fake_worker.during = lambda *_: token_file(tmp_path, token_of("me@example.com"))
    token_file(tmp_path, token_of())
    lines: list[str] = []
    make(two, lines, **options)
    assert "me@example.com" in lines[0]


@needs_sigstore
def test_nothing_is_built_that_could_not_be_signed(
    two: Project, tmp_path: Path, fake_worker: FakeWorker
) -> None:
    with pytest.raises(UsageError, match="token cannot be used"):
        make(two, [], token_file=token_file(tmp_path, token_of(exp=1)))
    assert fake_worker.calls == []


@needs_sigstore
def test_services_that_are_not_there(two: Project, tmp_path: Path, fake_worker: FakeWorker) -> None:
    options = {
        "token_file": token_file(tmp_path, token_of()),
        "trust_config": str(FakeSigstore(tmp_path).trust_config),
    }
    with pytest.raises(NetworkError, match="did not sign"):
        make(two, [], **options)
    assert [path.name for path in two.root.iterdir() if path.name.startswith((".out", "out"))] == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sign": "key.pem"}, "--sign and --sign-sigstore exclude"),
        ({"passphrase": "PASS"}, "--sign and --sign-sigstore exclude"),
        ({"sign_sigstore": False, "token_file": "token"}, "no --sign-sigstore"),
        ({"sign_sigstore": False, "trust_config": "config"}, "no --sign-sigstore"),
    ],
)
def test_options_of_a_signer_that_do_not_fit(
    two: Project, fake_worker: FakeWorker, options: Any, match: str
) -> None:
    with pytest.raises(UsageError, match=match):
        make(two, [], **options)
    assert fake_worker.calls == []


def test_a_token_on_the_command_line_is_not_repeated(two: Project) -> None:
    token = token_of()
    words = ["release", "--version", "1.4.0", "--out", "out", "--allow-dirty", "--sign-sigstore"]
    for more in ((), ("--json",), ("--debug",)):
        answer = inv(*words, "--identity-token-file", token, *more, cwd=two.root)
        assert answer.returncode == 2
        assert "got a token" in answer.stdout + answer.stderr
        assert token not in answer.stdout + answer.stderr
    assert not (two.root / "out").exists()
