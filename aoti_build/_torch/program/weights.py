"""From models.yaml's ``weights`` to the module's state: files as people have them.

A file is mapped into memory and copied into the module tensor by tensor, so that its weights are
held once. What does not fit is never passed over unless `ignore` says so, with five exceptions that
mean the same to every reader: a tied weight whose other name is there; a buffer outside the state
dict whose value is the model's own; BatchNorm's count of batches, which only training reads; and
the marks that DataParallel and torch.compile leave in names.
"""

from __future__ import annotations

import os.path
import pickle
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from aoti_build._torch.program.misfits import Misfits
from aoti_build.common.reading import require_regular
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Weights
from aoti_build.models_file.rules import INDEX_SUFFIXES
from aoti_build.models_file.weights import path_of, renamed, shards_of

# Of DataParallel and DistributedDataParallel; of torch.compile.
_PARALLEL, _COMPILED = (
    "module.",
    "_orig_mod.",
)
_EXTRA_STATE = "_extra_state"  # of nn.Module.get_extra_state: any data
_DEEPEST = 4
_SHOWN = 8
# What weights_only=True refused, in torch's message.
_REFUSED_GLOBAL = re.compile(r"Unsupported global: GLOBAL (\S+)")


@dataclass(frozen=True)
class _Place:
    """What is read and where models.yaml names it, for errors."""

    weights: Weights
    where: str

    def error(
        self, message: str, *, cause: str | None = None, hint: str | None = None
    ) -> UsageError:
        return UsageError(
            f"{os.path.basename(self.weights.file)} {message}",
            where=self.where,
            cause=cause,
            hint=hint,
        )


def load_weights(module: torch.nn.Module, weights: Weights, root: Path, where: str) -> None:
    """Load what `weights` names into `module`: every name of the module must be there, with its
    shape, and no other.

    Values of another floating dtype are converted, as `load_state_dict` does. Parameters on the
    meta device are made on the CPU. Raises `UsageError`, which says for each name what would mend
    it.
    """
    place = _Place(weights, where)
    model = _Model.of(module, place)
    named = _named(_tensors(_read(place, root), place, model), place, model)
    loaded = {name: value for name, value in named.items() if not _fits(name, weights.ignore)}
    if misfits := _copy(module, model, loaded, place):
        print(misfits.text(whole=True), file=sys.stderr)
        hint = "\n".join([*misfits.rules(weights), "the log names all of them"])
        raise place.error("does not fit the model", cause=misfits.text(), hint=hint)
    _say_conversions(model, loaded)


@dataclass(frozen=True)
class _Model:
    """The names and tensors of a module's state dict (the module's own memory), and the buffers
    outside it."""

    state: Mapping[str, Any]
    computed: Mapping[str, torch.Tensor]
    on_meta: frozenset[str]

    @classmethod
    def of(cls, module: torch.nn.Module, place: _Place) -> _Model:
        on_meta = _off_meta(module)
        state = module.state_dict()
        computed = {n: b for n, b in module.named_buffers(remove_duplicate=False) if n not in state}
        if lost := sorted(on_meta & computed.keys()):
            raise place.error(
                "does not have the buffers that the model has on the meta device",
                cause=", ".join(lost[:_SHOWN]),
                hint="they are outside the state dict: let the callable make these on the CPU",
            )
        return cls(state, computed, on_meta)


def _copy(
    module: torch.nn.Module, model: _Model, loaded: Mapping[str, Any], place: _Place
) -> Misfits:
    """Copy what fits; what does not. Modules may know what an old state dict called their tensors:
    torch asks them."""
    misshapen = {**dict(_misshapen(model, loaded)), **dict(_contradictions(model, loaded))}
    misshapen.update(_computed_otherwise(model, loaded))
    missing, surplus = list(model.state), [name for name in loaded if name not in model.state]
    try:
        missing, surplus = module.load_state_dict(dict(loaded), strict=False)
    except RuntimeError as error:  # a shape, or a copy that a tensor subclass refuses
        if not misshapen:
            raise place.error("cannot be loaded into the model", cause=str(error)) from error
    lacking = [
        name
        for name in _lacking(model, loaded, missing)
        if not _fits(name, place.weights.ignore) or name in model.on_meta
    ]
    unknown = [name for name in surplus if name not in model.computed]
    return Misfits(model.state, loaded, lacking, unknown, misshapen)


def _misshapen(model: _Model, loaded: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in loaded.items():
        wanted = model.state.get(name)
        if not isinstance(wanted, torch.Tensor) or not isinstance(value, torch.Tensor):
            continue
        if wanted.shape != value.shape:
            yield name, f"the file has {list(value.shape)}, the model wants {list(wanted.shape)}"
        elif _kind(wanted.dtype) != _kind(value.dtype):
            yield name, f"the file has {_word(value.dtype)}, the model wants {_word(wanted.dtype)}"


def _contradictions(model: _Model, loaded: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names that share memory in the model, so that one of two values would be lost."""
    first: dict[Any, str] = {}
    for name, value in loaded.items():
        wanted = model.state.get(name)
        if not isinstance(wanted, torch.Tensor) or not isinstance(value, torch.Tensor):
            continue
        other = first.setdefault(_memory(wanted) or name, name)
        if (
            other != name
            and loaded[other].shape == value.shape
            and not _equal(loaded[other], value)
        ):
            yield (
                name,
                f"it is the same tensor as {other} in the model, and another one in the file",
            )


def _lacking(model: _Model, loaded: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The `names` that the file does not give."""
    given = {_memory(model.state[name]) for name in loaded if name in model.state}
    absent = [
        name for name in names if name not in loaded and not name.endswith(".num_batches_tracked")
    ]
    return [name for name in absent if _memory(model.state.get(name)) not in given - {None}]


def _computed_otherwise(model: _Model, loaded: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Buffers outside the state dict, such as positions, that old files have all the same. With the
    model's own values they may be passed over."""
    for name, own in model.computed.items():
        value = loaded.get(name)
        same = (
            isinstance(value, torch.Tensor)
            and own.shape == value.shape
            and _equal(own.to(value.dtype), value)
        )
        if name in loaded and not same:
            yield name, "the model computes this buffer itself, and not to the file's values"


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one shape have the same values; torch compares neither sparse ones nor
    those on meta."""
    comparable = all(value.layout == torch.strided and not value.is_meta for value in (one, other))
    return comparable and torch.equal(one, other)


def _memory(value: Any) -> tuple[Any, ...] | None:
    """What two names of one tensor have in common; None where there is nothing to share."""
    if (
        not isinstance(value, torch.Tensor)
        or hasattr(value, "__tensor_flatten__")
        or not value.numel()
    ):
        return None
    return (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)


def _kind(dtype: torch.dtype) -> str:
    """Dtypes that are converted into each other: a cast to another kind would change what the
    values mean."""
    if dtype.is_complex:
        return "complex"
    return "floating" if dtype.is_floating_point else "integer"


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _say_conversions(model: _Model, loaded: Mapping[str, Any]) -> None:
    """Into the log."""
    counts: dict[str, int] = {}
    for name, value in loaded.items():
        wanted = model.state.get(name)
        if (
            isinstance(wanted, torch.Tensor)
            and isinstance(value, torch.Tensor)
            and wanted.dtype != value.dtype
        ):
            pair = f"{_word(value.dtype)} to {_word(wanted.dtype)}"
            counts[pair] = counts.get(pair, 0) + 1
    for pair, count in counts.items():
        print(f"weights: {count} tensors converted from {pair}", file=sys.stderr)


# Names


def _named(state: Mapping[str, Any], place: _Place, model: _Model) -> dict[str, Any]:
    """The state by the model's names: after `prefix`, the marks of wrappers and `rename`."""
    prefix = place.weights.prefix or ""
    names = {name: name[len(prefix) :] for name in state if name.startswith(prefix)}
    if not names:
        tops = sorted({name.partition(".")[0] + "." for name in state})
        begin = f"they begin with {', '.join(tops[:_SHOWN])}" if tops else "it has no tensors"
        raise place.error(f"has no name that begins with {prefix!r}", cause=begin)
    names = _without_marks(names, model)
    named: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for old, name in names.items():
        new = renamed(name, place.weights.rename)
        if new in named:
            cause = f"{origin[new]} and {old} both become {new}"
            raise place.error("has two tensors for one name of the model", cause=cause)
        named[new], origin[new] = state[old], old
    return named


def _without_marks(names: Mapping[str, str], model: _Model) -> dict[str, str]:
    """Without what a wrapper of the whole model put in front of every name, unless the model has
    such names."""

    def strip(name: str) -> str:
        return ".".join(part for part in name.split(".") if part + "." != _COMPILED)

    found = dict(names)
    if not any(_COMPILED in name for name in model.state):
        found = {old: strip(name) for old, name in found.items()}
    if any(name.startswith(_PARALLEL) for name in model.state):
        return found
    if all(name.startswith(_PARALLEL) for name in found.values()):
        found = {old: name.removeprefix(_PARALLEL) for old, name in found.items()}
    return found


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


# Files


def _read(place: _Place, root: Path) -> Any:
    """What is in the file, mapped; of an index, the tensors of all shards."""
    path = path_of(place.weights.file, root)
    if not path.endswith(INDEX_SUFFIXES):
        return _read_file(path, place)
    try:
        shards = shards_of(path)
    except (OSError, ValueError) as error:
        raise place.error(
            "is no index of shards", cause=str(error), hint="is the file complete?"
        ) from error
    state: dict[str, Any] = {}
    for shard in shards:
        found = _read_file(os.path.join(os.path.dirname(path), shard), place)
        if not isinstance(found, Mapping):
            raise place.error(f"names {shard}, which is no state dict")
        for name in state.keys() & found.keys():
            if not _is_same(state[name], found[name]):
                cause = f"{shard} and a shard before it have other values of it"
                raise place.error(
                    f"has {name} twice", cause=cause, hint="are all shards of one checkpoint?"
                )
        state.update(found)
    return state


def _is_same(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return one is other
    return one.shape == other.shape and one.dtype == other.dtype and _equal(one, other)


def _read_file(path: str, place: _Place) -> Any:
    try:
        require_regular(path)
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        # The format before 2020 is no zip file, and cannot be mapped.
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # safetensors and torch raise types of their own for a bad file
        cause, hint = _why_unreadable(error)
        name = os.path.basename(path)
        raise UsageError(
            f"{name} cannot be read as weights", where=place.where, cause=cause, hint=hint
        ) from error


def _why_unreadable(error: Exception) -> tuple[str, str]:
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and (refused := _REFUSED_GLOBAL.search(text)):
        cause = f"it holds an object of {refused[1]}, and reading such an object can run code"
        return (
            cause,
            (
                "where you trust the file, save its state dict alone:"
                " torch.save(model.state_dict(), path)"
            ),
        )
    last = next(iter(text.strip().splitlines()), "")
    return (
        f"{type(error).__name__}: {last}",
        (
            "is the file complete? .pt files must hold plain tensors: they are read with"
            " weights_only=True"
        ),
    )


def _tensors(document: Any, place: _Place, model: _Model) -> Mapping[str, Any]:
    """The state dict in what was read: at `key`, or all of it."""
    key = place.weights.key
    found = document if key is None else _at(document, key)
    if found is not None and _is_state(found):
        return found  # type: ignore[no-any-return]
    candidates = sorted(_candidates(document, model), key=lambda candidate: -candidate[1])
    what = f"is not a state_dict of tensors{f' at {key!r}' if key else ''}"
    entries = list(document.items()) if isinstance(document, Mapping) else []
    more = ", ..." if entries[_SHOWN:] else ""
    holds = f"it holds: {', '.join(map(_describe, entries[:_SHOWN]))}{more}" if entries else None
    if not candidates:
        hint = "save it with torch.save(model.state_dict(), path), or as .safetensors"
        raise place.error(what, cause=holds or f"it holds a {type(document).__name__}", hint=hint)
    if candidates[0][0] is None:
        raise place.error(
            f"has no {key!r}", cause=holds, hint="the file is a state dict itself: leave `key` out"
        )
    lines = [
        f"write `key: {name}` ({count} of the model's {len(model.state)} names)"
        for name, count in candidates
    ]
    raise place.error(what, cause=holds, hint="\n  or ".join(lines[:_SHOWN]))


def _at(document: Any, key: str) -> Any:
    """What stands at a dotted key, in which a key of one mapping may itself have dots. None if
    nothing does."""
    if not isinstance(document, Mapping):
        return None
    if key in document:
        return document[key]
    parts = key.split(".")
    heads = [".".join(parts[:count]) for count in range(1, len(parts))]
    found = (_at(document[head], key[len(head) + 1 :]) for head in heads if head in document)
    return next((value for value in found if value is not None), None)


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and (isinstance(inner, torch.Tensor) or name.endswith(_EXTRA_STATE))
        for name, inner in value.items()
    )


def _candidates(
    value: Any, model: _Model, path: str = "", deep: int = 0
) -> Iterator[tuple[str | None, int]]:
    """Where in a checkpoint a state dict may be, with how many of the model's names it has,
    whatever is in front of them. An optimiser's state has none."""
    if not isinstance(value, Mapping) or deep > _DEEPEST:
        return
    if _is_state(value):
        ends = {name[index + 1 :] for name in value for index in (-1, *_dots(name))}
        if count := len(ends & model.state.keys()):
            yield path or None, count
        return
    for name, inner in value.items():
        yield from _candidates(inner, model, f"{path}.{name}" if path else str(name), deep + 1)


def _dots(name: str) -> list[int]:
    return [index for index, character in enumerate(name) if character == "."]


def _describe(entry: tuple[Any, Any]) -> str:
    name, value = entry
    if isinstance(value, Mapping):
        return f"{name} (a mapping of {len(value)})"
    return f"{name} (a {type(value).__name__})"


def _off_meta(module: torch.nn.Module) -> frozenset[str]:
    """Make what is on the meta device on the CPU, as zeros; the names. One tensor under two names
    stays one."""
    named = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    values = {id(value): value for _, value in named if value.is_meta}
    made = {key: _zeros(value) for key, value in values.items()}
    for part in module.modules():
        for table in (part._parameters, part._buffers):
            table.update(
                {name: made[id(value)] for name, value in table.items() if id(value) in made}
            )
    return frozenset(name for name, value in named if id(value) in values)


def _zeros(value: torch.Tensor) -> Any:
    # BatchNorm's count of batches stays so where a file has none.
    zeros = torch.zeros_like(value, device="cpu")
    return (
        torch.nn.Parameter(zeros, requires_grad=False)
        if isinstance(value, torch.nn.Parameter)
        else zeros
    )
