"""Facts about a model from the C++ that inductor generated for it.

A package has the source of its shared library (`*.wrapper.cpp`, `*.kernel.cpp`). No metadata file
has these facts, so they are read from the statements that inductor writes
(torch/_inductor/codegen/cpp_wrapper_cpu.py, the same from torch 2.11 on). They are shown to people,
and no decision about a load depends on them. A fact that is not found is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from aoti_build.artifact.pt2.call_names import argument_names, result_names
from aoti_build.artifact.pt2.constant_table import constant_rows

# The text may come from anyone. Each pattern is anchored to a line or has bounded repetitions, so
# that none takes more than linear time. Patterns that begin with a plain word have no \b before it:
# without, `re` searches for the word first, which is much faster.
_TENSOR = re.compile(r'^ *(input|output)s_info_\[(\d{1,9})\]\.name = "([^"\n]{0,1024})";', re.M)
_CHECK = re.compile(r"static void check_input_(\d{1,9})\(")
_DTYPE = re.compile(r"= aoti_torch_dtype_(\w{1,40})\(\)")
_FIXED = re.compile(r"\((\d{1,20}) != \w{1,200}_size\[(\d{1,3})\]\)")
_BOUND = re.compile(r"\(\w{1,200}_size\[(\d{1,3})\] ([<>]) (\d{1,20})\)")
_AXIS = re.compile(r"_(?:size|stride)\[(\d{1,3})\]")
_SYMBOL = re.compile(
    r"^ *int64_t (\w{1,200}) = (\w{1,200})(?:_size|\.sizes\(\))\[(\d{1,3})\];", re.M
)
_SHAPE = re.compile(
    r'assert_size_stride\((\w{1,200}), \{([\w ,]{0,1000})\}, \{[^}\n]{0,1000}\}, "input"\)'
)
_ALIAS = re.compile(r"^ *int64_t (s\d{1,9}) = (s\d{1,9});", re.M)
_CPP_KERNEL = re.compile(r'^extern "C" {1,4}void {1,4}(\w{1,500})\(', re.M)
_GPU_KERNEL = re.compile(r"kernels_?\.(\w{1,500}) = loadKernel\(")
_OPERATOR = re.compile(r"aoti_torch_(?:cpu|cuda|xpu|mps)_(\w{1,200})\(")
_COMMAND = re.compile(r"^// (?:Compile|Link) cmd\n// ([^\n]{0,20000})", re.M)
_MARCH = re.compile(r"-march=([\w.+-]{1,80})")
_CACHED_DTYPE = re.compile(r"cached_torch_dtype_(\w+)")
_INTEGER = re.compile(r"\d{1,18}")

# The ``min`` and ``max`` of a size, as far as they are known.
Bounds: TypeAlias = dict[str, int]

_UNBOUNDED = 2**62  # inductor writes the largest 64-bit integers for "no upper bound"
_LARGEST_RANK = 64


@dataclass(frozen=True)
class Tensor:
    """An input or an output. `dtype` and `shape` are None where the source has no check of them.

    A size is an integer or a name in `Generated.dims`.
    """

    name: str
    dtype: str | None = None
    shape: tuple[int | str, ...] | None = None


@dataclass(frozen=True)
class Constant:
    """A weight, buffer or constant.

    `size` is in bytes. `folded` means that the compiled code computes it from others at load time.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    folded: bool


@dataclass(frozen=True)
class Generated:
    """The facts in the generated sources of a model.

    Attributes:
        inputs: the tensors of a call.
        outputs: the tensors of a result.
        dims: the bounds ``min`` and ``max`` of dynamic sizes, where the code checks them.
        constants: weights, buffers and constants.
        kernels: names of C++ loops.
        gpu_kernels: names of the functions that are loaded from GPU binaries.
        operators: operators of torch that the code calls.
        march: the values of ``-march=`` in the compiler's commands.
    """

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    dims: dict[str, Bounds] = field(default_factory=dict)
    constants: tuple[Constant, ...] = ()
    kernels: tuple[str, ...] = ()
    gpu_kernels: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    march: tuple[str, ...] = ()


def read_generated(wrapper: str, kernels: str = "") -> Generated:
    """The facts in the text of a model's wrapper and of its kernels, if those are separate."""
    input_names: dict[int, str] = {}
    output_names: dict[int, str] = {}
    for kind, index, name in _TENSOR.findall(wrapper):
        names = input_names if kind == "input" else output_names
        names[int(index)] = name
    reader = _InputReader(wrapper)
    inputs = []
    for position, (_, name) in enumerate(sorted(input_names.items())):
        inputs.append(reader.read(position, name))
    outputs = [Tensor(name) for _, name in sorted(output_names.items())]
    cpp_kernels = _CPP_KERNEL.findall(wrapper)
    cpp_kernels += _CPP_KERNEL.findall(kernels)
    operators = set(_OPERATOR.findall(wrapper))
    march: list[str] = []
    for command in _COMMAND.findall(wrapper):
        march += _MARCH.findall(command)
    return Generated(
        inputs=_renamed(inputs, argument_names(_spec("in", wrapper))),
        outputs=_renamed(outputs, result_names(_spec("out", wrapper))),
        dims=reader.dims,
        constants=_constants(wrapper),
        kernels=_unique(cpp_kernels),
        gpu_kernels=_unique(_GPU_KERNEL.findall(wrapper)),
        operators=tuple(sorted(operators)),
        march=_unique(march),
    )


class _InputReader:
    """Reads inputs from the checks that the code has for each.

    Attributes:
        dims: the bounds of the dynamic sizes of the inputs that were read.
    """

    def __init__(self, text: str) -> None:
        self.dims: dict[str, Bounds] = {}
        self._checks = _check_bodies(text)
        self._symbols = _size_symbols(text)
        # inductor may give a symbol a second name. It also writes aliases of a symbol to itself.
        self._aliases: dict[str, str] = {}
        for alias, symbol in _ALIAS.findall(text):
            if alias != symbol:
                self._aliases[alias] = symbol

    def read(self, position: int, name: str) -> Tensor:
        """The input of this name; `position` is the number of its check."""
        body = self._checks.get(position)
        if body is None:
            return Tensor(name)
        dtype_match = _DTYPE.search(body)
        dtype = dtype_match[1] if dtype_match else None
        axes = [int(axis) for axis in _AXIS.findall(body)]
        rank = max(axes, default=-1) + 1
        if rank > _LARGEST_RANK:
            return Tensor(name, dtype)
        fixed: dict[int, int] = {}
        for size, axis in _FIXED.findall(body):
            fixed[int(axis)] = int(size)
        bounds = _bounds(body)
        shape: list[int | str] = []
        for axis in range(rank):
            if axis in fixed:
                shape.append(fixed[axis])
            else:
                symbol = self._symbol(name, axis)
                shape.append(symbol)
                dim = self.dims.setdefault(symbol, {})
                dim.update(bounds.get(axis, {}))
        return Tensor(name, dtype, tuple(shape))

    def _symbol(self, name: str, axis: int) -> str:
        """The name of a dynamic size.

        A size without a symbol is an expression, of which only the bounds are known.
        """
        symbol = self._symbols.get((name, axis), f"{name}.{axis}")
        return self._aliases.get(symbol, symbol)


def _check_bodies(text: str) -> dict[int, str]:
    """The bodies of the functions that check an input, by its position."""
    matches = list(_CHECK.finditer(text))
    ends = [match.start() for match in matches[1:]]
    ends.append(len(text))
    bodies: dict[int, str] = {}
    for match, end in zip(matches, ends, strict=False):
        # The function ends at the first brace that begins a line.
        body, _, _ = text[match.end() : end].partition("\n}")
        bodies.setdefault(int(match[1]), body)
    return bodies


def _size_symbols(text: str) -> dict[tuple[str, int], str]:
    """The symbols of dynamic sizes, by the name of the input and the axis."""
    symbols: dict[tuple[str, int], str] = {}
    for symbol, name, axis in _SYMBOL.findall(text):
        symbols[name, int(axis)] = symbol
    for name, shape in _SHAPE.findall(text):
        for axis, size in enumerate(shape.split(",")):
            if size.strip().isidentifier():
                symbols[name, axis] = size.strip()
    return symbols


def _bounds(body: str) -> dict[int, Bounds]:
    """The bounds of the sizes in a check, by axis."""
    bounds: dict[int, Bounds] = {}
    for axis, sign, value in _BOUND.findall(body):
        if int(value) >= _UNBOUNDED:
            continue
        # The check refuses a size that is smaller than the minimum.
        side = "min" if sign == "<" else "max"
        of_axis = bounds.setdefault(int(axis), {})
        of_axis[side] = int(value)
    return bounds


def _constants(text: str) -> tuple[Constant, ...]:
    return tuple(_constant(row) for row in constant_rows(text).values())


def _constant(row: Mapping[str, str]) -> Constant:
    """A constant from the C++ expressions that its fields are set to."""
    original_name = row.get("original_fqn", "").strip('"')
    compiled_name = row.get("name", "").strip('"')
    shape = _INTEGER.findall(row.get("shape", ""))
    dtype = row.get("dtype", "")
    dtype_match = _CACHED_DTYPE.fullmatch(dtype)
    size = row.get("data_size", "")
    return Constant(
        name=original_name or compiled_name,
        dtype=dtype_match[1] if dtype_match else dtype,
        shape=tuple(map(int, shape)),
        size=int(size) if _INTEGER.fullmatch(size) else 0,
        folded=row.get("from_folded") == "true",
    )


def _renamed(tensors: Sequence[Tensor], names: Sequence[str] | None) -> tuple[Tensor, ...]:
    """The tensors with the names that a caller uses, if there is a name for each."""
    if names is None or len(names) != len(tensors):
        return tuple(tensors)
    renamed = []
    for tensor, name in zip(tensors, names, strict=True):
        renamed.append(replace(tensor, name=name))
    return tuple(renamed)


def _spec(kind: str, text: str) -> str | None:
    """The serialised pytree of the call (``in``) or of the result (``out``)."""
    _, start, rest = text.partition(f'{kind}_spec_ = R"(')
    spec, end, _ = rest.partition(')";')
    return spec if start and end else None


def _unique(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
