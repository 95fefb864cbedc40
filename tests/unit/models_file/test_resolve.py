"""models.yaml -> Project: what a valid file means."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from spec_files import README, model, read

from aoti_build.artifact.fingerprint import spec_parts
from aoti_build.errors import UsageError
from aoti_build.models_file import Dim, Position, Source, TensorInput, Tolerance, load_project
from aoti_build.models_file.parsing.resolve import parse
from aoti_build.models_file.project import Baseline, ConstantInput, Weights
from aoti_build.models_file.records import target_from_json, target_to_json


def test_the_shipped_shape_of_a_file(root: Path) -> None:
    project = read(root, README)
    assert [target.name for target in project.targets] == [
        "resnet18/cpu",
        "resnet18/cpu-max-autotune",
        "resnet18/cuda",
        "resnet18/cuda-max-autotune",
        "encoder/cpu",
    ]
    assert [dict(target.inductor_config) for target in project.targets] == [
        {},
        {"max_autotune": True},
    ] * 2 + [{}]
    resnet, encoder = project.targets[0].model, project.targets[-1].model
    assert resnet.source == Source("resnet18", module="torchvision.models")
    assert resnet.inputs == (TensorInput((2, 3, 224, 224), "float32"),)
    assert resnet.kwargs == {"weights": None}
    assert resnet.seed == 7
    assert resnet.tolerance == Tolerance(1e-4, 1e-3)
    assert encoder.source == Source("build", path="examples/encoder.py")
    assert encoder.weights == Weights("weights/encoder.safetensors")
    assert encoder.dims == (Dim("batch", 1, 32, 4), Dim("seq", 8, 512, 64, 8))
    assert encoder.inputs == (
        TensorInput(("batch", "seq"), "int64", "tokens", low=0, high=1000),
        TensorInput(("batch", "seq"), "bool", "mask"),
    )
    assert (project.targets[-1].architecture, project.targets[-1].names_architecture) == (
        "avx2",
        True,
    )
    assert (project.file, project.root) == (root / "models.yaml", root)


def test_defaults(root: Path) -> None:
    (target,) = read(root, model()).targets
    assert (target.device, target.preset, target.inductor_config) == ("cpu", "default", {})
    assert target.model.inputs == (TensorInput((2,), "float32"),)
    assert (target.model.kwargs, target.model.seed, target.model.weights, target.model.dims) == (
        {},
        0,
        None,
        (),
    )
    assert (target.model.tolerance, target.architecture, target.names_architecture) == (
        Tolerance(),
        "native",
        False,
    )


def test_positions_are_where_a_reader_looks(root: Path) -> None:
    project = read(root, README)
    resnet, encoder = project.targets[0].model.positions, project.targets[-1].model.positions
    assert resnet == {
        "": Position(6, 3),
        "source": Position(7, 13),
        "kwargs": Position(8, 13),
        "seed": Position(9, 11),
        "inputs": Position(10, 5),
        "inputs.0": Position(11, 9),
        "devices": Position(12, 14),
        "inductor_configs": Position(13, 23),
        "tolerance": Position(14, 16),
    }
    assert encoder["weights"] == Position(17, 14)
    assert encoder["dims.seq"] == Position(20, 14)
    assert encoder["inputs.mask"] == Position(23, 15)
    assert encoder["cpu"] == Position(24, 10)
    assert project.location(project.targets[0].model, "weights", "kwargs") == "models.yaml:8:13"


def test_presets_per_device(root: Path) -> None:
    text = "inductor_configs: {fast: {a.b: [1, {x: null}]}, default: {c: 1}}\n"
    project = read(
        root, text + model(devices="[cuda, cpu]", inductor_configs="{cuda: [fast, default]}")
    )
    configs = {target.name: target.inductor_config for target in project.targets}
    assert configs == {
        "m/cuda-fast": {"a.b": [1, {"x": None}]},
        "m/cuda": {"c": 1},
        "m/cpu": {"c": 1},
    }


@pytest.mark.parametrize(
    ("cpu", "names"),
    [
        ("native", ["m/cpu"]),
        ("avx2", ["m/cpu"]),
        ("[avx2]", ["m/cpu-avx2"]),
        ("[native, avx512, avx2]", ["m/cpu", "m/cpu-avx512", "m/cpu-avx2"]),
    ],
)
def test_a_list_of_architectures_makes_a_target_of_each_and_one_value_keeps_the_name(
    root: Path, cpu: str, names: list[str]
) -> None:
    targets = read(root, model(cpu=f"{{isa: {cpu}}}")).targets
    assert [target.name for target in targets] == names
    assert [target.architecture for target in targets] == cpu.strip("[]").split(", ")


def test_the_preset_comes_after_the_architecture_and_each_device_has_its_own(root: Path) -> None:
    text = model(
        devices="[cpu, cuda]",
        inductor_configs="{cuda: [default, fast]}",
        cpu="{isa: [avx2, native]}",
        cuda="{arch: [native, sm_90, sm_80]}",
    )
    targets = read(root, "inductor_configs: {fast: {a: 1}}\n" + text).targets
    assert {
        target.variant: (target.device, target.architecture, target.preset) for target in targets
    } == {
        "cpu-avx2": ("cpu", "avx2", "default"),
        "cpu": ("cpu", "native", "default"),
        "cuda": ("cuda", "native", "default"),
        "cuda-fast": ("cuda", "native", "fast"),
        "cuda-sm_90": ("cuda", "sm_90", "default"),
        "cuda-sm_90-fast": ("cuda", "sm_90", "fast"),
        "cuda-sm_80": ("cuda", "sm_80", "default"),
        "cuda-sm_80-fast": ("cuda", "sm_80", "fast"),
    }


def test_architectures_survive_the_way_to_a_worker_and_count_in_the_digest(root: Path) -> None:
    listed = read(root, model(cpu="{isa: [native, avx2]}")).targets
    for target in listed:
        assert target_from_json(json.loads(json.dumps(target_to_json(target)))) == target
    alone = read(root, model(cpu="{isa: avx2}")).targets
    longer = read(root, model(cpu="{isa: [native, avx2, avx512]}")).targets
    assert len({target.digest for target in (*listed, *alone)}) == 3
    assert [target.digest for target in longer[:2]] == [target.digest for target in listed]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("a.b:c", Source("c", module="a.b")),
        ("a:B.c", Source("B.c", module="a")),
        ("./examples/../x.py:f", Source("f", path="x.py")),
        ("examples/encoder.py:A.build", Source("A.build", path="examples/encoder.py")),
    ],
)
def test_sources(root: Path, text: str, source: Source) -> None:
    read_model = read(root, model(source=text, inputs=text)).targets[0].model
    assert read_model.source == source
    assert read_model.inputs == source
    assert read(root, model(source=str(source))).targets[0].model.source == source


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        ("{max: 2}", Dim("d", 1, 2, 2)),
        ("{max: 64}", Dim("d", 1, 64, 2)),
        ("{min: 5, max: 9}", Dim("d", 5, 9, 5)),
        ("{max: 64, multiple_of: 8}", Dim("d", 8, 64, 16, 8)),
        ("{min: 24, max: 64, multiple_of: 8}", Dim("d", 24, 64, 24, 8)),
        ("{max: 4, multiple_of: 2}", Dim("d", 2, 4, 4, 2)),
    ],
)
def test_defaults_of_a_dim(root: Path, dim: str, expected: Dim) -> None:
    project = read(root, model(dims=f"{{d: {dim}}}", inputs="[{shape: [d]}]"))
    assert project.targets[0].model.dims == (expected,)


@pytest.mark.parametrize(
    ("tensor", "low", "high"),
    [
        ("{shape: [], high: 5}", 0.0, 5.0),
        ("{shape: [], low: -1}", -1.0, 1.0),
        ("{shape: [], dtype: int8, low: -128, high: 128}", -128, 128),
        ("{shape: [], dtype: uint8, high: 256}", 0, 256),
        ("{shape: [], dtype: int64, low: -5}", -5, 2),
        ("{shape: [], dtype: int64, high: 9223372036854775807}", 0, 2**63 - 1),
        ("{shape: [0, 1], dtype: complex64}", None, None),
    ],
)
def test_the_range_of_an_input(
    root: Path, tensor: str, low: float | None, high: float | None
) -> None:
    inputs = read(root, model(inputs=f"[{tensor}]")).targets[0].model.inputs
    assert isinstance(inputs, tuple)
    assert (inputs[0].low, inputs[0].high) == (low, high)
    assert (type(inputs[0].low), type(inputs[0].high)) == (type(low), type(high))


def test_constants_stand_between_tensors(root: Path) -> None:
    text = model(
        inputs=(
            "{x: {shape: [2]}, flag: {value: false}, none: {value: null}, list: {value: [1, [a,"
            " ~]]}}"
        )
    )
    (target,) = read(root, text).targets
    assert target.model.inputs == (
        TensorInput((2,), "float32", "x"),
        ConstantInput(False, "flag"),
        ConstantInput(None, "none"),
        ConstantInput([1, ["a", None]], "list"),
    )
    assert target_from_json(json.loads(json.dumps(target_to_json(target)))) == target
    parts = spec_parts(target)
    assert (parts["inputs.flag.value"], parts["inputs.list.value"]) == (False, [1, ["a", None]])


def test_what_is_not_set_is_in_no_key(root: Path) -> None:
    (bare,) = read(root, model(inputs="[{shape: [2], dtype: bool}]")).targets
    assert not {"imports", "outputs", "inputs.0.probability"} & spec_parts(bare).keys()
    text = model(
        inputs="[{shape: [2], dtype: bool, probability: 1}]", imports="[a.b]", outputs="dict"
    )
    (set_,) = read(root, text).targets
    added = {"imports": ["a.b"], "outputs": "dict", "inputs.0.probability": 1}
    assert spec_parts(set_) == {**spec_parts(bare), **added}
    assert target_from_json(json.loads(json.dumps(target_to_json(set_)))) == set_


FORMATS_OF_INPUTS = {
    # By the format of the model: inputs of 4, of 5 and of 3 dimensions, and one of 4 that is
    # contiguous whatever the model is.
    None: [None, None, None, None],
    "contiguous": [None, None, None, None],
    "channels_last": ["channels_last", None, None, None],
    "channels_last_3d": [None, "channels_last_3d", None, None],
}


@pytest.mark.parametrize("name", FORMATS_OF_INPUTS)
def test_a_memory_format_is_that_of_inputs_of_its_rank(root: Path, name: str | None) -> None:
    inputs = (
        "[{shape: [2, 3, 4, 5]}, {shape: [2, 3, 4, 5, 6]}, {shape: [2, 3, 4]},"
        " {shape: [2, 3, 4, 5], memory_format: contiguous}]"
    )
    keys = {} if name is None else {"memory_format": name}
    (target,) = read(root, model(inputs=inputs, **keys)).targets
    assert target.model.memory_format == name
    assert isinstance(target.model.inputs, tuple)
    found = [tensor.memory_format for tensor in target.model.inputs]
    assert found == FORMATS_OF_INPUTS[name]
    assert target_from_json(json.loads(json.dumps(target_to_json(target)))) == target


def test_a_memory_format_is_a_part_of_the_key_where_it_has_an_effect(root: Path) -> None:
    def parts(inputs: str, **keys: Any) -> dict[str, Any]:
        (target,) = read(root, model(inputs=f"[{{shape: [2, 3, 4, 5]{inputs}}}]", **keys)).targets
        return spec_parts(target)

    bare = parts("")
    assert not any("memory_format" in part for part in bare)
    # Inputs are contiguous anyway.
    assert parts(", memory_format: contiguous") == bare
    of_input = {"inputs.0.memory_format": "channels_last"}
    assert parts(", memory_format: channels_last") == {**bare, **of_input}
    of_model = {"memory_format": "channels_last"}
    assert parts("", **of_model) == {**bare, **of_model, **of_input}
    assert parts(", memory_format: contiguous", **of_model) == {**bare, **of_model}


def test_dims_of_a_callable_may_be_named_nowhere(root: Path) -> None:
    project = read(root, model(inputs="x.py:f", dims="{batch: {max: 4}}"))
    assert project.targets[0].model.dims == (Dim("batch", 1, 4, 2),)


def test_comments_order_and_style_change_nothing(root: Path) -> None:
    def reversed_everywhere(data: Any) -> Any:
        if isinstance(data, dict):
            return {key: reversed_everywhere(data[key]) for key in reversed(data)}
        return [reversed_everywhere(item) for item in data] if isinstance(data, list) else data

    project = read(root, README)
    commented = README.replace("\n", "  # a comment\n\n").replace("version: 1", "version:    0x1")
    assert read(root, commented) == project
    data = yaml.safe_load(README.replace("1e-4", "1.0e-4").replace("1e-3", "1.0e-3"))
    again = read(root, yaml.safe_dump(reversed_everywhere(data), sort_keys=False))
    by_name = {target.name: target for target in project.targets}
    for target in again.targets:
        other = by_name.pop(target.name)
        assert target.inductor_config == other.inductor_config
        assert (target.model.source, target.model.kwargs, target.model.seed) == (
            other.model.source,
            other.model.kwargs,
            other.model.seed,
        )
        assert set(target.model.dims) == set(other.model.dims)
        assert set(target.model.inputs) == set(other.model.inputs)  # type: ignore[arg-type]
    assert not by_name


def test_windows_line_ends_and_a_byte_order_mark(root: Path) -> None:
    content = b"\xef\xbb\xbf" + README.replace("\n", "\r\n").encode()
    project = parse(content, root / "models.yaml")
    assert project == read(root, README)
    assert project.targets[0].model.positions == read(root, README).targets[0].model.positions


def test_an_absent_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        load_project(tmp_path / "models.yaml")
    assert "models.yaml: no such file" in caught.value.message
    assert caught.value.hint


def test_a_directory_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_project(tmp_path)


def test_a_relative_path_is_made_absolute(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "models.yaml").write_text(README, encoding="utf-8")
    monkeypatch.chdir(root)
    assert load_project(Path("models.yaml")).file == root / "models.yaml"


def test_importing_the_package_imports_no_parser(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text(README)
    script = (
        "import sys, aoti_build.models_file\nfrom pathlib import Path\nparsers, heavy = {'yaml',"
        " 'pydantic', 'pydantic_core'}, {'torch', 'torchvision', 'numpy'}\nassert not (parsers |"
        " heavy) & set(sys.modules), sys.modules.keys()\ntry:"
        " aoti_build.models_file.load_project(Path('absent.yaml'))\nexcept"
        " aoti_build.errors.UsageError: pass\nassert not (parsers | heavy) & set(sys.modules),"
        " sys.modules.keys()\nassert"
        " aoti_build.models_file.load_project(Path('models.yaml')).targets\nassert parsers <="
        " set(sys.modules)\nassert not heavy & set(sys.modules), sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def test_sizes_that_follow_dims_have_one_spelling(root: Path) -> None:
    dims = "{batch: {max: 4}, past: {max: 8}, seq: {max: 8, multiple_of: 2}}"
    sizes = "[1+past, batch * 3, seq // 2, 'seq+past', 2*seq - 1, batch, past]"
    (target,) = read(root, model(inputs=f"[{{shape: {sizes}}}]", dims=dims)).targets
    (tensor,) = target.model.inputs
    assert tensor.shape == (
        "past + 1",
        "3*batch",
        "seq//2",
        "past + seq",
        "2*seq - 1",
        "batch",
        "past",
    )


def test_a_dim_may_be_named_in_a_sum_alone(root: Path) -> None:
    (target,) = read(root, model(inputs="[{shape: [past + 1]}]", dims="{past: {max: 8}}")).targets
    assert target.model.inputs[0].shape == ("past + 1",)


def test_a_dtype_is_that_of_inputs_without_one(root: Path) -> None:
    inputs = "[{shape: [2]}, {shape: [2], dtype: float32}, {shape: [2], dtype: int64}]"
    (target,) = read(root, model(inputs=inputs, dtype="bfloat16")).targets
    assert target.model.dtype == "bfloat16"
    assert isinstance(target.model.inputs, tuple)
    assert [tensor.dtype for tensor in target.model.inputs] == ["bfloat16", "float32", "int64"]
    assert target_from_json(json.loads(json.dumps(target_to_json(target)))) == target


@pytest.mark.parametrize("bound", [f"high: {2**63}", f"low: -{2**63}, high: 3"])
def test_the_ends_of_int64_reach_a_worker(root: Path, bound: str) -> None:
    inputs = f"[{{shape: [2], dtype: int64, {bound}}}]"
    (target,) = read(root, model(inputs=inputs)).targets
    assert target_from_json(json.loads(json.dumps(target_to_json(target)))) == target


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tolerance": f"{{atol: {2**64}}}"}, "exceeds the largest 64-bit integer"),
        ({"weights": r'{file: w.pt, ignore: ["a\0"]}'}, "contains a NUL character"),
        ({"weights": r'{file: w.pt, rename: {"a\0": b}}'}, "contains a NUL character"),
        ({"cpu": "{isa: [0]}"}, "'isa"),
    ],
)
def test_what_no_record_can_hold_is_a_problem_of_the_file(
    root: Path, fields: dict[str, str], message: str
) -> None:
    with pytest.raises(UsageError) as raised:
        read(root, model(**fields))
    assert message in str(raised.value)


def test_a_baseline_is_a_callable_or_a_mapping(root: Path) -> None:
    (target,) = read(root, model(kwargs="{width: 3}", baseline="nets.py:plain")).targets
    assert target.model.baseline == Baseline(Source("plain", path="nets.py"), {"width": 3})
    assert target_from_json(json.loads(json.dumps(target_to_json(target)))) == target
    own = "{source: nets:plain, kwargs: {}, limit: 0.01}"
    (target,) = read(root, model(kwargs="{width: 3}", baseline=own)).targets
    assert target.model.baseline == Baseline(Source("plain", module="nets"), {}, 0.01)
    assert target_from_json(json.loads(json.dumps(target_to_json(target)))) == target
    with pytest.raises(UsageError, match="negative"):
        read(root, model(baseline="{source: nets:plain, limit: -1}"))
    with pytest.raises(UsageError, match="does not name a callable"):
        read(root, model(baseline="{source: nets}"))
