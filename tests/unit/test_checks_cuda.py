"""The checks of CUDA, against drivers and toolkits that a test makes up."""

from __future__ import annotations

import ctypes.util
import importlib.machinery
import shutil
from pathlib import Path
from typing import Any

import pytest

from aoti_build.host import cuda as host_cuda
from aoti_build.host import installed_torch
from aoti_build.host.checks import cuda, cuda_headers
from aoti_build.host.checks.cuda import Gpu, check_cuda, gpu_of
from aoti_build.host.checks.cuda_headers import check_headers
from aoti_build.host.checks.finding import FAIL, OK, UNAVAILABLE, WARN, Finding
from aoti_build.host.cuda_driver import CudaDriver

HOPPER = Gpu((9, 0), (13, 0))


class Driver:
    """Stands in for libcuda: what it answers is set by a test."""

    def __init__(
        self,
        *,
        init: int = 0,
        count: int = 1,
        version: int = 13000,
        capability: tuple[int, int] = (9, 0),
    ) -> None:
        self.init, self.count, self.version, self.capability = init, count, version, capability
        self.free = 8 << 30
        self.held = 0
        self.named = True

    def cuInit(self, _: int) -> int:  # noqa: N802
        return self.init

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.count
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self.version
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = index
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, _: Any) -> int:  # noqa: N802
        value._obj.value = self.capability[attribute - 75]
        return 0

    def cuDeviceGetName(self, text: Any, size: int, _: Any) -> int:  # noqa: N802
        text.value = b"NVIDIA H200"[:size]
        return 0 if self.named else 101

    def cuDevicePrimaryCtxRetain(self, *_: Any) -> int:  # noqa: N802
        self.held += 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, _: Any) -> int:  # noqa: N802
        self.held -= 1
        return 0

    def cuCtxSetCurrent(self, _: Any) -> int:  # noqa: N802
        return 0

    def cuMemGetInfo_v2(self, free: Any, _: Any) -> int:  # noqa: N802
        free._obj.value = self.free
        return 0 if self.free else 2


@pytest.fixture(autouse=True)
def _torch_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed_torch, "torch_cuda", lambda: "13.0")
    for variable in ("CUDA_HOME", "CUDA_PATH", "TRITON_PTXAS_PATH", "TRITON_PTXAS_BLACKWELL_PATH"):
        monkeypatch.delenv(variable, raising=False)


def test_a_torch_without_cuda_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed_torch, "torch_cuda", lambda: None)
    (finding,) = check_cuda()
    assert (finding.outcome, finding.device) == (UNAVAILABLE, "cuda")


def test_no_driver_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    (finding,) = check_cuda()
    assert finding.outcome == UNAVAILABLE
    assert "libcuda.so.1" in (finding.cause or "")


@pytest.mark.parametrize("driver", [Driver(init=100), Driver(count=0)], ids=["error 100", "none"])
def test_no_gpu_is_no_failure_and_a_hidden_one_is_said(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    finding = gpu_of(CudaDriver(driver))
    assert isinstance(finding, Finding)
    assert finding.outcome == UNAVAILABLE
    assert "CUDA_VISIBLE_DEVICES=''" in finding.message


@pytest.mark.parametrize(
    ("code", "said"), [(803, "kernel module differ"), (802, "fabricmanager"), (46, "CUresult")]
)
def test_a_driver_that_does_not_start_fails(code: int, said: str) -> None:
    finding = gpu_of(CudaDriver(Driver(init=code)))
    assert isinstance(finding, Finding)
    assert (finding.outcome, finding.stops) == (FAIL, True)
    assert said in finding.message


def test_a_gpu_has_a_name_or_none() -> None:
    driver = Driver()
    assert CudaDriver(driver).name(0) == "NVIDIA H200"
    driver.named = False
    assert CudaDriver(driver).name(0) == ""


def test_a_gpu_is_read() -> None:
    assert gpu_of(CudaDriver(Driver(version=12080, capability=(8, 6)))) == Gpu((8, 6), (12, 8))


@pytest.mark.parametrize(
    ("driver", "built", "outcome"),
    [
        ((13, 0), "13.0", OK),
        ((13, 1), "12.8", OK),
        ((12, 4), "12.8", WARN),
        ((12, 9), "13.0", FAIL),
        ((11, 8), "12.1", FAIL),
    ],
)
def test_the_driver_against_the_cuda_of_torch(
    driver: tuple[int, int], built: str, outcome: str
) -> None:
    finding = cuda._driver(Gpu((9, 0), driver), built)
    assert finding.outcome == outcome
    assert finding.stops is (outcome == FAIL)
    assert (finding.fix is None) is (outcome == OK)


def test_a_gpu_that_is_too_old_for_triton() -> None:
    assert cuda._device(Gpu((6, 1), (12, 8))).outcome == FAIL
    assert cuda._device(Gpu((7, 0), (12, 8))).outcome == OK


def test_ptxas_must_run_and_know_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ptxas"
    program.write_text("#!/bin/sh\necho \"'sm_80','sm_90','sm_90a'\"\n")
    monkeypatch.setenv("TRITON_PTXAS_PATH", str(program))
    refused = cuda._ptxas(HOPPER)
    assert (refused.outcome, "does not run" in refused.message) == (FAIL, True)
    program.chmod(0o755)
    assert cuda._ptxas(HOPPER).outcome == OK
    unknown = cuda._ptxas(Gpu((8, 9), (13, 0)))
    assert (unknown.outcome, "sm_89" in unknown.message) == (FAIL, True)
    assert "TRITON_PTXAS_PATH" in (unknown.fix or "")


def test_the_ptxas_that_is_tried_is_the_one_of_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's wheel has one, which Triton is given in place of its own."""
    program = tmp_path / "torch/bin/ptxas"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho \"'sm_90'\"\n")
    program.chmod(0o755)
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name: importlib.machinery.ModuleSpec(
            name, None, origin=str(tmp_path / name / "__init__.py")
        ),
    )
    assert (
        cuda._ptxas(HOPPER).message
        == f"{host_cuda.ptxas('9.0')} knows sm_90"
        == f"{program} knows sm_90"
    )


def test_a_missing_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert cuda._triton().outcome == FAIL


def test_the_launcher_needs_a_c_compiler_and_python_h(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", "/no/such/gcc")
    assert "no C compiler" in cuda._launcher_compiler().message
    monkeypatch.setenv("CC", shutil.which("gcc") or "gcc")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    finding = cuda._launcher_compiler()
    assert (finding.outcome, "no Python.h" in finding.message) == (FAIL, True)
    assert finding.fix == "install python3-dev"
    (tmp_path / "Python.h").touch()
    assert cuda._launcher_compiler().outcome == OK


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for toolkits; those in it are all that there are."""
    monkeypatch.setattr(cuda_headers, "_homes", lambda: iter(sorted(tmp_path.iterdir())))
    return tmp_path


def toolkit(
    root: Path, *, headers: tuple[str, ...] = ("cuda.h", "cuda_runtime_api.h"), stubs: str = "stubs"
) -> Path:
    (root / "include").mkdir(parents=True)
    (root / "lib64" / stubs).mkdir(parents=True)
    for name in headers:
        (root / "include" / name).touch()
    # A linker script is a library as well.
    (root / "lib64" / stubs / "libcuda.so").write_text("/* nothing */\n")
    return root


def test_headers_and_stubs_are_used_as_torch_uses_them(
    homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(toolkit(homes / "cuda-13.0")))
    assert check_headers().outcome == OK


@pytest.mark.skipif(
    ctypes.util.find_library("cuda") is not None, reason="the linker finds libcuda without stubs"
)
def test_stubs_count_only_where_the_variable_names_the_toolkit(
    homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = toolkit(homes / "cuda-13.0")
    monkeypatch.setattr(cuda_headers, "cuda_home", lambda: home)
    finding = check_headers()
    assert (finding.outcome, finding.stops, finding.fix) == (FAIL, True, f"CUDA_HOME={home}")
    assert "libcuda.so" in finding.message


def test_a_toolkit_without_headers_and_a_better_one(
    homes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with an nvcc that is a script in /usr/local/bin, or the headers of the wheels."""
    monkeypatch.setenv("CUDA_HOME", str(toolkit(homes / "guess", headers=("cuda.h",))))
    finding = check_headers()
    assert (finding.outcome, finding.stops) == (FAIL, True)
    assert "cuda_runtime_api.h" in (finding.cause or "")
    assert "install the CUDA toolkit 13.0" in (finding.fix or "")
    better = toolkit(homes / "toolkit")
    assert check_headers().fix == f"CUDA_HOME={better}"


def test_no_toolkit_at_all(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_headers, "cuda_home", lambda: None)
    finding = check_headers()
    assert homes.is_dir()
    assert (finding.outcome, finding.stops) == (FAIL, True)


def test_free_memory_is_asked_and_the_device_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr("ctypes.CDLL", lambda _: driver)
    assert (CudaDriver(driver).free_memory(), driver.held) == (8 << 30, 0)
    assert cuda._memory().outcome == OK
    driver.free = 1 << 30
    assert cuda._memory().outcome == WARN
    driver.free = 0
    assert (CudaDriver(driver).free_memory(), driver.held) == (None, 0)


def test_all_of_it_on_a_host_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda _: Driver())
    names = [finding.check for finding in check_cuda()]
    assert names == [
        "device",
        "driver",
        "triton",
        "ptxas",
        "C compiler",
        "CUDA headers",
        "nvcc",
        "GPU memory",
    ]
    assert "GPU memory" not in [finding.check for finding in check_cuda(memory=False)]


@pytest.mark.parametrize(
    ("can", "tool", "said"),
    [
        (False, "/bin/fatbinary", None),
        (True, "/bin/fatbinary", "packages for a named arch are made with /bin/fatbinary"),
        (True, None, "packages for other GPUs cannot be made"),
    ],
)
def test_what_makes_fat_binaries_is_named_where_torch_can_use_it(
    monkeypatch: pytest.MonkeyPatch, tool: str | None, said: str | None, *, can: bool
) -> None:
    monkeypatch.setattr(host_cuda, "packages_for_other_gpus", lambda: can)
    monkeypatch.setattr(host_cuda, "fatbin_tool", lambda: tool)
    found = cuda._nvcc()
    assert found.outcome == OK
    assert (said or "") in found.message
    assert said or "for a named arch are" not in found.message
