"""torch.export with the dims of models.yaml, and the proof that the exported program has exactly
those ranges.

The mode is the one that models.yaml says (strict and non-strict graphs differ), not torch's
default. Pinned is `prefer_deferred_runtime_asserts_over_guards=True`: without it guards such as
``size % 8 == 0`` are dropped silently and the artifact gives garbage for sizes that break them.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch._library.fake_impl import FakeImplCtx
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, OutputKind
from torch.utils import _pytree as pytree

from aoti_build._torch.program.axes import Axes
from aoti_build._torch.program.dims import (
    ExportSizes,
    expression_of,
    names_of_symbols,
    ranges,
    spelt,
)
from aoti_build._torch.program.inputs import Call
from aoti_build._torch.program.refusals import comparisons, refused
from aoti_build._torch.program.structure import give_keys, leaf_names, shapes_like
from aoti_build._torch.program.writes import Seen, input_arguments, traced_values, writes_of
from aoti_build.common.sizes import Size
from aoti_build.errors import BuildError
from aoti_build.models_file.project import Dim

# Numbers that follow from sizes, or from data.
_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)


def export(
    module: torch.nn.Module,
    call: Call,
    dims: tuple[Dim, ...],
    axes: list[Axes],
    where: str,
    *,
    strict: bool = False,
    own: bool = False,
) -> ExportedProgram:
    """The exported program of `module` for `call`, dynamic along `axes` (per leaf of the call: axis
    -> its size), each with a symbol of its `own` or not (`ExportSizes`).

    Raises:
        BuildError: the model cannot be exported, with torch's own suggested fix.
    """
    give_keys(pytree.tree_structure((call.args, call.kwargs)))
    sizes = ExportSizes(dims, axes, own=own)
    shapes = _dynamic_shapes(module, call, sizes) if dims else None
    _counted.least, _counted.asked = 0, False
    try:
        with comparisons() as compared, sizes.asserted(module, call):
            try:
                return _exported(module, call, shapes, strict)
            except Exception:
                if not _counted.asked or _counted.least:
                    raise
                _counted.least = (
                    2  # torch's own: a graph that goes on with such a size may not allow 0 and 1
                )
                return _exported(module, call, shapes, strict)
    except Exception as error:  # torch.export raises some twenty types, and the model's own
        raise refused(error, where, compared) from error


def _exported(module: torch.nn.Module, call: Call, shapes: Any, strict: bool) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            module,
            call.args,
            call.kwargs,
            dynamic_shapes=shapes,
            strict=strict,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _hint(size: int | torch.SymInt) -> Any:
    """A size of the example; None for one that has none."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


@contextlib.contextmanager
def whole_ranges() -> Iterator[None]:
    """Keep convolutions from narrowing a dynamic batch, and operators from narrowing what they
    count, in both export and compile.

    To learn the memory format of a convolution's output, the tracer asks torch which backend it
    would choose, and that choice compares sizes (oneDNN for a batch below 16, for one): each
    comparison becomes a bound of the compiled code, which then refuses part of the declared range
    (a batch of 1..16 became 1..15, seen in 2.14). Asked with the example's sizes as plain numbers
    it answers the same and bounds nothing; that the format is right at the ends of every range is
    shown by the reference cases.
    """
    with contextlib.ExitStack() as patches:
        for name in ("_select_conv_backend", "_conv_determine_backend_memory_format"):
            patches.enter_context(
                mock.patch.object(torch._C, name, _with_plain_sizes(getattr(torch._C, name)))
            )
        if hasattr(FakeImplCtx, "create_unbacked_symint"):
            patches.enter_context(
                mock.patch.object(FakeImplCtx, "create_unbacked_symint", _any_size)
            )
        yield


@dataclass
class _Counted:
    """The `least` size of outputs whose size data decide, where an operator does not say it, and
    whether one has `asked`. Operators that ask in torch's older way (torchvision.ops.nms) get 2 or
    more, and compiled code then refuses to keep one box, or none."""

    least: int = 0
    asked: bool = False


_counted = _Counted()


def _any_size(
    context: Any,
    *,
    min: int | None = None,  # noqa: A002 - torch's names
    max: int | None = None,  # noqa: A002
) -> Any:
    _counted.asked = True
    return context.new_dynamic_size(min=_counted.least if min is None else min, max=max)


def _with_plain_sizes(ask: Callable[..., Any]) -> Callable[..., Any]:
    def asked(*args: Any, **kwargs: Any) -> Any:
        return ask(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})

    return asked


def _plain(value: Any) -> Any:
    """A fake tensor of the example's sizes in place of one with symbolic sizes; anything else as it
    is."""
    if not isinstance(value, FakeTensor) or not value._has_symbolic_sizes_strides:
        return value
    sizes, strides = list(map(_hint, value.size())), list(map(_hint, value.stride()))
    if None in sizes + strides:
        return value  # a size that only the data tells
    with value.fake_mode:
        return torch.empty_strided(sizes, strides, dtype=value.dtype, device=value.device)


def signature(
    program: ExportedProgram,
    functional: ExportedProgram,
    module: torch.nn.Module,
    call: Call,
    dims: tuple[Dim, ...],
    axes: list[Axes],
    seen: Seen,
) -> dict[str, Any]:
    """Inputs and outputs as JSON: name, dtype, shape; a dynamic size is an expression in the names
    of `dims`. Then the dims, and what a call writes into, by the `functional` form of the program
    and what was `seen`."""
    named = named_symbols(program, axes)
    inputs = [
        _describe(name, leaf, value, named)
        for name, leaf, value in zip(
            input_names(module, call), call.leaves(), _placeholders(program), strict=True
        )
    ]
    out_spec = program.call_spec.out_spec
    outputs = [
        _describe(name, None, value, named)
        for name, value in zip(_output_names(out_spec), _output_values(program), strict=True)
    ]
    ranges = {
        dim.name: {"min": dim.min, "max": dim.max, "multiple_of": dim.multiple_of} for dim in dims
    }
    tensors = [entry["name"] for entry in inputs if "dtype" in entry]
    mutates = writes_of(functional, tensors, seen).as_json()
    return {"inputs": inputs, "outputs": outputs, "dims": ranges, "mutates": mutates}


def _dynamic_shapes(module: torch.nn.Module, call: Call, sizes: ExportSizes) -> Any:
    """The declared sizes in torch.export's form: the call's structure with {axis: Dim} or None for
    each leaf."""
    _, structure = pytree.tree_flatten((call.args, call.kwargs))
    args, kwargs = shapes_like(structure, iter(sizes.shapes()))
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def check_ranges(
    program: ExportedProgram,
    dims: tuple[Dim, ...],
    axes: list[Axes],
    where: Mapping[str, str],
    *,
    from_two: bool,
) -> None:
    """Refuse a program in which a declared size became a constant, got another range or follows
    other dims: torch.export may narrow quietly.

    With `from_two` the tracer took every size to be 2 or more, as it does by default. That is no
    bound of the program: it still says 1 where 1 is declared (seen in 2.11 and 2.14), and whoever
    relies on it shows that it is right there.

    Raises:
        BuildError: the size is not what models.yaml declares, at the place of its dim in `where`.
    """
    values, ends = _placeholders(program), ranges(dims)
    for value, found in zip(values, axes, strict=True):
        for axis, declared in found.items():
            size, what = value.shape[axis], _called(declared)
            if not isinstance(size, torch.SymInt):
                raise BuildError(
                    f"the {what} became the constant {size} in the export",
                    where=_place(declared, where),
                    hint=(
                        "something in the model fixes this size: write it as a number, or choose"
                        " another example"
                    ),
                )
            least, most = declared.bounds(ends)
            low, high = _range(program, size, from_two)
            if (low, high) != (least, most):
                raise BuildError(
                    f"the {what} is declared {least}..{most}, but the exported model allows"
                    f" {low}..{high}",
                    where=_place(declared, where),
                    hint="declare the range that the model allows",
                )
    named = named_symbols(program, axes)
    for value, found in zip(values, axes, strict=True):
        for axis, declared in found.items():
            exported = value.shape[axis].node.expr.subs(named)
            if (exported - expression_of(declared)).expand() != 0:
                raise BuildError(
                    f"the {_called(declared)} became {spelt(exported)} in the export",
                    where=_place(declared, where),
                    hint=(
                        "something in the model ties these sizes: declare them as the model relates"
                        " them"
                    ),
                )


def named_symbols(program: ExportedProgram, axes: list[Axes]) -> dict[Any, Any]:
    """Torch's symbols for the sizes of the inputs, in terms of the dims."""
    return names_of_symbols(_placeholders(program), axes)


def _place(size: Size, where: Mapping[str, str]) -> str:
    """Where in models.yaml to look for a size: at its dim if it is one."""
    return where[f"dims.{size}" if size.plain else "inputs"]


def _called(size: Size) -> str:
    return f"dim {size}" if size.plain else f"size {size}"


def _range(program: ExportedProgram, size: torch.SymInt, from_two: bool) -> tuple[int, int]:
    """The sizes that compiled code will take to be possible: the narrower of what the program says
    (`range_constraints`) and what the tracer assumed, which is what inductor generates code and
    input checks from; the two can differ.
    """
    from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

    tracer = size.node.shape_env
    assumed = dict(tracer.var_to_range) if tracer else {}
    if from_two:
        for symbol in size.node.expr.free_symbols & set(assumed):
            said = program.range_constraints.get(symbol)
            if said is not None and said.lower < 2 == assumed[symbol].lower:
                assumed[symbol] = ValueRanges(said.lower, assumed[symbol].upper)
    said, traced = (
        bound_sympy(size.node.expr, program.range_constraints),
        bound_sympy(size.node.expr, assumed),
    )
    return max(int(said.lower), int(traced.lower)), min(int(said.upper), int(traced.upper))


def _placeholders(program: ExportedProgram) -> list[Any]:
    """The traced value of every user input, in flattened order; constants as themselves."""
    return _values_of(input_arguments(program), program)


def _output_values(program: ExportedProgram) -> list[Any]:
    specs = program.graph_signature.output_specs
    returned = [spec.arg for spec in specs if spec.kind == OutputKind.USER_OUTPUT]
    return _values_of(returned, program)


def _values_of(arguments: list[Any], program: ExportedProgram) -> list[Any]:
    values = traced_values(program)
    # A constant may be a text that is the name of another input.
    return [
        argument.value if isinstance(argument, ConstantArgument) else values.get(argument.name)
        for argument in arguments
    ]


def without_odd_constants(program: ExportedProgram) -> None:
    """Put None in the place of outputs that are texts or floats: inductor compiles none of them.
    Whoever loads the package has their values from the signature."""
    output = next(node for node in program.graph.nodes if node.op == "output")
    values = list(output.args[0])
    for index, spec in enumerate(program.graph_signature.output_specs):
        if isinstance(spec.arg, ConstantArgument) and not isinstance(spec.arg.value, int | None):
            values[index] = None
            spec.arg = ConstantArgument(spec.arg.name, None)
    output.args = (tuple(values),)
    program.graph_module.recompile()


def input_names(module: torch.nn.Module, call: Call) -> list[str]:
    """A name such as ``mask`` or ``pair[0]`` for each leaf of the call."""
    firsts = [*_parameter_names(module, len(call.args)), *call.kwargs]
    values = [*call.args, *call.kwargs.values()]
    return [
        name
        for first, value in zip(firsts, values, strict=True)
        for name in leaf_names(pytree.tree_structure(value), first)
    ]


def _output_names(out_spec: Any) -> list[str]:
    """A path such as ``['logits']`` or ``[0][1]`` for each output leaf; a lone tensor is called
    ``output``."""
    return [name or "output" for name in leaf_names(out_spec)]


def _parameter_names(module: torch.nn.Module, count: int) -> list[str]:
    """Names of forward's first `count` positional parameters; those of *args are numbered as
    torch.export does."""
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{index}" for index in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names[:count]


def output_shapes(
    program: ExportedProgram, named: Mapping[Any, Any], sizes: Mapping[str, int]
) -> list[list[int] | None]:
    """The shape that the export gives each output at these sizes of the dims; None for what is no
    tensor, and for shapes that depend on data."""
    return [_evaluated(value, named, sizes) for value in _output_values(program)]


def _evaluated(value: Any, named: Mapping[Any, Any], sizes: Mapping[str, int]) -> list[int] | None:
    if not isinstance(value, torch.Tensor):
        return None
    shape = []
    for size in value.shape:
        expression = size.node.expr if isinstance(size, torch.SymInt) else size
        if not isinstance(size, int) and not expression.free_symbols <= set(named):
            return None
        shape.append(at_sizes(expression, named, sizes))
    return shape


def at_sizes(expression: Any, named: Mapping[Any, Any], sizes: Mapping[str, int]) -> int:
    """What `expression` of torch's symbols comes to when the dims have these `sizes`."""
    if isinstance(expression, int):
        return expression
    told = expression.subs(named)
    return int(told.subs({name: sizes[str(name)] for name in told.free_symbols}))


def declared_minimums(
    program: ExportedProgram, dims: tuple[Dim, ...], axes: list[Axes]
) -> dict[str, int]:
    """The declared minimum of each of torch's symbols that is the whole size of an axis, by the
    symbol's name."""
    ends = ranges(dims)
    found = {}
    for value, dynamic in zip(_placeholders(program), axes, strict=True):
        for axis, size in dynamic.items():
            expression = value.shape[axis].node.expr
            if expression.is_symbol:
                found[str(expression)], _ = size.bounds(ends)
    return found


def _describe(name: str, leaf: Any, value: Any, named: dict[Any, Any]) -> dict[str, Any]:
    if isinstance(value, torch.Tensor):
        shape = [_size(size, named) for size in value.shape]
        return {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape}
    if isinstance(value, _SYMBOLIC):
        number = type(value).__name__.removeprefix("Sym").lower()
        return {"name": name, "number": number, "value": str(value.node.expr.subs(named))}
    return {"name": name, "constant": repr(leaf if leaf is not None else value)}


def _size(size: Any, named: dict[Any, Any]) -> int | str:
    return spelt(size.node.expr.subs(named)) if isinstance(size, torch.SymInt) else int(size)
