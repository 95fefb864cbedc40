"""`inspect --diff`: the facts in which two packages differ.

Inductor names its files after digests of their content. To find the counterpart of a file, its name
is compared without the digest if that is unambiguous. A GPU binary is compared by the names of its
kernels.
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
from aoti_build.commands.conclusion import head
from aoti_build.commands.inspect.command import Inspected, problems_error
from aoti_build.commands.json_values import json_list
from aoti_build.common.json_object import JsonObject
from aoti_build.errors import AotiBuildError, ExitCode

# Base32 of a sha256, as inductor writes it.
_DIGEST_NAME = re.compile(r"(?<![a-z2-7])[a-z2-7]{51,52}(?![a-z2-7])")
_LIBRARY_FACTS = ("machine", "needed", "versions", "compiler")

# A part of a package, such as "kernels" -> the name of each fact in it -> the fact.
Facts = dict[str, JsonObject]


@dataclass(frozen=True)
class Difference:
    """A fact that differs. `part` is the part of the package, and `what` the name of the fact in
    it. The value of a side that lacks the fact is None."""

    part: str
    what: str
    a: Any
    b: Any

    def as_json(self) -> JsonObject:
        return {"part": self.part, "what": self.what, "a": self.a, "b": self.b}


@dataclass(frozen=True)
class DiffReport:
    """The differences from `a` to `b`. They are no failure, but a damaged side is."""

    a: Inspected
    b: Inspected
    differences: tuple[Difference, ...]

    @property
    def exit_code(self) -> int:
        if self.a.problems or self.b.problems:
            return ExitCode.UNFIT_ARTIFACT
        return ExitCode.OK

    @property
    def error(self) -> AotiBuildError | None:
        """The error that ends the task; None if both sides are sound."""
        damaged = [side for side in (self.a, self.b) if side.problems]
        if not damaged:
            return None
        return problems_error(self.exit_code, damaged, 2, "refused")

    def as_json(self) -> JsonObject:
        return {
            **head("aoti-build/inspect-diff", 1, self.error),
            "a": _side_json(self.a),
            "b": _side_json(self.b),
            "equal": not self.differences,
            "differences": json_list(self.differences),
        }


def diff(a: Inspected, b: Inspected) -> DiffReport:
    """Compare two packages. Raises the first problem of a package that cannot be read at all."""
    for side in (a, b):
        if side.package is None:
            raise side.problems[0]
    # Only a manifest has the parts of the source key, so both sides must have one.
    with_manifests = a.manifest is not None and b.manifest is not None
    a_facts = _facts(a, a.manifest if with_manifests else None)
    b_facts = _facts(b, b.manifest if with_manifests else None)
    return DiffReport(a, b, tuple(_differences(a_facts, b_facts)))


def _side_json(side: Inspected) -> JsonObject:
    return {
        "name": side.name,
        "path": side.path,
        "problems": json_list(side.problems),
    }


def _differences(a_facts: Facts, b_facts: Facts) -> Iterator[Difference]:
    # A dict keeps the order of the names, which a set would not.
    for part in dict.fromkeys((*a_facts, *b_facts)):
        a_part = a_facts.get(part, {})
        b_part = b_facts.get(part, {})
        for name in dict.fromkeys((*a_part, *b_part)):
            a_value = a_part.get(name)
            b_value = b_part.get(name)
            if a_value != b_value:
                yield Difference(part, name, a_value, b_value)


def _facts(side: Inspected, manifest: Manifest | None) -> Facts:
    """All facts that can be compared, with those of `manifest` if it is not None."""
    package = side.package or {}
    facts: Facts = {
        "package": {"made_by": package["made_by"], "format_version": package["format_version"]}
    }
    if manifest is not None:
        facts |= _manifest_facts(manifest)
    # With a single model its name would only make lines longer.
    has_many_models = len(package["models"]) > 1
    for model in package["models"]:
        prefix = f"{model['name']}: " if has_many_models else ""
        for part, values in _model_facts(model, manifest).items():
            part_facts = facts.setdefault(part, {})
            for name, value in values.items():
                part_facts[prefix + name] = value
    with open_archive(side.file) as archive:
        facts["members"] = _members(archive, package)
    return facts


def _manifest_facts(manifest: Manifest) -> Facts:
    facts: Facts = {}
    for group in REASON_OF_GROUP:
        facts[group] = dict(manifest.source.get(group, {}))
    facts["requires"] = dict(manifest.requires)
    facts["keys"] = {
        "key": manifest.key,
        "graph_key": manifest.graph_key,
        "weights": dict(manifest.weights),
    }
    return facts


def _model_facts(model: Mapping[str, Any], manifest: Manifest | None) -> Facts:
    return {
        "metadata": dict(model["metadata"]),
        "signature": _signature_facts(manifest.signature if manifest else model["signature"]),
        "libraries": _library_facts(model),
        "build": {"march": model["march"], "operators": model["operators"]},
        "kernels": _kernel_facts(model),
        "constants": _constant_facts(model),
    }


def _signature_facts(signature: Mapping[str, Any]) -> JsonObject:
    facts: JsonObject = {}
    for tensor in signature["inputs"]:
        facts[f"input {tensor['name']}"] = _without_name(tensor)
    for tensor in signature["outputs"]:
        facts[f"output {tensor['name']}"] = _without_name(tensor)
    for name, dim in signature["dims"].items():
        facts[f"dim {name}"] = dim
    return facts


def _library_facts(model: Mapping[str, Any]) -> JsonObject:
    facts: JsonObject = {}
    for library in model["libraries"]:
        name = _name_without_digest(library["name"])
        for fact in _LIBRARY_FACTS:
            facts[f"{name} {fact}"] = library[fact]
    return facts


def _kernel_facts(model: Mapping[str, Any]) -> JsonObject:
    counts: Counter[tuple[str, str, str | None]] = Counter()
    for kernel in model["kernels"]:
        name = kernel["name"] or kernel["kind"]
        counts[name, kernel["kind"], kernel["arch"]] += 1
    facts: JsonObject = {}
    for (name, kind, arch), count in counts.items():
        facts[name] = {"kind": kind, "arch": arch, "count": count}
    return facts


def _constant_facts(model: Mapping[str, Any]) -> JsonObject:
    facts: JsonObject = {}
    for constant in model["constants"]:
        facts[constant["name"]] = _without_name(constant)
    return facts


def _without_name(record: Mapping[str, Any]) -> JsonObject:
    return {key: value for key, value in record.items() if key != "name"}


def _members(archive: Archive, package: Mapping[str, Any]) -> JsonObject:
    """Size and digest of every file, by a name that its counterpart in another package shares."""
    kernel_names = _kernel_file_names(package)
    shared_names = {}
    for member in archive.members:
        path = _path_in_package(archive, member)
        shared_names[member] = kernel_names.get(member) or _name_without_digest(path)
    counts = Counter(shared_names.values())
    facts: JsonObject = {}
    for member, shared_name in shared_names.items():
        # An ambiguous name would hide all files but one.
        is_unique = counts[shared_name] == 1
        name = shared_name if is_unique else _path_in_package(archive, member)
        facts[name] = {
            "bytes": archive.members[member].size,
            "sha256": archive.digest(member),
        }
    return facts


def _kernel_file_names(package: Mapping[str, Any]) -> dict[str, str]:
    """A name for each file of GPU code, made from the names of its kernels."""
    names = {}
    for model in package["models"]:
        for kernel in model["kernels"]:
            if kernel["file"] and kernel["name"]:
                names[kernel["file"]] = f"{kernel['name']}.{kernel['kind']}"
    return names


def _path_in_package(archive: Archive, member: str) -> str:
    """The path of a member without the root folder, whose name is arbitrary."""
    return member[len(archive.root) :]


def _name_without_digest(path: str) -> str:
    """A file's name with * in place of inductor's digest."""
    # The folders of generated code have the names of the package and of the model.
    if "/data/aotinductor/" in f"/{path}":
        path = path.rpartition("/")[2]
    return _DIGEST_NAME.sub("*", path)
