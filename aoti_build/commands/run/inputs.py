"""The inputs of `run` and the files for its outputs, as the command line names them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Final

from aoti_build.artifact.manifest import Manifest, tensor_inputs
from aoti_build.common.outputs import check_output
from aoti_build.errors import UsageError
from aoti_build.messages import InputKind
from aoti_build.models_file.project import Project, Target

REFERENCE_INPUT: Final = "reference_data"
RANDOM: Final = "random"
TENSORS: Final = "tensors"
IMAGES: Final = "images"
# The reference input was drawn with seed 0. Another seed tests more.
SEED: Final = 1
REPEAT: Final = 10
# Each suffix has a reader in `aoti_build._torch.data` or a writer in `aoti_build._torch.jobs.run`.
TENSOR_SUFFIXES = (".npy", ".npz", ".safetensors", ".pt")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
OUTPUT_SUFFIXES = (".safetensors", ".npz", ".pt")


@dataclass(frozen=True)
class Input:
    """One word of ``--input``: a file, or an input that needs none."""

    text: str
    kind: InputKind

    @property
    def is_file(self) -> bool:
        return self.kind in (TENSORS, IMAGES)

    @property
    def label(self) -> str:
        """The text that replaces {input} in the name of an output file."""
        return Path(self.text).stem if self.is_file else self.kind


# The inputs of one call.
InputGroup = tuple[Input, ...]


@dataclass(frozen=True)
class RunOptions:
    """The options of `run`. `output` is the pattern for output files, or "" for none. `repeat` is
    the number of timed calls. With `cuda_graphs` those of GPU packages are replayed."""

    inputs: tuple[Input, ...]
    output: str
    seed: int
    repeat: int
    cuda_graphs: bool = False


def parse_inputs(words: Sequence[str]) -> tuple[Input, ...]:
    """The inputs that `words` name, or the reference input if there are none. Raises `UsageError`
    for a file that is absent or of no known kind."""
    if not words:
        return (Input(REFERENCE_INPUT, REFERENCE_INPUT),)
    return tuple(_parse_input(word) for word in words)


def _parse_input(text: str) -> Input:
    if text == REFERENCE_INPUT:
        return Input(text, REFERENCE_INPUT)
    if text == RANDOM:
        return Input(text, RANDOM)
    # The suffix is checked first, because it also finds a misspelt "random".
    suffix = Path(text).suffix.lower()
    if suffix not in (*TENSOR_SUFFIXES, *IMAGE_SUFFIXES):
        raise UsageError(
            f"--input {text}: no kind of input has this suffix",
            hint=(
                f"tensors are read from {', '.join(TENSOR_SUFFIXES)} files, images from "
                f"{', '.join(IMAGE_SUFFIXES)}; random and reference_data need no file"
            ),
        )
    if not Path(text).exists():
        raise UsageError(
            f"there is no file {text}",
            hint="correct the path, which begins at the current directory",
        )
    if not Path(text).is_file():
        raise UsageError(f"{text} is not a regular file")
    return Input(text, IMAGES if suffix in IMAGE_SUFFIXES else TENSORS)


def check_output_pattern(options: RunOptions, target_count: int) -> None:
    """Raise `UsageError` unless ``--output`` names one file for each run, with a suffix that can be
    written."""
    pattern = options.output
    if Path(pattern).suffix.lower() not in OUTPUT_SUFFIXES:
        suffixes = ", ".join(OUTPUT_SUFFIXES)
        raise UsageError(f"--output {pattern}: outputs are written to {suffixes} files")
    _require_placeholder(pattern, "{target}", target_count, "targets")
    _require_placeholder(pattern, "{input}", len(options.inputs), "inputs")
    # Files of the same name in two directories have the same label.
    labels: set[str] = set()
    for entry in options.inputs:
        if entry.label in labels:
            raise UsageError(
                f"--output {pattern}: two inputs would be written as {entry.label}",
                hint="rename one of the files",
            )
        labels.add(entry.label)


def _require_placeholder(
    pattern: str,
    placeholder: str,
    count: int,
    noun: str,
) -> None:
    if count > 1 and placeholder not in pattern:
        raise UsageError(
            f"--output {pattern}: {count} {noun} would be written to one file",
            hint=f"use {placeholder} in the name, as in outputs/{{target}}/{{input}}.npz",
        )


def group_inputs(
    project: Project,
    target: Target,
    inputs: tuple[Input, ...],
    manifest: Manifest,
) -> Iterator[InputGroup]:
    """The inputs of each call. Consecutive images fill a fixed batch; every other input has a call
    of its own.

    Raises `UsageError` for an image if models.yaml does not say how to read it.
    """
    for is_image, consecutive in groupby(inputs, key=lambda entry: entry.kind == IMAGES):
        entries = tuple(consecutive)
        if not is_image:
            for entry in entries:
                yield (entry,)
            continue
        if target.model.image is None:
            raise _image_error(project, target, entries[0])
        size = _fixed_batch(manifest)
        for start in range(0, len(entries), size):
            yield entries[start : start + size]


def _fixed_batch(manifest: Manifest) -> int:
    """The number of images that one call takes; 1 if it may vary."""
    shapes = [entry["shape"] for entry in tensor_inputs(manifest.signature)]
    if len(shapes) != 1 or not shapes[0]:
        return 1
    size = shapes[0][0]
    # The size of a dynamic dim is a name.
    return max(size, 1) if isinstance(size, int) else 1


def _image_error(project: Project, target: Target, image: Input) -> UsageError:
    return UsageError(
        f"{image.text} is an image, and models.yaml does not say how it becomes the input of"
        f" {target.model.name}",
        where=project.location(target.model),
        hint=(
            "add to the model one of\n"
            "  image: torchvision.models:ResNet18_Weights.DEFAULT\n"
            "  image: {resize: 256, crop: 224, mean: [0.485, 0.456, 0.406],"
            " std: [0.229, 0.224, 0.225], classes: classes.txt}"
        ),
    )


def output_path(target: Target, options: RunOptions, group: InputGroup) -> str | None:
    """The file for the outputs of one call. Raises `UsageError` if it is an input or a
    directory."""
    if not options.output:
        return None
    # The first image of a batch gives the name. That is unique, because labels differ and no image
    # is in two batches.
    name = options.output.replace("{target}", target.name)
    name = name.replace("{input}", group[0].label)
    path = Path(name).absolute()
    inputs = {Path(entry.text).resolve() for entry in options.inputs}
    if path.resolve() in inputs:
        raise UsageError(f"--output {options.output} would overwrite the input {path.name}")
    check_output(path)
    return str(path)
