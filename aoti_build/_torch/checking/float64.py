"""The same calls in float64, by which the outputs of narrower types are judged."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from aoti_build._torch.checking.eager import Subject, observe
from aoti_build._torch.checking.reference_data import Case, Value, as_float64
from aoti_build._torch.checking.state import kept_state
from aoti_build._torch.checking.substitute import Substitutes, can_substitute, sharing_copy
from aoti_build._torch.checking.tf32 import InTf32, tf32_operands
from aoti_build._torch.checking.widened import Widening, float64_graph, stepping
from aoti_build._torch.program.inputs import Call, pytree_map
from aoti_build.common.resources import available_memory


class Twin:
    """A model's float64 copy (`module`) as long as it is of use, or `why_not`. The copy of a large
    model shares its parameters, which are widened one by one."""

    def __init__(self, subject: Subject) -> None:
        self.large = subject.program is None and can_substitute(subject.module)
        self.module, self.why_not = _in_float64(subject, large=self.large)
        self.rounded = tf32_operands(subject.device)
        self.writes, self.computed = subject.writes, subject.computed
        self.quantised = subject.program is not None

    def completed(self, eager: list[Case], calls: list[Call]) -> list[Case]:
        """The cases of a sequence with what the copy leaves after its `calls`, if it is anything
        that eager's outputs can be near to, and with what other roundings cost it: TF32, where it
        is allowed, and other steps of quantised values."""
        if self.module is None:
            return eager
        try:
            exact = self._run(calls)
            otherwise = [None] * len(calls)
            if self.rounded or self.quantised:
                with InTf32(self.rounded), stepping():
                    otherwise = self._run(calls)
        except TimeoutError:
            raise
        except Exception as error:
            # The user's model runs again, and may raise anything: its code may fix a dtype, or an
            # operator may have no float64.
            return self._given_up(eager, f"the model does not run in float64: {_brief(error)}")
        for case, leaves in zip(eager, exact, strict=True):
            why = _useless(case, leaves, self.computed)
            if why:
                return self._given_up(eager, why)
        rounded = torch.float32 if not self.quantised else None
        return [_with_exact(*parts, rounded) for parts in zip(eager, exact, otherwise, strict=True)]

    def _run(self, calls: list[Call]) -> list[Any]:
        """What the copy leaves after each call, from its first state."""
        assert self.module is not None
        default = torch.get_default_dtype()
        try:
            # For what the model makes while it runs: a mask, positions.
            torch.set_default_dtype(torch.float64)
            with kept_state(self.module), self._widening():
                return [
                    only_tensors(observe(self.module, _widened(call), self.writes))
                    for call in calls
                ]
        finally:
            torch.set_default_dtype(default)

    def _widening(self) -> contextlib.AbstractContextManager[Any]:
        found = contextlib.ExitStack()
        if not self.quantised:  # a graph has its conversions widened already
            found.enter_context(Widening())
        if self.module is not None and self.large:
            found.enter_context(Substitutes(self.module, lambda number, value: as_float64(value)))
        return found

    def _given_up(self, eager: list[Case], why: str) -> list[Case]:
        self.module, self.why_not = None, why
        return eager


def _in_float64(subject: Subject, *, large: bool) -> tuple[nn.Module | None, str | None]:
    """A float64 copy, of a `large` model but for the parameters; or None and why there is none."""
    module = subject.module
    if subject.writes.buffers and _share_memory(module):
        return (
            None,
            "the model writes into buffers that share memory, which a float64 copy would not",
        )
    sizes = [
        value.numel() * 8 for value in module.state_dict().values() if isinstance(value, Tensor)
    ]
    if (max(sizes, default=0) if large else sum(sizes)) * 2 > available_memory():
        return None, "a float64 copy of the model does not fit into memory"
    try:
        if subject.program is not None:
            return float64_graph(subject.program), None
        if large:
            return _with_wide_buffers(module), None
        return copy.deepcopy(module).to(torch.float64), None
    except (
        Exception
    ) as error:  # whatever a module of the user's own does when it is copied or converted
        return None, f"the model cannot be converted to float64: {_brief(error)}"


def _with_wide_buffers(module: nn.Module) -> nn.Module:
    twin = sharing_copy(module, own=lambda value: value.is_floating_point() or value.is_complex())
    wide: dict[int, Tensor] = {}
    for part in twin.modules():
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = wide.setdefault(id(value), as_float64(value))
    return twin


def _share_memory(module: nn.Module) -> bool:
    """Whether two of the buffers lie in one storage."""
    places = [
        value.untyped_storage().data_ptr() for _, value in module.named_buffers() if value.numel()
    ]
    return len(set(places)) < len(places)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _widened(call: Call) -> Call:
    return pytree_map(
        lambda leaf: as_float64(leaf.clone()) if isinstance(leaf, Tensor) else leaf, call
    )


def _useless(
    eager: Case, leaves: list[Tensor | None], computed: Sequence[str | None]
) -> str | None:
    """Why what the float64 copy gave is nothing that eager's outputs can be near to; None if it
    is."""
    narrow = next((leaf for leaf in leaves if leaf is not None and leaf.dtype in _NARROW), None)
    if narrow is not None:
        return (
            f"the model computes in {str(narrow.dtype).removeprefix('torch.')} whatever its"
            " weights are"
        )
    tensors = _tensors(eager)
    narrower = computed if len(computed) == len(tensors) else [None] * len(tensors)
    apart = (
        _apart(*parts) for parts in zip(tensors, map(_wide_only, leaves), narrower, strict=True)
    )
    if max(apart, default=0.0) > 1:
        return (
            "the model does something else in float64: eager's outputs are too far from it to be a"
            " rounding"
        )
    return None


def _tensors(eager: Case) -> list[Tensor | None]:
    """What eager left, just now, so that nothing of it is a sketch."""
    return only_tensors(eager.outputs or [])


def only_tensors(values: Sequence[Value]) -> list[Tensor | None]:
    return [value if isinstance(value, Tensor) else None for value in values]


def _wide_only(leaf: Tensor | None) -> Tensor | None:
    return leaf if leaf is not None and leaf.dtype in (torch.float64, torch.complex128) else None


def _with_exact(
    eager: Case,
    leaves: list[Tensor | None],
    otherwise: list[Tensor | None] | None,
    only: torch.dtype | None,
) -> Case:
    """The case with its float64 reference, and with how far from that the model is where it is
    rounded `otherwise`: of all outputs, or of those of one dtype."""
    exact = [_wide_only(leaf) for leaf in leaves]
    made = replace(eager, exact=list(exact))
    if otherwise is None:
        return made
    tensors = _tensors(eager)
    judged = [
        value if value is not None and only in (None, value.dtype) else None for value in tensors
    ]
    return replace(made, rounded_rmse=list(map(_rounded_rmse, judged, otherwise, exact)))


def _rounded_rmse(
    eager: Tensor | None, rounded: Tensor | None, exact: Tensor | None
) -> float | None:
    """How far an output of the model is from float64 if it is rounded otherwise; None if there is
    nothing to say."""
    if eager is None or rounded is None or exact is None:
        return None
    error = rounded - exact
    finite = error[torch.isfinite(error)]
    return float(finite.abs().square().mean().sqrt()) if finite.numel() else None


def _apart(eager: Tensor | None, exact: Tensor | None, computed: str | None) -> float:
    """How far eager is from float64, in units of what no rounding explains."""
    if eager is None or exact is None or not exact.numel():
        return 0.0
    error, scale = (as_float64(eager) - exact).abs(), exact.abs()
    finite = torch.isfinite(error)
    rms = float(scale[finite].square().mean().sqrt()) if finite.any() else 0.0
    implausible = _IMPLAUSIBLE[eager.dtype] if computed is None else _IMPLAUSIBLE_HALF
    return float(error[finite].square().mean().sqrt()) / (rms * implausible) if rms else 0.0


# Relative RMS errors: of float32 with TF32 convolutions they are near 1e-3, of deep networks in
# half types near 0.1.
_IMPLAUSIBLE_HALF = 0.5
_IMPLAUSIBLE = {
    torch.float64: 1e-9,
    torch.complex128: 1e-9,
    torch.float32: 2e-2,
    torch.complex64: 2e-2,
    torch.float16: _IMPLAUSIBLE_HALF,
    torch.bfloat16: _IMPLAUSIBLE_HALF,
}
_NARROW = (torch.float32, torch.float16, torch.bfloat16, torch.complex64)
