"""Loads artifacts in a service: the best variant for this host, checked before its native code is
loaded, in milliseconds.

    model = aoti_build.load("resnet18", artifacts="/srv/models/artifacts")
    output = model(image)

This takes torch and the artifacts directory, but neither models.yaml, sources nor a compiler.
`explain` and the modules `choose` and `package` do not import torch. docs/reference/loader.md
describes the interface.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from aoti_build.errors import UsageError
from aoti_build.runtime.choose import Candidate, Choice
from aoti_build.runtime.choose import explain as published_choice
from aoti_build.runtime.graph_options import CudaGraphs, graph_options, report_text
from aoti_build.runtime.options import CallOptions
from aoti_build.runtime.package import Admitted, Verify, admit

if TYPE_CHECKING:
    from aoti_build.artifact.bundle.signed import SignedBundle
    from aoti_build.runtime.model import LoadedModel
    from aoti_build.runtime.signed import Keys

__all__ = ["Candidate", "Choice", "CudaGraphs", "explain", "load"]


def load(
    model: str,
    *,
    artifacts: str | os.PathLike[str] | None = None,
    device: str | None = None,
    variant: str | None = None,
    device_index: int = 0,
    verify: Verify = "full",
    require_signature: Keys | None = None,
    min_version: str | None = None,
    num_runners: int = 1,
    single_threaded: bool = False,
    check_inputs: bool = True,
    imports: bool = True,
    cuda_graphs: bool | Sequence[Mapping[str, int]] | CudaGraphs = False,
    explain: bool = False,
) -> LoadedModel:
    """Check and load the artifact of `model` that suits this host best.

    Args:
        model: the name of a model, or a target such as ``"resnet18/cuda-max-autotune"``.
        artifacts: the directory of artifacts, else `AOTI_BUILD_ARTIFACTS`, else ``./artifacts``.
        device: ``"cpu"`` or ``"cuda"``. None prefers ``cuda`` if a variant for it fits this host.
        variant: the name of one variant, such as ``"cuda-max-autotune"``.
        device_index: the CUDA device to run on, counted from 0.
        verify: the comparison with the manifest before loading. ``"full"`` compares every byte,
            ``"stat"`` size, times and inode with an earlier full check, ``"off"`` the size.
        require_signature: whose signature the release must have, which `artifacts` then names: the
            path of a public key, of a certificate or of a directory of them, several paths,
            `TrustedKeys`, or True for the keys in ``/etc/aoti_build/trusted-keys``.
        min_version: the oldest version of a signed release that is loaded.
        num_runners: the number of simultaneous calls. A model with state takes one.
        single_threaded: omit the loader's own locks. Then only one call may run at a time.
        check_inputs: compare inputs with the signature. Unchecked, wrong ones may crash the call.
        imports: import the modules in the manifest's `requires.imports` that are still missing.
        cuda_graphs: replay calls from CUDA graphs. True records a graph for each combination of
            sizes at its first call, a list of sizes records these at load, and `CudaGraphs` sets
            limits as well. Calls then run one at a time.
        explain: print on stderr why this variant was chosen and the others were not.

    Raises:
        ArtifactError: no variant fits, the chosen one is damaged, or an import is missing.
        SignatureError: the release is not signed as required, or is not what was signed. It is an
            `ArtifactError`.
        UsageError: there is no such model, variant or option, or no usable key.
        ToolchainError: a signature is required, and cryptography is not installed or there is no
            place for a private copy of the package.
        DirectoryError: AOTI_BUILD_RUNTIME_CACHE or TMPDIR names a directory unfit for code.
    """
    options = CallOptions(
        device_index=device_index,
        num_runners=num_runners,
        single_threaded=single_threaded,
        check_inputs=check_inputs,
        cuda_graphs=graph_options(cuda_graphs),
    )
    say = _say if explain else _say_nothing
    with _opened_choice(
        model,
        artifacts=artifacts,
        device=device,
        variant=variant,
        device_index=device_index,
        require_signature=require_signature,
        min_version=min_version,
        verify=verify,
    ) as (choice, release):
        say(str(choice))
        loaded = _open(choice, verify, options, release, imports=imports)
    if options.cuda_graphs is not None:
        say(report_text(loaded.metadata["load"]["cuda_graphs"]))
    return loaded


def explain(
    model: str,
    *,
    artifacts: str | os.PathLike[str] | None = None,
    device: str | None = None,
    variant: str | None = None,
    device_index: int = 0,
    require_signature: Keys | None = None,
    min_version: str | None = None,
) -> Choice:
    """Choose among the variants of `model` as `load` does, without loading any and without torch.

    The arguments are those of `load`. With `require_signature`, variants that lie in the release
    and were not signed are among the candidates, with that as the reason against them.

    Raises:
        SignatureError: as `load` does, for what is read before a package.
        UsageError: there is no such model or variant, or no usable key.
        ToolchainError: a signature is required, and cryptography is not installed.
    """
    with _opened_choice(
        model,
        artifacts=artifacts,
        device=device,
        variant=variant,
        device_index=device_index,
        require_signature=require_signature,
        min_version=min_version,
    ) as (choice, _):
        return choice


@contextlib.contextmanager
def _opened_choice(
    model: str,
    *,
    artifacts: str | os.PathLike[str] | None,
    device: str | None,
    variant: str | None,
    device_index: int,
    require_signature: Keys | None,
    min_version: str | None,
    verify: Verify = "full",
) -> Iterator[tuple[Choice, SignedBundle | None]]:
    """The choice of `load` and `explain`, and the open release if a signature is required."""
    if require_signature is None:
        _refuse_min_version(min_version)
        choice = published_choice(
            model,
            artifacts=artifacts,
            device=device,
            variant=variant,
            device_index=device_index,
        )
        yield choice, None
        return
    # Signatures need libraries that other loads do not.
    from aoti_build.runtime.signed import open_release, signed_choice

    with open_release(artifacts, require_signature, min_version, verify) as release:
        choice = signed_choice(
            release, model, device=device, variant=variant, device_index=device_index
        )
        yield choice, release


def _refuse_min_version(min_version: str | None) -> None:
    if min_version is not None:
        raise UsageError(
            "min_version is given without require_signature",
            cause="nothing proves the version of a release that is not signed",
            hint="give the public key of whoever signs releases to require_signature",
        )


def _open(
    choice: Choice,
    verify: Verify,
    options: CallOptions,
    release: SignedBundle | None,
    *,
    imports: bool,
) -> LoadedModel:
    """Check and load the best candidate of a choice."""
    best = choice.best()
    assert best.manifest is not None  # a candidate that fits has a manifest
    options.check_state(best.manifest)
    admitted = _admit(best, verify, release)
    with admitted.closed_on_error():
        # These import torch, which a refusal does not need.
        from aoti_build.runtime.imports import import_registered
        from aoti_build.runtime.model import LoadedModel

        import_registered(best.manifest.imports, best.target, allowed=imports)
        return LoadedModel(best, choice, admitted, options)


def _admit(best: Candidate, verify: Verify, release: SignedBundle | None) -> Admitted:
    assert best.manifest is not None
    if release is None:
        return admit(best.directory, best.manifest, verify)
    from aoti_build.runtime.signed import admit_signed

    return admit_signed(release, best, verify)


def _say(text: str) -> None:
    if sys.stderr is not None:  # a daemon may have closed it
        sys.stderr.write(f"{text}\n")


def _say_nothing(text: str) -> None:
    pass
