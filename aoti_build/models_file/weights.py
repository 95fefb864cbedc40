"""Which files the weights of a model are: one, or an index and the shards that it names."""

from __future__ import annotations

import os.path
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aoti_build.common.fields import loads
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.models_file.project import Weights
from aoti_build.models_file.rules import INDEX_SUFFIXES


def weights_files(weights: Weights, root: Path) -> dict[str, str]:
    """Every file that is read for `weights`, by its name in keys and manifests -> its path.

    A name is what models.yaml says, also outside the project: `/models/w.pt`, `~/w.pt` and
    `../w.pt` stay so. Shards are named like the index beside which they lie. An index that is
    absent or broken stands alone: whoever loads the weights says what is wrong with it.
    """
    names = [weights.file]
    if weights.file.endswith(INDEX_SUFFIXES):
        try:
            shards = shards_of(path_of(weights.file, root))
        except (OSError, ValueError):
            shards = []
        names += [posixpath.join(posixpath.dirname(weights.file), shard) for shard in shards]
    return {name: path_of(name, root) for name in names}


def path_of(name: str, root: Path) -> str:
    """The absolute path of a file that models.yaml names."""
    return os.path.join(root, os.path.expanduser(name))


def shards_of(index: str) -> list[str]:
    """The files that hold the tensors of a sharded checkpoint, in order (Hugging Face's
    ``weight_map``).

    Raises OSError or ValueError, also for one that does not lie beside the index.
    """
    document: Any = loads(read_bytes(index, RECORD_LIMIT))
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError("it has no weight_map")
    shards = sorted({str(shard) for shard in weight_map.values()})
    for shard in shards:
        if "/" in shard or "\0" in shard or shard in ("", ".", ".."):
            raise ValueError(f"it names {shard!r}, which is no file beside it")
    return shards


def renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """The name after the first rule that fits it: a beginning, or a whole name with * for any
    text."""
    for old, new in rules:
        if "*" not in old:
            if name.startswith(old):
                return new + name[len(old) :]
        elif match := re.fullmatch("(.*)".join(map(re.escape, old.split("*"))), name):
            return "".join(map(str.__add__, new.split("*"), (*match.groups(), "")))
    return name
