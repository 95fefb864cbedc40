"""Errors for models that torch.export refuses, each with a sentence on what to change.

torch's own messages run to thousands of characters, most of them about its logging. They go to the
log with the traceback. The error has the reason instead, the line of the model, and the next step.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import torch

from aoti_build._torch.program.code_lines import CodeLine, calling_line, listed, with_line
from aoti_build.errors import BuildError, UsageError, without_escapes

_MAX_CAUSE_LINES = 12


class Guard(NamedTuple):
    """torch's expression for a condition that holds from a line of code on."""

    expression: str
    line: CodeLine


@dataclass
class RecordedGuards:
    """The conditions on sizes that the tracer noted while it traced the model."""

    entries: list[Guard] = field(default_factory=list)

    def lines(self, predicate: Callable[[str], bool] | None = None) -> list[CodeLine]:
        """The lines whose expression fulfils the predicate, by default all, each once."""
        lines: dict[CodeLine, None] = {}
        for guard in self.entries:
            if predicate is None or predicate(guard.expression):
                lines[guard.line] = None
        return list(lines)


@dataclass(frozen=True)
class Refusal:
    """An error of torch.export: the match of its message, the error, and the conditions before
    it."""

    match: re.Match[str]
    error: Exception
    guards: RecordedGuards


class Explanation(NamedTuple):
    """Why torch refuses the model, and what to change."""

    cause: str
    hint: str


@contextlib.contextmanager
def recorded_guards() -> Iterator[RecordedGuards]:
    """Record the conditions on sizes that the tracer adds in an export inside.

    An error at the end of an export no longer has the line of code. Only the log of
    torch/fx/experimental/symbolic_shapes.py does: it has "[guard added]" at the level INFO (torch
    2.11 to 2.14), while that line is being traced.
    """
    guards = RecordedGuards()
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    original_level = log.level
    shown_level = log.getEffectiveLevel()

    def record_guard(record: logging.LogRecord) -> bool:
        match = re.search(r"(?:eval|runtime_assert) (.+) \[guard added\]", record.getMessage())
        line = calling_line(sys._getframe())
        if match and line:
            guards.entries.append(Guard(match[1], line))
        # The lower level below must not make the log longer.
        return record.levelno >= shown_level

    log.addFilter(record_guard)
    log.setLevel(min(shown_level, logging.INFO))
    try:
        yield guards
    finally:
        log.setLevel(original_level)
        log.removeFilter(record_guard)


def refuse_scripted(module: torch.nn.Module, where: str) -> None:
    """Raise `UsageError` for a module of TorchScript, or one with such a part. torch.export takes
    Python code only."""
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            subject = f"its part {name} is" if name else "the factory returned"
            raise UsageError(
                f"{subject} a ScriptModule, which torch.export does not take",
                where=where,
                cause="it was made by torch.jit.script, torch.jit.trace or torch.jit.load",
                hint="return the nn.Module that it was made from; the state_dict of the"
                " ScriptModule fits it, and can be saved for `weights`",
            )


def export_error(error: Exception, where: str, guards: RecordedGuards) -> BuildError:
    """The error for a model that torch.export did not take."""
    explanation = _explain(error, guards)
    return BuildError(
        "the model cannot be exported",
        where=where,
        cause=explanation.cause,
        hint=explanation.hint,
    )


def _explain(error: Exception, guards: RecordedGuards) -> Explanation:
    text = without_escapes(str(error)).strip()
    for pattern, explain in _EXPLANATIONS:
        match = re.search(pattern, text, re.DOTALL)
        if match:
            return explain(Refusal(match, error, guards))
    summary = _shortened(f"{type(error).__name__}: {text}")
    return Explanation(with_line(summary, error), "the log has the whole traceback")


def _unknown_output(refusal: Refusal) -> Explanation:
    kind = refusal.match["type"]
    short_name = kind.rpartition(".")[2]
    cause = f"the model returns a {kind}, a type that torch does not know as a container of tensors"
    if "cache" in short_name.lower():
        return Explanation(
            cause,
            "let the model return no cache (`use_cache: false` in its config), or the cache's"
            " tensors",
        )
    return Explanation(
        cause,
        "set `outputs: dict`, which takes dataclasses and named tuples apart; or register the type"
        f" in the model's file (torch.export.register_dataclass({short_name})); or return a tuple"
        " or dict of tensors",
    )


def _unknown_input(refusal: Refusal) -> Explanation:
    return Explanation(
        f"the inputs hold a {refusal.match['type']}, which torch.export does not take",
        "pass its tensors, and let forward make the object of them; or register the type in the"
        " model's file (torch.export.register_dataclass)",
    )


def _depends_on_data(refusal: Refusal) -> Explanation:
    cause = f"the model decides by the values of a tensor ({refusal.match['expression']})"
    hint = (
        "a branch can be torch.where or torch.cond; steps whose number of results depends on the"
        " data (nms, nonzero, a mask as index) are left to the caller: let the model return what"
        " comes before them"
    )
    if refusal.match["what"] != "guard on":
        hint = "give that size as a number, or take it from the shape of an input"
    return Explanation(with_line(cause, refusal.error), hint)


def _fixed_dim(refusal: Refusal) -> Explanation:
    # The root of a dim has a name with an underscore where it is not the dim itself.
    name = refusal.match["name"].removeprefix("_")
    size = refusal.match["size"]

    def is_equality(expression: str) -> bool:
        return re.fullmatch(rf"Eq\(.*\b{size}\)", expression) is not None

    lines = listed(refusal.guards.lines(is_equality))
    return Explanation(
        f"the model fixes the dim {name} to {size}{lines}",
        f"if {size} is a constant of the model (a table of that length, a loop over the size, a"
        f" comparison with it), write {size} in the shape; else take the size from the input"
        " (x.shape[0])",
    )


def _suggested(refusal: Refusal) -> Explanation:
    lines = _shortened(str(refusal.error)).splitlines()
    start = next(number for number, line in enumerate(lines) if "Suggested fix" in line)
    reasons = [line for line in lines[1:start] if line.lstrip().startswith("-")]
    fixes = lines[start : start + _MAX_CAUSE_LINES]
    summary = "\n".join([lines[0], *reasons[:_MAX_CAUSE_LINES], *fixes])
    cause = summary + listed(refusal.guards.lines())
    if any("= Dim(" in fix for fix in fixes):
        return Explanation(
            cause,
            "declare the range that torch suggests in the dims of models.yaml, or change what the"
            " model asks",
        )
    return Explanation(
        cause,
        "apply the suggested fix to the dims in models.yaml (`b = a` means: one dim for both)",
    )


def _no_fake(refusal: Refusal) -> Explanation:
    operator = next(filter(None, refusal.match.groups()))
    cause = f"the operator {operator} does not say which shape its result has"
    return Explanation(
        with_line(cause, refusal.error),
        "if it is your own, register that with torch.library.register_fake; else do this step"
        " before or after the call",
    )


def _leaves_torch(refusal: Refusal) -> Explanation:
    cause = "the model leaves torch: it asks for a NumPy array"
    return Explanation(
        with_line(cause, refusal.error),
        "use torch's functions there, or do this step before or after the call",
    )


Explain: TypeAlias = Callable[[Refusal], Explanation]

# Patterns of torch's messages (2.11 to 2.14). The first one that matches counts.
_EXPLANATIONS: tuple[tuple[str, Explain], ...] = (
    # torch/_functorch/_aot_autograd/utils.py
    (r"Found <class '(?P<type>[^']+)'> in output, which is not a known type", _unknown_output),
    # torch 2.11 looks an output up by value.
    (r"unhashable type: '(?P<type>(?!list|dict|set)\w+)'", _unknown_output),
    # torch/_export/non_strict_utils.py
    (r"Unsupported input type <class '(?P<type>[^']+)'>", _unknown_input),
    # torch/fx/experimental/symbolic_shapes.py
    (
        (
            r"Could not (?P<what>guard on|extract \w+ \w+ from) data-dependent expression"
            r" (?P<expression>.+?) \(unhinted"
        ),
        _depends_on_data,
    ),
    # torch/fx/experimental/symbolic_shapes.py: a single fix, which is a number
    (r"Suggested fixes:\s+(?P<name>\w+) = (?P<size>\d+)\s*(?:\n\s*\n|\Z)", _fixed_dim),
    (r"Suggested fix", _suggested),
    # torch/_library/custom_ops.py; other operators give their name alone
    (
        (
            r"There was no fake impl registered for"
            r" (?:<CustomOpDef\()?([\w:.]+)|\A([a-z_]\w*\.\w+\.\w+)\s*(?:\n|\Z)"
        ),
        _no_fake,
    ),
    (r"\.numpy\(\) is not supported for tensor subclasses", _leaves_torch),
)


# Lines of torch's messages about its own logging, which are for the log only.
_LOGGING_ADVICE = re.compile(
    r"^\s*(For (more|extended|C\+\+)|If you suspect the guard|The error above occurred when calling"
    r"|consider using data-dependent friendly)"
)
_LOGGING_ADVICE_AT_END = re.compile(r" For more information, run with TORCH_LOGS=\S+$")


def _shortened(text: str) -> str:
    """The first lines of torch's message, without those about its own logging."""
    lines = []
    for line in text.splitlines():
        if line.strip() and not _LOGGING_ADVICE.match(line):
            lines.append(_LOGGING_ADVICE_AT_END.sub("", line))
    shown = lines[:_MAX_CAUSE_LINES]
    hidden = len(lines) - len(shown)
    if hidden:
        shown.append(f"... and {hidden} more lines")
    return "\n".join(shown)
