"""Which variant a host should run: by rules that a reader can repeat, with a reason for every other
one."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from small_projects import REAL_PYTHON, edit, publish_fake, write_project

from aoti_build.errors import ArtifactError, UsageError
from aoti_build.host import compatibility, cpu, cuda
from aoti_build.runtime import explain, load

FEATURES = ("avx", "avx2")
MODELS = """\
version: 1
inductor_configs:
  fast: {max_autotune: true}
models:
  small:
    source: model.py:build
    inputs: [{shape: [2, 4]}]
    devices: [cpu, cuda]
    inductor_configs: [default, fast]
"""


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The compute capabilities of this host's GPUs, for tests to change; its processor is known."""
    found = ["8.6"]
    monkeypatch.setattr(cuda, "compute_capabilities", lambda: tuple(found))
    monkeypatch.setattr(cpu, "cpu_features", lambda: FEATURES)
    return found


@pytest.fixture
def artifacts(tmp_path: Path, gpus: list[str]) -> Path:
    """Four variants of `small`, all of which this host can run."""
    project = write_project(tmp_path, MODELS)
    for target in project.targets:
        publish_fake(project, target)
    return project.artifacts


def order(artifacts: Path, model: str = "small", **options: Any) -> list[str]:
    return [c.target for c in explain(model, artifacts=artifacts, **options).candidates if c.fits]


def test_the_gpu_comes_first_and_the_default_preset_before_a_tuned_one(artifacts: Path) -> None:
    assert order(artifacts) == ["small/cuda", "small/cuda-fast", "small/cpu", "small/cpu-fast"]


def test_code_for_more_of_the_processor_comes_before_code_for_less(
    artifacts: Path, tmp_path: Path
) -> None:
    project = write_project(tmp_path, MODELS)
    plain = next(target for target in project.targets if target.name == "small/cpu")
    edit(project, lambda document: document["requires"].update(cpu_features=["avx"]), plain)
    assert order(artifacts, device="cpu") == ["small/cpu-fast", "small/cpu"]


def test_what_was_asked_for_is_chosen_and_the_others_say_so(artifacts: Path) -> None:
    assert (
        order(artifacts, "small/cpu-fast")
        == order(artifacts, variant="cpu-fast")
        == ["small/cpu-fast"]
    )
    choice = explain("small", artifacts=artifacts, device="cpu")
    assert str(choice).splitlines() == [
        "small/cpu: chosen",
        "small/cpu-fast: fits, but small/cpu comes first: it is the default preset",
        "small/cuda: not requested: the requested device is cpu",
        "small/cuda-fast: not requested: the requested device is cpu",
    ]
    assert choice.as_json()[0] == {
        "target": "small/cpu",
        "fits": True,
        "chosen": True,
        "why_not": [],
    }


def test_without_a_gpu_the_cpu_variant_is_chosen(artifacts: Path, gpus: list[str]) -> None:
    gpus.clear()
    assert order(artifacts) == ["small/cpu", "small/cpu-fast"]
    assert "small/cuda: no CUDA device, or a torch without CUDA" in str(
        explain("small", artifacts=artifacts)
    )


def test_the_gpu_that_is_asked_for_counts(artifacts: Path, gpus: list[str]) -> None:
    gpus.append("9.0")
    assert order(artifacts, device_index=0)[0] == "small/cuda"
    assert order(artifacts, device_index=1) == ["small/cpu", "small/cpu-fast"]
    assert "this GPU has 9.0" in str(explain("small", artifacts=artifacts, device_index=1))
    with pytest.raises(ArtifactError) as caught:
        load("small", artifacts=artifacts, device="cuda", device_index=2)
    assert "no CUDA device 2: this host has 2, counted from 0" in str(caught.value)


def test_a_cpu_model_does_not_ask_the_driver(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> tuple[str, ...]:
        raise AssertionError("a driver that was asked cannot be used after a fork")

    monkeypatch.setattr(cuda, "compute_capabilities", asked)
    assert order(artifacts, device="cpu")[0] == "small/cpu"
    assert order(artifacts, "small/cpu-fast") == ["small/cpu-fast"]


def test_where_nothing_fits_the_error_has_a_reason_for_each(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "cpu_features", lambda: ("avx",))
    monkeypatch.setattr(compatibility, "torch_version", lambda: "2.13.0")
    with pytest.raises(
        ArtifactError, match="no variant of small can be run on this host"
    ) as caught:
        load("small", artifacts=artifacts)
    lines = str(caught.value.cause).splitlines()
    assert len(lines) == 4
    assert all(
        "this processor lacks avx2" in line and "this host has 2.13.0" in line for line in lines
    )


def test_a_damaged_variant_is_turned_down_with_its_reason(artifacts: Path) -> None:
    manifest = artifacts / "small" / "cuda" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"target"', '"tarGet"'))
    (artifacts / "small" / "cuda-fast" / "manifest.json").unlink()
    (artifacts / "small" / "cpu").rename(artifacts / "small" / "cpu-old")
    choice = explain("small", artifacts=artifacts)
    assert [c.target for c in choice.candidates if c.fits] == ["small/cpu-fast"]
    assert "small/cuda: damaged: manifest.json was edited" in str(choice)
    assert "small/cuda-fast: damaged: no manifest.json" in str(choice)
    assert "small/cpu-old: damaged: manifest.json is that of small/cpu" in str(choice)


ARCHES = MODELS + "    cuda: {arch: [native, sm_80, sm_86]}\n"
CODE = {
    "cuda": ["sm_86"],
    "cuda-fast": ["sm_86"],
    "cuda-sm_80": ["sm_80", "compute_80"],
    "cuda-sm_80-fast": ["sm_80", "compute_80"],
    "cuda-sm_86": ["sm_86", "compute_86"],
    "cuda-sm_86-fast": ["sm_86", "compute_86"],
}


@pytest.fixture
def arches(tmp_path: Path) -> Path:
    """Variants of `small` for several architectures, whose packages hold what torch 2.14 makes for
    them."""
    project = write_project(tmp_path, ARCHES)
    for target in project.targets:
        publish_fake(project, target)
        if code := CODE.get(target.variant):
            edit(
                project,
                lambda document, code=code: document["requires"].update(gpu_code=code),
                target,
            )
    return project.artifacts


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [
        (
            "8.6",
            ["cuda", "cuda-sm_86", "cuda-fast", "cuda-sm_86-fast", "cuda-sm_80", "cuda-sm_80-fast"],
        ),
        (
            "8.9",
            ["cuda", "cuda-sm_86", "cuda-fast", "cuda-sm_86-fast", "cuda-sm_80", "cuda-sm_80-fast"],
        ),
        ("8.0", ["cuda-sm_80", "cuda-sm_80-fast"]),
        ("9.0", ["cuda-sm_86", "cuda-sm_86-fast", "cuda-sm_80", "cuda-sm_80-fast"]),
        ("7.5", []),
    ],
)
def test_machine_code_for_the_gpu_comes_first_then_ptx_the_nearest_foremost(
    arches: Path, gpus: list[str], gpu: str, expected: list[str]
) -> None:
    gpus[:] = [gpu]
    assert (
        order(arches, device="cuda") == [f"small/{variant}" for variant in expected]
        if expected
        else True
    )
    assert explain("small", artifacts=arches).best().variant == (expected or ["cpu"])[0]


def test_machine_code_is_preferred_to_ptx_of_a_later_one(
    arches: Path, gpus: list[str], tmp_path: Path
) -> None:
    gpus[:] = ["9.0"]
    project = write_project(tmp_path, ARCHES)
    plain = next(target for target in project.targets if target.variant == "cuda-sm_80")
    edit(project, lambda document: document["requires"].update(gpu_code=["sm_90"]), plain)
    choice = explain("small", artifacts=arches, device="cuda")
    assert choice.best().variant == "cuda-sm_80"
    assert (
        "small/cuda-sm_86: fits, but small/cuda-sm_80 comes first: it has machine code for this GPU"
        in str(choice)
    )
    assert (
        "small/cuda-sm_80-fast: fits, but small/cuda-sm_80 comes first: it has machine code"
        in str(choice)
    )


def test_the_gpu_that_is_asked_for_decides_among_architectures(
    arches: Path, gpus: list[str]
) -> None:
    gpus[:] = ["8.6", "8.0"]
    assert explain("small", artifacts=arches, device_index=1).best().variant == "cuda-sm_80"


@pytest.mark.usefixtures("artifacts")
def test_a_listed_architecture_is_no_preset(tmp_path: Path) -> None:
    text = MODELS.replace("devices: [cpu, cuda]", "devices: [cpu]") + "    cpu: {isa: [avx2]}\n"
    project = write_project(tmp_path / "listed", text)
    for target in project.targets:
        publish_fake(project, target)
        edit(project, lambda document: document["requires"].update(cpu_features=["avx2"]), target)
    assert order(project.artifacts) == ["small/cpu-avx2", "small/cpu-avx2-fast"]
    assert "it is the default preset" in str(explain("small", artifacts=project.artifacts))


@pytest.mark.parametrize(
    ("asked", "options", "said"),
    [
        ("smal", {}, "did you mean small?"),
        ("small/cdua", {}, "did you mean cuda?"),
        ("small", {"variant": "tpu"}, "there are cpu, cpu-fast, cuda, cuda-fast"),
        ("small/cpu", {"variant": "cuda"}, "name two variants"),
        ("small", {"device": "tpu"}, "cpu, cuda"),
        ("../small", {}, "there is no artifact"),
        ("", {}, "there is no artifact"),
    ],
)
def test_a_name_that_is_not_there_is_an_error(
    artifacts: Path, asked: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        explain(asked, artifacts=artifacts, **options)
    assert said in str(caught.value)


def test_the_directory_comes_from_a_variable_or_is_beside_one(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert explain("small").artifacts == artifacts
    monkeypatch.chdir("/")
    with pytest.raises(UsageError, match="no directory of artifacts"):
        explain("small")
    monkeypatch.setenv("AOTI_BUILD_ARTIFACTS", str(artifacts))
    assert explain("small").chosen is not None


@pytest.mark.parametrize(
    "options", [{"num_runners": 0}, {"num_runners": 2, "single_threaded": True}]
)
def test_runners_that_cannot_be(artifacts: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="num_runners"):
        load("small", artifacts=artifacts, **options)


def test_choosing_and_refusing_imports_neither_torch_nor_what_builds(artifacts: Path) -> None:
    script = f"""
import sys
import aoti_build
parts = [name for name in sys.modules if name.startswith("aoti_build.")]
assert not parts, "the package alone is light"
from aoti_build.errors import UsageError
print(aoti_build.explain("small", artifacts={str(artifacts)!r}).candidates[0].target)
try:
    aoti_build.load("none", artifacts={str(artifacts)!r})
except UsageError:
    heavy = {{"torch", "numpy", "yaml", "pydantic", "invoke", "filelock", "subprocess"}}
    print(sorted(sys.modules.keys() & heavy))
"""
    answer = subprocess.run(
        [REAL_PYTHON, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout.splitlines()[1] in ("[]", "['subprocess']")


NO_NAMES = [
    "",
    "a\0b",
    "\udcff",
    "\ud800",
    "x" * 300,
    "..",
    ".",
    ".store",
    "../small",
    "/small",
    "/etc/passwd",
    "small/../small",
    "small/cpu/more",
    "small/",
    "small\n",
    "small cpu",
    "sm\u00e5ll",
    Path("small"),
    b"small",
    7,
    None,
    ["small"],
]


@pytest.mark.parametrize("ask", [explain, load])
@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_what_is_no_name_is_never_looked_for(artifacts: Path, name: Any, ask: Any) -> None:
    with pytest.raises(UsageError, match="there is no artifact") as caught:
        ask(name, artifacts=artifacts)
    assert len(str(caught.value)) < 300
    assert all(line.isprintable() for line in str(caught.value).splitlines())
    if name is not None:
        with pytest.raises(UsageError, match="not the name of a variant"):
            ask("small", artifacts=artifacts, variant=name)


@pytest.mark.parametrize("ask", [explain, load])
@pytest.mark.parametrize(
    "place",
    ["a\0b", "\ud800", "x" * 5000, "x" * 300, 7, b"artifacts", ["artifacts"], "/dev/null"],
    ids=ascii,
)
def test_what_is_no_directory_is_said(
    place: Any,
    ask: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match="directory of artifacts"):
        ask("small", artifacts=place)
    if isinstance(place, str) and place.isprintable():
        monkeypatch.setenv("AOTI_BUILD_ARTIFACTS", place)
        with pytest.raises(UsageError, match="directory of artifacts"):
            ask("small")


@pytest.mark.parametrize("ask", [explain, load])
@pytest.mark.parametrize(
    "options",
    [
        {"device": "gpu"},
        {"device": ""},
        {"device": "c\0"},
        {"device": 0},
        {"device": Path("cpu")},
        {"device_index": "0"},
        {"device_index": 0.0},
        {"device_index": None},
    ],
    ids=str,
)
def test_other_values_of_options_are_refused(artifacts: Path, options: Any, ask: Any) -> None:
    with pytest.raises(UsageError, match=r"there is no device|device_index is"):
        ask("small", artifacts=artifacts, **options)


@pytest.mark.parametrize("runners", [0, -1, 2**63, "2", 1.5, None])
def test_other_numbers_of_runners_are_refused(artifacts: Path, runners: Any) -> None:
    with pytest.raises(UsageError, match="num_runners is"):
        load("small", artifacts=artifacts, num_runners=runners)


def test_a_current_directory_that_is_gone_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="directory of artifacts"):
        explain("small")


def test_names_that_builds_give_are_looked_for(artifacts: Path) -> None:
    for name in ("small", "small/cpu", "small/cuda-fast"):
        assert explain(name, artifacts=str(artifacts)).chosen is not None
    for name in ("a", "a.b-c_d", "9", "x" * 100, "small/no-such"):
        with pytest.raises(UsageError, match="there is no artifact"):
            explain(name, artifacts=artifacts)
