"""What torch.export cannot take, in a sentence on what to change.

torch's own messages run to thousands of characters, most of them about its logging. They go to the
log with the traceback. What is shown instead is what torch ran into, the line of the model where it
did, and the next step.
"""

from __future__ import annotations

import contextlib
import linecache
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch

from aoti_build.errors import BuildError, UsageError

_CAUSE_LINES = 12
_PLACES = 3
_PACKAGE = str(Path(__file__).parents[2]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
_PYTHON = os.path.dirname(os.__file__) + os.sep


@dataclass(frozen=True)
class Place:
    """A line of code outside torch."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        text = linecache.getline(self.file, self.line).strip()
        return f"{_short(self.file)}:{self.line} in {self.function}" + (f": {text}" if text else "")


@dataclass
class Compared:
    """Where the model compared the sizes that models.yaml leaves open, as the tracer noted it:
    torch's expression for what it took to hold from then on, and the place."""

    guards: list[tuple[str, Place]] = field(default_factory=list)

    def places(self, wanted: Callable[[str], bool]) -> list[Place]:
        """The places of those expressions that are wanted, each once."""
        return list(dict.fromkeys(place for expression, place in self.guards if wanted(expression)))


@dataclass(frozen=True)
class Said:
    """One of torch's refusals: what of its message is known, the error itself, and the comparisons
    before it."""

    match: re.Match[str]
    error: Exception
    compared: Compared


@contextlib.contextmanager
def comparisons() -> Iterator[Compared]:
    """Note where the tracer takes a size for more than a symbol, while an export runs inside.

    It says so in its log alone ("[guard added]", at the level INFO; seen from 2.11 to 2.14), and at
    the end of an export no error knows the place any more.
    """
    found = Compared()
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level, shown = log.level, log.getEffectiveLevel()

    def note(record: logging.LogRecord) -> bool:
        guard = re.search(r"(?:eval|runtime_assert) (.+) \[guard added\]", record.getMessage())
        place = _calling_place(sys._getframe())
        if guard and place:
            found.guards.append((guard[1], place))
        return record.levelno >= shown

    log.addFilter(note)
    log.setLevel(min(shown, logging.INFO))
    try:
        yield found
    finally:
        log.setLevel(level)
        log.removeFilter(note)


def refuse_scripted(module: torch.nn.Module, where: str) -> None:
    """Raise `UsageError` for a module of TorchScript, or one that has such a part: torch.export
    takes Python code."""
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            what = f"its part {name} is" if name else "the factory returned"
            raise UsageError(
                f"{what} a ScriptModule, which torch.export does not take",
                where=where,
                cause="it was made by torch.jit.script, torch.jit.trace or torch.jit.load",
                hint=(
                    "return the nn.Module that it was made from; the state_dict of the ScriptModule"
                    " fits it, and can be saved for `weights`"
                ),
            )


def refused(error: Exception, where: str, compared: Compared) -> BuildError:
    """The error for a model that torch.export did not take."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    for pattern, explain in _KNOWN:
        if match := re.search(pattern, text, re.DOTALL):
            cause, hint = explain(Said(match, error, compared))
            break
    else:
        cause, hint = (
            _with_place(_gist(f"{type(error).__name__}: {text}"), error),
            "the log has the whole traceback",
        )
    return BuildError("the model cannot be exported", where=where, cause=cause, hint=hint)


def _unknown_output(said: Said) -> tuple[str, str]:
    kind, short = said.match["type"], said.match["type"].rpartition(".")[2]
    cause = f"the model returns a {kind}, a type that torch does not know as a container of tensors"
    if "cache" in short.lower():
        return (
            cause,
            (
                "let the model return no cache (`use_cache: false` in its config), or the cache's"
                " tensors"
            ),
        )
    return (
        cause,
        (
            "set `outputs: dict`, which takes dataclasses and named tuples apart; or register the"
            f" type beside the model (torch.export.register_dataclass({short})); or return a tuple"
            " or dict of tensors"
        ),
    )


def _unknown_input(said: Said) -> tuple[str, str]:
    kind = said.match["type"]
    return (
        f"the inputs hold a {kind}, which torch.export does not take",
        (
            "pass its tensors, and let forward make the object of them; or register the type beside"
            " the model (torch.export.register_dataclass)"
        ),
    )


def _depends_on_data(said: Said) -> tuple[str, str]:
    place = place_of(said.error)
    cause = f"the model decides by the values of a tensor ({said.match['expression']})"
    hint = (
        "a branch can be torch.where or torch.cond; steps whose number of results depends on the"
        " data (nms, nonzero, a mask as index) are left to the caller: let the model return what"
        " comes before them"
    )
    if said.match["what"] != "guard on":
        hint = "give that size as a number, or take it from the shape of an input"
    return cause + (f"\nat {place}" if place else ""), hint


def _fixed_dim(said: Said) -> tuple[str, str]:
    name, size = said.match["name"].removeprefix("_"), said.match["size"]
    places = said.compared.places(
        lambda guard: re.fullmatch(rf"Eq\(.*\b{size}\)", guard) is not None
    )
    return (
        f"the model fixes the dim {name} to {size}" + _listed(places),
        (
            f"if {size} is a constant of the model (a table of that length, a loop over the size, a"
            f" comparison with it), write {size} in the shape; else take the size from the input"
            " (x.shape[0])"
        ),
    )


def _suggested(said: Said) -> tuple[str, str]:
    lines = _gist(str(said.error)).splitlines()
    start = next(number for number, line in enumerate(lines) if "Suggested fix" in line)
    reasons = [line for line in lines[1:start] if line.lstrip().startswith("-")][:_CAUSE_LINES]
    fixes = lines[start : start + _CAUSE_LINES]
    cause = "\n".join([lines[0], *reasons, *fixes]) + _listed(
        said.compared.places(lambda guard: True)
    )
    if any("= Dim(" in fix for fix in fixes):
        return (
            cause,
            (
                "declare the range that torch suggests in the dims of models.yaml, or change what"
                " the model asks"
            ),
        )
    return (
        cause,
        "apply the suggested fix to the dims in models.yaml (`b = a` means: one dim for both)",
    )


def _no_fake(said: Said) -> tuple[str, str]:
    operator = next(filter(None, said.match.groups()))
    return (
        _with_place(f"the operator {operator} does not say which shape its result has", said.error),
        (
            "if it is your own, register that with torch.library.register_fake; else do this step"
            " before or after the call"
        ),
    )


def _leaves_torch(said: Said) -> tuple[str, str]:
    cause = _with_place("the model leaves torch: it asks for a NumPy array", said.error)
    return cause, "use torch's functions there, or do this step before or after the call"


Explain = Callable[[Said], tuple[str, str]]

# What torch says -> what to say of it. The messages are torch's from 2.11 to 2.14; the first that
# is found counts.
_KNOWN: tuple[tuple[str, Explain], ...] = (
    (r"Found <class '(?P<type>[^']+)'> in output, which is not a known type", _unknown_output),
    # torch 2.11 looks an output up by value.
    (r"unhashable type: '(?P<type>(?!list|dict|set)\w+)'", _unknown_output),
    (r"Unsupported input type <class '(?P<type>[^']+)'>", _unknown_input),
    (
        (
            r"Could not (?P<what>guard on|extract \w+ \w+ from) data-dependent expression"
            r" (?P<expression>.+?) \(unhinted"
        ),
        _depends_on_data,
    ),
    (r"Suggested fixes:\s+(?P<name>\w+) = (?P<size>\d+)\s*(?:\n\s*\n|\Z)", _fixed_dim),
    (r"Suggested fix", _suggested),
    (
        (
            r"There was no fake impl registered for"
            r" (?:<CustomOpDef\()?([\w:.]+)|\A([a-z_]\w*\.\w+\.\w+)\s*(?:\n|\Z)"
        ),
        _no_fake,
    ),
    (r"\.numpy\(\) is not supported for tensor subclasses", _leaves_torch),
)


def place_of(error: BaseException) -> Place | None:
    """The innermost line outside torch that raised the error."""
    frames = [
        (frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_models(frame)
    ]
    if not frames:
        return None
    frame, line = frames[-1]
    return Place(frame.f_code.co_filename, line, frame.f_code.co_name)


def _calling_place(frame: FrameType | None) -> Place | None:
    """The nearest caller outside torch."""
    while frame is not None and not _is_models(frame):
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name) if frame else None


def _is_models(frame: FrameType) -> bool:
    """Whether the code is the model's, or its library's: not torch's, this package's or Python's,
    nor made by torch.fx, whose file names begin with "<"."""
    file = frame.f_code.co_filename
    if file.startswith((_TORCH, _PACKAGE, "<")):
        return False
    return not file.startswith(_PYTHON) or "-packages" in file


def _with_place(text: str, error: Exception) -> str:
    place = place_of(error)
    return f"{text}\nat {place}" if place else text


def _listed(places: Iterable[Place]) -> str:
    return "".join(f"\nat {place}" for place in list(places)[:_PLACES])


# Lines of torch's messages about its own logging, which the log is for.
_NOISE = re.compile(
    r"^\s*(For (more|extended|C\+\+)|If you suspect the guard|The error above occurred when calling"
    r"|consider using data-dependent friendly)"
)
_ADVERT = re.compile(r" For more information, run with TORCH_LOGS=\S+$")


def _gist(text: str) -> str:
    """The head of torch's message, without what it says of its own logging."""
    lines = [
        _ADVERT.sub("", line)
        for line in text.splitlines()
        if line.strip() and not _NOISE.match(line)
    ]
    more = [f"... and {len(lines) - _CAUSE_LINES} more lines"] if len(lines) > _CAUSE_LINES else []
    return "\n".join([*lines[:_CAUSE_LINES], *more])


def _short(file: str) -> str:
    """The path below the directory that it was imported from, as far as that is known."""
    above = [
        entry for entry in sys.path if entry and file.startswith(entry.rstrip(os.sep) + os.sep)
    ]
    return os.path.relpath(file, max(above, key=len)) if above else file
