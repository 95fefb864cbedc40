"""tuned.yaml: how it is read, which options it gives to targets, and that a build follows it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aoti_build.errors import SpecError, UsageError
from aoti_build.host.devices import device_named
from aoti_build.models_file import Project, load_project
from aoti_build.models_file.parsing.tuned_file import parse_tuned, tuned_text
from aoti_build.models_file.project import Choice, CudaOptions
from aoti_build.models_file.tuned import Entries, Entry, Evidence, missing_entry, with_choice

MODELS = """\
version: 1
inductor_configs:
  default: {epilogue_fusion: false}
models:
  small:
    source: model.py:build
    inputs: [{shape: [2, 4]}]
    inductor_configs: tuned
  other:
    source: model.py:build
    inputs: [{shape: [2, 4]}]
    inductor_configs: [default, tuned]
"""
EVIDENCE = (
    "{ratio: 0.8, low: 0.7, high: 0.9, pairs: 8, default_ms: 2, tuned_ms: 1.6, torch: 2.14.1,"
    " created: 2026-11-30}"
)
CHOICE = f"candidate: fast, options: {{freezing: true}}, evidence: {EVIDENCE}"


def tuned(host: str, target: str = "small/cpu-tuned", entry: str = CHOICE) -> str:
    return f"version: 1\ntargets:\n  {target}:\n    {host}: {{{entry}}}\n"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> str:
    """The class of this host, pretended."""
    monkeypatch.setattr(type(device_named("cpu")), "host_class", lambda _: "this-host")
    return "this-host"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "models.yaml").write_text(MODELS)
    (tmp_path / "artifacts").mkdir()
    return tmp_path


def load(directory: Path, text: str | None = None) -> Project:
    if text is not None:
        (directory / "tuned.yaml").write_text(text)
    return load_project(directory / "models.yaml", directory / "artifacts" / ".project-cache")


def options(project: Project) -> dict[str, dict[str, Any]]:
    return {target.name: dict(target.inductor_config) for target in project.targets}


def test_a_tuned_target_has_the_options_of_its_entry(directory: Path, host: str) -> None:
    project = load(directory, tuned(host))
    assert options(project) == {
        "small/cpu-tuned": {"freezing": True},
        "other/cpu": {"epilogue_fusion": False},
        "other/cpu-tuned": {"epilogue_fusion": False},
    }
    notes = [missing_entry(project, target) for target in project.targets]
    assert notes[:2] == [None, None]
    assert notes[2] is not None
    assert "tuned.yaml has no entry for this-host" in notes[2]
    assert "invoke tune --target other/cpu-tuned" in notes[2]


@pytest.mark.usefixtures("host")
def test_the_entry_of_another_host_is_not_used(directory: Path) -> None:
    project = load(directory, tuned("another-host"))
    assert options(project)["small/cpu-tuned"] == {"epilogue_fusion": False}
    assert missing_entry(project, project.targets[0]) is not None


@pytest.mark.usefixtures("host")
def test_without_the_file_the_options_are_those_of_default(directory: Path) -> None:
    assert options(load(directory))["small/cpu-tuned"] == {"epilogue_fusion": False}


def test_the_cache_follows_the_file_and_the_host(
    directory: Path, host: str, parses: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load(directory, tuned(host))
    assert load(directory) == first
    assert len(parses) == 1
    assert [target.digest for target in load(directory).targets] == [
        target.digest for target in first.targets
    ]
    edited = load(directory, tuned(host).replace("freezing", "max_autotune"))
    assert options(edited)["small/cpu-tuned"] == {"max_autotune": True}
    assert edited.targets[0].digest != first.targets[0].digest
    assert edited.targets[1].digest == first.targets[1].digest
    assert len(parses) == 2
    # The same cache on a shared disk, used by another host.
    monkeypatch.setattr(type(device_named("cpu")), "host_class", lambda _: "other")
    assert options(load(directory))["small/cpu-tuned"] == {"epilogue_fusion": False}
    assert len(parses) == 2
    (directory / "tuned.yaml").unlink()
    assert load(directory).tuned == {}


def test_a_preset_of_that_name_in_models_yaml_counts(directory: Path, host: str) -> None:
    own = "inductor_configs:\n  tuned: {coordinate_descent_tuning: true}\n"
    (directory / "models.yaml").write_text(MODELS.replace("inductor_configs:\n", own, 1))
    project = load(directory, tuned(host))
    assert options(project)["small/cpu-tuned"] == {"coordinate_descent_tuning": True}
    assert missing_entry(project, project.targets[0]) is None


BAD = [
    ("version: 2\ntargets: {}\n", "1:10: version 2 is not supported"),
    ("targets: {}\n", "1:1: the file is missing the required key 'version'"),
    ("version: 1\n", "1:1: the file is missing the required key 'targets'"),
    (tuned("h", entry=CHOICE + ", speed: 1"), "unknown key 'speed'"),
    (tuned("h", entry=CHOICE.replace("ratio", "ration")), "unknown key 'ration'"),
    (tuned("h", entry=CHOICE.replace("true", ".nan")), "nan and inf are not allowed"),
    (tuned("h", entry=CHOICE.replace("freezing", "a-b")), "a-b"),
    (tuned("h", entry=CHOICE.replace("pairs: 8", "pairs: many")), "'pairs' must be an integer"),
    (tuned("h", target="small"), "3:3: this is not the name of a target"),
    (tuned("h/x"), "h/x"),
    ("version: 1\ntargets: [", "tuned.yaml:"),
]


@pytest.mark.parametrize(("text", "said"), BAD, ids=[said for _, said in BAD])
def test_a_wrong_file_is_refused_with_its_positions(directory: Path, text: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(directory, text)
    assert caught.value.file == "tuned.yaml"
    assert said in str(caught.value)


def test_a_file_that_cannot_be_read_is_no_missing_file(directory: Path) -> None:
    (directory / "tuned.yaml").mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        load(directory)


def test_what_is_written_is_read_back() -> None:
    evidence = Evidence(0.8, 0.7, 0.9, 16, 54.1, 42.0, "2.14.1+cpu", "2026-11-30", loss=1e-4)
    entries: Entries = {
        "b/cuda-tuned": {"sm_90-h200": Entry(Choice("max", {"max_autotune": True}), evidence)},
        "a/cpu-avx2-tuned": {
            "x": Entry(Choice("f", {"a.b": [1, "yes", 0.5], "c": None}, tf32=True), evidence),
            "w": Entry(Choice("none", {}), replace(evidence, loss=None)),
        },
        "empty/cpu-tuned": {},
    }
    text = tuned_text(entries)
    assert parse_tuned(text.encode()) == {name: hosts for name, hosts in entries.items() if hosts}
    assert text.index("a/cpu-avx2-tuned") < text.index("b/cuda-tuned")
    assert parse_tuned(tuned_text({}).encode()) == {}


def test_a_choice_may_allow_a_lower_precision(directory: Path) -> None:
    target = load(directory).targets[0]
    changed = with_choice(target, Choice("x", {}, tf32=True))
    assert changed.model.cuda == CudaOptions(tf32=True)
    assert changed.digest not in ("", target.digest)


def test_a_build_with_nothing_to_do_parses_neither_file(directory: Path) -> None:
    host = device_named("cpu").host_class()
    assert host is not None
    load(directory, tuned(host))
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from aoti_build.models_file import load_project\n"
        "project = load_project(Path('models.yaml'), Path('artifacts/.project-cache'))\n"
        "assert project.targets[0].inductor_config == {'freezing': True}\n"
        "loaded = {'yaml', 'pydantic', 'pydantic_core', 'torch', 'numpy'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=directory)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tuned", {"small/cpu-tuned": {"h": {"options": {"a-b": 1}}}}),
        ("tuned", []),
        ("presets", {"x": 1}),
        ("presets", {"../x": {}}),
    ],
)
@pytest.mark.usefixtures("host")
def test_a_cache_record_of_another_shape_is_not_used(
    directory: Path, parses: list[Path], name: str, value: Any
) -> None:
    expected = load(directory, tuned("this-host"))
    (record,) = (directory / "artifacts" / ".project-cache").iterdir()
    document = json.loads(record.read_text())
    document[name] = value
    record.write_text(json.dumps(document))
    assert load(directory) == expected
    assert len(parses) == 2
