"""A loaded model: a callable with the exported signature."""

from __future__ import annotations

import ast
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aoti_build.artifact.manifest import Manifest
from aoti_build.errors import ArtifactError, ClosedError, CopyError, InputError
from aoti_build.host.devices import device_named
from aoti_build.runtime.arguments import Arguments, Kinds, Parameter, parameter_names, state_names
from aoti_build.runtime.choose import Candidate, Choice
from aoti_build.runtime.package import Admitted
from aoti_build.runtime.raw import raw_loader
from aoti_build.runtime.weights import Weights
from aoti_build.runtime.written import WrittenInputs


class LoadedModel:
    """Call it as the model was exported: by position, by keyword, with nested structures, at any
    size in the range.

    Calls may come from several threads; see `num_runners` of `aoti_build.load`. `close()`, or the
    end of a ``with`` block, waits for calls that are under way and unloads; a call after that
    raises `ClosedError`.
    """

    def __init__(
        self,
        candidate: Candidate,
        choice: Choice,
        admitted: Admitted,
        *,
        device_index: int,
        num_runners: int,
        single_threaded: bool,
        check_inputs: bool,
    ) -> None:
        if candidate.manifest is None:
            raise ValueError(candidate.target)
        self._manifest: Manifest = candidate.manifest
        self._admitted = admitted
        # At the latest when nobody has this any more.
        self._release = weakref.finalize(self, admitted.close)
        self._choice = choice
        self._index = -1
        self._device = torch.device(candidate.device)
        if device_named(candidate.device).is_indexed:
            self._index = device_index
            self._device = torch.device(candidate.device, device_index)
        self._options: dict[str, Any] = {
            "single_threaded": single_threaded,
            "num_runners": num_runners,
        }
        self._given: dict[str, torch.Tensor] = {}  # weights exchanged since, of a model with state
        try:
            self._loader: Any = self._open()
        except RuntimeError as error:
            raise ArtifactError(
                "torch could not load the package",
                target=candidate.target,
                where=str(candidate.directory),
                cause=str(error).partition("\nException raised from")[0][:2000],
                hint=(
                    "build it on a host like this one; `invoke verify` checks that it can be loaded"
                ),
            ) from error
        in_spec, out_spec = map(self._structure, self._loader.get_call_spec())
        signature = self._manifest.signature
        for what, spec, entries in (
            ("inputs", in_spec, signature["inputs"]),
            ("outputs", out_spec, signature["outputs"]),
        ):
            if spec.num_leaves != len(entries):
                raise self._contradiction(
                    f"the package has another number of {what} than its manifest says"
                )
        parameters = _parameters(in_spec, self._manifest.signature)
        kinds = Kinds(torch.Tensor, self._device, self._dtype)
        self._arguments = Arguments(
            candidate.target, self._manifest.signature, parameters, kinds, check_inputs
        )
        written, names = self._arguments.written, self._arguments.tensor_names
        self._written = WrittenInputs(candidate.target, written, names) if written else None
        self._restore = _with_numbers(_restorer(out_spec), self._manifest.signature["outputs"])
        self._gate = _Gate()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Raises `InputError` for what it was not exported for, `ClosedError` after
        `close()`."""
        inputs = self._arguments.flatten(args, kwargs)
        gate = self._gate
        gate.enter()
        try:
            if self._loader is None:
                raise ClosedError("this model was closed", target=self.target)
            if self._written is None:
                outputs = self._loader.boxed_run(inputs)
            else:
                copies = self._written.made_contiguous(inputs)
                outputs = self._loader.boxed_run(inputs)
                self._written.copy_back(copies)
        finally:
            gate.leave()
        return self._restore(outputs)

    def update_weights(self, state: Mapping[str, torch.Tensor], *, partial: bool = False) -> None:
        """Exchange the weights for those of a state dict with the model's own names; `partial`
        keeps the ones left out.

        The whole of `state` is compared first (names, dtypes, shapes), so a refused one changes
        nothing. Calls wait meanwhile; each sees the old weights or the new, never some of both. The
        values are copied.

        Raises:
            InputError: `state` is not what this model takes, or its weights are part of its code.
            ClosedError: after `close()`.
        """
        listed = self._manifest.signature.get("weights")
        if not self._manifest.weights["external"] or listed is None:
            why = (
                self._manifest.weights.get("why")
                or "an older release built it and did not list its weights"
            )
            raise InputError(
                "the weights of this artifact cannot be exchanged",
                target=self.target,
                cause=str(why),
                hint=(
                    "build it anew with the new weights; if an older release built it, with --force"
                ),
            )
        with self._gate.alone():
            if self._loader is None:
                raise ClosedError("this model was closed", target=self.target)
            weights = Weights(self.target, listed, self._loader.get_constant_fqns(), self._device)
            ready = weights.ready(state, partial=partial)
            self._synchronize()  # kernels of earlier calls may still read the old ones
            self._loader.load_constants(ready, False, False)
            self._synchronize()
            if self.state:
                self._given |= ready

    @property
    def state(self) -> tuple[str, ...]:
        """The buffers that a call writes into, by name: what the model remembers from call to call.
        Mostly none."""
        return state_names(self._manifest.signature)

    def reset_state(self) -> None:
        """Let the model forget its calls: its `state` is again what it was after loading, or what
        `update_weights` has given it since. Weights that were exchanged stay. Calls wait meanwhile;
        it takes about as long as loading.

        Raises `ClosedError` after `close()`.
        """
        with self._gate.alone():
            if self._loader is None:
                raise ClosedError("this model was closed", target=self.target)
            if not self.state:
                return
            self._synchronize()  # kernels of earlier calls may still write
            loader = self._open()
            if self._given:
                loader.load_constants(self._given, False, False)
            self._loader = loader

    def close(self) -> None:
        """Wait for calls that are under way, then unload. May be called again."""
        with self._gate.alone():
            if self._loader is not None:
                self._synchronize()
                self._loader = None
                self._release()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What `copy` and `pickle` ask for. A copy would share the locks and the native model of
        this one."""
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
    def device(self) -> torch.device:
        """Where inputs must be and outputs are."""
        return self._device

    @property
    def choice(self) -> Choice:
        """Why this variant, and why none of the others; as text, a line for each."""
        return self._choice

    @property
    def metadata(self) -> dict[str, Any]:
        """The manifest, as docs/reference/formats.md describes it: `signature`, `key`, `requires`,
        `provenance` and more; under `load` how the package was checked (`verify`) and whether it
        lay unpacked for all processes (`unpacked`)."""
        load = {"verify": self._admitted.how, "unpacked": self._admitted.unpacked}
        return {**self._manifest.as_json(), "load": load}

    def __repr__(self) -> str:
        state = "closed" if self._loader is None else str(self._device)
        return f"<aoti_build model {self.target}, {state}: {self._arguments.form()}>"

    def _open(self) -> Any:
        """The package, loaded anew, with its first state. RuntimeError if torch refuses it."""
        return raw_loader(
            self._admitted.path, self._device.type, device_index=self._index, **self._options
        )

    def _structure(self, text: str) -> Any:
        """A structure that the package holds."""
        try:
            return pytree.treespec_loads(text)
        except (NotImplementedError, KeyError) as error:
            raise ArtifactError(
                "the model takes or gives types that are not here",
                target=self.target,
                cause=str(error),
                hint=(
                    "import the module that registers the type with pytree before the load;"
                    " models.yaml can list it under `imports`, and `outputs: dict` makes an"
                    " artifact that needs no such type for its outputs"
                ),
            ) from error

    def _dtype(self, name: str) -> torch.dtype:
        found = getattr(torch, name, None)
        if not isinstance(found, torch.dtype):
            raise self._contradiction(
                f"the manifest names the dtype {name}, which torch does not have"
            )
        return found

    def _contradiction(self, message: str) -> ArtifactError:
        """What a manifest says that no build writes."""
        hint = f"build it again: invoke build --target {self.target}"
        return ArtifactError(message, target=self.target, hint=hint)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _Gate:
    """Lets calls through side by side, and what must be alone, alone: it waits for calls under way,
    and calls that come meanwhile wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._calls = 0
        self._alone = False

    def enter(self) -> None:
        with self._lock:
            while self._alone:
                self._changed.wait()
            self._calls += 1

    def leave(self) -> None:
        with self._lock:
            self._calls -= 1
            if self._alone:
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._lock:
            while self._alone:
                self._changed.wait()
            self._alone = True
        try:
            with self._lock:
                while self._calls:
                    self._changed.wait()
            yield
        finally:
            with self._lock:
                self._alone = False
                self._changed.notify_all()


def _parameters(in_spec: Any, signature: Mapping[str, Any]) -> list[Parameter]:
    """The arguments of the exported call, from the spec of (args, kwargs) and the names in the
    signature."""
    positional, keyword = _children(in_spec)
    specs = _children(positional)
    names = parameter_names(signature, [spec.num_leaves for spec in specs])
    made = [_parameter(name, spec, keyword=False) for name, spec in zip(names, specs, strict=True)]
    named = zip(keyword.context or (), _children(keyword), strict=True)
    return made + [_parameter(name, spec, keyword=True) for name, spec in named]


def _parameter(name: str, spec: Any, *, keyword: bool) -> Parameter:
    return Parameter(name, keyword, spec.num_leaves, None if spec.is_leaf() else spec)


def _children(spec: Any) -> list[Any]:
    # The second before torch 2.10.
    return list(spec.children() if hasattr(spec, "children") else spec.children_specs)


def _restorer(out_spec: Any) -> Callable[[list[Any]], Any]:
    """From the flat outputs to what the model returned; the common structures without pytree's
    general way."""
    children = [] if out_spec.is_leaf() else _children(out_spec)
    if out_spec.is_leaf():
        return lambda outputs: outputs[0]
    if all(child.is_leaf() for child in children):
        if out_spec.type is tuple:
            return tuple
        if out_spec.type is list:
            return list
        if out_spec.type is dict:
            return lambda outputs: dict(zip(out_spec.context, outputs, strict=True))
    return lambda outputs: pytree.tree_unflatten(outputs, out_spec)


def _with_numbers(
    restore: Callable[[list[Any]], Any], entries: Sequence[Mapping[str, Any]]
) -> Callable[..., Any]:
    """`restore` after the outputs that are no tensors have got the types and values that the model
    gives: a package gives tensors for numbers, and nothing for texts."""
    constants = [
        (index, _constant(entry["constant"]))
        for index, entry in enumerate(entries)
        if "constant" in entry
    ]
    numbers = [index for index, entry in enumerate(entries) if "number" in entry]
    if not constants and not numbers:
        return restore

    def restored(outputs: Sequence[Any]) -> Any:
        values = list(outputs)
        for index in numbers:
            values[index] = values[index].item()
        for index, constant in constants:
            values[index] = constant
        return restore(values)

    return restored


def _constant(text: str) -> Any:
    """The value of what Python wrote as `text`."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two for deep nesting
        pass
    try:
        return float(text)  # nan, inf
    except ValueError:
        return text
