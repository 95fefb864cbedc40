"""`aoti_build.load` on artifacts that were really built: calling them, refusing, new weights,
threads, tampering."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Finished, run_inv
from projects import write_single
from torch import nn

import aoti_build
from aoti_build.common.digests import digest_json
from aoti_build.errors import AotiBuildError, ArtifactError, ClosedError, InputError, UsageError
from aoti_build.runtime.gate import Gate
from aoti_build.runtime.model import LoadedModel

TIED = """
    import torch
    from torch import nn


    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(8, 8)
            self.b = nn.Linear(8, 8)
            self.b.weight = self.a.weight
            self.unused = nn.Parameter(torch.ones(2))
            self.register_buffer("shift", torch.arange(8.0).reshape(2, 4).t())
            self.register_buffer("step", torch.tensor(3))

        def forward(self, pair, scale=2.0, *, options):
            x, y = pair
            hidden = self.b(torch.relu(self.a(x))) + self.shift.reshape(8) + self.step
            rest = [y * scale, (options["mask"] * x).sum()]
            return {"hidden": hidden, "rest": rest, "none": options["bias"]}


    def inputs(batch, width):
        mask = torch.ones(batch, 8, dtype=torch.bool)
        return {
            "pair": (torch.randn(batch, 8), torch.randn(batch, width)),
            "options": {"mask": mask, "bias": None},
        }
"""
TIED_MODEL = """
    tied:
      source: net.py:Tied
      inputs: net.py:inputs
      dims:
        batch: {min: 2, max: 16, multiple_of: 2, example: 4}
        width: {min: 8, max: 64, multiple_of: 8, example: 16}
"""


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A private directory of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("unpacked")
        patch.setenv("AOTI_BUILD_RUNTIME_CACHE", str(directory))
        yield


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with tied weights, a strided buffer, nested inputs and outputs, built once."""
    root = tmp_path_factory.mktemp("tied") / "project"
    write_single(root, TIED, TIED_MODEL)
    finished = run_inv(root, "build", "--json")
    assert finished.code == 0, finished.err
    return root


@pytest.fixture
def load(built_once: tuple[Path, Finished]) -> Iterator[Callable[..., LoadedModel]]:
    """`aoti_build.load` of the shared project's artifacts; what was loaded is closed after the
    test."""
    opened: list[LoadedModel] = []

    def loaded(model: str, artifacts: Path | None = None, **options: Any) -> LoadedModel:
        opened.append(
            aoti_build.load(model, artifacts=artifacts or built_once[0] / "artifacts", **options)
        )
        return opened[-1]

    yield loaded
    for model in opened:
        model.close()


def eager(root: Path, name: str) -> nn.Module:
    """The tied model of the project, and its inputs, from its source."""
    namespace: dict[str, Any] = {}
    exec((root / "net.py").read_text(), namespace)  # noqa: S102 - the test's own source
    made: nn.Module = namespace[name]
    return made


def same(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda signature: signature["inputs"].pop(), "inputs, but its manifest lists"),
        (lambda signature: signature["outputs"].pop(), "outputs, but its manifest lists"),
        (lambda signature: signature["inputs"][0].update(dtype="float99"), "the dtype float99"),
        (lambda signature: signature["inputs"][0].update(dtype="nn"), "the dtype nn"),
    ],
)
def test_a_manifest_that_contradicts_its_package_is_refused(
    tied: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    shutil.copytree(tied / "artifacts", tmp_path / "artifacts")
    path = tmp_path / "artifacts/tied/cpu/manifest.json"
    document = json.loads(path.read_text())
    del document["sha256"]
    change(document["signature"])
    path.write_text(json.dumps({**document, "sha256": digest_json(document)}))
    with pytest.raises(ArtifactError, match=said):
        aoti_build.load("tied", artifacts=tmp_path / "artifacts")


def test_by_position_and_by_keyword_at_any_size(load: Callable[..., LoadedModel]) -> None:
    model = load("weighted")
    for batch in (2, 5, 8):
        x = torch.randn(batch, 8)
        assert model(x).shape == (batch, 4)
        same(model(x=x), model(x))
    assert repr(model) == "<aoti_build model weighted/cpu, cpu: model(x)>"


def test_keywords_give_the_structure_that_the_model_returns(
    load: Callable[..., LoadedModel],
) -> None:
    tokens, mask = torch.randint(0, 11, (3, 6)), torch.ones(3, 6, dtype=torch.bool)
    output = load("tagger")(mask=mask, tokens=tokens)
    assert list(output) == ["labels", "extra", "none"]
    assert output["labels"].shape == (3, 6, 3)
    assert torch.equal(output["extra"][1], tokens + 1)
    assert output["none"] is None


def test_nested_inputs_give_eagers_numbers(tied: Path) -> None:
    torch.manual_seed(0)
    module, inputs = eager(tied, "Tied")().eval(), eager(tied, "inputs")
    with aoti_build.load("tied", artifacts=tied / "artifacts") as model, torch.no_grad():
        model.update_weights(module.state_dict())
        for batch, width in ((2, 8), (4, 16), (16, 64)):
            call = inputs(batch, width)
            got, expected = model(**call), module(**call)
            same(got["hidden"], expected["hidden"])
            same(got["rest"][0], expected["rest"][0])
            assert got["none"] is None


def test_strided_inputs_are_answered_rightly(load: Callable[..., LoadedModel]) -> None:
    model, wide = load("weighted"), torch.randn(8, 4)
    same(model(wide.t()), model(wide.t().contiguous()))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"x": torch.zeros(9, 8)}, ["input x", "[batch, 8] with batch 2..8", "given [9, 8]"]),
        ({"x": torch.zeros(4, 7)}, ["input x", "given [4, 7]"]),
        (
            {"x": torch.zeros(4, 8, dtype=torch.float64)},
            ["input x", "expected dtype float32, given float64"],
        ),
        (
            {"x": torch.zeros(4, 8, device="meta")},
            ["input x", "expected a tensor on cpu, given one on meta"],
        ),
        ({"x": [[0.0] * 8] * 4}, ["input x", "given list"]),
        ({}, ["x is missing"]),
    ],
)
def test_wrong_inputs_are_refused_by_name(
    load: Callable[..., LoadedModel], call: dict[str, Any], said: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        load("weighted")(**call)
    assert all(words in str(caught.value) for words in said)
    assert caught.value.target == "weighted/cpu"


class Wrapper(torch.Tensor):
    """Stands for another tensor and has no memory, as quantised and distributed tensors do."""

    @staticmethod
    def __new__(cls: type[Wrapper], inner: torch.Tensor) -> Wrapper:
        make: Any = torch.Tensor._make_wrapper_subclass
        wrapper: Wrapper = make(cls, inner.shape, dtype=inner.dtype)
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, *_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is computed with it")


def freed() -> torch.Tensor:
    value = torch.zeros(4, 8)
    value.untyped_storage().resize_(0)
    return value


def functional() -> torch.Tensor:
    wrapped: torch.Tensor = torch._to_functional_tensor(torch.zeros(4, 8))
    return wrapped


def nested() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it is a prototype
        return torch.nested.nested_tensor([torch.zeros(8)] * 4)  # type: ignore[no-any-return]


WITHOUT_MEMORY: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.zeros(4, 8).to_sparse(),
    "mkldnn": lambda: torch.zeros(4, 8).to_mkldnn(),
    "wrapper": lambda: Wrapper(torch.zeros(4, 8)),
    "functional": functional,
    "nested": nested,
    "freed": freed,
    "zero": lambda: torch._efficientzerotensor((4, 8)),
}


@pytest.mark.parametrize("make", WITHOUT_MEMORY.values(), ids=WITHOUT_MEMORY.keys())
def test_tensors_without_memory_are_refused(
    load: Callable[..., LoadedModel], make: Callable[[], torch.Tensor]
) -> None:
    """Compiled code reads the memory of a tensor, so that these crash the process or give
    nonsense."""
    model = load("weighted")
    model(torch.zeros(4, 8))
    with pytest.raises(InputError, match="input x: expected a tensor with memory of its own"):
        model(make())


def test_a_call_inside_of_a_transform_is_refused(load: Callable[..., LoadedModel]) -> None:
    model = load("weighted")
    with pytest.raises(InputError, match="input x: expected a tensor with memory of its own"):
        torch.func.vmap(model)(torch.zeros(2, 4, 8))


@pytest.mark.parametrize("given", [None, [("a.bias", torch.zeros(12))], {3: torch.zeros(12)}])
def test_what_is_no_state_dict_is_refused(load: Callable[..., LoadedModel], given: Any) -> None:
    with pytest.raises(InputError, match="expected"):
        load("weighted").update_weights(given, partial=True)


def test_new_weights_give_the_numbers_of_a_model_that_has_them(
    load: Callable[..., LoadedModel],
) -> None:
    model, x = load("weighted"), torch.randn(4, 8)
    before = model(x)
    state = {
        "a.weight": torch.randn(12, 8),
        "a.bias": torch.randn(12),
        "b.weight": torch.randn(4, 12),
    }
    state["b.bias"] = torch.randn(4)

    def expected() -> torch.Tensor:
        hidden = torch.relu(nn.functional.linear(x, state["a.weight"], state["a.bias"]))
        return nn.functional.linear(hidden, state["b.weight"], state["b.bias"])

    model.update_weights(state)
    same(model(x), expected())
    # Not contiguous, and a piece of a larger storage: copied by value, not by memory.
    state |= {"a.weight": torch.randn(8, 12).t(), "b.bias": torch.randn(1000)[500:504]}
    model.update_weights({name: state[name] for name in ("a.weight", "b.bias")}, partial=True)
    same(model(x), expected())
    state["a.weight"].zero_()
    assert not torch.allclose(model(x), expected()), "the values were copied"
    assert not torch.allclose(model(x), before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"a.bias": None}, "1 of 4 weights are missing: a.bias"),
        ({"a.bia": torch.zeros(12)}, "the model has no weight a.bia"),
        (
            {"a.bias": torch.zeros(12, dtype=torch.float64)},
            "weight a.bias: expected dtype float32, given float64",
        ),
        ({"a.bias": torch.zeros(11)}, "weight a.bias: expected shape [12], given [11]"),
        ({"a.bias": [0.0] * 12}, "weight a.bias: expected a tensor, given list"),
        ({"a.bias": torch.zeros(12, device="meta")}, "weight a.bias"),
        ({"a.bias": torch._efficientzerotensor((12,))}, "weight a.bias"),
    ],
)
def test_wrong_weights_are_refused_and_change_nothing(
    load: Callable[..., LoadedModel], change: dict[str, Any], said: str
) -> None:
    model, x = load("weighted"), torch.randn(4, 8)
    before = model(x)
    state = {"a.weight": torch.ones(12, 8), "a.bias": torch.ones(12), "b.weight": torch.ones(4, 12)}
    state |= {"b.bias": torch.ones(4), **change}
    with pytest.raises(InputError) as caught:
        model.update_weights({name: value for name, value in state.items() if value is not None})
    assert said in str(caught.value)
    assert torch.equal(model(x), before)
    # Whoever keeps the error must not keep the native model, which `close` frees.
    for frame, _ in traceback.walk_tb(caught.value.__traceback__):
        assert all(value is not model._loader for value in frame.f_locals.values())


def test_tied_weights_are_one(tied: Path) -> None:
    module, inputs = eager(tied, "Tied")().eval(), eager(tied, "inputs")(4, 16)
    with aoti_build.load("tied", artifacts=tied / "artifacts") as model, torch.no_grad():
        state = module.state_dict()
        with pytest.raises(InputError, match="were given two values"):
            model.update_weights({**state, "a.weight": torch.zeros(8, 8)})
        model.update_weights({name: value for name, value in state.items() if name != "b.weight"})
        same(model(**inputs)["hidden"], module(**inputs)["hidden"])


def test_what_an_older_release_built_says_why_its_weights_stay(
    load: Callable[..., LoadedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load("linear")
    monkeypatch.delitem(model._manifest.signature, "weights")  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="cannot be replaced"):
        model.update_weights({})


def test_calls_weights_and_close_from_many_threads(load: Callable[..., LoadedModel]) -> None:
    model, x = load("weighted", num_runners=2), torch.ones(2, 8)
    states = []
    for value in (0.0, 1.0):
        shapes = {"a.weight": (12, 8), "a.bias": (12,), "b.weight": (4, 12), "b.bias": (4,)}
        states.append({name: torch.full(shape, value) for name, shape in shapes.items()})
    allowed, seen, ended = {0.0, 109.0}, set(), []
    model.update_weights(states[0])

    def call() -> None:
        try:
            while True:
                seen.update(model(x).unique().tolist())
        except ClosedError as error:
            ended.append(error)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(40):
        model.update_weights(states[number % 2])
    model.close()
    for thread in threads:
        thread.join(timeout=60)
    assert len(ended) == 4
    assert seen <= allowed, "a call saw some of the old weights and some of the new"
    model.close()
    with pytest.raises(ClosedError):
        model.update_weights(states[0])


@pytest.mark.parametrize("runners", [1, 2])
def test_threads_with_inputs_that_are_copied(
    load: Callable[..., LoadedModel], runners: int
) -> None:
    """The loader alone owns such a copy, and frees it while it runs. That releases the lock of the
    interpreter, and another thread must not wait for the runner with it."""
    model = load("weighted", num_runners=runners)
    wrong: list[torch.Tensor] = []

    def work() -> None:
        for _ in range(200):
            x = torch.rand(8, 5).t()
            if (model(x) - model(x.contiguous())).abs().max() > 1e-4:
                wrong.append(x)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "they wait for each other"
    assert not wrong


def test_a_ctrl_c_while_one_waits_to_be_alone_lets_later_calls_through() -> None:
    gate = Gate()
    gate.enter("a call that is under way")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    gate._changed.wait = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), gate.alone():
        pytest.fail("the call had not ended")
    gate.leave("a call that is under way")
    gate._changed.wait = lambda _: pytest.fail("a later call waits")  # type: ignore[method-assign]
    gate.enter("a later call")


def test_a_cpu_model_runs_as_usual_if_cuda_graphs_are_asked_for(
    load: Callable[..., LoadedModel], capsys: pytest.CaptureFixture[str]
) -> None:
    """So that a service has one line for all hosts."""
    x = torch.randn(3, 8)
    expected = load("weighted")(x)
    with pytest.warns(RuntimeWarning, match="weighted/cpu runs without CUDA graphs: it runs on"):
        model = load("weighted", cuda_graphs=[{"batch": 3}], explain=True)
    assert "no CUDA graphs: it runs on the device cpu" in capsys.readouterr().err
    buffers = model.buffers({"batch": 3})
    buffers["x"].copy_(x)
    for given in (x, buffers["x"]):
        same(model(given), expected)
    report = model.metadata["load"]["cuda_graphs"]
    assert (report["graphs"], report["why_not"]) == ([], "it runs on the device cpu")
    model.close()
    with pytest.raises(ClosedError):
        model.buffers({"batch": 3})


def test_options_of_graphs_are_checked_before_anything_is_loaded(
    load: Callable[..., LoadedModel],
) -> None:
    with pytest.raises(UsageError, match="cuda_graphs is 'yes'"):
        load("weighted", cuda_graphs="yes")
    with pytest.raises(UsageError, match="num_runners is 2, and CUDA graphs"):
        load("weighted", cuda_graphs=True, num_runners=2)


def test_a_warm_up_takes_sizes_of_the_range(load: Callable[..., LoadedModel]) -> None:
    model = load("weighted")
    model.warm_up({"batch": 5})
    for sizes, said in (({"batch": 99}, "batch is 99"), (None, "a size for batch is missing")):
        with pytest.raises(InputError, match=said):
            model.warm_up(sizes)
    with pytest.raises(UsageError, match="without CUDA graphs"):
        model.buffers({"batch": 5})


def test_metadata_is_the_manifest(
    load: Callable[..., LoadedModel], built_once: tuple[Path, Finished]
) -> None:
    model = load("linear", verify="stat")
    manifest = json.loads((built_once[0] / "artifacts/linear/cpu/manifest.json").read_text())
    assert {name: model.metadata[name] for name in manifest} == manifest
    assert model.metadata["load"]["verify"] in ("full", "stat")
    assert str(model.choice) == "linear/cpu: chosen"


# Runs in a process of its own: loads what it is told to, and says what was imported, started and
# opened for it.
LOADER = """
import json, sys
import torch
before = set(sys.modules)
started, mapped = [], []
def hook(event, args):
    if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork"):
        started.append(str(args[0]))
sys.addaudithook(hook)
import aoti_build
from aoti_build.common.digests import digest_json
from aoti_build.errors import AotiBuildError
try:
    model = aoti_build.load("linear", **json.loads(sys.argv[1]))
    said = list(model(torch.ones(4, 8)).shape)
except AotiBuildError as error:
    said = f"{type(error).__name__}: {error}"
maps = open("/proc/self/maps").read()
native = ".wrapper.so" in maps
unwanted = {"torch._inductor", "torch._dynamo", "yaml", "pydantic", "invoke"}
heavy = sorted(unwanted & set(sys.modules) - before)
print(json.dumps({"said": said, "started": started, "heavy": heavy, "native": native}))
"""


def loaded_alone(artifacts: Path, **options: Any) -> dict[str, Any]:
    arguments = json.dumps({"artifacts": str(artifacts), **options})
    answer = subprocess.run(
        [sys.executable, "-c", LOADER, arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        cwd="/",
    )
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("verify", ["full", "off"])
def test_loading_starts_nothing_and_imports_no_compiler(
    built_once: tuple[Path, Finished], verify: str
) -> None:
    answer = loaded_alone(built_once[0] / "artifacts", verify=verify)
    assert answer == {"said": [4, 4], "started": [], "heavy": [], "native": True}


def _flip_a_byte(directory: Path) -> None:
    content = bytearray((directory / "model.pt2").read_bytes())
    content[-5000] ^= 1
    (directory / "model.pt2").write_bytes(content)


def _edit_manifest(directory: Path, field: str, value: Any) -> None:
    from aoti_build.common.digests import digest_json

    document = json.loads((directory / "manifest.json").read_text())
    document["requires"][field] = value
    del document["sha256"]
    (directory / "manifest.json").write_text(
        json.dumps({**document, "sha256": digest_json(document)})
    )


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_flip_a_byte, "model.pt2 does not match the manifest"),
        (lambda directory: (directory / "model.pt2").write_bytes(b"PK"), "it has 2 bytes"),
        (lambda directory: (directory / "model.pt2").unlink(), "cannot be read"),
        (
            lambda directory: (directory / "manifest.json").write_text("{"),
            "damaged: manifest.json cannot be read",
        ),
        (
            lambda directory: _edit_manifest(directory, "torch", "1.13.0"),
            "built with torch 1.13.0, this host has",
        ),
        (
            lambda directory: _edit_manifest(directory, "machine", "riscv64"),
            "built for machine riscv64",
        ),
        (
            lambda directory: _edit_manifest(directory, "platform", "plan9"),
            "built for platform plan9",
        ),
        (
            lambda directory: _edit_manifest(directory, "cpu_features", ["amx_fp8"]),
            "this processor lacks amx_fp8",
        ),
    ],
)
def test_what_is_damaged_or_unfit_is_refused_before_any_native_code(
    built: Path, damage: Callable[[Path], object], said: str
) -> None:
    damage(built / "artifacts/linear/cpu")
    answer = loaded_alone(built / "artifacts")
    assert answer["said"].startswith("ArtifactError: ")
    assert said in answer["said"]
    assert not answer["native"]


def test_read_only_artifacts_alone_are_enough(built: Path, tmp_path: Path) -> None:
    """No models.yaml, no sources, and nothing that could be written."""
    moved = tmp_path / "served"
    shutil.copytree(built / "artifacts" / "linear", moved / "linear")
    for path in (moved, *moved.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert loaded_alone(moved)["said"] == [4, 4]
        assert loaded_alone(moved, verify="stat")["said"] == [4, 4]
    finally:
        for path in (moved, *moved.rglob("*")):
            path.chmod(0o755)


def test_processes_share_what_was_unpacked(
    built_once: tuple[Path, Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AOTI_BUILD_RUNTIME_CACHE", str(tmp_path / "shared"))
    with aoti_build.load("linear", artifacts=built_once[0] / "artifacts") as model:
        if not model.metadata["load"]["unpacked"]:
            pytest.skip("this torch loads packages only")
        before = {path: path.stat() for path in (tmp_path / "shared").rglob("*.so")}
        assert len(before) == 1
        assert loaded_alone(built_once[0] / "artifacts")["said"] == [4, 4]
        assert {path: path.stat().st_ino for path in before} == {
            path: st.st_ino for path, st in before.items()
        }


def test_a_package_that_torch_cannot_load_is_an_error_of_ours(built: Path) -> None:
    """What passes every check and is still no package: the manifest was made for it."""
    from aoti_build.common.digests import digest_bytes, digest_json

    directory = built / "artifacts/linear/cpu"
    (directory / "model.pt2").write_bytes(b"not a zip")
    document = json.loads((directory / "manifest.json").read_text())
    document["files"]["model.pt2"] = {"sha256": digest_bytes(b"not a zip"), "size": 9}
    del document["sha256"]
    (directory / "manifest.json").write_text(
        json.dumps({**document, "sha256": digest_json(document)})
    )
    with pytest.raises(ArtifactError, match="torch could not load the package"):
        aoti_build.load("linear", artifacts=built / "artifacts")


def test_the_example_service_answers(built_once: tuple[Path, Finished]) -> None:
    example = Path(__file__).parents[2] / "examples" / "serve.py"
    command = [
        sys.executable,
        str(example),
        "linear",
        "--artifacts",
        str(built_once[0] / "artifacts"),
        "--port",
        "0",
    ]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[-1]
            answers = []
            for rows in (4, 3):
                body = json.dumps({"x": [[1.0] * 8] * rows}).encode()
                connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
                connection.request("POST", "/", body)
                response = connection.getresponse()
                answers.append((response.status, json.load(response)))
                connection.close()
        finally:
            process.terminate()
    assert answers[0][0] == 200
    assert len(answers[0][1]) == 4
    status, refusal = answers[1]
    assert (status, refusal["error"]["message"]) == (
        400,
        "input x: expected shape [4, 8], given [3, 8]",
    )


def test_errors_are_all_of_one_family() -> None:
    for kind in (ArtifactError, InputError, ClosedError):
        assert issubclass(kind, AotiBuildError)
