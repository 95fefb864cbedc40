"""The earlier package of a target that `bench --against BASE` compares with.

BASE is one of these, and they are tried in this order:

1. A directory: of artifacts, of `invoke export`, or of a release.
2. The key of an artifact in the store, or at least `_LEAST_KEY` characters of it.
3. A git revision. Its artifact is the one whose manifest is committed there, or else the newest one
   in the store that was built from exactly that commit.

The package is copied into a private directory, and the copies are digested. So the bytes that are
measured are those that the manifest lists.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from aoti_build.artifact.manifest import (
    MANIFEST,
    MODEL,
    REFERENCE_DATA,
    Manifest,
    NoManifest,
    parse_record,
)
from aoti_build.artifact.paths import artifact_directory
from aoti_build.artifact.provenance import committed_file, full_commit
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.models_file.project import Project, Target
from aoti_build.store.selection import open_store
from aoti_build.work.opened import copy_artifact

# A key has 64 hexadecimal digits. Fewer than this could be a short commit, or several keys.
_LEAST_KEY = 8
# The directories below a release and an export that have one directory for each model.
_PLACES = ("", "models", "artifacts")
_NOTHING = "no directory of artifacts, no key of the store, and no git revision of the project"


@dataclass(frozen=True)
class BasePackage:
    """A copy of the package to compare with.

    Attributes:
        name: BASE as the user gave it.
        artifacts: the private directory whose ``<model>/<variant>/`` has the copy, with its
            manifest and reference data.
        key: the key of the artifact.
        package_sha256: the digest of the package.
        size: the bytes of its files that a release ships.
    """

    name: str
    artifacts: Path
    key: str
    package_sha256: str
    size: int


def find_base(project: Project, target: Target, base: str, directory: Path) -> BasePackage:
    """Copy the earlier package of `target` that `base` names below the empty `directory`.

    Raises:
        UsageError: `base` is none of the three, is ambiguous, or has no such target.
        ArtifactError: the artifact is damaged, or the store lost its files.
        ToolchainError: there is no room for the copy.
    """
    folder = directory / target.model.name / target.variant
    folder.mkdir(parents=True)
    if os.path.isdir(base):
        manifest = _from_directory(project, target, base, folder)
    else:
        manifest = _from_store(project, target, base, folder)
    return BasePackage(
        name=base,
        artifacts=directory,
        key=manifest.key,
        package_sha256=manifest.files[MODEL].sha256,
        size=size_of(manifest),
    )


def size_of(manifest: Manifest) -> int:
    """Bytes of the package, with weights that lie beside it."""
    files = manifest.files.items()
    return sum(record.size for name, record in files if name != REFERENCE_DATA)


def _from_directory(project: Project, target: Target, base: str, folder: Path) -> Manifest:
    for place in _PLACES:
        root = Path(os.path.abspath(base)) / place
        layout = replace(project.layout, artifacts=str(root))
        earlier = replace(project, layout=layout, private="")
        if (artifact_directory(earlier, target) / MANIFEST).is_file():
            return copy_artifact(earlier, target, folder)
    raise UsageError(
        f"{base} has no artifact of {target.name}",
        target=target.name,
        cause=f"there is no {target.model.name}/{target.variant}/{MANIFEST} in it",
        hint="choose the targets that it has with --target, or name another directory",
    )


def _from_store(project: Project, target: Target, base: str, folder: Path) -> Manifest:
    store = open_store(project.main_artifacts)
    manifest = _stored(project, target, base, list(store.manifests()))
    files = {folder / name: record for name, record in manifest.files.items()}
    if not store.get_all(files):
        raise ArtifactError(
            f"the store no longer has the files of {base}",
            target=target.name,
            cause=f"artifact {manifest.key} was removed in part, or is damaged",
            hint="name the directory of an export or of a release instead",
        )
    manifest.write(folder, sync=False)
    return manifest


def _stored(project: Project, target: Target, base: str, stored: list[Manifest]) -> Manifest:
    """The manifest that `base` names by a key or by a git revision."""
    own = [manifest for manifest in stored if manifest.target == target.name]
    by_key = _with_key(target, base, own)
    if by_key is not None:
        return by_key
    commit = full_commit(project.root, base)
    if commit is None:
        raise UsageError(
            f"{base} is {_NOTHING}",
            target=target.name,
            hint="`invoke inspect` shows the key of an artifact; `git log` shows revisions",
        )
    committed = _committed(project, target, commit)
    if committed is not None:
        return committed
    built_there = [manifest for manifest in own if _is_built_from(manifest, commit)]
    if built_there:
        return max(built_there, key=lambda manifest: manifest.provenance["created"])
    raise UsageError(
        f"nothing is known of {target.name} at {base}",
        target=target.name,
        cause=f"no manifest is committed there, and the store has no artifact that was built from"
        f" commit {commit[:12]} without local changes",
        hint="check that revision out and run `invoke build` with the same store, or name the"
        " directory of an export",
    )


def _with_key(target: Target, base: str, stored: list[Manifest]) -> Manifest | None:
    if not re.fullmatch(f"[0-9a-f]{{{_LEAST_KEY},64}}", base):
        return None
    found = {manifest.key: manifest for manifest in stored if manifest.key.startswith(base)}
    if len(found) > 1:
        raise UsageError(
            f"{base} is the beginning of {len(found)} keys of {target.name}",
            target=target.name,
            cause=", ".join(sorted(found)),
            hint="give more of the key",
        )
    return next(iter(found.values()), None)


def _committed(project: Project, target: Target, commit: str) -> Manifest | None:
    """The manifest of `target` in a commit; None if there is none that this release reads."""
    path = artifact_directory(project, target) / MANIFEST
    if not path.is_relative_to(project.root):
        return None
    content = committed_file(project.root, commit, path.relative_to(project.root).as_posix())
    if content is None:
        return None
    manifest = parse_record(content)
    if isinstance(manifest, NoManifest) or manifest.target != target.name:
        return None
    return manifest


def _is_built_from(manifest: Manifest, commit: str) -> bool:
    provenance = manifest.provenance
    return provenance.get("git_commit") == commit and not provenance.get("git_dirty")
