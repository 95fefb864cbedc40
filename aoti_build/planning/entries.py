"""Entries for the index, from the manifest of an artifact that was found up to date."""

from __future__ import annotations

from dataclasses import dataclass

from aoti_build.artifact.manifest import MANIFEST, MODEL, Manifest
from aoti_build.artifact.paths import artifact_directory
from aoti_build.common.stat_cache import StatCache, file_size
from aoti_build.host import distributions
from aoti_build.models_file.project import Project, Target
from aoti_build.planning.index import Entry


@dataclass(frozen=True)
class PublishedFiles:
    """The files of an up-to-date artifact, with the digest that its manifest.json has.

    `installed` are the directories in which distributions are looked for.
    """

    project: Project
    target: Target
    manifest: Manifest
    manifest_digest: str
    installed: tuple[str, ...]

    def entry(self, facts: str, digests: StatCache) -> Entry:
        """Everything by which the target was found up to date. `facts` is a digest."""
        source = self.manifest.source
        package = self.manifest.files[MODEL]
        installed = {}
        for name in source["distributions"]:
            installed[name] = list(distributions.installation(name, self.installed))
        return Entry(
            spec=self.target.digest,
            facts=facts,
            distributions=installed,
            modules=source["modules"],
            variables=source["variables"],
            files=self._files(digests),
            sizes=self._sizes(),
            key=self.manifest.key,
            sha256=package.sha256,
            size=package.size,
        )

    def _files(self, digests: StatCache) -> dict[str, str | None]:
        """Digests by absolute path, or by path from the project on."""
        source = self.manifest.source
        # In the order of later comparisons: what is edited most often comes first, and what takes
        # longest to read comes last.
        files = {**source["sources"], **source["weights"]}
        files[self._name(MANIFEST)] = self.manifest_digest
        for distribution in source["distributions"]:
            record = distributions.record_of(distribution, self.installed)
            digest = digests.digest(record) if record is not None else None
            if digest is not None:
                files[str(record)] = digest
        for name, published in self.manifest.files.items():
            files[self._name(name)] = published.sha256
        return files

    def _sizes(self) -> dict[str, int]:
        """The sizes of the artifact's own files in bytes. A file of another size is not read."""
        sizes = {}
        for name, record in self.manifest.files.items():
            sizes[self._name(name)] = record.size
        manifest_size = file_size(artifact_directory(self.project, self.target) / MANIFEST)
        if manifest_size is not None:
            sizes[self._name(MANIFEST)] = manifest_size
        return sizes

    def _name(self, file: str) -> str:
        """The name of a file of the artifact in an entry."""
        directory = artifact_directory(self.project, self.target)
        return f"{self.project.shown(directory)}/{file}"
