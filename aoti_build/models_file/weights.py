"""The files that hold the weights of a model: one file, or an index and its shards."""

from __future__ import annotations

import os.path
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from aoti_build.common.fields import loads
from aoti_build.common.reading import RECORD_LIMIT, read_bytes
from aoti_build.models_file.project import Weights
from aoti_build.models_file.rules import INDEX_SUFFIXES


def weights_files(weights: Weights, root: Path) -> dict[str, str]:
    """Map the name of each file that is read for `weights` to its absolute path.

    Keys and manifests contain the names. A name is the text in models.yaml, even for a file outside
    the project: `/models/w.pt`, `~/w.pt` or `../w.pt`. The name of a shard has the directory of the
    index in front of it. If the index is absent or damaged, it is the only file. The worker that
    loads the weights then reports the reason.
    """
    names = [weights.file]
    if weights.file.endswith(INDEX_SUFFIXES):
        directory = posixpath.dirname(weights.file)
        try:
            shards = shards_of(path_of(weights.file, root))
        except (OSError, ValueError):
            shards = []
        names += [posixpath.join(directory, shard) for shard in shards]
    return {name: path_of(name, root) for name in names}


def path_of(name: str, root: Path) -> str:
    """Return the absolute path of a file that models.yaml names. `root` is its directory."""
    return os.path.join(root, os.path.expanduser(name))


def shards_of(index: str) -> list[str]:
    """Return the sorted file names of a sharded checkpoint.

    `index` is the path of an index file in the format of Hugging Face, with a ``weight_map``.

    Raises:
        OSError: the index cannot be read.
        ValueError: the index is damaged, or names a shard outside its own directory.
    """
    document = loads(read_bytes(index, RECORD_LIMIT))
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError("it has no weight_map")
    names = {str(shard) for shard in weight_map.values()}
    shards = sorted(names)
    for shard in shards:
        if "/" in shard or "\0" in shard or shard in ("", ".", ".."):
            raise ValueError(f"it names {shard!r}, which is not a file in the same directory")
    return shards


def renamed(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """Return the name after the first rule that matches it, or the name itself.

    A rule is a pair (old, new). Without a * it replaces the beginning of a name. With a * it
    replaces the entire name, and each * of `new` stands for what the same * of `old` matched.
    """
    for old, new in rules:
        if "*" not in old:
            if name.startswith(old):
                return new + name.removeprefix(old)
            continue
        match = _match_wildcards(old, name)
        if match is not None:
            return _fill_wildcards(new, match.groups())
    return name


def _match_wildcards(pattern: str, name: str) -> re.Match[str] | None:
    literal_parts = [re.escape(part) for part in pattern.split("*")]
    return re.fullmatch("(.*)".join(literal_parts), name)


def _fill_wildcards(pattern: str, texts: Iterable[str]) -> str:
    # The rules of models.yaml ensure that the pattern has one * for each text.
    result, *later_parts = pattern.split("*")
    for text, part in zip(texts, later_parts, strict=True):
        result += text + part
    return result
