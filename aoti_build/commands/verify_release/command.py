"""`verify --release`: what a receiver does with a bundle, without models.yaml and without sources.

The order matters. The signature comes first. Then every file is compared with it, and the files
with each other. Only then are private copies of the packages loaded, in worker processes. Nothing
before that imports torch or loads anything of the release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from aoti_build.artifact.bundle import layout
from aoti_build.artifact.bundle.described import target_of
from aoti_build.artifact.bundle.opened import OpenBundle, open_bundle, refuse_imports_from
from aoti_build.artifact.bundle.record import ReleaseRecord, parse_release
from aoti_build.artifact.bundle.signed import signed_bundle
from aoti_build.artifact.bundle.structure import require_agreement, sums_text
from aoti_build.artifact.manifest import Manifest
from aoti_build.artifact.signing.compare import compare_files
from aoti_build.artifact.signing.trust import (
    SYSTEM_KEYS,
    TrustedKeys,
    read_trusted_keys,
    system_trusted_keys,
)
from aoti_build.artifact.signing.verify import Signer
from aoti_build.commands.verify_release.options import ReceiverOptions
from aoti_build.commands.verify_release.report import ReleaseVerification
from aoti_build.common.digests import digest_bytes
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Target
from aoti_build.models_file.select import select

OnProgress = Callable[[Target, str], None]
# What errors say of the files of a bundle whose signature is not verified.
_LISTED = "listed"


@dataclass(frozen=True)
class _Examined:
    """A bundle whose files were compared. `signer` is None if no signature was verified."""

    record: ReleaseRecord
    files: Mapping[str, str]
    signer: Signer | None
    manifests: Mapping[str, Manifest]

    @property
    def listed(self) -> str:
        return "signed" if self.signer else _LISTED


def verify_release(
    options: ReceiverOptions,
    *,
    on_progress: OnProgress = lambda target, phase: None,
) -> ReleaseVerification:
    """Verify a bundle, and compare its packages with their reference data.

    Raises:
        SignatureError: the signature is refused, or the files are not what was signed. Nothing was
            loaded.
        ArtifactError: the bundle cannot be read. Nothing was loaded.
        UsageError: an option is wrong, or there is no usable key.
        ToolchainError: cryptography is not installed, or the host cannot run packages.
        Interrupted: Ctrl-C was pressed. Every worker has ended.
    """
    # Libraries that verify signatures are imported below.
    refuse_imports_from(options.directory)
    trusted = _trusted_keys(options)
    path = options.directory.absolute()
    with open_bundle(path) as bundle, bundle.shown_in_errors():
        examined = _examine(bundle, trusted, options.min_version)
        targets = tuple(target_of(manifest) for manifest in examined.manifests.values())
        chosen = select(targets, options.pattern or None)
        # From here on packages are loaded, in workers.
        from aoti_build.commands.verify_release.run import compare_packages

        compared = compare_packages(bundle, examined.manifests, chosen, options, on_progress)
        # A verdict about files that are others by now would mislead.
        compare_files(examined.files, bundle.opened, listed=examined.listed)
    return ReleaseVerification(
        path=str(options.directory),
        record=examined.record,
        sha256=examined.files[layout.RELEASE],
        file_count=len(examined.files),
        signer=examined.signer,
        compared=compared,
    )


def _trusted_keys(options: ReceiverOptions) -> TrustedKeys | None:
    """Whose signature is required. None with ``--unsigned``."""
    if options.unsigned:
        _refuse_with_unsigned(options)
        return None
    if options.keys:
        _require_names(options.keys)
        paths = [Path(key).absolute() for key in options.keys]
        return read_trusted_keys(paths, release=options.directory)
    if SYSTEM_KEYS.exists():
        return system_trusted_keys(release=options.directory)
    raise UsageError(
        "no key says whose signature the release must have",
        cause=f"there is no --public-key, and no {SYSTEM_KEYS}",
        hint="name the public key of whoever signs releases with --public-key FILE; --unsigned"
        " verifies no signature, and then nothing proves who made the release",
    )


def _refuse_with_unsigned(options: ReceiverOptions) -> None:
    for option, value in (("--public-key", options.keys), ("--min-version", options.min_version)):
        if value not in (None, ()):
            raise UsageError(
                f"--unsigned and {option} exclude each other",
                cause="nothing proves what a release says that is not signed",
                hint=f"omit one of --unsigned and {option}",
            )


def _require_names(keys: tuple[str, ...]) -> None:
    # The value of a variable that is not set would mean the current directory.
    if "" in keys:
        raise UsageError(
            "--public-key names no file",
            cause="its value is empty",
            hint="name a PEM file with the public key of whoever signs releases",
        )


def _examine(bundle: OpenBundle, trusted: TrustedKeys | None, min_version: str | None) -> _Examined:
    """Compare all files with the signature, and with each other. Nothing is loaded."""
    files: Mapping[str, str]
    if trusted is None:
        record, files = _listed_files(bundle)
        signer = None
    else:
        signed = signed_bundle(bundle, trusted, min_version)
        record, files, signer = signed.record, signed.listing.files, signed.listing.signer
    compare_files(files, bundle.opened, listed="signed" if signer else _LISTED)
    return _Examined(record, files, signer, require_agreement(bundle, record, files))


def _listed_files(bundle: OpenBundle) -> tuple[ReleaseRecord, dict[str, str]]:
    """The record of a release whose signature is not verified, and the digests that follow."""
    content = bundle.read(layout.RELEASE)
    record = parse_release(content, str(bundle.path / layout.RELEASE))
    files = {path: file.sha256 for path, file in record.files.items()}
    files[layout.RELEASE] = digest_bytes(content)
    files[layout.SUMS] = digest_bytes(sums_text(files).encode())
    return record, files
