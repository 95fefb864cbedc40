"""The record beside each artifact: what it was built from, what it needs, what it is, and that it
was checked.

`manifest.json` is the only record there is; docs/reference/formats.md describes it. It is written
last, so an artifact without a readable one does not exist. It carries a digest of itself, so that
one edited by hand is told from one that a build wrote (against accidents; it is no signature).
Reading never raises for bad content: an unreadable or unknown record is a value with a reason. What
is read has the types that all code relies on (`manifest_shape`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

FORMAT = "aoti-build/manifest"
FORMAT_VERSION = 5
KEY_METADATA = "AOTI_BUILD_KEY"  # the artifact key, in the metadata inside the package
MANIFEST, MODEL, REFERENCE_DATA, LOG, VERIFY = (
    "manifest.json",
    "model.pt2",
    "reference.safetensors",
    "build.log",
    "verify.json",
)


@dataclass(frozen=True)
class FileRecord:
    """A file of the artifact by digest and size in bytes. A large one also has digests of its
    `blocks` of `block` bytes (the last may be shorter), which all cores check at once; they say the
    same."""

    sha256: str
    size: int
    block: int = 0
    blocks: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """The record of a file as it is. Raises OSError."""
        size = path.stat().st_size
        block = block_size(size)
        return cls._read(path, block if size > block else 0)

    @classmethod
    def _read(cls, path: Path, block: int, take: Take | None = None) -> FileRecord:
        sha256, blocks, size = digest_with_blocks(path, block, take)
        return cls(sha256, size, block, blocks)

    def blocks_in(self, path: Path) -> list[Block]:
        """What to look at to compare `path` with this, once its size is right, and if the blocks
        are known to say what the sha256 says (`aoti_build.artifact.integrity`)."""
        return blocks_of(path, self.size, self.block, self.blocks)

    def matches(self, path: Path) -> bool:
        """Whether the file has these bytes; all of them are read. Raises OSError.

        By its sha256, and by the blocks if there are any: whoever wrote the record may have written
        blocks of other bytes.
        """
        return path.stat().st_size == self.size and self._read(path, self.block) == self

    def copied(self, path: Path, take: Take | None) -> FileRecord:
        """Read the file, handing its bytes to `take`; the record of what it took, by blocks as in
        this one. Raises OSError."""
        return self._read(path, self.block, take)

    def as_json(self) -> JsonObject:
        found: dict[str, Any] = {"sha256": self.sha256, "size": self.size}
        return (
            {**found, "blocks": {"size": self.block, "blake3": list(self.blocks)}}
            if self.blocks
            else found
        )

    @classmethod
    def parse(cls, document: Any) -> FileRecord:
        """Raises ValueError unless it is the record of a file."""
        manifest_shape.FILE(document)
        blocks = document.get("blocks") or {"size": 0, "blake3": []}
        record = cls(document["sha256"], document["size"], blocks["size"], tuple(blocks["blake3"]))
        if (
            record.blocks
            and not 0 < record.size - record.block * (len(record.blocks) - 1) <= record.block
        ):
            raise ValueError("has blocks that do not cover the file")
        return record


@dataclass(frozen=True)
class Manifest:
    """One artifact's record. Tables whose layout belongs to another module are kept as JSON values.

    `key` is the artifact key (graph and weights), `graph_key` what the compiled code depends on;
    `weights` says whether the weights lie apart from the code (`apart`, with `alignment` in bytes
    of each in the blob) or `why` not.

    `models_file` is the name of the models.yaml that lists the target, beside `artifacts/`.
    `source` are the parts of the source key (`aoti_build.artifact.fingerprint`); `requires` what a
    host must have to run it; `signature` inputs and outputs with dtypes, shapes and dynamic ranges;
    `check` the comparison with eager that let it be published, or why there was none; `provenance`
    when, by what and from which commit it was made.
    """

    target: str
    models_file: str
    key: str
    graph_key: str
    weights: Mapping[str, Any]
    source: Parts
    files: Mapping[str, FileRecord]
    requires: Mapping[str, Any]
    signature: Mapping[str, Any]
    check: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)
    action: str = "compiled"
    reasons: tuple[Mapping[str, Any], ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def unverified(self) -> str | None:
        """Why the artifact was never compared with eager; None if it was. Such a one is kept and
        never called good."""
        return str(self.check["why"]) if self.check["passed"] is None else None

    @property
    def imports(self) -> list[Mapping[str, Any]]:
        """Modules to import before the package is loaded, each with the `operators` and `types`
        that it registers."""
        return list(self.requires.get("imports", ()))

    @property
    def architecture(self) -> str | None:
        """The isa or arch that models.yaml named; None if it was compiled for what its host had."""
        spec = self.source["spec"]
        named = str(spec.get("cuda.arch") or spec.get("cpu.isa") or "native")
        return None if named == "native" else named

    def as_json(self) -> JsonObject:
        body = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "target": self.target,
            "models_file": self.models_file,
            "key": self.key,
            "graph_key": self.graph_key,
            "weights": dict(self.weights),
            "files": {name: file.as_json() for name, file in sorted(self.files.items())},
            "requires": dict(self.requires),
            "signature": dict(self.signature),
            "check": dict(self.check),
            "seconds": dict(self.seconds),
            "action": self.action,
            "reasons": [dict(reason) for reason in self.reasons],
            "provenance": dict(self.provenance),
            "source": {group: dict(parts) for group, parts in self.source.items()},
        }
        return {**body, "sha256": digest_json(body)}

    def write(self, directory: Path, *, sync: bool = True) -> None:
        write_json(directory / MANIFEST, self.as_json(), sync=sync)


@dataclass(frozen=True)
class NoManifest:
    """There is no usable manifest: `damaged` tells a bad one from none at all."""

    damaged: bool
    why: str


def tensor_inputs(signature: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The entries of a signature's inputs that are tensors, in the order of a call; the others are
    compiled in."""
    return [entry for entry in signature["inputs"] if "dtype" in entry]


def read_manifest(directory: Path) -> Manifest | NoManifest:
    """The manifest in an artifact's directory, or why there is none."""
    if not (directory / MANIFEST).exists():
        return NoManifest(
            damaged=directory.is_dir() and any(directory.iterdir()), why="no manifest.json"
        )
    return read_record(directory / MANIFEST)


def read_record(path: Path) -> Manifest | NoManifest:
    """The manifest in the file `path`, or why it holds none."""
    try:
        document = loads(read_bytes(path, RECORD_LIMIT))
    except (OSError, ValueError) as error:
        return NoManifest(damaged=True, why=f"manifest.json cannot be read: {error}")
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        return NoManifest(damaged=True, why="manifest.json is not an aoti_build manifest")
    version = document.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        found = str(version)[:40]
        return NoManifest(
            damaged=True,
            why=f"manifest.json has format version {found}; this release reads {FORMAT_VERSION}",
        )
    if document.pop("sha256", None) != digest_json(document):
        return NoManifest(
            damaged=True, why="manifest.json was edited: its sha256 is not that of the rest of it"
        )
    try:
        return parse_manifest(document)
    except ValueError as error:
        return NoManifest(damaged=True, why=f"manifest.json lacks or garbles a field: {error}")


def parse_manifest(document: Mapping[str, Any]) -> Manifest:
    """The manifest that a document of this format is, its digest aside. Raises ValueError unless
    every field that anybody reads is what it should be: the digest only says that the document is
    whole, not who wrote it."""
    manifest_shape.MANIFEST(document)
    files = {name: FileRecord.parse(file) for name, file in document["files"].items()}
    if not {MODEL, REFERENCE_DATA} <= files.keys() or not files.keys().isdisjoint(
        (MANIFEST, LOG, VERIFY)
    ):
        raise ValueError("files are not those of an artifact")
    target, device = document["target"], document["requires"]["device"]
    if target.partition("/")[2].partition("-")[0] != device:
        raise ValueError(f"requires device {device}, and its target is {target}")
    signature = document["signature"]
    tensors = {entry["name"] for entry in tensor_inputs(signature)}
    if not tensors.issuperset(signature["mutates"]["inputs"]):
        raise ValueError("signature.mutates names inputs that there are not")
    return Manifest(
        target=target,
        models_file=document["models_file"],
        key=document["key"],
        graph_key=document["graph_key"],
        weights=document["weights"],
        source={group: document["source"].get(group, {}) for group in REASON_OF_GROUP},
        files=files,
        requires=document["requires"],
        signature=signature,
        check=document["check"],
        seconds={name: float(value) for name, value in document["seconds"].items()},
        action=document["action"],
        reasons=tuple(document["reasons"]),
        provenance=document["provenance"],
    )
