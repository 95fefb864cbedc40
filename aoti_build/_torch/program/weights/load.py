"""From models.yaml's ``weights`` to the module's state.

Every name must fit, unless `ignore` lists it. Five exceptions mean the same to every reader:

- a tied weight whose other name is in the file;
- a buffer outside the state dict for which the file has the model's own value;
- BatchNorm's count of batches, which only training reads;
- the mark that DataParallel leaves in names, and the one that torch.compile leaves.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aoti_build._torch.program.weights.files import find_state_dict, read_weights
from aoti_build._torch.program.weights.misfits import Misfits
from aoti_build._torch.program.weights.model_state import (
    ModelState,
    State,
    have_equal_values,
    memory_of,
)
from aoti_build._torch.program.weights.names import matches_any, state_by_model_names
from aoti_build._torch.program.weights.source import WeightsSource
from aoti_build.models_file.project import Weights

# _load_from_state_dict of torch/nn/modules/batchnorm.py lets old files omit it as well.
_BATCH_COUNT = ".num_batches_tracked"


def load_weights(
    module: torch.nn.Module,
    weights: Weights,
    root: Path,
    where: str,
    *,
    may_round: bool = False,
) -> None:
    """Load the file that `weights` names into `module`.

    The file must have every name of the module with its shape, and no others. Values of another
    floating dtype are converted, as `load_state_dict` does, if that keeps them or with `may_round`.
    Parameters on the meta device are made on the CPU.

    Raises:
        UsageError: A name does not fit, and the error says for each name which rule would make it
            fit; or a conversion would change values.
    """
    source = WeightsSource(weights, where)
    model = ModelState.of(module, source)
    document = read_weights(source, root)
    state = state_by_model_names(find_state_dict(document, source, model), source, model)
    loaded = {}
    for name, value in state.items():
        if not matches_any(name, weights.ignore):
            loaded[name] = value
    misfits = _copy_into(module, model, loaded, source)
    if misfits:
        print(misfits.text(all_names=True), file=sys.stderr)
        hint = "\n".join([*misfits.rules(weights), "the log names all of them"])
        raise source.error("does not fit the model", cause=misfits.text(), hint=hint)
    if not may_round:
        _refuse_rounding(model, loaded, source)
    _log_conversions(model, loaded)


def _copy_into(
    module: torch.nn.Module,
    model: ModelState,
    loaded: State,
    source: WeightsSource,
) -> Misfits:
    """Copy the values that fit into the module. Returns the names that do not fit."""
    misshapen = {
        **_wrong_shapes_and_kinds(model, loaded),
        **_contradicting_ties(model, loaded),
        **_contradicting_computed(model, loaded),
    }
    missing = list(model.state)
    surplus = [name for name in loaded if name not in model.state]
    try:
        # load_state_dict also renames the keys of old state dicts, where a module has a hook for
        # that: so its answer counts, and not a comparison of names made here.
        missing, surplus = module.load_state_dict(dict(loaded), strict=False)
    except RuntimeError as error:  # a shape, or a copy that a tensor subclass refuses
        if not misshapen:
            raise source.error("cannot be loaded into the model", cause=str(error)) from error
    really_missing = []
    for name in _without_value(model, loaded, missing):
        # An ignored name keeps the callable's value, but there is none on the meta device.
        if not matches_any(name, source.weights.ignore) or name in model.on_meta:
            really_missing.append(name)
    unknown = [name for name in surplus if name not in model.computed]
    return Misfits(model.state, loaded, really_missing, unknown, misshapen)


class _TensorPair(NamedTuple):
    """A tensor of the file and the model's tensor of that name."""

    name: str
    from_file: torch.Tensor
    in_model: torch.Tensor


def _tensor_pairs(model: ModelState, loaded: State) -> Iterator[_TensorPair]:
    for name, value in loaded.items():
        target = model.state.get(name)
        if isinstance(target, torch.Tensor) and isinstance(value, torch.Tensor):
            yield _TensorPair(name, value, target)


def _wrong_shapes_and_kinds(model: ModelState, loaded: State) -> dict[str, str]:
    """A sentence for each name whose tensor has another shape or kind of dtype in the file."""
    problems = {}
    for name, from_file, in_model in _tensor_pairs(model, loaded):
        actual, expected = None, None
        if in_model.shape != from_file.shape:
            actual, expected = str(list(from_file.shape)), str(list(in_model.shape))
        elif _dtype_kind(in_model.dtype) != _dtype_kind(from_file.dtype):
            actual, expected = _dtype_name(from_file.dtype), _dtype_name(in_model.dtype)
        if actual is not None:
            problems[name] = f"the file has {actual}, the model wants {expected}"
    return problems


def _contradicting_ties(model: ModelState, loaded: State) -> dict[str, str]:
    """A sentence for each name that the model ties to another and the file does not.

    Of two values for one memory, one would be lost.
    """
    problems = {}
    first_names: dict[Any, str] = {}
    for name, from_file, in_model in _tensor_pairs(model, loaded):
        memory = memory_of(in_model)
        if memory is None:
            continue
        first = first_names.setdefault(memory, name)
        if first == name or loaded[first].shape != from_file.shape:
            continue
        if not have_equal_values(loaded[first], from_file):
            problems[name] = (
                f"it is the same tensor as {first} in the model, but another one in the file"
            )
    return problems


def _contradicting_computed(model: ModelState, loaded: State) -> dict[str, str]:
    """A sentence for each buffer outside the state dict that has another value in the file.

    Such buffers, for instance positions, are in old files. They may be ignored if the file has the
    value that the model computes.
    """
    problems = {}
    for name, computed in model.computed.items():
        if name not in loaded:
            continue
        value = loaded[name]
        is_same = False
        if isinstance(value, torch.Tensor) and computed.shape == value.shape:
            is_same = have_equal_values(computed.to(value.dtype), value)
        if not is_same:
            problems[name] = (
                "the model computes this buffer itself, and the file has other values for it"
            )
    return problems


def _without_value(model: ModelState, loaded: State, names: Iterable[str]) -> list[str]:
    """Those of `names` that the file does not give, by this name or by that of a tied weight."""
    provided = set()
    for name in loaded:
        if name in model.state:
            provided.add(memory_of(model.state[name]))
    provided.discard(None)
    missing = []
    for name in names:
        if name in loaded or name.endswith(_BATCH_COUNT):
            continue
        if memory_of(model.state.get(name)) not in provided:
            missing.append(name)
    return missing


def _dtype_kind(dtype: torch.dtype) -> str:
    """The kind of a dtype. A conversion to another kind would change what the values mean."""
    if dtype.is_complex:
        return "complex"
    return "floating" if dtype.is_floating_point else "integer"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refuse_rounding(model: ModelState, loaded: State, source: WeightsSource) -> None:
    """Raise `UsageError` if the model's dtype cannot hold a value of the file. To lose precision,
    or to turn a large value into inf, must be a decision."""
    changed = []
    for pair in _tensor_pairs(model, loaded):
        if not _is_kept(pair.from_file, pair.in_model.dtype):
            changed.append(pair)
    if not changed:
        return
    first = changed[0]
    old, new = _dtype_name(first.from_file.dtype), _dtype_name(first.in_model.dtype)
    others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    raise source.error(
        f"has {old} values that the model's {new} cannot hold",
        cause=f"{first.name}{others} would be rounded",
        hint=f"if that is meant, write `dtype: {new}` for the model; else let the callable make it"
        f" in {old}",
    )


def _is_kept(value: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a conversion to `dtype` keeps every value."""
    if torch.promote_types(value.dtype, dtype) == dtype:
        return True
    if value.layout != torch.strided or value.is_meta:
        return True  # torch cannot compare them
    converted = value.to(dtype).to(value.dtype)
    return bool(((converted == value) | (value != value)).all())  # noqa: PLR0124 - nan


def _log_conversions(model: ModelState, loaded: State) -> None:
    counts: Counter[str] = Counter()
    for _, from_file, in_model in _tensor_pairs(model, loaded):
        if in_model.dtype != from_file.dtype:
            counts[f"{_dtype_name(from_file.dtype)} to {_dtype_name(in_model.dtype)}"] += 1
    for pair, count in counts.items():
        print(f"weights: {count} tensors converted from {pair}", file=sys.stderr)
