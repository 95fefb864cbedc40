"""A signed release of packages made by hand, as `release` writes it, and ways to attack it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packages import publish_package
from signers import write_private, write_public
from small_projects import sealed, write_project

from aoti_build.artifact.signing.private_keys import read_signing_key
from aoti_build.artifact.signing.sign import sign, write_signature
from aoti_build.commands.release.command import ReleaseOptions, release
from aoti_build.common.digests import digest_file

MODELS = """\
version: 1
inductor_configs:
  fast: {max_autotune: true}
models:
  small:
    source: model.py:build
    inputs: [{shape: [batch, 8]}]
    dims: {batch: {min: 2, max: 16, multiple_of: 2}}
    inductor_configs: [default, fast]
  other:
    source: model.py:build
    inputs: [{shape: [2, 4]}]
"""
VERSION = "1.4.0"


class Release:
    """A bundle that `signer.pem` signed. `key` is the private key of that."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.bundle = place / "bundle"
        self.public = place / "signer.pem"

    def copy(self, place: Path) -> Release:
        shutil.copytree(self.place, place, dirs_exist_ok=True)
        return Release(place)

    def file(self, name: str, target: str = "small/cpu") -> Path:
        """A file of an artifact."""
        return self.bundle / "models" / target / name

    def sign(self, key: str = "key.pem") -> None:
        """Sign the bundle as it is now."""
        sign_release(self.bundle, self.place / key)

    def edit(self, path: str, change: Callable[[Any], object]) -> None:
        """Change a JSON document in place. A manifest gets the right digest of itself."""
        file = self.bundle / path
        document = json.loads(file.read_bytes())
        change(document)
        if path.endswith("manifest.json"):
            document = sealed(document)
        file.write_text(json.dumps(document, indent=2))

    def list_anew(self) -> None:
        """Let release.json and SHA256SUMS have the digests of the files as they are now."""
        files = {}
        for path in sorted(self.bundle.rglob("*")):
            name = path.relative_to(self.bundle).as_posix()
            if path.is_file() and name not in ("release.json", "SHA256SUMS", "model.sig"):
                files[name] = {
                    "sha256": digest_file(path),
                    "size": path.stat().st_size,
                    "mode": "644",
                }

        def change(document: Any) -> None:
            document["files"] = files

        self.edit("release.json", change)
        names = [*files, "release.json"]
        lines = [f"{digest_file(self.bundle / name)}  {name}\n" for name in sorted(names)]
        (self.bundle / "SHA256SUMS").write_text("".join(lines))


def sign_release(bundle: Path, key: Path) -> None:
    """Sign a bundle as it is now with the private key in the file `key`."""
    (bundle / "model.sig").unlink(missing_ok=True)
    write_signature(sign(bundle, read_signing_key(key)), bundle)
    (bundle / "model.sig").chmod(0o644)


def make_release(place: Path, version: str = VERSION, models: str = MODELS) -> Release:
    """Write and sign a release. A fake worker must stand in for the real one."""
    project = write_project(place / "project", models)
    for target in project.targets:
        publish_package(project, target)
    made = Release(place)
    options = ReleaseOptions(version=version, directory=str(made.bundle), allow_dirty=True)
    report = release(project, project.targets, options)
    assert report.error is None, report.error
    shutil.rmtree(place / "project")
    write_public(made.public, write_private(place / "key.pem"))
    made.sign()
    return made


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def add(release: Release, name: str) -> None:
    """Add a file that was never signed."""
    path = release.bundle / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
