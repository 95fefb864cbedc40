"""The names of a file of weights that do not fit a model, and the rules of models.yaml that would
make them fit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch

from aoti_build._torch.program.weights.model_state import State
from aoti_build.models_file.project import Weights
from aoti_build.models_file.weights import renamed

_SHOWN = 5
# Names with which one name is compared. Each comparison takes time, and some models have thousands.
_MAX_COMPARED = 400
_MAX_RULES = 3
# Possible renamings that are tried on all names, those that most pairs of names suggest.
_MAX_RENAMINGS_TRIED = 20


class _Renaming(NamedTuple):
    """The rule `old` -> `new`, and {name in the file: name in the model} of what it brings
    together."""

    old: str
    new: str
    pairs: dict[str, str]


@dataclass(frozen=True)
class Misfits:
    """Names that do not fit.

    `state` is the model's and `loaded` the file's, both by the model's names. `misshapen` has a
    sentence for each name.
    """

    state: State
    loaded: State
    missing: list[str]
    surplus: list[str]
    misshapen: Mapping[str, str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus or self.misshapen)

    def text(self, *, all_names: bool = False) -> str:
        """A line for each name, or for the first few of each kind."""
        kinds = (
            ("misshapen", list(self.misshapen), self._misshapen_line),
            ("missing", self.missing, self._missing_line),
            ("surplus", self.surplus, self._surplus_line),
        )
        lines = []
        for kind, names, line_of in kinds:
            shown = names if all_names else names[:_SHOWN]
            for name in shown:
                lines.append(line_of(name))
            hidden = len(names) - len(shown)
            if hidden:
                lines.append(f"... and {hidden} more {kind}")
        return "\n".join(lines)

    def _misshapen_line(self, name: str) -> str:
        return f"{name}: {self.misshapen[name]}"

    def _missing_line(self, name: str) -> str:
        shape = _shape(self.state[name])
        near = _nearest(name, shape, self.surplus, self.loaded)
        return f"missing from the file: {name} {shape}{near}"

    def _surplus_line(self, name: str) -> str:
        shape = _shape(self.loaded[name])
        near = _nearest(name, shape, self.missing, self.state)
        return f"not in the model: {name} {shape}{near}"

    def rules(self, weights: Weights) -> Iterator[str]:
        """Sentences that say what to write into `weights`, the most effective one first."""
        prefix = self._common_prefix()
        if prefix is not None:
            # Other rules would be about names that this one changes.
            yield self._prefix_rule(prefix, weights)
            return
        renamings = self._renamings()
        if renamings:
            rename = {renaming.old: renaming.new for renaming in renamings}
            after = " after the rules that are there" if weights.rename else ""
            yield f"write `rename: {json.dumps(rename)}`{after}"
        if any(self._has_other_dtype(name) for name in self.misshapen):
            yield (
                "the file has the weights of a quantised model, or of another one: let the callable"
                " make that model, or save the weights in the model's own types"
            )
        elif self.misshapen:
            patterns = json.dumps(_patterns(list(self.misshapen)))
            yield (
                f"check kwargs (such as num_classes) and the file; `ignore: {patterns}` keeps what"
                " the callable makes"
            )
        missing, surplus = self._without_renamed(renamings)
        if surplus and not missing:
            patterns = json.dumps(_patterns(surplus))
            yield f"to ignore the names that only the file has, write `ignore: {patterns}`"
        if missing and not renamings:
            yield "check that this is the right file, and that kwargs make the right model"
            patterns = json.dumps(_patterns(sorted(missing)))
            yield f"`ignore: {patterns}` would keep what the callable makes"

    def _prefix_rule(self, prefix: str, weights: Weights) -> str:
        total = len(self.surplus)
        count = sum(name.startswith(prefix) for name in self.surplus)
        names = f"all {total}" if count == total else f"{count} of {total}"
        # The rule replaces the one that is there, which has taken its own part away.
        full_prefix = json.dumps((weights.prefix or "") + prefix)
        return f"{names} names that do not fit begin with {prefix!r}: write `prefix: {full_prefix}`"

    def _common_prefix(self) -> str | None:
        """The prefix of a model's names in the file: of all of them, or of most."""
        if any(name in self.state for name in self.loaded):
            return None  # `prefix` would drop the names that fit already
        counts: Counter[str] = Counter()
        missing = set(self.missing)
        for name in self.surplus:
            parts = name.split(".")
            for index in range(1, len(parts)):
                if ".".join(parts[index:]) in missing:
                    counts[".".join(parts[:index]) + "."] += 1
        if not counts:
            return None
        prefix, count = counts.most_common(1)[0]
        return prefix if 2 * count > len(missing) else None

    def _renamings(self) -> list[_Renaming]:
        """The most effective rules of `rename`, each for the names that those before it leave."""
        renamings: list[_Renaming] = []
        while len(renamings) < _MAX_RULES:
            missing, surplus = self._without_renamed(renamings)
            used = {renaming.old for renaming in renamings}
            renaming = self._best_renaming(missing, surplus, used)
            if renaming is None:
                break
            renamings.append(renaming)
        return renamings

    def _has_other_dtype(self, name: str) -> bool:
        """Whether only the kind of dtype differs, as of integers in the place of floats."""
        value, target = self.loaded.get(name), self.state.get(name)
        if not isinstance(value, torch.Tensor) or not isinstance(target, torch.Tensor):
            return False
        return value.shape == target.shape and value.dtype != target.dtype

    def _without_renamed(self, renamings: list[_Renaming]) -> tuple[set[str], list[str]]:
        """The missing and the surplus names that do not fit after `renamings` either."""
        missing, surplus = set(self.missing), list(self.surplus)
        for renaming in renamings:
            missing -= set(renaming.pairs.values())
            surplus = [name for name in surplus if name not in renaming.pairs]
        return missing, surplus

    def _best_renaming(
        self,
        missing: set[str],
        surplus: list[str],
        used: set[str],
    ) -> _Renaming | None:
        """The renaming that brings most names onto missing ones of their shape. The key of a rule
        cannot be `used` twice."""
        best: _Renaming | None = None
        votes = self._possible_renamings(missing, surplus)
        for (old, new), _ in votes.most_common(_MAX_RENAMINGS_TRIED):
            if old in used:
                continue
            pairs = self._pairs(old, new, missing, surplus)
            if pairs and (best is None or len(pairs) > len(best.pairs)):
                best = _Renaming(old, new, pairs)
        return best

    def _possible_renamings(
        self,
        missing: set[str],
        surplus: list[str],
    ) -> Counter[tuple[str, str]]:
        """Renamings of a surplus name to a missing one with the same last part and shape, with how
        many such pairs suggest each."""
        by_ending: dict[tuple[str, str], list[str]] = {}
        for name in sorted(missing):
            by_ending.setdefault(_ending(name, self.state), []).append(name)
        votes: Counter[tuple[str, str]] = Counter()
        for name in surplus:
            candidates = by_ending.get(_ending(name, self.loaded), [])
            for candidate in candidates[:_MAX_COMPARED]:
                votes.update(_rules_between(name, candidate))
        return votes

    def _pairs(self, old: str, new: str, missing: set[str], surplus: list[str]) -> dict[str, str]:
        """Surplus names that one rule brings onto missing names of their shape."""
        pairs = {}
        for name in surplus:
            new_name = renamed(name, [(old, new)])
            if new_name == name or new_name not in missing:
                continue
            if _shape(self.loaded[name]) == _shape(self.state[new_name]):
                pairs[name] = new_name
        return pairs


def _nearest(name: str, shape: Any, candidates: list[str], values: State) -> str:
    """The probable name of a tensor on the other side, in words; empty if none has its shape."""
    same_shape = []
    for candidate in candidates[:_MAX_COMPARED]:
        if _shape(values[candidate]) == shape:
            same_shape.append(candidate)
    for candidate in same_shape:
        if candidate.endswith(f".{name}") or name.endswith(f".{candidate}"):
            return f" (perhaps {candidate})"
    matches = get_close_matches(name, same_shape, n=1)
    return f" (perhaps {matches[0]})" if matches else ""


def _ending(name: str, values: State) -> tuple[str, str]:
    """The last part of a name, with the shape of its tensor as text."""
    return name.rpartition(".")[2], str(_shape(values[name]))


def _rules_between(file_name: str, model_name: str) -> Iterator[tuple[str, str]]:
    """Rules of `rename` that turn one name into the other.

    One replaces the beginning. If both names have the same numbers of layers, another one does that
    for every layer.
    """
    file_parts = file_name.split(".")
    model_parts = model_name.split(".")
    shared_count = _shared_ending(file_parts, model_parts)
    old = file_parts[: len(file_parts) - shared_count]
    new = model_parts[: len(model_parts) - shared_count]
    old_layers = _layer_numbers(old)
    if old_layers and old_layers == _layer_numbers(new):
        yield _with_any_layer(old), _with_any_layer(new)
    yield _as_prefix(old), _as_prefix(new)


def _layer_numbers(parts: list[str]) -> list[str]:
    return [part for part in parts if part.isdigit()]


def _shared_ending(first: list[str], second: list[str]) -> int:
    """How many parts at the end of two names are equal."""
    shared = 0
    for first_part, second_part in zip(reversed(first), reversed(second), strict=False):
        if first_part != second_part:
            break
        shared += 1
    return shared


def _as_prefix(parts: list[str]) -> str:
    return ".".join(parts) + "." if parts else ""


def _with_any_layer(parts: list[str]) -> str:
    pattern_parts = ["*" if part.isdigit() else part for part in parts]
    return ".".join(pattern_parts) + ".*"


def _patterns(names: list[str]) -> list[str]:
    """Patterns for `ignore`: one for a common last part, else the names if they are few, else their
    first parts."""
    last_parts = {name.rpartition(".")[2] for name in names}
    if len(last_parts) == 1 and len(names) > 1:
        return [f"*{last_parts.pop()}"]
    if len(names) <= _MAX_RULES:
        return sorted(names)
    first_parts = sorted({name.partition(".")[0] for name in names})
    return [f"{first_part}.*" for first_part in first_parts[:_SHOWN]]


def _shape(value: Any) -> Any:
    """The shape of a tensor as a list; of any other value, the name of its type."""
    return list(value.shape) if hasattr(value, "shape") else type(value).__name__
