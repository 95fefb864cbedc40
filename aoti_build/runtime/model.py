"""A loaded model: a callable with the exported signature."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aoti_build.artifact.manifest import Manifest
from aoti_build.errors import ArtifactError, ClosedError, CopyError, UsageError
from aoti_build.host.devices import device_named
from aoti_build.runtime.arguments import Arguments
from aoti_build.runtime.choose import Candidate, Choice
from aoti_build.runtime.gate import Gate, turns
from aoti_build.runtime.graph_options import CudaGraphs
from aoti_build.runtime.graphs import GraphedCalls, graphed_calls
from aoti_build.runtime.leaves import Kinds, state_names
from aoti_build.runtime.mapped import MappedWeights, map_weights
from aoti_build.runtime.options import CallOptions
from aoti_build.runtime.package import Admitted
from aoti_build.runtime.raw import raw_loader, synchronize
from aoti_build.runtime.static_inputs import StaticInputs
from aoti_build.runtime.structures import exported_parameters, output_restorer
from aoti_build.runtime.weights import ReplaceableWeights, listed_weights
from aoti_build.runtime.written import Copies, WrittenInputs

_LONGEST_CAUSE = 2000  # characters of a message from torch


class LoadedModel:
    """A compiled model, called as it was exported: by position, by keyword or with nested
    structures, at any size in the range.

    Several threads may call it; see `num_runners` of `aoti_build.load`. `close()`, or the end of a
    ``with`` block, waits for running calls and unloads the model. Later calls raise `ClosedError`.
    """

    def __init__(
        self,
        candidate: Candidate,
        choice: Choice,
        admitted: Admitted,
        options: CallOptions,
    ) -> None:
        if candidate.manifest is None:  # then it does not fit this host
            raise ValueError(candidate.target)
        self._manifest: Manifest = candidate.manifest
        self._admitted = admitted
        # Garbage collection releases the package too, if `close` is never called.
        self._release = weakref.finalize(self, admitted.close)
        self._choice = choice
        self._index = -1
        self._device = torch.device(candidate.device)
        if device_named(candidate.device).is_indexed:
            self._index = options.device_index
            self._device = torch.device(candidate.device, options.device_index)
        self._options = options
        # Weights from `update_weights`, kept for `reset_state` if the model has state.
        self._replaced_weights: dict[str, torch.Tensor] = {}
        self._gate = Gate()
        self._turns = turns(options.num_runners)
        # None if the loader has the weights in its own memory.
        self._mapped: MappedWeights | None = None
        # Native code is loaded here. None once the model is closed.
        self._loader: Any = self._first_load(candidate)
        self._in_spec, out_spec = self._call_specs()
        signature = self._manifest.signature
        kinds = Kinds(torch.Tensor, self._device, self._dtype)
        self._arguments = Arguments(
            candidate.target,
            signature,
            exported_parameters(self._in_spec, signature),
            kinds,
            options.check_inputs,
        )
        self._written = self._written_inputs()
        self._restore = output_restorer(out_spec, signature["outputs"])
        self._graphs: GraphedCalls | None = None
        # What runs a call on flat tensors. None once the model is closed.
        self._run: Any = self._loader.boxed_run
        if options.cuda_graphs is not None:
            self._use_graphs(options.cuda_graphs, kinds)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model.

        Raises `InputError` for arguments that it was not exported for, and `ClosedError` after
        `close()`.
        """
        inputs = self._arguments.flatten(args, kwargs)
        call = object()
        try:
            self._gate.enter(call)
            if self._run is None:
                raise self._closed()
            copies: Copies = []
            if self._written is not None:
                copies = self._written.made_contiguous(inputs)
            with self._turns:
                outputs = self._run(inputs)
            WrittenInputs.copy_back(copies)
        finally:
            self._gate.leave(call)
        return self._restore(outputs)

    def warm_up(self, sizes: Mapping[str, int] | None = None) -> None:
        """Prepare for calls of `sizes`, a value for every dim, so that the first one is fast.

        With `cuda_graphs` this records the graph. Without, it makes one call with zeros. The state
        of a model does not change.

        Raises:
            InputError: `sizes` do not fit the model.
            UsageError: the model has state and was loaded without `cuda_graphs`.
            ClosedError: after `close()`.
        """
        with self._gate.alone():
            self._require_open()
            if self._graphs is not None:
                # A rehearsal on the loaded package would change its state.
                rehearse = self._rehearse if self.state else None
                self._graphs.warm_up(sizes, rehearse)
                return
            if self.state:
                raise UsageError(
                    "a model with state is only warmed up for CUDA graphs",
                    target=self.target,
                    cause="a call with zeros would change its state",
                    hint="load it with cuda_graphs=True, or call it and then reset_state()",
                )
            inputs = self._static_inputs()
            self._loader.boxed_run(inputs.zeros(inputs.shapes(sizes)))
            self._synchronize()

    def buffers(self, sizes: Mapping[str, int] | None = None) -> dict[str, torch.Tensor]:
        """The static inputs of the CUDA graph for `sizes`, by the names of the signature.

        Fill these tensors in place and pass them to the call: then it copies no input.

        Raises:
            InputError: `sizes` do not fit the model.
            UsageError: the model was loaded without `cuda_graphs`.
            ClosedError: after `close()`.
        """
        self._require_open()
        if self._graphs is None:
            raise UsageError(
                "there are no static inputs without CUDA graphs",
                target=self.target,
                hint="load the model with cuda_graphs=True",
            )
        return self._graphs.buffers(sizes)

    def update_weights(self, state: Mapping[str, torch.Tensor], *, partial: bool = False) -> None:
        """Replace the weights with copies of those in a state dict of the original model.

        With `partial` the weights that `state` omits stay. Names, dtypes and shapes are compared
        first, so a rejected `state` changes nothing. New calls wait for the update. Each call sees
        either the old weights or the new ones.

        Raises:
            InputError: `state` does not fit this model, or its weights are part of its code.
            ClosedError: after `close()`.
        """
        listed = listed_weights(self._manifest)
        with self._gate.alone():
            self._require_open()
            # The loader gets no local name: the traceback of an error would keep it after `close`.
            names = self._loader.get_constant_fqns()
            weights = ReplaceableWeights(self.target, listed, names, self._device)
            prepared = weights.prepare(state, partial=partial)
            self._synchronize()  # kernels of earlier calls may still read the old weights
            self._loader.load_constants(prepared, False, False)
            self._synchronize()
            self._use(self._loader)
            if self.state:
                self._replaced_weights |= prepared

    @property
    def state(self) -> tuple[str, ...]:
        """The names of the buffers that a call writes into: what the model remembers between calls.

        Most models have none.
        """
        return state_names(self._manifest.signature)

    def reset_state(self) -> None:
        """Restore the `state` that the model had after loading or from `update_weights`.

        Replaced weights stay. New calls wait for the reset. It copies the state if the weights are
        mapped, and else takes about as long as loading.
        Raises `ClosedError` after `close()`.
        """
        with self._gate.alone():
            self._require_open()
            if not self.state:
                return
            if self._mapped is not None:
                self._mapped.reset(self._loader, self._replaced_weights)
                return
            self._synchronize()  # kernels of earlier calls may still write
            # torch's loader has no reset, so the package is loaded again.
            loader = self._load()
            if self._replaced_weights:
                loader.load_constants(self._replaced_weights, False, False)
            self._use(loader)

    def close(self) -> None:
        """Wait for running calls, then unload the model. A second call does nothing."""
        with self._gate.alone():
            if self._loader is not None:
                self._synchronize()
                self._use(None)
                self._release()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse `copy` and `pickle`: a copy would share the locks and the native model."""
        raise CopyError(
            "a loaded model cannot be copied or pickled",
            target=self.target,
            hint=f"load it where it is needed: aoti_build.load({self.target!r}, artifacts=...)",
        )

    @property
    def target(self) -> str:
        """``model/variant``, such as ``resnet18/cpu``."""
        return self._manifest.target

    @property
    def in_spec(self) -> Any:
        """The pytree spec of the (args, kwargs) of the exported call."""
        return self._in_spec

    @property
    def device(self) -> torch.device:
        """The device of inputs and outputs."""
        return self._device

    @property
    def choice(self) -> Choice:
        """Why this variant was chosen and the others were not. As text it has a line for each."""
        return self._choice

    @property
    def metadata(self) -> dict[str, Any]:
        """The manifest as JSON values: `signature`, `key`, `requires`, `provenance` and more.

        docs/reference/formats.md describes it. `load` is added: how the package was checked
        (`verify`), whether processes share its unpacked files (`unpacked`) and the memory of its
        weights (`mapped`), and with `cuda_graphs` the graphs, their memory and limits, and why
        there are none (`why_not`). With `require_signature` it says which `release` that was, and
        who signed it.
        """
        load: dict[str, Any] = {
            "verify": self._admitted.how,
            "unpacked": self._admitted.unpacked,
            "mapped": self._mapped is not None,
        }
        if self._graphs is not None:
            load["cuda_graphs"] = self._graphs.report()
        if self._choice.release is not None:
            load["release"] = dict(self._choice.release)
        return {**self._manifest.as_json(), "load": load}

    def __repr__(self) -> str:
        state = "closed" if self._loader is None else str(self._device)
        return f"<aoti_build model {self.target}, {state}: {self._arguments.form()}>"

    def _require_open(self) -> None:
        """Raise `ClosedError` after `close()`."""
        if self._loader is None:
            raise self._closed()

    def _closed(self) -> ClosedError:
        return ClosedError("this model was closed", target=self.target)

    def _use(self, loader: Any) -> None:
        """Run later calls on `loader`, which has new weights or another state. None: on nothing."""
        self._loader = loader
        if self._graphs is not None:
            self._graphs.forget(loader)
        if loader is None:
            self._run = None
        elif self._graphs is None:
            self._run = loader.boxed_run

    def _use_graphs(self, options: CudaGraphs, kinds: Kinds) -> None:
        """Replay calls from now on, and record the graphs for the sizes in `options`."""
        signature = self._manifest.signature
        self._graphs = graphed_calls(self.target, signature, kinds, self._loader, options)
        self._run = self._graphs.run
        for sizes in options.sizes or ():
            self.warm_up(sizes)

    def _rehearse(self, inputs: list[torch.Tensor]) -> None:
        """Run a second copy of the package once, which loads what CUDA loads lazily."""
        self._load().boxed_run(inputs)
        self._synchronize()

    def _static_inputs(self) -> StaticInputs:
        dims = self._manifest.signature["dims"]
        return StaticInputs(self.target, self._arguments.tensors, dims, self._device)

    def _load(self) -> Any:
        """Load the package with its first state. Raises RuntimeError if torch cannot."""
        options = self._options
        # Recording a graph takes a loader without locks. `GraphedCalls` has its own.
        return raw_loader(
            self._admitted.path,
            self._device.type,
            single_threaded=options.single_threaded or options.cuda_graphs is not None,
            num_runners=options.num_runners,
            device_index=self._index,
        )

    def _first_load(self, candidate: Candidate) -> Any:
        try:
            loader = self._load()
            self._mapped = map_weights(self._admitted, self._manifest.signature, loader)
            return loader
        except RuntimeError as error:
            message, _, _stack = str(error).partition("\nException raised from")
            raise ArtifactError(
                "torch could not load the package",
                target=candidate.target,
                where=str(candidate.directory),
                cause=message[:_LONGEST_CAUSE],
                hint=(
                    "build it on a host like this one; `invoke verify` checks that it can be loaded"
                ),
            ) from error

    def _call_specs(self) -> list[Any]:
        """The package's pytree specs of inputs and outputs, which must fit the manifest."""
        specs = [self._treespec(text) for text in self._loader.get_call_spec()]
        signature = self._manifest.signature
        leaves = {"inputs": signature["inputs"], "outputs": signature["outputs"]}
        for (name, entries), spec in zip(leaves.items(), specs, strict=True):
            listed = len(entries)
            if spec.num_leaves != listed:
                raise self._contradiction(
                    f"the package has {spec.num_leaves} {name}, but its manifest lists {listed}"
                )
        return specs

    def _treespec(self, text: str) -> Any:
        """The pytree spec of a structure, from its text in the package."""
        try:
            return pytree.treespec_loads(text)
        except (NotImplementedError, KeyError) as error:
            raise ArtifactError(
                "the model takes or returns types that are not registered with pytree",
                target=self.target,
                cause=str(error),
                hint=(
                    "import the module that registers the type with pytree before the load;"
                    " models.yaml can list it under `imports`, and `outputs: dict` makes an"
                    " artifact that needs no such type for its outputs"
                ),
            ) from error

    def _written_inputs(self) -> WrittenInputs | None:
        arguments = self._arguments
        if not arguments.written and not any(arguments.memory_formats):
            return None
        return WrittenInputs(
            self.target,
            arguments.written,
            arguments.tensor_names,
            arguments.memory_formats,
        )

    def _dtype(self, name: str) -> torch.dtype:
        dtype = getattr(torch, name, None)
        if not isinstance(dtype, torch.dtype):
            raise self._contradiction(
                f"the manifest names the dtype {name}, which torch does not have"
            )
        return dtype

    def _contradiction(self, message: str) -> ArtifactError:
        """The error for a manifest that no build writes."""
        hint = f"build it again: invoke build --target {self.target}"
        return ArtifactError(message, target=self.target, hint=hint)

    def _synchronize(self) -> None:
        synchronize(self._device.type, self._device.index)
