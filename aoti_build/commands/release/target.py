"""What a release says of one artifact, from its manifest, its verdict and its measurement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aoti_build.artifact.bundle.layout import artifact_path
from aoti_build.artifact.bundle.record import ReleasedTarget, Verification
from aoti_build.artifact.manifest import BENCH, MODEL, Manifest
from aoti_build.commands.release.licences import licences_of
from aoti_build.commands.verify.report import Verdict
from aoti_build.common.digests import digest_json
from aoti_build.figures import CallFigures
from aoti_build.measurement.record import BenchRecord


@dataclass(frozen=True)
class ReleasedArtifact:
    """An artifact of the release. `bench` is None if this very package was not measured."""

    manifest: Manifest
    verdict: Verdict
    bench: BenchRecord | None = None

    @property
    def name(self) -> str:
        return self.manifest.target

    @property
    def package_path(self) -> str:
        """The path of the package in the bundle."""
        return f"{artifact_path(self.name)}/{MODEL}"

    @property
    def package_sha256(self) -> str:
        return self.manifest.files[MODEL].sha256

    @property
    def distributions(self) -> Mapping[str, str]:
        """The versions of the distributions that the code of the model imports, by name."""
        versions = {}
        for name, identity in self.manifest.source["distributions"].items():
            # An identity is a version, and often the beginning of a digest. ``*`` stands for all.
            if isinstance(identity, str) and name != "*":
                versions[name] = identity.partition(" ")[0]
        return versions


def released_target(artifact: ReleasedArtifact, created: str) -> ReleasedTarget:
    """The entry of the artifact in `release.json`. `created` is the time of the release."""
    manifest = artifact.manifest
    package = manifest.files[MODEL]
    parts = {group: digest_json(values) for group, values in manifest.source.items() if values}
    facts = manifest.source["toolchain"].items()
    bench = None
    if artifact.bench is not None:
        bench = f"{artifact_path(artifact.name)}/{BENCH}"
    return ReleasedTarget(
        target=artifact.name,
        key=manifest.key,
        graph_key=manifest.graph_key,
        package_sha256=package.sha256,
        size=package.size,
        requires=dict(manifest.requires),
        key_parts=parts,
        toolchain={name: value for name, value in facts if isinstance(value, str)},
        verification=Verification(
            passed=not artifact.verdict.failures(strict=True),
            cases=len(artifact.verdict.cases),
            at=created,
            worst_rmse=worst_relative_rmse(artifact.verdict.cases),
        ),
        bench=bench,
        licences=licences_of(artifact.distributions),
    )


def worst_relative_rmse(cases: Iterable[CallFigures]) -> float | None:
    """The largest root mean square error of an output, relative to the output's own root mean
    square. None without figures."""
    worst = None
    for case in cases:
        for output in case.outputs:
            if output.rmse is None or not output.reference_rms:
                continue
            relative = output.rmse / output.reference_rms
            worst = relative if worst is None else max(worst, relative)
    return worst
