"""`release-diff --run`: the packages of two releases are called, after both were examined."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reference_files import case, reference_file, tensor
from releases import sign_release
from signers import write_private, write_public
from small_projects import SIGNATURE, TWO_MODELS, FakeWorker, bare, write_project
from test_release_diff import DATA, OUTPUT, made, publish, text_of

from aoti_build.artifact.signing.refusals import (
    KeyFileError,
    ListingMismatch,
    NoSignature,
    RevokedKey,
    UnknownKey,
)
from aoti_build.commands.release_diff.command import release_diff
from aoti_build.commands.release_diff.drift import Drift
from aoti_build.commands.release_diff.limits import parse_policy
from aoti_build.commands.release_diff.opened import RunOptions
from aoti_build.commands.release_diff.packages import PackageDrift
from aoti_build.commands.release_diff.report import ReleaseDiff
from aoti_build.common.digests import digest_file
from aoti_build.errors import (
    BuildError,
    DirectoryError,
    ExitCode,
    Interrupted,
    UsageError,
    VerificationError,
)
from aoti_build.models_file import Project
from aoti_build.report.release_diff_markdown import release_diff_markdown

UNSIGNED = RunOptions(unsigned=True)
# What a package answers in place of DATA.
OTHER = reference_file({OUTPUT: tensor(1.0, 2.0, 2.3)})


@pytest.fixture
def two(tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two targets, both up to date, with reference data that can be read."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767323045")
    project = write_project(tmp_path / "project", TWO_MODELS)
    for index in (0, 1):
        publish(project, index)
    return project


@pytest.fixture
def releases(two: Project, fake_worker: FakeWorker) -> tuple[str, str]:
    """Two releases. The first target has another package in the second one, and equal reference
    data."""
    old = made(two, "1")
    publish(two, 0, code=b"other code")
    new = made(two, "2")
    fake_worker.calls.clear()
    return old, new


def answers(age: str, content: bytes) -> Callable[[str, Any], None]:
    """Let the package of the old or the new release answer this."""

    def during(_: str, job: Any) -> None:
        if f"/{age}/" in job.outputs:
            Path(job.outputs).write_bytes(content)

    return during


def packages_of(diff: ReleaseDiff, index: int = 0) -> PackageDrift:
    found = diff.targets[index].packages
    assert found is not None
    return found


def drift_in(diff: ReleaseDiff) -> Drift:
    drift = packages_of(diff).drift
    assert drift is not None
    return drift


def test_packages_that_differ_although_the_references_are_equal(
    releases: tuple[str, str], fake_worker: FakeWorker
) -> None:
    fake_worker.during = answers("new", OTHER)
    policy = parse_policy("drift>1e-3")
    assert release_diff(*releases, policy).error is None
    diff = release_diff(*releases, policy, run=UNSIGNED)
    (output,) = drift_in(diff).outputs
    assert output.relative_rmse == pytest.approx(0.1)  # 0.3 of a norm of 3
    references = diff.targets[0].drift
    assert references is not None
    assert references.worst is not None
    assert references.worst.relative_rmse == 0
    assert diff.exit_code == ExitCode.VERIFICATION_FAILED
    assert diff.judgements[0].why == (
        "first/cpu, packages, example, output: a relative error of 0.1",
    )
    row = next(line.split() for line in text_of(diff).splitlines() if "example" in line)
    assert row == ["first/cpu", "example", "output", "0", "1.00e-01", "3.00e-01"]
    markdown = release_diff_markdown(diff)
    assert "| target | case | output | drift | packages | max abs | differing |" in markdown
    document = diff.as_json()["targets"][0]
    assert document["packages"]["drift"]["worst"] == pytest.approx(0.1)
    assert document["drift"]["worst"] == 0


def test_the_larger_drift_counts(two: Project, fake_worker: FakeWorker) -> None:
    """Also if that is the one of the references."""
    old = made(two, "1")
    publish(two, 0, code=b"other", data=OTHER)
    new = made(two, "2")
    fake_worker.during = answers("new", DATA)
    diff = release_diff(old, new, parse_policy("drift>1e-3"), run=UNSIGNED)
    assert drift_in(diff).worst.relative_rmse == 0  # type: ignore[union-attr]
    assert diff.judgements[0].why == ("first/cpu, example, output: a relative error of 0.1",)


def test_both_get_the_inputs_of_the_old_release(two: Project, fake_worker: FakeWorker) -> None:
    old = made(two, "1")
    publish(two, 0, code=b"other code", data=OTHER)
    new = made(two, "2")
    fake_worker.calls.clear()
    seen = []

    def look(_: str, job: Any) -> None:
        assert Path(job.inputs).read_bytes() == DATA
        assert os.listdir(job.root) == []
        assert job.python_path == ()
        for path in (job.model, job.reference_data, job.inputs, job.outputs):
            assert not path.startswith(str(two.root))
        seen.append((Path(job.model).read_bytes(), Path(job.reference_data).read_bytes()))

    fake_worker.during = look
    release_diff(old, new, run=UNSIGNED)
    assert seen == [(b"code", DATA), (b"other code", OTHER)]


def test_equal_packages_are_not_run(releases: tuple[str, str], fake_worker: FakeWorker) -> None:
    diff = release_diff(*releases, parse_policy("drift>0", strict=True), run=UNSIGNED)
    assert fake_worker.calls == ["outputs first", "outputs first"]
    assert packages_of(diff, 1) == PackageDrift(is_same=True)
    assert diff.error is None
    assert any(line.split()[-1:] == ["same"] for line in text_of(diff).splitlines())


def test_without_run_the_text_says_that_no_package_was_run(
    releases: tuple[str, str], fake_worker: FakeWorker
) -> None:
    diff = release_diff(*releases)
    assert fake_worker.calls == []
    assert "note: no package was run: drift compares what eager mode returned" in text_of(diff)
    assert diff.as_json()["targets"][0]["packages"] is None
    assert "packages" not in text_of(diff).splitlines()[2]


def test_other_inputs_are_no_reason_to_call(two: Project, fake_worker: FakeWorker) -> None:
    old = made(two, "1")
    inputs = [{"name": "input", "dtype": "float16", "shape": [2, 4]}]
    publish(two, 0, code=b"other", signature={**SIGNATURE, "inputs": inputs})
    new = made(two, "2")
    fake_worker.calls.clear()
    diff = release_diff(old, new, parse_policy("drift>0"), run=UNSIGNED)
    assert fake_worker.calls == []
    assert packages_of(diff).why == "the packages take different inputs"
    assert diff.judgements[0].why == ("first/cpu, packages: the packages take different inputs",)
    assert (diff.judgements[0].verdict, diff.error) == ("unknown", None)
    assert "not compared: packages: the packages take different inputs" in text_of(diff)


@pytest.mark.parametrize("age", ["old", "new"])
def test_reference_data_of_another_format(two: Project, fake_worker: FakeWorker, age: str) -> None:
    """It is no fault of a package."""
    other = DATA.replace(b'\\"format_version\\": 4', b'\\"format_version\\": 3')
    assert other != DATA
    publish(two, 0, data=other if age == "old" else DATA)
    old = made(two, "1")
    publish(two, 0, code=b"other", data=other if age == "new" else DATA)
    new = made(two, "2")
    fake_worker.calls.clear()
    diff = release_diff(old, new, parse_policy("drift>0"), run=UNSIGNED)
    assert fake_worker.calls == []
    why = packages_of(diff).why or ""
    assert why.startswith(f"the reference data of the {age} release cannot be read: it has format")
    assert diff.error is None


def test_a_host_that_cannot_run_a_package_is_named_by_target(
    releases: tuple[str, str], fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoti_build.host.compatibility.torch_version", lambda: "1.0")
    diff = release_diff(*releases, run=UNSIGNED)
    assert fake_worker.calls == []
    why = packages_of(diff).why or ""
    assert why.startswith("this host cannot run the package of the old release: built with torch")
    assert f"first/cpu: not compared: packages: {why}" in text_of(diff)


def test_a_host_without_the_device(
    releases: tuple[str, str], fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aoti_build.host.devices.cpu.Cpu.count", lambda self: 0)
    why = packages_of(release_diff(*releases, run=UNSIGNED)).why or ""
    assert why.endswith("the old release: it has no cpu device")


def test_a_case_that_a_package_refuses(
    two: Project, releases: tuple[str, str], fake_worker: FakeWorker
) -> None:
    """It is missing from the file of one package, and said once."""
    fake_worker.answers["outputs"] = {"missing": {"example": "the package refused its inputs: x"}}
    fake_worker.during = answers("new", reference_file({}, {"later": case(inputs=1)}))
    diff = release_diff(*releases, parse_policy("drift>0"), run=UNSIGNED)
    assert drift_in(diff).skipped == (
        "later: only the new release has this case",
        "example: new release: the package refused its inputs: x",
    )
    assert diff.judgements[0].verdict == "unknown"


def test_a_buffer_that_no_package_shows_is_not_equal(
    releases: tuple[str, str], fake_worker: FakeWorker
) -> None:
    def during(_: str, job: Any) -> None:
        Path(job.outputs).write_bytes(reference_file({}))

    fake_worker.during = during
    (output,) = drift_in(release_diff(*releases, run=UNSIGNED)).outputs
    assert output.why == "neither release has its value"


def test_a_package_that_fails_ends_with_3(
    releases: tuple[str, str], fake_worker: FakeWorker, tmp_path: Path
) -> None:
    fake_worker.answers["outputs"] = BuildError("torch cannot load it", log=tmp_path / "log")
    diff = release_diff(*releases, run=UNSIGNED)
    error = diff.error
    assert isinstance(error, VerificationError)
    assert error.message == "packages of 1 of 2 targets failed: first/cpu"
    assert "the package of the old release failed: torch cannot load it" in str(error)
    assert error.log == tmp_path / "log"
    row = diff.as_json()["targets"][0]["packages"]
    assert row["error"]["message"].endswith("torch cannot load it")


@pytest.mark.parametrize("error", [DirectoryError("full"), Interrupted("interrupted")])
def test_what_is_no_fault_of_a_package_ends_the_task(
    releases: tuple[str, str], fake_worker: FakeWorker, error: Exception
) -> None:
    fake_worker.answers["outputs"] = error
    with pytest.raises(type(error)):
        release_diff(*releases, run=UNSIGNED)


def test_an_interruption_ends_the_workers(
    releases: tuple[str, str], fake_worker: FakeWorker
) -> None:
    fake_worker.answers["outputs"] = KeyboardInterrupt()
    with pytest.raises(Interrupted):
        release_diff(*releases, run=UNSIGNED)


def test_targets_of_one_release_are_not_run(two: Project, fake_worker: FakeWorker) -> None:
    old, new = made(two, "1", slice(1)), made(two, "2", slice(1, 2))
    fake_worker.calls.clear()
    diff = release_diff(old, new, run=UNSIGNED)
    assert fake_worker.calls == []
    assert [target.packages for target in diff.targets] == [None, None]


# What runs is what a trusted key signed.


@pytest.fixture
def signed(releases: tuple[str, str], tmp_path: Path) -> RunOptions:
    """Both releases are signed. The options with the public key."""
    write_public(tmp_path / "public.pem", write_private(tmp_path / "key.pem"))
    for release in releases:
        sign_release(Path(release), tmp_path / "key.pem")
    return RunOptions(keys=(str(tmp_path / "public.pem"),))


def test_signed_releases(
    releases: tuple[str, str], signed: RunOptions, fake_worker: FakeWorker
) -> None:
    diff = release_diff(*releases, run=signed)
    assert diff.error is None
    assert diff.as_json()["old"]["signer"] == diff.as_json()["new"]["signer"] == "public.pem"
    assert f"note: {releases[0]}: signed by public.pem" in text_of(diff)
    assert fake_worker.calls == ["outputs first", "outputs first"]


def test_unsigned_is_said(releases: tuple[str, str]) -> None:
    text = text_of(release_diff(*releases, run=UNSIGNED))
    assert f"note: {releases[1]}: no signature was verified" in text


def refused(
    releases: tuple[str, str],
    options: RunOptions,
    kind: type[Exception],
    words: str,
    worker: FakeWorker,
) -> None:
    """Nothing is called, whichever of the two releases is at fault."""
    with pytest.raises(kind, match=words) as caught:
        release_diff(*releases, run=options)
    assert type(caught.value) is kind
    assert worker.calls == []
    assert "/proc/self" not in str(caught.value)


@pytest.mark.parametrize("index", [0, 1])
def test_a_package_that_was_exchanged_is_not_run(
    releases: tuple[str, str], signed: RunOptions, fake_worker: FakeWorker, index: int
) -> None:
    (Path(releases[index]) / "models/first/cpu/model.pt2").write_bytes(b"evil")
    refused(releases, signed, ListingMismatch, "first/cpu/model.pt2", fake_worker)


@pytest.mark.parametrize("index", [0, 1])
def test_a_release_without_a_signature_is_not_run(
    releases: tuple[str, str], signed: RunOptions, fake_worker: FakeWorker, index: int
) -> None:
    (Path(releases[index]) / "model.sig").unlink()
    refused(releases, signed, NoSignature, "is not signed", fake_worker)


def test_another_key(
    releases: tuple[str, str], signed: RunOptions, fake_worker: FakeWorker, tmp_path: Path
) -> None:
    other = write_public(tmp_path / "other.pem", write_private(tmp_path / "other-key.pem"))
    refused(releases, RunOptions(keys=(str(other),)), UnknownKey, "not trusted", fake_worker)


def test_a_revoked_key(
    releases: tuple[str, str], signed: RunOptions, fake_worker: FakeWorker, tmp_path: Path
) -> None:
    (tmp_path / "list").write_text(digest_file(tmp_path / "public.pem"))
    options = RunOptions(keys=signed.keys, revoked=str(tmp_path / "list"))
    refused(releases, options, RevokedKey, "was revoked", fake_worker)


def test_a_key_in_either_release_proves_nothing(
    releases: tuple[str, str], signed: RunOptions, fake_worker: FakeWorker, tmp_path: Path
) -> None:
    for release in releases:
        inside = Path(release) / "public.pem"
        inside.write_bytes((tmp_path / "public.pem").read_bytes())
        options = RunOptions(keys=(str(inside),))
        refused(releases, options, KeyFileError, "from the release itself", fake_worker)
        inside.unlink()


def test_no_key_is_named(releases: tuple[str, str], fake_worker: FakeWorker) -> None:
    refused(releases, RunOptions(), UsageError, "no key says whose signature", fake_worker)


@pytest.mark.parametrize("index", [0, 1])
def test_a_release_that_changes_meanwhile(
    releases: tuple[str, str], signed: RunOptions, fake_worker: FakeWorker, index: int
) -> None:
    def during(_: str, job: Any) -> None:
        (Path(releases[index]) / "NOTES.md").write_text("other")

    fake_worker.during = during
    with pytest.raises(ListingMismatch, match=r"NOTES\.md"):
        release_diff(*releases, run=signed)


def test_a_record_alone_cannot_be_run(releases: tuple[str, str], fake_worker: FakeWorker) -> None:
    old, new = releases
    record = f"{old}/release.json"
    refused((record, new), UNSIGNED, UsageError, "is a file, and --run needs", fake_worker)


# The task


@pytest.mark.parametrize(
    "words",
    [
        ("--public-key", "k.pem"),
        ("--revoked", "list"),
        ("--revoked", ""),
        ("--unsigned",),
        ("--timeout", "5"),
    ],
)
def test_options_of_run_need_run(
    releases: tuple[str, str], tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = bare("release-diff", *releases, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{words[0]} is for --run" in done.stderr


def test_the_task_runs_nothing_unasked(releases: tuple[str, str], tmp_path: Path) -> None:
    done = bare("release-diff", *releases, "--run", "--json", cwd=tmp_path)
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "usage"
    assert "--unsigned verifies no signature" in done.stderr
    done = bare("release-diff", *releases, "--run", "--unsigned", "--public-key", "k", cwd=tmp_path)
    assert done.returncode == 2
    assert "--unsigned and --public-key exclude each other" in done.stderr
