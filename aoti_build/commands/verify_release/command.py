"""`verify --release`: what a receiver does with a bundle, without models.yaml and without sources.

All files are compared first (`received.examine`). Only then are private copies of the packages
loaded, in worker processes. Nothing before that imports torch or loads anything of the release.
"""

from __future__ import annotations

from collections.abc import Callable

from aoti_build.commands.received.examine import examined_bundle
from aoti_build.commands.verify_release.options import VerifyReleaseOptions
from aoti_build.commands.verify_release.report import ReleaseVerification
from aoti_build.models_file.project import Target

OnProgress = Callable[[Target, str], None]


def verify_release(
    options: VerifyReleaseOptions,
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
    with examined_bundle(options) as examined:
        targets = examined.targets(options.pattern)
        # From here on packages are loaded, in workers.
        from aoti_build.commands.verify_release.run import compare_packages

        compared = compare_packages(examined, targets, options, on_progress)
        examined.require_unchanged()
    return ReleaseVerification(examined.release, compared)
