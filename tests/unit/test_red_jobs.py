"""A task that fails looks like it, for every task and every exit code: the last lines on stderr say
what failed and what to do."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from invoke import Program
from small_projects import (
    CUDA_MODEL,
    FAILED_CASE,
    RAN,
    REPOSITORY,
    TWO_MODELS,
    FakeWorker,
    inv,
    publish_fake,
    write_project,
)

from aoti_build.artifact.bundle.record import (
    ReleaseFile,
    ReleaseRecord,
    Source,
    release_json,
)
from aoti_build.artifact.paths import artifact_directory
from aoti_build.errors import (
    AotiBuildError,
    BuildError,
    DirectoryError,
    Interrupted,
    NetworkError,
    ToolchainError,
)
from aoti_build.host import cuda, distributions
from aoti_build.host.checks.finding import Finding
from aoti_build.models_file import Project
from aoti_build.tasks import ns

COMMANDS = (REPOSITORY / "docs" / "reference" / "commands.md").read_text()


class World(NamedTuple):
    """What a scenario may change before the task runs."""

    project: Project
    worker: FakeWorker
    patch: pytest.MonkeyPatch


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


Setup = Callable[[World], object]


def nothing(world: World) -> None:
    pass


def published(world: World) -> None:
    for target in world.project.targets:
        publish_fake(world.project, target)


def damaged(world: World) -> None:
    published(world)
    (artifact_directory(world.project, world.project.targets[0]) / "model.pt2").write_bytes(b"")


def two_releases(world: World, files: Mapping[str, ReleaseFile] | None = None) -> None:
    """Two releases with no targets, in the directories old and new."""
    record = ReleaseRecord(
        name="shop",
        version="1",
        created="2026-01-02T03:04:05Z",
        aoti_build="1",
        source=Source(commit=None, dirty=False),
        targets=(),
        files=files or {},
    )
    for name in ("old", "new"):
        directory = world.project.root / name
        directory.mkdir()
        (directory / "release.json").write_text(json.dumps(release_json(record)))


def a_damaged_release(world: World) -> None:
    two_releases(world, {"evidence/sbom.cdx.json": ReleaseFile("0" * 64, 1, "644")})


def packages_of_releases(error: AotiBuildError) -> Setup:
    """Two releases whose packages cannot be called."""

    def setup(world: World) -> None:
        two_releases(world)

        def refuse(*_: Any) -> None:
            raise error

        world.patch.setattr("aoti_build.commands.release_diff.opened.open_side", refuse)

    return setup


def outdated(world: World) -> None:
    published(world)
    (world.project.root / "model.py").write_text("changed = True\n")


def worker_fails(world: World) -> None:
    published(world)
    for job in ("build", "check", "run", "measure", "bench"):
        world.worker.answers[job] = BuildError("it broke", hint="mend it")


def build_fails(world: World) -> None:
    world.worker.answers["build"] = BuildError("it broke", cause="because", hint="mend it")


def toolchain_fails(world: World) -> None:
    world.worker.answers["build"] = ToolchainError("the compiler broke")


def mismatch(world: World) -> None:
    published(world)
    world.worker.answers["check"] = {"passed": False, "cases": [FAILED_CASE]}
    output: Any = FAILED_CASE["outputs"]
    figures = {**RAN, "passed": False, "verdicts": [{**output[0]}]}
    world.worker.answers["run"] = {"runs": [{"figures": figures}]}


def interrupted(world: World) -> None:
    published(world)
    for job in ("build", "check", "run", "measure", "bench"):
        world.worker.answers[job] = Interrupted("interrupted")


def interrupted_build(world: World) -> None:
    world.worker.answers["build"] = Interrupted("interrupted")


def no_torch(world: World) -> None:
    real = distributions.version_of
    world.patch.setattr(
        distributions, "version_of", lambda name: None if name == "torch" else real(name)
    )


def no_temporary_directory(world: World) -> None:
    published(world)

    def refuse() -> Path:
        raise DirectoryError("the temporary directory is unfit", hint="set TMPDIR")

    commands = (f"commands.{name}.command" for name in ("verify", "run", "bench"))
    for module in (*commands, "work.opened"):
        world.patch.setattr(f"aoti_build.{module}.temporary_directory", refuse)


def no_room(world: World) -> None:
    published(world)

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    world.patch.setattr("aoti_build.work.opened.write_at", refuse)
    world.patch.setattr("aoti_build.work.opened.clone", lambda *_: False)


def a_failed_check(world: World) -> None:
    finding = Finding("compiler", "fail", "g++ is not installed", fix="install it", stops=True)
    world.patch.setattr("aoti_build.commands.doctor.command.quick_checks", lambda *_: [finding])


def a_file_in_the_way(world: World) -> None:
    published(world)
    (world.project.root / "out").write_text("")


def a_link_in_the_way(world: World) -> None:
    model = world.project.artifacts / "small"
    world.project.artifacts.mkdir()
    model.symlink_to(world.project.root)


def a_foreign_release(world: World) -> None:
    (world.project.root / "release.json").write_text("{}")


def registry(answer: bytes | AotiBuildError) -> Setup:
    """A registry that has this manifest at each address, or ends with the error."""

    class Pretended:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def manifest(self, _: str) -> bytes:
            if isinstance(answer, AotiBuildError):
                raise answer
            return answer

    def setup(world: World) -> None:
        for module in ("release.push", "release.pull"):
            world.patch.setattr(f"aoti_build.commands.{module}.Registry", Pretended)
        for function in ("read_record", "require_recorded", "manifest_bytes"):
            world.patch.setattr(f"aoti_build.commands.release.push.{function}", lambda *_: b"")

    return setup


def no_stdout(world: World) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    world.patch.setattr(sys, "stdout", Full())
    world.patch.setattr("aoti_build.tasks.answer._discard_output", lambda stream: None)


class Row(NamedTuple):
    words: str
    code: int
    setup: Setup
    said: str
    text: str = ""  # models.yaml, if not that of one model


ADDRESS = "oci://localhost:1/models:1"
RELEASE = "release --version 1 --out out --allow-dirty"
ROWS = [
    Row("build", 1, build_fails, "1 of 1 target failed: small/cpu"),
    Row("build", 1, build_fails, "2 of 2 targets failed: first/cpu, second/cpu", TWO_MODELS),
    Row("build --strict", 1, nothing, "1 of 1 target failed: small/cuda", CUDA_MODEL),
    Row("build --jobs x", 2, nothing, "--jobs x"),
    Row("build --target x", 2, nothing, "x"),
    Row("build --check", 3, nothing, "1 of 1 target is not up to date: small/cpu"),
    Row("build --check", 3, outdated, "source-changed: model.py"),
    Row("build --check --strict", 3, nothing, "small/cuda", CUDA_MODEL),
    Row("build", 5, toolchain_fails, "the compiler broke"),
    Row("build", 5, no_torch, "torch is not installed"),
    Row("build", 130, interrupted_build, "interrupted"),
    Row("verify --runtime x", 2, nothing, "--runtime x"),
    Row("verify", 3, nothing, "1 of 1 artifact failed: small/cpu"),
    Row("verify", 3, mismatch, "small/cpu: mismatch, output in case example"),
    Row("verify --strict", 3, outdated, "out of date, source-changed: model.py"),
    Row("verify --strict", 3, nothing, "small/cuda: unavailable", CUDA_MODEL),
    Row("verify", 4, damaged, "small/cpu: refused"),
    Row("verify", 5, no_temporary_directory, "the temporary directory is unfit"),
    Row("verify", 130, interrupted, "interrupted"),
    Row("run --seed x", 2, nothing, "--seed x"),
    Row("run", 3, nothing, "small/cpu: there is no artifact"),
    Row("run", 3, mismatch, "small/cpu: mismatch on"),
    Row("run", 4, damaged, "small/cpu"),
    Row("run", 4, nothing, "small/cuda: this host has no cuda device", CUDA_MODEL),
    Row("run", 5, no_temporary_directory, "the temporary directory is unfit"),
    Row("run", 130, interrupted, "interrupted"),
    Row("tune", 1, build_fails, "1 of 1 target failed"),
    Row("bench-history", 2, nothing, "no history is kept for this project"),
    Row("tune --band 0", 2, nothing, "--band 0"),
    Row("tune", 5, toolchain_fails, "the compiler broke"),
    Row("tune", 130, interrupted_build, "interrupted"),
    Row("bench --ways x", 2, nothing, "--ways x"),
    Row("bench --against absent", 2, published, "absent is no directory of artifacts"),
    Row("bench", 3, nothing, "small/cpu: there is no artifact"),
    Row("bench", 3, outdated, "out of date: source-changed: model.py"),
    Row("bench", 3, worker_fails, "small/cpu: the artifact could not be measured"),
    Row("bench --strict", 3, nothing, "small/cuda: unavailable", CUDA_MODEL),
    Row("bench", 4, damaged, "does not match the manifest"),
    Row("bench", 5, no_temporary_directory, "the temporary directory is unfit"),
    Row("bench", 130, interrupted, "interrupted"),
    Row("export out", 2, a_file_in_the_way, "out is a file or a link"),
    Row("export artifacts/out", 2, published, "among the artifacts"),
    Row("export out", 3, nothing, "small/cpu: there is no artifact"),
    Row("export out", 3, outdated, "source-changed: model.py"),
    Row("export out", 3, nothing, "small/cuda: this host cannot tell", CUDA_MODEL),
    Row("export out", 4, damaged, "the artifact is damaged: model.pt2"),
    Row("export out", 5, no_room, "there is no place for a copy"),
    Row("release", 2, nothing, "a release needs a version and a directory"),
    Row(f"{RELEASE} --sign model.py", 2, published, "model.py"),
    Row(RELEASE, 1, build_fails, "small/cpu"),
    Row(RELEASE, 3, mismatch, "small/cpu: mismatch, output in case example"),
    Row(f"{RELEASE} --previous release.json", 4, a_foreign_release, "cannot be read"),
    Row(RELEASE, 5, no_temporary_directory, "the temporary directory is unfit"),
    Row(RELEASE, 130, interrupted, "interrupted"),
    Row("release-push . somewhere", 2, nothing, "somewhere"),
    Row(f"release-push . {ADDRESS}", 4, a_foreign_release, "cannot be read"),
    Row(f"release-push . {ADDRESS}", 5, registry(NetworkError("gone", hint="wait")), "gone"),
    Row(f"release-push . {ADDRESS}", 130, registry(Interrupted("interrupted")), "interrupted"),
    Row("release-pull somewhere --out out", 2, nothing, "somewhere"),
    Row(f"release-pull {ADDRESS} --out out", 4, registry(b"{}"), "manifest"),
    Row(
        f"release-pull {ADDRESS} --out out", 5, registry(NetworkError("gone", hint="wait")), "gone"
    ),
    Row(
        f"release-pull {ADDRESS} --out out",
        130,
        registry(Interrupted("interrupted")),
        "interrupted",
    ),
    Row("report --out .", 2, nothing, "is a directory"),
    Row("report", 5, no_torch, "torch is not installed"),
    Row("release-diff absent absent", 2, nothing, "absent has no release.json"),
    Row(
        "release-diff old new --strict --fail-if libraries>0",
        3,
        two_releases,
        "1 of 1 limit could not be decided: libraries>0",
    ),
    Row("release-diff old new", 4, a_damaged_release, "the release is damaged"),
    Row(
        "release-diff old new --run --unsigned",
        5,
        packages_of_releases(DirectoryError("the disk is unfit", hint="set TMPDIR")),
        "the disk is unfit",
    ),
    Row(
        "release-diff old new --run --unsigned",
        130,
        packages_of_releases(Interrupted("interrupted", hint="start it again")),
        "interrupted",
    ),
    Row("status --file absent.yaml", 2, nothing, "absent.yaml"),
    Row("status --check", 3, outdated, "1 of 1 target is not up to date: small/cpu"),
    Row("status", 5, no_torch, "torch is not installed"),
    Row("why --target x", 2, nothing, "x"),
    Row("why", 5, no_torch, "torch is not installed"),
    Row("inspect --target small --path a.pt2", 2, nothing, "--target and --path"),
    Row("inspect", 3, nothing, "1 of 1 artifact is missing: small/cpu"),
    Row("inspect", 4, damaged, "1 of 1 artifact is refused: small/cpu"),
    Row("inspect --path model.py", 4, nothing, "  cause: model.py: not a zip archive"),
    Row("inspect --path absent.pt2", 2, nothing, "there is no file absent.pt2"),
    Row("inspect --diff absent.pt2 --path model.py", 2, nothing, "there is no file absent.pt2"),
    Row("status --artifacts model.py", 2, nothing, "--artifacts model.py is not a directory"),
    Row("inspect --diff model.py --path model.py", 4, nothing, "model.py"),
    Row("clean --target small", 2, a_link_in_the_way, "is a symbolic link"),
    Row("gc", 2, nothing, "gc needs a limit"),
    Row("doctor --device x", 2, nothing, "--device x"),
    Row("doctor", 5, a_failed_check, "1 of 3 checks failed: compiler"),
    Row("ci-cache --file absent.yaml", 2, nothing, "absent.yaml"),
    Row("ci-cache", 5, no_torch, "torch is not installed"),
    Row("schema --output .", 2, nothing, "is a directory"),
    Row("init --file models.txt", 2, nothing, "does not end in .yaml"),
    Row("version", 5, no_stdout, "stdout cannot be written to"),
]
IDS = [f"{row.words} {row.code} {row.setup.__name__}" for row in ROWS]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: ())


@pytest.fixture
def start(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[[Row, str], Ended]:
    """Run a row's task by invoke itself, in this process, with a pretended worker."""

    def run(row: Row, more: str = "") -> Ended:
        root = tmp_path / "project"
        project = write_project(root, row.text) if row.text else write_project(root)
        with pytest.MonkeyPatch.context() as patch:
            row.setup(World(project, fake_worker, patch))
            return in_process(f"{row.words} {more}", root, monkeypatch, capsys)

    return run


def in_process(words: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Ended:
    monkeypatch.chdir(root)
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    code = 0
    try:
        Program(name="Invoke", binary="inv").run(["inv", *words.split()])
    except SystemExit as ended:
        code = int(ended.code or 0)
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    captured = capsys.readouterr()
    return Ended(code, captured.out, captured.err)


@pytest.mark.parametrize("row", ROWS, ids=IDS)
def test_the_last_lines_say_what_failed_and_what_to_do(
    row: Row, start: Callable[..., Ended]
) -> None:
    ended = start(row)
    assert ended.code == row.code, ended.stderr
    block = last_block(ended.stderr)
    assert row.said in block
    assert "Traceback" not in ended.stderr + ended.stdout
    hint = block.partition("  next:  ")[2]
    assert hint, "the error says what to do next"
    for task in re.findall(r"invoke (?:--help )?([a-z][a-z-]*)", hint):
        assert task in ns.tasks, task
    # Where the command line is right, the next step is a command. What others made they must mend.
    is_foreign = "--path" in row.words or row.words.startswith(("release-push", "release-pull"))
    if row.code in (1, 3, 4) and not is_foreign:
        assert re.search(r"`?invoke [a-z-]+", hint), hint


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.setup is not no_stdout and row.words.split()[0] != "schema"],
    ids=lambda row: f"{row.words}, {row.code}",
)
def test_the_document_has_the_same_error(row: Row, start: Callable[..., Ended]) -> None:
    ended = start(row, "--json")
    assert ended.code == row.code, ended.stderr
    document = json.loads(ended.stdout)
    assert document["ok"] is False
    assert document["aoti_build"]
    error = document["error"]
    said = last_block(ended.stderr)
    assert error["hint"].splitlines()[0] in said
    assert error["message"].splitlines()[0] in said or error["kind"] == "spec"


def test_every_exit_code_of_every_task_has_a_row() -> None:
    section = COMMANDS.partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    documented = {
        task: {int(code) for code in codes.split(",")}
        for task, codes in re.findall(r"^\| `([\w-]+)` \| ([\d, ]+) \|$", section, re.M)
    }
    assert set(documented) == set(ns.tasks)
    tested: dict[str, set[int]] = {task: set() for task in ns.tasks}
    for row in ROWS:
        tested[row.words.split()[0]].add(row.code)
    assert documented == {task: {0, *codes} for task, codes in tested.items()}


def test_many_targets_are_named_by_a_handful_and_a_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    models = "".join(
        f"  m{number}: {{source: model.py:build, inputs: [{{shape: [2, 4]}}]}}\n"
        for number in range(8)
    )
    write_project(tmp_path, f"version: 1\nmodels:\n{models}")
    ended = in_process("status --check", tmp_path, monkeypatch, capsys)
    assert (
        "8 of 8 targets are not up to date: m0/cpu, m1/cpu, m2/cpu, m3/cpu, m4/cpu and 3 more"
        in (ended.stderr)
    )
    assert "`invoke build`" in ended.stderr


def test_the_line_of_totals_counts_what_strict_refuses(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    project = write_project(tmp_path)
    outdated(World(project, fake_worker, monkeypatch))
    ended = in_process("verify --strict", tmp_path, monkeypatch, capsys)
    assert ended.stdout.splitlines()[-1] == (
        "1 artifact: 1 passed (out of date); 1 failed by --strict"
    )
    assert in_process("verify", tmp_path, monkeypatch, capsys).code == 0


@pytest.mark.parametrize("words", ["status --check", "build --check", "build --check --json"])
def test_check_is_green_if_there_is_nothing_to_build(project: Project, words: str) -> None:
    publish_fake(project)
    answer = inv(*words.split(), cwd=project.root)
    assert (answer.returncode, answer.stderr) == (0, "")


def test_check_builds_nothing(project: Project) -> None:
    answer = inv("build", "--check", cwd=project.root)
    assert answer.returncode == 3
    assert not artifact_directory(project, project.targets[0]).exists()


def test_a_device_that_this_host_lacks_is_nothing_to_build(tmp_path: Path) -> None:
    project = write_project(tmp_path, CUDA_MODEL)
    shutil.rmtree(project.artifacts, ignore_errors=True)
    assert inv("build", "--check", cwd=tmp_path, CUDA_VISIBLE_DEVICES="").returncode == 0


@pytest.mark.parametrize("words", ["build", "verify", "run"])
def test_quiet_prints_no_progress(
    words: str,
    tmp_path: Path,
    fake_worker: FakeWorker,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    project = write_project(tmp_path)
    if words != "build":
        publish_fake(project)
    loud = in_process(words, tmp_path, monkeypatch, capsys)
    assert (loud.code, "small/cpu" in loud.stderr) == (0, True)
    if words == "build":
        (tmp_path / "model.py").write_text("changed = True\n")
    quiet = in_process(f"{words} --quiet", tmp_path, monkeypatch, capsys)
    assert (quiet.code, quiet.stderr) == (0, "")
    assert "small/cpu" in quiet.stdout


def test_quiet_keeps_errors_and_warnings(
    tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write_project(tmp_path)
    warning = Finding("memory", "fail", "there is little memory")
    monkeypatch.setattr("aoti_build.work.host_checks.quick_checks", lambda *_, **__: [warning])
    fake_worker.answers["build"] = BuildError("it broke")
    ended = in_process("build --quiet", tmp_path, monkeypatch, capsys)
    first, *rest = ended.stderr.splitlines()
    assert "warning: memory: there is little memory" in first
    assert rest[0].startswith("error: ")


def last_block(stderr: str) -> str:
    """The error at the end of stderr, which is the only one there."""
    lines = stderr.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if not starts:  # problems of a models.yaml stand at their places
        return stderr
    assert len(starts) == 1, stderr
    block = lines[starts[0] :]
    assert all(line.startswith("  ") for line in block[1:]), stderr
    return "\n".join(block)
