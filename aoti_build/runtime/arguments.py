"""Checks the arguments of a call against the signature.

AOTInductor code gives wrong numbers or crashes on inputs that it was not compiled for. So each
tensor's device, dtype and shape are compared with the manifest's signature: fixed sizes, the range
and step of each dim, and inputs that follow a dim.

The comparison runs at every call, so as much as possible is computed beforehand. No torch is
imported here: its types come through `Kinds`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aoti_build.errors import InputError
from aoti_build.runtime.binding import Binding
from aoti_build.runtime.leaves import (
    FollowingSize,
    Kinds,
    Leaf,
    Parameter,
    Signature,
    dims_of,
    following_sizes,
    has_memory,
    leaf_of,
)

# Combinations of shapes that are remembered: a service that takes any size has many.
_MOST_SHAPES = 1000
# The size of each dim in one call, with the leaf that it comes from.
_Sizes = dict[str, tuple[int, Leaf]]


@dataclass
class Arguments:
    """Binds, checks and flattens the arguments of calls; made once from the manifest's `signature`.

    Positional parameters come first in `parameters`. Without `check` only the structure of the
    arguments is compared.
    """

    target: str
    signature: Signature
    parameters: Sequence[Parameter]
    kinds: Kinds
    check: bool = True
    _leaves: list[Leaf] = field(init=False)
    # The leaves that are tensors, and those that are constants, with their index in `_leaves`.
    _tensors: list[tuple[int, Leaf]] = field(init=False)
    _constants: list[tuple[int, Leaf]] = field(init=False)
    _following: list[FollowingSize] = field(init=False)
    _binding: Binding = field(init=False)
    _dtypes: list[Any] = field(init=False)
    # The minimum, maximum and step of each dim.
    _ranges: dict[str, tuple[int, int, int]] = field(init=False)
    # Shapes of all tensors of a call that were found right.
    _right_shapes: set[tuple[Any, ...]] = field(init=False, default_factory=set)
    # Whether `WrittenInputs` decides later which tensors to copy.
    _keeps_strides: bool = field(init=False)

    def __post_init__(self) -> None:
        dims = self.signature["dims"]
        written = frozenset(self.signature["mutates"]["inputs"])
        self._leaves = []
        self._tensors = []
        self._constants = []
        for index, entry in enumerate(self.signature["inputs"]):
            leaf = leaf_of(entry, dims, self.kinds, written)
            self._leaves.append(leaf)
            if leaf.constant is None:
                self._tensors.append((index, leaf))
            else:
                self._constants.append((index, leaf))
        self._dtypes = [leaf.dtype for leaf in self.tensors]
        self._keeps_strides = bool(written) or any(self.memory_formats)
        self._following = list(following_sizes(self.tensors))
        self._binding = Binding(self.target, self.parameters, self._leaves)
        self._ranges = {}
        for name, dim in dims.items():
            self._ranges[name] = dim["min"], dim["max"], dim["multiple_of"]

    @property
    def tensors(self) -> list[Leaf]:
        """The tensors that `flatten` returns."""
        return [leaf for _, leaf in self._tensors]

    @property
    def tensor_names(self) -> list[str]:
        """The names of the tensors that `flatten` returns."""
        return [leaf.name for _, leaf in self._tensors]

    @property
    def written(self) -> list[int]:
        """The positions of the tensors that the model writes into, among those of `flatten`."""
        positions = []
        for position, (_, leaf) in enumerate(self._tensors):
            if leaf.written:
                positions.append(position)
        return positions

    @property
    def memory_formats(self) -> list[str | None]:
        """The memory format of each of the tensors of `flatten`. None stands for a contiguous one
        that can have no other format."""
        return [leaf.memory_format for _, leaf in self._tensors]

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The checked tensors of a call, in the order of the compiled code.

        They are contiguous, unless the model writes into any input or an input has a memory format:
        then all stay as they are. Raises `InputError`.
        """
        values = self._binding.leaves_of(args, kwargs)
        if not self.check:
            return [values[index] for index, _ in self._tensors]
        if not self._constants:
            quickly = self._quickly_checked(values)
            if quickly is not None:
                return quickly
        inputs = self._checked(values)
        if len(self._right_shapes) >= _MOST_SHAPES:
            self._right_shapes.clear()
        self._right_shapes.add(tuple([value.shape for value in inputs]))
        return inputs

    def form(self) -> str:
        """The exported call, such as ``model(x, *, mask)``."""
        return self._binding.form()

    def _quickly_checked(self, values: Sequence[Any]) -> list[Any] | None:
        """The tensors of a call without constants, if their shapes were found right before and
        none needs a copy. Otherwise None, and `_checked` looks closer.

        This takes half a microsecond for each tensor.
        """
        kind = self.kinds.tensor
        device = self.kinds.device
        must_be_contiguous = not self._keeps_strides
        shapes = []
        try:
            for value, dtype in zip(values, self._dtypes, strict=True):
                if not isinstance(value, kind) or value.dtype != dtype or value.device != device:
                    return None
                # `has_memory` is slower. What it refuses without a null pointer raises here.
                if not value.data_ptr() or value.is_neg() or value.is_conj():
                    return None
                if must_be_contiguous and not value.is_contiguous():
                    return None
                shapes.append(value.shape)
        except (RuntimeError, ValueError):
            return None
        if tuple(shapes) not in self._right_shapes:
            return None
        return list(values)

    def _checked(self, values: Sequence[Any]) -> list[Any]:
        sizes: _Sizes = {}
        for index, leaf in self._constants:
            # By repr, as the manifest has it: 1 and True are equal but compiled differently.
            if repr(values[index]) != leaf.constant:
                raise self._wrong_constant(leaf, values[index])
        inputs = []
        for index, leaf in self._tensors:
            value = values[index]
            self._compare_kind(leaf, value)
            if leaf.exact is not None:
                if value.shape != leaf.exact:
                    raise self._wrong_shape(leaf, value.shape)
            else:
                self._measure(leaf, value.shape, sizes)
            if value.is_conj() or value.is_neg():
                value = self._resolved(leaf, value)
            # Compiled code relies on the strides of the example, with which it was checked.
            if not value.is_contiguous() and not self._keeps_strides:
                value = value.contiguous()
            inputs.append(value)
        # Only now are the sizes of all plain dims known.
        for following in self._following:
            self._follow(following, inputs[following.position].shape, sizes)
        return inputs

    def _compare_kind(self, leaf: Leaf, value: Any) -> None:
        """Compare all but the shape of a tensor."""
        if not isinstance(value, self.kinds.tensor):
            raise self._wrong_type(leaf, value)
        if value.dtype != leaf.dtype:
            raise self._wrong_dtype(leaf, value.dtype)
        if value.device != self.kinds.device:
            raise self._wrong_device(leaf, value.device)
        if not has_memory(value):
            raise self._refusal(
                leaf,
                "expected a tensor with memory of its own",
                f"given one without ({type(value).__name__}, {value.layout})",
            )

    def _resolved(self, leaf: Leaf, value: Any) -> Any:
        """The values of a tensor that torch only marks as conjugated or negated.

        Compiled code reads the memory of a tensor and ignores these marks.
        """
        if leaf.written:
            raise self._refusal(
                leaf,
                "expected a tensor that can be written into",
                "given a conjugated or negated view",
            )
        return value.resolve_conj().resolve_neg()

    def _measure(
        self,
        leaf: Leaf,
        shape: Sequence[int],
        sizes: _Sizes,
    ) -> None:
        """Compare a tensor's shape with a leaf that has dims, and add these dims to `sizes`."""
        if len(shape) != len(leaf.shape):
            raise self._wrong_shape(leaf, shape)
        for axis, fixed in leaf.fixed:
            if shape[axis] != fixed:
                raise self._wrong_shape(leaf, shape)
        for axis, name in leaf.dynamic:
            size = shape[axis]
            if name in sizes:
                earlier, source = sizes[name]
                if earlier != size:
                    cause = f"{name} is {earlier} in {source.name} and {size} here"
                    raise self._wrong_shape(leaf, shape, cause)
                continue
            low, high, step = self._ranges[name]
            if not low <= size <= high or size % step:
                raise self._wrong_shape(leaf, shape, f"{name} is {size}")
            sizes[name] = size, leaf

    def _follow(
        self,
        following: FollowingSize,
        shape: Sequence[int],
        sizes: _Sizes,
    ) -> None:
        """Compare a size with the expression of dims that it follows.

        If the expression has one dim that is not in `sizes`, compute it and compare its range.
        """
        leaf = following.leaf
        size = following.size
        actual = shape[following.axis]
        values = {name: sizes[name][0] for name in size.names if name in sizes}
        name = following.solves
        if name is None:
            expected = size.at(values)
            if expected != actual:
                cause = f"{_sources(values, sizes)}, so that {size} is {expected} and not {actual}"
                raise self._wrong_shape(leaf, shape, cause)
            return
        solved = size.solved(name, actual, values)
        if solved is None:
            cause = f"there is no {name} for which {size} is {actual}"
            raise self._wrong_shape(leaf, shape, cause)
        low, high, step = self._ranges[name]
        if not low <= solved <= high or solved % step:
            cause = f"{name} is {solved}, since {size} is {actual}"
            raise self._wrong_shape(leaf, shape, cause)
        sizes[name] = solved, leaf

    def _wrong_constant(self, leaf: Leaf, value: Any) -> InputError:
        expected = f"expected {leaf.constant}, which is compiled in"
        return self._refusal(leaf, expected, f"given {value!r}")

    def _wrong_type(self, leaf: Leaf, value: Any) -> InputError:
        expected = f"expected a tensor, {_dtype_name(leaf.dtype)} {_shape_text(leaf.shape)}"
        return self._refusal(leaf, expected, f"given {type(value).__name__}")

    def _wrong_dtype(self, leaf: Leaf, dtype: Any) -> InputError:
        expected = f"expected dtype {_dtype_name(leaf.dtype)}"
        return self._refusal(leaf, expected, f"given {_dtype_name(dtype)}")

    def _wrong_device(self, leaf: Leaf, device: Any) -> InputError:
        expected = f"expected a tensor on {self.kinds.device}"
        return self._refusal(leaf, expected, f"given one on {device}")

    def _wrong_shape(
        self,
        leaf: Leaf,
        shape: Sequence[int],
        cause: str | None = None,
    ) -> InputError:
        expected = f"expected shape {_shape_text(leaf.shape)}"
        ranges = []
        for name in dims_of(leaf):
            dim = self.signature["dims"][name]
            ranges.append(f"{name} {_range_text(dim)}")
        if ranges:
            expected += f" with {', '.join(ranges)}"
        actual = f"given {_shape_text(shape)}"
        return self._refusal(leaf, expected, actual, cause)

    def _refusal(
        self,
        leaf: Leaf,
        expected: str,
        actual: str,
        cause: str | None = None,
    ) -> InputError:
        message = f"input {leaf.name}: {expected}, {actual}"
        return InputError(message, target=self.target, cause=cause)


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _shape_text(shape: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _sources(values: Mapping[str, int], sizes: _Sizes) -> str:
    """The inputs that the sizes of dims come from, for a message."""
    parts = []
    for name, value in values.items():
        _, leaf = sizes[name]
        parts.append(f"{name} is {value} in {leaf.name}")
    return " and ".join(parts)


def _range_text(dim: Mapping[str, int]) -> str:
    text = f"{dim['min']}..{dim['max']}"
    if dim["multiple_of"] > 1:
        text += f" in steps of {dim['multiple_of']}"
    return text
