"""The same calls in float64, by which the outputs of narrower types are judged."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from aoti_build._torch.checking.difference import rms_of
from aoti_build._torch.checking.eager import Subject, observe
from aoti_build._torch.checking.reference_data import Case, Value
from aoti_build._torch.checking.state import restored_state
from aoti_build._torch.checking.substitute import (
    Substitutes,
    can_substitute,
    sharing_copy,
)
from aoti_build._torch.checking.tf32 import InTf32, tf32_operands
from aoti_build._torch.checking.widened import (
    Widening,
    as_float64,
    float64_graph,
    stepping,
)
from aoti_build._torch.program.inputs import Call, pytree_map
from aoti_build.common.resources import available_memory

# The tensors that a call leaves. None: not a tensor.
Tensors: TypeAlias = list[Tensor | None]

_WIDE_TYPES = (torch.float64, torch.complex128)
_NARROW_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.complex64)
# The largest RMSE of eager, relative to the RMS of the output, that roundings may explain. For
# float32 with TF32 convolutions it is near 1e-3, for deep networks in half types near 0.1.
_IMPLAUSIBLE_HALF = 0.5
_IMPLAUSIBLE = {
    torch.float64: 1e-9,
    torch.complex128: 1e-9,
    torch.float32: 2e-2,
    torch.complex64: 2e-2,
    torch.float16: _IMPLAUSIBLE_HALF,
    torch.bfloat16: _IMPLAUSIBLE_HALF,
}


class Float64Model:
    """A model's float64 copy (`module`). `module` is None if there is no copy or it is of no use,
    and `why_not` is then the reason. The copy of a large model shares its parameters, which are
    widened one at a time."""

    def __init__(self, subject: Subject) -> None:
        self.writes = subject.writes
        self.computed = subject.computed
        self.tf32_operands = tf32_operands(subject.device)
        self.quantised = subject.program is not None
        self.large = not self.quantised and can_substitute(subject.module)
        self.module: nn.Module | None = None
        self.why_not = _obstacle(subject, large=self.large)
        if self.why_not is None:
            try:
                self.module = _in_float64(subject, large=self.large)
            except Exception as error:  # of user code, which a copy or conversion may call
                self.why_not = f"the model cannot be converted to float64: {_brief(error)}"

    def add_references(self, eager: list[Case], calls: list[Call]) -> list[Case]:
        """The cases of a sequence with what the copy leaves after each of `calls`, and with the
        cost of other roundings: TF32 where it is allowed, or other steps of quantised values. The
        cases stay as they are if eager's outputs cannot be near to what the copy leaves.

        Raises: TimeoutError: a `Deadline` was entered, and has passed.
        """
        if self.module is None:
            return eager
        rounded: Sequence[Tensors | None] = [None] * len(calls)
        try:
            exact = self._run(calls)
            if self.tf32_operands or self.quantised:
                with InTf32(self.tf32_operands), stepping():
                    rounded = self._run(calls)
        except TimeoutError:
            raise
        except Exception as error:
            # The user's model runs again and may raise anything: its code may require a dtype, or
            # an operator may have no float64.
            return self._give_up(eager, f"the model does not run in float64: {_brief(error)}")
        for case, tensors in zip(eager, exact, strict=True):
            why = _why_useless(case, tensors, self.computed)
            if why is not None:
                return self._give_up(eager, why)
        return [
            self._with_references(case, tensors, rounded_tensors)
            for case, tensors, rounded_tensors in zip(eager, exact, rounded, strict=True)
        ]

    def _run(self, calls: list[Call]) -> list[Tensors]:
        """The tensors that the copy leaves after each call, from its first state."""
        assert self.module is not None
        default = torch.get_default_dtype()
        results = []
        try:
            # For tensors that the model makes while it runs: a mask, positions.
            torch.set_default_dtype(torch.float64)
            with restored_state(self.module), self._widening():
                for call in calls:
                    observed = observe(self.module, _widened_call(call), self.writes)
                    results.append(_only_tensors(observed))
        finally:
            torch.set_default_dtype(default)
        return results

    def _widening(self) -> contextlib.ExitStack:
        """The modes in which the copy runs."""
        modes = contextlib.ExitStack()
        if not self.quantised:  # in a graph, the conversions are widened already
            modes.enter_context(Widening())
        if self.module is not None and self.large:
            modes.enter_context(Substitutes(self.module, _widened_parameter))
        return modes

    def _give_up(self, eager: list[Case], why: str) -> list[Case]:
        self.module = None
        self.why_not = why
        return eager

    def _with_references(
        self,
        case: Case,
        tensors: Tensors,
        rounded: Tensors | None,
    ) -> Case:
        """The case with its float64 references and the RMSE to them with other roundings."""
        exact = [_if_wide(value) for value in tensors]
        case = replace(case, exact=list(exact))
        if rounded is None:
            return case
        errors = []
        eager_tensors = _tensors_of(case)
        for eager, value, reference in zip(eager_tensors, rounded, exact, strict=True):
            error = None
            # TF32 concerns float32 outputs only.
            if eager is not None and (self.quantised or eager.dtype == torch.float32):
                error = _rmse(value, reference)
            errors.append(error)
        return replace(case, rounded_rmse=errors)


def _obstacle(subject: Subject, *, large: bool) -> str | None:
    """Why no float64 copy can be made; None if nothing is known to prevent it. Of a `large` model,
    the parameters are not copied."""
    if subject.writes.buffers and _buffers_share_memory(subject.module):
        return "the model writes into buffers that share memory, which a float64 copy would not"
    sizes = []
    for value in subject.module.state_dict().values():
        if isinstance(value, Tensor):
            sizes.append(value.numel() * torch.float64.itemsize)
    # Of a large model, about one parameter exists in float64 at a time.
    needed = max(sizes, default=0) if large else sum(sizes)
    if needed * 2 > available_memory():
        return "a float64 copy of the model does not fit into memory"
    return None


def _in_float64(subject: Subject, *, large: bool) -> nn.Module:
    """The float64 copy. Of a `large` model, only the buffers are copied."""
    if subject.program is not None:
        return float64_graph(subject.program)
    if large:
        return _with_wide_buffers(subject.module)
    return copy.deepcopy(subject.module).to(torch.float64)


def _with_wide_buffers(module: nn.Module) -> nn.Module:
    """A copy that shares the parameters, with its floating buffers in float64."""
    shared = sharing_copy(
        module,
        is_copied=lambda value: value.is_floating_point() or value.is_complex(),
    )
    # By identity, so that buffers that are one tensor stay one.
    wide: dict[int, Tensor] = {}
    for part in shared.modules():
        for name, value in part._buffers.items():
            if value is not None:
                if id(value) not in wide:
                    wide[id(value)] = as_float64(value)
                part._buffers[name] = wide[id(value)]
    return shared


def _buffers_share_memory(module: nn.Module) -> bool:
    """Whether two of the buffers are in one storage."""
    storages = []
    for value in module.buffers():
        if value.numel():
            storages.append(value.untyped_storage().data_ptr())
    return len(set(storages)) < len(storages)


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:200]}"


def _widened_parameter(_number: int, value: Tensor) -> Tensor:
    return as_float64(value)


def _widened_call(call: Call) -> Call:
    def widen(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        # `as_float64` alone returns a float64 tensor itself, and the model may write into it.
        return as_float64(leaf.clone())

    return pytree_map(widen, call)


def _why_useless(
    case: Case,
    tensors: Tensors,
    computed: Sequence[str | None],
) -> str | None:
    """Why eager's outputs cannot be near to the tensors of the float64 copy; None if they can."""
    for value in tensors:
        if value is not None and value.dtype in _NARROW_TYPES:
            dtype = str(value.dtype).removeprefix("torch.")
            return f"the model computes in {dtype} whatever its weights are"
    eager = _tensors_of(case)
    if len(computed) != len(eager):
        computed = [None] * len(eager)
    for expected, value, narrower in zip(eager, tensors, computed, strict=True):
        if _is_implausible(expected, _if_wide(value), narrower):
            return (
                "the model does something else in float64: eager's outputs are too far from it to"
                " be a rounding"
            )
    return None


def _is_implausible(
    eager: Tensor | None,
    exact: Tensor | None,
    computed: str | None,
) -> bool:
    """Whether eager is further from float64 than any rounding explains."""
    if eager is None or exact is None or not exact.numel():
        return False
    error = as_float64(eager) - exact
    finite = torch.isfinite(error)
    rms = rms_of(exact[finite])
    if not rms:
        return False
    limit = _IMPLAUSIBLE_HALF
    if computed is None:
        limit = _IMPLAUSIBLE[eager.dtype]
    return rms_of(error[finite]) / (rms * limit) > 1


def _rmse(value: Tensor | None, exact: Tensor | None) -> float | None:
    """The RMSE over the finite values; None if there are none."""
    if value is None or exact is None:
        return None
    error = value - exact
    finite_error = error[torch.isfinite(error)]
    if not finite_error.numel():
        return None
    return rms_of(finite_error)


def _tensors_of(case: Case) -> Tensors:
    """What eager left. The case was made just now, so none of it is a sketch."""
    return _only_tensors(case.outputs or [])


def _only_tensors(values: Sequence[Value]) -> Tensors:
    return [value if isinstance(value, Tensor) else None for value in values]


def _if_wide(value: Tensor | None) -> Tensor | None:
    if value is None or value.dtype not in _WIDE_TYPES:
        return None
    return value
