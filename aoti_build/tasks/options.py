"""The options of the tasks: what `--help` says of each, and readers for their texts.

An option is a string or a flag: invoke's own conversion of a bad number ends in a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from invoke import Task, task

from aoti_build.errors import UsageError

SIZES: Mapping[str, int] = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
AGES: Mapping[str, int] = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

# Option -> its help, or task.option -> what the option means there.
_HELP: Mapping[str, str] = {
    "target": "globs over target names, comma separated; a model's name means all its variants",
    "file": (
        "the models.yaml to use; default: the one beside tasks.py, or above the current directory"
    ),
    "json": "print one JSON document on stdout, everything else on stderr",
    "jobs": "workers at once; default: as cores and memory allow",
    "force": "build even what is up to date",
    "keep-going": "after a failure go on with the other targets",
    "dry-run": "only say what would be done",
    "strict": "a missing device or check (and, in verify, an out-of-date artifact) is a failure",
    "check-reproducible": "compile every target once more from nothing; other bytes are a failure",
    "fresh": "let eager give the references now, from the model's source, not at build time",
    "seeds": "verify with this many random inputs for each size; above 1, as --fresh",
    "timeout": "seconds that each process may take; default: 600",
    "localize": (
        "of what fails, find the first module that differs, or the weights; may compile prefixes of"
        " the model"
    ),
    "runtime": (
        "python, or cpp: call packages from a C++ program made with the installed torch; default:"
        " python"
    ),
    "repro": (
        "of what fails, write a script with inputs that shows it with plain torch, below this"
        " directory"
    ),
    "junit": "write the result as JUnit XML to this file, for CI",
    "html": "write the result as one page to this file",
    "debug": "show the traceback of an error",
    "input": (
        "comma separated: random, or files of tensors (.npy .npz .safetensors .pt) or images"
        " (.png .jpg .jpeg .webp .bmp); default: the reference input"
    ),
    "seed": "of random inputs; default: 1",
    "repeat": "timed calls; default: 10",
    "max-size": "bytes the store may have, with k, m, g or t: 20g",
    "max-age": "remove what was not used for this long, with s, m, h, d or w: 30d",
    "path": "a .pt2 file, made by whomever",
    "host": "also which variant of each model this host would load, and why not the others",
    "diff": "compare with this one: a .pt2 file, or a target",
    "orphans": "only artifacts that models.yaml no longer lists",
    "output": "where to write the schema; default: stdout",
    "device": "comma separated: cpu, cuda; default: both, and a missing GPU is no failure",
    "quick": (
        "compile no model: the checks that build makes before its first compile, and a few more"
    ),
    "doctor.strict": "a missing device is a failure",
    "run.output": (
        "a .safetensors, .npz or .pt file for the outputs; {target} and {input} in it stand for"
        " their names"
    ),
}


def command(body: Callable[..., None]) -> Task[Callable[..., None]]:
    """`invoke.task` for a function each of whose parameters, after the context, is an option that
    has a help."""
    # Not inspect.signature, of which ten cost more than all else in this module.
    names = [
        name.replace("_", "-") for name in body.__annotations__ if name not in ("context", "return")
    ]
    made: Task[Callable[..., None]] = task(
        help={name: _HELP.get(f"{body.__name__}.{name}") or _HELP[name] for name in names}
    )(body)
    return made


def whole(option: str, text: str, *, least: int = 1) -> int | None:
    """A number of at most nine digits, since more is a slip, whatever it counts; None for no
    text."""
    if not text:
        return None
    if not (_is_number(text) and len(text) < 10 and int(text) >= least):
        raise UsageError(f"{option} {text}: not a whole number from {least} to 999999999")
    return int(text)


def words(option: str, text: str) -> tuple[str, ...]:
    found = tuple(word for part in text.split(",") if (word := part.strip()))
    if text and not found:
        raise UsageError(f"{option} {text}: names nothing")
    return found


def amount(option: str, text: str, units: Mapping[str, int]) -> int | None:
    """``10G`` or ``30d`` in bytes or seconds; None for no text."""
    if not text:
        return None
    number, unit = (text[:-1], text[-1].lower()) if not text[-1].isdigit() else (text, "")
    if not _is_number(number) or len(number) > 18 or unit not in units:
        known = ", ".join(name for name in units if name)
        raise UsageError(f"{option} {text}: not a whole number with one of the units {known}")
    return int(number) * units[unit]


def _is_number(text: str) -> bool:
    """Digits as one types them; int() takes other scripts' too."""
    return text.isascii() and text.isdecimal()
