"""A compiled package whose calls are replayed from CUDA graphs, as `aoti_build.load` can do it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aoti_build._torch.packages.loaded import LoadedPackage, PackageLacks, Tensors
from aoti_build._torch.program.writes import Writes
from aoti_build.messages import Signature
from aoti_build.runtime.graph_options import CudaGraphs
from aoti_build.runtime.graphs import graphed_calls
from aoti_build.runtime.leaves import Kinds
from aoti_build.runtime.raw import raw_loader


class GraphedPackage(LoadedPackage):
    """Runs a `.pt2` as `LoadedPackage` does, but compares what a replay gives.

    A graph is recorded after a call that ran as usual. Of a package without state, that call is
    made in addition. Of one with state it is the first of a sequence, and the later ones are
    replayed.
    """

    def __init__(
        self,
        path: Path,
        device: str,
        signature: Signature,
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._signature = signature
        super().__init__(path, device, Writes.of_signature(signature), state)

    def run_in_place(self, inputs: Tensors) -> Tensors:
        if self._loader is None:
            self._loader = self._load()
        if not self._writes.buffers and not self._loader.has_run(inputs):
            self._run(self._loader, self._copies(inputs))
        return super().run_in_place(inputs)

    def _load(self) -> Any:
        device = torch.device(self._device, torch.cuda.current_device())
        kinds = Kinds(torch.Tensor, device, lambda name: getattr(torch, name))
        return _GraphedLoader(self._path, self._signature, kinds)


class _GraphedLoader:
    """Stands for torch's loader, and replays its calls."""

    def __init__(self, path: Path, signature: Signature, kinds: Kinds) -> None:
        device = kinds.device
        self._loader = raw_loader(
            str(path), device.type, single_threaded=True, device_index=device.index
        )
        self._calls = graphed_calls(str(path), signature, kinds, self._loader, CudaGraphs())
        self._shapes: set[tuple[torch.Size, ...]] = set()
        self.get_constant_fqns = self._loader.get_constant_fqns
        self.load_constants = self._loader.load_constants

    def has_run(self, inputs: Tensors) -> bool:
        """Whether inputs of these shapes were given before, so that a call is replayed now."""
        return tuple(value.shape for value in inputs) in self._shapes

    def run(self, inputs: Tensors) -> Tensors:
        """The outputs of a call. Raises `PackageLacks` if there can be no graph for it."""
        self._shapes.add(tuple(value.shape for value in inputs))
        outputs = self._calls.run(inputs)
        if self._calls.why_not is not None:
            raise PackageLacks(f"it cannot run in CUDA graphs: {self._calls.why_not}")
        return outputs
