"""The C++ runner of `verify --runtime cpp`: how it is compiled, when again, and that verdicts say
so. No compiler runs here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from small_projects import FakeWorker, inv

from aoti_build.artifact.paths import runner_cache
from aoti_build.commands.verify import command as verify_command
from aoti_build.commands.verify.command import verify
from aoti_build.errors import DirectoryError, ToolchainError
from aoti_build.host import installed_torch, toolchain
from aoti_build.messages import CompileJob, CompileResult
from aoti_build.models_file import Project
from aoti_build.report.html import html_page
from aoti_build.report.junit import junit_xml
from aoti_build.report.verify_text import verify_lines
from aoti_build.work import runner
from aoti_build.work.runner import SOURCE, compile_command, compiled_runner, runner_key


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AOTI_BUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "cache"


class FakeCompiler:
    """Stands in for the `compile` worker."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.error: Exception | None = None

    def __call__(self, job: CompileJob, **_: Any) -> CompileResult:
        self.commands.append(job.command)
        if self.error:
            raise self.error
        Path(job.command[job.command.index("-o") + 1]).write_text("a program")
        return CompileResult(seconds={})


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    fake = FakeCompiler()
    monkeypatch.setattr(runner, "run_worker", fake)
    return fake


def test_the_source_is_in_the_package() -> None:
    assert "AOTIModelPackageLoader" in SOURCE.read_text()
    assert SOURCE.parents[1] == Path(runner.__file__).parents[1]


def test_the_command_is_words_for_the_installed_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "ccache 'my g++'")
    monkeypatch.setattr(installed_torch, "torch_directory", lambda: Path("/a b/torch"))
    words = compile_command("cpu", Path("/out/runner"))
    assert words[:2] == ["ccache", "my g++"]
    assert {
        "-I/a b/torch/include",
        "-L/a b/torch/lib",
        "-Wl,-rpath,/a b/torch/lib",
        str(SOURCE),
    } <= set(words)
    assert words.index("-Wl,--no-as-needed") < words.index("-ltorch_cpu")
    assert not any("cuda" in word for word in words)
    assert {"-ltorch_cuda", "-lc10_cuda"} <= set(compile_command("cuda", Path("/out/runner")))


def test_no_torch_and_no_compiler_are_the_toolchains_faults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "'")
    with pytest.raises(ToolchainError, match="is not a command"):
        compile_command("cpu", Path("runner"))
    monkeypatch.setattr(installed_torch, "torch_directory", lambda: None)
    with pytest.raises(ToolchainError, match="torch is not installed"):
        compile_command("cpu", Path("runner"))


def test_the_key_follows_source_compiler_and_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = [runner_key("cpu"), runner_key("cuda")]
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "another-g++")
        keys.append(runner_key("cpu"))
    with monkeypatch.context() as patch:
        patch.setenv("CPATH", "/include")
        keys.append(runner_key("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "facts", lambda *_: {"torch": "9.9"})
        keys.append(runner_key("cpu"))
    with monkeypatch.context() as patch:
        (tmp_path / "other.cpp").write_text("int main() {}\n")
        patch.setattr(runner, "SOURCE", tmp_path / "other.cpp")
        keys.append(runner_key("cpu"))
    assert len(set(keys)) == len(keys)
    assert runner_key("cpu") == keys[0]


def test_it_is_compiled_once(compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    program = compiled_runner("cpu")
    assert (program.read_text(), compiled_runner("cpu")) == ("a program", program)
    assert len(compiler.commands) == 1
    monkeypatch.setenv("LIBRARY_PATH", "/lib")
    assert compiled_runner("cpu") != program
    assert len(compiler.commands) == 2
    assert not [path for path in runner_cache().iterdir() if path.is_dir()]


def test_a_failed_compile_leaves_no_program(compiler: FakeCompiler) -> None:
    compiler.error = ToolchainError("it could not be compiled")
    with pytest.raises(ToolchainError):
        compiled_runner("cpu")
    compiler.error = None
    assert compiled_runner("cpu").read_text() == "a program"


def test_nothing_is_run_from_a_directory_that_others_write_to(compiler: FakeCompiler) -> None:
    compiled_runner("cpu")
    directory = runner_cache()
    directory.chmod(0o777)
    with pytest.raises(DirectoryError, match="this user's alone"):
        compiled_runner("cpu")
    assert oct(os.stat(directory).st_mode & 0o777) == "0o777", (
        "what it holds is not to be trusted any more"
    )


def test_reports_say_what_called_the_package(
    project: Project, published: Path, fake_worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_command, "compiled_runner", lambda device: Path(f"/runner-{device}"))
    jobs = []
    fake_worker.during = lambda job_name, job: jobs.append((job_name, job.runner))
    report = verify(project, project.targets, runtime="cpp")
    assert jobs == [("check", "/runner-cpu"), ("probe", "/runner-cpu")]
    document = report.as_json()
    assert (document["runtime"], document["targets"][0]["runtime"]) == ("cpp", "cpp")
    assert json.loads((published / "verify.json").read_bytes())["runtime"] == "cpp"
    assert verify_lines(report)[-1] == "1 artifact: 1 passed, called from C++"
    assert "called from C++" in html_page(report)
    assert 'name="small/cpu (C++)"' in junit_xml(report)
    assert verify(project, project.targets).as_json()["runtime"] == "python"
    assert jobs[2:] == [("check", None), ("probe", None)]


@pytest.mark.usefixtures("fake_worker")
def test_nothing_is_compiled_for_artifacts_that_are_not_there(
    project: Project, compiler: FakeCompiler
) -> None:
    (verdict,) = verify(project, project.targets, runtime="cpp").verdicts
    assert (verdict.verdict, verdict.runtime) == ("missing", "cpp")
    assert compiler.commands == []


def test_a_runtime_that_is_none(project: Project) -> None:
    answer = inv("verify", "--runtime", "rust", cwd=project.root)
    assert answer.returncode == 2
    assert "--runtime rust is not one of python, cpp" in answer.stderr
