"""`release-diff`: what changed from one release to the next, and the limits that make it fail."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from history_records import record as bench_record
from reference_files import case, reference_file, sketched, tensor
from small_projects import (
    REPOSITORY,
    TWO_MODELS,
    FakeWorker,
    bare,
    contents,
    publish_fake,
    write_project,
)

from aoti_build.artifact.manifest import MODEL, REFERENCE_DATA, FileRecord, read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.release.changes import ChangeKind, Content
from aoti_build.commands.release.command import ReleaseOptions, release
from aoti_build.commands.release_diff.command import release_diff
from aoti_build.commands.release_diff.drift import OutputDrift
from aoti_build.commands.release_diff.limits import parse_policy
from aoti_build.commands.release_diff.report import ReleaseDiff, TargetDiff
from aoti_build.common.digests import digest_bytes, digest_file
from aoti_build.errors import ArtifactError, ExitCode, UsageError, VerificationError
from aoti_build.measurement.record import Base, ComparisonRecord, Machine, Metric, write_bench
from aoti_build.models_file import Project
from aoti_build.report.release_diff_markdown import release_diff_markdown
from aoti_build.report.release_diff_text import release_diff_lines

OUTPUT = "example/output/0"
DATA = reference_file({OUTPUT: tensor(1.0, 2.0, 2.0)})
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def two(tmp_path: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Two targets, both up to date, with reference data that can be read."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1767323045")
    project = write_project(tmp_path / "project", TWO_MODELS)
    for index in (0, 1):
        publish(project, index)
    return project


def publish(
    project: Project, index: int = 0, code: bytes = b"code", data: bytes = DATA, **changes: Any
) -> None:
    """Publish an artifact of the target at `index` with this package and reference data."""
    target = project.targets[index]
    publish_fake(project, target, **changes)
    directory = artifact_directory(project, target)
    (directory / MODEL).write_bytes(code)
    (directory / REFERENCE_DATA).write_bytes(data)
    manifest: Any = read_manifest(directory)
    files = {name: FileRecord.of(directory / name) for name in (MODEL, REFERENCE_DATA)}
    replace(manifest, files=files).write(directory)


def made(project: Project, name: str, targets: slice = slice(None), *, previous: str = "") -> str:
    """A release with the version `name`, as a directory."""
    out = project.root / name
    options = ReleaseOptions(version=name, directory=str(out), allow_dirty=True, previous=previous)
    report = release(project, project.targets[targets], options)
    assert report.error is None, report.error
    return str(out)


def compared(project: Project, limits: str = "", **changes: Any) -> ReleaseDiff:
    """The difference between a release, and one in which the first target was published anew."""
    old = made(project, "1")
    publish(project, 0, **changes)
    return release_diff(old, made(project, "2"), parse_policy(limits))


def first(diff: ReleaseDiff) -> TargetDiff:
    return diff.targets[0]


def moved(old: bytes, new: bytes, project: Project) -> OutputDrift:
    """The drift of the only output of the first target."""
    publish(project, 0, data=old)
    target = first(compared(project, code=b"other", data=new))
    assert target.drift is not None
    (output,) = target.drift.outputs
    return output


def edited(directory: str, path: str, change: Edit) -> None:
    """Change a JSON file of a release, and its digest in `release.json`."""
    file = Path(directory) / path
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    accepted(directory, path)


def accepted(directory: str, path: str) -> None:
    """Write the digest of a file that was changed into `release.json`."""
    record = Path(directory) / "release.json"
    document = json.loads(record.read_text())
    document["files"][path]["sha256"] = digest_file(Path(directory) / path)
    record.write_text(json.dumps(document))


def text_of(diff: ReleaseDiff) -> str:
    return "\n".join(release_diff_lines(diff))


def test_equal_releases_differ_in_nothing(two: Project) -> None:
    diff = release_diff(made(two, "1"), made(two, "2"), parse_policy("changed>0,drift>0,size>1"))
    assert [target.change.kind for target in diff.targets] == [ChangeKind.SAME, ChangeKind.SAME]
    assert (diff.error, diff.toolchain, diff.libraries, diff.licences) == (None, (), (), ())
    assert [first(diff).size, first(diff).drift and first(diff).drift.skipped] == [1.0, ()]
    assert "2 targets: 2 same" in text_of(diff)
    assert "- 2 targets are the same, byte by byte" in release_diff_markdown(diff)


def test_targets_that_were_added_and_removed(two: Project) -> None:
    old, new = made(two, "1", slice(1)), made(two, "2", slice(1, 2))
    diff = release_diff(old, new, parse_policy("added>0,removed>1"))
    kinds = {target.name: target.change.kind for target in diff.targets}
    assert kinds == {"first/cpu": ChangeKind.REMOVED, "second/cpu": ChangeKind.ADDED}
    assert [found.verdict for found in diff.judgements] == ["failed", "passed"]
    assert "- first/cpu: removed\n- second/cpu: added" in release_diff_markdown(diff)


@pytest.mark.parametrize(
    ("changes", "content"),
    [
        ({}, Content.BYTES),
        ({"key": "1" * 64}, Content.WEIGHTS),
        ({"key": "1" * 64, "graph_key": "2" * 64}, Content.CODE),
    ],
    ids=["bytes", "weights", "code"],
)
def test_what_of_a_package_changed(two: Project, changes: Any, content: Content) -> None:
    diff = compared(two, code=b"other", **changes)
    assert (first(diff).change.kind, first(diff).change.content) == (ChangeKind.CHANGED, content)
    assert f"changed: {content}" in text_of(diff)


def test_why_it_changed(two: Project) -> None:
    old = made(two, "1")
    (two.root / "helper.py").write_text("def module(width): return width\n")
    publish(two, 0, code=b"other", key="1" * 64, graph_key="2" * 64)
    publish(two, 1)
    diff = release_diff(old, made(two, "2"))
    assert first(diff).change.groups == ("sources",)
    assert [str(reason.what) for reason in first(diff).reasons] == ["helper.py"]
    assert "first/cpu: since these differ: source files\n  source-changed: helper.py" in text_of(
        diff
    )


def test_records_alone_say_what_changed_but_not_how_outputs_moved(two: Project) -> None:
    old = made(two, "1")
    publish(two, 0, code=b"other")
    new = made(two, "2")
    diff = release_diff(f"{old}/release.json", f"{new}/release.json", parse_policy("drift>0"))
    assert first(diff).change.kind == ChangeKind.CHANGED
    assert first(diff).drift is None
    assert diff.as_json()["libraries"] is None
    assert [found.verdict for found in diff.judgements] == ["unknown"]
    assert sum("only the record of" in note for note in diff.notes) == 2


def test_the_toolchain_by_its_facts(two: Project) -> None:
    old, new = made(two, "1"), made(two, "2")

    def change(document: dict[str, Any]) -> None:
        for target in document["targets"]:
            target["toolchain"]["torch"] = "99.0"

    edited_record(new, change)
    (fact,) = release_diff(old, new).toolchain
    assert (fact.name, fact.new) == ("torch", "99.0")
    assert fact.targets == ("first/cpu", "second/cpu")
    assert "99.0" in text_of(release_diff(old, new))


def edited_record(directory: str, change: Edit) -> None:
    record = Path(directory) / "release.json"
    document = json.loads(record.read_text())
    change(document)
    record.write_text(json.dumps(document))


def test_libraries_and_licences(two: Project) -> None:
    old, new = made(two, "1"), made(two, "2")
    libraries = [
        {"type": "library", "name": "torch", "version": "99"},
        {"type": "library", "name": "gone", "version": "1", "licenses": [{"expression": "MIT"}]},
        {"type": "machine-learning-model", "name": "first/cpu"},
    ]
    later = [
        {
            "type": "library",
            "name": "torch",
            "version": "100",
            "licenses": [{"license": {"id": "GPL"}}],
        }
    ]
    for directory, components in ((old, libraries), (new, later)):
        edited(directory, "evidence/sbom.cdx.json", lambda bill, c=components: bill.update(
            components=c
        ))  # fmt: skip
    diff = release_diff(old, new, parse_policy("libraries>1,licences>5"))
    rows = [(change.name, change.old, change.new) for change in diff.libraries]
    assert rows == [("gone", "1", None), ("torch", "99", "100")]
    rows = [(change.name, change.old, change.new) for change in diff.licences]
    assert rows == [("gone", "MIT", None), ("torch", None, "GPL")]
    assert [found.verdict for found in diff.judgements] == ["failed", "passed"]
    assert "torch 99 -> 100" in text_of(diff)
    assert "| torch | 99 | 100 |" in release_diff_markdown(diff)


def test_a_bill_that_cannot_be_read_is_unknown(two: Project) -> None:
    old, new = made(two, "1"), made(two, "2")
    (Path(new) / "evidence/sbom.cdx.json").write_text("{}")
    accepted(new, "evidence/sbom.cdx.json")
    diff = release_diff(old, new, parse_policy("libraries>0"))
    assert (diff.has_bills, diff.judgements[0].verdict) == (False, "unknown")


def test_drift_is_relative_to_the_old_output(two: Project) -> None:
    output = moved(DATA, reference_file({OUTPUT: tensor(1.0, 2.0, 2.3)}), two)
    assert output.relative_rmse == pytest.approx(0.1)  # 0.3 of a norm of 3
    assert output.max_abs == pytest.approx(0.3, rel=1e-6)
    assert (output.case, output.output) == ("example", "output")
    assert (output.differing, output.count, output.estimated) == (1, 3, False)


def test_an_output_that_was_zero(two: Project) -> None:
    output = moved(reference_file({OUTPUT: tensor(0.0)}), reference_file({OUTPUT: tensor(4)}), two)
    assert (output.relative_rmse, output.max_abs) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (tensor(1.5, 2.0), tensor(1.5, 2.0, dtype="F16")),
        (tensor(1, 0, dtype="BOOL"), tensor(1, 0, dtype="I64")),
        (tensor(1.5, -2.0), ("BF16", [2], b"\xc0\x3f\x00\xc0")),
        (tensor(float("nan"), float("inf")), tensor(float("nan"), float("inf"), dtype="F64")),
    ],
    ids=["half", "bool", "bfloat16", "nonfinite"],
)
def test_equal_values_of_other_dtypes_did_not_move(two: Project, old: Any, new: Any) -> None:
    output = moved(reference_file({OUTPUT: old}), reference_file({OUTPUT: new}), two)
    assert (output.why, output.relative_rmse, output.differing) == (None, 0.0, 0)


def test_nan_at_another_place_is_above_every_limit(two: Project) -> None:
    new = reference_file({OUTPUT: tensor(1.0, float("nan"), 2.0)})
    diff = compared(two, "drift>1e9", code=b"other", data=new)
    assert first(diff).drift.worst.nonfinite  # type: ignore[union-attr]
    assert diff.judgements[0].why == (
        "first/cpu, example, output: NaN or infinities are at other places",
    )


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (reference_file({OUTPUT: tensor(1.0, 2.0)}), "its shape was [3] and is [2]"),
        (
            reference_file({OUTPUT: ("F8_E4M3", [3], b"abc")}),
            "values of F32 and F8_E4M3 cannot be read here",
        ),
        (reference_file({OUTPUT: tensor(1e300, 1, 1, dtype="F64")}), "too large"),
        (reference_file({}, {"example": case(plain={"0": "None"})}), "a tensor in one release"),
        (
            reference_file(**sketched(1.0, 2.0, rms=1.0, digest="a")),
            "one release has only a summary of it",
        ),
    ],
    ids=["shape", "float8", "large", "plain", "sketch"],
)
def test_outputs_that_cannot_be_compared_say_why(two: Project, new: bytes, why: str) -> None:
    output = moved(DATA, new, two)
    assert why in (output.why or "")
    assert output.relative_rmse is None


def test_summaries_of_large_outputs_are_compared(two: Project) -> None:
    old = reference_file(**sketched(10.0, 20.0, rms=1.0, digest="a"))
    new = reference_file(**sketched(10.0, 21.0, rms=1.0, digest="b"))
    output = moved(old, new, two)
    assert output.relative_rmse == pytest.approx((1 / 1000) ** 0.5)
    assert (output.max_abs, output.estimated, output.differing) == (1.0, True, None)


def test_plain_outputs(two: Project) -> None:
    texts = [reference_file({}, {"example": case(plain={"0": text})}) for text in ("2.0", "3.0")]
    assert moved(texts[0], texts[1], two).relative_rmse == 0.5


def test_only_cases_with_equal_inputs_are_compared(two: Project) -> None:
    names = ("same", "other", "removed")
    old = {name: case(inputs=name) for name in names}
    new = {"same": case(inputs="same"), "other": case(inputs="new"), "added": case()}
    tensors = {f"{name}/output/0": tensor(1.0) for name in (*names, "added")}
    publish(two, 0, data=reference_file(tensors, old))
    diff = compared(two, "drift>0", code=b"other", data=reference_file(tensors, new))
    drift = first(diff).drift
    assert drift is not None
    assert [output.case for output in drift.outputs] == ["same"]
    assert drift.skipped == (
        "other: the inputs differ",
        "added: only the new release has this case",
        "removed: only the old release has this case",
    )
    assert diff.judgements[0].verdict == "unknown"
    assert "first/cpu: not compared: outputs: other: the inputs differ" in text_of(diff)


def test_a_later_call_needs_equal_earlier_ones(two: Project) -> None:
    tensors = {f"{name}/output/0": tensor(1.0) for name in ("a", "b", "c")}

    def calls(inputs: str) -> Mapping[str, Any]:
        return {"a": case(inputs=inputs), "b": case(call=1), "c": case()}

    publish(two, 0, data=reference_file(tensors, calls("old")))
    diff = compared(two, data=reference_file(tensors, calls("new")), code=b"other")
    drift = first(diff).drift
    assert drift is not None
    assert [output.case for output in drift.outputs] == ["c"]
    assert drift.skipped[1] == "b: the inputs of an earlier call differ"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\x02\0\0\0\0\0\0\0{}",
        DATA[:-1],
        DATA.replace(b"[0, 12]", b"[0, 99]"),
        DATA.replace(b"[0, 12]", b"[4, 12]"),
        DATA.replace(b'\\"format_version\\": 4', b'\\"format_version\\": 3'),
    ],
    ids=["empty", "huge", "foreign", "short", "outside", "size", "version"],
)
def test_reference_data_that_cannot_be_read_is_no_error(two: Project, content: bytes) -> None:
    diff = compared(two, "drift>1", code=b"other", data=content)
    assert first(diff).drift.skipped[0].startswith("reference data cannot be read: ")  # type: ignore[union-attr]
    assert diff.judgements[0].verdict == "unknown"
    assert diff.error is None


def benchmark(project: Project, seconds: float, **changes: Any) -> None:
    """Put a measurement of the published package of the first target beside it."""
    directory = artifact_directory(project, project.targets[0])
    manifest: Any = read_manifest(directory)
    record = msgspec.structs.replace(
        bench_record(target="first/cpu", p50=(seconds,)),
        key=manifest.key,
        package_sha256=manifest.files[MODEL].sha256,
        **changes,
    )
    write_bench(directory / "bench.json", record)


def measured(project: Project, limits: str = "", **changes: Any) -> ReleaseDiff:
    benchmark(project, 0.001)
    old = made(project, "1")
    publish(project, 0, code=b"other")
    benchmark(project, 0.0015, **changes)
    return release_diff(old, made(project, "2"), parse_policy(limits))


def test_speed_of_the_same_machine_is_indicative(two: Project) -> None:
    diff = measured(two, "steady>1.2,first>1.2,memory>1.2")
    speed = first(diff).speed
    ratios = {ratio.metric: pytest.approx(ratio.ratio) for ratio in speed.ratios}
    assert ratios == {Metric.STEADY: 1.5, Metric.FIRST: 1.0, Metric.MEMORY: 1.0}
    assert not speed.side_by_side
    assert diff.judgements[0].verdict == "failed"
    assert "first/cpu, batch=2: 1.500 times" in diff.judgements[0].why[0]
    # The second target was not measured, so no limit passes for it.
    assert [found.verdict for found in diff.judgements][1:] == ["unknown", "unknown"]
    assert "Speed was not measured side by side" in text_of(diff)
    assert "Speed was not measured side by side" in release_diff_markdown(diff)


def test_speed_of_another_machine_is_not_compared(two: Project) -> None:
    machine = Machine(machine_class="other", facts={}, threads=1, cpus=(0,))
    speed = first(measured(two, machine=machine)).speed
    assert speed.ratios == ()
    assert "different machines: x86_64-avx2-2cpu and other" in (speed.why or "")


def test_speed_with_other_threads_is_not_compared(two: Project) -> None:
    machine = Machine(machine_class="x86_64-avx2-2cpu", facts={}, threads=2, cpus=(0, 1))
    assert "numbers of threads: 1 and 2" in (first(measured(two, machine=machine)).speed.why or "")


def test_a_base_that_is_the_old_package_was_measured_side_by_side(two: Project) -> None:
    found = ComparisonRecord(Metric.STEADY, "v1", 1.1, 1.05, 1.15, 8, 0.03, "worse")
    old_package = digest_bytes(b"code")
    base = Base("v1", "a" * 64, old_package, 4, (found,))
    machine = Machine(machine_class="other", facts={}, threads=1, cpus=(0,))
    diff = measured(two, machine=machine, base=base)
    speed = first(diff).speed
    assert (speed.side_by_side, [ratio.ratio for ratio in speed.ratios]) == (True, [1.1])
    assert "1.100 (1.050..1.150)" in text_of(diff)
    assert "indicative" not in text_of(diff)


def test_sizes(two: Project) -> None:
    diff = compared(two, "size>1.2", code=b"code" * 2)
    assert first(diff).size == 2
    assert diff.judgements[0].why == ("first/cpu: 2.000 times the size",)
    assert "4 B -> 8 B (+100.0 %)" in text_of(diff)


def test_a_limit_that_is_exceeded_ends_with_3_and_says_which(two: Project) -> None:
    data = reference_file({OUTPUT: tensor(1.0, 2.0, 2.3)})
    diff = compared(two, "size>1.1,drift>1e-3,removed>0", code=b"code" * 2, data=data)
    error = diff.error
    assert isinstance(error, VerificationError)
    assert diff.exit_code == ExitCode.VERIFICATION_FAILED
    assert error.message == "2 of 3 limits failed: size>1.1, drift>0.001"
    assert "drift>0.001: first/cpu, example, output: a relative error of 0.1" in str(error)
    assert error.hint is not None


def test_strict_also_fails_for_what_is_unknown(two: Project) -> None:
    old, new = made(two, "1"), made(two, "2")
    assert release_diff(old, new, parse_policy("steady>1")).error is None
    strict = release_diff(old, new, parse_policy("steady>1", strict=True))
    assert strict.error is not None
    assert strict.error.message == "1 of 1 limit could not be decided: steady>1"


@pytest.mark.parametrize(
    "text", ["size", "size>", "size>-1", "speed>1", "size>1,size>2", "size>1e999"]
)
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--fail-if"):
        parse_policy(text)


def test_a_damaged_file_is_refused(two: Project) -> None:
    old, new = made(two, "1"), made(two, "2")
    file = Path(new) / "models/first/cpu/reference.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(ArtifactError, match="the release is damaged") as caught:
        release_diff(old, new)
    assert caught.value.where == str(file)
    file.unlink()
    with pytest.raises(ArtifactError, match="the release is damaged"):
        release_diff(old, new)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"format": "aoti-build/release", "format_version": 99}']
)
def test_a_foreign_record_is_refused(two: Project, content: str) -> None:
    old, new = made(two, "1"), made(two, "2")
    (Path(new) / "release.json").write_text(content)
    with pytest.raises(ArtifactError, match="cannot be read"):
        release_diff(old, new)


def test_what_is_no_release(two: Project, tmp_path: Path) -> None:
    old = made(two, "1")
    with pytest.raises(UsageError, match=r"no release\.json"):
        release_diff(old, str(tmp_path / "absent"))
    archive = tmp_path / "1.tar.gz"
    archive.write_bytes(b"")
    with pytest.raises(UsageError, match="is an archive") as caught:
        release_diff(str(archive), old)
    assert f"tar -xf {archive}" in (caught.value.hint or "")


def test_releases_of_two_projects_are_named(two: Project) -> None:
    old, new = made(two, "1"), made(two, "2")
    edited_record(new, lambda document: document.update(name="other"))
    assert "two projects: project and other" in release_diff(old, new).notes[0]


def test_names_from_a_release_do_nothing_in_markdown_or_on_a_terminal(two: Project) -> None:
    old, new = made(two, "1"), made(two, "2")
    edited_record(new, lambda document: document.update(name="<b>|x\x1b[2J"))
    diff = release_diff(old, new)
    assert "\x1b" not in text_of(diff)
    assert "<b>" not in release_diff_markdown(diff)


def test_reasons_from_a_release_do_nothing_in_notes(two: Project) -> None:
    """Nothing proves what an earlier release says."""
    old = made(two, "1")
    publish(two, 0, code=b"code" * 2)

    def change(document: Any) -> None:
        for target in document["targets"]:
            target["key_parts"]["<img src=x>\n\n# [now](http://evil.example.org)\x1b[2J"] = "0" * 64

    edited_record(old, change)
    new = made(two, "2", previous=old)
    for text in (
        (Path(new) / "NOTES.md").read_text(),
        release_diff_markdown(release_diff(old, new)),
        text_of(release_diff(old, new)),
    ):
        assert "\x1b" not in text
        assert "\n#" not in text.partition("evil.example.org")[0][-80:]
    assert "\\<img src=x\\> \\# \\[now\\]" in (Path(new) / "NOTES.md").read_text()


def test_the_task(two: Project, tmp_path: Path) -> None:
    old = made(two, "1")
    publish(two, 0, code=b"code" * 2)
    new = made(two, "2")
    before = contents(two.root)
    notes = tmp_path / "notes.md"
    done = bare("release-diff", old, new, "--json", "--markdown", str(notes), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["targets"][0]["change"] == "changed"
    assert notes.read_text() == release_diff_markdown(release_diff(old, new))
    done = bare("release-diff", old, new, "--fail-if", "size>1.5", "--markdown", "-", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stdout.startswith("## Changes from project 1 to project 2\n\n- first/cpu: changed")
    assert "| size&gt;1.5 | failed |" in done.stdout
    assert done.stderr.startswith("error: 1 of 1 limit failed: size>1.5")
    done = bare("release-diff", old, new, "--json", "--markdown", "-", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["error"]["kind"]) == (2, "usage")
    assert contents(two.root) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["release-diff"], "release-diff needs an old release and a new release"),
        (["release-diff", "a"], "release-diff needs a new release"),
    ],
)
def test_a_release_that_is_not_named(tmp_path: Path, words: list[str], said: str) -> None:
    done = bare(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "release-diff OLD NEW" in done.stderr


@pytest.mark.parametrize("task", ["release-diff", "export"])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_tasks_with_arguments_have_a_help(tmp_path: Path, task: str, option: str) -> None:
    done = bare(task, option, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--json" in done.stdout


def test_the_reader_reads_what_the_worker_writes() -> None:
    """The writer takes its constants from the reader, so a new version cannot be forgotten."""
    text = (REPOSITORY / "aoti_build/_torch/checking/reference_writer.py").read_text()
    assert "from aoti_build.artifact.reference_file import FORMAT, FORMAT_VERSION, HEADER" in text
