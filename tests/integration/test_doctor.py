"""`doctor` on this host's processor, with a real compile; and a package that does not load."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from conftest import Finished, run_inv

BAD_COMPILER = """\
#!/bin/sh
case " $* " in
*" -shared "*) exec /usr/bin/g++ "$@" -static-libstdc++ ;;
*) exec /usr/bin/g++ "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def examined(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """A directory without a models.yaml, and what `doctor` said there."""
    root = tmp_path_factory.mktemp("doctor")
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    return root, run_inv(root, "doctor", "--device", "cpu", "--json")


def test_a_host_on_which_all_this_works_is_fit(examined: tuple[Path, Finished]) -> None:
    root, finished = examined
    assert finished.code == 0, finished.out + finished.err
    outcomes = {check["check"]: check["outcome"] for check in finished.json["checks"]}
    for check in ("compiler", "temp directory", "file locks", "model"):
        assert outcomes[check] == "ok", check
    assert [path.name for path in root.iterdir() if path.name != "__pycache__"] == ["tasks.py"]
    assert not list(Path(tempfile.gettempdir()).glob("aoti_build-doctor-*"))


def test_phases_are_shown_meanwhile(examined: tuple[Path, Finished]) -> None:
    _, finished = examined
    phases = [
        line.split()[-1] for line in finished.err.splitlines() if line.startswith("doctor/cpu")
    ]
    assert phases == ["model", "export", "reference", "compile", "load", "check", "publish"]


def test_a_compiler_that_links_libstdcxx_statically_is_found_without_a_crash(
    tmp_path: Path,
) -> None:
    (tmp_path / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    compiler = tmp_path / "g++"
    compiler.write_text(BAD_COMPILER)
    compiler.chmod(0o755)
    environment = {"CXX": str(compiler), "PATH": os.environ["PATH"]}
    finished = run_inv(tmp_path, "doctor", "--device", "cpu", env=environment)
    assert finished.code == 5, finished.err
    assert f"{compiler} links libstdc++ statically" in finished.out
    assert "fix:   CXX=/usr/bin/g++" in finished.out
    assert "not tried: compiler failed" in finished.out


def test_a_package_that_does_not_load_leads_to_the_doctor(tmp_path: Path) -> None:
    from aoti_build._torch.packages.loaded import LoadedPackage
    from aoti_build.errors import BuildError

    (tmp_path / "model.pt2").write_bytes(b"no package")
    with pytest.raises(BuildError, match="cannot load the package") as caught:
        LoadedPackage(tmp_path / "model.pt2", "cpu")
    assert "invoke doctor" in (caught.value.hint or "")
