"""Prepares new weights for a loaded model.

torch's loader compares names only. A wrong dtype corrupts the heap, and a smaller shape or other
strides give wrong output. So everything is compared with the manifest here, and the loader receives
copies with exactly the compiled-in layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aoti_build.artifact.manifest import Manifest
from aoti_build.errors import InputError
from aoti_build.runtime.leaves import has_memory

_MOST_NAMES = 5  # in a message


def listed_weights(manifest: Manifest) -> Sequence[Mapping[str, Any]]:
    """The weights that the manifest lists. Raises `InputError` if they cannot be replaced."""
    listed = manifest.signature.get("weights")
    if listed is not None and manifest.weights["external"]:
        return listed
    reason = manifest.weights.get("why")
    if not reason:
        reason = "an older release built it and did not list its weights"
    raise InputError(
        "the weights of this artifact cannot be replaced",
        target=manifest.target,
        cause=str(reason),
        hint="build it again with the new weights; if an older release built it, with --force",
    )


class ReplaceableWeights:
    """The weights of one artifact: `listed` in the manifest's signature, and `in_package` by name.

    Several names can stand for one tensor (tied weights), of which the package has one.
    """

    def __init__(
        self,
        target: str,
        listed: Sequence[Mapping[str, Any]],
        in_package: Sequence[str],
        device: torch.device,
    ) -> None:
        self._target = target
        self._listed = {entry["name"]: entry for entry in listed}
        self._device = device
        # The package also has constants that the compiler added. They are no weights of the model.
        self._tied_names = {}
        for name in in_package:
            if name in self._listed:
                self._tied_names[name] = self._names_tied_to(name)

    def prepare(
        self,
        state: Mapping[str, Any],
        *,
        partial: bool,
    ) -> dict[str, Tensor]:
        """Copies of the values in `state` for torch's loader, by the package's names.

        Names that the compiled code does not use are accepted and ignored. Raises `InputError` for:

        - no mapping;
        - an unknown name, or a missing one unless `partial`;
        - another shape or dtype, or a tensor of another kind;
        - a weight that cannot be replaced;
        - different values for tied names.
        """
        if not isinstance(state, Mapping):
            given = type(state).__name__
            raise self._refusal(f"expected the weights by name, as a dict, given {given}")
        # Everything is compared before the first copy, so a refusal changes nothing.
        state = self._with_plain_tensors(state)
        unknown = sorted(set(state) - set(self._listed))
        if unknown:
            raise self._unknown_names(unknown)
        for name, value in state.items():
            self._compare(name, value)
        if not partial:
            self._require_all(state)
        prepared = {}
        for name, tied_names in self._tied_names.items():
            present = [tied for tied in tied_names if tied in state]
            if present:
                prepared[name] = self._copy(name, present, state)
        return prepared

    def _with_plain_tensors(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """`state` with quantised weights, which are tensor subclasses, as their plain tensors.

        These get the names in the artifact, which torch.nn.utils.parametrize made.
        """
        plain: dict[str, Any] = {}
        for name, value in state.items():
            if not isinstance(name, str):
                raise self._refusal(f"expected names of weights, given {name!r}")
            module, dot, attribute = name.rpartition(".")
            prefix = f"{module}{dot}parametrizations.{attribute}.original"
            if f"{prefix}0" in self._listed and hasattr(value, "__tensor_flatten__"):
                for number, part in enumerate(_plain_parts(value)):
                    plain[f"{prefix}{number}"] = part
            else:
                plain[name] = value
        return plain

    def _names_tied_to(self, name: str) -> list[str]:
        """`name` and the names of the same tensor."""
        first = self._listed[name].get("tied_to", name)
        names = []
        for tied, entry in self._listed.items():
            if tied == first or entry.get("tied_to") == first:
                names.append(tied)
        return names

    def _unknown_names(self, names: Sequence[str]) -> InputError:
        import difflib

        hint = None
        matches = difflib.get_close_matches(names[0], self._listed, n=1)
        if matches:
            hint = f"did you mean {matches[0]}?"
        examples = ", ".join(names[:_MOST_NAMES])
        return self._refusal(f"the model has no weight {examples}", hint)

    def _require_all(self, state: Mapping[str, Any]) -> None:
        """Raise `InputError` unless `state` has every weight of the package under some name."""
        needed = 0
        missing = []
        for name, tied_names in self._tied_names.items():
            if self._listed[name]["kind"] == "constant":
                continue  # a state dict has no constants
            needed += 1
            if not any(tied in state for tied in tied_names):
                missing.append(name)
        if missing:
            missing.sort()
            examples = ", ".join(missing[:_MOST_NAMES])
            raise self._refusal(
                f"{len(missing)} of {needed} weights are missing: {examples}",
                "pass the whole state dict, or partial=True to keep the others",
            )

    def _compare(self, name: str, value: Any) -> None:
        """Raise `InputError` unless `value` can become the weight `name`."""
        entry = self._listed[name]
        if not isinstance(value, Tensor):
            raise self._refusal(f"weight {name}: expected a tensor, given {type(value).__name__}")
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype != entry["dtype"]:
            raise self._refusal(
                f"weight {name}: expected dtype {entry['dtype']}, given {dtype}",
                "convert it, or build the model again",
            )
        shape = list(value.shape)
        if shape != entry["shape"]:
            raise self._refusal(f"weight {name}: expected shape {entry['shape']}, given {shape}")
        if value.layout != torch.strided or value.is_meta or not has_memory(value):
            raise self._refusal(f"weight {name}: expected a strided tensor that has values")
        if entry.get("view"):
            raise self._refusal(
                f"weight {name} shares memory with others in the artifact and cannot be replaced",
                "build it again",
            )

    def _copy(
        self,
        name: str,
        present: Sequence[str],
        state: Mapping[str, Tensor],
    ) -> Tensor:
        """A copy, in the compiled-in layout, of the value that the names `present` have."""
        value = self._common_value(present, state)
        entry = self._listed[name]
        device = self._device
        if entry["device"] != device.type:
            device = torch.device(entry["device"])
        stride = entry.get("stride")
        if stride:
            copy = torch.empty_strided(
                tuple(value.shape),
                tuple(stride),
                dtype=value.dtype,
                device=device,
            )
            return copy.copy_(value)
        # The loader copies the whole storage, so it must hold nothing else.
        on_device = value.to(device).contiguous()
        return on_device.clone(memory_format=torch.contiguous_format)

    def _common_value(self, names: Sequence[str], state: Mapping[str, Tensor]) -> Tensor:
        """The value of tied names. Raises `InputError` if they differ."""
        value = state[names[0]].detach()
        for tied in names[1:]:
            tied_value = state[tied].detach().to(value.device)
            if not torch.equal(value, tied_value):
                raise self._refusal(
                    f"{names[0]} and {tied} are one tensor in this artifact, and were given two"
                    " values",
                    "build the model again with untied weights",
                )
        return value

    def _refusal(self, message: str, hint: str | None = None) -> InputError:
        return InputError(message, target=self._target, hint=hint)


def _plain_parts(value: Any) -> list[Any]:
    """The plain tensors that a tensor subclass consists of, in their order."""
    if not hasattr(value, "__tensor_flatten__"):
        return [value]
    attributes, _ = value.__tensor_flatten__()
    parts = []
    for attribute in attributes:
        parts += _plain_parts(getattr(value, attribute))
    return parts
