"""`verify --release`: what a receiver is told. Nothing is run before all of it is right."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exchanges import WAYS, changing
from releases import VERSION, Release, add, flip
from signers import write_private, write_public
from small_projects import FAILED_CASE, REAL_PYTHON, FakeWorker

from aoti_build.artifact.bundle.described import target_of
from aoti_build.artifact.bundle.signed import ContradictoryRelease, OldRelease
from aoti_build.artifact.manifest import read_manifest
from aoti_build.artifact.signing.refusals import (
    BadSignature,
    KeyFileError,
    ListingMismatch,
    ModeMismatch,
    NoSignature,
    RevokedKey,
    UnfitFiles,
    UnknownKey,
)
from aoti_build.artifact.verification import required_tolerance
from aoti_build.commands.verify_release.command import verify_release
from aoti_build.commands.verify_release.options import VerifyReleaseOptions
from aoti_build.commands.verify_release.report import ReleaseVerification
from aoti_build.common.digests import digest_file
from aoti_build.errors import ArtifactError, SignatureError, UsageError
from aoti_build.models_file import load_project
from aoti_build.models_file.records import target_to_json
from aoti_build.report.release_verification_text import release_verification_lines

PACKAGE = "models/small/cpu/model.pt2"


def verify(release: Release, **options: Any) -> ReleaseVerification:
    options = {"keys": (str(release.public),), **options}
    return verify_release(VerifyReleaseOptions(directory=release.bundle, **options))


def refused(
    release: Release, worker: FakeWorker, error: type[Exception], match: str, **options: Any
) -> Any:
    """It is refused with this class, and no package was run."""
    with pytest.raises(error, match=match) as caught:
        verify(release, **options)
    assert type(caught.value) is error
    assert worker.calls == []
    assert "/proc/self" not in str(caught.value)
    if issubclass(error, ArtifactError):
        assert caught.value.exit_code == 4
    return caught.value


def test_a_good_release(release: Release, fake_worker: FakeWorker) -> None:
    report = verify(release)
    assert report.error is None
    assert report.exit_code == 0
    document = report.as_json()
    assert [row["target"] for row in document["targets"]] == [
        "other/cpu",
        "small/cpu",
        "small/cpu-fast",
    ]
    assert {row["verdict"] for row in document["targets"]} == {"passed"}
    assert document["version"] == VERSION
    assert document["signer"]["name"] == "signer.pem"
    assert document["sha256"] == digest_file(release.bundle / "release.json")
    assert fake_worker.calls == ["check", "probe"] * 3
    text = "\n".join(release_verification_lines(report))
    assert "signed by signer.pem" in text
    assert "exactly the signed ones" in text


def test_workers_get_private_copies_and_an_empty_directory(
    release: Release, fake_worker: FakeWorker
) -> None:
    seen = []

    def look(name: str, job: Any) -> None:
        assert not job.model.startswith(str(release.place))
        assert digest_file(Path(job.model)) == digest_file(
            release.file("model.pt2", job.target.name)
        )
        assert os.listdir(job.root) == []
        assert job.python_path == ()
        assert job.tolerance == {"atol": None, "rtol": None, "outputs": {}}
        seen.append(job.target.name)

    fake_worker.during = look
    verify(release, pattern="small")
    assert seen == ["small/cpu", "small/cpu", "small/cpu-fast", "small/cpu-fast"]


def test_a_target_is_restored_from_its_manifest(release: Release, tmp_path: Path) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / "models.yaml").write_text(__import__("releases").MODELS)
    for target in load_project(root / "models.yaml").targets:
        manifest: Any = read_manifest(release.file("", target.name))
        restored = target_of(manifest)
        wanted, found = target_to_json(target), target_to_json(restored)
        for field in ("inputs", "dims", "tolerance", "cuda", "source", "name"):
            assert found["model"][field] == wanted["model"][field]
        for field in ("device", "preset", "inductor_config", "architecture", "listed"):
            assert found[field] == wanted[field]
        assert required_tolerance(restored) == required_tolerance(target)
        assert restored.name == target.name


def test_a_mismatch_is_told_to_the_receiver(release: Release, fake_worker: FakeWorker) -> None:
    fake_worker.answers["check"] = {"passed": False, "cases": [FAILED_CASE]}
    report = verify(release, pattern="other")
    assert report.exit_code == 3
    assert report.error is not None
    assert "invoke build" not in str(report.error)
    assert "whoever published the release" in str(report.error)


def test_no_key_is_no_permission(
    release: Release, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "aoti_build.commands.received.examine.SYSTEM_KEYS", release.place / "nowhere"
    )
    error = refused(release, fake_worker, UsageError, "no key says", keys=())
    assert "--unsigned" in error.hint


def test_unsigned_says_so(release: Release) -> None:
    (release.bundle / "model.sig").unlink()
    report = verify(release, keys=(), unsigned=True)
    assert report.as_json()["signer"] is None
    assert "NOT SIGNED" in "\n".join(release_verification_lines(report))


def test_unsigned_files_are_compared_with_the_record(
    release: Release, fake_worker: FakeWorker
) -> None:
    unsigned: dict[str, Any] = {"keys": (), "unsigned": True}
    flip(release.file("model.pt2"))
    match = f"changed since they were listed: '{PACKAGE}'"
    refused(release, fake_worker, ListingMismatch, match, **unsigned)
    flip(release.file("model.pt2"))
    (release.bundle / "SHA256SUMS").write_text("")
    refused(release, fake_worker, ListingMismatch, "'SHA256SUMS'", **unsigned)
    for option in ({"keys": (str(release.public),)}, {"min_version": "1"}):
        refused(release, fake_worker, UsageError, "exclude each other", **{**unsigned, **option})


def test_the_least_version(release: Release, fake_worker: FakeWorker) -> None:
    refused(release, fake_worker, OldRelease, "1.5 or later", min_version="1.5")
    assert verify(release, min_version="1.4").error is None


def _swap_reference_data(release: Release) -> None:
    one, two = (release.file("reference.safetensors", name) for name in ("small/cpu", "other/cpu"))
    content = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(content)


def _link(release: Release) -> None:
    path = release.file("model.pt2")
    shutil.move(path, release.place / "elsewhere")
    path.symlink_to(release.place / "elsewhere")


def _fifo(release: Release) -> None:
    os.mkfifo(release.bundle / "models/pipe")


ATTACKS: dict[str, tuple[Callable[[Release], object], type[SignatureError], str]] = {
    "package": (lambda r: flip(r.file("model.pt2")), ListingMismatch, "changed since"),
    "manifest": (lambda r: flip(r.file("manifest.json")), ListingMismatch, "changed since"),
    "record": (lambda r: flip(r.bundle / "release.json"), ListingMismatch, "'release.json'"),
    "sums": (lambda r: flip(r.bundle / "SHA256SUMS"), ListingMismatch, "'SHA256SUMS'"),
    "evidence": (lambda r: flip(r.bundle / "evidence/sbom.cdx.json"), ListingMismatch, "sbom"),
    "reference data": (_swap_reference_data, ListingMismatch, "reference.safetensors"),
    "verdict": (lambda r: flip(r.file("verify.json")), ListingMismatch, "verify.json"),
    "missing": (lambda r: r.file("verify.json").unlink(), ListingMismatch, "missing"),
    "signature missing": (lambda r: (r.bundle / "model.sig").unlink(), NoSignature, "not signed"),
    "link": (_link, UnfitFiles, "symbolic link"),
    "pipe": (_fifo, UnfitFiles, "neither a regular file"),
    "git": (lambda r: add(r, ".git/config"), ListingMismatch, "never signed: '.git/config'"),
    "stat cache": (lambda r: add(r, ".stat-cache.json"), ListingMismatch, "never signed"),
    "index": (lambda r: add(r, "models/.index.json"), ListingMismatch, "never signed"),
    "logs": (lambda r: add(r, "models/.logs/a@b@verify.log"), ListingMismatch, "never signed"),
    "empty directory": (
        lambda r: (r.bundle / "empty").mkdir(),
        ListingMismatch,
        "directories without signed files",
    ),
    "second signature": (lambda r: add(r, "models/model.sig"), ListingMismatch, "never signed"),
    "variant": (
        lambda r: shutil.copytree(r.file(""), r.bundle / "models/small/cuda"),
        ListingMismatch,
        "never signed",
    ),
    "executable": (lambda r: r.file("model.pt2").chmod(0o755), ModeMismatch, "released with 0644"),
    "mode of the record": (
        lambda r: (r.bundle / "release.json").chmod(0o600),
        ModeMismatch,
        "released with 0644",
    ),
    "set user": (lambda r: r.file("model.pt2").chmod(0o4644), ModeMismatch, "mode 4644"),
    "renamed": (
        lambda r: (r.bundle / "models/small").rename(r.bundle / "models/big"),
        ListingMismatch,
        "missing",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_not_as_it_was_signed(
    release: Release, fake_worker: FakeWorker, attack: str
) -> None:
    change, error, match = ATTACKS[attack]
    change(release)
    refused(release, fake_worker, error, match)


def test_all_digests_made_again_under_the_old_signature(
    release: Release, fake_worker: FakeWorker
) -> None:
    flip(release.file("model.pt2"))
    digest = digest_file(release.file("model.pt2"))

    def change(document: Any) -> None:
        document["files"]["model.pt2"]["sha256"] = digest

    release.edit("models/small/cpu/manifest.json", change)
    release.list_anew()
    refused(release, fake_worker, ListingMismatch, "changed since they were signed")
    write_public(release.place / "mine.pem", write_private(release.place / "other.pem"))
    release.sign("other.pem")
    refused(release, fake_worker, UnknownKey, "not trusted here")
    # The hint in the signature may name the trusted key. It does not verify.
    signature = (release.bundle / "model.sig").read_text()
    document = json.loads(signature)
    trusted = release.copy(release.place / "again")
    trusted.sign()
    own = json.loads((trusted.bundle / "model.sig").read_text())
    own["dsseEnvelope"] = document["dsseEnvelope"]
    (release.bundle / "model.sig").write_text(json.dumps(own))
    refused(release, fake_worker, BadSignature, "is not valid")


def _row(document: Any) -> Any:
    return next(row for row in document["targets"] if row["target"] == "small/cpu")


def _of_manifest(change: Callable[[Any], object]) -> Callable[[Release], None]:
    return lambda release: release.edit("models/small/cpu/manifest.json", change)


def _of_record(change: Callable[[Any], object]) -> Callable[[Release], None]:
    return lambda release: release.edit("release.json", change)


def _built(provenance: Any) -> Any:
    """What provenance says from outside of the build."""
    return provenance["predicate"]["buildDefinition"]["externalParameters"]


CONTRADICTIONS: dict[str, tuple[Callable[[Release], object], str]] = {
    "package": (
        _of_record(lambda d: _row(d).update(package_sha256="0" * 64)),
        "another package than release.json",
    ),
    "key": (_of_manifest(lambda d: d.update(key="0" * 64)), "another key"),
    "requires": (
        _of_manifest(lambda d: d["requires"].update(cpu_features=["none"])),
        "another requirements",
    ),
    "size": (_of_record(lambda d: _row(d).update(size=1)), "another size"),
    "never compared": (
        _of_record(lambda d: _row(d)["verification"].update(passed=False)),
        "never compared with eager",
    ),
    "manifest never compared": (
        _of_manifest(lambda d: d["check"].update(passed=None, why="none")),
        "never compared with eager",
    ),
    "target left out": (
        _of_record(lambda d: d["targets"].remove(_row(d))),
        "belongs to no artifact",
    ),
    "verdict": (
        lambda r: r.edit("models/small/cpu/verify.json", lambda d: d.update(key="0" * 64)),
        "verify.json is about another package",
    ),
    "sbom": (
        lambda r: r.edit("evidence/sbom.cdx.json", lambda d: d["components"].clear()),
        "sbom.cdx.json is about other packages",
    ),
    "provenance": (
        lambda r: r.edit(
            "evidence/provenance.json",
            lambda d: d["subject"][0]["digest"].update(sha256="0" * 64),
        ),
        "provenance.json is about other packages",
    ),
    "test results": (
        lambda r: (r.bundle / "evidence/test-results.json").write_text('["odd"]'),
        "test-results.json cannot be read",
    ),
    "no target": (_of_record(lambda d: d["targets"].clear()), "lists no package"),
    "failed verdict": (
        lambda r: r.edit("models/small/cpu/verify.json", lambda d: d.update(verdict="mismatch")),
        "says that the comparison failed",
    ),
    "failed test": (
        lambda r: r.edit(
            "evidence/test-results.json", lambda d: d[1]["predicate"].update(result="FAILED")
        ),
        "says that models/small/cpu/model.pt2 failed",
    ),
    "version of the sbom": (
        lambda r: r.edit(
            "evidence/sbom.cdx.json", lambda d: d["metadata"]["component"].update(version="2.0")
        ),
        "sbom.cdx.json is about another release",
    ),
    "version of the provenance": (
        lambda r: r.edit("evidence/provenance.json", lambda d: _built(d).update(version="2.0")),
        "provenance.json is about another release",
    ),
    "commit": (
        _of_record(lambda d: d["source"].update(commit="0" * 40)),
        "provenance.json is about another release",
    ),
    "provenance of another shape": (
        lambda r: r.edit("evidence/provenance.json", lambda d: d.update(predicate=[])),
        "provenance.json cannot be read",
    ),
    "bench": (lambda r: add(r, "models/small/cpu/bench.json"), "bench.json"),
    "stray": (lambda r: add(r, "models/small/cpu/code.so"), "belongs to no artifact"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_release_that_contradicts_itself(
    release: Release, fake_worker: FakeWorker, name: str
) -> None:
    """Even if its digests are right and it is signed."""
    change, match = CONTRADICTIONS[name]
    change(release)
    release.list_anew()
    release.sign()
    error = refused(release, fake_worker, ContradictoryRelease, "contradicts itself")
    assert match in error.cause


@pytest.mark.parametrize("mode", ["4644", "2755", "666", "646", "0644", "x"])
def test_modes_that_no_release_has(release: Release, fake_worker: FakeWorker, mode: str) -> None:
    """Not even if the record has them too."""
    if mode != "x":
        (release.bundle / "NOTES.md").chmod(int(mode, 8))

    def change(document: Any) -> None:
        document["files"]["NOTES.md"]["mode"] = mode

    release.edit("release.json", change)
    _sum_anew(release)
    release.sign()
    error = refused(release, fake_worker, ContradictoryRelease, "contradicts itself")
    assert "NOTES.md" in error.cause


def _sum_anew(release: Release) -> None:
    """Let SHA256SUMS have the digest of the present release.json."""
    sums = release.bundle / "SHA256SUMS"
    lines = sums.read_text().splitlines()
    lines = [line for line in lines if not line.endswith("  release.json")]
    lines.append(f"{digest_file(release.bundle / 'release.json')}  release.json")
    sums.write_text("".join(f"{line}\n" for line in sorted(lines, key=lambda line: line[66:])))


@pytest.mark.parametrize(
    ("directory", "mode"), [("models/small", 0o777), ("evidence", 0o775), ("", 0o1777)]
)
def test_directories_that_others_can_write_to(
    release: Release, fake_worker: FakeWorker, directory: str, mode: int
) -> None:
    """As an archive from elsewhere may have them. No signature covers these modes."""
    (release.bundle / directory).chmod(mode)
    error = refused(release, fake_worker, ModeMismatch, f"has mode {mode:04o}")
    assert f"chmod go-w {release.bundle / directory}" in error.hint


def test_the_group_may_write_to_the_directory_of_the_release(release: Release) -> None:
    """`mkdir` makes it so with the umask of many users."""
    release.bundle.chmod(0o2775)
    assert verify(release).exit_code == 0


@pytest.mark.parametrize("name", ["\udc80", "../x", "a\0b", "a//b", "/etc/x", ".git"])
def test_a_record_with_impossible_names(
    release: Release, fake_worker: FakeWorker, name: str
) -> None:
    """Without a signature anybody can have written them."""

    def add_file(document: Any) -> None:
        document["files"][name] = {"sha256": "0" * 64, "size": 1, "mode": "644"}

    options: dict[str, Any] = {"keys": (), "unsigned": True}
    before = (release.bundle / "release.json").read_bytes()
    release.edit("release.json", add_file)
    error = refused(release, fake_worker, ArtifactError, "record of the release", **options)
    assert "the name" in error.cause
    (release.bundle / "release.json").write_bytes(before)
    release.edit("release.json", lambda d: _row(d).update(target=f"small/{name}"))
    error = refused(release, fake_worker, ArtifactError, "record of the release", **options)
    assert "not the name of a target" in error.cause


def test_sums_of_other_bytes(release: Release, fake_worker: FakeWorker) -> None:
    (release.bundle / "SHA256SUMS").write_text("")
    release.sign()
    error = refused(release, fake_worker, ContradictoryRelease, "contradicts itself")
    assert "SHA256SUMS" in error.cause


def test_what_changes_during_the_comparison(release: Release, fake_worker: FakeWorker) -> None:
    fake_worker.during = lambda name, job: add(release, "models/late")
    with pytest.raises(ListingMismatch, match="never signed: 'models/late'"):
        verify(release)


def test_what_takes_the_name_of_the_release_is_not_looked_at(
    release: Release, fake_worker: FakeWorker
) -> None:
    def exchange(name: str, job: Any) -> None:
        if release.bundle.exists():
            release.bundle.rename(release.place / "aside")

    fake_worker.during = exchange
    report = verify(release)
    assert report.error is None


@pytest.mark.parametrize("way", WAYS)
def test_a_package_that_changes_all_the_time(
    release: Release, fake_worker: FakeWorker, tmp_path: Path, way: str
) -> None:
    """Only the signed bytes are ever given to a worker."""
    package = release.file("model.pt2")
    other = package.read_bytes().replace(b"pt2", b"EVL")
    given = []
    fake_worker.during = lambda name, job: given.append(Path(job.model).read_bytes())
    with changing(package, other, way, tmp_path / "new") as right:
        for _ in range(8):
            with contextlib.suppress(ArtifactError):
                report = verify(release, pattern="small/cpu")
                assert report.exit_code in (0, 4)
    assert set(given) <= {right}


def test_a_host_that_cannot_run_a_variant(
    release: Release, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(requires: Any, host: Any) -> list[str]:
        return answers.pop() if answers else []

    monkeypatch.setattr("aoti_build.host.compatibility.missing", missing)
    unfit = ["it needs another processor"]
    answers = [unfit]
    report = verify(release)
    verdicts = [row["verdict"] for row in report.as_json()["targets"]]
    assert verdicts == ["unavailable", "passed", "passed"]
    assert report.exit_code == 0
    answers = [unfit]
    assert verify(release, strict=True).exit_code == 3
    fake_worker.calls.clear()
    answers = [unfit, unfit, unfit]
    report = verify(release)
    assert fake_worker.calls == []
    assert report.exit_code == 3
    assert "this host can run none of its packages" in str(report.error)
    assert "it needs another processor" in str(report.error)


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REAL_PYTHON, "-m", "aoti_build", "verify", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_task_outside_of_any_project(release: Release, tmp_path: Path) -> None:
    flip(release.file("model.pt2"))
    words = ["--release", str(release.bundle), "--public-key", str(release.public), "--json"]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 4
    document = json.loads(done.stdout)
    assert document["error"]["kind"] == "signature"
    assert "ask whoever published" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("below", ["", "models"])
def test_modules_of_the_release_are_not_imported(
    release: Release, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    """They could shadow the library that verifies the signature."""
    monkeypatch.setattr("sys.path", [*sys.path, str(release.bundle / below)])
    refused(release, fake_worker, UsageError, "imports modules from the release")
    monkeypatch.setattr("sys.path", [*sys.path[:-1], ""])
    monkeypatch.chdir(release.bundle / below)
    refused(release, fake_worker, UsageError, "imports modules from the release")
    monkeypatch.chdir(release.place)
    assert verify(release).exit_code == 0


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--release", "x", "--fresh"], "--release and --fresh exclude each other"),
        (["--release", "x", "--file", "models.yaml"], "--release and --file"),
        (["--release", "x", "--public-key", ""], "--public-key names no file"),
        (
            ["--release", "BUNDLE", "--public-key", "KEY", "--min-version", ""],
            "'' is not a version",
        ),
        (["--min-version", ""], "--min-version is for releases"),
        (["--unsigned"], "--unsigned is for releases"),
        (["--public-key", "x"], "--public-key is for releases"),
        (["--revoked", ""], "--revoked is for releases"),
        (["--release", "x", "--public-key", "KEY", "--revoked", ""], "--revoked names no file"),
        (["--release", "x", "--public-key", "KEY", "--revoked", "nowhere"], "nowhere"),
        (["--release", "x", "--unsigned", "--revoked", "KEY"], "--unsigned and --revoked exclude"),
        (["--release", "x.tar.gz", "--unsigned"], "is an archive"),
        (["--release", "x", "--unsigned", "--html", "x/report.html"], "lies in the release"),
        (["--release", "x", "--unsigned", "--junit", "x/y/junit.xml"], "lies in the release"),
        (["--release", "x", "--unsigned"], "no release here"),
        (["--release", "", "--unsigned"], "--release names nothing"),
        (["--release", "x", "--public-key", "nowhere.pem"], "nowhere.pem"),
    ],
)
def test_wrong_command_lines(
    release: Release, tmp_path: Path, words: list[str], match: str
) -> None:
    places = {"KEY": str(release.public), "BUNDLE": str(release.bundle)}
    words = [places.get(word, word) for word in words]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert match in done.stderr


def revoked_list(place: Path, *lines: str) -> str:
    """A file with these lines that nobody else can write."""
    file = place / "no-longer-trusted"
    file.write_text("".join(f"{line}\n" for line in lines))
    file.chmod(0o600)
    return str(file)


def test_a_key_in_a_list_of_revoked_ones(release: Release, fake_worker: FakeWorker) -> None:
    file = revoked_list(release.place, "# stolen in May", digest_file(release.public))
    error = refused(release, fake_worker, RevokedKey, "was revoked", revoked=file)
    assert "signed with the present key" in (error.hint or "")
    others = revoked_list(release.place, "0" * 64)
    assert verify(release, revoked=others).error is None


def test_a_key_revoked_in_the_directory_of_keys(release: Release, fake_worker: FakeWorker) -> None:
    """Also beside a list that `--revoked` names."""
    keys = release.place / "keys"
    keys.mkdir(mode=0o700)
    shutil.copy(release.public, keys)
    (keys / "revoked").write_text(digest_file(release.public))
    options = {"keys": (str(keys),), "revoked": revoked_list(release.place, "0" * 64)}
    refused(release, fake_worker, RevokedKey, "was revoked", **options)


@pytest.mark.parametrize(
    ("line", "match"),
    [("my key", "is not 64 hex digits"), ("ab" * 31, "is not 64 hex digits")],
)
def test_a_list_of_revoked_keys_with_a_slip(
    release: Release, fake_worker: FakeWorker, line: str, match: str
) -> None:
    """A line that is not understood may be the key that matters."""
    file = revoked_list(release.place, line)
    error = refused(release, fake_worker, KeyFileError, match, revoked=file)
    assert f"{file}:1" in str(error)


def test_a_list_of_revoked_keys_that_proves_nothing(
    release: Release, fake_worker: FakeWorker
) -> None:
    """It is the release's own, or others could have emptied it."""
    own = revoked_list(release.bundle)
    refused(release, fake_worker, KeyFileError, "from the release itself", revoked=own)
    Path(own).unlink()
    open_to_all = revoked_list(release.place)
    Path(open_to_all).chmod(0o666)
    refused(release, fake_worker, KeyFileError, "others could have written", revoked=open_to_all)


EXAMINE = """
import sys
from pathlib import Path
from aoti_build.commands.verify_release import command
def compare(*_):
    heavy = {"torch", "torchvision", "numpy", "safetensors", "pydantic", "yaml"}
    print(sorted(heavy & set(sys.modules)))
    raise SystemExit
import aoti_build.commands.verify_release.run as last
last.compare_packages = compare
options = command.VerifyReleaseOptions(Path(sys.argv[1]), (sys.argv[2],))
command.verify_release(options)
"""


def test_all_before_the_packages_are_run_needs_no_torch(release: Release) -> None:
    words = [REAL_PYTHON, "-c", EXAMINE, str(release.bundle), str(release.public)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
