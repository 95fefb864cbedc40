"""torch.export with the dims of models.yaml, and the proof that the exported program has exactly those ranges.

The mode is the one that models.yaml says (strict and non-strict graphs differ), not torch's default. Pinned is
`prefer_deferred_runtime_asserts_over_guards=True`: without it guards such as ``size % 8 == 0`` are dropped silently and
the artifact gives garbage for sizes that break them.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import Dim as ExportDim
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.utils import _pytree as pytree

from aoti_build._torch.program.inputs import Axes, Call
from aoti_build._torch.program.writes import Seen, writes_of
from aoti_build.errors import BuildError
from aoti_build.spec.project import Dim

_CAUSE_LINES = 30


def export(
    module: torch.nn.Module,
    call: Call,
    dims: tuple[Dim, ...],
    axes: list[Axes],
    where: str,
    *,
    strict: bool = False,
) -> ExportedProgram:
    """The exported program of `module` for `call`, dynamic along `axes` (per leaf of the call: axis -> dim's name).

    Raises:
        BuildError: the model cannot be exported, with torch's own suggested fix; or the exported ranges are not the
        declared.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(
                module,
                call.args,
                call.kwargs,
                dynamic_shapes=_dynamic_shapes(module, call, dims, axes) if dims else None,
                strict=strict,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # torch.export raises some twenty types, and the model's own
        raise BuildError(
            "the model cannot be exported",
            where=where,
            cause=_export_cause(error),
            hint=_export_hint(str(error)),
        ) from error
    _check_ranges(program, dims, axes, where)
    return program


@contextlib.contextmanager
def sizes_of_one(dims: tuple[Dim, ...]) -> Iterator[None]:
    """Let a dim be 1 where one is declared so, in both export and compile.

    By default the tracer assumes 2 or more for every dynamic size, and so does the lowering inside the compile; the
    exported program still says 1 (seen in 2.14). With this setting the export makes no such assumption, and lowering
    fewer.
    """
    from torch.fx.experimental import _config

    with _config.patch(backed_size_oblivious=True) if any(dim.min < 2 for dim in dims) else contextlib.nullcontext():
        yield


def _hint(size: int | torch.SymInt) -> Any:
    """A size of the example; None for one that has none."""
    return size.node.hint if isinstance(size, torch.SymInt) else size


@contextlib.contextmanager
def whole_ranges() -> Iterator[None]:
    """Keep convolutions from narrowing a dynamic batch, in both export and compile.

    To learn the memory format of a convolution's output, the tracer asks torch which backend it would choose, and that
    choice compares sizes (oneDNN for a batch below 16, for one): each comparison becomes a bound of the compiled code,
    which then refuses part of the declared range (a batch of 1..16 became 1..15, seen in 2.14). Asked with the
    example's sizes as plain numbers it answers the same and bounds nothing; that the format is right at the ends of
    every range is shown by the golden cases.
    """
    with contextlib.ExitStack() as patches:
        for name in ("_select_conv_backend", "_conv_determine_backend_memory_format"):
            patches.enter_context(mock.patch.object(torch._C, name, _with_plain_sizes(getattr(torch._C, name))))
        yield


def _with_plain_sizes(ask: Callable[..., Any]) -> Callable[..., Any]:
    def asked(*args: Any, **kwargs: Any) -> Any:
        return ask(*map(_plain, args), **{name: _plain(value) for name, value in kwargs.items()})

    return asked


def _plain(value: Any) -> Any:
    """A fake tensor of the example's sizes in place of one with symbolic sizes; anything else as it is."""
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
    """Inputs and outputs as JSON: name, dtype, shape; a dynamic size is an expression in the names of `dims`. Then
    the dims, and what a call writes into, by the `functional` form of the program and what was `seen`."""
    named = _names_of_symbols(program, dims, axes)
    inputs = [
        _describe(name, leaf, value, named)
        for name, leaf, value in zip(_input_names(module, call), call.leaves(), _placeholders(program), strict=True)
    ]
    out_spec = program.call_spec.out_spec
    outputs = [
        _describe(name, None, value, named)
        for name, value in zip(_output_names(out_spec), _output_values(program), strict=True)
    ]
    ranges = {dim.name: {"min": dim.min, "max": dim.max, "multiple_of": dim.multiple_of} for dim in dims}
    tensors = [entry["name"] for entry in inputs if "dtype" in entry]
    mutates = writes_of(functional, tensors, seen).as_json()
    return {"inputs": inputs, "outputs": outputs, "dims": ranges, "mutates": mutates}


def _dynamic_shapes(module: torch.nn.Module, call: Call, dims: tuple[Dim, ...], axes: list[Axes]) -> Any:
    """The declared dims in torch.export's form: the call's structure with {axis: Dim} or None for each leaf."""
    made = {dim.name: _export_dim(dim) for dim in dims}
    _, structure = pytree.tree_flatten((call.args, call.kwargs))
    leaves = [{axis: made[name] for axis, name in found.items()} or None for found in axes]
    args, kwargs = pytree.tree_unflatten(leaves, structure)
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def _factor(dim: Dim) -> int:
    """K where the dim is exported as ``k * Dim(..)``: a multiple of k that starts at 2 k or later.

    torch takes the inner symbol of such a product to be at least 2 whatever its declared minimum (seen in 2.14:
    8 * Dim(min=1) has the range 16..). A dim that starts at k itself is exported plainly; where the model needs the
    divisibility, torch then puts a runtime assertion into the graph.
    """
    return dim.multiple_of if dim.min >= 2 * dim.multiple_of else 1


def _export_dim(dim: Dim) -> Any:
    k = _factor(dim)
    if k == 1:
        return ExportDim(dim.name, min=dim.min, max=dim.max)
    return k * ExportDim(f"_{dim.name}", min=dim.min // k, max=dim.max // k)


def _check_ranges(program: ExportedProgram, dims: tuple[Dim, ...], axes: list[Axes], where: str) -> None:
    """Refuse a program in which a declared dim became a constant or got another range: torch.export may narrow
    quietly."""
    declared = {dim.name: dim for dim in dims}
    for value, found in zip(_placeholders(program), axes, strict=True):
        for axis, name in found.items():
            dim, size = declared[name], value.shape[axis]
            if not isinstance(size, torch.SymInt):
                raise BuildError(
                    f"the dim {name} became the constant {size} in the export",
                    where=where,
                    hint="something in the model fixes this size: write it as a number, or choose another example",
                )
            low, high = _range(program, size)
            if (low, high) != (dim.min, dim.max):
                raise BuildError(
                    f"the dim {name} is declared {dim.min}..{dim.max}, but the exported model allows {low}..{high}",
                    where=where,
                    hint="declare the range that the model allows",
                )


def _range(program: ExportedProgram, size: torch.SymInt) -> tuple[int, int]:
    """The sizes that compiled code will take to be possible: the narrower of what the program says
    (`range_constraints`) and what the tracer assumed, which is what inductor generates code and input checks from; the
    two can differ.
    """
    from torch.utils._sympy.value_ranges import bound_sympy

    said = bound_sympy(size.node.expr, program.range_constraints)
    tracer = size.node.shape_env
    assumed = bound_sympy(size.node.expr, tracer.var_to_range if tracer else {})
    return max(int(said.lower), int(assumed.lower)), min(int(said.upper), int(assumed.upper))


def _placeholders(program: ExportedProgram) -> list[Any]:
    """The traced value of every user input, in flattened order; constants as themselves."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    given = [spec.arg for spec in program.graph_signature.input_specs if spec.kind == InputKind.USER_INPUT]
    # A constant may be a text that is the name of another input.
    return [arg.value if isinstance(arg, ConstantArgument) else values.get(arg.name) for arg in given]


def _output_values(program: ExportedProgram) -> list[Any]:
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    return [values.get(name, name) if isinstance(name, str) else name for name in program.graph_signature.user_outputs]


def _input_names(module: torch.nn.Module, call: Call) -> list[str]:
    paths, _ = pytree.tree_flatten_with_path((call.args, call.kwargs))
    names = []
    for path, _leaf in paths:
        # The pair (args, kwargs), then a position or a keyword, then the path inside that argument.
        which, argument, rest = path[0], path[1], tuple(path[2:])
        positional = isinstance(which, pytree.SequenceKey) and which.idx == 0
        first = _parameter_names(module, len(call.args))[argument.idx] if positional else str(argument.key)
        names.append(first + pytree.keystr(rest))
    return names


def _output_names(out_spec: Any) -> list[str]:
    """A path such as ``['logits']`` or ``[0][1]`` for each output leaf; a lone tensor is called ``output``."""
    placeholder = pytree.tree_unflatten([0] * out_spec.num_leaves, out_spec)
    paths, _ = pytree.tree_flatten_with_path(placeholder)
    return [pytree.keystr(path) or "output" for path, _ in paths]


def _parameter_names(module: torch.nn.Module, count: int) -> list[str]:
    """Names of forward's first `count` positional parameters; those of *args are numbered as torch.export does."""
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{index}" for index in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return names[:count]


def _names_of_symbols(program: ExportedProgram, dims: tuple[Dim, ...], axes: list[Axes]) -> dict[Any, Any]:
    """Torch's anonymous symbols in terms of the dims' names: s17 -> batch, or seq/8 for 8 * s9."""
    import sympy

    factors = {dim.name: _factor(dim) for dim in dims}
    names = {}
    for value, found in zip(_placeholders(program), axes, strict=True):
        for axis, name in found.items():
            (symbol,) = value.shape[axis].node.expr.free_symbols
            names[symbol] = sympy.Symbol(name, integer=True, positive=True) / factors[name]
    return names


def declared_minimums(program: ExportedProgram, dims: tuple[Dim, ...], axes: list[Axes]) -> dict[str, int]:
    """The declared minimum of each of torch's symbols that stands for a whole dim, by the symbol's name."""
    declared = {dim.name: dim for dim in dims}
    found = {}
    for value, dynamic in zip(_placeholders(program), axes, strict=True):
        for axis, name in dynamic.items():
            expression = value.shape[axis].node.expr
            if expression.is_symbol:
                found[str(expression)] = declared[name].min
    return found


def _describe(name: str, leaf: Any, value: Any, named: dict[Any, Any]) -> dict[str, Any]:
    if isinstance(value, torch.Tensor):
        shape = [_size(size, named) for size in value.shape]
        return {"name": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": shape}
    return {"name": name, "constant": repr(leaf if leaf is not None else value)}


def _size(size: Any, named: dict[Any, Any]) -> int | str:
    return str(size.node.expr.subs(named)) if isinstance(size, torch.SymInt) else int(size)


# Lines of torch's messages about its own logging, which the log is for.
_NOISE = re.compile(r"^\s*(For (more|extended|C\+\+)|If you suspect the guard|The error above occurred when calling)")


def _export_cause(error: Exception) -> str:
    """The part of torch's message that a user can act on: the head, and "Suggested fixes" if there are any."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}").strip()
    lines = [line for line in text.splitlines() if line.strip() and not _NOISE.match(line)]
    suggested = next((index for index, line in enumerate(lines) if "Suggested fix" in line), None)
    shown = lines[:_CAUSE_LINES]
    if suggested is not None and suggested >= _CAUSE_LINES:
        shown = [*shown[: _CAUSE_LINES // 2], "...", *lines[suggested : suggested + _CAUSE_LINES]]
    return "\n".join(shown)


def _export_hint(text: str) -> str:
    if "Suggested fix" in text:
        return "apply the suggested fix to the dims in models.yaml (`b = a` means: one dim for both)"
    if "data-dependent" in text:
        return "the model branches on a tensor's values: use torch.where or torch.cond there"
    return "the log has the whole traceback"
