"""What a loaded model is called with: bound to the parameters it was exported with, flattened,
checked.

AOTInductor answers inputs that it was not compiled for with wrong numbers, or dies. The manifest's
signature says what the artifact was exported and checked for, so here each tensor's device, dtype
and shape are compared with it: fixed sizes, the range and step of every dim, and that inputs which
follow a dim agree. Precomputed, because this runs at every call. No torch: the types come in
through `Kinds`, and nested structures through their pytree spec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aoti_build.common.sizes import Size, parse, solution_order
from aoti_build.errors import InputError


@dataclass(frozen=True)
class Parameter:
    """One argument of the exported call: `leaves` values from it. `spec` flattens it; None if it is
    a leaf itself."""

    name: str
    keyword: bool
    leaves: int = 1
    spec: Any = None


@dataclass(frozen=True)
class Kinds:
    """What tensors are made of here: their type, the device that all must be on, and dtypes by
    name."""

    tensor: type
    device: Any
    dtype: Callable[[str], Any]


@dataclass(frozen=True)
class _Leaf:
    """A leaf of the call: a constant by its repr, or a tensor with fixed sizes (`exact`) or some
    that are dims (`dynamic`) or follow dims (`following`)."""

    name: str
    constant: str | None = None
    dtype: Any = None
    shape: tuple[Any, ...] = ()
    exact: tuple[int, ...] | None = None
    fixed: tuple[tuple[int, int], ...] = ()
    dynamic: tuple[tuple[int, str], ...] = ()
    following: tuple[tuple[int, Size], ...] = ()
    written: bool = False


@dataclass(frozen=True)
class _Following:
    """Axis `axis` of the tensor at `number` has the size `size`; from it the dim `tells` is known,
    or none new."""

    number: int
    leaf: _Leaf
    axis: int
    size: Size
    tells: str | None


@dataclass
class Arguments:
    """Binds, checks and flattens the arguments of calls; made once from the manifest's `signature`.

    `parameters` are the exported call's, positional ones first. `check` off leaves the structure as
    the only thing that is looked at.
    """

    target: str
    signature: Mapping[str, Any]
    parameters: Sequence[Parameter]
    kinds: Kinds
    check: bool = True
    _leaves: list[_Leaf] = field(init=False)
    _tensors: list[tuple[int, _Leaf]] = field(init=False)
    _constants: list[tuple[int, _Leaf]] = field(init=False)
    _following: list[_Following] = field(init=False)
    _names: tuple[str, ...] = field(init=False)
    _known: frozenset[str] = field(init=False)
    _plain: str = field(init=False)
    _writes: bool = field(init=False)

    def __post_init__(self) -> None:
        dims = self.signature["dims"]
        written = frozenset(self.signature["mutates"]["inputs"])
        self._writes = bool(written)  # then `WrittenInputs` compares memory first, and makes copies
        entries = self.signature["inputs"]
        self._leaves = [_leaf(entry, dims, self.kinds, written) for entry in entries]
        self._tensors = [
            (at, leaf) for at, leaf in enumerate(self._leaves) if leaf.constant is None
        ]
        self._constants = [
            (at, leaf) for at, leaf in enumerate(self._leaves) if leaf.constant is not None
        ]
        self._following = list(_in_order([leaf for _, leaf in self._tensors]))
        self._names = tuple(parameter.name for parameter in self.parameters)
        self._known = frozenset(self._names)
        # The common forms, tensors all by position or all by keyword, take a shorter way.
        self._plain = ""
        plain = not self._constants and all(parameter.spec is None for parameter in self.parameters)
        kinds = {parameter.keyword for parameter in self.parameters}
        if plain and kinds == {True}:
            self._plain = "keyword"
        elif plain and kinds == {False}:
            self._plain = "positional"

    @property
    def tensor_names(self) -> list[str]:
        """The names of the tensors that `flatten` gives."""
        return [leaf.name for _, leaf in self._tensors]

    @property
    def written(self) -> list[int]:
        """Which of them the model writes into."""
        return [number for number, (_, leaf) in enumerate(self._tensors) if leaf.written]

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The tensors of a call in the order of the compiled code, checked. They are contiguous,
        but for those that the model writes into, which are as they were given. Raises
        `InputError`."""
        values: Sequence[Any]
        if self._plain == "positional" and not kwargs and len(args) == len(self._names):
            values = args
        elif self._plain == "keyword" and not args and kwargs.keys() == self._known:
            values = [kwargs[name] for name in self._names]
        else:
            values = self._bound(args, kwargs)
        return self._checked(values) if self.check else [values[at] for at, _ in self._tensors]

    def _checked(self, values: Sequence[Any]) -> list[Any]:
        kinds = self.kinds
        sizes: dict[str, tuple[int, _Leaf]] = {}
        for at, leaf in self._constants:
            if repr(values[at]) != leaf.constant:
                raise self._refusal(
                    leaf, f"expected {leaf.constant}, which is compiled in", f"given {values[at]!r}"
                )
        inputs = []
        for at, leaf in self._tensors:
            value = values[at]
            if not isinstance(value, kinds.tensor):
                raise self._refusal(
                    leaf, f"expected a tensor, {_said(leaf)}", f"given {type(value).__name__}"
                )
            if value.dtype != leaf.dtype:
                raise self._refusal(
                    leaf, f"expected dtype {_short(leaf.dtype)}", f"given {_short(value.dtype)}"
                )
            if value.device != kinds.device:
                raise self._refusal(
                    leaf, f"expected a tensor on {kinds.device}", f"given one on {value.device}"
                )
            if leaf.exact is not None:
                if value.shape != leaf.exact:
                    raise self._wrong_shape(leaf, value.shape)
            else:
                self._measure(leaf, value.shape, sizes)
            if value.is_conj() or value.is_neg():
                value = self._resolved(leaf, value)
            # Compiled code goes by the strides of the example, which the artifact was checked with.
            as_it_is = value.is_contiguous() or self._writes
            inputs.append(value if as_it_is else value.contiguous())
        for following in self._following:
            self._follow(following, inputs[following.number].shape, sizes)
        return inputs

    def _resolved(self, leaf: _Leaf, value: Any) -> Any:
        """The values themselves of a tensor that torch has only marked as conjugated or negated:
        compiled code reads memory and knows no marks."""
        if leaf.written:
            given = "given a conjugated or negated view"
            raise self._refusal(leaf, "expected a tensor that can be written into", given)
        return value.resolve_conj().resolve_neg()

    def _measure(
        self, leaf: _Leaf, shape: Sequence[int], sizes: dict[str, tuple[int, _Leaf]]
    ) -> None:
        """Compare the dynamic shape of a tensor with the dims; `sizes` collects those of this
        call."""
        if len(shape) != len(leaf.shape) or any(shape[axis] != size for axis, size in leaf.fixed):
            raise self._wrong_shape(leaf, shape)
        for axis, name in leaf.dynamic:
            size, dim = shape[axis], self.signature["dims"][name]
            if name in sizes:
                if sizes[name][0] != size:
                    other, where = sizes[name]
                    raise self._wrong_shape(
                        leaf, shape, f"{name} is {other} in {where.name} and {size} here"
                    )
                continue
            if not dim["min"] <= size <= dim["max"] or size % dim["multiple_of"]:
                raise self._wrong_shape(leaf, shape, f"{name} is {size}")
            sizes[name] = size, leaf

    def _follow(
        self, following: _Following, shape: Sequence[int], sizes: dict[str, tuple[int, _Leaf]]
    ) -> None:
        """Compare a size with the dims that it follows; if it tells one more, that with its
        range."""
        leaf, size, given = following.leaf, following.size, shape[following.axis]
        values = {name: sizes[name][0] for name in size.names if name in sizes}
        name = following.tells
        if name is None:
            if (wanted := size.at(values)) != given:
                known = " and ".join(
                    f"{name} is {value} in {sizes[name][1].name}" for name, value in values.items()
                )
                raise self._wrong_shape(
                    leaf, shape, f"{known}, so that {size} is {wanted} and not {given}"
                )
            return
        value, dim = size.solved(name, given, values), self.signature["dims"][name]
        if value is None:
            raise self._wrong_shape(leaf, shape, f"there is no {name} for which {size} is {given}")
        if not dim["min"] <= value <= dim["max"] or value % dim["multiple_of"]:
            raise self._wrong_shape(leaf, shape, f"{name} is {value}, since {size} is {given}")
        sizes[name] = value, leaf

    def _bound(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Every leaf of a call in order. Positional parameters can be given by keyword too; what
        consists of constants only can be left out."""
        if len(args) > sum(not parameter.keyword for parameter in self.parameters):
            raise self._misuse(f"{len(args)} positional arguments were given")
        given = dict(zip(self._names, args, strict=False))
        for name, value in kwargs.items():
            if name in given:
                raise self._misuse(f"{name} was given twice")
            if name not in self._known:
                import difflib

                near = difflib.get_close_matches(name, self._names, n=1)
                raise self._misuse(
                    f"there is no argument {name}", f"did you mean {near[0]}?" if near else None
                )
            given[name] = value
        values: list[Any] = []
        for parameter in self.parameters:
            values += self._leaves_of(parameter, given, len(values))
        return values

    def _leaves_of(self, parameter: Parameter, given: Mapping[str, Any], start: int) -> list[Any]:
        if parameter.name not in given:
            own = self._leaves[start : start + parameter.leaves]
            if any(leaf.constant is None for leaf in own):
                raise self._misuse(f"{parameter.name} is missing")
            return [_AsCompiled(str(leaf.constant)) for leaf in own]
        value = given[parameter.name]
        if parameter.spec is None:
            return [value]
        try:
            return list(parameter.spec.flatten_up_to(value))
        except ValueError as error:
            raise self._misuse(
                f"{parameter.name} has another structure", cause=str(error)
            ) from None

    def _misuse(
        self, message: str, hint: str | None = None, cause: str | None = None
    ) -> InputError:
        return InputError(
            message, target=self.target, cause=cause, hint=hint or f"it is called as {self.form()}"
        )

    def _refusal(
        self, leaf: _Leaf, expected: str, given: str, cause: str | None = None
    ) -> InputError:
        return InputError(
            f"input {leaf.name}: {expected}, {given}", target=self.target, cause=cause
        )

    def _wrong_shape(
        self, leaf: _Leaf, shape: Sequence[int], cause: str | None = None
    ) -> InputError:
        names = [name for size in leaf.shape if isinstance(size, str) for name in parse(size).names]
        dims = {name: self.signature["dims"][name] for name in names}
        ranges = ", ".join(f"{name} {_range(dim)}" for name, dim in dims.items())
        expected = f"expected shape {_shape(leaf.shape)}" + (f" with {ranges}" if ranges else "")
        return self._refusal(leaf, expected, f"given {_shape(shape)}", cause)

    def form(self) -> str:
        """The exported call, such as ``model(x, *, mask)``."""
        words = [parameter.name for parameter in self.parameters if not parameter.keyword]
        keywords = [parameter.name for parameter in self.parameters if parameter.keyword]
        return f"model({', '.join([*words, *(['*', *keywords] if keywords else [])])})"


class _AsCompiled:
    """Stands for a constant that was left out of a call: it is what was compiled in."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def state_names(signature: Mapping[str, Any]) -> tuple[str, ...]:
    """The buffers that a call writes into, so that it changes what later ones answer."""
    return tuple(signature["mutates"]["buffers"])


def parameter_names(signature: Mapping[str, Any], leaves: Sequence[int]) -> list[str]:
    """The name of each positional parameter, from those of its leaves (``pair[0]`` -> ``pair``);
    `leaves` counts them. One without leaves, such as an empty list, has none in the signature and
    is numbered."""
    names, start = [], 0
    for index, count in enumerate(leaves):
        entry = signature["inputs"][start]["name"] if count else f"argument_{index}"
        names.append(re.split(r"[\[.]", entry, maxsplit=1)[0])
        start += count
    return names


def _leaf(
    entry: Mapping[str, Any],
    dims: Mapping[str, Any],
    kinds: Kinds,
    written: frozenset[str],
) -> _Leaf:
    if "constant" in entry:
        return _Leaf(entry["name"], constant=entry["constant"])
    shape = tuple(entry["shape"])
    exact = all(isinstance(size, int) for size in shape)
    following = [
        (axis, parse(size))
        for axis, size in enumerate(shape)
        if isinstance(size, str) and size not in dims
    ]
    return _Leaf(
        entry["name"],
        dtype=kinds.dtype(entry["dtype"]),
        shape=shape,
        exact=shape if exact else None,
        fixed=tuple((axis, size) for axis, size in enumerate(shape) if isinstance(size, int)),
        dynamic=tuple((axis, size) for axis, size in enumerate(shape) if size in dims),
        following=tuple(following),
        written=entry["name"] in written,
    )


def _in_order(leaves: Sequence[_Leaf]) -> Iterator[_Following]:
    """The sizes that follow dims without being one, each after those that it needs."""
    found: list[tuple[int, int, Size]] = []
    for number, leaf in enumerate(leaves):
        found += [(number, axis, parse(name)) for axis, name in leaf.dynamic]
        found += [(number, axis, size) for axis, size in leaf.following]
    for index, tells in solution_order([size for _, _, size in found]):
        number, axis, size = found[index]
        if size.plain is None:
            yield _Following(number, leaves[number], axis, size, tells)


def _said(leaf: _Leaf) -> str:
    return f"{_short(leaf.dtype)} {_shape(leaf.shape)}"


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(shape: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _range(dim: Mapping[str, int]) -> str:
    step = f" in steps of {dim['multiple_of']}" if dim["multiple_of"] > 1 else ""
    return f"{dim['min']}..{dim['max']}{step}"
