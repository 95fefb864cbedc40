"""New weights for a loaded model. torch's loader compares names only: a wrong dtype corrupts the
heap, a smaller shape or other strides give wrong output. So all is compared here with the manifest,
and what is handed on is a copy with exactly the layout that was compiled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from aoti_build.errors import InputError


class Weights:
    """The weights of one artifact: `listed` as in the manifest's signature, `held` the names the
    package knows.

    Several names may be one tensor (tied weights); the package then knows one of them.
    """

    def __init__(
        self,
        target: str,
        listed: Sequence[Mapping[str, Any]],
        held: Sequence[str],
        device: torch.device,
    ) -> None:
        self._target = target
        self._listed = {entry["name"]: entry for entry in listed}
        self._device = device
        # What the compiler added (lifted constants under names of its own) is no weight of the
        # model.
        self._held = {name: self._names_of(name) for name in held if name in self._listed}

    def ready(self, state: Mapping[str, Any], *, partial: bool) -> dict[str, Tensor]:
        """What the loader is to be given for `state`: the package's names, copies on its device.

        Raises `InputError` for names that are not the model's, ones that are missing (unless
        `partial`), another shape or dtype, values that cannot be exchanged, and two values for tied
        names. Names that the compiled code does not use are accepted.
        """
        state = self._plain(state)
        if unknown := sorted(set(state) - set(self._listed)):
            import difflib

            near = difflib.get_close_matches(unknown[0], self._listed, n=1)
            raise self._refusal(
                f"the model has no weight {', '.join(unknown[:5])}",
                f"did you mean {near[0]}?" if near else None,
            )
        for name, value in state.items():
            self._compare(name, value)
        needed = [name for name in self._held if self._listed[name]["kind"] != "constant"]
        missing = [name for name in needed if not any(tied in state for tied in self._held[name])]
        if missing and not partial:
            raise self._refusal(
                f"{len(missing)} of {len(needed)} weights are missing:"
                f" {', '.join(sorted(missing)[:5])}",
                "pass the whole state dict, or partial=True to keep the others",
            )
        ready = {}
        for name, names in self._held.items():
            if given := [tied for tied in names if tied in state]:
                ready[name] = self._copy(name, given, state)
        return ready

    def _plain(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state with the plain tensors of quantised weights (tensor subclasses) by the names
        that the artifact has for them, which torch.nn.utils.parametrize gave them."""
        found: dict[str, Any] = {}
        for name, value in state.items():
            module, dot, last = name.rpartition(".")
            first = f"{module}{dot}parametrizations.{last}.original"
            if f"{first}0" in self._listed and hasattr(value, "__tensor_flatten__"):
                found |= {f"{first}{number}": part for number, part in enumerate(_parts(value))}
            else:
                found[name] = value
        return found

    def _names_of(self, name: str) -> list[str]:
        """`name` and the names tied to it."""
        first = self._listed[name].get("tied_to", name)
        return [
            other for other, entry in self._listed.items() if first in (other, entry.get("tied_to"))
        ]

    def _compare(self, name: str, value: Any) -> None:
        entry = self._listed[name]
        if not isinstance(value, Tensor):
            raise self._refusal(f"weight {name}: expected a tensor, given {type(value).__name__}")
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype != entry["dtype"]:
            raise self._refusal(
                f"weight {name}: expected dtype {entry['dtype']}, given {dtype}",
                "convert it, or build the model anew",
            )
        if list(value.shape) != entry["shape"]:
            raise self._refusal(
                f"weight {name}: expected shape {entry['shape']}, given {list(value.shape)}"
            )
        if value.layout != torch.strided or value.is_meta:
            raise self._refusal(
                f"weight {name}: expected a tensor with values in strides, given another kind"
            )
        if entry.get("view"):
            raise self._refusal(
                f"weight {name} shares memory with others in the artifact and cannot be exchanged",
                "build it anew",
            )

    def _copy(self, name: str, given: Sequence[str], state: Mapping[str, Tensor]) -> Tensor:
        value = state[given[0]].detach()
        for other in given[1:]:
            if not torch.equal(value, state[other].detach().to(value.device)):
                raise self._refusal(
                    f"{given[0]} and {other} are one tensor in this artifact, and were given two"
                    " values",
                    "build the model anew with untied weights",
                )
        entry = self._listed[name]
        device = (
            self._device if entry["device"] == self._device.type else torch.device(entry["device"])
        )
        if stride := entry.get("stride"):
            copy = torch.empty_strided(
                tuple(value.shape), tuple(stride), dtype=value.dtype, device=device
            )
            return copy.copy_(value)
        # The loader copies the whole storage, so it must hold nothing else.
        return value.to(device).contiguous().clone(memory_format=torch.contiguous_format)

    def _refusal(self, message: str, hint: str | None = None) -> InputError:
        return InputError(message, target=self._target, hint=hint)


def _parts(value: Any) -> list[Any]:
    """The plain tensors that a tensor subclass is made of, in their order."""
    if not hasattr(value, "__tensor_flatten__"):
        return [value]
    names, _ = value.__tensor_flatten__()
    return [part for name in names for part in _parts(getattr(value, name))]
