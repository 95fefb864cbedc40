"""torch.export with the dims of models.yaml.

models.yaml says whether the mode is strict, because the graphs of the two modes differ and torch's
default may change.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch._library.fake_impl import FakeImplCtx
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from aoti_build._torch.program.axes import Axes
from aoti_build._torch.program.dims import ExportSizes
from aoti_build._torch.program.inputs import Call
from aoti_build._torch.program.refusals import export_error, recorded_guards
from aoti_build._torch.program.structure import add_missing_keys, shapes_like
from aoti_build.models_file.project import Dim


def export(
    module: torch.nn.Module,
    call: Call,
    dims: tuple[Dim, ...],
    axes: list[Axes],
    where: str,
    *,
    strict: bool = False,
    own_symbols: bool = False,
) -> ExportedProgram:
    """The exported program of `module` for `call`.

    It is dynamic along `axes`, which has {axis: its size} for each leaf of the call. With
    `own_symbols` each size gets a symbol of its own (`ExportSizes`).

    Raises:
        BuildError: The model cannot be exported. The error has torch's own suggested fix.
    """
    add_missing_keys(pytree.tree_structure((call.args, call.kwargs)))
    sizes = ExportSizes(dims, axes, own_symbols=own_symbols)
    shapes = _dynamic_shapes(module, call, sizes) if dims else None
    try:
        with recorded_guards() as guards, sizes.asserted(module, call):
            return _exported_from_zero_or_two(module, call, shapes, strict)
    except Exception as error:  # torch.export raises some twenty types, and the model's own
        raise export_error(error, where, guards) from error


def _exported_from_zero_or_two(
    module: torch.nn.Module,
    call: Call,
    shapes: Any,
    strict: bool,
) -> ExportedProgram:
    """The program that allows operators to find nothing (`_CountedSizes`); if there is none, the
    one with torch's minimum of 2."""
    _counted.default_minimum = 0
    _counted.any_created = False
    try:
        return _exported(module, call, shapes, strict)
    except Exception:
        if not _counted.any_created:
            raise
        # The operators after it may not take the sizes 0 and 1.
        _counted.default_minimum = 2
        return _exported(module, call, shapes, strict)


def _exported(module: torch.nn.Module, call: Call, shapes: Any, strict: bool) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(
            module,
            call.args,
            call.kwargs,
            dynamic_shapes=shapes,
            strict=strict,
            # Otherwise torch drops guards such as ``size % 8 == 0`` without an error, and the
            # artifact computes garbage for sizes that break them.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _dynamic_shapes(module: torch.nn.Module, call: Call, sizes: ExportSizes) -> dict[str, Any]:
    """The declared sizes in torch.export's form: forward's parameters, and in each the call's
    structure with {axis: Dim} or None for each leaf."""
    _, structure = pytree.tree_flatten((call.args, call.kwargs))
    args, kwargs = shapes_like(structure, iter(sizes.shapes()))
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    return dict(bound.arguments)


@contextlib.contextmanager
def whole_ranges() -> Iterator[None]:
    """Keep operators from narrowing declared sizes, in an export or a compile inside.

    Convolutions would narrow a dynamic batch (`_with_plain_sizes`), and operators such as nms the
    number of their results (`_CountedSizes`).
    """
    with contextlib.ExitStack() as patches:
        # `conv` of torch/_subclasses/fake_impls.py calls these two.
        for name in ("_select_conv_backend", "_conv_determine_backend_memory_format"):
            patched = _with_plain_sizes(getattr(torch._C, name))
            patches.enter_context(mock.patch.object(torch._C, name, patched))
        if hasattr(FakeImplCtx, "create_unbacked_symint"):
            patches.enter_context(
                mock.patch.object(FakeImplCtx, "create_unbacked_symint", _create_counted_size)
            )
        yield


@dataclass
class _CountedSizes:
    """Sizes of results that data decide, of operators that do not say a minimum.

    Operators that use torch's older function (torchvision.ops.nms) get a minimum of 2 from
    `FakeImplCtx.create_unbacked_symint` in torch/_library/fake_impl.py. Compiled code then refuses
    to find one box, or none. Here they get `default_minimum`.
    """

    default_minimum: int = 0
    any_created: bool = False


# torch calls the function below without any context of ours.
_counted = _CountedSizes()


def _create_counted_size(
    context: Any,
    *,
    min: int | None = None,  # noqa: A002 - torch's names
    max: int | None = None,  # noqa: A002
) -> Any:
    _counted.any_created = True
    minimum = _counted.default_minimum if min is None else min
    return context.new_dynamic_size(min=minimum, max=max)


def _with_plain_sizes(choose: Callable[..., Any]) -> Callable[..., Any]:
    """`choose` with the sizes of the example as plain numbers in place of symbols.

    To learn the memory format of a convolution's output, the tracer asks torch which backend it
    would choose. That choice compares sizes: oneDNN for a batch below 16, for one. Each comparison
    with a symbol becomes a bound of the compiled code, which then refuses part of the declared
    range (a batch of 1..16 became 1..15 in torch 2.14). With plain numbers the answer is the same,
    and bounds nothing. The reference cases show that the format is right at the ends of every
    range.
    """

    def choose_plainly(*args: Any, **kwargs: Any) -> Any:
        plain_args = [_with_example_sizes(value) for value in args]
        plain_kwargs = {name: _with_example_sizes(value) for name, value in kwargs.items()}
        return choose(*plain_args, **plain_kwargs)

    return choose_plainly


def _with_example_sizes(value: Any) -> Any:
    """A fake tensor of the example's sizes in place of one with symbolic sizes; any other value
    unchanged."""
    if not isinstance(value, FakeTensor) or not value._has_symbolic_sizes_strides:
        return value
    sizes = [_example_size(size) for size in value.size()]
    strides = [_example_size(stride) for stride in value.stride()]
    if None in sizes or None in strides:
        return value
    with value.fake_mode:
        return torch.empty_strided(sizes, strides, dtype=value.dtype, device=value.device)


def _example_size(size: int | torch.SymInt) -> Any:
    """The size in the example; None for one that depends on data."""
    return size.node.hint if isinstance(size, torch.SymInt) else size
