"""Where imports are satisfied: PYTHONPATH's text is no fact, what is found through it is one."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_projects import action_of, plan_of, publish_fake, write_project

from aoti_build.host.import_path import ImportPath
from aoti_build.models_file import Project
from aoti_build.planning.actions import Action


@pytest.fixture(autouse=True)
def _no_pythonpath(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)


def module(directory: Path, name: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"{name}.py").write_text("")
    return directory


def parts(root: Path, names: list[str], pythonpath: str = "") -> dict[str, str | None]:
    return ImportPath(str(root), [str(root)], {"PYTHONPATH": pythonpath}).module_parts(names)


def test_the_first_directory_with_a_module_counts(tmp_path: Path) -> None:
    root = module(tmp_path / "root", "own")
    first, second = module(tmp_path / "a", "tool"), module(tmp_path / "b", "tool")
    names = ["own", "tool", "absent_anywhere"]
    assert parts(root, names) == {"own": "own.py", "tool": None, "absent_anywhere": None}
    assert parts(root, names, f"{first}:{second}")["tool"] == f"{first}/tool.py"
    assert parts(root, names, f"{second}:{first}")["tool"] == f"{second}/tool.py"
    module(root, "tool")
    assert parts(root, names, f"{second}:{first}")["tool"] == "tool.py"


def test_a_package_goes_before_a_module_and_both_before_a_namespace(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    (root / "tool").mkdir(parents=True)
    assert parts(root, ["tool"]) == {"tool": "tool/"}
    module(other, "tool")
    assert parts(root, ["tool"], str(other)) == {"tool": f"{other}/tool.py"}
    module(root / "tool", "__init__")
    module(root, "tool")
    assert parts(root, ["tool", "tool.inner"], str(other)) == {"tool": "tool/", "tool.inner": None}


def test_relative_and_empty_entries_begin_at_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    module(root / "src", "tool")
    assert (
        parts(root, ["tool"], "src") == parts(root, ["tool"], "./src/:") == {"tool": "src/tool.py"}
    )


def test_a_module_that_shadows_another_one_counts_although_nobody_asked(tmp_path: Path) -> None:
    module(tmp_path / "a", "networkx")
    module(tmp_path / "a", "json")
    module(tmp_path / "a", "unrelated")
    (tmp_path / "a" / "sympy").mkdir()  # a namespace shadows nothing
    assert parts(tmp_path, [], f"{tmp_path}/a") == {
        "json": "a/json.py",
        "networkx": "a/networkx.py",
    }


def test_a_directory_of_distributions_counts_as_installed(tmp_path: Path) -> None:
    vendor = module(tmp_path / "vendor", "small_library")
    (vendor / "small_library-1.0.dist-info").mkdir()
    path = ImportPath(str(tmp_path), [str(vendor)], {})
    assert path.module_parts(["small_library"]) == {"small_library": "installed"}
    assert path.installed[0] == str(vendor)


def test_a_change_of_the_text_alone_rebuilds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = published_with(tmp_path, ["helper", "tool"])
    for text in ("", "/absent", str(project.root), f"{module(tmp_path / 'x', 'other')}:.:"):
        monkeypatch.setenv("PYTHONPATH", text)
        assert action_of(project) == Action.UP_TO_DATE
        # Once more, from the index.
        assert action_of(project) == Action.UP_TO_DATE


def test_a_change_of_what_is_imported_rebuilds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = module(tmp_path / "a", "tool"), module(tmp_path / "b", "tool")
    monkeypatch.setenv("PYTHONPATH", str(first))
    project = published_with(tmp_path, ["helper", "tool"])
    assert action_of(project) == Action.UP_TO_DATE
    for text in (f"{second}:{first}", str(second), ""):
        monkeypatch.setenv("PYTHONPATH", text)
        step = plan_of(project)
        assert step.action == Action.BUILD
        (reason,) = step.reasons
        assert (reason.reason, reason.what, reason.old) == (
            "source-changed",
            "tool",
            f"{first}/tool.py",
        )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/nothing:{first}:{second}")
    assert action_of(project) == Action.UP_TO_DATE


def test_a_new_module_before_an_installed_one_rebuilds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = published_with(tmp_path, [])
    assert action_of(project) == Action.UP_TO_DATE
    monkeypatch.setenv("PYTHONPATH", str(module(tmp_path / "a", "sympy")))
    assert [reason.what for reason in plan_of(project).reasons] == ["sympy"]


def published_with(tmp_path: Path, modules: list[str]) -> Project:
    """A project whose artifact records these modules, as the present environment finds them."""
    project = write_project(tmp_path / "project")
    manifest = publish_fake(project)
    recorded = {**manifest.source, "modules": project.import_path().module_parts(modules)}
    publish_fake(project, source=recorded)
    return project
