"""The files of a release bundle, by their paths in its directory."""

from __future__ import annotations

# The record of the release (`record.ReleaseRecord`). It lists every other file but the two below.
RELEASE = "release.json"
# The sha256 of every file but itself and the signature, for `sha256sum -c`.
SUMS = "SHA256SUMS"
# The signature of every other file, empty directories refused.
SIGNATURE = "model.sig"

# Artifacts, as ``models/<model>/<variant>/``.
MODELS = "models"
# in-toto statements: how each package was built, and how it was checked.
PROVENANCE = "evidence/provenance.json"
TEST_RESULTS = "evidence/test-results.json"
# The bill of materials in CycloneDX.
SBOM = "evidence/sbom.cdx.json"
REPORT = "report.html"
NOTES = "NOTES.md"

# What others may not do with files and directories of a bundle, whatever the umask of a process is.
UMASK = 0o022

# What `release.json` cannot list: itself and what is made from it.
UNLISTED = frozenset({RELEASE, SUMS, SIGNATURE})


def artifact_path(target: str) -> str:
    """The directory of the artifact of a target such as ``resnet18/cpu``."""
    return f"{MODELS}/{target}"
