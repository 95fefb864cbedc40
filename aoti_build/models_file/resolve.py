"""models.yaml -> `Project`: the types, then what several fields must agree on; all problems at
once, each in its place.

The walk goes on after a problem, with a stand-in for what is broken, so that one reading finds
everything; no stand-in is ever seen, because `parse` raises if there was any problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aoti_build.common import sizes
from aoti_build.errors import Problem, SpecError
from aoti_build.host.devices import NATIVE, device_named, device_names
from aoti_build.models_file import agreements, rules, schema, yaml_source
from aoti_build.models_file.field_types import Wire
from aoti_build.models_file.project import (
    DEFAULT_PRESET,
    Baseline,
    ConstantInput,
    CudaOptions,
    Dim,
    Image,
    Inputs,
    Model,
    OutputTolerance,
    Position,
    Project,
    Source,
    Target,
    TensorInput,
    Tolerance,
    Weights,
)
from aoti_build.models_file.records import with_digest
from aoti_build.models_file.wording import did_you_mean, nearest, sentence, shown, unknown
from aoti_build.models_file.yaml_source import Where

WireT = TypeVar("WireT", bound=Wire)
Presets = Mapping[str, Mapping[str, Any]]

# Fields of a model whose entries have their own positions.
FIELDS_WITH_PARTS = ("inputs", "dims", "files", "imports", "weights")


def parse(content: str | bytes, file: Path) -> Project:
    """The project that the text of `file` describes."""
    file = file.absolute()
    resolver = _Resolver(yaml_source.parse(content, file.name))
    targets = resolver.targets()
    if resolver.problems:
        raise SpecError(file.name, resolver.problems)
    return Project(file, tuple(map(with_digest, targets)))


class _Broken:
    """Paths of which no more can be said, asked for by what lies around and in them without a look
    at each."""

    def __init__(self, paths: Iterable[Where]) -> None:
        self._paths: set[Where] = set()
        self._above: set[Where] = set()  # every path that has a broken one in it
        for path in paths:
            self.add(path)

    def add(self, path: Where) -> None:
        self._paths.add(path)
        self._above.update(path[:length] for length in range(len(path)))

    def is_in(self, path: Where) -> bool:
        """Whether `path` or what it lies in is broken."""
        return any(path[:length] in self._paths for length in range(len(path) + 1))

    def is_below(self, path: Where) -> bool:
        """Whether something in `path` is broken."""
        return path in self._above


class _Resolver:
    """One walk over a document; `problems` grows as it goes, `broken` are the paths that it can say
    no more of."""

    def __init__(self, document: yaml_source.Document) -> None:
        self.document = document
        self.data = document.root.data
        self.problems = list(document.problems)
        self.broken = _Broken(document.broken)

    def targets(self) -> tuple[Target, ...]:
        version = self.data.get("version") if isinstance(self.data, dict) else None
        if type(version) is int and version != schema.VERSION:
            # Whatever else seems wrong may be right in that version.
            self.add(
                ("version",),
                f"version {version}: this version understands version {schema.VERSION}",
            )
            return ()
        self._check_types()
        self._check_case(("models",), ())
        self._check_case(("inductor_configs",), (DEFAULT_PRESET,))
        presets = {
            DEFAULT_PRESET: {},
            **{name: self._json(("inductor_configs", name)) for name in self._presets()},
        }
        return tuple(
            target
            for name in self.keys(("models",))
            for target in self._model_targets(name, presets)
        )

    # Reading what is there and sound

    def add(self, path: Where, text: str, *, at_key: bool = False) -> None:
        node = self.document.at(path)
        position = node.key if at_key else node.value
        self.problems.append(Problem(position.line, position.column, text))

    def sound(self, path: Where, *, throughout: bool = False) -> bool:
        """Whether nothing is wrong with `path` itself or around it; `throughout`: nor with anything
        in it."""
        return not (self.broken.is_in(path) or (throughout and self.broken.is_below(path)))

    def get(self, path: Where, default: Any = None, *, throughout: bool = True) -> Any:
        """The data at `path`, or `default` if it is absent or broken."""
        if not self.sound(path, throughout=throughout):
            return default
        data = self.data
        for part in path:
            if isinstance(data, dict) and part not in data:
                return default
            data = data[part]
        return data

    def keys(self, path: Where) -> list[str]:
        return list(self.get(path, {}, throughout=False))

    def read(self, kind: type[WireT], path: Where) -> WireT | None:
        data = self.get(path)
        return None if data is None else kind.model_validate(data)

    # Types

    def _check_types(self) -> None:
        try:
            schema.File.model_validate(self.data)
        except ValidationError as errors:
            for error in errors.errors(include_url=False):
                self._add_type_error(error)

    def _add_type_error(self, error: ErrorDetails) -> None:
        # pydantic marks the member of a union and the key of an entry in its paths; ours are those
        # of the file.
        is_key = error["loc"][-1:] == ("[key]",)
        path: Where = tuple(part for part in error["loc"] if not _is_mark(part))
        if not self.sound(path):
            return
        wire = schema.wire_type_at(path[:-1])
        fields = wire.model_fields if wire else ()
        at = path[:-1] if error["type"] == "missing" else path
        at_key = is_key or error["type"] in ("extra_forbidden", "missing", "no_value")
        self.add(at, sentence(error, path, fields), at_key=at_key)
        if not is_key:
            self.broken.add(path)

    def _check_case(self, path: Where, taken: tuple[str, ...]) -> None:
        """Names become directories, and on many disks two that differ only in case are one."""
        seen = {name.casefold(): name for name in taken}
        entries = self.document.at(path).parts
        for name in self.keys(path):
            other = seen.setdefault(name.casefold(), name)
            if other != name:
                where = f" (line {entries[other].key.line})" if other in entries else ""
                text = (
                    f"{name!r} and {other!r}{where} differ only in case: on some disks they are one"
                    " directory"
                )
                self.add((*path, name), text, at_key=True)

    # Models

    def _presets(self) -> list[str]:
        return self.keys(("inductor_configs",))

    def _model_targets(self, name: str, presets: Presets) -> Iterator[Target]:
        at: Where = ("models", name)
        if not self.sound(at):
            return
        model = self._model(name, at)
        devices = self.get((*at, "devices"), ["cpu"])
        self._check_repeats((*at, "devices"), devices)
        chosen = self._chosen_presets((*at, "inductor_configs"), devices, presets)
        architectures = {
            device: self._architectures((*at, device, device_named(device).architecture_key))
            for device in device_names()
        }
        seen: dict[str, Target] = {}
        for device in devices:
            for architecture, path in architectures[device].items():
                for preset in chosen.get(device, [DEFAULT_PRESET]):
                    listed = isinstance(path[-1], int)
                    target = Target(
                        model, device, preset, presets.get(preset, {}), architecture, listed
                    )
                    self._check_variant(
                        target, seen.setdefault(target.variant.casefold(), target), path
                    )
                    yield target

    def _architectures(self, path: Where) -> dict[str, Where]:
        """What a device's targets are compiled for, each with its place: one value, or the entries
        of a list."""
        architectures = self.get(path, NATIVE, throughout=False)
        if isinstance(architectures, str):
            return {architectures: path}
        self._check_repeats(path, architectures)
        sound = [index for index in range(len(architectures)) if self.sound((*path, index))]
        return {architectures[index]: (*path, index) for index in sound} or {NATIVE: path}

    def _check_variant(self, target: Target, other: Target, path: Where) -> None:
        """A preset may have the name of an architecture; the two targets would be one directory."""
        if other is not target and (other.architecture, other.preset) != (
            target.architecture,
            target.preset,
        ):
            text = (
                f"{target.device} for {target.architecture} with the preset {target.preset!r}"
                f" would be called {target.variant}, and so is {other.device} for"
                f" {other.architecture} with the preset {other.preset!r}; rename the preset"
            )
            self.add(path, text)

    def _model(self, name: str, at: Where) -> Model:
        dims = self._dims((*at, "dims"))
        inputs = self._inputs((*at, "inputs"))
        self._check_dims(at, inputs, dims)
        cuda = self.read(schema.Cuda, (*at, "cuda")) or schema.Cuda()
        reference_data = (
            self.read(schema.ReferenceData, (*at, "reference_data")) or schema.ReferenceData()
        )
        return Model(
            name=name,
            source=self._source((*at, "source")),
            inputs=inputs,
            kwargs=self._json((*at, "kwargs")),
            seed=self.get((*at, "seed"), 0),
            method=self.get((*at, "method")),
            strict=self.get((*at, "strict"), False),
            weights=self._weights((*at, "weights")),
            files=self._files((*at, "files")),
            dims=dims,
            tolerance=self._tolerance((*at, "tolerance")),
            cuda=CudaOptions(cuda.tf32, cuda.reduced_precision),
            reference_data_limit=rules.size_in_bytes(reference_data.limit),
            image=self._image((*at, "image")),
            imports=self._imports((*at, "imports")),
            outputs=self.get((*at, "outputs")),
            dtype=self.get((*at, "dtype")),
            baseline=self._baseline(at),
            positions=self._positions(at),
        )

    def _tolerance(self, path: Where) -> Tolerance:
        wire = self.read(schema.Tolerance, path) or schema.Tolerance()
        for name, bounds in wire.outputs.items():
            for field, text in agreements.bound_complaints(bounds):
                self.add((*path, "outputs", name, field), text)
        outputs = {
            name: OutputTolerance(**bounds.model_dump()) for name, bounds in wire.outputs.items()
        }
        return Tolerance(wire.atol, wire.rtol, outputs)

    def _baseline(self, at: Where) -> Baseline | None:
        path: Where = (*at, "baseline")
        data = self.get(path)
        if data is None:
            return None
        if isinstance(data, str):
            return Baseline(self._source(path), self.get((*at, "kwargs"), {}))
        kwargs = (
            self._json((*path, "kwargs")) if "kwargs" in data else self.get((*at, "kwargs"), {})
        )
        return Baseline(self._source((*path, "source")), kwargs, data.get("limit"))

    def _image(self, path: Where) -> Image | Source | None:
        data = self.get(path)
        if isinstance(data, str):
            named: Source | None = self._parsed(path, rules.parse_source)
            return named
        wire = self.read(schema.Image, path)
        if wire is None:
            return None
        for field, text in agreements.image_complaints(wire):
            self.add((*path, field), text)
        classes = self._parsed((*path, "classes"), rules.project_path)
        return Image(wire.resize, wire.crop, tuple(wire.mean), tuple(wire.std), classes)

    def _json(self, path: Where) -> dict[str, Any]:
        """Free data that must survive JSON, since it is a part of the target's key."""
        data: dict[str, Any] = self.get(path, {})
        for bad in rules.not_finite(data, path):
            self.add(
                bad, "nan and inf cannot be used here: JSON, which records this value, has neither"
            )
        return data

    def _parsed(self, path: Where, rule: Callable[[str], Any]) -> Any:
        """What `rule` makes of the text at `path`; None if that is absent or refused."""
        text = self.get(path)
        try:
            return None if text is None else rule(text)
        except rules.RefusedError as refusal:
            self.add(path, str(refusal))
            return None

    def _source(self, path: Where) -> Source:
        return self._parsed(path, rules.parse_source) or Source("stand_in", module="stand_in")

    def _weights(self, path: Where) -> Weights | None:
        if isinstance(self.get(path), str):
            file = self._parsed(path, rules.weights_path)
            return Weights(file) if file else None
        wire = self.read(schema.Weights, path)
        if wire is None:
            return None
        for field, text in agreements.weights_complaints(wire):
            self.add((*path, *field.split(".", 1)), text)
        file = self._parsed((*path, "file"), rules.weights_path) or "stand_in.pt"
        return Weights(file, wire.key, wire.prefix, tuple(wire.rename.items()), tuple(wire.ignore))

    def _files(self, path: Where) -> tuple[str, ...]:
        names = self.get(path, [])
        self._check_repeats(path, names)
        files = (self._parsed((*path, index), rules.project_path) for index in range(len(names)))
        return tuple(file for file in files if file)

    def _imports(self, path: Where) -> tuple[str, ...]:
        names: list[str] = self.get(path, [])
        self._check_repeats(path, names)
        return tuple(names)

    def _check_repeats(self, path: Where, names: list[Any]) -> None:
        seen: set[str] = set()
        for index, name in enumerate(names):
            if not isinstance(name, str):
                continue  # which is wrong by itself
            if name in seen:
                self.add((*path, index), f"{shown(name)} is listed already")
            seen.add(name)

    # Dims and inputs

    def _dims(self, path: Where) -> tuple[Dim, ...]:
        dims = []
        for name in self.keys(path):
            if wire := self.read(schema.Dim, (*path, name)):
                for field, text in agreements.dim_complaints(wire):
                    self.add((*path, name, field), text)
                dims.append(
                    Dim(
                        name,
                        agreements.smallest(wire),
                        wire.max,
                        agreements.example(wire),
                        wire.multiple_of,
                    )
                )
        return tuple(dims)

    def _inputs(self, path: Where) -> Inputs | Source:
        data = self.get(path, [], throughout=False)
        if isinstance(data, str):
            return self._source(path)
        inputs = (self._input((*path, name)) for name in _names_in(data))
        return tuple(one for one in inputs if one)

    def _input(self, path: Where) -> TensorInput | ConstantInput | None:
        data = self.get(path)
        is_constant = isinstance(data, dict) and "value" in data
        return self._constant(path, data) if is_constant else self._tensor(path)

    def _constant(self, path: Where, data: Mapping[str, Any]) -> ConstantInput:
        at = (*path, "value")
        for field, text in agreements.constant_complaints(
            schema.ConstantInput.model_validate(data)
        ):
            self.add((*path, field), text, at_key=True)
        node = self.document.at(at)
        if node.data is None and node.value == node.key:
            self.add(at, "'value' has no value; for None write null")
        for bad in rules.not_finite(data["value"], at):
            self.add(
                bad, "nan and inf cannot be used here: JSON, which records this value, has neither"
            )
        return ConstantInput(data["value"], path[-1] if isinstance(path[-1], str) else None)

    def _tensor(self, path: Where) -> TensorInput | None:
        wire = self.read(schema.TensorInput, path)
        if wire is None:
            return None
        for field, text in agreements.range_complaints(wire):
            self.add((*path, field), text)
        low, high = agreements.drawn_from(wire)
        name = path[-1] if isinstance(path[-1], str) else None
        own = "dtype" in wire.model_fields_set
        cast = None if own else self.get((*path[:2], "dtype"))
        return TensorInput(tuple(wire.shape), cast or wire.dtype, name, low, high, wire.probability)

    def _check_dims(self, at: Where, inputs: Inputs | Source, sound: tuple[Dim, ...]) -> None:
        """Every dim that a shape names is declared, every declared one is named, and each size is
        one for all sizes of its dims, which are valid if they are among the `sound`."""
        dims, tensors = (*at, "dims"), (*at, "inputs")
        declared = dict.fromkeys(self.keys(dims))
        valid = {dim.name: dim for dim in sound if not any(agreements.dim_complaints(dim))}
        varying = []
        for path in self._shape_entries(tensors):
            text = self.get(path)
            if not isinstance(text, str):
                continue
            # A declared name that is no Python name is wrong at the dim.
            size = sizes.Size((sizes.Term(text),)) if text in declared else sizes.parse(text)
            varying.append(size)
            for name in size.names:
                if name not in declared and self.sound(dims):
                    near = did_you_mean(nearest(name, declared))
                    self.add(path, f"the dim {shown(name)} is not declared in dims{near}")
            if all(name in valid for name in size.names):
                for complaint in agreements.size_complaints(size, valid):
                    self.add(path, complaint)
        # A callable may use any dim, and a broken input may be the one that does.
        if isinstance(inputs, tuple) and self.sound(tensors, throughout=True):
            self._check_determined(dims, declared, varying)

    def _check_determined(
        self, dims: Where, declared: Iterable[str], varying: list[sizes.Size]
    ) -> None:
        """Every declared dim is named in a shape, and follows from the shapes of a call."""
        used, untold = {name for size in varying for name in size.names}, agreements.untold(varying)
        for name in declared:
            if name not in used:
                text = f"the dim {shown(name)} is used in no shape; remove it, or name it in one"
                self.add((*dims, name), text, at_key=True)
            elif name in untold:
                text = (
                    f"no shape tells the dim {shown(name)}: where it is named, another dim is not"
                    " known either; name it by itself in a shape"
                )
                self.add((*dims, name), text, at_key=True)

    def _shape_entries(self, inputs: Where) -> Iterator[Where]:
        data = self.get(inputs, [], throughout=False)
        if isinstance(data, str):
            return
        for name in _names_in(data):
            shape: Where = (*inputs, name, "shape")
            for index in range(len(self.get(shape, [], throughout=False))):
                yield (*shape, index)

    # Presets

    def _chosen_presets(
        self, path: Where, devices: list[str], presets: Presets
    ) -> dict[str, list[str]]:
        chosen = self.get(path, {}, throughout=False)
        if isinstance(chosen, list):
            names = self._known_presets(path, presets)
            return dict.fromkeys(devices, names)
        devices_known = self.sound((*path[:-1], "devices"), throughout=True)
        for device in chosen:
            if devices_known and device in device_names() and device not in devices:
                text = f"{shown(device)} is not in devices (which are: {', '.join(devices)})"
                self.add((*path, device), text, at_key=True)
        return {device: self._known_presets((*path, device), presets) for device in chosen}

    def _known_presets(self, path: Where, presets: Presets) -> list[str]:
        names: list[str] = self.get(path, [])
        self._check_repeats(path, names)
        for index, name in enumerate(names):
            if name not in presets and self.sound(("inductor_configs",)):
                self.add((*path, index), unknown("preset", name, presets))
        return names

    def _positions(self, at: Where) -> dict[str, Position]:
        """Where the parts of a model stand, for errors found after parsing."""
        model = self.document.at(at)
        positions = {"": model.key}
        for field, node in model.parts.items():
            positions[str(field)] = node.seen
            if field in FIELDS_WITH_PARTS:
                positions |= {f"{field}.{name}": part.seen for name, part in node.parts.items()}
        return positions


def _names_in(data: dict[str, Any] | list[Any]) -> Iterable[str | int]:
    """The keys of a mapping, or the indices of a list."""
    return data if isinstance(data, dict) else range(len(data))


def _is_mark(part: str | int) -> bool:
    return isinstance(part, str) and (
        part == "[key]" or (part.startswith("<") and part.endswith(">"))
    )
