"""`run --release`: a receiver tries a release. Nothing is run before all of it is right.

What is run is what was signed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from exchanges import WAYS, changing
from packages import publish_package
from releases import MODELS, VERSION, Release, add, flip, make_release
from signers import write_private, write_public
from small_projects import RAN, REAL_PYTHON, FakeWorker

from aoti_build.artifact.bundle.signed import ContradictoryRelease, OldRelease
from aoti_build.artifact.manifest import MODEL
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.signing.refusals import (
    BadSignature,
    ListingMismatch,
    ModeMismatch,
    NoSignature,
    UnfitFiles,
    UnknownKey,
)
from aoti_build.commands.received.options import ReceiverOptions
from aoti_build.commands.run.command import run
from aoti_build.commands.run.release import run_release
from aoti_build.commands.run.report import RunReport
from aoti_build.common.digests import digest_file
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.messages import RunJob, RunRequest
from aoti_build.models_file import Project
from aoti_build.report.run_text import run_lines

MISMATCH = {
    **RAN,
    "passed": False,
    "verdicts": [{"name": "output", "ok": False, "why": "7 of 8 values differ"}],
}


@pytest.fixture
def jobs(fake_worker: FakeWorker) -> list[RunJob]:
    """The jobs that workers got."""
    found: list[RunJob] = []
    fake_worker.during = lambda _, job: found.append(job)
    return found


def receive(
    release: Release,
    *,
    keys: tuple[str, ...] | None = None,
    unsigned: bool = False,
    min_version: str | None = None,
    pattern: str = "",
    **options: Any,
) -> RunReport:
    """Run the release of a signer whose key is known."""
    if keys is None and not unsigned:
        keys = (str(release.public),)
    receiver = ReceiverOptions(
        directory=release.bundle,
        keys=keys or (),
        unsigned=unsigned,
        min_version=min_version,
        pattern=pattern,
    )
    return run_release(receiver, **options)


def refused(
    release: Release, worker: FakeWorker, error: type[Exception], match: str, **options: Any
) -> Any:
    """It is refused with this class, and no package was run."""
    with pytest.raises(error, match=match) as caught:
        receive(release, **options)
    assert type(caught.value) is error
    assert worker.calls == []
    assert "/proc/self" not in str(caught.value)
    if issubclass(error, ArtifactError):
        assert caught.value.exit_code == 4
    return caught.value


def test_a_good_release(release: Release, fake_worker: FakeWorker) -> None:
    report = receive(release)
    assert report.exit_code == 0
    document = json.loads(json.dumps(report.as_json()))
    names = [row["target"] for row in document["targets"]]
    assert names == ["other/cpu", "small/cpu", "small/cpu-fast"]
    assert {row["verdict"] for row in document["targets"]} == {"passed"}
    assert {row["eager_seconds"] for row in document["targets"]} == {None}
    assert document["format"] == "aoti-build/run"
    assert document["release"]["version"] == VERSION
    assert document["release"]["signer"]["name"] == "signer.pem"
    assert document["release"]["sha256"] == digest_file(release.bundle / "release.json")
    assert fake_worker.calls == ["run other", "run small", "run small"]
    text = "\n".join(run_lines(report))
    assert "signed by signer.pem" in text
    assert "small/cpu-fast on reference_data" in text


def test_workers_get_private_copies_and_no_sources(
    release: Release, fake_worker: FakeWorker
) -> None:
    seen = []

    def look(_: str, job: RunJob) -> None:
        for name, path in (("model.pt2", job.model), ("reference.safetensors", job.reference_data)):
            assert not path.startswith(str(release.place))
            assert digest_file(Path(path)) == digest_file(release.file(name, job.target.name))
        assert os.listdir(job.root) == []
        assert job.python_path == ()
        assert not job.has_sources
        seen.append(job.target.name)

    fake_worker.during = look
    receive(release, pattern="small")
    assert seen == ["small/cpu", "small/cpu-fast"]


def test_inputs_and_outputs_are_files_of_the_receiver(
    release: Release, jobs: list[RunJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.npz").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    report = receive(
        release,
        pattern="other",
        inputs=("mine.npz", "random", "reference_data"),
        output="out/{input}.npz",
        seed=7,
        repeat=3,
    )
    (job,) = jobs
    assert job.runs == (
        RunRequest("tensors", (str(tmp_path / "mine.npz"),), str(tmp_path / "out/mine.npz")),
        RunRequest("random", (), str(tmp_path / "out/random.npz")),
        RunRequest("reference_data", (), str(tmp_path / "out/reference_data.npz")),
    )
    assert (job.seed, job.repeat) == (7, 3)
    assert [run.source for run in report.targets[0].runs] == [
        ("mine.npz",),
        ("random",),
        ("reference_data",),
    ]


def test_an_image_needs_what_a_release_does_not_have(
    release: Release, fake_worker: FakeWorker, tmp_path: Path
) -> None:
    image = tmp_path / "cat.png"
    image.write_bytes(b"")
    report = receive(release, inputs=(str(image),), pattern="other")
    assert report.exit_code == 2
    assert fake_worker.calls == []
    assert "a release does not say how it becomes the input of other" in str(report.error)
    assert ".safetensors" in str(report.error)


def test_inputs_of_a_callable(tmp_path: Path, fake_worker: FakeWorker) -> None:
    tmp_path.chmod(0o700)
    declared = "    inputs: [{shape: [2, 4]}]\n"
    assert declared in MODELS
    models = MODELS.replace(declared, "    inputs: model.py:example\n")
    release = make_release(tmp_path / "made", models=models)
    fake_worker.calls.clear()
    report = receive(release, pattern="other", inputs=("random",))
    assert (report.exit_code, fake_worker.calls) == (2, [])
    assert "made by model.py:example, which is not in the release" in str(report.error)
    assert receive(release, pattern="other").exit_code == 0
    assert receive(release, pattern="small", inputs=("random",)).exit_code == 0


def test_outputs_do_not_change_the_release(release: Release, fake_worker: FakeWorker) -> None:
    for output in (release.bundle / "out.npz", release.bundle / "../bundle/{target}/out.npz"):
        refused(release, fake_worker, UsageError, "lies in the release", output=str(output))
    refused(release, fake_worker, UsageError, "3 targets would be written", output="out.npz")


def test_a_mismatch_is_told_to_the_receiver(release: Release, fake_worker: FakeWorker) -> None:
    fake_worker.answers["run"] = {"runs": [{"figures": MISMATCH}]}
    report = receive(release, pattern="other")
    assert report.exit_code == 3
    assert "mismatch on reference_data, 7 of 8 values differ" in str(report.error)
    assert "whoever published the release" in str(report.error)
    assert "invoke" not in str(report.error)


def test_unsigned_says_so(release: Release) -> None:
    (release.bundle / "model.sig").unlink()
    report = receive(release, unsigned=True)
    document: Any = report.as_json()
    assert document["release"]["signer"] is None
    assert "NOT SIGNED" in "\n".join(run_lines(report))


def test_unsigned_files_are_compared_with_the_record(
    release: Release, fake_worker: FakeWorker
) -> None:
    flip(release.file("model.pt2"))
    match = "changed since they were listed: 'models/small/cpu/model.pt2'"
    refused(release, fake_worker, ListingMismatch, match, unsigned=True)


def test_no_key_is_no_permission(
    release: Release, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "aoti_build.commands.received.examine.SYSTEM_KEYS", release.place / "nowhere"
    )
    refused(release, fake_worker, UsageError, "no key says", keys=())


def test_the_least_version(release: Release, fake_worker: FakeWorker) -> None:
    refused(release, fake_worker, OldRelease, "1.5 or later", min_version="1.5")
    assert receive(release, min_version="1.4").error is None


def _edit_manifest(release: Release) -> None:
    """The manifest has the right digest of itself."""
    path = "models/small/cpu/manifest.json"
    release.edit(path, lambda document: document["requires"].update(cpu_features=[]))


def _sign_by_another(release: Release) -> None:
    write_public(release.place / "mine.pem", write_private(release.place / "other.pem"))
    release.sign("other.pem")


def _forge(release: Release) -> None:
    document = json.loads((release.bundle / "model.sig").read_bytes())
    document["dsseEnvelope"]["signatures"][0]["sig"] = "AAAA"
    (release.bundle / "model.sig").write_text(json.dumps(document))


def _contradict(release: Release) -> None:
    """All is signed, and the record names another package."""
    release.edit("release.json", lambda document: document["targets"][0].update(size=1))
    release.list_anew()
    release.sign()


ATTACKS: dict[str, tuple[Callable[[Release], object], type[ArtifactError], str]] = {
    "package": (lambda r: flip(r.file("model.pt2")), ListingMismatch, "changed since"),
    "manifest": (_edit_manifest, ListingMismatch, "changed since"),
    "reference data": (
        lambda r: flip(r.file("reference.safetensors")),
        ListingMismatch,
        "reference.safetensors",
    ),
    "missing": (lambda r: r.file("verify.json").unlink(), ListingMismatch, "missing"),
    "stat cache": (lambda r: add(r, "models/.stat-cache.json"), ListingMismatch, "never signed"),
    "index": (lambda r: add(r, "models/.index.json"), ListingMismatch, "never signed"),
    "models.yaml": (lambda r: add(r, "models.yaml"), ListingMismatch, "never signed"),
    "module": (lambda r: add(r, "torch.py"), ListingMismatch, "never signed: 'torch.py'"),
    "git": (lambda r: add(r, ".git/config"), ListingMismatch, "never signed"),
    "empty directory": (lambda r: (r.bundle / "empty").mkdir(), ListingMismatch, "directories"),
    "pipe": (lambda r: os.mkfifo(r.bundle / "pipe"), UnfitFiles, "neither a regular file"),
    "mode": (lambda r: r.file("model.pt2").chmod(0o755), ModeMismatch, "released with 0644"),
    "no signature": (lambda r: (r.bundle / "model.sig").unlink(), NoSignature, "not signed"),
    "another key": (_sign_by_another, UnknownKey, "not trusted here"),
    "forged": (_forge, BadSignature, "is not valid"),
    "contradiction": (_contradict, ContradictoryRelease, "contradicts itself"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_not_as_it_was_signed(
    release: Release, fake_worker: FakeWorker, attack: str
) -> None:
    change, error, match = ATTACKS[attack]
    change(release)
    refused(release, fake_worker, error, match)


def test_what_changes_while_packages_are_run(release: Release, fake_worker: FakeWorker) -> None:
    fake_worker.during = lambda name, job: add(release, "models/late")
    with pytest.raises(ListingMismatch, match="never signed: 'models/late'"):
        receive(release)


def test_a_package_that_changes_before_its_turn(release: Release, fake_worker: FakeWorker) -> None:
    """It is never given to a worker, and the release is refused."""
    given = []

    def exchange(_: str, job: RunJob) -> None:
        given.append(job.target.name)
        flip(release.file("model.pt2"))

    fake_worker.during = exchange
    with pytest.raises(ListingMismatch, match="changed since they were signed"):
        receive(release, pattern="other,small/cpu")
    assert given == ["other/cpu"]


def test_a_package_that_changes_for_a_moment(release: Release, fake_worker: FakeWorker) -> None:
    """The receiver is not told to build anything."""
    changed = []

    def exchange(_: str, job: RunJob) -> None:
        flip(release.file("model.pt2"))
        changed.append(job.target.name)

    fake_worker.during = exchange
    report = receive(release, pattern="other,small")
    assert changed == ["other/cpu", "small/cpu-fast"]
    assert [row.verdict for row in report.targets] == ["passed", "failed", "passed"]
    assert report.exit_code == 4
    assert "model.pt2 does not match the manifest" in str(report.error)
    assert "whoever published the release" in str(report.error)
    assert "invoke" not in "\n".join([str(report.error), *run_lines(report)])


def test_what_takes_the_name_of_the_release_is_not_looked_at(
    release: Release, fake_worker: FakeWorker
) -> None:
    def exchange(_: str, job: RunJob) -> None:
        if release.bundle.exists():
            release.bundle.rename(release.place / "aside")

    fake_worker.during = exchange
    assert receive(release).error is None


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
                assert receive(release, pattern="small/cpu").exit_code in (0, 4)
    assert set(given) <= {right}


@pytest.mark.parametrize("way", WAYS)
def test_a_published_package_that_changes_all_the_time(
    project: Project, fake_worker: FakeWorker, tmp_path: Path, way: str
) -> None:
    """Only the bytes that the manifest lists are ever given to a worker."""
    (target,) = project.targets
    publish_package(project, target)
    package = artifact_directory(project, target) / MODEL
    other = package.read_bytes().replace(b"pt2", b"EVL")
    given = []
    fake_worker.during = lambda name, job: given.append(Path(job.model).read_bytes())
    with changing(package, other, way, tmp_path / "new") as right:
        for _ in range(8):
            assert run(project, project.targets).exit_code in (0, 4)
    assert set(given) <= {right}


def test_a_host_that_cannot_run_a_variant(
    release: Release, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[list[str]] = []

    def missing(requires: Any, host: Any) -> list[str]:
        return answers.pop() if answers else []

    monkeypatch.setattr("aoti_build.host.compatibility.missing", missing)
    unfit = ["it needs another processor"]
    answers[:] = [unfit]
    report = receive(release)
    assert [row.verdict for row in report.targets] == ["unavailable", "passed", "passed"]
    assert report.exit_code == 0
    fake_worker.calls.clear()
    answers[:] = [unfit, unfit, unfit]
    report = receive(release)
    assert (report.exit_code, fake_worker.calls) == (4, [])
    assert "it needs another processor" in str(report.error)
    assert "invoke" not in str(report.error)


def task(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [REAL_PYTHON, "-m", "aoti_build", "run", *words],
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
    done = task(*words, cwd=tmp_path)
    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["kind"] == "signature"
    assert "ask whoever published" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--release", "x", "--file", "models.yaml"], "--release and --file exclude each other"),
        (["--release", "x", "--artifacts", "y"], "--release and --artifacts"),
        (["--release", "x", "--public-key", ""], "--public-key names no file"),
        (["--release", "", "--unsigned"], "--release names nothing"),
        (["--unsigned"], "--unsigned is for releases"),
        (["--public-key", "x"], "--public-key is for releases"),
        (["--min-version", ""], "--min-version is for releases"),
        (["--release", "x.tar.gz", "--unsigned"], "is an archive"),
        (["--release", "x", "--unsigned", "--min-version", "1"], "exclude each other"),
        (["--release", "x", "--unsigned"], "no release here"),
        (["--release", "x", "--unsigned", "--input", "absent.npz"], "there is no file absent.npz"),
        (["--release", "x", "--unsigned", "--repeat", "0"], "--repeat 0 is not an integer"),
        (["--release", "BUNDLE", "--public-key", "KEY", "--target", "big"], "no target matches"),
    ],
)
def test_wrong_command_lines(
    release: Release, tmp_path: Path, words: list[str], match: str
) -> None:
    places = {"KEY": str(release.public), "BUNDLE": str(release.bundle)}
    done = task(*[places.get(word, word) for word in words], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert match in done.stderr


EXAMINE = """
import sys
from pathlib import Path
from aoti_build.commands.received.options import ReceiverOptions
from aoti_build.commands.run import release
def run_packages(*_):
    heavy = {"torch", "torchvision", "numpy", "safetensors", "pydantic", "yaml"}
    print(sorted(heavy & set(sys.modules)))
    raise SystemExit
release._run_packages = run_packages
release.run_release(ReceiverOptions(Path(sys.argv[1]), (sys.argv[2],)))
"""


def test_all_before_the_packages_are_run_needs_no_torch(release: Release) -> None:
    words = [REAL_PYTHON, "-c", EXAMINE, str(release.bundle), str(release.public)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
