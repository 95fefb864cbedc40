"""`release`: whole or not at all, only what is built and verified, with evidence that others read
by the published schemas, and equal bytes for equal artifacts."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from signers import write_private, write_public
from small_projects import TWO_MODELS, FakeWorker, contents, publish_fake, write_project

from aoti_build.artifact.bundle.checkout import read_checkout
from aoti_build.artifact.bundle.record import parse_release
from aoti_build.artifact.manifest import read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.signing.compare import compare_directory
from aoti_build.artifact.signing.refusals import KeyFileError
from aoti_build.artifact.signing.trust import read_trusted_keys
from aoti_build.artifact.signing.verify import read_signature, verify_signature
from aoti_build.commands.bench.command import Options
from aoti_build.commands.bench.report import Benchmark, BenchReport
from aoti_build.commands.release import bundle as release_bundle
from aoti_build.commands.release import command
from aoti_build.commands.release import parts as release_parts
from aoti_build.commands.release.command import ReleaseOptions, release
from aoti_build.commands.release.report import ReleaseReport
from aoti_build.errors import (
    AotiBuildError,
    ArtifactError,
    ExitCode,
    Interrupted,
    UsageError,
    VerificationError,
)
from aoti_build.measurement.record import BenchRecord, Machine, Metric, write_bench
from aoti_build.models_file import Project
from aoti_build.models_file.project import Target
from aoti_build.runtime.choose import explain

EVIDENCE = {"NOTES.md", "release.json", "SHA256SUMS"} | {
    f"evidence/{name}" for name in ("provenance.json", "test-results.json", "sbom.cdx.json")
}
PACKAGE = {"model.pt2", "manifest.json", "reference.safetensors", "verify.json"}


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", *identity, *words],
        cwd=root,
        env={**os.environ, "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def commit(root: Path) -> None:
    (root / ".gitignore").write_text("/artifacts/\n/out*\n/first/\n")
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")


@pytest.fixture
def two(tmp_path: Path, fake_worker: FakeWorker) -> Project:
    """Two targets, both up to date, in a clean checkout."""
    project = write_project(tmp_path / "project", TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
    commit(project.root)
    git(project.root, "remote", "add", "origin", "https://me:secret@example.org/us/shop.git?t=1")
    return project


def make(project: Project, out: str = "out", **options: Any) -> ReleaseReport:
    options = {"version": "1.4.0", "directory": str(project.root / out), **options}
    return release(project, project.targets, ReleaseOptions(**options))


def made(project: Project, out: str = "out", **options: Any) -> Path:
    report = make(project, out, **options)
    assert report.error is None, report.error
    return project.root / out


def test_what_is_in_a_bundle(two: Project) -> None:
    out = made(two)
    packages = {f"models/{model}/cpu/{name}" for model in ("first", "second") for name in PACKAGE}
    assert set(contents(out)) == EVIDENCE | packages
    for target in two.targets:
        published = contents(artifact_directory(two, target))
        copied = contents(out / "models" / target.name)
        for name in PACKAGE - {"verify.json"}:
            assert copied[name] == published[name]


def test_sha256sum_accepts_it_and_notices_a_change(two: Project) -> None:
    out = made(two)
    check = ["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=out, check=False).returncode == 0
    names = {line.partition("  ")[2] for line in (out / "SHA256SUMS").read_text().splitlines()}
    assert names == set(contents(out)) - {"SHA256SUMS"}
    (out / "NOTES.md").write_text("")
    done = subprocess.run(check, cwd=out, check=False, capture_output=True)
    assert done.returncode == 1


def test_the_record_lists_every_file(two: Project) -> None:
    out = made(two)
    record = parse_release((out / "release.json").read_bytes(), "out")
    assert set(record.files) == set(contents(out)) - {"release.json", "SHA256SUMS"}
    for path, file in record.files.items():
        assert (out / path).stat().st_size == file.size
        assert f"{file.sha256}  {path}\n" in (out / "SHA256SUMS").read_text()
        assert file.mode == "644"
    assert (record.name, record.version) == ("shop", "1.4.0")
    assert record.source.commit == git(two.root, "rev-parse", "HEAD")
    assert record.source.repository == "https://example.org/us/shop.git"
    first = record.targets[0]
    manifest = read_manifest(artifact_directory(two, two.targets[0]))
    assert (first.target, first.key) == ("first/cpu", manifest.key)  # type: ignore[union-attr]
    assert first.verification.passed
    assert {"spec", "sources", "toolchain"} <= first.key_parts.keys()


def test_no_file_has_the_credentials_or_the_place(two: Project) -> None:
    for name, content in contents(made(two)).items():
        assert b"secret" not in content, name
        assert str(two.root).encode() not in content, name


def test_the_loader_finds_the_models(two: Project) -> None:
    """As far as a package without code can be found."""
    out = made(two)
    inside = explain("first", artifacts=out / "models").as_json()
    assert inside == explain("first", artifacts=two.artifacts).as_json()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_do_not_depend_on_the_umask(two: Project, umask: int) -> None:
    before = os.umask(umask)
    try:
        out = made(two)
    finally:
        os.umask(before)
    for path in (out, *out.rglob("*")):
        wanted = 0o755 if path.is_dir() else 0o644
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.zst"])
def test_equal_artifacts_give_equal_bytes(
    two: Project, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives = [two.root / f"out{number}{suffix}" for number in (1, 2)]
    first = made(two, "out1", archive=str(archives[0]))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    second = made(two, "out2", archive=str(archives[1]))
    assert contents(first) == contents(second)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    assert b"2026-01-02T03:04:05Z" in (first / "release.json").read_bytes()


def test_the_time_of_the_environment_comes_first(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert "Dated 1970-01-02T00:00:00Z" in (made(two) / "NOTES.md").read_text()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UsageError, match="is no time"):
        make(two, "out2")


def test_the_archive_has_the_bundle_and_nothing_of_this_host(two: Project, tmp_path: Path) -> None:
    file = two.root / "out.tar.gz"
    out = made(two, archive=str(file))
    with tarfile.open(file) as archive:
        entries = archive.getmembers()
    subprocess.run(["tar", "-xf", str(file), "-C", str(tmp_path)], check=True)
    assert contents(tmp_path / "shop-1.4.0") == contents(out)
    assert [entry.name for entry in entries] == sorted(entry.name for entry in entries)
    for entry in entries:
        assert (entry.uid, entry.gid, entry.uname, entry.gname) == (0, 0, "", "")
        assert entry.mode == (0o755 if entry.isdir() else 0o644)
        assert entry.mtime == 1767323045  # of the commit


def test_an_archive_that_zstd_reads(two: Project) -> None:
    file = two.root / "out.tar.zst"
    made(two, archive=str(file))
    if shutil.which("zstd") is None:
        pytest.skip("there is no program zstd")
    assert subprocess.run(["zstd", "-tq", str(file)], check=False).returncode == 0


@pytest.mark.parametrize("name", ["out.zip", "out"])
def test_an_archive_of_another_kind(two: Project, name: str) -> None:
    with pytest.raises(UsageError, match="no known kind"):
        make(two, "first", archive=str(two.root / name))


def test_without_zstd_gzip_is_named(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aoti_build.common.archives._has_zstd", lambda: False)
    with pytest.raises(UsageError, match=r"aoti_build\[release\]"):
        make(two, archive=str(two.root / "out.tar.zst"))


class Killed(BaseException):
    """In place of a signal that cannot be caught."""


STEPS = [
    (command, "verify"),
    (command, "plan"),
    (command, "copy_fit"),
    (command, "add_findings"),
    (command, "checked_source"),
    (release_bundle, "provenance_statement"),
    (release_bundle, "sbom"),
    (release_bundle, "notes"),
    (release_bundle, "_write_sums"),
    (command, "write_signature"),
    (command, "staged_archive"),
    (command, "publish_new_directory"),
]


@pytest.mark.parametrize(("module", "name"), STEPS, ids=[name for _, name in STEPS])
def test_a_release_that_ends_early_leaves_nothing(
    two: Project, monkeypatch: pytest.MonkeyPatch, module: Any, name: str
) -> None:
    def end(*_: Any, **__: Any) -> None:
        raise Killed

    before = set(os.listdir(two.root))
    monkeypatch.setattr(module, name, end)
    monkeypatch.setattr(command, "signer", lambda *_: lambda directory: b"")
    with pytest.raises(Killed):
        make(two, archive=str(two.root / "out.tar.gz"))
    assert set(os.listdir(two.root)) == before


def test_a_full_disk(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release_bundle, "_write_sums", full)
    with pytest.raises(UsageError, match="cannot be written"):
        make(two)
    assert not (two.root / "out").exists()


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_is_there_stays(two: Project, kind: str) -> None:
    out = two.root / "out.tar.gz"
    if kind == "directory":
        out.mkdir()
    elif kind == "file":
        out.write_text("theirs")
    else:
        out.symlink_to("nowhere")
    with pytest.raises(UsageError, match="there already"):
        make(two, "out.tar.gz")
    with pytest.raises(UsageError, match="there already"):
        make(two, "out2", archive=str(out))
    assert os.path.lexists(out)
    assert not (two.root / "out2").exists()


def test_a_directory_that_appears_meanwhile_stays(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command.copy_fit

    def copy(*words: Any) -> Any:
        (two.root / "out").mkdir(exist_ok=True)
        (two.root / "out" / "theirs").write_text("")
        return real(*words)

    monkeypatch.setattr(command, "copy_fit", copy)
    with pytest.raises(UsageError, match="cannot be written"):
        make(two)
    assert contents(two.root / "out") == {"theirs": b""}


def test_a_bundle_among_the_artifacts_is_refused(two: Project) -> None:
    with pytest.raises(UsageError, match="among the artifacts"):
        make(two, "artifacts/out")


def test_a_failed_verification_releases_nothing(two: Project, fake_worker: FakeWorker) -> None:
    from small_projects import FAILED_CASE

    fake_worker.answers["check"] = {"passed": False, "cases": [FAILED_CASE]}
    report = make(two)
    assert report.exit_code == 3
    assert "nothing was released" in str(report.error)
    assert "invoke verify --strict" in str(report.error)
    assert not (two.root / "out").exists()


def test_a_failed_build_releases_nothing(tmp_path: Path, fake_worker: FakeWorker) -> None:
    project = write_project(tmp_path / "project")
    commit(project.root)
    fake_worker.answers["build"] = VerificationError("it differs")
    report = make(project)
    assert report.exit_code == 3
    assert report.verify is None
    assert not (project.root / "out").exists()


def test_what_is_missing_is_built(tmp_path: Path, fake_worker: FakeWorker) -> None:
    project = write_project(tmp_path / "project")
    commit(project.root)
    out = made(project)
    assert (out / "models" / "small" / "cpu" / "model.pt2").exists()
    assert "build small" in fake_worker.calls
    assert "check" in fake_worker.calls


def test_an_artifact_that_was_replaced_after_its_verification(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command.verify

    def verify(*words: Any, **options: Any) -> Any:
        report = real(*words, **options)
        verdicts = []
        for verdict in report.verdicts:
            assert verdict.package is not None
            package = replace(verdict.package, sha256="f" * 64)
            verdicts.append(replace(verdict, package=package))
        return replace(report, verdicts=tuple(verdicts))

    monkeypatch.setattr(command, "verify", verify)
    with pytest.raises(AotiBuildError, match="took its place after it was verified"):
        make(two)
    assert not (two.root / "out").exists()


def test_a_gate_that_fails_releases_nothing(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slower:
        exit_code = 3
        error = VerificationError("first/cpu is slower")

        def as_json(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(command, "bench_gate", lambda *_: lambda project, targets: Slower())
    report = make(two, against="v1")
    assert (report.exit_code, (two.root / "out").exists()) == (3, False)
    assert "first/cpu is slower" in str(report.error)


def test_gates_and_their_expressions(two: Project) -> None:
    with pytest.raises(UsageError, match="--against names none"):
        make(two, fail_if="steady > 1.05")
    with pytest.raises(UsageError, match="speed"):
        make(two, against="v1", fail_if="speed>1")


def test_a_gate_that_fails_leaves_nothing(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate gets the base and the limits, after the verification."""
    asked: list[Options] = []

    def bench(project: Project, targets: tuple[Target, ...], options: Options) -> BenchReport:
        asked.append(options)
        error = VerificationError("steady is worse")
        benchmarks = tuple(Benchmark(target, error=error) for target in targets)
        return BenchReport(benchmarks, options.rule, 1.0)

    monkeypatch.setattr(release_parts, "bench", bench)
    report = make(two, against="v1", fail_if="steady>1.05")
    assert report.exit_code == ExitCode.VERIFICATION_FAILED
    assert "steady is worse" in str(report.error)
    assert not (two.root / "out").exists()
    (options,) = asked
    assert (options.against, dict(options.rule.limits)) == ("v1", {Metric.STEADY: 1.05})


@pytest.fixture
def dirty(two: Project) -> Project:
    with (two.root / "helper.py").open("a") as file:
        file.write("# another line\n")
    for target in two.targets:
        publish_fake(two, target)
    return two


def test_a_changed_file_is_refused_and_named(dirty: Project) -> None:
    with pytest.raises(UsageError, match=r"files differ from the commit: helper\.py") as caught:
        make(dirty)
    assert "--allow-dirty" in str(caught.value)


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_changed_file_that_git_was_told_to_skip_is_refused(two: Project, flag: str) -> None:
    git(two.root, "update-index", flag, "helper.py")
    assert make(two).error is None
    with (two.root / "helper.py").open("a") as file:
        file.write("# another line\n")
    for target in two.targets:
        publish_fake(two, target)
    assert git(two.root, "diff", "--name-only", "HEAD") == ""
    with pytest.raises(UsageError, match=r"files differ from the commit: helper\.py"):
        make(two, "out2")


def test_settings_of_git_hide_no_change(two: Project) -> None:
    """The project is a part of a checkout, and a source lies beside it."""
    place = two.root / "part"
    place.mkdir()
    (place / "models.yaml").write_text("version: 1\n")
    git(two.root, "add", "--all")
    git(two.root, "commit", "--quiet", "--message=second")
    git(two.root, "config", "diff.relative", "true")
    (two.root / "helper.py").write_text("changed\n")
    assert git(place, "diff", "--name-only", "HEAD") == ""
    checkout = read_checkout(place, place / "artifacts")
    assert checkout is not None
    assert checkout.changed == ("helper.py",)


def test_a_changed_file_is_recorded(dirty: Project) -> None:
    out = made(dirty, allow_dirty=True)
    assert parse_release((out / "release.json").read_bytes(), "out").source.dirty
    assert "**Files differed from that commit.**" in (out / "NOTES.md").read_text()


def test_artifacts_beside_the_sources_hide_no_change(dirty: Project) -> None:
    layout = replace(dirty.layout, artifacts=".")
    with pytest.raises(UsageError, match=r"files differ from the commit: helper\.py"):
        make(replace(dirty, layout=layout), "../elsewhere")


def test_a_source_that_git_does_not_know_is_refused(two: Project) -> None:
    git(two.root, "rm", "--cached", "--quiet", "helper.py")
    git(two.root, "commit", "--quiet", "--message=second")
    with pytest.raises(UsageError, match=r"git does not know.*helper\.py"):
        make(two)
    assert not (two.root / "out").exists()
    assert parse_release(
        (made(two, allow_dirty=True) / "release.json").read_bytes(), "out"
    ).source.dirty


def test_a_commit_during_the_release_is_noticed(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command.verify

    def verify(*words: Any, **options: Any) -> Any:
        git(two.root, "commit", "--quiet", "--allow-empty", "--message=other")
        return real(*words, **options)

    monkeypatch.setattr(command, "verify", verify)
    with pytest.raises(UsageError, match="another commit was checked out"):
        make(two)


def test_artifacts_in_git_may_change(two: Project) -> None:
    """A release builds them, so they say nothing of what it is built from."""
    git(two.root, "add", "--force", "artifacts")
    git(two.root, "commit", "--quiet", "--message=artifacts")
    publish_fake(two, two.targets[0], seconds={"total": 9.0})
    assert not parse_release((made(two) / "release.json").read_bytes(), "out").source.dirty


def test_without_a_checkout(two: Project) -> None:
    shutil.rmtree(two.root / ".git")
    with pytest.raises(UsageError, match="in no git checkout"):
        make(two)
    record = parse_release((made(two, allow_dirty=True) / "release.json").read_bytes(), "out")
    assert record.source.commit is None
    assert record.name == "project"


def bench_of(project: Project, package_sha256: str, key: str) -> BenchRecord:
    machine = Machine(machine_class="m", facts={}, threads=1, cpus=(0,))
    return BenchRecord(
        target="first/cpu",
        key=key,
        package_sha256=package_sha256,
        size=1,
        measured="2026-01-01T00:00:00Z",
        machine=machine,
        rows=(),
    )


@pytest.mark.parametrize("same", [True, False])
def test_only_a_measurement_of_this_package_is_taken(two: Project, same: bool) -> None:
    manifest: Any = read_manifest(artifact_directory(two, two.targets[0]))
    digest = manifest.files["model.pt2"].sha256 if same else "0" * 64
    bench = bench_of(two, digest, manifest.key)
    write_bench(artifact_directory(two, two.targets[0]) / "bench.json", bench)
    out = made(two)
    assert (out / "models/first/cpu/bench.json").exists() is same
    record = parse_release((out / "release.json").read_bytes(), "out")
    wanted = "models/first/cpu/bench.json" if same else None
    assert (record.targets[0].bench, record.targets[1].bench) == (wanted, None)


def test_the_verdict_has_neither_times_nor_places(two: Project) -> None:
    verdict = json.loads((made(two) / "models/first/cpu/verify.json").read_text())
    assert verdict["verdict"] == "passed"
    assert verdict["path"] == "models/first/cpu/model.pt2"
    assert verdict["seconds"] == 0


def test_notes_say_what_changed_and_why(two: Project) -> None:
    first = made(two, "first", version="1.3")
    with (two.root / "helper.py").open("a") as file:
        file.write("# another line\n")
    git(two.root, "commit", "--all", "--quiet", "--message=second")
    package = artifact_directory(two, two.targets[0]) / "model.pt2"
    publish_fake(two, two.targets[1])
    publish_fake(two, two.targets[0])
    package.write_bytes(b"other code")
    from aoti_build.artifact.manifest import FileRecord

    manifest: Any = read_manifest(package.parent)
    files = {**manifest.files, "model.pt2": FileRecord.of(package)}
    publish = replace(manifest, files=files)
    publish.write(package.parent)
    text = (made(two, previous=str(first)) / "NOTES.md").read_text()
    assert "## Changes since 1.3" in text
    assert "- first/cpu: changed, since these differ: source files" in text
    assert "- 1 target is the same, byte by byte" in text
    record = parse_release((two.root / "out" / "release.json").read_bytes(), "out")
    assert record.previous is not None
    assert record.previous.version == "1.3"


def test_notes_name_added_and_removed_targets(two: Project) -> None:
    options = ReleaseOptions(version="1", directory=str(two.root / "first"))
    assert release(two, two.targets[:1], options).error is None
    options = ReleaseOptions(
        version="2", directory=str(two.root / "out"), previous=str(two.root / "first/release.json")
    )
    assert release(two, two.targets[1:], options).error is None
    text = (two.root / "out" / "NOTES.md").read_text()
    assert "- first/cpu: removed\n- second/cpu: added" in text


@pytest.mark.parametrize("version", ["1.3", "1.3.0", "1.3rc1", "0.9"])
def test_a_version_that_is_not_later_is_refused(two: Project, version: str) -> None:
    first = made(two, "first", version="1.3")
    with pytest.raises(UsageError, match=r"does not come after 1\.3"):
        make(two, version=version, previous=str(first))


def test_an_earlier_version_without_an_order(two: Project) -> None:
    first = made(two, "first", version="1.3")
    record = first / "release.json"
    record.write_text(record.read_text().replace('"version": "1.3"', '"version": "newest"'))
    with pytest.raises(UsageError, match="version of --previous, 'newest'") as caught:
        make(two, version="1.4", previous=str(first))
    assert "omit it" in str(caught.value)


def test_what_is_no_release_before(two: Project) -> None:
    with pytest.raises(UsageError, match="--previous"):
        make(two, previous=str(two.root / "absent"))
    (two.root / "out1").mkdir()
    (two.root / "out1" / "release.json").write_text("{}")
    with pytest.raises(ArtifactError, match="cannot be read"):
        make(two, previous=str(two.root / "out1"))


def test_a_signature_covers_the_whole_bundle(two: Project, tmp_path: Path) -> None:
    secret = tmp_path / "key.pem"
    public = write_public(tmp_path / "key.pub", write_private(secret))
    out = made(two, sign=str(secret))
    trusted = read_trusted_keys([public], release=out)
    listing = verify_signature(read_signature(out), trusted)
    compare_directory(listing, out)
    assert set(listing.files) == set(contents(out)) - {"model.sig"}


def test_an_encrypted_key(two: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "key.pem"
    write_private(secret, passphrase=b"a long passphrase")
    with pytest.raises(KeyFileError):
        make(two, sign=str(secret))
    monkeypatch.setenv("SIGN_PASS", "a long passphrase")
    assert (made(two, sign=str(secret), passphrase="SIGN_PASS") / "model.sig").is_file()
    with pytest.raises(UsageError, match="no key to sign with"):
        make(two, "other", passphrase="SIGN_PASS")


def test_a_key_that_is_none_is_refused_before_the_build(two: Project) -> None:
    (two.root / "key.pem").write_text("no key")
    with pytest.raises(KeyFileError):
        make(two, sign=str(two.root / "key.pem"))


def test_the_signer_gets_the_whole_bundle(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, bytes] = {}

    def sign(directory: Path) -> bytes:
        seen.update(contents(directory))
        modes = {stat.S_IMODE(path.stat().st_mode) for path in directory.rglob("*")}
        assert modes == {0o644, 0o755}
        return b"signature"

    monkeypatch.setattr(command, "signer", lambda *_: sign)
    out = made(two, sign="key.pem")
    assert contents(out) == {**seen, "model.sig": b"signature"}
    assert "model.sig" not in (out / "SHA256SUMS").read_text()


def test_a_page_is_a_file_of_the_bundle(two: Project) -> None:
    options = ReleaseOptions(version="1", directory=str(two.root / "out"))
    page = b"<!doctype html>"
    report = release(two, two.targets, options, page=lambda *_: page)
    assert report.error is None
    assert (two.root / "out" / "report.html").read_bytes() == page
    assert "  report.html\n" in (two.root / "out" / "SHA256SUMS").read_text()


def test_a_signature_does_not_name_a_random_directory(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "signer", lambda *_: lambda directory: directory.name.encode())
    assert (made(two, sign="key.pem") / "model.sig").read_bytes() == b"shop-1.4.0"


def test_a_signer_that_is_interrupted(two: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def sign(directory: Path) -> bytes:
        raise Interrupted("interrupted")

    monkeypatch.setattr(command, "signer", lambda *_: sign)
    with pytest.raises(Interrupted):
        make(two, sign="key.pem")
    assert not (two.root / "out").exists()


@pytest.fixture(autouse=True)
def _no_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
