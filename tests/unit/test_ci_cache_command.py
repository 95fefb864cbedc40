"""`ci-cache`: the key changes with what decides whether stored objects are of use, and only then;
and `version`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from small_projects import TWO_MODELS, inv, write_project

import aoti_build
from aoti_build.commands import ci_cache as command
from aoti_build.commands.ci_cache import CacheReport
from aoti_build.host import cpu, distributions, toolchain
from aoti_build.models_file import load_project

PRESETS = """\
version: 1
inductor_configs:
  fixed: {cpp.threads: 4}
models:
  small:
    source: model.py:build
    inputs: [{shape: [2, 4]}]
    cpu: {isa: avx2}
    inductor_configs: fixed
"""


def parts(root: Path) -> list[str]:
    """Toolchain, host and content."""
    return report(root).key.removeprefix("aoti-build-").split("-")


def report(root: Path) -> CacheReport:
    project = load_project(root / "models.yaml")
    return command.ci_cache(project, project.targets)


def changed(before: list[str], after: list[str]) -> list[bool]:
    return [one != other for one, other in zip(before, after, strict=True)]


def test_what_it_prints_is_what_github_reads(tmp_path: Path) -> None:
    write_project(tmp_path)
    outputs = github_outputs(inv("ci-cache", cwd=tmp_path, GITHUB_WORKSPACE="").stdout)
    assert set(outputs) == {"key", "restore-keys", "path"}
    host, base = outputs["restore-keys"].splitlines()
    assert outputs["key"].startswith(host)
    assert host.startswith(base)
    assert outputs["path"] == "artifacts/.store"
    document = json.loads(inv("ci-cache", "--json", cwd=tmp_path, GITHUB_WORKSPACE="").stdout)
    assert document["key"] == outputs["key"]
    assert document["restore_keys"] == [host, base]
    assert "cpu.features" in document["facts"]["small/cpu"]


def github_outputs(text: str) -> dict[str, str]:
    """The outputs of a step, as GitHub's runner reads them: name=value, or name<<delimiter."""
    outputs, lines = {}, iter(text.splitlines())
    for line in lines:
        match = re.fullmatch(r"([\w-]+)<<(.+)", line)
        if match is None:
            name, _, value = line.partition("=")
            outputs[name] = value
            continue
        values = []
        for value in lines:
            if value == match[2]:
                break
            values.append(value)
        outputs[match[1]] = "\n".join(values)
    return outputs


def test_the_path_is_relative_to_the_workspace(tmp_path: Path) -> None:
    write_project(tmp_path / "deploy")
    below = inv("ci-cache", cwd=tmp_path / "deploy", GITHUB_WORKSPACE=str(tmp_path)).stdout
    assert "path=deploy/artifacts/.store\n" in below
    other = inv("ci-cache", cwd=tmp_path / "deploy", AOTI_BUILD_STORE="/srv/store").stdout
    assert "path=/srv/store\n" in other


def test_another_toolchain_is_another_key_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path)
    before = parts(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_FREEZING", "1")
    assert changed(before, parts(tmp_path))[0]
    monkeypatch.delenv("TORCHINDUCTOR_FREEZING")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")  # decides which sources are found
    assert changed(before, parts(tmp_path)) == [False, False, False]
    monkeypatch.setattr(toolchain, "FACTS_VERSION", 99)
    assert changed(before, parts(tmp_path)) == [True, False, False]


@pytest.mark.parametrize("fact", ["features", "count"])
def test_another_host_is_another_key_unless_the_targets_are_portable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fact: str
) -> None:
    write_project(tmp_path / "native")
    write_project(tmp_path / "portable", PRESETS)
    native, portable = parts(tmp_path / "native"), parts(tmp_path / "portable")
    if fact == "features":
        monkeypatch.setattr(cpu, "cpu_features", lambda: ("avx2",))
    else:
        monkeypatch.setattr(toolchain, "processors", lambda: 96)
    assert changed(native, parts(tmp_path / "native")) == [False, True, False]
    assert changed(portable, parts(tmp_path / "portable")) == [False, False, False]


@pytest.mark.parametrize(
    ("file", "counts"),
    [
        ("models.yaml", True),
        ("tuned.yaml", True),
        ("model.py", True),
        ("package/deep.py", True),
        ("notes.md", False),
        (".hidden/tool.py", False),
        ("venv/lib/module.py", False),
        ("artifacts/small/left.py", False),
    ],
)
def test_the_content_is_what_a_build_may_read(tmp_path: Path, file: str, counts: bool) -> None:
    write_project(tmp_path)
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").write_text("")
    before = parts(tmp_path)
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_text() if path.exists() else ""
    path.write_text(f"{old}# changed\n")
    if file == "tuned.yaml":
        path.write_text("version: 1\ntargets: {}\n")
    assert changed(before, parts(tmp_path)) == [False, False, counts]


def test_new_weights_and_new_packages_are_new_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, TWO_MODELS + "    weights: weights.safetensors\n")
    before = parts(tmp_path)
    (tmp_path / "weights.safetensors").write_text("weights, version 2")
    assert changed(before, parts(tmp_path)) == [False, False, True]
    before = parts(tmp_path)
    real = distributions.identity
    monkeypatch.setattr(
        distributions, "identity", lambda name, *rest: "new" if name == "*" else real(name, *rest)
    )
    assert changed(before, parts(tmp_path)) == [False, False, True]


def test_the_key_does_not_depend_on_the_checkout(tmp_path: Path) -> None:
    write_project(tmp_path / "one")
    write_project(tmp_path / "other")
    assert parts(tmp_path / "one") == parts(tmp_path / "other")


def test_version_names_both_releases(tmp_path: Path) -> None:
    write_project(tmp_path)
    torch = distributions.version_of("torch")
    answer = inv("version", cwd=tmp_path)
    assert answer.stdout == f"aoti_build {aoti_build.__version__}, torch {torch} installed\n"
    document = json.loads(inv("version", "--json", cwd=tmp_path).stdout)
    assert (document["aoti_build"], document["torch"]) == (aoti_build.__version__, torch)


def test_version_needs_no_models_yaml_and_no_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    assert inv("version", cwd=tmp_path, PYTHONPATH=os.environ.get("PYTHONPATH", "")).returncode == 0
