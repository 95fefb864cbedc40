"""What in a file of weights does not fit a model, name by name, and the rule of models.yaml that
would mend it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from aoti_build.models_file.project import Weights
from aoti_build.models_file.weights import renamed

_SHOWN = 5
_COMPARED = 400  # names that one is compared with: each comparison takes its time
_RULES = 3


@dataclass(frozen=True)
class Misfits:
    """`state` is the model's and `loaded` the file's, both by the model's names; `misshapen` has a
    sentence each."""

    state: Mapping[str, Any]
    loaded: Mapping[str, Any]
    missing: list[str]
    surplus: list[str]
    misshapen: Mapping[str, str]

    def __bool__(self) -> bool:
        return bool(self.missing or self.surplus or self.misshapen)

    def text(self, *, whole: bool = False) -> str:
        """A line for each name, or for the first of each kind."""
        lines = []
        for kind, names in (
            ("misshapen", list(self.misshapen)),
            ("missing", self.missing),
            ("surplus", self.surplus),
        ):
            shown = names if whole else names[:_SHOWN]
            lines += [self._line(kind, name) for name in shown]
            if len(names) > len(shown):
                lines.append(f"... and {len(names) - len(shown)} more {kind}")
        return "\n".join(lines)

    def _line(self, kind: str, name: str) -> str:
        if kind == "misshapen":
            return f"{name}: {self.misshapen[name]}"
        if kind == "missing":
            near = self._nearest(name, self.state, self.surplus, self.loaded)
            return f"missing from the file: {name} {_shape(self.state[name])}{near}"
        near = self._nearest(name, self.loaded, self.missing, self.state)
        return f"not in the model: {name} {_shape(self.loaded[name])}{near}"

    def _nearest(
        self, name: str, own: Mapping[str, Any], others: list[str], of: Mapping[str, Any]
    ) -> str:
        """What a name may be called on the other side, where the shape is the same."""
        same = [other for other in others[:_COMPARED] if _shape(of[other]) == _shape(own[name])]
        ends = [other for other in same if other.endswith(f".{name}") or name.endswith(f".{other}")]
        near = ends[:1] or get_close_matches(name, same, n=1)
        return f" (perhaps {near[0]})" if near else ""

    def rules(self, weights: Weights) -> Iterator[str]:
        """Sentences that say what to write into `weights`, the one that mends most first."""
        missing, surplus = set(self.missing), list(self.surplus)
        if prefix := self._prefix():
            fitting = [name for name in surplus if name.startswith(prefix)]
            many = (
                f"all {len(surplus)}"
                if len(fitting) == len(surplus)
                else f"{len(fitting)} of {len(surplus)}"
            )
            whole = (weights.prefix or "") + prefix
            yield (
                f"{many} names that do not fit begin with {prefix!r}: write `prefix:"
                f" {json.dumps(whole)}`"
            )
            return
        rename: dict[str, str] = {}
        while len(rename) < _RULES and (rule := self._rule(missing, surplus)):
            old, new, pairs = rule
            rename[old] = new
            missing -= set(pairs.values())
            surplus = [name for name in surplus if name not in pairs]
        if rename:
            after = " after the rules that are there" if weights.rename else ""
            yield f"write `rename: {json.dumps(rename)}`{after}"
        if self.misshapen:
            patterns = json.dumps(_patterns(list(self.misshapen)))
            yield (
                f"check kwargs (such as num_classes) and the file; `ignore: {patterns}` keeps what"
                " the callable makes"
            )
        if surplus and not missing:
            yield f"to pass over what the file has more: `ignore: {json.dumps(_patterns(surplus))}`"
        if missing and not rename:
            yield "what is missing: is it the right file, and do kwargs make the right model?"
            yield (
                f"`ignore: {json.dumps(_patterns(sorted(missing)))}` would keep what the callable"
                " makes"
            )

    def _prefix(self) -> str | None:
        """What stands in front of the names of a whole model, or of most of one."""
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
        fits_already = any(name in self.state for name in self.loaded)  # and would be taken away
        return prefix if 2 * count > len(missing) and not fits_already else None

    def _rule(
        self, missing: set[str], surplus: list[str]
    ) -> tuple[str, str, dict[str, str]] | None:
        """The renaming that brings most names together, each onto a missing one of its shape: (old,
        new, {name in the file: name in the model})."""
        by_end: dict[Any, list[str]] = {}
        for name in sorted(missing):
            by_end.setdefault((name.rpartition(".")[2], str(_shape(self.state[name]))), []).append(
                name
            )
        votes: Counter[tuple[str, str]] = Counter()
        for name in surplus:
            same = by_end.get((name.rpartition(".")[2], str(_shape(self.loaded[name]))), [])
            for other in same[:_COMPARED]:
                votes.update(_possible(name, other))
        best: tuple[str, str, dict[str, str]] | None = None
        for (old, new), _ in votes.most_common(20):
            pairs = self._pairs(old, new, missing, surplus)
            if pairs and (best is None or len(pairs) > len(best[2])):
                best = old, new, pairs
        return best

    def _pairs(self, old: str, new: str, missing: set[str], surplus: list[str]) -> dict[str, str]:
        moved = {name: renamed(name, [(old, new)]) for name in surplus}
        return {
            name: other
            for name, other in moved.items()
            if other != name
            and other in missing
            and _shape(self.loaded[name]) == _shape(self.state[other])
        }


def _possible(name: str, other: str) -> Iterator[tuple[str, str]]:
    """Rules that make `other` of `name`: another beginning; or, where both count layers, the same
    for every layer."""
    ours, theirs = name.split("."), other.split(".")
    shared = 0
    while shared < min(len(ours), len(theirs)) and ours[-1 - shared] == theirs[-1 - shared]:
        shared += 1
    old, new = ours[: len(ours) - shared], theirs[: len(theirs) - shared]
    numbers = [part for part in old if part.isdigit()]
    if numbers and numbers == [part for part in new if part.isdigit()]:
        yield _layers(old), _layers(new)
    yield ".".join([*old, ""]) if old else "", ".".join([*new, ""]) if new else ""


def _layers(parts: list[str]) -> str:
    return ".".join("*" if part.isdigit() else part for part in parts) + ".*"


def _patterns(names: list[str]) -> list[str]:
    """Patterns that fit the names: by their last part where that is one, else by their first, else
    the names."""
    ends = sorted({name.rpartition(".")[2] for name in names})
    if len(ends) == 1 and len(names) > 1:
        return [f"*{ends[0]}"]
    if len(names) <= _RULES:
        return sorted(names)
    tops = sorted({name.partition(".")[0] for name in names})
    return [f"{top}.*" for top in tops][:_SHOWN]


def _shape(value: Any) -> Any:
    return list(value.shape) if hasattr(value, "shape") else type(value).__name__
