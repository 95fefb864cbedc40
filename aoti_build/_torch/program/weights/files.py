"""Reading files of weights, and finding the state dict in a checkpoint.

A file is mapped into memory where its format allows that. Its weights are copied into the module
tensor by tensor, so they are in memory only once.
"""

from __future__ import annotations

import os.path
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aoti_build._torch.program.weights.model_state import ModelState, State, have_equal_values
from aoti_build._torch.program.weights.names import REMOVED_PREFIXES
from aoti_build._torch.program.weights.source import WeightsSource
from aoti_build.common.reading import require_regular
from aoti_build.errors import UsageError
from aoti_build.models_file.rules import INDEX_SUFFIXES
from aoti_build.models_file.weights import path_of, shards_of

# The end of a name under which nn.Module.get_extra_state stores data of any type.
_EXTRA_STATE = "_extra_state"
# Mappings inside mappings of a checkpoint that are searched for a state dict.
_MAX_DEPTH = 4
_ENTRIES_SHOWN = 8
# The message of torch/_weights_only_unpickler.py for an object that weights_only=True refuses.
_REFUSED_GLOBAL = re.compile(r"Unsupported global: GLOBAL (\S+)")


def read_weights(source: WeightsSource, root: Path) -> Any:
    """The content of the file, mapped into memory; for an index, the tensors of all its shards.

    Raises:
        UsageError: A file cannot be read, or two shards have different values for one name.
    """
    path = path_of(source.weights.file, root)
    if not path.endswith(INDEX_SUFFIXES):
        return _read_file(path, source)
    try:
        shards = shards_of(path)
    except (OSError, ValueError) as error:
        raise source.error(
            "is not an index of shards",
            cause=str(error),
            hint="check that the file is complete",
        ) from error
    state: dict[str, Any] = {}
    for shard in shards:
        _add_shard(state, shard, os.path.dirname(path), source)
    return state


def _add_shard(state: dict[str, Any], shard: str, directory: str, source: WeightsSource) -> None:
    content = _read_file(os.path.join(directory, shard), source)
    if not isinstance(content, Mapping):
        raise source.error(f"names {shard}, which is not a state dict")
    for name in state.keys() & content.keys():
        if not _is_same(state[name], content[name]):
            raise source.error(
                f"has {name} twice",
                cause=f"{shard} and an earlier shard have different values for it",
                hint="check that all shards are from one checkpoint",
            )
    state.update(content)


def _is_same(first: Any, second: Any) -> bool:
    if not isinstance(first, torch.Tensor) or not isinstance(second, torch.Tensor):
        return first is second
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return have_equal_values(first, second)


def _read_file(path: str, source: WeightsSource) -> Any:
    try:
        require_regular(path)
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        # torch.save wrote no zip files before 2020, and torch.load maps zip files only.
        can_be_mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=can_be_mapped)
    except Exception as error:  # safetensors and torch raise types of their own for a bad file
        cause, hint = _explain_unreadable(path, error)
        raise UsageError(
            f"{os.path.basename(path)} cannot be read as weights",
            where=source.where,
            cause=cause,
            hint=hint,
        ) from error


class _Explanation(NamedTuple):
    cause: str
    hint: str


# The first line of the file that Git LFS checks out in the place of a large one.
_LFS_POINTER = b"version https://git-lfs."


def _explain_unreadable(path: str, error: Exception) -> _Explanation:
    text = str(error)
    if _begins_with(path, _LFS_POINTER):
        return _Explanation("it is a pointer of Git LFS, without the content", "run `git lfs pull`")
    if isinstance(error, pickle.UnpicklingError):
        refused = _REFUSED_GLOBAL.search(text)
        if refused:
            return _Explanation(
                f"it holds an object of {refused[1]}, and reading such an object can run code",
                "if you trust the file, load it yourself and save its state dict alone:"
                " torch.save(model.state_dict(), path)",
            )
    lines = text.strip().splitlines()
    first_line = lines[0] if lines else ""
    return _Explanation(
        f"{type(error).__name__}: {first_line}",
        "check that the file is complete; .pt files must hold plain tensors, because they are read"
        " with weights_only=True",
    )


def _begins_with(path: str, start: bytes) -> bool:
    try:
        require_regular(path)
        with open(path, "rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False


def find_state_dict(document: Any, source: WeightsSource, model: ModelState) -> State:
    """The state dict in the content of a file: the entry at `key`, or all of the content.

    Raises:
        UsageError: There is no state dict. The hint names the keys at which there are some.
    """
    key = source.weights.key
    content = document if key is None else _entry_at(document, key)
    if content is not None and _is_state_dict(content):
        state: State = content
        return state
    raise _no_state_dict(document, source, model)


def _no_state_dict(document: Any, source: WeightsSource, model: ModelState) -> UsageError:
    key = source.weights.key
    content = _describe_document(document)
    candidates = list(_candidates(document, model))
    candidates.sort(key=lambda candidate: candidate.matching_names, reverse=True)
    if candidates and candidates[0].key is None:
        return source.error(
            f"has no {key!r}",
            cause=content,
            hint="the file is a state dict itself: leave `key` out",
        )
    if candidates:
        lines = []
        for candidate in candidates[:_ENTRIES_SHOWN]:
            count = f"{candidate.matching_names} of the model's {len(model.state)} names"
            prefix = f' and `prefix: "{candidate.prefix}"`' if candidate.prefix else ""
            lines.append(f"write `key: {candidate.key}`{prefix} ({count})")
        hint = "\n  or ".join(lines)
    else:
        hint = "save it with torch.save(model.state_dict(), path), or as .safetensors"
    position = f" at {key!r}" if key else ""
    return source.error(f"is not a state_dict of tensors{position}", cause=content, hint=hint)


def _describe_document(document: Any) -> str:
    entries = list(document.items()) if isinstance(document, Mapping) else []
    if not entries:
        return f"it holds a {type(document).__name__}"
    descriptions = []
    for name, value in entries[:_ENTRIES_SHOWN]:
        if isinstance(value, Mapping):
            descriptions.append(f"{name} (a mapping of {len(value)})")
        else:
            descriptions.append(f"{name} (a {type(value).__name__})")
    if len(entries) > _ENTRIES_SHOWN:
        descriptions.append("...")
    return f"it holds: {', '.join(descriptions)}"


def _entry_at(document: Any, key: str) -> Any:
    """The entry at a dotted key; None if there is none.

    A key of one mapping may itself have dots, so every prefix of `key` is tried.
    """
    if not isinstance(document, Mapping):
        return None
    if key in document:
        return document[key]
    for dot in _dots(key):
        head, rest = key[:dot], key[dot + 1 :]
        if head in document:
            entry = _entry_at(document[head], rest)
            if entry is not None:
                return entry
    return None


def _is_state_dict(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    for name, entry in value.items():
        if not isinstance(name, str):
            return False
        if not isinstance(entry, torch.Tensor) and not name.endswith(_EXTRA_STATE):
            return False
    return True


class _Candidate(NamedTuple):
    """A state dict in a checkpoint: its dotted key (None for the whole file), how many of the
    model's names it has, and what stands before all of them."""

    key: str | None
    matching_names: int
    prefix: str = ""


def _candidates(
    value: Any,
    model: ModelState,
    path: str = "",
    depth: int = 0,
) -> Iterator[_Candidate]:
    """State dicts in a checkpoint that have names of the model, whatever prefix these have.

    The state of an optimiser has no such name.
    """
    if not isinstance(value, Mapping) or depth > _MAX_DEPTH:
        return
    if _is_state_dict(value):
        endings = set()
        for name in value:
            endings.add(name)
            endings.update(name[dot + 1 :] for dot in _dots(name))
        matching_names = len(endings & model.state.keys())
        if matching_names:
            yield _Candidate(path or None, matching_names, _prefix(value, model))
        return
    for name, entry in value.items():
        inner_path = f"{path}.{name}" if path else str(name)
        yield from _candidates(entry, model, inner_path, depth + 1)


def _prefix(state: State, model: ModelState) -> str:
    """What stands in `state` before every name of the model that it has; empty if it differs."""
    prefixes = set()
    for name in state:
        for start in (0, *(dot + 1 for dot in _dots(name))):
            if name[start:] in model.state:
                prefixes.add(name[:start])
                break
    prefix = prefixes.pop() if len(prefixes) == 1 else ""
    return "" if prefix in REMOVED_PREFIXES else prefix


def _dots(name: str) -> list[int]:
    """The positions of the dots in a name."""
    return [index for index, character in enumerate(name) if character == "."]
