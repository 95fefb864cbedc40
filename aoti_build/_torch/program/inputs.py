"""Example inputs at any sizes of the dims, made from the shapes in models.yaml or by the user's
callable.

A `Call` has the arguments of one call of a model. `aoti_build._torch.program.axes` has the dims
that the axes of its tensors follow.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aoti_build._torch.program.code_lines import described
from aoti_build._torch.program.memory_formats import copied_to_format, with_default_format
from aoti_build._torch.program.user_errors import refuses_arguments, signature_text
from aoti_build.common.sizes import parse
from aoti_build.errors import UsageError
from aoti_build.models_file.project import ConstantInput, Inputs, TensorInput

Sizes = Mapping[str, int]
# Makes a call for sizes of the dims and a seed.
Make = Callable[[Sizes, int], "Call"]


@dataclass(frozen=True)
class Call:
    """Arguments of one call: `args` positional, `kwargs` by keyword."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def to(self, device: str) -> Call:
        return self.map_tensors(lambda tensor: tensor.to(device))

    def clone(self) -> Call:
        """A deep copy of the tensors, for models that write to their inputs."""
        return self.map_tensors(lambda tensor: tensor.clone())

    def leaves(self) -> list[Any]:
        return pytree.tree_leaves((self.args, self.kwargs))

    def tensors(self) -> list[torch.Tensor]:
        """The tensors in the order in which a compiled model takes them."""
        return [leaf for leaf in self.leaves() if isinstance(leaf, torch.Tensor)]

    def with_tensors(self, tensors: list[torch.Tensor]) -> Call:
        """The same structure and constants with other tensors, in the order of `tensors()`."""
        replacements = iter(tensors)
        return self.map_tensors(lambda _: next(replacements))

    def map_tensors(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Call:
        """The same structure and constants with `function` of each tensor."""
        return pytree_map(
            lambda leaf: function(leaf) if isinstance(leaf, torch.Tensor) else leaf,
            self,
        )


def pytree_map(function: Callable[[Any], Any], call: Call) -> Call:
    """The call with `function` of each leaf in its place."""
    args, kwargs = pytree.tree_map(function, (call.args, call.kwargs))
    return Call(args, kwargs)


def from_shapes(inputs: Inputs) -> Make:
    """A maker of calls from the inputs that models.yaml describes."""

    def make(sizes: Sizes, seed: int) -> Call:
        values = {}
        for index, entry in enumerate(inputs):
            label = entry.name or str(index)
            if isinstance(entry, ConstantInput):
                values[label] = entry.value
            else:
                # A seed of its own for each input, so that a new input does not change the others.
                input_seed = zlib.crc32(f"{seed}/{label}".encode())
                values[label] = _random_tensor(entry, sizes, input_seed)
        if any(entry.name for entry in inputs):
            return Call(kwargs=values)
        return Call(args=tuple(values.values()))

    return make


def from_callable(
    function: Callable[..., Any],
    where: str,
    memory_format: str | None = None,
) -> Make:
    """A maker of calls from the user's callable.

    The callable gets each dim's size by keyword, under the seed. It returns a tuple or list of
    positional arguments, a mapping of keyword arguments, or a single tensor. Tensors of the fitting
    rank get `memory_format`; with None they keep their strides.
    """

    def make(sizes: Sizes, seed: int) -> Call:
        torch.manual_seed(seed)
        try:
            value = function(**sizes)
        except Exception as error:
            hint = "correct this line; the callable is called without arguments"
            if sizes:
                names = ", ".join(sizes)
                hint = f"correct this line; the callable is called with the keywords {names}"
            if refuses_arguments(error):
                names = ", ".join(sizes) or "no argument"
                hint = (
                    f"the callable must take each dim by its name ({names}); it is"
                    f" {signature_text(function)}"
                )
            raise UsageError(
                "the inputs callable raised",
                where=where,
                cause=described(error),
                hint=hint,
            ) from error
        call = _as_call(value, where)
        return call.map_tensors(lambda tensor: with_default_format(tensor, memory_format))

    return make


def _as_call(value: Any, where: str) -> Call:
    if isinstance(value, Mapping):
        return Call(kwargs=dict(value))
    if isinstance(value, torch.Tensor):
        return Call(args=(value,))
    if isinstance(value, tuple | list):
        return Call(args=tuple(value))
    raise UsageError(
        f"the inputs callable returned {type(value).__name__}",
        where=where,
        hint="return a tuple of positional arguments or a dict of keyword arguments",
    )


def _random_tensor(spec: TensorInput, sizes: Sizes, seed: int) -> torch.Tensor:
    """Random values as `spec` describes them, the same ones for the same seed and shape."""
    values = _random_values(spec, sizes, seed)
    if spec.memory_format is None:
        return values
    return copied_to_format(values, spec.memory_format)


def _random_values(spec: TensorInput, sizes: Sizes, seed: int) -> torch.Tensor:
    shape = []
    for size in spec.shape:
        shape.append(parse(size).at(sizes) if isinstance(size, str) else size)
    dtype = getattr(torch, spec.dtype)
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return _random_booleans(spec, shape, generator)
    if dtype.is_floating_point or dtype.is_complex:
        return _random_numbers(spec, shape, dtype, generator)
    return _random_integers(spec, shape, dtype, generator)


def _random_booleans(
    spec: TensorInput,
    shape: list[int],
    generator: torch.Generator,
) -> torch.Tensor:
    """True with `probability`, by default one half."""
    probability = 0.5 if spec.probability is None else spec.probability
    return torch.rand(shape, generator=generator) < probability


def _random_integers(
    spec: TensorInput,
    shape: list[int],
    dtype: torch.dtype,
    generator: torch.Generator,
) -> torch.Tensor:
    """Uniform from `low` to below `high`, by default 0 and 1."""
    low = 0 if spec.low is None else int(spec.low)
    high = 2 if spec.high is None else int(spec.high)
    return torch.randint(low, high, shape, generator=generator, dtype=dtype)


def _random_numbers(
    spec: TensorInput,
    shape: list[int],
    dtype: torch.dtype,
    generator: torch.Generator,
) -> torch.Tensor:
    """Uniform from `low` to `high`; normal if there are neither.

    They are made in the widest dtype, so that all dtypes have the same numbers, rounded.
    """
    if spec.low is None and spec.high is None:
        wide = torch.complex128 if dtype.is_complex else torch.float64
        return torch.randn(shape, generator=generator, dtype=wide).to(dtype)
    low = 0.0 if spec.low is None else spec.low
    high = 1.0 if spec.high is None else spec.high
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (uniform * (high - low) + low).to(dtype)
