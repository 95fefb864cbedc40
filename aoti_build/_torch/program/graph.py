"""The graph key: a digest of an exported program that sees everything compiled code depends on, and
nothing else.

torch's own serialiser gives plain data with shapes, aliasing and argument order. Every ``metadata``
in it (stack traces, names from source) is dropped, so a comment or a renamed local does not change
the key. Values of weights are not in it; values of lifted constants are, as digests.

Two simpler keys would not be safe: `canonicalize` reorders nodes past in-place writes, and
`graph_module.code` has no shapes. A graph that the serialiser refuses is described by a walk over
it (`aoti_build._torch.program.walk`).
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
from aoti_build._torch.program.tensors import is_subclass, layout_of, tensor_digest
from aoti_build._torch.program.walk import program_as_json
from aoti_build.common.digests import digest_json
from aoti_build.common.json_object import JsonObject

# None is the namespace of placeholders, outputs and Python's own arithmetic on sizes.
_TORCH_NAMESPACES = frozenset({None, "aten", "prim", "prims", "higher_order"})
# The version of an installed library identifies its operators.
_LIBRARY = "torchao"
_IDENTIFIED_NAMESPACES = _TORCH_NAMESPACES | NAMESPACES
# inductor's tables that user code can add functions to, by their modules.
_REGISTRIES = (
    ("torch._inductor.decomposition", "decompositions"),
    ("torch._inductor.lowering", "lowerings"),
)
# torch's message can contain the whole graph.
_MAX_LOGGED_CHARACTERS = 1000


def graph_digest(program: ExportedProgram) -> str:
    """Digest of the program's graph, signature, ranges, layouts of its state and values of its
    lifted constants.

    Raises:
        UnknownPart: Neither torch's serialiser nor a walk over the graph can describe it.
    """
    try:
        with _graph_alone(), _with_bools():
            serialized = ExportedProgramSerializer().serialize(program)
            described = _plain(serialized.exported_program)
    except Exception as error:  # SerializeError, and those of the functions that it calls
        message = f"torch does not serialise this graph: {error}"
        print(message[:_MAX_LOGGED_CHARACTERS], file=sys.stderr)
        described = program_as_json(program, tensor_digest)
    return digest_json(
        {
            "program": described,
            "state": {name: layout_of(value) for name, value in program.state_dict.items()},
            "tied": _tied(program.state_dict),
            "constants": {name: tensor_digest(value) for name, value in program.constants.items()},
        }
    )


def call_targets(program: ExportedProgram) -> Iterator[Any]:
    """The targets of all nodes of the graph, and of the graphs inside it."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                yield node.target


def uses_own_code(program: ExportedProgram) -> bool:
    """Whether the compile runs code that the graph only names.

    Such code is the Python implementation of an operator from outside torch, which is traced into
    the compiled code, or a decomposition or lowering that user code registered with inductor.
    """
    for target in call_targets(program):
        if getattr(target, "namespace", None) not in _IDENTIFIED_NAMESPACES:
            return True
    for module, table in _REGISTRIES:
        registered: Mapping[Any, Any] = getattr(sys.modules.get(module), table, {})
        if any(_is_foreign(function) for function in registered.values()):
            return True
    return False


def _is_foreign(function: Any) -> bool:
    """Whether a registered function is neither torch's nor the library's."""
    module = str(getattr(_unwrapped(function), "__module__", "torch"))
    return not module.startswith(("torch.", f"{_LIBRARY}."))


def _unwrapped(function: Any) -> Any:
    """The function inside partial applications, which belong to functools, and inside torch's own
    wrappers of registered functions."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            return function


def library_code(distributions: Mapping[str, Any]) -> JsonObject | None:
    """The identity of torchao's code that the compile may run, from the `distributions` used.

    None if torchao is imported but is not from a distribution: then no version identifies it.
    """
    if _LIBRARY not in sys.modules:
        return {}
    matches = {}
    for name, identity in distributions.items():
        if name.lower() == _LIBRARY:
            matches[name] = identity
    return {"distributions": matches} if matches else None


@contextlib.contextmanager
def _graph_alone() -> Iterator[None]:
    """Let the serialiser describe the graph and do nothing else.

    `ExportedProgramSerializer.serialize` in torch/_export/serde/serialize.py also writes all
    weights into memory, and makes a canonical form that it throws away. That takes half of its
    time.
    """
    with (
        mock.patch.object(serialize, "canonicalize", lambda program, constants=None: program),
        mock.patch.object(serialize, "serialize_torch_artifact", return_value=b""),
    ):
        yield


@contextlib.contextmanager
def _with_bools() -> Iterator[None]:
    """Let the serialiser take outputs that are bools and follow from sizes.

    `serialize_argument_spec` in torch/_export/serde/serialize.py takes ints and floats, and raises
    for bools (torch 2.14).
    """
    serializer = serialize.GraphModuleSerializer
    original = serializer.serialize_argument_spec

    def with_bools(self: Any, spec: Any) -> Any:
        if type(spec).__name__ != "SymBoolArgument":
            return original(self, spec)
        argument = serialize.SymBoolArgument.create(as_name=spec.name)
        return serialize.Argument.create(as_sym_bool=argument)

    with mock.patch.object(serializer, "serialize_argument_spec", with_bools):
        yield


def state_digest(program: ExportedProgram) -> str:
    """Digest of the values of all parameters and buffers, by name."""
    return digest_json({name: tensor_digest(value) for name, value in program.state_dict.items()})


def listed_weights(program: ExportedProgram) -> list[JsonObject]:
    """Every parameter, buffer and constant, for programs that exchange weights later.

    Each entry has name, kind, dtype, shape and device; `stride` if the tensor is not contiguous;
    `tied_to` with the first name of the same tensor; and `view` if it shares memory in another way,
    so that its values alone cannot be exchanged.
    """
    tensors: dict[str, torch.Tensor] = {}
    for name, value in {**program.state_dict, **program.constants}.items():
        if isinstance(value, torch.Tensor) and value.layout == torch.strided:
            tensors[name] = value
    owners: dict[int, str] = {}  # the first name of each storage, by its address
    listed = []
    for name, value in tensors.items():
        entry: JsonObject = {
            "name": name,
            "kind": _kind_of(name, program),
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "device": value.device.type,
        }
        if not value.is_contiguous():
            entry["stride"] = list(value.stride())
        # The same layout of the same memory is the same tensor; another layout is a view of it.
        owner = name
        if _has_storage(value):
            owner = owners.setdefault(value.untyped_storage().data_ptr(), name)
        if owner != name and layout_of(tensors[owner]) == layout_of(value):
            entry["tied_to"] = owner
        elif owner != name or _is_view(value):
            entry["view"] = True
        listed.append(entry)
    return listed


def _kind_of(name: str, program: ExportedProgram) -> str:
    if name in program.graph_signature.parameters:
        return "parameter"
    return "buffer" if name in program.state_dict else "constant"


def _is_view(value: torch.Tensor) -> bool:
    """Whether a tensor is not exactly its whole storage."""
    if is_subclass(value):
        return True
    return value.untyped_storage().nbytes() != value.numel() * value.element_size()


def _has_storage(value: torch.Tensor) -> bool:
    """Whether the address of a tensor's memory identifies it."""
    return bool(value.numel()) and value.layout == torch.strided and not is_subclass(value)


def _tied(state: Mapping[str, torch.Tensor]) -> list[list[str]]:
    """Groups of names that share memory: code compiled for tied weights is wrong for untied
    ones."""
    groups: dict[int, list[str]] = {}
    for name, value in state.items():
        if _has_storage(value):
            groups.setdefault(value.untyped_storage().data_ptr(), []).append(name)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)


def _plain(value: Any) -> Any:
    """Dataclasses, unions and enums of torch's schema as JSON, without metadata."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, _Union):
        return {str(value.type): _plain(value.value)}
    if dataclasses.is_dataclass(value):
        return _plain_fields(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    # JSON has no NaN and no infinity.
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str | int | bool) or value is None:
        return value
    return repr(value)


def _plain_fields(value: Any) -> JsonObject:
    plain = {}
    for field in dataclasses.fields(value):
        if field.name != "metadata":
            plain[field.name] = _plain(getattr(value, field.name))
    return plain
