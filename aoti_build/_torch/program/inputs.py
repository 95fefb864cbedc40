"""Example inputs: made from the shapes in models.yaml or by the user's callable, at any point of
the dynamic dims.

A `Call` is what a model is called with. Which axis of which tensor follows which dims says
`aoti_build._torch.program.axes`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from aoti_build.common.sizes import parse
from aoti_build.errors import UsageError
from aoti_build.models_file.project import ConstantInput, Inputs, TensorInput

Sizes = Mapping[str, int]
Make = Callable[[Sizes, int], "Call"]


@dataclass(frozen=True)
class Call:
    """Arguments of one call: `args` positional, `kwargs` by keyword."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def to(self, device: str) -> Call:
        return pytree_map(
            lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, self
        )

    def clone(self) -> Call:
        """A deep copy of the tensors, for models that write to their inputs."""
        return pytree_map(
            lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, self
        )

    def leaves(self) -> list[Any]:
        return pytree.tree_leaves((self.args, self.kwargs))

    def tensors(self) -> list[torch.Tensor]:
        """The tensors in the order in which a compiled model takes them."""
        return [leaf for leaf in self.leaves() if isinstance(leaf, torch.Tensor)]

    def with_tensors(self, tensors: list[torch.Tensor]) -> Call:
        """The same structure and constants with other tensors, in the order of `tensors()`."""
        given = iter(tensors)
        return pytree_map(
            lambda leaf: next(given) if isinstance(leaf, torch.Tensor) else leaf, self
        )


def pytree_map(function: Callable[[Any], Any], call: Call) -> Call:
    args, kwargs = pytree.tree_map(function, (call.args, call.kwargs))
    return Call(args, kwargs)


def from_shapes(inputs: Inputs) -> Make:
    """A maker of calls from what models.yaml describes: sizes of dims and a seed -> `Call`."""

    def make(sizes: Sizes, seed: int) -> Call:
        values = {
            entry.name or str(index): _value(entry, index, sizes, seed)
            for index, entry in enumerate(inputs)
        }
        keyword = any(entry.name for entry in inputs)
        return Call(kwargs=values) if keyword else Call(args=tuple(values.values()))

    return make


def _value(entry: TensorInput | ConstantInput, index: int, sizes: Sizes, seed: int) -> Any:
    return entry.value if isinstance(entry, ConstantInput) else _tensor(entry, index, sizes, seed)


def from_callable(function: Callable[..., Any], where: str) -> Make:
    """A maker of calls from the user's callable, called with each dim's size by keyword under the
    seed. It returns a tuple or list of positional arguments, a mapping of keyword arguments, or a
    single tensor.
    """

    def make(sizes: Sizes, seed: int) -> Call:
        torch.manual_seed(seed)
        try:
            made = function(**sizes)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            hint = (
                f"it is called with the keywords {', '.join(sizes)}"
                if sizes
                else "it is called without arguments"
            )
            raise UsageError(
                "the inputs callable raised", where=where, cause=said, hint=hint
            ) from error
        if isinstance(made, Mapping):
            return Call(kwargs=dict(made))
        if isinstance(made, torch.Tensor):
            return Call(args=(made,))
        if isinstance(made, tuple | list):
            return Call(args=tuple(made))
        raise UsageError(
            f"the inputs callable returned {type(made).__name__}",
            where=where,
            hint="return a tuple of positional arguments or a dict of keyword arguments",
        )

    return make


def _tensor(spec: TensorInput, index: int, sizes: Sizes, seed: int) -> torch.Tensor:
    shape = [parse(size).at(sizes) if isinstance(size, str) else size for size in spec.shape]
    dtype = getattr(torch, spec.dtype)
    # A seed of its own for each input: adding one must not change the others.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{spec.name or index}".encode()))
    if dtype == torch.bool:
        return torch.rand(shape, generator=generator) < (
            0.5 if spec.probability is None else spec.probability
        )
    if not dtype.is_floating_point and not dtype.is_complex:
        return torch.randint(
            int(spec.low or 0),
            int(2 if spec.high is None else spec.high),
            shape,
            generator=generator,
            dtype=dtype,
        )
    if spec.low is None and spec.high is None:
        wide = torch.complex128 if dtype.is_complex else torch.float64
        return torch.randn(shape, generator=generator, dtype=wide).to(dtype)
    low, high = spec.low or 0.0, 1.0 if spec.high is None else spec.high
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low).to(
        dtype
    )
