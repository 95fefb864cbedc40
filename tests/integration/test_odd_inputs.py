"""What workers read by a library's own means: pipes, directories and files beyond all measure are
refused before."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aoti_build._torch.checking.reference_reader import load_reference_data
from aoti_build._torch.data import image
from aoti_build._torch.data.read import READERS, read
from aoti_build._torch.program.weights.load import load_weights
from aoti_build.errors import AotiBuildError, ArtifactError, UsageError
from aoti_build.models_file.project import Weights

SIGNATURE = {"inputs": [{"name": "x", "dtype": "float32", "shape": [1]}]}
KINDS = [os.mkfifo, os.mkdir]


@pytest.fixture(params=KINDS, ids=["pipe", "directory"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    made: list[Path] = []

    def make(name: str) -> Path:
        request.param(tmp_path / name)
        made.append(tmp_path / name)
        return made[-1]

    yield make
    for path in made:  # whoever waits goes on
        if path.is_fifo():
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


@pytest.mark.parametrize("suffix", READERS)
def test_an_input_of_a_run(odd: Callable[[str], Path], suffix: str) -> None:
    refused(lambda: read(odd(f"input{suffix}"), SIGNATURE), UsageError)


def test_an_image(odd: Callable[[str], Path]) -> None:
    refused(lambda: image._open(odd("image.png")), UsageError)


def test_names_of_classes(odd: Callable[[str], Path]) -> None:
    refused(lambda: image._class_names(odd("classes.txt"), "models.yaml:1:1"), UsageError)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights(odd: Callable[[str], Path], suffix: str) -> None:
    path = odd(f"weights{suffix}")
    refused(
        lambda: load_weights(
            torch.nn.Linear(1, 1), Weights(path.name), path.parent, "models.yaml:1:1"
        ),
        UsageError,
    )


def test_a_reference_file(odd: Callable[[str], Path]) -> None:
    refused(lambda: load_reference_data(odd("reference.safetensors")), ArtifactError)


@pytest.mark.parametrize("suffix", READERS)
def test_an_input_that_memory_has_no_room_for(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"input{suffix}"
    path.touch()
    os.truncate(path, 1 << 42)
    refused(lambda: read(path, SIGNATURE), UsageError, "-byte limit")


def test_an_image_of_two_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.touch()
    os.truncate(path, 2 * image.IMAGE_LIMIT)
    refused(lambda: image._open(path), UsageError, "-byte limit")


def refused(
    call: Callable[[], Any],
    kind: type[AotiBuildError],
    cause: str = "regular file|a directory",
) -> None:
    """The call raises that soon; a thread, because what waits for a pipe cannot be told to stop."""
    raised: list[BaseException] = []

    def body() -> None:
        try:
            call()
        except AotiBuildError as error:
            raised.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "it waits"
    (error,) = raised
    assert isinstance(error, kind)
    assert any(word in str(error) for word in cause.split("|")), error
