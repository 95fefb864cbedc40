"""The names of a call's arguments and results, from the pytrees that inductor serialises.

The text is that of torch.utils._pytree.treespec_dumps. It may come from anyone, so its size, its
depth and the length of names are limited.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_LARGEST_SPEC = 4 << 20  # characters
_LONGEST_PATH = 1024  # characters; real paths have few
_FORMAT_VERSION = 1


def argument_names(spec: str | None) -> list[str] | None:
    """The names of the leaves of a call, such as ``args[0]`` or ``mask``.

    A call is a tuple of positional arguments and a dict of keyword arguments. None if the spec is
    not understood.
    """
    try:
        tree = _load(spec)
        if tree is None:
            return None
        positional, keyword = tree["children_spec"]
        names = list(_leaves(positional, "args"))
        keys = json.loads(keyword["context"])
        for key, child in zip(keys, keyword["children_spec"], strict=True):
            names += _leaves(child, str(key))
        return names
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def result_names(spec: str | None) -> list[str] | None:
    """The names of the leaves of a result, such as ``['pooled']['mean']``.

    A single tensor is called ``output``. None if the spec is not understood.
    """
    try:
        tree = _load(spec)
        if tree is None:
            return None
        return [path or "output" for path in _leaves(tree, "")]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _load(spec: str | None) -> Any:
    """The tree in a spec; None if there is none, it is too large, or of another version."""
    if spec is None or len(spec) > _LARGEST_SPEC:
        return None
    version, tree = json.loads(spec)
    return tree if version == _FORMAT_VERSION else None


def _leaves(root: Any, root_path: str) -> Iterator[str]:
    """The paths of the leaves of a tree in order."""
    # A stack and no recursion, so that a deep leaf costs no more than others.
    stack = [(root, root_path)]
    while stack:
        node, path = stack.pop()
        children = node["children_spec"]
        if node["type"] is None:
            yield path
            continue
        keys: list[Any] = list(range(len(children)))
        if node["type"] in ("builtins.dict", "collections.OrderedDict"):
            keys = json.loads(node["context"])
        named_children = []
        for key, child in zip(keys, children, strict=True):
            child_path = f"{path}[{key!r}]"
            if len(child_path) > _LONGEST_PATH:
                raise ValueError("a path is too long")
            named_children.append((child, child_path))
        stack += reversed(named_children)
