"""Chooses the variant of a model that this host should run, and says why not the others.

Only manifests are read, and torch is not imported. Variants that fit this host are ordered by:

1. the device: `cuda` before `cpu`;
2. the more specific code: on a GPU machine code before PTX, then the higher compute capability;
   then more processor features;
3. the preset `default`, then the name of the variant.

A tuned preset has no priority, because no build shows that it is faster on this host. After
measuring it, name it with `variant`. An artifact that was never compared with eager mode fits no
host.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from aoti_build.artifact.damage import manifest_damage
from aoti_build.artifact.manifest import Manifest, read_manifest
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.host import compatibility, gpu_architectures
from aoti_build.host.devices import device_named, device_names
from aoti_build.runtime.request import Request, artifacts_directory, read_request


@dataclass(frozen=True)
class Candidate:
    """One variant of a model on disk.

    `why_not` has a sentence for each reason against it; it fits if there is none.
    """

    target: str
    directory: Path
    manifest: Manifest | None
    why_not: tuple[str, ...] = ()
    # How good its code is for the requested GPU.
    gpu_code: gpu_architectures.Rank = (0, 0, 0)

    @property
    def fits(self) -> bool:
        return not self.why_not

    @property
    def variant(self) -> str:
        return self.target.partition("/")[2]

    @property
    def device(self) -> str:
        return self.variant.partition("-")[0]

    def rejected(self, *reasons: str) -> Candidate:
        """This candidate with further reasons against it."""
        return replace(self, why_not=(*self.why_not, *reasons))


@dataclass(frozen=True)
class Choice:
    """Every variant of a model, the best first and those that do not fit last.

    As text it has a line for each.
    """

    model: str
    artifacts: Path
    candidates: tuple[Candidate, ...]
    # Name, version and signer of a signed release. None without `require_signature`.
    release: Mapping[str, Any] | None = None

    @cached_property
    def chosen(self) -> Candidate | None:
        return next((candidate for candidate in self.candidates if candidate.fits), None)

    def best(self) -> Candidate:
        """The chosen variant. Raises `ArtifactError` with the reasons against each if none fits."""
        if self.chosen is None:
            names = ", ".join(candidate.variant for candidate in self.candidates)
            raise ArtifactError(
                f"no variant of {self.model} can be run on this host",
                where=str(self.artifacts),
                cause=str(self),
                hint=f"of {names}, build one for this host: invoke build --target {self.model}",
            )
        return self.chosen

    def __str__(self) -> str:
        lines = []
        for candidate in self.candidates:
            lines.append(f"{candidate.target}: {self._verdict(candidate)}")
        return "\n".join(lines)

    def as_json(self) -> list[dict[str, Any]]:
        """A row for each variant: `target`, `fits`, `chosen`, `why_not`."""
        return [
            {
                "target": candidate.target,
                "fits": candidate.fits,
                "chosen": candidate is self.chosen,
                "why_not": list(candidate.why_not),
            }
            for candidate in self.candidates
        ]

    def _verdict(self, candidate: Candidate) -> str:
        if candidate is self.chosen:
            return "chosen"
        if candidate.fits and self.chosen:
            return f"fits, but {self.chosen.target} comes first: {_reason(self.chosen, candidate)}"
        return "; ".join(candidate.why_not)


def explain(
    model: str,
    *,
    artifacts: str | os.PathLike[str] | None = None,
    device: str | None = None,
    variant: str | None = None,
    device_index: int = 0,
) -> Choice:
    """Choose among the variants of `model` without loading any.

    `model` is a name such as `"resnet18"`, or `"resnet18/cuda"` for one variant. `device` and
    `variant` exclude all others. Raises `UsageError` for a name that does not exist.
    """
    root = artifacts_directory(artifacts)
    request = read_request(model, device, variant, device_index)
    variants = directory_names(root / request.model)
    if not variants or (request.variant and request.variant not in variants):
        raise unknown_artifact(root, request, directory_names(root), variants)
    candidates = []
    for variant_name in variants:
        target = f"{request.model}/{variant_name}"
        excluded = request.exclusions(variant_name)
        candidates.append(_candidate(root, target, excluded, device_index))
    return Choice(request.model, root, ranked(candidates))


def ranked(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The candidates with the best first, and those that do not fit last."""
    return tuple(sorted(candidates, key=lambda each: (not each.fits, _rank(each))))


def _candidate(
    root: Path,
    target: str,
    excluded: tuple[str, ...],
    device_index: int,
) -> Candidate:
    """The candidate of a target. `excluded` has reasons against it from the arguments."""
    candidate = Candidate(target, root / target, None, excluded)
    manifest = read_manifest(candidate.directory)
    damage = manifest_damage(manifest, target)
    if damage is not None:
        return candidate.rejected(f"damaged: {damage.subject}")
    assert isinstance(manifest, Manifest)
    return examined(candidate, manifest, device_index)


def examined(candidate: Candidate, manifest: Manifest, device_index: int) -> Candidate:
    """The candidate with its manifest, and with what this host says against it."""
    candidate = replace(candidate, manifest=manifest)
    if not candidate.fits:
        # The host is not examined: for a GPU that would start its driver.
        return candidate
    needs = manifest.requires
    host = compatibility.this_host(needs["device"])
    candidate = candidate.rejected(*compatibility.obstacles(needs, host, device_index))
    if manifest.unverified is not None:
        candidate = candidate.rejected(_unverified_reason(manifest))
    if not candidate.fits:
        return candidate
    gpu_code = compatibility.code_rank(needs, host, device_index)
    if gpu_code is None:
        return candidate
    return replace(candidate, gpu_code=gpu_code)


def _unverified_reason(manifest: Manifest) -> str:
    remedy = f"run `invoke verify --target {manifest.target}` on a host that can run it"
    return f"never compared with eager: where it was built, {manifest.unverified}; {remedy}"


class _Rank(NamedTuple):
    """Orders the candidates that fit: the smallest is the best."""

    device: int
    machine_code: int
    capability: tuple[int, ...]
    cpu_features: int
    has_preset: bool
    variant: str


# Why a candidate is better, by the first field of its rank that differs, in the order of `_Rank`.
_REASONS = {
    "device": "its device",
    "machine_code": "it has machine code for this GPU",
    "capability": "a higher compute capability",
    "cpu_features": "it uses more of this processor",
    "has_preset": "it is the default preset",
    "variant": "by name",
}


def _rank(candidate: Candidate) -> _Rank:
    cpu_features = candidate.manifest.requires["cpu_features"] if candidate.manifest else []
    machine_code, *capability = candidate.gpu_code
    # Negated where more is better.
    return _Rank(
        device=-_preference(candidate.device),
        machine_code=-machine_code,
        capability=tuple(-number for number in capability),
        cpu_features=-len(cpu_features),
        has_preset=_has_preset(candidate),
        variant=candidate.variant,
    )


def _preference(device: str) -> int:
    """The preference of a device. A directory can have a name without any: that is the last."""
    if device not in device_names():
        return -1
    return device_named(device).preference


def _has_preset(candidate: Candidate) -> bool:
    """Whether the name of the variant ends with a preset. The preset `default` is not written."""
    rest = candidate.variant.partition("-")[2]
    architecture = candidate.manifest.architecture if candidate.manifest else ""
    return rest not in ("", architecture)


def _reason(better: Candidate, worse: Candidate) -> str:
    better_rank = _rank(better)
    worse_rank = _rank(worse)
    for field, reason in _REASONS.items():
        if getattr(better_rank, field) != getattr(worse_rank, field):
            return reason
    raise AssertionError("two variants have one name")


def directory_names(parent: Path) -> list[str]:
    """The names of the directories in a directory, hidden ones left out. Empty if it is none."""
    try:
        entries = [entry for entry in parent.iterdir() if entry.is_dir()]
    except OSError:
        return []
    return sorted(entry.name for entry in entries if not entry.name.startswith("."))


def unknown_artifact(
    root: Path,
    request: Request,
    models: Sequence[str],
    variants: Sequence[str],
) -> UsageError:
    """The error for a model that is not among `models`, or has no such variant."""
    import difflib

    model, variant, _, _ = request

    if not os.path.isdir(root):  # unlike Path.is_dir it never raises
        hint = (
            "pass artifacts=, set AOTI_BUILD_ARTIFACTS, or start in the directory that holds"
            " artifacts/"
        )
        return UsageError("there is no directory of artifacts", where=str(root), hint=hint)
    name = model
    requested = model
    existing = models
    if variant:
        name = f"{model}/{variant}"
        if variants:  # the model is right, so the variant is wrong
            requested = variant
            existing = variants
    cause = "there are no artifacts"
    if existing:
        cause = f"there are {', '.join(existing)}"
    hint = f"build it: invoke build --target {model}"
    matches = difflib.get_close_matches(requested, existing, n=1)
    if matches:
        hint = f"did you mean {matches[0]}?"
    return UsageError(
        f"there is no artifact {name}",
        where=str(root),
        cause=cause,
        hint=hint,
    )
