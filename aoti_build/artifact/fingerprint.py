"""What an artifact depends on, as named parts: their key, and the difference of two fingerprints as
reasons.

A fingerprint is a table of groups (`spec`, `sources`, `weights`, ...), each a flat table of named
values, so that "why was this rebuilt?" is a comparison and never a guess. Its key is the sha256 of
the whole table with `KEY_VERSION`. Bump `KEY_VERSION` when a part is added, dropped or changes its
meaning, or when the build recipe itself changes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from aoti_build.artifact.reasons import REASON_OF_GROUP, Reason
from aoti_build.common.digests import canonical_json, digest_bytes, digest_json

if TYPE_CHECKING:  # whoever only reads manifests, a service that loads one, needs no models.yaml
    from aoti_build.models_file.project import ConstantInput, Model, Target, TensorInput

KEY_VERSION = 11

_KWARGS_ORDER = "kwargs order"
Parts = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Fingerprint:
    """Groups of named JSON values; see the module's docstring."""

    parts: Parts

    @property
    def key(self) -> str:
        return digest_json({"key_version": KEY_VERSION, "parts": self.parts})

    def differences(self, older: Parts) -> Iterator[Reason]:
        """Reasons why an artifact made from `older` parts is not what these parts ask for; none if
        they are equal."""
        for group, reason in REASON_OF_GROUP.items():
            was, now = older.get(group, {}), self.parts.get(group, {})
            changed = [name for name in sorted({*was, *now}) if _differs(was, now, name)]
            if any(name.startswith("kwargs.") for name in changed) and _KWARGS_ORDER in changed:
                changed.remove(_KWARGS_ORDER)  # a key more or less is said already
            for name in changed:
                yield Reason(reason, name, was.get(name), now.get(name))


def declared_files(model: Model) -> tuple[str, ...]:
    """The source files that models.yaml names for a model, relative to it."""
    baseline = (model.baseline.source,) if model.baseline else ()
    named = (model.source, model.inputs, *baseline)
    sources = (source for source in named if not isinstance(source, tuple))
    return (*(source.path for source in sources if source.path), *model.files)


def variable_parts(names: Iterable[str], environment: Mapping[str, str]) -> dict[str, str | None]:
    """Digests of the environment variables `names`. Not values: one may be a secret, and manifests
    are published."""
    return {
        name: digest_bytes(os.fsencode(environment[name])) if name in environment else None
        for name in sorted(names)
    }


def spec_parts(target: Target) -> dict[str, Any]:
    """What models.yaml says of a target and the export depends on, field by field. The tolerance is
    not part of it: it decides whether an artifact passes, not what it is.
    """
    model = target.model
    parts: dict[str, Any] = {
        "device": target.device,
        "source": str(model.source),
        "seed": model.seed,
        "reference_data.limit": model.reference_data_limit,
    }
    parts.update({f"kwargs.{name}": value for name, value in model.kwargs.items()})
    if order := _key_order(model.kwargs):
        parts[_KWARGS_ORDER] = order  # a factory with **kwargs sees it
    parts.update(_optional_parts(model))
    for dim in model.dims:
        parts.update(
            {
                f"dims.{dim.name}.{field}": value
                for field, value in asdict(dim).items()
                if field != "name"
            }
        )
    if not isinstance(model.inputs, tuple):
        parts["inputs"] = str(model.inputs)
    else:
        for index, entry in enumerate(model.inputs):
            for field, value in {**_input_parts(entry), "position": index}.items():
                parts[f"inputs.{entry.name or index}.{field}"] = value
    parts[f"{target.device}.{target.hardware.architecture_key}"] = target.architecture
    for option, value in target.device_options.items():
        parts[f"{target.device}.{option}"] = value
    return parts


def _optional_parts(model: Model) -> dict[str, Any]:
    """What only some models say. A key that models.yaml does not have is no part: a new one changes
    no other model."""
    parts: dict[str, Any] = {}
    if model.weights is not None:
        parts["weights"] = model.weights.file
        said = asdict(model.weights)
        parts.update(
            {
                f"weights.{field}": _json(value)
                for field, value in said.items()
                if value and field != "file"
            }
        )
    if model.strict:
        parts["strict"] = True
    for field in ("dtype", "method", "outputs"):
        value = getattr(model, field)
        if value is not None:
            parts[field] = value
    if model.imports:
        parts["imports"] = list(model.imports)
    if model.baseline is not None:
        parts["baseline"] = str(model.baseline.source)
        parts["baseline.kwargs"] = [dict(model.baseline.kwargs), _key_order(model.baseline.kwargs)]
    return parts


def _input_parts(entry: TensorInput | ConstantInput) -> dict[str, Any]:
    fields = asdict(entry)
    if "shape" in fields:
        fields["shape"] = list(fields["shape"])
    if fields.get("probability") is None:
        fields.pop("probability", None)
    return fields


def _json(value: Any) -> Any:
    """Tuples as lists, which they are after a manifest was read."""
    return [_json(inner) for inner in value] if isinstance(value, list | tuple) else value


def _key_order(value: Any) -> list[Any]:
    """The order of keys in nested mappings, which the canonical spelling of a part forgets. Empty
    if there is none."""
    if isinstance(value, Mapping):
        return [[name, _key_order(inner)] for name, inner in value.items()] if value else []
    if isinstance(value, list | tuple):
        orders = [_key_order(inner) for inner in value]
        return orders if any(orders) else []
    return []


def _differs(was: Mapping[str, Any], now: Mapping[str, Any], name: str) -> bool:
    """Whether a key sees another value: Python takes 1, 1.0 and True for equal, and absent for
    None; a key does not."""
    if name not in was or name not in now:
        return True
    old, new = was[name], now[name]
    if isinstance(old, str) and isinstance(new, str):
        return old != new  # most are, and spelling them takes its time
    return canonical_json(old) != canonical_json(new)
