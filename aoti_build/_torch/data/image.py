"""Images: from a file to the input of a vision model as `image:` in models.yaml says, and from
scores to names.

torchvision does the resizing, cropping and normalising in both forms of `image:`, so that a
declared preprocessing gives the numbers that torchvision's own would give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aoti_build._torch.data.read import UNREADABLE, Signature, readable, wants
from aoti_build._torch.program.model import load_callable
from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.common.reading import TEXT_LIMIT, read_bytes, require_regular
from aoti_build.common.sizes import parse
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Image, Source

TOP = 5
# Only these of Pillow's decoders, whatever the suffix says: some of the others start programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_CHANNELS = 3
# Bytes of an image's file: as many as the largest that Pillow decodes has as a bitmap.
IMAGE_LIMIT = 1 << 30


@dataclass(frozen=True)
class Images:
    """A model's `image:`, ready for use: `transform` makes [3, H, W] of an RGB image. `names` are
    the classes, from `named_by`."""

    transform: Callable[[Any], Any]
    names: tuple[str, ...]
    named_by: str
    where: str

    def batch(self, paths: Sequence[Path], signature: Signature) -> Tensor:
        """The images as the artifact's only input. Where it wants more of them, they are repeated
        in turn."""
        entry = _only_input(paths[0].name, signature)
        made = [self._tensor(path) for path in paths]
        if len({image.shape for image in made}) > 1:
            shapes = ", ".join(
                f"{path.name} {list(image.shape)}" for path, image in zip(paths, made, strict=True)
            )
            raise UsageError(
                "images of one batch have different sizes",
                where=self.where,
                cause=shapes,
                hint=_CROP,
            )
        count = max(len(made), _batch_size(entry, signature))
        stacked = torch.stack([made[index % len(made)] for index in range(count)])
        sizes = zip(entry["shape"], stacked.shape, strict=True)
        # A size that is text follows a dim, whose range the package itself checks.
        if any(isinstance(want, int) and want != size for want, size in sizes):
            raise UsageError(
                f"{paths[0].name} becomes {list(stacked.shape)}",
                where=self.where,
                cause=wants(signature),
                hint=_CROP,
            )
        return stacked.to(getattr(torch, entry["dtype"]))

    def _tensor(self, path: Path) -> Tensor:
        image = _open(path)
        try:
            made = self.transform(image)
        except UNREADABLE as error:
            said = f"{type(error).__name__}: {error}"
            raise UsageError(
                f"{path.name} cannot be preprocessed", where=self.where, cause=said
            ) from error
        if not isinstance(made, Tensor) or made.dim() != _CHANNELS or made.shape[0] != _CHANNELS:
            shape = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise UsageError(
                f"the preprocessing makes {shape} of an image",
                where=self.where,
                hint=(
                    "name the weights of an image model, whose transforms() make [3, height, width]"
                ),
            )
        return made


_CROP = (
    "`crop` in image: is the side of what the model gets; `resize` is the shorter side before that"
)


def images(image: Image | Source, root: Path, where: str) -> Images:
    """What models.yaml says under `image:`. No weights are downloaded for the enum of a model."""
    if isinstance(image, Source):
        return _of_enum(image, root, where)
    if len(image.mean) not in (0, _CHANNELS):
        raise UsageError(
            f"mean and std have {len(image.mean)} values",
            where=where,
            hint="images are read as RGB: 3 values each",
        )
    names = () if image.classes is None else _class_names(root / image.classes, where)
    return Images(_declared(image), names, image.classes or "", where)


def top_classes(name: str, output: Tensor, count: int, known: Images) -> dict[str, Any] | None:
    """The most probable classes of the first `count` rows of an output [N, C], by softmax; None for
    any other output."""
    if output.dim() != 2 or not output.is_floating_point() or output.shape[1] < 2:
        return None
    classes = output.shape[1]
    fitting = known if len(known.names) == classes else replace(known, names=())
    values, indices = torch.softmax(output[:count].detach().cpu().double(), dim=1).topk(
        min(TOP, classes), dim=1
    )
    found: dict[str, Any] = {
        "output": name,
        "images": [
            [
                _class(fitting, int(index), float(value))
                for index, value in zip(row_of, row, strict=True)
            ]
            for row_of, row in zip(indices.tolist(), values.tolist(), strict=True)
        ],
    }
    if known.names and not fitting.names:
        found["unnamed"] = (
            f"{known.named_by} names {len(known.names)} classes, this output has {classes}"
        )
    return found


def _class(known: Images, index: int, probability: float) -> dict[str, Any]:
    return {
        "index": index,
        "name": known.names[index] if known.names else None,
        "probability": probability,
    }


def _declared(declared: Image) -> Callable[[Any], Tensor]:
    """Resize, crop, 0 to 1, normalise; each only where it is given."""
    from torchvision.transforms import InterpolationMode  # type: ignore[import-untyped]
    from torchvision.transforms import functional as F

    def transform(image: Any) -> Tensor:
        if declared.resize is not None:
            image = F.resize(
                image, [declared.resize], interpolation=InterpolationMode.BILINEAR, antialias=True
            )
        if declared.crop is not None:
            image = F.center_crop(image, [declared.crop, declared.crop])
        values: Tensor = F.convert_image_dtype(F.pil_to_tensor(image), torch.float32)
        if not declared.mean:
            return values
        normalised: Tensor = F.normalize(values, list(declared.mean), list(declared.std))
        return normalised

    return transform


def _of_enum(source: Source, root: Path, where: str) -> Images:
    from torchvision.models import WeightsEnum  # type: ignore[import-untyped]

    owner, _, member = source.attribute.rpartition(".")
    hint = "name a member of a weights enum, such as torchvision.models:ResNet18_Weights.DEFAULT"
    if not owner:
        raise UsageError(f"{source} is no member of a weights enum", where=where, hint=hint)
    found = getattr(load_callable(replace(source, attribute=owner), root, where), member, None)
    if not isinstance(found, WeightsEnum):
        raise UsageError(f"{source} is no member of a weights enum", where=where, hint=hint)
    names = tuple(str(name) for name in found.meta.get("categories", ()))
    return Images(found.transforms(), names, str(source), where)


def _class_names(path: Path, where: str) -> tuple[str, ...]:
    try:
        text = read_bytes(path, TEXT_LIMIT).decode()
        return tuple(line.strip() for line in text.rstrip().splitlines())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path.name} cannot be read as names of classes", where=where, cause=str(error)
        ) from error


def _open(path: Path) -> Any:
    """The image as a person sees it: in RGB, turned as its EXIF says."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    with readable(path.name):
        require_regular(path, IMAGE_LIMIT)
    with (
        readable(path.name, None, Pillow.DecompressionBombError),
        Pillow.open(path, formats=FORMATS) as image,
    ):
        if image.mode == "F" or image.mode.startswith("I"):
            raise UsageError(
                f"{path.name} has more than 8 bits a channel", hint="save it with 8 bits a channel"
            )
        return ImageOps.exif_transpose(image).convert("RGB")


def _only_input(name: str, signature: Signature) -> Mapping[str, Any]:
    """The input that an image becomes. Raises `UsageError` if the artifact takes something
    else."""
    inputs = tensor_inputs(signature)
    if (
        len(inputs) != 1
        or len(inputs[0]["shape"]) != 4
        or not getattr(torch, inputs[0]["dtype"]).is_floating_point
    ):
        raise UsageError(
            f"{name} is an image, which becomes one floating point tensor [batch, 3, height,"
            " width]",
            hint=wants(signature) + "; give its tensors in a .npz or .safetensors file",
        )
    return inputs[0]


def _batch_size(entry: Mapping[str, Any], signature: Signature) -> int:
    """The exported batch, or the least that a dynamic one may be."""
    size = entry["shape"][0]
    if isinstance(size, int):
        return size
    low, _ = parse(size).bounds(
        {name: (dim["min"], dim["max"]) for name, dim in signature["dims"].items()}
    )
    return low
