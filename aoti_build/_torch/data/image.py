"""Images: from a file to the input of a vision model, as `image:` in models.yaml says, and from
scores to the names of classes.

torchvision resizes, crops and normalises in both forms of `image:`. So a declared preprocessing
gives the same numbers as torchvision's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aoti_build._torch.data.read import UNREADABLE, Signature, describe_inputs, readable
from aoti_build._torch.program.model import load_callable
from aoti_build.artifact.manifest import tensor_inputs
from aoti_build.common.json_object import JsonObject
from aoti_build.common.reading import TEXT_LIMIT, read_bytes, require_regular
from aoti_build.common.sizes import parse
from aoti_build.errors import UsageError
from aoti_build.models_file.project import Image, Source

TOP = 5  # classes of each image
# The only decoders of Pillow in use, whatever the suffix of a file: some others start programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
# Bytes of an image's file: as many as the largest image that Pillow decodes has as a bitmap.
IMAGE_LIMIT = 1 << 30
_CHANNELS = 3
_CROP_HINT = (
    "`crop` in image: is the side of what the model gets; `resize` is the shorter side before that"
)


@dataclass(frozen=True)
class Images:
    """The preprocessing and the classes that a model's `image:` names.

    `transform` makes a tensor [3, height, width] of an RGB image. `names` are those of the classes,
    and `named_by` is their source. `location` is that of `image:` in models.yaml.
    """

    transform: Callable[[Any], Any]
    names: tuple[str, ...]
    named_by: str
    location: str

    def batch(self, paths: Sequence[Path], signature: Signature) -> Tensor:
        """The images as the artifact's only input, [batch, 3, height, width].

        They are repeated in turn if the artifact takes more. Raises `UsageError` if they do not
        fit.
        """
        first = paths[0].name
        entry = _image_input(first, signature)
        images = [self._preprocessed(path) for path in paths]
        self._require_one_size(paths, images)
        count = max(len(images), _smallest_batch(entry, signature))
        repeated = itertools.islice(itertools.cycle(images), count)
        batch = torch.stack(list(repeated))
        for size, actual in zip(entry["shape"], batch.shape, strict=True):
            # A size that is text depends on a dim, whose range the package itself checks.
            if isinstance(size, int) and size != actual:
                raise UsageError(
                    f"{first} becomes {list(batch.shape)}",
                    where=self.location,
                    cause=describe_inputs(signature),
                    hint=_CROP_HINT,
                )
        return batch.to(getattr(torch, entry["dtype"]))

    def _preprocessed(self, path: Path) -> Tensor:
        image = _open(path)
        try:
            tensor = self.transform(image)
        except UNREADABLE as error:
            raise UsageError(
                f"{path.name} cannot be preprocessed",
                where=self.location,
                cause=f"{type(error).__name__}: {error}",
            ) from error
        if not isinstance(tensor, Tensor):
            raise self._bad_transform(type(tensor).__name__)
        if tensor.dim() != 3 or tensor.shape[0] != _CHANNELS:
            raise self._bad_transform(str(list(tensor.shape)))
        return tensor

    def _bad_transform(self, result: str) -> UsageError:
        return UsageError(
            f"the preprocessing makes {result} of an image",
            where=self.location,
            hint="name the weights of an image model, whose transforms() make [3, height, width]",
        )

    def _require_one_size(
        self,
        paths: Sequence[Path],
        images: Sequence[Tensor],
    ) -> None:
        sizes = {image.shape for image in images}
        if len(sizes) == 1:
            return
        shapes = []
        for path, image in zip(paths, images, strict=True):
            shapes.append(f"{path.name} {list(image.shape)}")
        raise UsageError(
            "images of one batch have different sizes",
            where=self.location,
            cause=", ".join(shapes),
            hint=_CROP_HINT,
        )


def images(image: Image | Source, root: Path, location: str) -> Images:
    """The preprocessing and the classes of `image:` in models.yaml.

    The weights that an enum names are not downloaded. Raises `UsageError`.
    """
    # A source is a member of an enum, anything else declares the steps.
    if isinstance(image, Source):
        return _of_weights_enum(image, root, location)
    if len(image.mean) not in (0, _CHANNELS):
        raise UsageError(
            f"mean and std have {len(image.mean)} values",
            where=location,
            hint="images are read as RGB: 3 values each",
        )
    names: tuple[str, ...] = ()
    if image.classes is not None:
        names = _class_names(root / image.classes, location)
    return Images(
        transform=_declared_transform(image),
        names=names,
        named_by=image.classes or "",
        location=location,
    )


def top_classes(
    name: str,
    output: Tensor,
    count: int,
    images: Images,
) -> JsonObject | None:
    """The most probable classes of the first `count` images, by softmax, as `TopClasses` has them.

    The output `name` must be floating point [batch, classes]; None for any other output.
    """
    if output.dim() != 2 or not output.is_floating_point():
        return None
    classes = output.shape[1]
    if classes < 2:
        return None
    # Another number of names belongs to another output, or to another model.
    names: Sequence[str | None] = images.names
    has_names = len(names) == classes
    if not has_names:
        names = [None] * classes
    scores = output[:count].detach().cpu().double()
    probabilities = torch.softmax(scores, dim=1)
    top = probabilities.topk(min(TOP, classes), dim=1)
    rows = []
    for indices, row in zip(top.indices.tolist(), probabilities.tolist(), strict=True):
        rows.append([_class_entry(index, names[index], row[index]) for index in indices])
    document: JsonObject = {"output": name, "images": rows}
    if images.names and not has_names:
        document["unnamed"] = (
            f"{images.named_by} names {len(images.names)} classes, this output has {classes}"
        )
    return document


def _class_entry(index: int, name: str | None, probability: float) -> JsonObject:
    return {
        "index": index,
        "name": name,
        "probability": probability,
    }


def _declared_transform(declared: Image) -> Callable[[Any], Tensor]:
    """Resize, crop, scale to 0..1 and normalise; the steps that models.yaml omits are left out."""
    from torchvision.transforms import InterpolationMode  # type: ignore[import-untyped]
    from torchvision.transforms import functional as F

    def transform(image: Any) -> Tensor:
        if declared.resize is not None:
            image = F.resize(
                image,
                [declared.resize],
                interpolation=InterpolationMode.BILINEAR,
                antialias=True,
            )
        if declared.crop is not None:
            image = F.center_crop(image, [declared.crop, declared.crop])
        pixels = F.pil_to_tensor(image)
        values: Tensor = F.convert_image_dtype(pixels, torch.float32)
        if declared.mean:
            mean = list(declared.mean)
            std = list(declared.std)
            values = F.normalize(values, mean, std)
        return values

    return transform


def _of_weights_enum(source: Source, root: Path, location: str) -> Images:
    """The transforms and categories of a member of a torchvision weights enum."""
    from torchvision.models import WeightsEnum  # type: ignore[import-untyped]

    owner, _, member = source.attribute.rpartition(".")
    weights = None
    if owner:
        enum = load_callable(replace(source, attribute=owner), root, location)
        weights = getattr(enum, member, None)
    if not isinstance(weights, WeightsEnum):
        raise UsageError(
            f"{source} is no member of a weights enum",
            where=location,
            hint=(
                "name a member of a weights enum, such as"
                " torchvision.models:ResNet18_Weights.DEFAULT"
            ),
        )
    categories = weights.meta.get("categories", ())
    return Images(
        transform=weights.transforms(),
        names=tuple(str(name) for name in categories),
        named_by=str(source),
        location=location,
    )


def _class_names(path: Path, location: str) -> tuple[str, ...]:
    """The names in a text file, one on each line. An empty line is an empty name."""
    try:
        text = read_bytes(path, TEXT_LIMIT).decode()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path.name} cannot be read as names of classes",
            where=location,
            cause=str(error),
        ) from error
    lines = text.rstrip().splitlines()
    return tuple(line.strip() for line in lines)


def _open(path: Path) -> Any:
    """The image in RGB, turned as its EXIF data says."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    with readable(path.name):
        require_regular(path, IMAGE_LIMIT)
    with (
        readable(path.name, None, Pillow.DecompressionBombError),
        Pillow.open(path, formats=FORMATS) as image,
    ):
        # Pillow would clip the values of these modes when it converts them to RGB.
        if image.mode == "F" or image.mode.startswith("I"):
            raise UsageError(
                f"{path.name} has more than 8 bits a channel",
                hint="save it with 8 bits a channel",
            )
        return ImageOps.exif_transpose(image).convert("RGB")


def _image_input(name: str, signature: Signature) -> Mapping[str, Any]:
    """The artifact's only input. Raises `UsageError` unless an image can become that."""
    inputs = tensor_inputs(signature)
    if len(inputs) == 1:
        entry = inputs[0]
        is_floating_point = getattr(torch, entry["dtype"]).is_floating_point
        if is_floating_point and len(entry["shape"]) == 4:
            return entry
    raise UsageError(
        f"{name} is an image, which becomes one floating point tensor [batch, 3, height, width]",
        hint=f"{describe_inputs(signature)}; give its tensors in a .npz or .safetensors file",
    )


def _smallest_batch(entry: Mapping[str, Any], signature: Signature) -> int:
    """The exported batch size, or the smallest one of a dynamic batch."""
    size = entry["shape"][0]
    if isinstance(size, int):
        return size
    ranges = {}
    for name, dim in signature["dims"].items():
        ranges[name] = (dim["min"], dim["max"])
    smallest, _ = parse(size).bounds(ranges)
    return smallest
