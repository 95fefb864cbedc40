"""The services in `examples/`, as real servers with real clients.

The server's directory holds what a container image holds, by docs/how-to/containers.md: the
service's own code and `artifacts/`, both read-only, and no models.yaml.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import Finished, run_inv

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
INPUTS = {
    "tokens": [[1, 2, 3, 4, 5, 6], [5, 6, 7, 8, 9, 10]],
    "mask": [[True] * 6, [True, False, True, False, True, False]],
}


@pytest.fixture(scope="module")
def image(
    built_once: tuple[Path, Finished], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("image")
    shutil.copytree(
        built_once[0] / "artifacts", root / "artifacts", ignore=shutil.ignore_patterns(".*")
    )
    shutil.copy(EXAMPLES / "fastapi_service.py", root)
    paths = [root, *root.rglob("*")]
    for path in paths:
        path.chmod(path.stat().st_mode & ~0o222)
    yield root
    for path in paths:
        path.chmod(path.stat().st_mode | 0o200)


@contextlib.contextmanager
def served(image: Path, model: str, cache: Path, artifacts: str = "artifacts") -> Iterator[int]:
    """The port of a server with two worker processes."""
    cache.mkdir(mode=0o700)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        command = [sys.executable, "-m", "uvicorn", "fastapi_service:app", "--workers", "2"]
        process = subprocess.Popen(
            [*command, "--fd", str(listener.fileno())],
            cwd=image,
            env={
                **os.environ,
                "MODEL": model,
                "ARTIFACTS": artifacts,
                "XDG_CACHE_HOME": str(cache),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            pass_fds=[listener.fileno()],
        )
        try:
            yield listener.getsockname()[1]
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
    assert code in (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def port(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with served(image, "tagger", tmp_path_factory.mktemp("scratch") / "cache") as number:
        yield number


def ask(port: int, path: str, body: Any = None) -> tuple[int, Any]:
    # The first request waits until a worker has imported torch and loaded the model.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=240)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.load(answer)
    finally:
        connection.close()


def test_all_workers_answer_with_the_output_of_the_artifact(port: int, image: Path) -> None:
    import torch

    import aoti_build

    tensors = {name: torch.tensor(value) for name, value in INPUTS.items()}
    with aoti_build.load("tagger", artifacts=image / "artifacts", device="cpu") as model:
        expected = model(**tensors)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(port, "/predict", INPUTS), range(24)))
    for status, output in answers:
        assert status == 200
        assert torch.allclose(torch.tensor(output["labels"]), expected["labels"])
        assert output["extra"][1] == expected["extra"][1].tolist()
    workers = set()
    deadline = time.monotonic() + 120
    while len(workers) < 2 and time.monotonic() < deadline:
        status, health = ask(port, "/health")
        assert (status, health["target"]) == (200, "tagger/cpu")
        workers.add(health["pid"])
    assert len(workers) == 2


def test_an_input_that_does_not_fit_is_answered_with_422(port: int) -> None:
    status, answer = ask(port, "/predict", {"tokens": [[1, 2], [3, 4]]})
    assert status == 422
    assert "mask" in json.dumps(answer)
    status, answer = ask(port, "/predict", {name: rows * 9 for name, rows in INPUTS.items()})
    assert status == 422
    assert "batch" in json.dumps(answer)
    status, answer = ask(port, "/predict", {**INPUTS, "tokens": [[1, 2], [3]]})
    assert status == 422
    assert ask(port, "/predict", INPUTS)[0] == 200


def test_from_init_to_a_served_model(tmp_path: Path) -> None:
    """The journey of a new user, with the commands that `init` and the guides name."""
    root = tmp_path / "repository"
    package = root / "src" / "shop"
    package.mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\n')
    (package / "__init__.py").touch()
    (package / "ranker.py").write_text(
        "from torch import nn\n\n\nclass Ranker(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.score = nn.Linear(8, 1)\n\n"
        "    def forward(self, features):\n        return self.score(features)\n"
    )
    (root / "tasks.py").write_text("from aoti_build.tasks import ns\n")
    for words in (["init", "--shape", "4,8"], ["build"], ["verify"], ["export", "release"]):
        finished = run_inv(root, *words)
        assert finished.code == 0, finished.out + finished.err
    shutil.copy(EXAMPLES / "fastapi_service.py", root / "release")
    (name,) = [path.name for path in (root / "release").iterdir() if path.is_dir()]
    with served(root / "release", name, tmp_path / "cache", artifacts=".") as port:
        status, output = ask(port, "/predict", {"features": [[0.5] * 8] * 4})
    assert status == 200, output
    assert len(output) == 4
