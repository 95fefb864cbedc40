"""What an artifact depends on, as named parts: their key, and the differences between two sets.

A fingerprint is a table of groups (`spec`, `sources`, `weights`, ...). Each group is a flat table
of named values, so the question "why was this rebuilt?" is answered by a comparison. The key is the
sha256 of the whole table with `KEY_VERSION`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from aoti_build.artifact.reasons import REASON_OF_GROUP, Reason
from aoti_build.common.digests import canonical_json, digest_bytes, digest_json
from aoti_build.common.json_object import JsonObject

if TYPE_CHECKING:  # a service that loads an artifact reads manifests and has no models.yaml
    from aoti_build.models_file.project import ConstantInput, Dim, Model, Target, TensorInput

# Goes up when a part is added, dropped or gets another meaning, and when the build recipe changes.
KEY_VERSION = 12

_KWARGS_ORDER = "kwargs order"
# JSON values by name.
Group: TypeAlias = Mapping[str, Any]
# Groups by name.
Parts: TypeAlias = Mapping[str, Group]


@dataclass(frozen=True)
class Fingerprint:
    """Groups of named JSON values; see the module's docstring."""

    parts: Parts

    @property
    def key(self) -> str:
        return digest_json({"key_version": KEY_VERSION, "parts": self.parts})

    def differences(self, older: Parts) -> Iterator[Reason]:
        """Why an artifact that was made from `older` parts is out of date. Empty if they are equal.

        Values are compared as keys see them; see `_differs`.
        """
        for group, kind in REASON_OF_GROUP.items():
            old_values = older.get(group, {})
            new_values = self.parts.get(group, {})
            for name in _changed_names(old_values, new_values):
                yield Reason(
                    kind,
                    name,
                    old=old_values.get(name),
                    new=new_values.get(name),
                )


def declared_files(model: Model) -> tuple[str, ...]:
    """The source files that models.yaml names for a model, relative to it."""
    callables = [model.source, model.inputs]
    if model.baseline is not None:
        callables.append(model.baseline.source)
    paths = []
    for source in callables:
        if not isinstance(source, tuple) and source.path:
            paths.append(source.path)
    return (*paths, *model.files)


def variable_parts(
    names: Iterable[str],
    environment: Mapping[str, str],
) -> dict[str, str | None]:
    """The digests of environment variables, or None for those that are not set.

    A value may be a secret, and manifests are published, so no value is recorded.
    """
    digests: dict[str, str | None] = {}
    for name in sorted(names):
        value = environment.get(name)
        if value is None:
            digests[name] = None
        else:
            digests[name] = digest_bytes(os.fsencode(value))
    return digests


def spec_parts(target: Target) -> JsonObject:
    """What models.yaml says of a target and the export depends on, field by field.

    The tolerance is not included: it decides whether an artifact passes, not what is in it.
    """
    model = target.model
    parts: JsonObject = {
        "device": target.device,
        "source": str(model.source),
        "seed": model.seed,
        "reference_data.limit": model.reference_data_limit,
        f"{target.device}.{target.hardware.architecture_key}": target.architecture,
    }
    for name, value in model.kwargs.items():
        parts[f"kwargs.{name}"] = value
    # A factory with **kwargs sees the order, which the key of a JSON object does not.
    order = _key_order(model.kwargs)
    if order:
        parts[_KWARGS_ORDER] = order
    parts.update(_optional_parts(model))
    for dim in model.dims:
        parts.update(_dim_parts(dim))
    if isinstance(model.inputs, tuple):
        for position, entry in enumerate(model.inputs):
            parts.update(_input_parts(entry, position))
    else:
        parts["inputs"] = str(model.inputs)
    for option, value in target.device_options.items():
        parts[f"{target.device}.{option}"] = value
    return parts


def _optional_parts(model: Model) -> JsonObject:
    """The fields that models.yaml may leave out.

    A field that is left out is not a part. So a new field in a release changes no model that does
    not use it.
    """
    parts: JsonObject = {}
    if model.weights is not None:
        parts["weights"] = model.weights.file
        for field, value in asdict(model.weights).items():
            if value and field != "file":
                parts[f"weights.{field}"] = _json(value)
    if model.strict:
        parts["strict"] = True
    for field in ("dtype", "memory_format", "method", "outputs"):
        value = getattr(model, field)
        if value is not None:
            parts[field] = value
    if model.imports:
        parts["imports"] = list(model.imports)
    if model.baseline is not None:
        kwargs = model.baseline.kwargs
        order = _key_order(kwargs)
        parts["baseline"] = str(model.baseline.source)
        parts["baseline.kwargs"] = [dict(kwargs), order]
    return parts


def _dim_parts(dim: Dim) -> JsonObject:
    fields = asdict(dim)
    del fields["name"]
    return {f"dims.{dim.name}.{field}": value for field, value in fields.items()}


def _input_parts(entry: TensorInput | ConstantInput, position: int) -> JsonObject:
    fields = asdict(entry)
    if "shape" in fields:
        fields["shape"] = list(fields["shape"])
    # Optional fields, as in `_optional_parts`.
    for field in ("memory_format", "probability"):
        if fields.get(field) is None:
            fields.pop(field, None)
    fields["position"] = position
    name = entry.name or position
    return {f"inputs.{name}.{field}": value for field, value in fields.items()}


def _json(value: Any) -> Any:
    """The value with lists in place of tuples, as it is after a manifest was read."""
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value


def _key_order(value: Any) -> list[Any]:
    """The order of keys in nested mappings. Empty if there are no mappings with keys."""
    if isinstance(value, Mapping):
        order = []
        for name, item in value.items():
            order.append([name, _key_order(item)])
        return order
    if isinstance(value, list | tuple):
        orders = [_key_order(item) for item in value]
        if any(orders):
            return orders
    return []


def _changed_names(old: Group, new: Group) -> list[str]:
    """The names of the values in a group that differ, sorted."""
    names = sorted({*old, *new})
    changed = [name for name in names if _differs(old, new, name)]
    has_changed_kwarg = any(name.startswith("kwargs.") for name in changed)
    if has_changed_kwarg and _KWARGS_ORDER in changed:
        # A new or a removed argument changes the order too; one reason is enough.
        changed.remove(_KWARGS_ORDER)
    return changed


def _differs(old: Group, new: Group, name: str) -> bool:
    """Whether a key is computed from another value.

    Python takes 1, 1.0 and True for equal, and `get` takes absent for None; a key does not.
    """
    if name not in old or name not in new:
        return True
    old_value, new_value = old[name], new[name]
    if isinstance(old_value, str) and isinstance(new_value, str):
        # The same result as below, and faster. Most values are texts.
        return old_value != new_value
    return canonical_json(old_value) != canonical_json(new_value)
