"""The evidence of a release has the published formats, and says what is known of each artifact."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf.json_format import ParseDict
from in_toto_attestation.predicates.provenance.v1.provenance_pb2 import Provenance
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementMessage
from small_projects import PASSED_CASE, TWO_MODELS, FakeWorker, publish_fake, write_project

import aoti_build
from aoti_build.artifact.manifest import read_manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.commands.release import licences as release_licences
from aoti_build.commands.release.command import ReleaseOptions, release
from aoti_build.commands.release.sbom import sbom
from aoti_build.measurement.record import BenchRecord, Machine, Row, Sample, Steady, write_bench
from aoti_build.models_file import Project


@pytest.fixture
def two(tmp_path: Path, fake_worker: FakeWorker) -> Project:
    project = write_project(tmp_path / "shop", TWO_MODELS)
    for target in project.targets:
        publish_fake(project, target)
    return project


def bundle(project: Project, out: str = "out") -> Path:
    options = ReleaseOptions("1.4.0", str(project.root / out), allow_dirty=True)
    report = release(project, project.targets, options)
    assert report.error is None, report.error
    return project.root / out


def evidence(project: Project, name: str) -> Any:
    return json.loads((bundle(project) / "evidence" / name).read_text())


def problems(document: Any) -> Any:
    """What CycloneDX's own schema says against a bill of materials; None if nothing."""
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))


def measure(project: Project) -> None:
    manifest: Any = read_manifest(artifact_directory(project, project.targets[0]))
    steady = Steady({"batch": 2}, 0.5, 0.75, 1.0, calls=9, samples_per_second=2.0)
    sample = Sample("2026-01-01T00:00:00Z", 1.0, 2.0, 3.0, 4, steady=(steady,))
    record = BenchRecord(
        target="first/cpu",
        key=manifest.key,
        package_sha256=manifest.files["model.pt2"].sha256,
        size=1,
        measured="2026-01-01T00:00:00Z",
        machine=Machine(machine_class="m", facts={}, threads=1, cpus=(0,)),
        rows=(Row(way="artifact", cache=None, samples=(sample,)),),  # type: ignore[arg-type]
    )
    write_bench(artifact_directory(project, project.targets[0]) / "bench.json", record)


def test_the_bill_of_materials_is_valid(two: Project) -> None:
    measure(two)
    document = evidence(two, "sbom.cdx.json")
    assert problems(document) is None
    # The schema is looked at, and more than in part.
    document["components"][0]["modelCard"]["modelParameters"]["shape"] = 1
    assert problems(document) is not None


def test_the_bill_of_materials_has_models_and_libraries(two: Project) -> None:
    measure(two)
    document = evidence(two, "sbom.cdx.json")
    by_name = {component["name"]: component for component in document["components"]}
    model = by_name["first/cpu"]
    manifest: Any = read_manifest(artifact_directory(two, two.targets[0]))
    assert model["type"] == "machine-learning-model"
    digest = manifest.files["model.pt2"].sha256
    assert model["hashes"] == [{"alg": "SHA-256", "content": digest}]
    card = model["modelCard"]
    assert card["modelParameters"] == {
        "inputs": [{"format": "input: float32 [2, 4]"}],
        "outputs": [{"format": "output: float32 [2, 4]"}],
        "modelArchitecture": "model.py:build",
    }
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    rmse = PASSED_CASE["outputs"][0]["rmse"]  # type: ignore[index]
    assert {"rmse against eager mode", "median seconds of a call"} <= {m["type"] for m in metrics}
    assert repr(rmse) in {metric["value"] for metric in metrics}
    assert metrics[-1]["slice"] == "artifact, process 1, batch=2"
    assert by_name["torch"]["purl"].startswith("pkg:pypi/torch@")
    assert by_name["sympy"]["licenses"]
    assert by_name["aoti_build"]["version"] == aoti_build.__version__
    assert "small_library" not in by_name, "it is not installed"


def test_references_of_the_bill_of_materials_lead_somewhere(two: Project) -> None:
    document = evidence(two, "sbom.cdx.json")
    references = {component["bom-ref"] for component in document["components"]}
    assert len(references) == len(document["components"])
    references.add(document["metadata"]["component"]["bom-ref"])
    rows = {row["ref"]: row.get("dependsOn", []) for row in document["dependencies"]}
    assert rows.keys() == references
    for used in rows.values():
        assert references.issuperset(used)
    assert rows["release"] == ["model:first/cpu", "model:second/cpu"]
    assert any(name.startswith("pkg:pypi/torch@") for name in rows["model:first/cpu"])


def test_the_serial_number_follows_the_content() -> None:
    numbers = {
        sbom([], name, version, created)["serialNumber"]
        for name, version, created in (("a", "1", "t"), ("a", "2", "t"), ("a", "1", "u"))
    }
    assert len(numbers) == 3
    assert sbom([], "a", "1", "t")["serialNumber"] in numbers


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: other", "MIT OR Apache-2.0"),
        ("License: BSD", "BSD"),
        (
            f"License: {'a long text ' * 20}\nClassifier: License :: OSI Approved :: MIT License",
            "MIT License",
        ),
        ("Classifier: Topic :: Games", None),
    ],
)
def test_licences_come_from_the_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: str, expected: str | None
) -> None:
    info = tmp_path / "sample_library-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: sample_library\n{fields}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    licence = release_licences.licence_of("sample_library")
    assert (licence.expression if licence else None) == expected
    assert release_licences.licence_of("absent_library") is None


def read_statement(document: Any) -> StatementMessage:
    """The statement, as in-toto's own library reads and checks it."""
    message = ParseDict(document, StatementMessage())
    Statement.copy_from_pb(message).validate()
    return message


def test_the_provenance_is_a_statement_of_slsa(two: Project) -> None:
    document = evidence(two, "provenance.json")
    statement = read_statement(document)
    assert statement.predicate_type == "https://slsa.dev/provenance/v1"
    provenance = ParseDict(document["predicate"], Provenance())
    definition = provenance.build_definition
    for dependency in definition.resolved_dependencies:
        ResourceDescriptor.copy_from_pb(dependency).validate()
    names = {dependency.name for dependency in definition.resolved_dependencies}
    assert {"model.py", "helper.py", "torch", "aoti_build"} <= names
    assert (
        document["predicate"]["buildDefinition"]["externalParameters"]["targets"]["first/cpu"][
            "spec"
        ]["source"]
        == "model.py:build"
    )
    assert provenance.run_details.builder.id.startswith("pkg:pypi/aoti-build@")
    assert provenance.run_details.metadata.finished_on.seconds > 0


def test_the_provenance_names_the_commit(two: Project) -> None:
    def git(*words: str) -> str:
        identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", *identity, *words], cwd=two.root, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message=first")
    git("remote", "add", "origin", "git@example.org:us/shop.git")
    commit = git("rev-parse", "HEAD")
    (first, *_) = evidence(two, "provenance.json")["predicate"]["buildDefinition"][
        "resolvedDependencies"
    ]
    assert first == {
        "name": "source",
        "digest": {"gitCommit": commit},
        "uri": f"git+ssh://example.org/us/shop.git@{commit}",
    }


def test_the_subjects_are_the_packages(two: Project) -> None:
    out = bundle(two)
    sums = dict(
        reversed(line.split("  ")) for line in (out / "SHA256SUMS").read_text().splitlines()
    )
    provenance = json.loads((out / "evidence/provenance.json").read_text())
    results = json.loads((out / "evidence/test-results.json").read_text())
    packages = [f"models/{model}/cpu/model.pt2" for model in ("first", "second")]
    wanted = [{"name": path, "digest": {"sha256": sums[path]}} for path in packages]
    assert provenance["subject"] == wanted
    assert [result["subject"] for result in results] == [[subject] for subject in wanted]


def test_the_test_results_are_statements(two: Project) -> None:
    for document in evidence(two, "test-results.json"):
        statement = read_statement(document)
        assert statement.predicate_type == "https://in-toto.io/attestation/test-result/v0.1"
        result = ParseDict(document["predicate"], test_result_pb2.TestResult())
        assert result.result == "PASSED"
        assert list(result.passed_tests) == ["example seed 0", "refuses input: rank 3"]
        (configuration,) = result.configuration
        ResourceDescriptor.copy_from_pb(configuration).validate()
        assert dict(configuration.annotations)["cases"] == 1
        assert "tolerance" in dict(configuration.annotations)


def test_a_library_that_reads_strictly_is_used() -> None:
    """The checks above would notice a wrong statement."""
    with pytest.raises(ValueError, match="type"):
        read_statement({"_type": "x", "subject": [], "predicateType": "y", "predicate": {}})
