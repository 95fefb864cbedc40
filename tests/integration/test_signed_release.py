"""A signed release of a real model, at a receiver without its sources. Foreign code never runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import Finished, run_inv
from foreign import WAYS, exchanging, foreign_package, load_unchecked
from projects import write_single

from aoti_build.common.digests import digest_file, digest_json

SOURCE = """
    import torch
    from torch import nn


    def build():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(8, 4), nn.Tanh())
"""
MODEL = """
    linear:
      source: net:build
      dims: {batch: {min: 1, max: 8, example: 4}}
      inputs: [{shape: [batch, 8]}]
"""
# Loads the model and says what came of it, and whether torch was imported.
LOAD = """
import json, sys
import aoti_build
from aoti_build.errors import AotiBuildError
artifacts, key = sys.argv[1:]
options = {"require_signature": key, "min_version": "1.0"} if key else {}
try:
    model = aoti_build.load("linear", artifacts=artifacts, **options)
except AotiBuildError as error:
    print(json.dumps([type(error).__name__, int(error.exit_code), "torch" in sys.modules]))
    raise SystemExit
import torch
output = model(torch.ones(3, 8)).tolist()
print(json.dumps([output, model.metadata["load"]]))
"""
# As a worker is about to start, the package is exchanged for a foreign one.
EXCHANGE = """
import os, sys
import aoti_build
from aoti_build.commands.run import artifact
from aoti_build.commands.verify import comparison as verify_comparison
from aoti_build.errors import AotiBuildError
from aoti_build.work import check

bundle, key, foreign, published, command = sys.argv[1:]
real = check.run_worker
def exchanging(*arguments, **options):
    if os.path.exists(foreign):
        os.replace(foreign, published)
    return real(*arguments, **options)
for module in (check, verify_comparison, artifact):
    module.run_worker = exchanging
try:
    if command == "run":
        aoti_build.run_release(bundle, keys=key)
    else:
        aoti_build.verify_release(bundle, keys=key, runtime=command)
except AotiBuildError as error:
    print(type(error).__name__, os.path.exists(foreign))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with `bundle`, and `signer.pem` with the public key of who signed it."""
    place = tmp_path_factory.mktemp("made")
    place.chmod(0o700)
    root = place / "project"
    write_single(root, SOURCE, MODEL)
    key, public = place / "key.pem", place / "signer.pem"
    curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(["openssl", "genpkey", *curve, "-out", str(key)], check=True)
    key.chmod(0o600)
    words = ["openssl", "pkey", "-in", str(key), "-pubout", "-out", str(public)]
    subprocess.run(words, check=True)
    options = ["--version", "1.2", "--out", str(place / "bundle"), "--allow-dirty"]
    released = run_inv(root, "release", *options, "--sign", str(key))
    assert released.code == 0, released.err
    shutil.rmtree(root)
    return place


@pytest.fixture
def received(made: Path, tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    shutil.copytree(made, tmp_path / "received")
    return tmp_path / "received"


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """The file that foreign code makes when it is loaded."""
    return tmp_path / "ran"


@pytest.fixture
def foreign(received: Path, marker: Path, tmp_path: Path) -> Path:
    """A package like the released one, whose library makes the marker when it is loaded."""
    return foreign_package(received / "bundle/models/linear/cpu/model.pt2", marker, tmp_path)


def load(received: Path, *, signed: bool) -> list[Any]:
    """What `load` gives in a process of its own."""
    artifacts = received / "bundle" if signed else received / "bundle/models"
    words = [str(artifacts), str(received / "signer.pem") if signed else ""]
    environment = {**os.environ, "AOTI_BUILD_RUNTIME_CACHE": str(received.parent / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if not done.stdout:
        return [f"ended with {done.returncode}"]
    result: list[Any] = json.loads(done.stdout)
    return result


def verify(received: Path, *words: str, variables: Mapping[str, str] | None = None) -> Finished:
    """Verify the release from a directory without models.yaml."""
    return receive("verify", received, *words, variables=variables)


def receive(
    task: str, received: Path, *words: str, variables: Mapping[str, str] | None = None
) -> Finished:
    """Run a task on the release from a directory without models.yaml."""
    release = ["--release", str(received / "bundle"), "--public-key", str(received / "signer.pem")]
    done = subprocess.run(
        [sys.executable, "-m", "aoti_build", task, "--json", *release, *words],
        cwd=received,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def put_in_place(received: Path, package: Path) -> None:
    """Put a package into the bundle, with all digests made again."""
    folder = received / "bundle/models/linear/cpu"
    shutil.copy(package, folder / "model.pt2")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"]["model.pt2"] = {
        "sha256": digest_file(package),
        "size": package.stat().st_size,
    }
    del manifest["sha256"]
    manifest["sha256"] = digest_json(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    record = json.loads((received / "bundle/release.json").read_bytes())
    record["targets"][0]["package_sha256"] = digest_file(package)
    record["targets"][0]["size"] = package.stat().st_size
    sums = []
    for path, entry in record["files"].items():
        file = received / "bundle" / path
        entry.update(sha256=digest_file(file), size=file.stat().st_size)
        sums.append(f"{entry['sha256']}  {path}\n")
    (received / "bundle/release.json").write_text(json.dumps(record))
    sums.append(f"{digest_file(received / 'bundle/release.json')}  release.json\n")
    (received / "bundle/SHA256SUMS").write_text("".join(sums))


def test_a_receiver_without_sources_and_torchvision(received: Path) -> None:
    absent = received.parent / "absent"
    absent.mkdir()
    (absent / "torchvision.py").write_text("raise ImportError('not here')\n")
    path = os.pathsep.join([str(absent), os.environ.get("PYTHONPATH", "")])
    finished = verify(received, "--min-version", "1.2", variables={"PYTHONPATH": path})
    assert finished.code == 0, finished.err
    row = finished.target("linear/cpu")
    assert (row["verdict"], row["runtime"]) == ("passed", "python")
    assert len(row["cases"]) > 1
    assert row["refusals"]
    assert all(refusal["ok"] for refusal in row["refusals"])
    assert finished.json["signer"]["name"] == "signer.pem"


def test_a_receiver_tries_the_model_with_own_inputs(received: Path) -> None:
    numpy.save(received / "mine.npy", numpy.ones((3, 8), numpy.float32))
    words = ["--input", "reference_data,random,mine.npy", "--output", "{input}.npz"]
    finished = receive("run", received, *words, "--repeat", "2", "--min-version", "1.2")
    assert finished.code == 0, finished.err
    row = finished.target("linear/cpu")
    assert [(run["check"], run["verdict"]) for run in row["runs"]] == [
        ("reference_data", "passed"),
        ("none", "unverified"),
        ("none", "unverified"),
    ]
    (output,) = numpy.load(received / "mine.npz").values()
    (expected,) = load(received, signed=True)[:1]
    assert numpy.allclose(output, expected)
    assert finished.json["release"]["signer"]["name"] == "signer.pem"
    # The model has no more than eight rows.
    numpy.save(received / "mine.npy", numpy.ones((9, 8), numpy.float32))
    refused = receive("run", received, "--input", "mine.npy")
    assert (refused.code, refused.json["release"]["version"]) == (3, "1.2")


def test_a_module_with_the_name_of_the_source_is_not_imported(received: Path, marker: Path) -> None:
    """The release says `net:build`. What is installed as `net` here is another module."""
    installed = received.parent / "installed"
    installed.mkdir()
    (installed / "net.py").write_text(f"open({str(marker)!r}, 'w')\n")
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    for task, words in (("run", ["--input", "random"]), ("verify", [])):
        finished = receive(task, received, *words, variables={"PYTHONPATH": path})
        assert finished.code == 0, finished.err
        assert not marker.exists()


@pytest.mark.slow
def test_the_same_from_cpp(received: Path, cpp_cache: dict[str, str]) -> None:
    finished = verify(received, "--runtime", "cpp", variables=cpp_cache)
    assert finished.code == 0, finished.err
    assert finished.target("linear/cpu")["runtime"] == "cpp"


def test_a_signed_load(received: Path) -> None:
    signed = load(received, signed=True)
    assert signed[0] == load(received, signed=False)[0]
    assert signed[1]["unpacked"]
    assert signed[1]["release"]["version"] == "1.2"
    assert signed[1]["release"]["signer"]["name"] == "signer.pem"


def test_foreign_code_does_not_run(received: Path, foreign: Path, marker: Path) -> None:
    put_in_place(received, foreign)
    assert load(received, signed=True) == ["ListingMismatch", 4, False]
    for task in ("verify", "run"):
        refused = receive(task, received)
        assert refused.code == 4
        assert refused.json["error"]["kind"] == "signature"
        assert not marker.exists()
    # A load that requires no signature does run it.
    load(received, signed=False)
    assert marker.exists()


def test_a_cache_from_an_unsigned_load_does_no_harm(
    received: Path, foreign: Path, marker: Path
) -> None:
    right = received.parent / "right"
    shutil.copytree(received / "bundle", right)
    put_in_place(received, foreign)
    load(received, signed=False)
    marker.unlink()
    shutil.rmtree(received / "bundle")
    right.rename(received / "bundle")
    assert load(received, signed=True)[1]["release"]["version"] == "1.2"
    assert not marker.exists()


@pytest.mark.parametrize("command", ["python", pytest.param("cpp", marks=pytest.mark.slow), "run"])
def test_what_takes_the_place_of_a_package_does_not_run(
    received: Path, foreign: Path, marker: Path, command: str, cpp_cache: dict[str, str]
) -> None:
    package = received / "bundle/models/linear/cpu/model.pt2"
    words = [received / "bundle", received / "signer.pem", foreign, package, command]
    done = subprocess.run(
        [sys.executable, "-c", EXCHANGE, *map(str, words)],
        cwd=received,
        env={**os.environ, **cpp_cache},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.stdout == "ListingMismatch False\n", done.stderr
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_package_that_is_foreign_half_of_the_time_does_not_run(
    received: Path, foreign: Path, marker: Path, tmp_path: Path, way: str
) -> None:
    package = received / "bundle/models/linear/cpu/model.pt2"
    with exchanging(package, foreign, way, tmp_path):
        codes = {receive("run", received).code for _ in range(4)}
    assert codes <= {0, 4}
    assert not marker.exists()
    assert receive("run", received).code == 0
    load_unchecked(foreign)
    assert marker.exists()
