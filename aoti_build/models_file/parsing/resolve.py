"""Parses models.yaml to a `Project`, or raises one error with all its problems.

First pydantic checks the types of all values. Then this module, `models` and `inputs` check what
several fields must agree on, and make the targets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from aoti_build.errors import SpecError
from aoti_build.host.devices import NATIVE, device_named, device_names
from aoti_build.models_file import rules
from aoti_build.models_file.parsing import schema, yaml_document
from aoti_build.models_file.parsing.misplaced import check_places
from aoti_build.models_file.parsing.models import read_model
from aoti_build.models_file.parsing.reader import DocumentReader
from aoti_build.models_file.parsing.tuned_file import parse_tuned
from aoti_build.models_file.parsing.type_errors import check_types
from aoti_build.models_file.parsing.yaml_document import FieldPath
from aoti_build.models_file.places import Layout, shown_file
from aoti_build.models_file.project import DEFAULT_PRESET, TUNED_PRESET, Position, Project, Target
from aoti_build.models_file.records import with_digest
from aoti_build.models_file.tuned import choices_of
from aoti_build.models_file.wording import quoted, unknown

# The inductor options of each preset.
Presets: TypeAlias = Mapping[str, Mapping[str, Any]]


def parse(content: str | bytes, file: Path, tuned: bytes = b"") -> Project:
    """Return the project that `content`, the text of `file`, describes.

    `tuned` is the text of tuned.yaml. Its options are not applied to the targets yet.

    Raises:
        SpecError: the text has problems. The error has all of them.
    """
    file = file.absolute()
    reader = DocumentReader(yaml_document.parse(content, shown_file(file)))
    layout = Layout()
    presets: Presets = {}
    preset_positions: dict[str, Mapping[str, Position]] = {}
    targets: list[Target] = []
    if _is_supported_version(reader):
        check_places(reader)
        check_types(reader)
        layout = _layout(reader)
        presets, targets = _presets_and_targets(reader)
        preset_positions = {name: _option_positions(reader, name) for name in presets}
    if reader.problems:
        raise SpecError(shown_file(file), reader.problems)
    return Project(
        file,
        tuple(with_digest(target) for target in targets),
        presets=presets,
        tuned=choices_of(parse_tuned(tuned)),
        layout=layout,
        preset_positions=preset_positions,
    )


def _layout(reader: DocumentReader) -> Layout:
    """Return where the parts of the project are."""
    entries = reader.get(("python_path",), [])
    reader.check_repeats(("python_path",), entries)
    python_path = []
    for index in range(len(entries)):
        path = reader.read_text(("python_path", index), rules.project_path)
        python_path.append(path or ".")
    return Layout(
        reader.read_text(("root",), rules.root_path) or ".",
        tuple(python_path) or (".",),
        reader.read_text(("artifacts",), rules.artifacts_path) or "artifacts",
        reader.read_text(("history",), rules.history_path),
    )


def _presets_and_targets(reader: DocumentReader) -> tuple[Presets, list[Target]]:
    """Return the presets that the file defines, and its targets."""
    _check_case(reader, ("models",), ())
    _check_case(reader, ("inductor_configs",), (DEFAULT_PRESET,))
    defined = {}
    for name in reader.keys(("inductor_configs",)):
        defined[name] = reader.read_json(("inductor_configs", name))
    presets = {DEFAULT_PRESET: {}, TUNED_PRESET: {}, **defined}
    targets: list[Target] = []
    for name in reader.keys(("models",)):
        if reader.is_sound(("models", name)):
            targets += _targets_of_model(reader, name, presets)
    return defined, targets


def _option_positions(reader: DocumentReader, preset: str) -> dict[str, Position]:
    """Return where each option of a preset is. Only a worker can check their names and values."""
    options = reader.document.at(("inductor_configs", preset)).parts
    return {str(option): node.position for option, node in options.items()}


def _is_supported_version(reader: DocumentReader) -> bool:
    """Return False, with one problem, for another version of the format.

    Other problems are then not reported, because they may be valid in that version.
    """
    version = reader.data.get("version") if isinstance(reader.data, dict) else None
    # The types are not checked yet. A version of another type is reported later.
    if type(version) is not int or version == schema.VERSION:
        return True
    message = (
        f"version {version} is not supported; write version {schema.VERSION}, or use another"
        " release of aoti_build"
    )
    reader.add(("version",), message)
    return False


def _check_case(reader: DocumentReader, path: FieldPath, reserved: Sequence[str]) -> None:
    """Refuse names that differ only in case, because they become directory names.

    `reserved` are names that exist without an entry in the file.
    """
    first_names = {name.casefold(): name for name in reserved}
    entries = reader.document.at(path).parts
    for name in reader.keys(path):
        first_name = first_names.setdefault(name.casefold(), name)
        if first_name == name:
            continue
        line = ""
        if first_name in entries:
            line = f" (line {entries[first_name].key.line})"
        message = (
            f"{name!r} and {first_name!r}{line} differ only in case, and are one directory on some"
            " file systems; rename one"
        )
        reader.add((*path, name), message, at_key=True)


# Targets of a model


def _targets_of_model(reader: DocumentReader, name: str, presets: Presets) -> Iterator[Target]:
    path = ("models", name)
    model = read_model(reader, name)
    devices = reader.get((*path, "devices"), ["cpu"])
    reader.check_repeats((*path, "devices"), devices)
    presets_of_device = _presets_of_devices(reader, path, devices, presets)
    # All devices are checked, even those that the model is not built for.
    architectures = {}
    for device in device_names():
        key = device_named(device).architecture_key
        architectures[device] = _architectures(reader, (*path, device, key))
    first_targets: dict[str, Target] = {}
    for device in devices:
        for architecture, architecture_path in architectures[device].items():
            is_listed = isinstance(architecture_path[-1], int)
            for preset in presets_of_device.get(device, [DEFAULT_PRESET]):
                target = Target(
                    model=model,
                    device=device,
                    preset=preset,
                    inductor_config=presets.get(preset, {}),
                    architecture=architecture,
                    listed=is_listed,
                )
                first = first_targets.setdefault(target.variant.casefold(), target)
                _check_variant(reader, architecture_path, target, first)
                yield target


def _architectures(reader: DocumentReader, path: FieldPath) -> dict[str, FieldPath]:
    """Return the valid architectures at `path`, each with its own path.

    The value is one architecture, or a list of them.
    """
    data = reader.get_collection(path, NATIVE)
    if isinstance(data, str):
        return {data: path}
    reader.check_repeats(path, data)
    architectures = {}
    for index, architecture in enumerate(data):
        item_path = (*path, index)
        if reader.is_sound(item_path):
            architectures[architecture] = item_path
    return architectures or {NATIVE: path}


def _check_variant(reader: DocumentReader, path: FieldPath, target: Target, first: Target) -> None:
    """Refuse two targets with the same directory.

    A preset can have the name of an architecture. `first` is the first target with the name of
    `target`; it may be the same target, or a repetition of it that is already reported.
    """
    if first is target:
        return
    is_repetition = (first.architecture, first.preset) == (target.architecture, target.preset)
    if is_repetition:
        return
    message = (
        f"{target.device} for {target.architecture} with the preset {target.preset!r}, and"
        f" {first.device} for {first.architecture} with the preset {first.preset!r}, are both named"
        f" {target.variant}; rename the preset"
    )
    reader.add(path, message)


# Presets of a model


def _presets_of_devices(
    reader: DocumentReader,
    model_path: FieldPath,
    devices: Sequence[str],
    presets: Presets,
) -> dict[str, list[str]]:
    """Return the names of the presets for each device. A device may be missing."""
    path = (*model_path, "inductor_configs")
    data = reader.get_collection(path, {})
    if isinstance(data, str):
        _check_preset(reader, path, data, presets)
        return {device: [data] for device in devices}
    if isinstance(data, list):
        names = _preset_names(reader, path, presets)
        return dict.fromkeys(devices, names)
    devices_are_valid = reader.is_sound_throughout((*model_path, "devices"))
    names_of_device = {}
    for device in data:
        if devices_are_valid and device in device_names() and device not in devices:
            message = (
                f"{quoted(device)} is not in devices ({', '.join(devices)}); add it there, or"
                " remove this key"
            )
            reader.add((*path, device), message, at_key=True)
        names_of_device[device] = _preset_names(reader, (*path, device), presets)
    return names_of_device


def _preset_names(reader: DocumentReader, path: FieldPath, presets: Presets) -> list[str]:
    names: list[str] = reader.get(path, [])
    reader.check_repeats(path, names)
    for index, name in enumerate(names):
        _check_preset(reader, (*path, index), name, presets)
    return names


def _check_preset(reader: DocumentReader, path: FieldPath, name: str, presets: Presets) -> None:
    if name not in presets and reader.is_sound(("inductor_configs",)):
        reader.add(path, unknown("preset", name, presets))
