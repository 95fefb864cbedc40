"""A cached project is the parsed one, and whatever else lies in the cache's place costs a parse and
nothing more."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_projects import REAL_PYTHON, contents

from aoti_build.common.digests import digest_bytes
from aoti_build.errors import SpecError, UsageError
from aoti_build.models_file import Project, cache, load_project
from aoti_build.models_file.records import target_to_json

TEXT = """\
version: 1
inductor_configs:
  tuned: {max_autotune: true, cpp.threads: 4, shape_padding: false}
models:
  rich:
    source: model.py:build
    kwargs: {one: 1, half: 0.5, none: null, yes: true, minus: -0.0, list: [1, 1.0, [x]],
             table: {a: {b: "ä"}}}
    weights: weights.safetensors
    seed: 7
    dims:
      batch: {min: 2, max: 8, example: 4, multiple_of: 2}
    inputs:
      x: {shape: [batch, 4], dtype: float32, low: -1, high: 1.5}
      ids: {shape: [batch], dtype: int64, high: 100}
    devices: [cpu, cuda]
    inductor_configs: [default, tuned]
    tolerance: {atol: 1e-4, rtol: 1e-3}
    cpu: {isa: avx2}
  plain:
    source: torchvision.models:resnet18
    inputs: model.py:inputs
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "models.yaml").write_text(TEXT)
    return tmp_path / "models.yaml"


@pytest.fixture
def directory(file: Path) -> Path:
    """Where parsed projects are kept."""
    return file.parent / "artifacts" / ".project-cache"


@pytest.fixture
def record(file: Path, directory: Path) -> Path:
    """The record of `file` as it is now."""
    load_project(file, directory)
    (found,) = directory.iterdir()
    return found


def test_a_cached_project_is_the_parsed_one(
    file: Path, directory: Path, parses: list[Path]
) -> None:
    parsed, written, cached = (
        load_project(file),
        load_project(file, directory),
        load_project(file, directory),
    )
    assert len(parses) == 2
    assert everything(parsed) == everything(written) == everything(cached)
    assert cached.file == file
    assert cached.location(cached.targets[0].model, "kwargs") == "models.yaml:7:13"
    assert cached.preset_positions == parsed.preset_positions


def test_values_keep_their_types(file: Path, directory: Path) -> None:
    load_project(file, directory)
    model = load_project(file, directory).targets[0].model
    assert repr(dict(model.kwargs)) == repr(dict(load_project(file).targets[0].model.kwargs))
    assert isinstance(model.inputs, tuple)
    assert all(
        isinstance(tensor.shape, tuple) for tensor in model.inputs if not isinstance(tensor, str)
    )


def test_every_target_carries_its_digest(file: Path, directory: Path) -> None:
    load_project(file, directory)
    for project in (load_project(file), load_project(file, directory)):
        assert [target.digest for target in project.targets] == [
            digest_bytes(json.dumps(target_to_json(target)).encode()) for target in project.targets
        ]
        assert len({target.digest for target in project.targets}) == len(project.targets) == 5


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab.-", max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(["a", "b"]), VALUES, max_size=2))
def test_any_kwargs_survive(
    tmp_path_factory: pytest.TempPathFactory, kwargs: dict[str, Any]
) -> None:
    root = tmp_path_factory.getbasetemp() / "any-kwargs"
    (root / "artifacts").mkdir(parents=True, exist_ok=True)
    entry = {"source": "model.py:build", "kwargs": kwargs, "inputs": [{"shape": [2]}]}
    (root / "models.yaml").write_text(json.dumps({"version": 1, "models": {"m": entry}}))
    try:
        parsed = load_project(root / "models.yaml")
    except SpecError:
        return
    directory = root / "artifacts" / "cache"
    load_project(root / "models.yaml", directory)
    assert repr(everything(load_project(root / "models.yaml", directory))) == repr(
        everything(parsed)
    )


@pytest.mark.parametrize(
    "edited",
    [
        TEXT + "\n",
        TEXT.replace("seed: 7", "seed: 8"),
        "# moved\n" + TEXT,
        TEXT.replace("avx2", "avx512"),
    ],
    ids=["a line more", "another seed", "a comment above", "another architecture"],
)
def test_another_content_is_parsed(
    file: Path, directory: Path, parses: list[Path], edited: str
) -> None:
    load_project(file, directory)
    file.write_text(edited)
    assert everything(load_project(file, directory)) == everything(load_project(file))
    assert len(parses) == 3
    assert everything(load_project(file, directory)) == everything(load_project(file))
    assert len(parses) == 4


def test_a_wrong_file_is_not_cached_and_its_problems_come_each_time(
    file: Path, directory: Path
) -> None:
    load_project(file, directory)
    before = contents(directory)
    file.write_text(TEXT + "    seed: x\n")
    for _ in range(2):
        with pytest.raises(SpecError, match=r"models\.yaml:23:11"):
            load_project(file, directory)
    assert contents(directory) == before


def test_a_file_that_is_gone_is_an_error_in_spite_of_the_cache(file: Path, directory: Path) -> None:
    load_project(file, directory)
    file.unlink()
    with pytest.raises(UsageError, match="no such file"):
        load_project(file, directory)


@pytest.mark.parametrize(("name", "value"), [("CACHE_VERSION", 99), ("__version__", "0.0.0")])
def test_another_version_is_parsed(
    file: Path,
    directory: Path,
    parses: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: object,
) -> None:
    load_project(file, directory)
    monkeypatch.setattr(cache, name, value)
    load_project(file, directory)
    assert len(parses) == 2


def rewrite(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def harm(path: Path) -> None:
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return harm


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


HARMS: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": write(b""),
    "garbage": write(b"\xff\xfe"),
    "a list": write(b"[]"),
    "null": write(b"null"),
    "deeply nested": write(b"[" * 100_000),
    "another format": rewrite(lambda document: document.update(format="aoti-build/index")),
    "no stamp": rewrite(lambda document: document.pop("stamp")),
    "no targets": rewrite(lambda document: document.pop("targets")),
    "targets of another shape": rewrite(lambda document: document.update(targets=[{}])),
    "targets that are no list": rewrite(lambda document: document.update(targets=3)),
    "an unknown field": rewrite(
        lambda document: document["targets"][0]["model"].update(colour="red")
    ),
    "a missing field": rewrite(lambda document: document["targets"][0]["model"].pop("source")),
    "positions that are not there": rewrite(lambda document: document.update(positions=[])),
    "positions of another shape": rewrite(
        lambda document: document.update(positions=[{"": [1]}, {"": 3}])
    ),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_damaged_cache_is_parsed_over(
    file: Path, directory: Path, record: Path, parses: list[Path], harm: Callable[[Path], object]
) -> None:
    before = everything(load_project(file, directory))
    harm(record)
    assert everything(load_project(file, directory)) == before
    assert everything(load_project(file, directory)) == before
    assert len(parses) == 1


def test_a_cache_cut_anywhere_is_parsed_over(file: Path, directory: Path, record: Path) -> None:
    before = everything(load_project(file, directory))
    whole = record.read_bytes()
    for length in range(0, len(whole), 97):
        record.write_bytes(whole[:length])
        assert everything(load_project(file, directory)) == before


def test_another_value_in_the_cache_is_not_taken_for_the_files(
    file: Path, directory: Path, record: Path
) -> None:
    before = everything(load_project(file, directory))
    record.write_bytes(record.read_bytes().replace(b'"seed": 7', b'"seed": 6'))
    assert everything(load_project(file, directory)) == before


def test_a_cache_that_cannot_be_written_changes_nothing(file: Path, tmp_path: Path) -> None:
    expected = everything(load_project(file))
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "absent" / "cache", file / "cache"):
        for _ in range(2):
            assert everything(load_project(file, directory)) == expected
    assert not (tmp_path / "absent").exists()
    assert (tmp_path / "file").read_bytes() == b""


def test_the_last_few_contents_are_kept(file: Path, directory: Path, parses: list[Path]) -> None:
    texts = [f"{TEXT}# {number}\n" for number in range(cache.MAX_RECORDS + 3)]
    for text in texts:
        file.write_text(text)
        load_project(file, directory)
        time.sleep(0.01)
    assert len(contents(directory)) == cache.MAX_RECORDS
    parses.clear()
    for text in reversed(texts[-cache.MAX_RECORDS :]):
        file.write_text(text)
        load_project(file, directory)
    assert parses == []


def test_a_hit_imports_no_parser(file: Path, directory: Path) -> None:
    load_project(file, directory)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from aoti_build.models_file import load_project, select\n"
        "project = load_project(Path('models.yaml'), Path('artifacts/.project-cache'))\n"
        "assert len(select(project.targets, 'rich')) == 4\n"
        "loaded = {'yaml', 'pydantic', 'pydantic_core', 'torch', 'numpy'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([REAL_PYTHON, "-c", script], check=True, cwd=file.parent)


def everything(project: Project) -> list[Any]:
    """A project with what its equality leaves out: positions and digests."""
    return [
        project.file,
        *(
            (target, target.digest, dict(target.model.positions), target.name)
            for target in project.targets
        ),
    ]
