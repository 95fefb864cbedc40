"""The graph key: a digest of an exported program that sees everything compiled code depends on, and
nothing else.

torch's own serialiser gives plain data with shapes, aliasing and argument order. From it every
``metadata`` (stack traces, names from source) is dropped, so a comment or a renamed local does not
change the key. Values of weights are not in it; values of lifted constants are, digested apart.
Neither `canonicalize` (it reorders nodes past in-place writes) nor `graph_module.code` (it has no
shapes) is a safe key. What the serialiser refuses is described by a walk over the graph (`walk`
beside this).
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import torch
from torch._export.serde import serialize
from torch._export.serde.serialize import ExportedProgramSerializer
from torch._export.serde.union import _Union
from torch.export import ExportedProgram

from aoti_build._torch.program.quantised import NAMESPACES
from aoti_build._torch.program.walk import walked
from aoti_build.common.digests import digest_bytes, digest_json
from aoti_build.errors import BuildError

# None: placeholders, outputs, Python's own arithmetic on sizes.
_TORCH_NAMESPACES = frozenset({None, "aten", "prim", "prims", "higher_order"})
# A library's operators are known by the version of it that is installed.
_LIBRARY, _KNOWN = "torchao", _TORCH_NAMESPACES | NAMESPACES


def graph_digest(program: ExportedProgram) -> str:
    """Digest of the program's graph, signature, ranges, layouts of its state and values of its
    lifted constants.

    Raises `UnknownPart` for a graph that neither torch's serialiser nor a walk over it takes.
    """
    try:
        with _graph_alone(), _with_bools():
            described = _plain(ExportedProgramSerializer().serialize(program).exported_program)
    except Exception as error:  # SerializeError, and whatever a part of it raises
        print(f"torch does not serialise this graph: {error}"[:1000], file=sys.stderr)
        described = walked(program, tensor_digest)
    return digest_json(
        {
            "program": described,
            "state": {name: _layout(value) for name, value in program.state_dict.items()},
            "tied": _tied(program.state_dict),
            "constants": {name: tensor_digest(value) for name, value in program.constants.items()},
        }
    )


def called(program: ExportedProgram) -> Iterator[Any]:
    """What the graph calls, and the graphs inside it."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            yield node.target


def uses_own_code(program: ExportedProgram) -> bool:
    """Whether the compile runs code that the graph only names.

    Operators from outside torch, whose Python implementation is traced into the code, or
    decompositions and lowerings that somebody registered with inductor.
    """
    if any(getattr(target, "namespace", None) not in _KNOWN for target in called(program)):
        return True
    tables = (
        ("torch._inductor.decomposition", "decompositions"),
        ("torch._inductor.lowering", "lowerings"),
    )
    registered = [getattr(sys.modules.get(module), table, {}) for module, table in tables]
    return any(
        not str(getattr(_plain_function(function), "__module__", "torch")).startswith(
            ("torch.", f"{_LIBRARY}.")
        )
        for table in registered
        for function in table.values()
    )


def _plain_function(function: Any) -> Any:
    """What a partial application, or what torch wraps around a registered function, calls: a
    partial application itself belongs to functools."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return function


def library_code(distributions: Mapping[str, Any]) -> dict[str, Any] | None:
    """What stands for code of torchao that the compile may run: of the `distributions` used, its
    own. None if it is imported and comes from no distribution, so that its version says nothing."""
    if _LIBRARY not in sys.modules:
        return {}
    found = {name: identity for name, identity in distributions.items() if name.lower() == _LIBRARY}
    return {"distributions": found} if found else None


@contextlib.contextmanager
def _graph_alone() -> Iterator[None]:
    """Keep the serialiser from what is not asked of it: to write all weights into memory beside the
    graph, and to end with a canonicalisation whose result it throws away and which takes half of
    its time."""
    with (
        mock.patch.object(serialize, "canonicalize", lambda program, constants=None: program),
        mock.patch.object(serialize, "serialize_torch_artifact", return_value=b""),
    ):
        yield


@contextlib.contextmanager
def _with_bools() -> Iterator[None]:
    """The serialiser knows outputs that are ints or floats by size, and gives up at bools (seen in
    2.14)."""
    serializer = serialize.GraphModuleSerializer
    original = serializer.serialize_argument_spec

    def with_bools(self: Any, spec: Any) -> Any:
        if type(spec).__name__ == "SymBoolArgument":
            return serialize.Argument.create(
                as_sym_bool=serialize.SymBoolArgument.create(as_name=spec.name)
            )
        return original(self, spec)

    with mock.patch.object(serializer, "serialize_argument_spec", with_bools):
        yield


def tensor_digest(value: Any) -> str:
    """Digest of a tensor's layout and bytes; of a subclass, of what it consists of; of anything
    else, its repr.

    Raises `BuildError` for a tensor whose values are not laid out with strides.
    """
    if not isinstance(value, torch.Tensor):
        return digest_bytes(repr(value).encode())
    if hasattr(value, "__tensor_flatten__"):
        names, context = value.__tensor_flatten__()
        inner = {name: tensor_digest(getattr(value, name)) for name in names}
        return digest_json(
            {
                "type": f"{type(value).__module__}.{type(value).__qualname__}",
                "context": repr(context),
                **inner,
            }
        )
    if value.layout != torch.strided:
        raise BuildError(
            f"a weight or constant of the model is a {str(value.layout).removeprefix('torch.')}"
            " tensor",
            hint=(
                "AOTInductor compiles dense tensors: convert it with .to_dense() in the model's"
                " factory"
            ),
        )
    raw = value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    content = raw.view(torch.uint8).numpy().data if value.numel() else b""
    return digest_json({"layout": _layout(value), "bytes": digest_bytes(content)})


def state_digest(program: ExportedProgram) -> str:
    """Digest of the values of all parameters and buffers, by name."""
    return digest_json({name: tensor_digest(value) for name, value in program.state_dict.items()})


def listed_weights(program: ExportedProgram) -> list[dict[str, Any]]:
    """Every parameter, buffer and constant by name, for whoever exchanges weights later: dtype,
    shape, device; the strides where they are not the usual ones; the first name of the same tensor;
    and whether it is a `view`, sharing its memory in another way, so that its values alone cannot
    be exchanged."""
    signature = program.graph_signature
    values = {**program.state_dict, **program.constants}
    tensors = {
        n: v for n, v in values.items() if isinstance(v, torch.Tensor) and v.layout == torch.strided
    }
    first: dict[int, str] = {}
    listed = []
    for name, value in tensors.items():
        if name in signature.parameters:
            kind = "parameter"
        elif name in program.state_dict:
            kind = "buffer"
        else:
            kind = "constant"
        entry: dict[str, Any] = {
            "name": name,
            "kind": kind,
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "device": value.device.type,
        }
        if not value.is_contiguous():
            entry["stride"] = list(value.stride())
        subclass = hasattr(value, "__tensor_flatten__")
        owner = (
            name
            if subclass or not value.numel()
            else first.setdefault(value.untyped_storage().data_ptr(), name)
        )
        if owner != name and _layout(tensors[owner]) == _layout(value):
            entry["tied_to"] = owner
        elif (
            owner != name
            or subclass
            or value.untyped_storage().nbytes() != value.numel() * value.element_size()
        ):
            entry["view"] = True
        listed.append(entry)
    return listed


def _layout(value: torch.Tensor) -> list[Any]:
    """What code and the weights blob see of a tensor without its values."""
    if value.layout != torch.strided or hasattr(value, "__tensor_flatten__"):
        return [
            str(type(value)),
            str(value.dtype),
            list(value.shape),
            str(value.layout),
            value.device.type,
        ]
    storage = value.untyped_storage().nbytes()
    return [
        str(value.dtype),
        list(value.shape),
        list(value.stride()),
        value.storage_offset(),
        storage,
        value.device.type,
    ]


def _tied(state: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Groups of names that share memory: code compiled for tied weights is wrong for untied
    ones."""
    groups: dict[int, list[str]] = {}
    for name, value in state.items():
        if (
            value.numel()
            and value.layout == torch.strided
            and not hasattr(value, "__tensor_flatten__")
        ):
            groups.setdefault(value.untyped_storage().data_ptr(), []).append(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def _plain(value: Any) -> Any:
    """Dataclasses, unions and enums of torch's schema as JSON, without metadata. Floats as text:
    JSON has no NaN."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, _Union):
        return {str(value.type): _plain(value.value)}
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: _plain(inner) for name, inner in fields.items() if name != "metadata"}
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str | int | bool) or value is None:
        return value
    return repr(value)
