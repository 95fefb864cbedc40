"""`release --push`: the login comes before the build, and a failed push keeps the bundle."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_registries import PASSWORD, USER, FakeRegistry, Reply, digest_of, running_registry
from small_projects import FakeWorker, contents, publish_fake

from aoti_build.commands.release.command import ReleaseOptions, release
from aoti_build.commands.release.pull import pull
from aoti_build.commands.release.report import ReleaseReport
from aoti_build.errors import ExitCode, Interrupted, NetworkError, UsageError
from aoti_build.models_file import Project
from aoti_build.registry import transport
from aoti_build.report.release_text import release_lines


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeRegistry]:
    monkeypatch.setattr(transport, "DELAYS", (0.0,))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with running_registry() as running:
        yield running


def make(project: Project, address: str, *, insecure: bool = False) -> ReleaseReport:
    options = ReleaseOptions(
        version="1.4.0",
        directory=str(project.root / "out"),
        allow_dirty=True,
        push=address,
        insecure=insecure,
    )
    return release(project, project.targets, options)


def test_the_bundle_is_pushed(
    project: Project, fake_worker: FakeWorker, registry: FakeRegistry, tmp_path: Path
) -> None:
    publish_fake(project)
    report = make(project, registry.address())
    assert report.error is None, report.error
    digest = digest_of(registry.manifests["1.4.0"])
    assert report.as_json()["push"]["digest"] == digest
    assert f"digest: {registry.address('@' + digest)}" in release_lines(report)
    pull(registry.address(), str(tmp_path / "pulled"))
    assert contents(tmp_path / "pulled") == contents(project.root / "out")


def test_a_push_that_fails_keeps_the_bundle(
    project: Project, fake_worker: FakeWorker, registry: FakeRegistry
) -> None:
    publish_fake(project)
    registry.fault = lambda call: Reply(503) if call.method == "PUT" else None
    report = make(project, registry.address())
    assert report.error is not None
    assert report.exit_code == ExitCode.UNFIT_TOOLCHAIN
    assert report.error.kind == "network"
    assert "the release was written and not pushed" in str(report.error)
    assert f"invoke release-push {project.root / 'out'} {registry.address()}" in str(report.error)
    assert (project.root / "out" / "release.json").exists()
    assert report.as_json()["push"] is None


def test_a_push_that_is_interrupted_says_how_to_go_on(
    project: Project, fake_worker: FakeWorker, registry: FakeRegistry
) -> None:
    publish_fake(project)

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    options = ReleaseOptions(
        version="1.4.0",
        directory=str(project.root / "out"),
        allow_dirty=True,
        push=registry.address(),
    )
    with pytest.raises(Interrupted, match="written and not pushed") as caught:
        release(project, project.targets, options, on_line=interrupt)
    assert f"invoke release-push {project.root / 'out'} {registry.address()}" in str(caught.value)
    assert (project.root / "out" / "release.json").exists()
    assert not registry.manifests


@pytest.mark.parametrize("address", ["oci://h/a", "h/a:1", f"oci://h/a@sha256:{'0' * 64}"])
def test_a_wrong_address_is_noticed_before_the_build(
    project: Project, fake_worker: FakeWorker, address: str
) -> None:
    with pytest.raises(UsageError):
        make(project, address)
    assert not fake_worker.calls
    assert not (project.root / "out").exists()


def test_a_wrong_password_is_noticed_before_the_build(
    project: Project,
    fake_worker: FakeWorker,
    registry: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry.login = "bearer"
    monkeypatch.setenv("AOTI_BUILD_REGISTRY_USER", USER)
    monkeypatch.setenv("AOTI_BUILD_REGISTRY_PASSWORD", PASSWORD + "x")
    with pytest.raises(UsageError, match="refuses access"):
        make(project, registry.address())
    assert not fake_worker.calls


# A name of this machine that is not one of those that are asked over http by default.
OTHER_NAME = "127.0.0.1.example.org"


def test_insecure_asks_a_registry_elsewhere_over_http(
    project: Project,
    fake_worker: FakeWorker,
    registry: FakeRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The login before the build, and the push after it."""
    real = socket.getaddrinfo

    def resolve(host: Any, *rest: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host == OTHER_NAME else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    publish_fake(project)
    address = registry.address().replace("127.0.0.1", OTHER_NAME)
    with pytest.raises(NetworkError):
        make(project, address)
    assert not registry.calls
    report = make(project, address, insecure=True)
    assert report.error is None, report.error
    assert registry.manifests


def test_a_push_that_failed_is_repeated_with_the_same_option(
    project: Project, fake_worker: FakeWorker, registry: FakeRegistry
) -> None:
    publish_fake(project)
    registry.fault = lambda call: Reply(503) if call.method == "PUT" else None
    report = make(project, registry.address(), insecure=True)
    assert f"{registry.address()} --insecure` pushes it" in str(report.error)


def test_insecure_without_a_registry(project: Project, fake_worker: FakeWorker) -> None:
    with pytest.raises(UsageError, match="--insecure is for the registry of --push"):
        make(project, "", insecure=True)
    assert not fake_worker.calls
