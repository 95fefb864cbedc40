"""Loading artifacts in a service: the best variant for this host, checked before any native code is
loaded, in milliseconds; or a sentence that says why not.

    model = aoti_build.load("resnet18", artifacts="/srv/models/artifacts")
    output = model(image)

Needs torch, and of aoti_build neither models.yaml nor sources nor the tools that build.
docs/reference/loader.md describes it. `explain` and the modules `choose` and `package` do not
import torch.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from aoti_build.errors import UsageError
from aoti_build.runtime.choose import Candidate, Choice, explain
from aoti_build.runtime.leaves import state_names
from aoti_build.runtime.package import Verify, admit

if TYPE_CHECKING:
    from aoti_build.runtime.model import LoadedModel

__all__ = ["Candidate", "Choice", "explain", "load"]


def load(
    model: str,
    *,
    artifacts: str | os.PathLike[str] | None = None,
    device: str | None = None,
    variant: str | None = None,
    device_index: int = 0,
    verify: Verify = "full",
    num_runners: int = 1,
    single_threaded: bool = False,
    check_inputs: bool = True,
    imports: bool = True,
    explain: bool = False,
) -> LoadedModel:
    """The artifact of `model` that suits this host best, checked and loaded.

    Args: model: its name, or a target such as ``"resnet18/cuda-max-autotune"``. artifacts: the
        directory that builds wrote; else `AOTI_BUILD_ARTIFACTS`, else ``./artifacts``. Only read.
        device: ``"cpu"`` or ``"cuda"``; None takes ``cuda`` where a variant for it fits this host.
        variant: one variant by name, such as ``"cuda-max-autotune"``. device_index: which CUDA
        device to run on. verify: what is compared with the manifest before loading: ``"full"``
        every byte, ``"stat"`` size, times and
            inode against an earlier full check, ``"off"`` nothing. num_runners: calls that may be
        under way at once; each takes memory for its intermediate values. A model with
            state takes one. single_threaded: leave out the loader's own locks; then at most one
        call may be under way, and one runner. check_inputs: compare every input with the signature.
        Off, a wrong one gives wrong numbers or a crash. imports: import the modules that the
        manifest names (`requires.imports`), as far as what they register is not
            here yet. Off, this process must have imported them.
        explain: say on stderr which variant was chosen, and why each of the others was not.

    Raises: ArtifactError: no variant fits this host, the chosen one is damaged, or what it needs to
        be imported is not
            here. No native code was loaded. UsageError: there is no such model, variant or option.
        DirectoryError: AOTI_BUILD_RUNTIME_CACHE or TMPDIR names a directory that code must not be
        loaded from.
    """
    is_number = isinstance(num_runners, int)
    if not is_number or num_runners < 1 or (single_threaded and num_runners != 1):
        hint = "at least 1, and exactly 1 with single_threaded"
        raise UsageError(f"num_runners is {num_runners!r}", hint=hint)
    choice = _explain(
        model, artifacts=artifacts, device=device, variant=variant, device_index=device_index
    )
    if explain and sys.stderr is not None:  # a daemon may have closed it
        sys.stderr.write(f"{choice}\n")
    best = choice.best()
    assert best.manifest is not None  # one that fits has a manifest
    if num_runners > 1 and state_names(best.manifest.signature):
        raise UsageError(
            f"num_runners is {num_runners}, and the model has state",
            target=best.target,
            cause="calls side by side would write into the same buffers",
            hint="load it once for each stream of calls, with one runner",
        )
    admitted = admit(best.directory, best.manifest, verify)
    try:
        from aoti_build.runtime.imports import import_registered
        from aoti_build.runtime.model import LoadedModel

        import_registered(best.manifest.imports, best.target, allowed=imports)
        return LoadedModel(
            best,
            choice,
            admitted,
            device_index=device_index,
            num_runners=num_runners,
            single_threaded=single_threaded,
            check_inputs=check_inputs,
        )
    except BaseException:
        admitted.close()
        raise


_explain = explain
