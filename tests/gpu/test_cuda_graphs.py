"""Calls that are replayed from CUDA graphs, on a GPU: they give what calls without graphs give.

Each model is a project of its own, and all are built at once.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gpu_projects import NEEDS_GPU, inv

pytestmark = NEEDS_GPU

SOURCE = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, image):
        hidden = torch.relu(self.norm(self.conv(image)))
        return {"scores": self.head(hidden.mean((2, 3))), "hidden": hidden}


class Delay(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(8))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        y = self.layer(x) - 2 * self.last * self.calls
        self.last.copy_(x.mean(0))
        self.calls += 1
        return y


class Written(nn.Module):
    def forward(self, src, dst):
        dst[0:, :] = src[0:, :]
        src.add_(1)
        return src.shape[0] * torch.ones(2, device=src.device), src.shape[0]


class Waits(nn.Module):
    def forward(self, x):
        return x.sum(1)[x[:, 0] > 0].cumsum(0)
"""
BATCH = "    dims: {batch: {min: 1, max: 8, example: 4}}\n"
MODELS = {
    "Net": BATCH + "    inputs: {image: {shape: [batch, 3, 32, 32]}}\n",
    "Delay": BATCH + "    inputs: [{shape: [batch, 8]}]\n",
    "Written": BATCH + "    inputs: [{shape: [batch, 8]}, {shape: [batch, 8]}]\n",
    "Waits": "    inputs: [{shape: [6, 8]}]\n",
}


def _build(root: Path, name: str) -> Path:
    root.mkdir()
    (root / "nets.py").write_text(SOURCE)
    entry = f"    source: nets.py:{name}\n    devices: [cuda]\n{MODELS[name]}"
    (root / "models.yaml").write_text(f"version: 1\nmodels:\n  model:\n{entry}")
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    finished = inv(root, "build", "--strict")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return root


@pytest.fixture(scope="module")
def building(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Path]]]:
    root = tmp_path_factory.mktemp("graphs")
    with ThreadPoolExecutor() as pool:
        yield {name: pool.submit(_build, root / name, name) for name in MODELS}


@pytest.fixture(scope="module")
def roots(building: dict[str, Future[Path]]) -> dict[str, Path]:
    return {name: future.result() for name, future in building.items()}


def load(roots: dict[str, Path], name: str, **options: Any) -> Any:
    import aoti_build

    return aoti_build.load("model", artifacts=roots[name] / "artifacts", device="cuda", **options)


def eager(roots: dict[str, Path], name: str) -> Any:
    import importlib.util

    import torch

    found = importlib.util.spec_from_file_location("nets", roots[name] / "nets.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    torch.manual_seed(0)
    return getattr(module, name)().eval().cuda()


def image(batch: int, generator: Any = None) -> Any:
    import torch

    return torch.randn(batch, 3, 32, 32, device="cuda", generator=generator)


def close(value: Any, expected: Any) -> None:
    import torch

    torch.testing.assert_close(value, expected, atol=2e-3, rtol=2e-3)


def test_each_size_is_recorded_once_and_replayed(roots: dict[str, Path]) -> None:
    import torch

    model = eager(roots, "Net")
    with load(roots, "Net", cuda_graphs=True) as loaded, torch.no_grad():
        kept = []
        for batch in (1, 3, 8, 3, 1, 8, 8):
            given = image(batch)
            output = loaded(image=given)
            kept.append((output, model(given)))
            close(output, kept[-1][1])
        for output, expected in kept:  # no later call has changed them
            close(output, expected)
        report = loaded.metadata["load"]["cuda_graphs"]
        assert [graph["image"][0] for graph in report["graphs"]] == [1, 3, 8]
        assert report["memory"] > 0
        assert report["why_not"] is None
        print(json.dumps(report))


def test_streams_and_threads_of_the_caller(roots: dict[str, Path]) -> None:
    import torch

    model = eager(roots, "Net")
    wrong: list[int] = []
    with load(roots, "Net", cuda_graphs=True) as loaded:

        def work(batch: int) -> None:
            stream = torch.cuda.Stream()
            # torch refuses the default generator to all threads while one records a graph.
            generator = torch.Generator("cuda").manual_seed(batch)
            with torch.cuda.stream(stream), torch.no_grad():
                for _ in range(40):
                    given = image(batch, generator)
                    output, expected = loaded(image=given), model(given)
                    stream.synchronize()
                    if (output["scores"] - expected["scores"]).abs().max() > 2e-3:
                        wrong.append(batch)

        threads = [threading.Thread(target=work, args=(batch,)) for batch in (1, 2, 2, 8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


def test_buffers_static_outputs_and_warm_up(roots: dict[str, Path]) -> None:
    import torch

    import aoti_build

    model = eager(roots, "Net")
    options = aoti_build.CudaGraphs(static_outputs=True)
    with load(roots, "Net", cuda_graphs=options) as loaded, torch.no_grad():
        loaded.warm_up({"batch": 2})
        buffers = loaded.buffers({"batch": 2})
        pointers = set()
        for _ in range(3):
            buffers["image"].copy_(image(2))
            output = loaded(**buffers)
            close(output, model(buffers["image"]))
            pointers.add(output["hidden"].data_ptr())
        assert len(pointers) == 1
    with load(roots, "Net", cuda_graphs=[{"batch": 4}]) as loaded:
        for batch in (1, 4):
            close(loaded(image=image(batch))["scores"].shape, torch.Size([batch, 5]))
        graphs = loaded.metadata["load"]["cuda_graphs"]["graphs"]
        assert graphs == [{"image": [4, 3, 32, 32]}]


def test_new_weights_are_used(roots: dict[str, Path]) -> None:
    import torch

    model = eager(roots, "Net")
    with load(roots, "Net", cuda_graphs=True) as loaded, torch.no_grad():
        given = image(2)
        loaded(image=given)
        loaded(image=given)
        changed = {name: value + 0.1 for name, value in model.state_dict().items()}
        changed["norm.num_batches_tracked"] = model.state_dict()["norm.num_batches_tracked"]
        model.load_state_dict(changed)
        loaded.update_weights(model.state_dict())
        for _ in range(3):
            close(loaded(image=given), model(given))


def test_a_model_with_state_goes_on_by_one_call_at_a_time(roots: dict[str, Path]) -> None:
    import torch

    model = eager(roots, "Delay")
    with load(roots, "Delay", cuda_graphs=True) as loaded, torch.no_grad():
        for _ in range(2):
            reference = eager(roots, "Delay")
            loaded.warm_up({"batch": 3})
            for batch in (3, 3, 5, 3, 5, 5, 3):
                given = torch.randn(batch, 8, device="cuda")
                close(loaded(given), reference(given))
            assert len(loaded.metadata["load"]["cuda_graphs"]["graphs"]) == 2
            loaded.reset_state()
    assert model is not None


def test_what_the_model_writes_reaches_the_caller(roots: dict[str, Path]) -> None:
    import torch

    model = eager(roots, "Written")
    with load(roots, "Written", cuda_graphs=True) as loaded, torch.no_grad():
        for batch in (2, 2, 5, 2, 5):
            given = [torch.randn(batch, 8, device="cuda") for _ in range(2)]
            expected = [value.clone() for value in given]
            output = loaded(*given)
            close(output, model(*expected))
            close(given, expected)
        strided = [torch.randn(8, 2, device="cuda").t() for _ in range(2)]
        expected = [value.clone() for value in strided]
        loaded(*strided)
        model(*expected)
        close(strided, expected)


def test_a_package_that_waits_for_the_gpu_runs_without_graphs(roots: dict[str, Path]) -> None:
    import torch

    model = eager(roots, "Waits")
    with load(roots, "Waits", cuda_graphs=True) as loaded, torch.no_grad():
        given = torch.randn(6, 8, device="cuda")
        with pytest.warns(RuntimeWarning, match="model/cuda runs without CUDA graphs"):
            close(loaded(given), model(given))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(3):
                given = torch.randn(6, 8, device="cuda")
                close(loaded(given), model(given))
        print(loaded.metadata["load"]["cuda_graphs"]["why_not"])
    # The failed recording left nothing behind.
    assert torch.rand(3, device="cuda").isfinite().all()
    with load(roots, "Net", cuda_graphs=True) as loaded, torch.no_grad():
        given = image(2)
        close(loaded(image=given), loaded(image=given))
        assert len(loaded.metadata["load"]["cuda_graphs"]["graphs"]) == 1


@pytest.mark.parametrize("name", ["Net", "Delay", "Written"])
def test_verify_and_run_compare_what_is_replayed(roots: dict[str, Path], name: str) -> None:
    finished = inv(roots[name], "verify", "--cuda-graphs", "--strict", "--json")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (row,) = json.loads(finished.stdout)["targets"]
    assert (row["verdict"], row["runtime"]) == ("passed", "cuda-graphs")
    finished = inv(roots[name], "run", "--cuda-graphs", "--json")
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_verify_says_what_cannot_be_replayed(roots: dict[str, Path]) -> None:
    finished = inv(roots["Waits"], "verify", "--cuda-graphs", "--strict", "--json")
    assert finished.returncode == 3, finished.stdout + finished.stderr
    (row,) = json.loads(finished.stdout)["targets"]
    assert row["verdict"] == "unavailable"
    assert row["out_of_date"][0]["reason"] == "not-in-cuda-graphs"
