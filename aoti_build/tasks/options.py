"""The options of the tasks: their names, their help texts, and functions that read their values.

Every option is a string or a flag. If invoke itself converted a wrong number, it would print a
traceback.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from invoke import Argument, Task, task

from aoti_build.errors import UsageError
from aoti_build.tasks.naming import running_program

# Bytes, and seconds, by the unit that ends an amount.
SIZES: Mapping[str, int] = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
AGES: Mapping[str, int] = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

_MOST_PERCENT = 99

# The one-letter names. invoke would give one to every option, the first letter that is free: -j
# would then mean --json, and -h another option than --help.
SHORT_NAMES: Mapping[str, str] = {"file": "f", "jobs": "j", "target": "t"}

# The help of each option. A name such as task.option is for an option with another meaning there.
_HELP: Mapping[str, str] = {
    "target": (
        "Choose targets by globs, separated by commas. The name of a model means all its variants."
    ),
    "file": (
        "Use this models.yaml. Default: the one next to tasks.py, or the nearest one from the"
        " current directory upwards."
    ),
    "root": (
        "Take this directory for the project's root. Default: `root:` in models.yaml, or the"
        " directory of models.yaml."
    ),
    "artifacts": (
        "Take this directory for the artifacts. Default: `artifacts:` in models.yaml, or artifacts"
        " below the root."
    ),
    "history": (
        "Take this directory for the history of benchmarks. Default: `history:` in models.yaml, or"
        " none."
    ),
    "csv": (
        "Also write the series to this file, for Apache Otava. {target} and {machine} in its name"
        " are replaced."
    ),
    "json": "Print one JSON document on stdout, and everything else on stderr.",
    "jobs": (
        "Run this many workers at once. Default: for build as many as cores and memory allow, for"
        " verify one."
    ),
    "force": "Compile even what is up to date or in the store.",
    "keep-going": "Continue with the other targets after a failure.",
    "dry-run": "Only show what would be done.",
    "strict": (
        "Treat a missing device and a missing comparison as a failure. In verify also an artifact"
        " that is out of date, a vacuous comparison, and skipped cases."
    ),
    "check-reproducible": (
        "Compile every target once more without the store. Different bytes are a failure."
    ),
    "profile": "Also print the critical path of the build, and its ten longest steps.",
    "fresh": (
        "Compute the eager-mode references now, from the model's source. Default: use those from"
        " build time."
    ),
    "seeds": "Verify with this many random inputs for each size. More than 1 implies --fresh.",
    "timeout": "Stop each process after this many seconds. Default: 600.",
    "localize": (
        "For an artifact that fails, find the weights or the first module that differ. This may"
        " compile parts of the model."
    ),
    "runtime": (
        "Call packages from Python (python), or from a C++ program that uses the installed torch"
        " (cpp). Default: python."
    ),
    "cuda-graphs": (
        "Replay the calls of GPU packages from CUDA graphs, as load(..., cuda_graphs=True) does."
    ),
    "repro": (
        "For an artifact that fails, write a script below this directory. It shows the failure with"
        " plain torch."
    ),
    "release": (
        "Verify this directory of a release: its signature, its files, then its packages. This"
        " needs no models.yaml and no sources."
    ),
    "public-key": (
        "Require a signature of the release by this key: a PEM file with a public key or a"
        " certificate, or a directory of such files. Repeat the option for each further one."
        " Default: the keys in /etc/aoti_build/trusted-keys."
    ),
    "revoked": (
        "Refuse signatures by the keys whose fingerprints this file lists, one a line. A file"
        " `revoked` in a directory of keys counts as well."
    ),
    "identity": (
        "Require a keyless signature of the release by this identity: the whole name in its"
        " certificate, such as an address of e-mail or the URI of a CI job."
    ),
    "identity-provider": "The URL of the provider that must have vouched for the identity.",
    "trusted-root": (
        "The file with the keys of a Sigstore instance. Default: those of the public instance, from"
        " the installed package sigstore."
    ),
    "min-version": "Refuse a release that is older than this version.",
    "unsigned": "Use a release without its signature. Nothing then proves who made it.",
    "junit": "Write the result as JUnit XML to this file, for CI.",
    "html": "Write the result as an HTML page to this file.",
    "out": "Write the page to this file. Default: report.html, unless --markdown or --json is set.",
    "markdown": "Write the report as Markdown to this file, or to stdout (-).",
    "debug": "Print the traceback of an error.",
    "input": (
        "Run on these inputs, separated by commas: random, files of tensors (.npy .npz .safetensors"
        " .pt), or images (.png .jpg .jpeg .webp .bmp). Default: the reference input."
    ),
    "seed": "Draw random inputs with this seed. Default: 1.",
    "repeat": "Time this many calls. Default: 10.",
    "budget": (
        "Measure for this long at most, with a unit of s, m, h, d or w. What does not fit is left"
        " untried. Default: 20m."
    ),
    "allow": (
        "Also try candidates that lower the precision in these ways, separated by commas: tf32,"
        " reduced_precision."
    ),
    "peers": "Also time ONNX Runtime and OpenVINO, where they are installed.",
    "band": "Take ratios within this many percent of 1 for no difference. Default: 3.",
    "ways": (
        "Measure these ways to run the model, separated by commas: artifact, graphs,"
        " aoti_load_package, eager, compile, reduce-overhead, onnxruntime, openvino."
    ),
    "samples": "Take this many samples of each way that is not slow. Default: 8.",
    "seconds": "Time the calls of each sample for this many seconds. Default: 1.",
    "threads": "Let torch use this many threads. Default: one for each processor.",
    "against": (
        "Measure this earlier package beside the present one, and fail if the present one is"
        " worse: a directory, a key of the store, or a git revision."
    ),
    "fail-if": (
        "Fail only above these ratios to the base, such as steady>1.05,first>1.2,size>1.05. The"
        " metrics are steady, first, size and memory."
    ),
    "bench.strict": "Treat a missing device and an unknown verdict as a failure.",
    "bench.cuda-graphs": "Compare the artifacts as they are replayed from CUDA graphs.",
    "bench.peers": "Also measure ONNX Runtime and OpenVINO, where they are installed.",
    "max-size": "Limit the store to this many bytes, with a unit of k, m, g or t: 20g.",
    "max-age": "Remove what was not used for this long, with a unit of s, m, h, d or w: 30d.",
    "path": "Inspect this .pt2 file, from any source.",
    "all": "Show everything. Default: what fits on the terminal.",
    "host": "Also show which variant of each model this host would load, and why not the others.",
    "diff": "Compare with this .pt2 file or target.",
    "orphans": "Remove only artifacts that models.yaml no longer lists.",
    "output": "Write the schema to this file. Default: stdout.",
    "directory": "The new directory, or an empty one.",
    "quiet": "Print no progress. Errors and warnings still go to stderr, and results to stdout.",
    "check": "Exit with 3 if there is something to build. Nothing is built.",
    "device": (
        "Check for these devices, separated by commas: cpu, cuda. Default: both, and a missing GPU"
        " is no failure."
    ),
    "quick": (
        "Compile no model. Make only the checks that build makes before its first compile, and a"
        " few more."
    ),
    "source": "Build this callable: module:callable, or path/to/file.py:callable.",
    "shape": "Shape of an input, such as 8,256. Repeat the option for each further input.",
    "dtype": "The dtypes of the inputs, separated by commas; one is for all. Default: float32.",
    "name": "Give the model this name.",
    "init.device": "Build for these devices, separated by commas: cpu, cuda. Default: cpu.",
    "init.file": "Write this file. Default: models.yaml next to tasks.py, or in this directory.",
    "version": (
        "The version of the release, such as 1.4.0 or 1.4.0rc1. It must come after that of"
        " --previous."
    ),
    "release.out": "Write the bundle to this directory, which must not exist.",
    "sign": "Sign the bundle with the private key in this file (PEM).",
    "sign-passphrase": "The environment variable with the passphrase of an encrypted key.",
    "sign-certificates": (
        "Sign with these PEM files of certificates, separated by commas. The first begins with that"
        " of the key."
    ),
    "sign-sigstore": (
        "Sign the bundle without a key: by the identity token of this CI service, with Sigstore."
        " The identity and the signature become public for ever."
    ),
    "identity-token-file": "Take the identity token from this file, which only you can read.",
    "trust-config": (
        "Sign with the Sigstore instance of this client trust configuration. Default: the public"
        " instance."
    ),
    "previous": (
        "The release before this one: its directory, or its release.json. The notes say what"
        " differs."
    ),
    "allow-dirty": (
        "Release also from files that differ from the commit, and without a git checkout."
    ),
    "archive": "Also write the bundle into this file, which ends in .tar.zst or .tar.gz.",
    "release.against": (
        "Measure this earlier package beside the present one, and release nothing if the present"
        " one is worse: a directory, a key of the store, or a git revision."
    ),
    "release.fail-if": (
        "Release nothing only above these ratios to that package, such as steady>1.05,first>1.2."
    ),
    "release.push": (
        "Also upload the bundle to this address in a registry, with a tag:"
        " oci://host/repository:tag."
    ),
    "address": "The address in a registry: oci://host[:port]/repository:tag.",
    "release_push.directory": "The directory of the release.",
    "release_push.replace": "Let the tag name this release, also if it names something else now.",
    "release_pull.address": (
        "The address in a registry: oci://host[:port]/repository:tag, or with @sha256:... in place"
        " of the tag or after it."
    ),
    "release_pull.out": "Write the release to this directory, which must not exist.",
    "release_pull.public-key": (
        "Accept the release only if one of these keys or certificates signed it: PEM files or"
        " directories of them, separated by commas."
    ),
    "insecure": "Ask the registry over http, without encryption. On this host that is the default.",
    "old": "The earlier release: its directory, or its release.json.",
    "new": "The later release: its directory, or its release.json.",
    "release_diff.fail-if": (
        "Fail above these limits, such as size>1.1,drift>1e-3,removed>0. Ratios: size, steady,"
        " first, memory. Relative error: drift. Counts: added, removed, changed, libraries,"
        " licences."
    ),
    "release_diff.run": (
        "Also call the packages of both releases with the same inputs, and compare their answers."
        " The signatures are verified first."
    ),
    "release_diff.public-key": (
        "With --run: require signatures of both releases by this key, a PEM file with a public key"
        " or a certificate, or a directory of such files. Repeat the option for each further one."
        " Default: the keys in /etc/aoti_build/trusted-keys."
    ),
    "release_diff.unsigned": (
        "With --run: call packages whose signature was not verified. Nothing then proves who made"
        " them."
    ),
    "release_diff.strict": "Treat a limit whose figure is missing as a failure.",
    "doctor.strict": "Treat a missing device as a failure.",
    "run.release": (
        "Run the packages of this directory of a release, after its signature and its files were"
        " verified. This needs no models.yaml and no sources."
    ),
    "run.output": (
        "Write the outputs to this .safetensors, .npz or .pt file. {target} and {input} in its name"
        " are replaced."
    ),
}


BodyT = TypeVar("BodyT", bound=Callable[..., None])


class _Task(Task[BodyT]):
    """A task whose options have the one-letter names of `SHORT_NAMES`, and no others.

    Where the command line asks for help of the task, no argument is positional. invoke would take
    ``--help`` for the argument.
    """

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        arguments = super().get_arguments(ignore_unknown_help)
        is_help_wanted = _is_help_wanted(self.__name__)
        for argument in arguments:
            short_name = SHORT_NAMES.get(argument.names[0])
            if short_name is not None:
                argument.names = (*argument.names, short_name)
            if is_help_wanted:
                argument.positional = False
        return arguments


def _is_help_wanted(task: str) -> bool:
    """Whether the command line asks for help right after this task."""
    words = getattr(running_program(), "argv", None) or ()
    for before, word in itertools.pairwise(words):
        name = before.rpartition(".")[2].replace("-", "_")
        if word in ("--help", "-h") and name == task:
            return True
    return False


def documented_task(body: Callable[..., None]) -> Task[Callable[..., None]]:
    """Make an invoke task of a function, with a help for each option.

    The first parameter of the function is invoke's context. All others are options, or positional
    if they have no default.
    """
    helps: dict[str, str] = {}
    # inspect.signature would take longer for ten tasks than all else in this module.
    for parameter in body.__annotations__:
        if parameter not in ("context", "return"):
            option = parameter.replace("_", "-")
            helps[option] = _HELP.get(f"{body.__name__}.{option}") or _HELP[option]
    lists = [name for name, kind in body.__annotations__.items() if str(kind).startswith("list")]
    result: Task[Callable[..., None]] = task(
        help=helps, iterable=lists, auto_shortflags=False, klass=_Task
    )(body)
    return result


def read_integer(option: str, text: str, *, least: int = 1) -> int | None:
    """The integer in `text`; None if the option is not set.

    Raises `UsageError` for a number below `least`, and for more than nine digits, which can only be
    a mistake.
    """
    if not text:
        return None
    if not _is_number(text) or len(text) > 9 or int(text) < least:
        raise UsageError(f"{option} {text} is not an integer from {least} to 999999999")
    return int(text)


def read_list(option: str, text: str) -> tuple[str, ...]:
    """The words in `text`, which commas separate; () if the option is not set."""
    words = [word.strip() for word in text.split(",")]
    words = [word for word in words if word]
    if text and not words:
        raise UsageError(f"{option} {text} contains no name")
    return tuple(words)


def read_amount(option: str, text: str, units: Mapping[str, int]) -> int | None:
    """``10G`` or ``30d`` in bytes or seconds; None if the option is not set."""
    if not text:
        return None
    number, unit = text, ""
    if not text[-1].isdigit():
        number, unit = text[:-1], text[-1].lower()
    # 18 digits are far below the limit of int(), and above every real size.
    if not _is_number(number) or len(number) > 18 or unit not in units:
        names = ", ".join(name for name in units if name)
        raise UsageError(f"{option} {text} is not an integer with one of the units {names}")
    return int(number) * units[unit]


def read_budget(text: str, default: float) -> float:
    """The seconds of ``--budget``. Raises `UsageError`."""
    seconds = read_amount("--budget", text, AGES)
    if seconds is None:
        return default
    if seconds == 0:
        raise UsageError(f"--budget {text} leaves no time")
    return float(seconds)


def read_band(text: str, default: float) -> float:
    """The part of 1 that ``--band`` gives in percent. Raises `UsageError`."""
    percent = read_integer("--band", text)
    if percent is None:
        return default
    # The lower edge of the band is a ratio, and must be above 0.
    if percent > _MOST_PERCENT:
        raise UsageError(f"--band {text} is not an integer from 1 to {_MOST_PERCENT}")
    return percent / 100


def read_given(option: str, text: str | None, hint: str) -> str:
    """The value of an option; empty if the option is not set.

    Raises `UsageError` for an option without a value, such as that of a variable that a script did
    not set. The script would otherwise pass without what the option asks for.
    """
    if text is None:
        return ""
    if not text.strip():
        raise UsageError(f"{option} names nothing", hint=hint)
    return text


def read_base(text: str | None) -> str:
    """What ``--against`` names; empty if the option is not set. Raises as `read_given`."""
    hint = "give it a directory, a key of the store, or a git revision"
    return read_given("--against", text, hint)


def require_choice(option: str, word: str, choices: Sequence[str]) -> None:
    """Raise `UsageError` if the word is not one of the choices."""
    if word not in choices:
        raise UsageError(f"{option} {word} is not one of {', '.join(choices)}")


def _is_number(text: str) -> bool:
    """Whether the text consists of the digits 0 to 9. int() also accepts those of other scripts."""
    return text.isascii() and text.isdecimal()
