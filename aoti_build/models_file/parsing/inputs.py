"""Reads the entries `dims` and `inputs` of a model, and checks that they agree."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from aoti_build.common import sizes
from aoti_build.common.memory_formats import applied_format
from aoti_build.models_file import agreements, rules
from aoti_build.models_file.parsing import schema_inputs
from aoti_build.models_file.parsing.reader import DocumentReader
from aoti_build.models_file.parsing.yaml_document import FieldPath
from aoti_build.models_file.project import ConstantInput, Dim, Inputs, Source, TensorInput
from aoti_build.models_file.wording import did_you_mean, nearest, quoted

# Stands in for an invalid source.
SOURCE_STAND_IN = Source("stand_in", module="stand_in")


def read_source(reader: DocumentReader, path: FieldPath) -> Source:
    """Return the callable that the text at `path` names."""
    return reader.read_text(path, rules.parse_source) or SOURCE_STAND_IN


def read_dims(reader: DocumentReader, path: FieldPath) -> tuple[Dim, ...]:
    """Return the dims whose types are valid. Their sizes may still have problems."""
    dims = []
    for name in reader.keys(path):
        entry = reader.read(schema_inputs.Dim, (*path, name))
        if entry is None:
            continue
        reader.add_complaints((*path, name), agreements.dim_complaints(entry))
        dim = Dim(
            name=name,
            min=agreements.smallest_size(entry),
            max=entry.max,
            example=agreements.example_size(entry),
            multiple_of=entry.multiple_of,
        )
        dims.append(dim)
    return tuple(dims)


def read_inputs(reader: DocumentReader, path: FieldPath) -> Inputs | Source:
    """Return the valid inputs at `path`, or the callable that makes them."""
    data = reader.get_collection(path, [])
    if isinstance(data, str):
        return read_source(reader, path)
    inputs = []
    for key in _keys_or_indices(data):
        entry = _read_input(reader, (*path, key))
        if entry is not None:
            inputs.append(entry)
    return tuple(inputs)


def _keys_or_indices(data: dict[str, Any] | list[Any]) -> Iterable[str | int]:
    if isinstance(data, dict):
        return data
    return range(len(data))


def _read_input(reader: DocumentReader, path: FieldPath) -> TensorInput | ConstantInput | None:
    data = reader.get(path)
    if isinstance(data, dict) and "value" in data:
        return _read_constant(reader, path, data)
    return _read_tensor(reader, path)


def _input_name(path: FieldPath) -> str | None:
    """Return the keyword of an input, or None if it is positional."""
    key = path[-1]
    return key if isinstance(key, str) else None


def _read_constant(
    reader: DocumentReader, path: FieldPath, data: Mapping[str, Any]
) -> ConstantInput:
    entry = schema_inputs.ConstantInput.model_validate(data)
    for field, message in agreements.constant_complaints(entry):
        reader.add((*path, field), message, at_key=True)
        # The types of these fields are not checked, so nothing may read them.
        reader.broken.add((*path, field))
    value_path = (*path, "value")
    node = reader.document.at(value_path)
    # An explicit null has a position of its own.
    if node.data is None and node.value == node.key:
        reader.add(value_path, "'value' has no value; write null for None")
    reader.check_finite(data["value"], value_path)
    return ConstantInput(data["value"], _input_name(path))


def _read_tensor(reader: DocumentReader, path: FieldPath) -> TensorInput | None:
    entry = reader.read(schema_inputs.TensorInput, path)
    if entry is None:
        return None
    reader.add_complaints(path, agreements.range_complaints(entry))
    reader.add_complaints(path, agreements.format_complaints(entry))
    model_path = path[:2]
    dtype: str = entry.dtype
    if "dtype" not in entry.model_fields_set:
        dtype = reader.get((*model_path, "dtype")) or entry.dtype
    memory_format = entry.memory_format or reader.get((*model_path, "memory_format"))
    low, high = agreements.value_range(entry)
    return TensorInput(
        shape=tuple(entry.shape),
        dtype=dtype,
        name=_input_name(path),
        low=low,
        high=high,
        probability=entry.probability,
        memory_format=applied_format(memory_format, len(entry.shape)),
    )


def check_dims(
    reader: DocumentReader,
    model_path: FieldPath,
    inputs: Inputs | Source,
    dims: tuple[Dim, ...],
) -> None:
    """Check that shapes use declared dims, that every dim is used, and that the sizes are valid.

    `inputs` and `dims` are those that the functions above returned.
    """
    dims_path = (*model_path, "dims")
    inputs_path = (*model_path, "inputs")
    declared = dict.fromkeys(reader.keys(dims_path))
    valid_dims = {}
    for dim in dims:
        has_complaints = any(agreements.dim_complaints(dim))
        if not has_complaints:
            valid_dims[dim.name] = dim
    dynamic_sizes = []
    for path in _shape_entries(reader, inputs_path):
        text = reader.get(path)
        if isinstance(text, str):
            size = _parse_size(text, declared)
            dynamic_sizes.append(size)
            _check_size(reader, path, size, declared, valid_dims)
    # A callable may use any dim, and so may an invalid input.
    if isinstance(inputs, tuple) and reader.is_sound_throughout(inputs_path):
        _check_dims_are_determined(reader, dims_path, declared, dynamic_sizes)


def _shape_entries(reader: DocumentReader, inputs_path: FieldPath) -> Iterator[FieldPath]:
    """Yield the path of each entry of each shape."""
    data = reader.get_collection(inputs_path, [])
    if isinstance(data, str):
        return
    for key in _keys_or_indices(data):
        shape_path = (*inputs_path, key, "shape")
        shape = reader.get_collection(shape_path, [])
        for index in range(len(shape)):
            yield (*shape_path, index)


def _parse_size(text: str, declared: Collection[str]) -> sizes.Size:
    # The name of a dim may be invalid, such as `a-b`. That is reported at the dim only.
    if text in declared:
        return sizes.Size((sizes.Term(text),))
    return sizes.parse(text)


def _check_size(
    reader: DocumentReader,
    path: FieldPath,
    size: sizes.Size,
    declared: Collection[str],
    valid_dims: Mapping[str, Dim],
) -> None:
    dims_path = (*path[:2], "dims")
    for name in size.names:
        if name not in declared and reader.is_sound(dims_path):
            suggestion = did_you_mean(nearest(name, declared))
            message = f"the dim {quoted(name)} is not declared in dims{suggestion}"
            reader.add(path, message)
    has_valid_dims = all(name in valid_dims for name in size.names)
    if has_valid_dims:
        for message in agreements.size_complaints(size, valid_dims):
            reader.add(path, message)


def _check_dims_are_determined(
    reader: DocumentReader,
    dims_path: FieldPath,
    declared: Collection[str],
    dynamic_sizes: Sequence[sizes.Size],
) -> None:
    """Check that the shapes of a call determine every declared dim."""
    used: set[str] = set()
    for size in dynamic_sizes:
        used.update(size.names)
    undetermined = set(agreements.undetermined_dims(dynamic_sizes))
    for name in declared:
        if name not in used:
            message = f"no shape uses the dim {quoted(name)}; use it in a shape, or remove it"
        elif name in undetermined:
            message = (
                f"the shapes do not determine the dim {quoted(name)}, because every size that uses"
                " it also uses another undetermined dim; add a size that is this dim alone"
            )
        else:
            continue
        reader.add((*dims_path, name), message, at_key=True)
