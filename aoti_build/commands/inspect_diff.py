"""`inspect --diff`: what two packages differ in, fact by fact.

Inductor names its files after digests of their content. So that a file meets its counterpart, the
digest is left out of its name where that is unambiguous, and GPU binaries go by the kernels in
them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.pt2.package import Archive, open_archive
from aoti_build.artifact.reasons import REASON_OF_GROUP
from aoti_build.commands.inspect import Inspected
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import ExitCode

# Base32 of a sha256, as inductor writes it.
_DIGEST_NAME = re.compile(r"(?<![a-z2-7])[a-z2-7]{51,52}(?![a-z2-7])")
Facts = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Difference:
    """A fact that differs; None where a side has none. `part` is its group, `what` its name in
    it."""

    part: str
    what: str
    a: Any
    b: Any

    def as_json(self) -> JsonObject:
        return {"part": self.part, "what": self.what, "a": self.a, "b": self.b}


@dataclass(frozen=True)
class DiffReport:
    """The differences from `a` to `b`. Differences are no failure; a damaged side is."""

    a: Inspected
    b: Inspected
    differences: tuple[Difference, ...]

    @property
    def exit_code(self) -> int:
        return ExitCode.UNFIT_ARTIFACT if self.a.problems or self.b.problems else ExitCode.OK

    def as_json(self) -> JsonObject:
        return {
            "format": "aoti-build/inspect-diff",
            "format_version": 1,
            "ok": self.exit_code == ExitCode.OK,
            "a": _side(self.a),
            "b": _side(self.b),
            "equal": not self.differences,
            "differences": [difference.as_json() for difference in self.differences],
        }


def diff(a: Inspected, b: Inspected) -> DiffReport:
    """Compares two packages. Raises the problem of one that cannot be read at all."""
    for side in (a, b):
        if side.package is None:
            raise side.problems[0]
    both = a.manifest is not None and b.manifest is not None
    left, right = _facts(a, keys=both), _facts(b, keys=both)
    return DiffReport(a, b, tuple(_differences(left, right)))


def _side(side: Inspected) -> dict[str, Any]:
    return {
        "name": side.name,
        "path": side.path,
        "problems": [problem.as_json() for problem in side.problems],
    }


def _differences(left: Facts, right: Facts) -> Iterator[Difference]:
    for part in dict.fromkeys((*left, *right)):
        was, now = left.get(part, {}), right.get(part, {})
        for what in dict.fromkeys((*was, *now)):
            if was.get(what) != now.get(what):
                yield Difference(part, what, was.get(what), now.get(what))


def _facts(side: Inspected, *, keys: bool) -> Facts:
    """All that can be compared. `keys`: with the parts of the source key, which only a manifest
    has."""
    package = side.package or {}
    facts: Facts = {
        "package": {"made_by": package["made_by"], "format_version": package["format_version"]}
    }
    if keys and side.manifest is not None:
        facts |= _recorded(side.manifest)
    several = len(package["models"]) > 1
    for model in package["models"]:
        prefix = f"{model['name']}: " if several else ""
        for part, values in _model_facts(model, side.manifest if keys else None).items():
            facts.setdefault(part, {}).update(
                {prefix + what: value for what, value in values.items()}
            )
    with open_archive(side.file) as archive:
        facts["members"] = _members(archive, package)
    return facts


def _recorded(manifest: Manifest) -> Facts:
    facts: Facts = {group: dict(manifest.source.get(group, {})) for group in REASON_OF_GROUP}
    facts["requires"] = dict(manifest.requires)
    facts["keys"] = {
        "key": manifest.key,
        "graph_key": manifest.graph_key,
        "weights": dict(manifest.weights),
    }
    return facts


def _model_facts(model: Mapping[str, Any], manifest: Manifest | None) -> Facts:
    signature: Mapping[str, Any] = manifest.signature if manifest else model["signature"]
    tensors = {
        f"{kind} {tensor['name']}": {
            name: value for name, value in tensor.items() if name != "name"
        }
        for kind in ("input", "output")
        for tensor in signature[f"{kind}s"]
    }
    kernels = Counter(
        (kernel["name"] or kernel["kind"], kernel["kind"], kernel["arch"])
        for kernel in model["kernels"]
    )
    return {
        "metadata": dict(model["metadata"]),
        "signature": {**tensors, **{f"dim {name}": dim for name, dim in signature["dims"].items()}},
        "libraries": {
            f"{_plain(library['name'])} {fact}": library[fact]
            for library in model["libraries"]
            for fact in ("machine", "needed", "versions", "compiler")
        },
        "build": {"march": model["march"], "operators": model["operators"]},
        "kernels": {
            name: {"kind": kind, "arch": arch, "count": count}
            for (name, kind, arch), count in kernels.items()
        },
        "constants": {
            constant["name"]: {name: value for name, value in constant.items() if name != "name"}
            for constant in model["constants"]
        },
    }


def _members(archive: Archive, package: Mapping[str, Any]) -> dict[str, Any]:
    """Size and digest of every file, by a name that the other package's counterpart has too."""
    held = {
        kernel["file"]: kernel
        for model in package["models"]
        for kernel in model["kernels"]
        if kernel["file"]
    }
    names = {}
    for name in archive.members:
        kernel = held.get(name)
        inside = name[len(archive.root) :]
        names[name] = (
            f"{kernel['name']}.{kernel['kind']}" if kernel and kernel["name"] else _plain(inside)
        )
    taken = Counter(names.values())
    return {
        plain if taken[plain] == 1 else name[len(archive.root) :]: {
            "bytes": archive.members[name].size,
            "sha256": archive.digest(name),
        }
        for name, plain in names.items()
    }


def _plain(name: str) -> str:
    """A file's name without inductor's digest in it."""
    return _DIGEST_NAME.sub(
        "*", name.rpartition("/")[2] if "/data/aotinductor/" in f"/{name}" else name
    )
