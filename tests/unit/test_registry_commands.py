"""`release-push` and `release-pull` against a registry in this process: what arrives, what is
refused, and what faults leave behind."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_registries import (
    FILES,
    MODEL,
    PASSWORD,
    REPOSITORY,
    TOKEN,
    USER,
    Call,
    FakeRegistry,
    Reply,
    digest_of,
    running_registry,
    write_release,
)
from signers import write_private, write_public
from small_projects import bare, contents

from aoti_build.artifact.bundle.signed import OldRelease
from aoti_build.artifact.signing.private_keys import read_signing_key
from aoti_build.artifact.signing.refusals import (
    KeyFileError,
    ListingMismatch,
    NoSignature,
    RevokedKey,
    UnknownKey,
)
from aoti_build.artifact.signing.sign import sign, write_signature
from aoti_build.commands.release.pull import pull
from aoti_build.commands.release.push import push
from aoti_build.errors import (
    AotiBuildError,
    ArtifactError,
    ExitCode,
    NetworkError,
    SignatureError,
    UsageError,
)
from aoti_build.registry import transport
from aoti_build.registry.oci_manifest import ARTIFACT_TYPE, TITLE

SIGNATURE = "model.sig"


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with running_registry() as running:
        yield running


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[float]:
    """The pauses between attempts, which are not made. Nobody is logged in anywhere."""
    waited: list[float] = []
    monkeypatch.setattr(transport.time, "sleep", waited.append)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for name in ("AOTI_BUILD_REGISTRY_USER", "AOTI_BUILD_REGISTRY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    return waited


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write_release(tmp_path / "release")


@pytest.fixture
def pushed(registry: FakeRegistry, release: Path) -> FakeRegistry:
    """A registry that has the release."""
    push(str(release), registry.address())
    registry.calls.clear()
    return registry


def refused(
    kind: type[AotiBuildError], words: str, tmp_path: Path, address: str, **options: Any
) -> AotiBuildError:
    """The error of a pull that must fail, and leave nothing behind."""
    with pytest.raises(kind) as caught:
        pull(address, str(tmp_path / "out"), **options)
    assert type(caught.value) is kind or kind is not ArtifactError
    assert words in str(caught.value)
    assert not list(tmp_path.glob("*out*"))
    return caught.value


def manifest_of(registry: FakeRegistry) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(registry.manifests["1.4.0"])
    return document


def edit(registry: FakeRegistry, change: Callable[[dict[str, Any]], None]) -> None:
    """Let the tag name a changed manifest."""
    document = manifest_of(registry)
    change(document)
    registry.keep(json.dumps(document).encode())


def on(pattern: str, *replies: Reply | None, method: str = "GET") -> Callable[[Call], Reply | None]:
    """A fault of requests whose path has `pattern`: one reply for each, and then usual answers."""
    left = list(replies)

    def fault(call: Call) -> Reply | None:
        if call.method == method and pattern in call.path and left:
            return left.pop(0)
        return None

    return fault


# What arrives


def test_a_release_comes_back_as_it_was(
    registry: FakeRegistry, release: Path, tmp_path: Path
) -> None:
    report = push(str(release), registry.address())
    assert report.digest == digest_of(registry.manifests["1.4.0"])
    pulled = pull(registry.address(), str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(release)
    assert pulled.digest == report.digest
    assert pulled.as_json()["pinned"] == registry.address(f"@{report.digest}")
    assert not pulled.signed
    assert pulled.signer is None


def test_the_artifact_says_what_it_is(pushed: FakeRegistry) -> None:
    document = manifest_of(pushed)
    assert document["artifactType"] == ARTIFACT_TYPE
    assert document["annotations"] == {
        TITLE: "shop",
        "org.opencontainers.image.version": "1.4.0",
        "org.opencontainers.image.created": "2026-01-02T03:04:05Z",
        "org.opencontainers.image.revision": "a" * 40,
        "org.opencontainers.image.source": "https://example.org/us/shop",
    }
    titles = [layer["annotations"][TITLE] for layer in document["layers"]]
    assert titles == sorted([*FILES, "SHA256SUMS", "release.json"])
    # Some registries refuse a manifest whose configuration they lack.
    assert document["config"]["digest"] in pushed.blobs


def test_equal_files_are_uploaded_once(registry: FakeRegistry, release: Path) -> None:
    report = push(str(release), registry.address())
    assert (report.files, report.uploaded) == (6, 5)


def test_what_is_there_is_not_uploaded_again(pushed: FakeRegistry, release: Path) -> None:
    (release / "SHA256SUMS").write_text("others\n")
    report = push(str(release), pushed.address(":1.5.0"))
    assert (report.uploaded, report.uploaded_size) == (1, 7)
    assert len(pushed.made("PUT", "blobs")) == 1


def test_a_push_can_be_repeated(pushed: FakeRegistry, release: Path) -> None:
    before = pushed.manifests["1.4.0"]
    assert push(str(release), pushed.address()).uploaded == 0
    assert pushed.manifests["1.4.0"] == before


def test_a_digest_names_the_release(pushed: FakeRegistry, tmp_path: Path) -> None:
    digest = digest_of(pushed.manifests["1.4.0"])
    pull(pushed.address(f"@{digest}"), str(tmp_path / "out"))
    assert (tmp_path / "out" / MODEL).read_bytes() == FILES[MODEL]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_modes_are_those_of_the_record(registry: FakeRegistry, tmp_path: Path, umask: int) -> None:
    release = write_release(tmp_path / "release", modes={"NOTES.md": "444"})
    push(str(release), registry.address())
    before = os.umask(umask)
    try:
        pull(registry.address(), str(tmp_path / "out"))
    finally:
        os.umask(before)
    modes = {
        name: stat.S_IMODE((tmp_path / "out" / name).stat().st_mode)
        for name in ("NOTES.md", MODEL, "release.json", "models", "")
    }
    assert list(modes.values()) == [0o444, 0o644, 0o644, 0o755, 0o755]


# What a push refuses


def test_a_tag_is_not_moved_unless_asked(pushed: FakeRegistry, release: Path) -> None:
    before = pushed.manifests["1.4.0"]
    (release / "SHA256SUMS").write_text("others\n")
    with pytest.raises(UsageError, match="names something else already"):
        push(str(release), pushed.address())
    assert pushed.manifests["1.4.0"] == before
    assert not pushed.made("PUT", "")
    push(str(release), pushed.address(), replace=True)
    assert pushed.manifests["1.4.0"] != before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("NOTES.md", b"other", "changed: 'NOTES.md'"),
        ("extra", b"", "not listed: 'extra'"),
        ("release.json", b"{}", "cannot be read"),
    ],
)
def test_an_altered_release_is_not_pushed(
    registry: FakeRegistry, release: Path, name: str, content: bytes, words: str
) -> None:
    (release / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=words):
        push(str(release), registry.address())
    assert not registry.calls


def test_links_and_empty_directories_are_not_pushed(registry: FakeRegistry, release: Path) -> None:
    (release / "empty").mkdir()
    with pytest.raises(ArtifactError, match="directories without files: 'empty'"):
        push(str(release), registry.address())
    (release / "empty").rmdir()
    (release / "link").symlink_to("NOTES.md")
    with pytest.raises(SignatureError, match="'link' is a symbolic link"):
        push(str(release), registry.address())
    assert not registry.calls


def test_a_directory_without_a_release_is_not_pushed(
    registry: FakeRegistry, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="is no directory"):
        push(str(tmp_path / "absent"), registry.address())
    with pytest.raises(ArtifactError, match=r"no release\.json"):
        push(str(tmp_path), registry.address())


def test_a_push_names_a_tag(registry: FakeRegistry, release: Path) -> None:
    with pytest.raises(UsageError, match="gets its digest by the push"):
        push(str(release), registry.address(f":1.4.0@sha256:{'0' * 64}"))


def test_a_file_that_changes_during_the_upload(registry: FakeRegistry, release: Path) -> None:
    def change(line: str) -> None:
        if line == "upload NOTES.md":
            (release / "NOTES.md").write_bytes(b"later")

    with pytest.raises(ArtifactError, match="changed while it was uploaded"):
        push(str(release), registry.address(), on_line=change)
    assert not registry.manifests


def test_an_interrupted_push_gives_no_tag_and_goes_on_later(
    registry: FakeRegistry, release: Path
) -> None:
    def interrupt(line: str) -> None:
        if line == "upload release.json":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        push(str(release), registry.address(), on_line=interrupt)
    assert not registry.manifests
    assert push(str(release), registry.address()).uploaded < 5


# Faults on the way


def test_passing_failures_are_tried_again(
    registry: FakeRegistry, release: Path, tmp_path: Path, waits: list[float]
) -> None:
    registry.fault = on("blobs/uploads/1", Reply(500), Reply(503), method="PUT")
    push(str(release), registry.address())
    assert waits == list(transport.DELAYS[:2])
    registry.fault = on("manifests", Reply(429, headers={"Retry-After": "7"}))
    pull(registry.address(), str(tmp_path / "out"))
    assert waits[2:] == [7.0]


def test_an_upload_that_fails_again_and_again_gives_no_tag(
    registry: FakeRegistry, release: Path
) -> None:
    registry.fault = lambda call: Reply(502) if call.method == "PUT" else None
    with pytest.raises(NetworkError, match="failed 4 times") as caught:
        push(str(release), registry.address())
    assert caught.value.exit_code == ExitCode.UNFIT_TOOLCHAIN
    assert not registry.manifests


def test_a_download_that_ends_early_begins_again(pushed: FakeRegistry, tmp_path: Path) -> None:
    content = FILES[MODEL]
    name = digest_of(content)
    pushed.fault = on(name, Reply(200, content[:50], length=len(content)))
    pull(pushed.address(), str(tmp_path / "out"))
    assert (tmp_path / "out" / MODEL).read_bytes() == content


def test_a_download_that_always_ends_early(pushed: FakeRegistry, tmp_path: Path) -> None:
    content = FILES[MODEL]
    short = Reply(200, content[:50], length=len(content))
    pushed.fault = lambda call: short if digest_of(content) in call.path else None
    refused(NetworkError, f"50 of the {len(content)} bytes", tmp_path, pushed.address())


def test_a_registry_that_is_not_there(tmp_path: Path) -> None:
    refused(NetworkError, "refused", tmp_path, "oci://127.0.0.1:1/a:1")


@pytest.mark.parametrize("change", [lambda body: b"X" + body[1:], lambda body: body[:-1]])
def test_other_bytes_are_refused(
    pushed: FakeRegistry, tmp_path: Path, change: Callable[[bytes], bytes]
) -> None:
    digest = digest_of(FILES["NOTES.md"])
    pushed.blobs[digest] = change(pushed.blobs[digest])
    error = refused(ArtifactError, "NOTES.md", tmp_path, pushed.address())
    assert error.exit_code == ExitCode.UNFIT_ARTIFACT


def test_no_more_is_written_than_the_manifest_says(pushed: FakeRegistry, tmp_path: Path) -> None:
    pushed.blobs[digest_of(FILES["NOTES.md"])] += b"more"
    refused(ArtifactError, "more than the 5 bytes", tmp_path, pushed.address())


@pytest.mark.parametrize("name", ["NOTES.md", "SHA256SUMS", "release.json", SIGNATURE])
@pytest.mark.parametrize("with_key", [True, False])
def test_a_manifest_with_other_sizes_fills_no_disk(
    registry: FakeRegistry, signed: Path, tmp_path: Path, name: str, with_key: bool
) -> None:
    """A signature has no sizes. They are those of `release.json`, which comes first."""

    def change(document: dict[str, Any]) -> None:
        for layer in document["layers"]:
            if layer["annotations"][TITLE] == name:
                layer["size"] = 1 << 40

    edit(registry, change)
    options = {"public_keys": [str(signed)]} if with_key else {}
    words = "changed: 'NOTES.md'" if name == "NOTES.md" else f"{name} of the release is too large"
    refused(ArtifactError, words, tmp_path, registry.address(), **options)
    names = [digest_of(content) for content in FILES.values()]
    assert not [call for call in registry.made("GET", "blobs") if call.path[-71:] in names]


def test_a_file_that_the_registry_lost(pushed: FakeRegistry, tmp_path: Path) -> None:
    del pushed.blobs[digest_of(FILES["NOTES.md"])]
    refused(ArtifactError, "it lacks NOTES.md", tmp_path, pushed.address())


def test_a_manifest_with_another_digest(pushed: FakeRegistry, tmp_path: Path) -> None:
    """By a digest, and by a tag if the registry itself says so."""
    digest = digest_of(pushed.manifests["1.4.0"])
    pushed.manifests[digest] += b" "
    refused(ArtifactError, f"and not {digest}", tmp_path, pushed.address(f"@{digest}"))
    pushed.fault = on("manifests", Reply(200, b"{}", {"Docker-Content-Digest": digest}))
    refused(ArtifactError, f"and not {digest}", tmp_path, pushed.address())


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "/etc/escaped",
        "a/../b",
        "./a",
        "a\\b",
        "a\nb",
        "",
        "a//b",
        "release.json/b",
        f"a/{'n' * 256}",
        f"{'a/' * 1500}b",
    ],
    ids=lambda name: name[:20],
)
def test_unsafe_names_are_refused(pushed: FakeRegistry, tmp_path: Path, name: str) -> None:
    def rename(document: dict[str, Any]) -> None:
        document["layers"][0]["annotations"][TITLE] = name

    edit(pushed, rename)
    refused(ArtifactError, "no release that can be pulled", tmp_path, pushed.address())
    assert not pushed.made("GET", "blobs")
    assert not (tmp_path / "escaped").exists()


def _no_titles(document: dict[str, Any]) -> None:
    del document["layers"][0]["annotations"]


def _twice(document: dict[str, Any]) -> None:
    document["layers"].append(document["layers"][0])


def _other_type(document: dict[str, Any]) -> None:
    document["artifactType"] = "application/vnd.example"


def _image(document: dict[str, Any]) -> None:
    del document["artifactType"]


def _negative(document: dict[str, Any]) -> None:
    document["layers"][0]["size"] = -1


def _sha512(document: dict[str, Any]) -> None:
    document["layers"][0]["digest"] = f"sha512:{'0' * 128}"


def _no_layers(document: dict[str, Any]) -> None:
    del document["layers"]


@pytest.mark.parametrize(
    "change", [_no_titles, _twice, _other_type, _image, _negative, _sha512, _no_layers]
)
def test_other_manifests_are_refused(
    pushed: FakeRegistry, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    edit(pushed, change)
    refused(ArtifactError, "no release that can be pulled", tmp_path, pushed.address())
    assert not pushed.made("GET", "blobs")


def test_files_that_the_record_lacks_are_refused(pushed: FakeRegistry, tmp_path: Path) -> None:
    def rename(document: dict[str, Any]) -> None:
        document["layers"][0]["annotations"][TITLE] = "OTHER.md"

    edit(pushed, rename)
    refused(ArtifactError, "missing: 'NOTES.md'", tmp_path, pushed.address())


@pytest.mark.parametrize("name", [".git/config", ".envrc", "models/.vscode/tasks.json"])
def test_hidden_files_are_not_pulled(registry: FakeRegistry, tmp_path: Path, name: str) -> None:
    """git, direnv and editors would obey them. No release has any."""
    release = write_release(tmp_path / "release", {**FILES, "hidden": b"evil"})
    record = release / "release.json"
    push(str(release), registry.address())
    text = record.read_text().replace('"hidden"', json.dumps(name)).encode()

    def change(document: dict[str, Any]) -> None:
        for layer in document["layers"]:
            titles = layer["annotations"]
            if titles[TITLE] == "hidden":
                titles[TITLE] = name
            if titles[TITLE] == "release.json":
                layer.update(digest=digest_of(text), size=len(text))

    registry.blobs[digest_of(text)] = text
    edit(registry, change)
    refused(ArtifactError, "is hidden", tmp_path, registry.address())


@pytest.mark.parametrize("mode", ["666", "4755", "000", "abc"])
def test_modes_that_open_files_to_others_are_refused(
    registry: FakeRegistry, tmp_path: Path, mode: str
) -> None:
    release = write_release(tmp_path / "release", modes={"NOTES.md": mode})
    push(str(release), registry.address())
    refused(ArtifactError, f"the mode {mode!r}", tmp_path, registry.address())


def test_a_huge_manifest_is_not_read(pushed: FakeRegistry, tmp_path: Path) -> None:
    pushed.keep(b" " * ((4 << 20) + 1))
    refused(ArtifactError, "more than 4194304 bytes", tmp_path, pushed.address())


def test_what_is_there_already_stays(pushed: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="replaces nothing"):
        pull(pushed.address(), str(tmp_path / "out"))
    assert not pushed.calls
    assert not list((tmp_path / "out").iterdir())


def test_nothing_at_the_address(pushed: FakeRegistry, tmp_path: Path) -> None:
    error = refused(UsageError, "nothing there", tmp_path, pushed.address(":9"))
    assert error.exit_code == ExitCode.USAGE


def test_an_interrupted_pull_leaves_nothing(pushed: FakeRegistry, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if line == "download models/second/cpu/model.pt2":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull(pushed.address(), str(tmp_path / "out"), on_line=interrupt)
    assert not list(tmp_path.glob("*out*"))


def test_a_parent_that_cannot_be_written(pushed: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        pull(pushed.address(), str(tmp_path / "file" / "out"))


# Signatures


@pytest.fixture
def signed(registry: FakeRegistry, release: Path, tmp_path: Path) -> Path:
    """A signed release is pushed. The path of the public key."""
    key = write_private(tmp_path / "key.pem")
    write_signature(sign(release, read_signing_key(tmp_path / "key.pem")), release)
    push(str(release), registry.address())
    registry.calls.clear()
    return write_public(tmp_path / "public.pem", key)


def test_a_trusted_signature(registry: FakeRegistry, signed: Path, tmp_path: Path) -> None:
    report = pull(registry.address(), str(tmp_path / "out"), public_keys=[str(signed)])
    assert report.signer == "public.pem"
    # The signature is the first file, so that nothing else is downloaded if it is refused.
    first = registry.made("GET", "blobs")[0]
    assert digest_of((tmp_path / "out" / SIGNATURE).read_bytes()) in first.path


def test_a_signature_that_nobody_asks_for(
    registry: FakeRegistry, signed: Path, tmp_path: Path
) -> None:
    report = pull(registry.address(), str(tmp_path / "out"))
    assert (report.signed, report.signer) == (True, None)


def test_an_unknown_key(registry: FakeRegistry, signed: Path, tmp_path: Path) -> None:
    other = write_public(tmp_path / "other.pem", write_private(tmp_path / "other-key.pem"))
    options = {"public_keys": [str(other)]}
    error = refused(UnknownKey, "not trusted", tmp_path, registry.address(), **options)
    assert error.exit_code == ExitCode.UNFIT_ARTIFACT
    assert len(registry.made("GET", "blobs")) == 1


def test_no_signature(pushed: FakeRegistry, tmp_path: Path) -> None:
    key = write_public(tmp_path / "other.pem", write_private(tmp_path / "other-key.pem"))
    options = {"public_keys": [str(key)]}
    refused(NoSignature, "is not signed", tmp_path, pushed.address(), **options)
    assert not pushed.made("GET", "blobs")


@pytest.mark.parametrize("kind", ["exchanged", "added", "removed"])
def test_a_manifest_that_differs_from_the_signature(
    registry: FakeRegistry, signed: Path, tmp_path: Path, kind: str
) -> None:
    """Whoever can write to the registry changes files consistently, and keeps the signature."""

    def change(document: dict[str, Any]) -> None:
        evil = b"evil"
        registry.blobs[digest_of(evil)] = evil
        layers = {layer["annotations"][TITLE]: layer for layer in document["layers"]}
        new = {**layers[MODEL], "digest": digest_of(evil), "size": len(evil)}
        if kind == "removed":
            document["layers"].remove(layers[MODEL])
        elif kind == "added":
            document["layers"].append({**new, "annotations": {TITLE: "extra"}})
        else:
            document["layers"][document["layers"].index(layers[MODEL])] = new

    edit(registry, change)
    options = {"public_keys": [str(signed)]}
    refused(ListingMismatch, "than the signed ones", tmp_path, registry.address(), **options)
    assert len(registry.made("GET", "blobs")) == 1


def test_an_older_release_that_got_the_tag(
    registry: FakeRegistry, signed: Path, tmp_path: Path
) -> None:
    """Its signature is good. Only the signature and the record are downloaded."""
    options = {"public_keys": [str(signed)], "min_version": "1.5.0"}
    error = refused(OldRelease, "1.5.0 or later", tmp_path, registry.address(), **options)
    assert error.exit_code == ExitCode.UNFIT_ARTIFACT
    assert len(registry.made("GET", "blobs")) == 2
    pull(
        registry.address(),
        str(tmp_path / "out"),
        public_keys=[str(signed)],
        min_version="1.4.0",
    )
    assert (tmp_path / "out" / MODEL).exists()


def test_a_revoked_key(registry: FakeRegistry, signed: Path, tmp_path: Path) -> None:
    revoked = tmp_path / "revoked-keys"
    revoked.write_text(f"# stolen\n{hashlib.sha256(signed.read_bytes()).hexdigest()}\n")
    options = {"public_keys": [str(signed)], "revoked": str(revoked)}
    refused(RevokedKey, "was revoked", tmp_path, registry.address(), **options)
    assert len(registry.made("GET", "blobs")) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_version": "1.0"}, "--min-version needs --public-key"),
        ({"revoked": "list"}, "--revoked needs --public-key"),
        ({"min_version": "new", "signed": True}, "new"),
        ({"min_version": "", "signed": True}, "version"),
        ({"revoked": "", "signed": True}, "--revoked names no file"),
        ({"revoked": "absent", "signed": True}, "absent"),
    ],
)
def test_options_that_cannot_hold(
    registry: FakeRegistry, signed: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    """Nothing is asked of the registry."""
    if options.pop("signed", False):
        options["public_keys"] = [str(signed)]
    with pytest.raises(UsageError, match=words):
        pull(registry.address(), str(tmp_path / "out"), **options)
    assert not registry.calls


@pytest.mark.parametrize("path", ["SHA256SUMS", "model.sig", "release.json"])
def test_sizes_that_no_record_lists_have_a_limit(
    registry: FakeRegistry, signed: Path, tmp_path: Path, path: str
) -> None:
    """The registry may claim any size of them, and would fill the disk."""

    def change(document: dict[str, Any]) -> None:
        for layer in document["layers"]:
            if layer["annotations"][TITLE] == path:
                layer["size"] = 1 << 40

    edit(registry, change)
    refused(ArtifactError, f"{path} of the release is too large", tmp_path, registry.address())
    assert not registry.made("GET", "blobs")


def test_sizes_are_those_of_the_record(
    registry: FakeRegistry, signed: Path, tmp_path: Path
) -> None:
    """A signature has digests and no sizes. No more than the record says is downloaded."""

    def change(document: dict[str, Any]) -> None:
        for layer in document["layers"]:
            if layer["annotations"][TITLE] == MODEL:
                layer["size"] = 1 << 40

    edit(registry, change)
    options = {"public_keys": [str(signed)]}
    refused(ArtifactError, f"changed: {MODEL!r}", tmp_path, registry.address(), **options)
    assert len(registry.made("GET", "blobs")) == 2


def test_an_empty_key_is_no_consent(tmp_path: Path) -> None:
    """That is what a variable gives that is not set."""
    words = ("release-pull", "oci://127.0.0.1:1/a:1", "--out", "out", "--public-key", "")
    done = bare(*words, cwd=tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert "--public-key names nothing" in done.stderr


def test_a_key_that_is_not_there(pushed: FakeRegistry, tmp_path: Path) -> None:
    options = {"public_keys": [str(tmp_path / "absent.pem")]}
    refused(KeyFileError, "absent.pem", tmp_path, pushed.address(), **options)
    assert not pushed.calls


# Logins


def log_in(tmp_path: Path, host: str, entry: dict[str, str]) -> None:
    write_configuration(tmp_path, {"auths": {host: entry}})


def write_configuration(tmp_path: Path, document: object) -> None:
    (tmp_path / "docker").mkdir(exist_ok=True)
    (tmp_path / "docker" / "config.json").write_text(json.dumps(document))


def encoded(user: str = USER, password: str = PASSWORD) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("login", ["basic", "bearer"])
def test_a_login_from_the_configuration(
    registry: FakeRegistry, release: Path, tmp_path: Path, login: str
) -> None:
    registry.login = login
    log_in(tmp_path, registry.host, {"auth": encoded()})
    push(str(release), registry.address())
    pull(registry.address(), str(tmp_path / "out"))
    # One challenge for each command, and one token.
    refusals = [call for call in registry.calls if "Authorization" not in call.headers]
    assert len(refusals) == 2
    assert len(registry.made("GET", "/token")) == (2 if login == "bearer" else 0)


def test_a_login_from_the_environment(
    registry: FakeRegistry, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.login = "bearer"
    monkeypatch.setenv("AOTI_BUILD_REGISTRY_USER", USER)
    with pytest.raises(UsageError, match="AOTI_BUILD_REGISTRY_PASSWORD is not set"):
        push(str(release), registry.address())
    monkeypatch.setenv("AOTI_BUILD_REGISTRY_PASSWORD", PASSWORD)
    push(str(release), registry.address())
    (call, *_) = registry.made("GET", "/token")
    assert "service=fake" in call.path
    assert f"scope=repository%3A{REPOSITORY.replace('/', '%2F')}%3Apull" in call.path


def test_an_identity_token(registry: FakeRegistry, release: Path, tmp_path: Path) -> None:
    registry.login = "bearer"
    log_in(tmp_path, registry.host, {"auth": encoded("<token>", ""), "identitytoken": "identity"})
    push(str(release), registry.address())
    assert registry.made("POST", "/token")


@pytest.mark.parametrize("key", ["credHelpers", "credsStore"])
def test_a_helper_of_docker(
    registry: FakeRegistry,
    release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
) -> None:
    registry.login = "basic"
    answer = json.dumps({"ServerURL": "x", "Username": USER, "Secret": PASSWORD})
    write_helper(tmp_path, f'test "$(cat)" = {registry.host} && echo {answer!r}')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    helper = {registry.host: "fake"} if key == "credHelpers" else "fake"
    write_configuration(tmp_path, {key: helper, "auths": {registry.host: {}}})
    push(str(release), registry.address())


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"echo {PASSWORD}; exit 1", "it ended with 1"),
        (f"echo {PASSWORD}", "no Username and Secret"),
        ("echo credentials not found in native keychain; exit 1", "there are no credentials"),
    ],
)
def test_a_helper_that_fails(
    registry: FakeRegistry,
    release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    words: str,
) -> None:
    registry.login = "basic"
    write_helper(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    write_configuration(tmp_path, {"credHelpers": {registry.host: "fake"}})
    with pytest.raises(UsageError) as caught:
        push(str(release), registry.address())
    assert words in str(caught.value)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("name", ["../evil", "a b", "", 5])
def test_a_helper_is_a_name_and_no_path(
    registry: FakeRegistry, release: Path, tmp_path: Path, name: object
) -> None:
    registry.login = "basic"
    write_configuration(tmp_path, {"credHelpers": {registry.host: name}})
    with pytest.raises(UsageError, match="no name of a program"):
        push(str(release), registry.address())


def write_helper(tmp_path: Path, script: str) -> None:
    program = tmp_path / "docker-credential-fake"
    program.write_text(f"#!/bin/sh\ntest $1 = get || exit 3\n{script}\n")
    program.chmod(0o700)


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": 5}', '{"auths": {"HOST": {"auth": "%"}}}'])
def test_a_configuration_that_is_wrong(
    registry: FakeRegistry, release: Path, tmp_path: Path, text: str
) -> None:
    registry.login = "basic"
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(text.replace("HOST", registry.host))
    with pytest.raises(UsageError, match="configuration cannot be used"):
        push(str(release), registry.address())


@pytest.mark.parametrize("login", ["basic", "bearer"])
@pytest.mark.parametrize("password", ["", "wrong-password"])
def test_no_access(
    registry: FakeRegistry, release: Path, tmp_path: Path, login: str, password: str
) -> None:
    registry.login = login
    if password:
        log_in(tmp_path, registry.host, {"auth": encoded(password=password)})
    with pytest.raises(UsageError, match="refuses access") as caught:
        push(str(release), registry.address())
    assert f"docker login {registry.host}" in str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "wrong-password" not in str(caught.value)


def test_a_token_that_ends_during_a_push(
    registry: FakeRegistry, release: Path, tmp_path: Path
) -> None:
    registry.login = "bearer"
    log_in(tmp_path, registry.host, {"auth": encoded()})
    challenge = f'Bearer realm="http://{registry.host}/token"'
    registry.fault = on(
        "blobs/uploads/1", None, Reply(401, headers={"WWW-Authenticate": challenge}), method="PUT"
    )
    push(str(release), registry.address())
    assert len(registry.made("GET", "/token")) == 2
    assert registry.manifests


def test_messages_of_the_registry_do_not_repeat_secrets(
    registry: FakeRegistry, release: Path, tmp_path: Path
) -> None:
    registry.login = "bearer"
    log_in(tmp_path, registry.host, {"auth": encoded()})
    said = {"errors": [{"code": "UNSUPPORTED", "message": f"no {TOKEN} {PASSWORD} {encoded()}"}]}
    failure = Reply(405, json.dumps(said).encode())

    def fault(call: Call) -> Reply | None:
        return failure if call.method == "POST" and "/blobs/" in call.path else None

    registry.fault = fault
    with pytest.raises(NetworkError) as caught:
        push(str(release), registry.address())
    assert "UNSUPPORTED: no *** *** ***" in str(caught.value)


@pytest.mark.parametrize("realm", ["", "file:///etc/passwd", "http://me@host/", "http://[", "x"])
def test_a_strange_service_of_tokens_gets_no_password(
    registry: FakeRegistry, release: Path, tmp_path: Path, realm: str
) -> None:
    log_in(tmp_path, registry.host, {"auth": encoded()})
    challenge = {"WWW-Authenticate": f'Bearer realm="{realm}"'}
    registry.fault = lambda call: Reply(401, headers=challenge)
    with pytest.raises(NetworkError):
        push(str(release), registry.address())


@pytest.mark.parametrize("insecure", [False, True])
def test_a_registry_of_this_host_lets_no_password_out_unencrypted(
    registry: FakeRegistry,
    release: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    insecure: bool,
) -> None:
    """It is asked without encryption itself, as by a tunnel. ``--insecure`` allows it elsewhere."""
    log_in(tmp_path, registry.host, {"auth": encoded()})
    challenge = {"WWW-Authenticate": 'Bearer realm="http://tokens.example.org/token"'}
    registry.fault = lambda call: Reply(401, headers=challenge)
    asked = []
    send = transport.Transport.send

    def watched(self: Any, method: str, url: str, *rest: Any) -> Any:
        if "example.org" in url:
            asked.append(url)
            url = "http://127.0.0.1:1/"
        return send(self, method, url, *rest)

    monkeypatch.setattr(transport.Transport, "send", watched)
    with pytest.raises(NetworkError):
        push(str(release), registry.address(), insecure=insecure)
    assert bool(asked) == insecure


# Redirects


def test_storage_behind_a_registry_gets_no_login(pushed: FakeRegistry, tmp_path: Path) -> None:
    with running_registry() as storage:
        storage.blobs = dict(pushed.blobs)
        pushed.login = "basic"
        log_in(tmp_path, pushed.host, {"auth": encoded()})

        def redirect(call: Call) -> Reply | None:
            if "/blobs/" in call.path and "Authorization" in call.headers:
                return Reply(307, headers={"Location": f"http://{storage.host}{call.path}"})
            return None

        pushed.fault = redirect
        pull(pushed.address(), str(tmp_path / "out"))
        assert storage.calls
        assert not any("Authorization" in call.headers for call in storage.calls)


def test_an_upload_to_another_service_gets_no_login(
    registry: FakeRegistry, release: Path, tmp_path: Path
) -> None:
    with running_registry() as storage:
        registry.login = "basic"
        log_in(tmp_path, registry.host, {"auth": encoded()})
        place = f"http://{storage.host}/v2/{REPOSITORY}/blobs/uploads/1?state=a%2Fb"

        def lead_away(call: Call) -> Reply | None:
            registry.blobs = storage.blobs
            if call.method == "POST" and "Authorization" in call.headers:
                return Reply(202, headers={"Location": place})
            return None

        registry.fault = lead_away
        push(str(release), registry.address())
        assert storage.calls
        assert not any("Authorization" in call.headers for call in storage.calls)


@pytest.mark.parametrize(
    "place", ["file:///etc/passwd", "ftp://example.org/", "http://me@127.0.0.1/", "http://[", None]
)
def test_strange_redirects_are_not_followed(
    pushed: FakeRegistry, tmp_path: Path, place: str | None
) -> None:
    headers = {"Location": place} if place else {}
    pushed.fault = on("blobs", Reply(307, headers=headers))
    refused(NetworkError, "leads to an address", tmp_path, pushed.address())


def test_redirects_end(pushed: FakeRegistry, tmp_path: Path) -> None:
    pushed.fault = lambda call: Reply(307, headers={"Location": call.path})
    refused(NetworkError, "without an end", tmp_path, pushed.address())


def test_the_model_has_the_digest_that_others_compute(pushed: FakeRegistry) -> None:
    layers = {layer["annotations"][TITLE]: layer for layer in manifest_of(pushed)["layers"]}
    expected = hashlib.sha256(FILES[MODEL]).hexdigest()
    assert layers[MODEL]["digest"] == f"sha256:{expected}"
    assert layers[MODEL]["size"] == len(FILES[MODEL])
