"""The record of an artifact: what it was built from, what it needs, and how it was checked.

`manifest.json` is the only record of an artifact; docs/reference/formats.md describes it. It is
written last, so an artifact without a readable manifest does not exist.

It contains a digest of itself, by which an accidental edit is noticed. The digest is not a
signature. Reading a manifest never raises an error for bad content: the result is then a
`NoManifest` with a reason. What is read has the types that all code relies on (`manifest_shape`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aoti_build.artifact import manifest_shape
from aoti_build.artifact.fingerprint import Parts
from aoti_build.artifact.reasons import REASON_OF_GROUP
from aoti_build.common.digests import (
    Block,
    Take,
    block_size,
    blocks_of,
    digest_json,
    digest_with_blocks,
)
from aoti_build.common.fields import loads
from aoti_build.common.json_object import JsonObject
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.common.records import write_json

if TYPE_CHECKING:  # a build with nothing to do needs no types
    from aoti_build.artifact.manifest_types import (
        CheckRecord,
        FileDocument,
        ImportRecord,
        LeafRecord,
        ProvenanceRecord,
        ReasonRecord,
        Requires,
        SignatureRecord,
        WeightsRecord,
    )

FORMAT = "aoti-build/manifest"
FORMAT_VERSION = 5
# Of a manifest that has the memory format of an input. A release that does not know this field
# would pass contiguous tensors, and the code would answer them with wrong numbers.
FORMAT_VERSION_WITH_FORMATS = 6
KEY_METADATA = "AOTI_BUILD_KEY"  # names the artifact key in the metadata inside the package

# The files of an artifact.
MANIFEST = "manifest.json"
MODEL = "model.pt2"
REFERENCE_DATA = "reference.safetensors"
LOG = "build.log"
VERIFY = "verify.json"
BENCH = "bench.json"
_REQUIRED_FILES = {MODEL, REFERENCE_DATA}
_UNLISTED_FILES = {MANIFEST, LOG, VERIFY, BENCH}

_LONGEST_SHOWN_VERSION = 40  # characters


@dataclass(frozen=True)
class FileRecord:
    """The digest and the size in bytes of a file of an artifact.

    A large file also has digests of its `blocks`. Each block has `block` bytes, but the last may
    have fewer. All cores check blocks at once, where a sha256 takes one core.
    """

    sha256: str
    size: int
    block: int = 0
    blocks: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """The record of a file with its present content. Raises OSError."""
        size = path.stat().st_size
        block = block_size(size)
        if size <= block:
            block = 0
        return cls._read(path, block)

    @classmethod
    def _read(
        cls,
        path: Path,
        block: int,
        take: Take | None = None,
    ) -> FileRecord:
        sha256, blocks, size = digest_with_blocks(path, block, take)
        return cls(sha256, size, block, blocks)

    def blocks_in(self, path: Path) -> list[Block]:
        """The blocks to compare in the file `path`, which must have the recorded size.

        They may replace the sha256 only if `aoti_build.artifact.integrity` confirms the record.
        """
        return blocks_of(path, self.size, self.block, self.blocks)

    def matches(self, path: Path) -> bool:
        """Whether the file has these bytes. All of them are read. Raises OSError.

        The sha256 and the blocks are both compared: a record from elsewhere may have blocks of
        other bytes.
        """
        if path.stat().st_size != self.size:
            return False
        return self._read(path, self.block) == self

    def copied(self, path: Path, take: Take | None) -> FileRecord:
        """Read the file `path`, hand its bytes to `take`, and return the record of those bytes.

        Blocks have the size that they have in this record. Raises OSError.
        """
        return self._read(path, self.block, take)

    def as_json(self) -> FileDocument:
        document: FileDocument = {"sha256": self.sha256, "size": self.size}
        if self.blocks:
            document["blocks"] = {"size": self.block, "blake3": list(self.blocks)}
        return document

    @classmethod
    def parse(cls, document: Any) -> FileRecord:
        """Raises ValueError unless `document` is the record of a file."""
        manifest_shape.FILE(document)
        blocks = document.get("blocks")
        if not blocks:
            return cls(document["sha256"], document["size"])
        record = cls(
            document["sha256"],
            document["size"],
            block=blocks["size"],
            blocks=tuple(blocks["blake3"]),
        )
        full_blocks = len(record.blocks) - 1
        size_of_last = record.size - record.block * full_blocks
        if not 0 < size_of_last <= record.block:
            raise ValueError("has blocks that do not cover the file")
        return record


@dataclass(frozen=True)
class Manifest:
    """The record of one artifact. The tables in it are described in `manifest_types`.

    Attributes:
        target: the name of the target, such as ``resnet18/cuda``.
        models_file: the path of the models.yaml that lists the target, from the project's root on.
        key: the artifact key, a digest of graph and weights.
        graph_key: a digest of what the compiled code depends on.
        weights: whether the weights are external or embedded.
        source: the parts of the source key (`aoti_build.artifact.fingerprint`).
        files: the records of the files, by name.
        requires: what a host must have to run the artifact.
        signature: inputs and outputs with dtypes and shapes, and the ranges of dims.
        check: the comparison with eager mode, or why there was none.
        seconds: how long each phase of the build took.
        action: what the build did, one of `planning.actions.Done`.
        reasons: why it was built.
        provenance: when, by which release and from which commit it was built.
    """

    target: str
    models_file: str
    key: str
    graph_key: str
    weights: WeightsRecord
    source: Parts
    files: Mapping[str, FileRecord]
    requires: Requires
    signature: SignatureRecord
    check: CheckRecord
    seconds: Mapping[str, float] = field(default_factory=dict)
    action: str = "compiled"
    reasons: tuple[ReasonRecord, ...] = ()
    provenance: ProvenanceRecord = field(default_factory=dict)  # type: ignore[assignment]

    @property
    def unverified(self) -> str | None:
        """Why the artifact was never compared with eager mode; None if it was."""
        if self.check["passed"] is None:
            return self.check["why"]
        return None

    @property
    def imports(self) -> Sequence[ImportRecord]:
        """The modules to import before the package is loaded."""
        return self.requires.get("imports", [])

    @property
    def architecture(self) -> str | None:
        """The architecture that models.yaml names, or None if it is `native`."""
        spec = self.source["spec"]
        architecture = spec.get("cuda.arch") or spec.get("cpu.isa") or "native"
        if architecture == "native":
            return None
        return str(architecture)

    def _format_version(self) -> int:
        for entry in tensor_inputs(self.signature):
            if "memory_format" in entry:
                return FORMAT_VERSION_WITH_FORMATS
        return FORMAT_VERSION

    def as_json(self) -> JsonObject:
        files = {}
        for name, record in sorted(self.files.items()):
            files[name] = record.as_json()
        source = {group: dict(parts) for group, parts in self.source.items()}
        body = {
            "format": FORMAT,
            "format_version": self._format_version(),
            "target": self.target,
            "models_file": self.models_file,
            "key": self.key,
            "graph_key": self.graph_key,
            "weights": dict(self.weights),
            "files": files,
            "requires": dict(self.requires),
            "signature": dict(self.signature),
            "check": dict(self.check),
            "seconds": dict(self.seconds),
            "action": self.action,
            "reasons": [dict(reason) for reason in self.reasons],
            "provenance": dict(self.provenance),
            "source": source,
        }
        return {**body, "sha256": digest_json(body)}

    def write(self, directory: Path, *, sync: bool = True) -> None:
        write_json(directory / MANIFEST, self.as_json(), sync=sync)


@dataclass(frozen=True)
class NoManifest:
    """There is no usable manifest. `damaged` is false if there is no artifact at all."""

    damaged: bool
    why: str


def tensor_inputs(signature: SignatureRecord | Mapping[str, Any]) -> list[LeafRecord]:
    """The inputs of a signature that are tensors, in the order of a call.

    The other inputs are constants that are compiled in.
    """
    return [entry for entry in signature["inputs"] if "dtype" in entry]


def read_manifest(directory: Path) -> Manifest | NoManifest:
    """The manifest in an artifact's directory, or why there is none."""
    path = directory / MANIFEST
    if path.exists():
        return read_record(path)
    has_files = directory.is_dir() and any(directory.iterdir())
    return NoManifest(damaged=has_files, why="no manifest.json")


def read_record(path: Path) -> Manifest | NoManifest:
    """The manifest in the file `path`, or why it contains none."""
    try:
        content = read_bytes(path, RECORD_LIMIT)
    except (OSError, ValueError) as error:
        return _damaged(f"cannot be read: {error}")
    return parse_record(content)


def parse_record(content: bytes) -> Manifest | NoManifest:
    """The manifest that is the `content` of a file, or why it is none."""
    try:
        document = loads(content)
    except ValueError as error:
        return _damaged(f"cannot be read: {error}")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return _damaged("is not an aoti_build manifest")
    version = document.get("format_version")
    readable = (FORMAT_VERSION, FORMAT_VERSION_WITH_FORMATS)
    if type(version) is not int or version not in readable:
        shown = str(version)[:_LONGEST_SHOWN_VERSION]
        wanted = " and ".join(map(str, readable))
        return _damaged(f"has format version {shown}; this release reads {wanted}")
    recorded_digest = document.pop("sha256", None)
    if recorded_digest != digest_json(document):
        return _damaged("was edited: its sha256 is not that of its content")
    try:
        return parse_manifest(document)
    except ValueError as error:
        return _damaged(f"has a missing or invalid field: {error}")


def _damaged(problem: str) -> NoManifest:
    return NoManifest(damaged=True, why=f"{MANIFEST} {problem}")


def parse_manifest(document: Mapping[str, Any]) -> Manifest:
    """The manifest in a document of this format, without the digest of itself.

    Raises ValueError unless every field that any code reads has the right type. The digest shows
    only that the document is complete, not who wrote it.
    """
    manifest_shape.MANIFEST(document)
    target = document["target"]
    device = document["requires"]["device"]
    # The variant is the device, or begins with it and a hyphen.
    _, _, variant = target.partition("/")
    if variant.partition("-")[0] != device:
        raise ValueError(f"requires device {device}, and its target is {target}")
    signature = document["signature"]
    tensor_names = {entry["name"] for entry in tensor_inputs(signature)}
    if not tensor_names.issuperset(signature["mutates"]["inputs"]):
        raise ValueError("signature.mutates names inputs that do not exist")
    source = document["source"]
    seconds = document["seconds"]
    return Manifest(
        target=target,
        models_file=document["models_file"],
        key=document["key"],
        graph_key=document["graph_key"],
        weights=document["weights"],
        source={group: source.get(group, {}) for group in REASON_OF_GROUP},
        files=_parse_files(document["files"]),
        requires=document["requires"],
        signature=signature,
        check=document["check"],
        seconds={phase: float(value) for phase, value in seconds.items()},
        action=document["action"],
        reasons=tuple(document["reasons"]),
        provenance=document["provenance"],
    )


def _parse_files(documents: Mapping[str, Any]) -> dict[str, FileRecord]:
    files = {}
    for name, document in documents.items():
        files[name] = FileRecord.parse(document)
    # The manifest cannot list itself. A log and a report of `verify` are not compared.
    if not files.keys() >= _REQUIRED_FILES or files.keys() & _UNLISTED_FILES:
        raise ValueError("files are not those of an artifact")
    return files
