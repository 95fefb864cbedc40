"""Reads one entry of `models:`."""

from __future__ import annotations

from typing import Any

from aoti_build.models_file import agreements, rules
from aoti_build.models_file.parsing import schema_parts
from aoti_build.models_file.parsing.inputs import (
    check_dims,
    read_dims,
    read_inputs,
    read_source,
)
from aoti_build.models_file.parsing.reader import DocumentReader
from aoti_build.models_file.parsing.yaml_document import FieldPath
from aoti_build.models_file.project import (
    Baseline,
    CudaOptions,
    Image,
    Model,
    OutputTolerance,
    Position,
    Source,
    Tolerance,
    Weights,
)

# Fields of a model whose entries have positions of their own.
FIELDS_WITH_POSITIONED_ENTRIES = ("inputs", "dims", "files", "imports", "weights")


def read_model(reader: DocumentReader, name: str) -> Model:
    """Return the model with this name. Invalid fields have stand-ins or default values."""
    path = ("models", name)
    dims = read_dims(reader, (*path, "dims"))
    inputs = read_inputs(reader, (*path, "inputs"))
    check_dims(reader, path, inputs, dims)
    return Model(
        name=name,
        source=read_source(reader, (*path, "source")),
        inputs=inputs,
        kwargs=reader.read_json((*path, "kwargs")),
        seed=reader.get((*path, "seed"), 0),
        method=reader.get((*path, "method")),
        strict=reader.get((*path, "strict"), False),
        weights=_read_weights(reader, (*path, "weights")),
        files=_read_files(reader, (*path, "files")),
        dims=dims,
        dtype=reader.get((*path, "dtype")),
        memory_format=reader.get((*path, "memory_format")),
        baseline=_read_baseline(reader, path),
        tolerance=_read_tolerance(reader, (*path, "tolerance")),
        cuda=_read_cuda(reader, (*path, "cuda")),
        reference_data_limit=_read_reference_data_limit(reader, (*path, "reference_data")),
        imports=_read_imports(reader, (*path, "imports")),
        outputs=reader.get((*path, "outputs")),
        image=_read_image(reader, (*path, "image")),
        positions=_positions(reader, path),
    )


def _read_weights(reader: DocumentReader, path: FieldPath) -> Weights | None:
    if isinstance(reader.get(path), str):
        file = reader.read_text(path, rules.weights_path)
        return Weights(file) if file else None
    entry = reader.read(schema_parts.Weights, path)
    if entry is None:
        return None
    rename = tuple(entry.rename.items())
    for field, message in agreements.weights_complaints(entry.file, entry.key, rename):
        # The field of a rule is `rename.` and a name, which may have dots.
        reader.add((*path, *field.split(".", 1)), message)
    return Weights(
        file=reader.read_text((*path, "file"), rules.weights_path) or "stand_in.pt",
        key=entry.key,
        prefix=entry.prefix,
        rename=rename,
        ignore=tuple(entry.ignore),
    )


def _read_files(reader: DocumentReader, path: FieldPath) -> tuple[str, ...]:
    names = reader.get(path, [])
    reader.check_repeats(path, names)
    files = [reader.read_text((*path, index), rules.project_path) for index in range(len(names))]
    return tuple(file for file in files if file is not None)


def _read_imports(reader: DocumentReader, path: FieldPath) -> tuple[str, ...]:
    names = reader.get(path, [])
    reader.check_repeats(path, names)
    return tuple(names)


def _read_baseline(reader: DocumentReader, model_path: FieldPath) -> Baseline | None:
    path = (*model_path, "baseline")
    data = reader.get(path)
    if data is None:
        return None
    model_kwargs: dict[str, Any] = reader.get((*model_path, "kwargs"), {})
    if isinstance(data, str):
        return Baseline(read_source(reader, path), model_kwargs)
    kwargs = model_kwargs
    if "kwargs" in data:
        kwargs = reader.read_json((*path, "kwargs"))
    source = read_source(reader, (*path, "source"))
    return Baseline(source, kwargs, data.get("limit"))


def _read_tolerance(reader: DocumentReader, path: FieldPath) -> Tolerance:
    entry = reader.read(schema_parts.Tolerance, path) or schema_parts.Tolerance()
    outputs = {}
    for name, output in entry.outputs.items():
        output_path = (*path, "outputs", name)
        reader.add_complaints(output_path, agreements.output_complaints(output))
        outputs[name] = OutputTolerance(**output.model_dump())
    return Tolerance(entry.atol, entry.rtol, outputs)


def _read_cuda(reader: DocumentReader, path: FieldPath) -> CudaOptions:
    entry = reader.read(schema_parts.Cuda, path) or schema_parts.Cuda()
    return CudaOptions(entry.tf32, entry.reduced_precision)


def _read_reference_data_limit(reader: DocumentReader, path: FieldPath) -> int:
    entry = reader.read(schema_parts.ReferenceData, path) or schema_parts.ReferenceData()
    return rules.size_in_bytes(entry.limit)


def _read_image(reader: DocumentReader, path: FieldPath) -> Image | Source | None:
    if isinstance(reader.get(path), str):
        return reader.read_text(path, rules.parse_source)
    entry = reader.read(schema_parts.Image, path)
    if entry is None:
        return None
    reader.add_complaints(path, agreements.image_complaints(entry))
    return Image(
        resize=entry.resize,
        crop=entry.crop,
        mean=tuple(entry.mean),
        std=tuple(entry.std),
        classes=reader.read_text((*path, "classes"), rules.project_path),
    )


def _positions(reader: DocumentReader, path: FieldPath) -> dict[str, Position]:
    """Return the positions of the fields, for errors that are detected after parsing."""
    model = reader.document.at(path)
    positions = {"": model.key}
    for field, node in model.parts.items():
        positions[str(field)] = node.position
        if field in FIELDS_WITH_POSITIONED_ENTRIES:
            for name, part in node.parts.items():
                positions[f"{field}.{name}"] = part.position
    return positions
