"""The texts of the files that `init` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from aoti_build.commands.init.look import Tensor

_OTHER_SCALARS = frozenset({"true", "false", "null", ".inf", ".nan"})
SCHEMA_FILE = "models.schema.json"

_MORE = """\
    # More keys:
    # kwargs: {}                      # arguments of the callable in source
    # weights: weights.safetensors    # trained weights; random ones from a seed without it
    # dims: {batch: {min: 1, max: 32, example: 4}}   # then write [batch, ...] in a shape
    # devices: [cpu, cuda]
"""
_CONFIGURE = """\
{collection}.configure({{"aoti_build": {{"file": {file}}}}})
"""


def models_text(
    *,
    name: str,
    source: str,
    source_note: str,
    tensors: Sequence[Tensor],
    inputs_note: str,
    required: Sequence[str] = (),
    devices: Sequence[str] = (),
    root: str = ".",
    python_path: Sequence[str] = (".",),
) -> str:
    """The text of models.yaml."""
    lines = [f"# yaml-language-server: $schema={SCHEMA_FILE}", "version: 1"]
    if root != ".":
        lines.append(f"root: {_text(root)}  # all paths begin here, and the model's code runs here")
    if tuple(python_path) != (".",):
        entries = ", ".join(map(_text, python_path))
        lines.append(f"python_path: [{entries}]  # modules are imported from here")
    lines += ["models:", f"  {_text(name)}:", f"    source: {_text(source)}  # {source_note}"]
    if required:
        arguments = ", ".join(f"{argument}: 1" for argument in required)
        lines.append(f"    kwargs: {{{arguments}}}  # these have no default; write their values")
    lines.append(f"    inputs:  # {inputs_note}")
    lines += [f"      - {_tensor(tensor)}" for tensor in tensors]
    if devices:
        lines.append(f"    devices: [{', '.join(map(_text, devices))}]")
    return "\n".join(lines) + "\n" + _MORE


def tasks_text(file: str | None) -> str:
    """The text of tasks.py. `file` is the path of models.yaml if it is not next to it."""
    text = "from aoti_build.tasks import ns\n"
    if file is not None:
        text += "\n" + _CONFIGURE.format(collection="ns", file=json.dumps(file))
    return text


def added_lines(file: str | None, *, has_namespace: bool) -> list[str]:
    """The lines to add to a tasks.py that has other tasks."""
    if has_namespace:
        lines = ["from aoti_build.tasks import ns as aoti", 'ns.add_collection(aoti, name="aoti")']
    else:
        # Without a namespace of its own, invoke takes every task of the module.
        lines = [
            "import sys",
            "from invoke import Collection",
            "from aoti_build.tasks import ns as aoti",
            "ns = Collection.from_module(sys.modules[__name__])",
            'ns.add_collection(aoti, name="aoti")',
        ]
    if file is not None:
        lines += _CONFIGURE.format(collection="aoti", file=json.dumps(file)).splitlines()
    return lines


def _tensor(tensor: Tensor) -> str:
    shape = ", ".join(map(str, tensor.shape))
    fields = [f"shape: [{shape}]"]
    if tensor.dtype != "float32":
        fields.append(f"dtype: {_text(tensor.dtype)}")
    if tensor.high is not None:
        fields.append(f"high: {tensor.high}")
    return "{" + ", ".join(fields) + "}"


def _text(text: str) -> str:
    """A text as YAML: in quotes unless it is certainly a plain one."""
    is_plain = re.fullmatch(r"[A-Za-z.][A-Za-z0-9._/:-]*", text) is not None
    # A word such as `yes` or `null` has another meaning.
    if is_plain and not text.endswith(":") and text.lower() not in _OTHER_SCALARS:
        return text
    return json.dumps(text)
