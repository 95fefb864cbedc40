"""The in-toto statements of a release: how its packages were built, and how they were checked.

The formats are Statement v1 (https://in-toto.io/Statement/v1), SLSA provenance v1
(https://slsa.dev/spec/v1.0/provenance) and the test-result predicate v0.1
(https://in-toto.io/attestation/test-result/v0.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import quote

from aoti_build import __version__
from aoti_build.artifact.bundle.record import Source
from aoti_build.artifact.manifest import MANIFEST
from aoti_build.commands.release.target import ReleasedArtifact
from aoti_build.common.fields import is_digest
from aoti_build.common.json_object import JsonObject
from aoti_build.figures import CallFigures

STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
# Package URLs are URIs. They name the program, since aoti_build has no service of its own.
BUILDER = "pkg:pypi/aoti-build"
BUILD_TYPE = f"{BUILDER}#release-v1"
# The groups of key parts whose values are digests of files.
_FILE_GROUPS = ("sources", "weights")


def package_url(distribution: str, version: str) -> str:
    """The package URL of a distribution of PyPI (https://github.com/package-url/purl-spec)."""
    name = distribution.lower().replace("_", "-").replace(".", "-")
    return f"pkg:pypi/{quote(name)}@{quote(version, safe='')}"


def provenance_statement(
    artifacts: Sequence[ReleasedArtifact], source: Source, version: str, created: str
) -> JsonObject:
    """SLSA provenance of all packages.

    The external parameters are the version of the release and what models.yaml says of each
    target. The dependencies are the commit, the files of sources and weights by their digests,
    torch, Triton and the distributions that the models import. The builder is this program, and no
    service that keeps users apart.
    """
    parameters = {}
    byproducts = []
    for artifact in artifacts:
        parts = artifact.manifest.source
        parameters[artifact.name] = {"spec": dict(parts["spec"]), "config": dict(parts["config"])}
        byproducts.append(
            {
                "name": artifact.package_path.rpartition("/")[0] + f"/{MANIFEST}",
                "annotations": {"key": artifact.manifest.key},
            }
        )
    return {
        "_type": STATEMENT,
        "subject": [_subject(artifact) for artifact in artifacts],
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"version": version, "targets": parameters},
                "internalParameters": {"dirty": source.dirty},
                "resolvedDependencies": [
                    *_commit(source),
                    *_files(artifacts),
                    *_distributions(artifacts),
                ],
            },
            "runDetails": {
                "builder": {
                    "id": f"{BUILDER}@{quote(__version__, safe='')}",
                    "version": {"aoti_build": __version__},
                },
                "metadata": {"startedOn": created, "finishedOn": created},
                "byproducts": byproducts,
            },
        },
    }


def test_result_statements(artifacts: Sequence[ReleasedArtifact]) -> list[JsonObject]:
    """A statement for each package: the cases that were compared, and by what tolerance."""
    return [_test_result(artifact) for artifact in artifacts]


def _test_result(artifact: ReleasedArtifact) -> JsonObject:
    passed, warned, failed = [], [], []
    for case in artifact.verdict.cases:
        name = _case_name(case)
        if case.skipped is not None:
            warned.append(f"{name}: skipped, {case.skipped}")
        elif all(output.ok for output in case.outputs):
            passed.append(name)
        else:
            failed.append(name)
    for refusal in artifact.verdict.refusals:
        (passed if refusal.ok else failed).append(f"refuses {refusal.name}")
    for output in artifact.verdict.vacuous:
        warned.append(f"{output.output} would pass with other {output.of}")
    result = "PASSED"
    if failed or artifact.verdict.failures(strict=False):
        result = "FAILED"
    elif warned:
        result = "WARNED"
    check = artifact.manifest.check
    configuration = {
        "name": f"{artifact.package_path.rpartition('/')[0]}/{MANIFEST}",
        "annotations": {
            "tolerance": dict(check.get("tolerance") or {}),
            "cases": len(artifact.verdict.cases),
            "runtime": artifact.verdict.runtime,
        },
    }
    return {
        "_type": STATEMENT,
        "subject": [_subject(artifact)],
        "predicateType": TEST_RESULT,
        "predicate": {
            "result": result,
            "configuration": [configuration],
            "passedTests": passed,
            "warnedTests": warned,
            "failedTests": failed,
        },
    }


def _case_name(case: CallFigures) -> str:
    sizes = ", ".join(f"{name}={size}" for name, size in case.sizes.items())
    words = [case.name]
    if sizes:
        words.append(f"({sizes})")
    words.append(f"seed {case.seed}")
    if case.call is not None:
        words.append(f"call {case.call}")
    return " ".join(words)


def _subject(artifact: ReleasedArtifact) -> JsonObject:
    return {"name": artifact.package_path, "digest": {"sha256": artifact.package_sha256}}


def _commit(source: Source) -> list[JsonObject]:
    if source.commit is None:
        return []
    dependency: JsonObject = {"name": "source", "digest": {"gitCommit": source.commit}}
    if source.repository is not None:
        dependency["uri"] = f"git+{source.repository}@{source.commit}"
    return [dependency]


def _files(artifacts: Sequence[ReleasedArtifact]) -> list[JsonObject]:
    """The files that targets were made from. Targets that share one have it with one digest."""
    digests: set[tuple[str, str]] = set()
    for artifact in artifacts:
        for group in _FILE_GROUPS:
            digests.update(_file_digests(artifact.manifest.source[group]))
    return [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(digests)]


def _file_digests(parts: Mapping[str, object]) -> list[tuple[str, str]]:
    """Names with digests. Absent files and listings of directories are left out.

    So are files with absolute paths, which lie outside of the project, on this machine.
    """
    digests = []
    for name, value in parts.items():
        is_file = not name.endswith("/") and "//" not in name and not name.startswith("/")
        if is_file and isinstance(value, str) and is_digest(value):
            digests.append((name, value))
    return digests


def _distributions(artifacts: Sequence[ReleasedArtifact]) -> list[JsonObject]:
    urls = {package_url("aoti_build", __version__): "aoti_build"}
    for artifact in artifacts:
        for name, version in libraries(artifact).items():
            urls[package_url(name, version)] = name
    return [{"uri": url, "name": name} for url, name in sorted(urls.items())]


def libraries(artifact: ReleasedArtifact) -> dict[str, str]:
    """The versions of the distributions that the package was made with, by name.

    These are torch, Triton if the toolchain has it, and what the code of the model imports.
    """
    toolchain = artifact.manifest.source["toolchain"]
    versions = dict(artifact.distributions)
    for name in ("torch", "triton"):
        if isinstance(toolchain.get(name), str):
            versions[name] = toolchain[name]
    return versions
