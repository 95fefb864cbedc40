"""`root`, `python_path` and `artifacts` of models.yaml, and the options that take their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from aoti_build.errors import SpecError, UsageError
from aoti_build.models_file import PROJECT_CACHE, Project, check_files, load_project
from aoti_build.models_file.layout import likely_artifacts

MODELS = """\
version: 1
{layout}models:
  net:
    source: {source}
    inputs: [{{shape: [1, 4]}}]
"""


def write(root: Path, layout: str = "", source: str = "nets/net.py:build") -> Path:
    file = root / "deploy" / "models.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(MODELS.format(layout=layout, source=source))
    (root / "nets").mkdir(exist_ok=True)
    (root / "nets" / "net.py").write_text("")
    return file


def test_by_default_everything_is_next_to_models_yaml(tmp_path: Path) -> None:
    project = load_project(write(tmp_path))
    directory = tmp_path / "deploy"
    assert (project.root, project.main_artifacts) == (directory, directory / "artifacts")
    assert project.import_directories == (str(directory),)
    assert project.name == "models.yaml"


def test_paths_begin_at_the_root(tmp_path: Path) -> None:
    file = write(tmp_path, "root: ..\npython_path: [src, .]\nartifacts: out/aoti\n")
    project = load_project(file)
    assert project.root == tmp_path
    assert project.main_artifacts == tmp_path / "out" / "aoti"
    assert project.import_directories == (str(tmp_path / "src"), str(tmp_path))
    assert project.name == "deploy/models.yaml"
    check_files(project, project.targets)


def test_artifacts_are_below_the_root_unless_the_file_names_a_directory(tmp_path: Path) -> None:
    assert load_project(write(tmp_path, "root: ..\n")).main_artifacts == tmp_path / "artifacts"


@pytest.mark.parametrize(
    ("layout", "source", "said"),
    [
        ("", "../nets/net.py:build", "leads out of the directory of the project's root"),
        ("root: ..\n", "../nets/net.py:build", "`root:` can name a higher directory"),
        ("root: /srv\n", "nets/net.py:build", "the root '/srv' is absolute"),
        ("root: 3\n", "nets/net.py:build", "root"),
        ("root: ..\nartifacts: ../out\n", "nets/net.py:build", "leads out"),
        ("artifacts: .\n", "nets/net.py:build", "a directory of their own"),
        ("history: ../past\n", "nets/net.py:build", "leads out"),
        ("history: .\n", "nets/net.py:build", "a directory of its own"),
        ("history: [past]\n", "nets/net.py:build", "history"),
        ("python_path: [../src]\n", "nets/net.py:build", "leads out"),
        ("python_path: [src, src]\n", "nets/net.py:build", "listed twice"),
        ("python_path: src\n", "nets/net.py:build", "list"),
        ("python_path: []\n", "nets/net.py:build", "python_path"),
    ],
)
def test_what_leaves_the_root_is_refused(
    tmp_path: Path, layout: str, source: str, said: str
) -> None:
    with pytest.raises(SpecError) as raised:
        load_project(write(tmp_path, layout, source))
    assert said in str(raised.value)
    assert "models.yaml:" in str(raised.value)


def test_no_history_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path)
    assert load_project(file).history is None
    named = load_project(file, history=tmp_path / "elsewhere")
    assert named.history == tmp_path / "elsewhere"
    file = write(tmp_path, "root: ..\nhistory: bench/past/\n")
    assert load_project(file).history == tmp_path / "bench" / "past"
    cache = tmp_path / "cache"
    cached = [load_project(file, cache).history for _ in range(2)]
    assert cached == [tmp_path / "bench" / "past"] * 2


@pytest.mark.parametrize("history", ["artifacts", "artifacts/past"])
def test_a_history_among_the_artifacts_is_refused(tmp_path: Path, history: str) -> None:
    with pytest.raises(UsageError, match="the history lies in the directory of artifacts"):
        load_project(write(tmp_path, f"history: {history}\n"))
    with pytest.raises(UsageError, match="the history lies in the directory of artifacts"):
        load_project(write(tmp_path), history=tmp_path / "deploy" / history)


def test_problems_of_the_layout_and_of_models_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        load_project(write(tmp_path, "root: /srv\nartifacts: .\n", "nowhere"))
    assert len(raised.value.problems) == 3


@pytest.mark.parametrize(
    "layout",
    [
        "root: ..\nartifacts: nets\n",
        "root: ..\npython_path: [src/a]\nartifacts: src\n",
        "root: ..\npython_path: [src]\nartifacts: src\n",
    ],
)
def test_sources_among_the_artifacts_are_refused(tmp_path: Path, layout: str) -> None:
    """Nothing in the directory of artifacts is a source, so an edit would not be seen."""
    with pytest.raises(UsageError, match="lies in the directory of artifacts"):
        load_project(write(tmp_path, layout))
    with pytest.raises(UsageError, match="lies in the directory of artifacts"):
        load_project(write(tmp_path, "root: ..\n"), artifacts=tmp_path)


def test_options_take_the_place_of_the_keys(tmp_path: Path) -> None:
    file = write(tmp_path, "artifacts: out\n")
    project = load_project(file, root=tmp_path, artifacts=tmp_path / "elsewhere")
    assert (project.root, project.main_artifacts) == (tmp_path, tmp_path / "elsewhere")
    assert load_project(file, root=tmp_path).main_artifacts == tmp_path / "out"
    # A path outside of the root is shown in full.
    outside = load_project(file, artifacts=tmp_path / "elsewhere")
    assert outside.shown(outside.artifacts) == str(tmp_path / "elsewhere")


def test_a_file_that_is_written_relative_to_models_yaml_is_explained(tmp_path: Path) -> None:
    file = write(tmp_path, "root: ..\n", "net.py:build")
    (file.parent / "net.py").write_text("")
    project = load_project(file)
    with pytest.raises(SpecError, match=f"relative to the root, which is {tmp_path}"):
        check_files(project, project.targets)


@pytest.mark.parametrize("layout", ["", "root: ..\n", "root: '..'  # up\nartifacts: \"out\"\n"])
def test_the_cache_is_among_the_artifacts(tmp_path: Path, parses: list[Path], layout: str) -> None:
    file = write(tmp_path, layout)
    parsed = load_project(file)
    parsed.main_artifacts.mkdir()
    assert load_project(file, cached=True) == load_project(file, cached=True) == parsed
    assert len(parses) == 2
    assert list((parsed.main_artifacts / PROJECT_CACHE).iterdir())


def test_nothing_is_written_into_a_directory_that_only_looks_like_the_artifacts(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, "artifacts:\n  out\n")  # valid, and not recognised without a parser
    for name in ("out", "artifacts"):
        (file.parent / name).mkdir()
    assert load_project(file, cached=True).main_artifacts == file.parent / "out"
    assert list((file.parent / "artifacts").iterdir()) == []


def test_an_option_moves_the_cache_and_not_its_content(tmp_path: Path, parses: list[Path]) -> None:
    file = write(tmp_path, "root: ..\n")
    artifacts = tmp_path / "elsewhere"
    artifacts.mkdir()

    def load() -> Project:
        return load_project(file, cached=True, root=tmp_path, artifacts=artifacts)

    assert load() == load()
    assert len(parses) == 1
    # Without the option the same record would say something else, so the options are not in it.
    (artifacts / PROJECT_CACHE).rename(tmp_path / "cache")
    assert load_project(file, tmp_path / "cache") == load_project(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"{version: 1, artifacts: out}", "artifacts"),  # not recognised: a parse each time
        (b"artifacts: ../../x\n", "artifacts"),
        (b"artifacts: out\n", "out"),
        (b"root: sub\nartifacts: 'a b'\n", "sub/a b"),
        (b"\xff\n", "artifacts"),
    ],
)
def test_the_likely_directory_is_harmless_for_any_text(
    tmp_path: Path, text: bytes, expected: str
) -> None:
    assert likely_artifacts(text, tmp_path / "models.yaml") == tmp_path / expected
