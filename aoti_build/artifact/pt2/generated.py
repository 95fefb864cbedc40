"""What the C++ that inductor generated says of a model: its inputs, its constants, its kernels, its
compilers.

A package carries the source that its shared library was compiled from (`*.wrapper.cpp`,
`*.kernel.cpp`). No metadata file repeats these facts, so they are read from the statements that
inductor writes (torch/_inductor/codegen/ cpp_wrapper_cpu.py, the same from torch 2.11 on). They are
for people: no decision to load anything rests on them, and what is not found is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

# The text may be anybody's: each pattern is anchored to a line or bounded, so that none takes more
# than linear time. Where one begins with a plain word, no \b stands before it: without, `re` looks
# for the word alone, which is much faster.
_CONSTANT = re.compile(r"^ *constants_info_\[(\d{1,9})\]\.(\w{1,20}) = ([^;\n]{0,4096});", re.M)
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
_DTYPES = re.compile(r"cached_torch_dtype_(\w+)")
_UNBOUNDED = 2**62  # inductor writes the largest 64-bit integers for "no upper bound"
_LARGEST_RANK = 64
# Bytes of a serialised pytree that are read, and characters of a path in it, which are few in a
# real one.
_LARGEST_SPEC, _LONGEST_PATH = 4 << 20, 1024


@dataclass(frozen=True)
class Tensor:
    """An input or output: `dtype` and `shape` are None where the source does not say. A size is an
    integer or a name in `Generated.dims`."""

    name: str
    dtype: str | None = None
    shape: tuple[int | str, ...] | None = None


@dataclass(frozen=True)
class Constant:
    """A weight, buffer or constant: `size` in bytes; `folded` if the compiler computed it at load
    time from others."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    folded: bool


@dataclass(frozen=True)
class Generated:
    """All that was found. `dims`: name -> {"min", "max"}, either absent if the code does not check
    it. `kernels` are C++ loops, `gpu_kernels` the functions loaded from GPU binaries, `operators`
    torch's own that are called, `march` the values of ``-march=`` of the compiler."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    dims: dict[str, dict[str, int]] = field(default_factory=dict)
    constants: tuple[Constant, ...] = ()
    kernels: tuple[str, ...] = ()
    gpu_kernels: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    march: tuple[str, ...] = ()


def read_generated(wrapper: str, kernels: str = "") -> Generated:
    """The facts in the text of a model's wrapper and, where it has one of its own, of its
    kernels."""
    dims: dict[str, dict[str, int]] = {}
    names = {(kind, int(index)): name for kind, index, name in _TENSOR.findall(wrapper)}
    inputs = _inputs([names[key] for key in sorted(names) if key[0] == "input"], wrapper, dims)
    outputs = [Tensor(names[key]) for key in sorted(names) if key[0] == "output"]
    commands = _COMMAND.findall(wrapper)
    return Generated(
        inputs=_renamed(inputs, _leaves(_spec("in", wrapper), call=True)),
        outputs=_renamed(outputs, _leaves(_spec("out", wrapper), call=False)),
        dims=dims,
        constants=tuple(_constants(wrapper)),
        kernels=_unique(_CPP_KERNEL.findall(wrapper) + _CPP_KERNEL.findall(kernels)),
        gpu_kernels=_unique(_GPU_KERNEL.findall(wrapper)),
        operators=tuple(sorted({*_OPERATOR.findall(wrapper)})),
        march=_unique(
            word for command in commands for word in re.findall(r"-march=([\w.+-]{1,80})", command)
        ),
    )


def _inputs(names: list[str], text: str, dims: dict[str, dict[str, int]]) -> list[Tensor]:
    """The inputs by the checks that the code has for each; fills `dims` with the sizes that may
    vary."""
    starts = list(_CHECK.finditer(text))
    bodies: dict[int, str] = {}
    for position, match in enumerate(starts, 1):
        end = starts[position].start() if position < len(starts) else len(text)
        bodies.setdefault(int(match[1]), text[match.end() : end].partition("\n}")[0])
    symbols = {(name, int(axis)): symbol for symbol, name, axis in _SYMBOL.findall(text)}
    for name, shape in _SHAPE.findall(text):
        sizes = (size.strip() for size in shape.split(","))
        symbols |= {(name, axis): size for axis, size in enumerate(sizes) if size.isidentifier()}
    original = {alias: symbol for alias, symbol in _ALIAS.findall(text) if alias != symbol}
    return [
        _input(name, bodies.get(index), symbols, original, dims) for index, name in enumerate(names)
    ]


def _input(
    name: str,
    body: str | None,
    symbols: dict[tuple[str, int], str],
    original: dict[str, str],
    dims: dict[str, dict[str, int]],
) -> Tensor:
    if body is None:
        return Tensor(name)
    dtype = _DTYPE.search(body)
    fixed = {int(axis): int(size) for size, axis in _FIXED.findall(body)}
    rank = 1 + max((int(axis) for axis in _AXIS.findall(body)), default=-1)
    if rank > _LARGEST_RANK:
        return Tensor(name, dtype[1] if dtype else None)
    bounds: dict[int, dict[str, int]] = {}
    for axis, sign, value in _BOUND.findall(body):
        if int(value) < _UNBOUNDED:
            bounds.setdefault(int(axis), {})["min" if sign == "<" else "max"] = int(value)
    shape: list[int | str] = []
    for axis in range(rank):
        if axis in fixed:
            shape.append(fixed[axis])
            continue
        # A size without a symbol of its own is an expression; all that is known then are its
        # bounds.
        symbol = symbols.get((name, axis), f"{name}.{axis}")
        symbol = original.get(symbol, symbol)
        dims[symbol] = {**dims.get(symbol, {}), **bounds.get(axis, {})}
        shape.append(symbol)
    return Tensor(name, dtype[1] if dtype else None, tuple(shape))


def _constants(text: str) -> Iterator[Constant]:
    rows: dict[int, dict[str, str]] = {}
    for index, name, value in _CONSTANT.findall(text):
        rows.setdefault(int(index), {})[name] = value
    for _, row in sorted(rows.items()):
        dtype = _DTYPES.fullmatch(row.get("dtype", ""))
        yield Constant(
            name=row.get("original_fqn", "").strip('"') or row.get("name", "").strip('"'),
            dtype=dtype[1] if dtype else row.get("dtype", ""),
            shape=tuple(int(size) for size in re.findall(r"\d{1,18}", row.get("shape", ""))),
            size=(
                int(row["data_size"]) if re.fullmatch(r"\d{1,18}", row.get("data_size", "")) else 0
            ),
            folded=row.get("from_folded") == "true",
        )


def _renamed(tensors: list[Tensor], names: list[str] | None) -> tuple[Tensor, ...]:
    """With the names that a caller uses, if there is one for each."""
    if names is None or len(names) != len(tensors):
        return tuple(tensors)
    return tuple(
        Tensor(name, old.dtype, old.shape) for name, old in zip(names, tensors, strict=True)
    )


def _spec(kind: str, text: str) -> str | None:
    """The serialised pytree of the call or the result."""
    _, found, rest = text.partition(f'{kind}_spec_ = R"(')
    spec, ended, _ = rest.partition(')";')
    return spec if found and ended else None


def _leaves(spec: str | None, *, call: bool) -> list[str] | None:
    """Names of the leaves of a serialised pytree (torch.utils._pytree.treespec_dumps), None if it
    is not understood.

    Those of a call are a tuple of positional arguments and a dict of keyword ones: ``args[0]``,
    ``mask``. Those of a result are paths: ``['pooled']['mean']``, or ``output`` for a tensor alone.
    """
    if spec is None or len(spec) > _LARGEST_SPEC:
        return None
    try:
        version, tree = json.loads(spec)
        if version != 1:
            return None
        if not call:
            return [path or "output" for path in _walk(tree, "")]
        positional, keyword = tree["children_spec"]
        named = [
            path
            for key, child in zip(
                json.loads(keyword["context"]), keyword["children_spec"], strict=True
            )
            for path in _walk(child, str(key))
        ]
        return [*_walk(positional, "args"), *named]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _walk(tree: Any, path: str) -> Iterator[str]:
    """The paths of the leaves in order. Without recursion: a leaf costs no more for being deep."""
    ahead = [(tree, path)]
    while ahead:
        tree, path = ahead.pop()
        kind, children = tree["type"], tree["children_spec"]
        if kind is None:
            yield path
            continue
        keys: list[Any] = list(range(len(children)))
        if kind in ("builtins.dict", "collections.OrderedDict"):
            keys = json.loads(tree["context"])
        named = [(child, f"{path}[{key!r}]") for key, child in zip(keys, children, strict=True)]
        if any(len(name) > _LONGEST_PATH for _, name in named):
            raise ValueError("path")
        ahead += reversed(named)


def _unique(words: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))
