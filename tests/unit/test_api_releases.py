"""Releases by the Python API: the reports and the errors of the tasks, and no output."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fake_registries import FakeRegistry, running_registry
from packages import publish_package
from signers import write_private, write_public
from small_projects import TWO_MODELS, FakeWorker, contents, write_project

import aoti_build
from aoti_build.artifact.bundle.signed import OldRelease
from aoti_build.artifact.signing.refusals import ListingMismatch, NoSignature, RevokedKey
from aoti_build.common.digests import digest_file
from aoti_build.errors import UsageError
from aoti_build.models_file import Project
from aoti_build.registry import transport

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "python-api.md"


@pytest.fixture
def ready(tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project that is built, in the current directory, with `key.pem` and its public key."""
    tmp_path.chmod(0o700)
    models = TWO_MODELS.replace("first", "encoder").replace("second", "ranker")
    project = write_project(tmp_path / "project", models)
    for target in project.targets:
        publish_package(project, target)
    monkeypatch.chdir(project.root)
    write_public(Path("release-2026.pem"), write_private(Path("key.pem")))
    return project


def release(version: str = "1.4.0", **options: Any) -> Path:
    """The bundle of a release that was made."""
    out = Path("dist") / version
    options = {"sign": "key.pem", "allow_dirty": True, **options}
    report = aoti_build.release(version=version, out=out, **options)
    assert report.exit_code == 0, report.error
    return out


def examples() -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    return [block for block in blocks if "aoti_build.release(" in block or "verify_rel" in block]


@pytest.mark.usefixtures("ready")
def test_the_examples_make_a_release_and_receive_it(capsys: pytest.CaptureFixture[str]) -> None:
    make, take = examples()
    exec(make, {})  # noqa: S102
    assert Path("dist/1.4.0/model.sig").is_file()
    assert Path("dist/1.4.0/report.html").is_file()
    exec(take, {})  # noqa: S102
    assert capsys.readouterr().out == "1.4.0 0 0\n"
    (Path("dist/1.4.0/models/encoder/cpu/model.pt2")).write_bytes(b"")
    exec(take, {})  # noqa: S102
    assert capsys.readouterr().out.startswith("4 the files are not the signed ones;")


@pytest.mark.usefixtures("ready")
def test_nothing_is_printed_and_reports_are_those_of_the_tasks(
    fake_worker: FakeWorker, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = release()
    verified = aoti_build.verify_release(bundle, keys=[Path("release-2026.pem")])
    assert verified.as_json()["format"] == "aoti-build/release-verification"
    fake_worker.calls.clear()
    tried = aoti_build.run_release(bundle, ["ranker/*"], keys="release-2026.pem")
    assert tried.as_json()["format"] == "aoti-build/run"
    assert fake_worker.calls == ["run ranker"]
    diff = aoti_build.release_diff(bundle, release("1.5.0", previous=bundle), fail_if="removed>0")
    assert (diff.exit_code, diff.as_json()["format"]) == (0, "aoti-build/release-diff")
    assert capfd.readouterr() == ("", "")


def test_what_fails_is_in_the_report(ready: Project, fake_worker: FakeWorker) -> None:
    fake_worker.answers["check"] = {"passed": False, "cases": []}
    report = aoti_build.release(ready, "encoder", version="1.4.0", out="dist", allow_dirty=True)
    assert (report.exit_code, report.released) == (3, None)
    assert not Path("dist").exists()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeRegistry]:
    monkeypatch.setattr(transport, "DELAYS", (0.0,))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with running_registry() as running:
        yield running


@pytest.mark.usefixtures("ready")
def test_a_release_travels_by_a_registry(registry: FakeRegistry) -> None:
    bundle = release()
    lines: list[str] = []
    pushed = aoti_build.release_push(bundle, registry.address(), on_line=lines.append)
    assert lines
    pulled = aoti_build.release_pull(registry.address(), Path("got"), keys="release-2026.pem")
    assert pulled.digest == pushed.digest
    assert pulled.signer == "release-2026.pem"
    assert contents(Path("got")) == contents(bundle)


@pytest.mark.usefixtures("ready")
def test_a_received_release_that_is_refused(fake_worker: FakeWorker) -> None:
    bundle = release()
    (bundle / "models/late").touch()
    fake_worker.calls.clear()
    for command in (aoti_build.verify_release, aoti_build.run_release):
        with pytest.raises(ListingMismatch, match="never signed: 'models/late'"):
            command(bundle, keys="release-2026.pem")
    (bundle / "model.sig").unlink()
    for command in (aoti_build.verify_release, aoti_build.run_release):
        with pytest.raises(NoSignature):
            command(bundle, keys="release-2026.pem")
    assert fake_worker.calls == []


@pytest.mark.usefixtures("ready")
def test_what_is_required_of_the_signer_and_of_the_version(registry: FakeRegistry) -> None:
    bundle = release()
    key = Path("release-2026.pem")
    Path("revoked").write_text(digest_file(key) + "\n")
    Path("revoked").chmod(0o644)
    aoti_build.release_push(bundle, registry.address())
    receive: list[Callable[..., object]] = [
        partial(aoti_build.verify_release, bundle),
        partial(aoti_build.run_release, bundle),
        partial(aoti_build.release_pull, registry.address(), "got"),
    ]
    for command in receive:
        with pytest.raises(RevokedKey):
            command(keys=key, revoked="revoked")
        with pytest.raises(OldRelease):
            command(keys=key, min_version="2.0")
    for command in receive[:2]:
        with pytest.raises(UsageError, match="needs both --identity and --identity-provider"):
            command(identity="me@us.example")
    with pytest.raises(RevokedKey):
        aoti_build.release_diff(bundle, bundle, run=True, keys=key, revoked="revoked")
    assert aoti_build.release_diff(bundle, bundle, run=True, keys=key).exit_code == 0


@pytest.mark.usefixtures("ready")
def test_an_empty_setting_is_an_error() -> None:
    bundle = release()
    new: dict[str, Any] = {"version": "1.5.0", "out": "dist/next", "allow_dirty": True}
    address = "oci://localhost:1/a:1"
    for keys in ("", [], [""]):
        for command in (aoti_build.verify_release, aoti_build.run_release):
            with pytest.raises(UsageError, match="keys is empty"):
                command(bundle, keys=keys)
        with pytest.raises(UsageError, match="keys is empty"):
            aoti_build.release_pull(address, "got", keys=keys)
    for name in ("sign", "previous", "archive", "against", "push", "out"):
        with pytest.raises(UsageError, match=f"{name} is empty"):
            aoti_build.release(**{**new, name: ""})
    with pytest.raises(UsageError, match="is not a version"):
        aoti_build.release(**{**new, "version": ""})
    with pytest.raises(UsageError, match="not one of"):
        aoti_build.verify_release(bundle, keys="release-2026.pem", runtime="java")
    with pytest.raises(UsageError, match="no target matches"):
        aoti_build.run_release(bundle, [], keys="release-2026.pem")
