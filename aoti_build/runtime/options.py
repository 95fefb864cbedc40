"""How a loaded model is called, as the caller of `aoti_build.load` wants it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aoti_build.common.fields import MAX_INT
from aoti_build.errors import UsageError
from aoti_build.runtime.graph_options import CudaGraphs
from aoti_build.runtime.leaves import state_names

if TYPE_CHECKING:
    from aoti_build.artifact.manifest import Manifest


@dataclass(frozen=True)
class CallOptions:
    """The options of `aoti_build.load` that concern calls, by the names that they have there.

    Raises `UsageError` for a number of runners that torch's loader or CUDA graphs do not take.
    """

    device_index: int
    num_runners: int
    single_threaded: bool
    check_inputs: bool
    cuda_graphs: CudaGraphs | None

    def __post_init__(self) -> None:
        runners = self.num_runners
        valid = isinstance(runners, int) and 1 <= runners <= MAX_INT
        if self.single_threaded:
            valid = valid and runners == 1
        if not valid:
            hint = "at least 1, and exactly 1 with single_threaded"
            raise UsageError(f"num_runners is {runners!r}", hint=hint)
        if self.cuda_graphs is not None and runners > 1:
            raise UsageError(
                f"num_runners is {runners}, and CUDA graphs run one call at a time",
                hint="load the model several times for simultaneous calls, or without cuda_graphs",
            )

    def check_state(self, manifest: Manifest) -> None:
        """Raise `UsageError` for simultaneous calls of a model that writes into its buffers."""
        if self.num_runners > 1 and state_names(manifest.signature):
            raise UsageError(
                f"num_runners is {self.num_runners}, and the model has state",
                target=manifest.target,
                cause="simultaneous calls would write into the same buffers",
                hint="load it once for each stream of calls, with one runner",
            )
