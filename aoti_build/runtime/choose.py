"""Which variant of a model this host should run, and why the others not. No torch: manifests are
read, nothing else.

Among the variants that fit, the best is the first by: the device (`cuda` before `cpu`), the more
specific code (for a GPU machine code before PTX, then the higher compute capability; more processor
features), the preset `default`, the variant's name. A tuned preset is not preferred by itself: that
it is faster on this host was not shown. Whoever measured it names it with `variant`. What was never
compared with eager fits no host.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from aoti_build.artifact.damage import manifest_damage
from aoti_build.artifact.manifest import Manifest, read_manifest
from aoti_build.errors import ArtifactError, UsageError
from aoti_build.host import compatibility, gpu_architectures
from aoti_build.host.devices import device_named, device_names

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")  # what builds give to directories


@dataclass(frozen=True)
class Candidate:
    """One variant of a model on disk. `why_not` has a sentence for each reason against it; without
    one it fits."""

    target: str
    directory: Path
    manifest: Manifest | None
    why_not: tuple[str, ...] = ()
    # How good its GPU code is for the GPU that was asked about.
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


@dataclass(frozen=True)
class Choice:
    """Every variant of a model, those that fit first and the best of them foremost. As text: a line
    for each."""

    model: str
    artifacts: Path
    candidates: tuple[Candidate, ...]

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
        return "\n".join(
            f"{candidate.target}: {self._verdict(candidate)}" for candidate in self.candidates
        )

    def as_json(self) -> list[dict[str, Any]]:
        """A row for each variant: `target`, `fits`, `chosen`, `why_not`."""
        return [
            {
                "target": c.target,
                "fits": c.fits,
                "chosen": c is self.chosen,
                "why_not": list(c.why_not),
            }
            for c in self.candidates
        ]

    def _verdict(self, candidate: Candidate) -> str:
        if candidate is self.chosen:
            return "chosen"
        if candidate.fits and self.chosen:
            return f"fits, but {self.chosen.target} comes first: {_reason(self.chosen, candidate)}"
        return "; ".join(candidate.why_not)


def artifacts_directory(given: str | os.PathLike[str] | None) -> Path:
    """The directory of artifacts: the one given, `AOTI_BUILD_ARTIFACTS`, or `artifacts` in the
    current directory. Raises `UsageError` for what cannot be a path."""
    if given is None:
        given = os.environ.get("AOTI_BUILD_ARTIFACTS") or "artifacts"
    try:
        path = os.fspath(given)
        if isinstance(path, bytes) or b"\0" in os.fsencode(path):
            raise ValueError("it is no text of a path")
        return Path(path).absolute()
    except (TypeError, ValueError, OSError) as error:  # OSError: the current directory is gone
        raise UsageError(
            f"the directory of artifacts is {_brief(given)}",
            cause=str(error),
            hint="give a path to artifacts=",
        ) from error


def explain(
    model: str,
    *,
    artifacts: str | os.PathLike[str] | None = None,
    device: str | None = None,
    variant: str | None = None,
    device_index: int = 0,
) -> Choice:
    """Look at every variant of `model` (`"resnet18"`, or `"resnet18/cuda"` for one alone); nothing
    is loaded.

    `device` and `variant` turn down what was not asked for. Raises `UsageError` for a name that is
    not there.
    """
    root = artifacts_directory(artifacts)
    name, named = _model_and_variant(model)
    if variant is not None:
        _check_name("variant", variant)
    if named and variant and named != variant:
        raise UsageError(
            f"{model!r} and variant={variant!r} name two variants", hint="give one of them"
        )
    if device is not None and device not in device_names():
        hint = f"it is one of {', '.join(device_names())}, or None"
        raise UsageError(f"there is no device {_brief(device)}", hint=hint)
    if not isinstance(device_index, int):
        hint = "it is a number, counted from 0"
        raise UsageError(f"device_index is {_brief(device_index)}", hint=hint)
    variants = _names(root / name)
    wanted = named or variant
    if not variants or (wanted and wanted not in variants):
        raise _unknown(root, name, wanted, variants)
    candidates = [
        _candidate(root, name, one, _not_asked_for(one, device, wanted), device_index)
        for one in variants
    ]
    return Choice(
        name,
        root,
        tuple(sorted(candidates, key=lambda candidate: (not candidate.fits, _rank(candidate)))),
    )


def _model_and_variant(model: str) -> tuple[str, str | None]:
    """Both parts of a target's name, or a model's name alone. Raises `UsageError` for anything
    else."""
    name, slash, variant = model.partition("/") if isinstance(model, str) else (model, "", "")
    _check_name("model", name)
    if slash:
        _check_name("variant", variant)
    return name, variant or None


def _check_name(what: str, name: object) -> None:
    """Names become paths, so what no build gives as one is never looked for."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"there is no artifact {_brief(name)}",
            cause=f"that is not the name of a {what}",
            hint='names are such as "resnet18", "cuda" or "resnet18/cuda"',
        )


def _brief(value: object) -> str:
    return repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."


def _not_asked_for(variant: str, device: str | None, wanted: str | None) -> tuple[str, ...]:
    said = []
    if wanted and variant != wanted:
        said.append(f"not asked for: the variant is to be {wanted}")
    if device and variant.partition("-")[0] != device:
        said.append(f"not asked for: the device is to be {device}")
    return tuple(said)


def _candidate(
    root: Path, model: str, variant: str, why_not: tuple[str, ...], device_index: int
) -> Candidate:
    """`why_not`: what speaks against it already; then the host is not asked, which for a GPU starts
    its driver."""
    target, directory = f"{model}/{variant}", root / model / variant
    manifest = read_manifest(directory)
    damage = manifest_damage(manifest, target)
    if damage is not None:
        return Candidate(target, directory, None, (*why_not, f"damaged: {damage.subject}"))
    assert isinstance(manifest, Manifest)
    needs = manifest.requires
    found = why_not or (*compatibility.unfit(needs, device_index), *_unverified(manifest))
    rank = None if found else compatibility.code_rank(needs, device_index)
    return Candidate(target, directory, manifest, found, rank or (0, 0, 0))


def _unverified(manifest: Manifest) -> tuple[str, ...]:
    if manifest.unverified is None:
        return ()
    again = f"run `invoke verify --target {manifest.target}` on a host that can run it"
    return (f"never compared with eager: where it was built, {manifest.unverified}; {again}",)


def _rank(candidate: Candidate) -> tuple[Any, ...]:
    features = candidate.manifest.requires["cpu_features"] if candidate.manifest else []
    machine, *capability = candidate.gpu_code
    return (
        -_preference(candidate.device),
        -machine,
        [-part for part in capability],
        -len(features),
        _has_preset(candidate),
        candidate.variant,
    )


def _preference(device: str) -> int:
    """The device's, and the least for a directory that is named after none."""
    return device_named(device).preference if device in device_names() else -1


def _has_preset(candidate: Candidate) -> bool:
    """Whether its name goes on after the device, and the architecture if that is in it: `default`
    is not written."""
    rest = candidate.variant.partition("-")[2]
    architecture = candidate.manifest.architecture if candidate.manifest else ""
    return rest not in ("", architecture)


def _reason(better: Candidate, worse: Candidate) -> str:
    """The first part of the rank in which the two differ, in words."""
    words = (
        "its device", "it has machine code for this GPU", "a higher compute capability",
        "it uses more of this processor", "it is the default preset", "by name",
    )  # fmt: skip
    ranks = zip(words, _rank(better), _rank(worse), strict=True)
    return next(word for word, one, other in ranks if one != other)


def _names(directory: Path) -> list[str]:
    try:
        return sorted(
            entry.name
            for entry in directory.iterdir()
            if entry.is_dir() and not entry.name.startswith(".")
        )
    except OSError:
        return []


def _unknown(root: Path, model: str, variant: str | None, variants: list[str]) -> UsageError:
    import difflib

    if not os.path.isdir(root):  # unlike Path's it never raises
        hint = (
            "pass artifacts=, set AOTI_BUILD_ARTIFACTS, or start in the directory that holds"
            " artifacts/"
        )
        return UsageError("there is no directory of artifacts", where=str(root), hint=hint)
    asked, there = (variant, variants) if variant and variants else (model, _names(root))
    near = difflib.get_close_matches(str(asked), there, n=1)
    return UsageError(
        f"there is no artifact {model}{'/' + variant if variant else ''}",
        where=str(root),
        cause=f"there are {', '.join(there)}" if there else "there is none at all",
        hint=f"did you mean {near[0]}?" if near else f"build it: invoke build --target {model}",
    )
