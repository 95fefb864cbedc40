"""`invoke run` on a real artifact: files, images, outputs, the check; one small vision model is
compiled for all.

What reads files and images is also called here without an artifact: it needs torch, and no
compiler.
"""

from __future__ import annotations

import io
import json
import os
import queue
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import Finished, run_inv
from PIL import Image as Pillow
from projects import flip_a_bit, write_single
from safetensors.torch import load_file, save_file

from aoti_build._torch.data import read as reading
from aoti_build._torch.data.image import images, top_classes
from aoti_build._torch.data.read import READERS, read
from aoti_build._torch.events import Events
from aoti_build._torch.jobs.run import Session, summary
from aoti_build._torch.jobs.saving import WRITERS, save
from aoti_build.commands.run.inputs import OUTPUT_SUFFIXES, TENSOR_SUFFIXES
from aoti_build.errors import UsageError
from aoti_build.messages import RunJob, RunRequest
from aoti_build.models_file.presence import source_is_here
from aoti_build.models_file.project import Image, Model, Source, Target, Weights
from aoti_build.models_file.records import target_to_json

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.head = nn.Linear(8, 1000)

    def forward(self, image):
        return self.head(self.conv(image).relu().mean((2, 3)))


def build():
    return Net()
"""
TINY = """
tiny:
  source: net.py:build
  dims:
    side: {min: 8, max: 256, example: 32}
  inputs: [{shape: [2, 3, side, side]}]
  tolerance: {atol: 1e-5, rtol: 1e-4}
"""
DECLARED = (
    "  image: {resize: 40, crop: 32, mean: [0.5, 0.4, 0.3], std: [0.2, 0.3, 0.4], classes:"
    " classes.txt}\n"
)
ENUM = Source("ResNet18_Weights.DEFAULT", module="torchvision.models")
PLACE = "models.yaml:9:9"
ONE: dict[str, Any] = {"inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 3]}]}
ONE["dims"] = {"batch": {"min": 1, "max": 8, "multiple_of": 1}}
TWO: dict[str, Any] = {
    "inputs": [*ONE["inputs"], {"name": "n", "dtype": "int64", "shape": []}],
    "dims": ONE["dims"],
}
X, N = torch.arange(6, dtype=torch.float32).reshape(2, 3), torch.tensor(5)


@pytest.fixture(scope="module")
def vision_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vision") / "project"
    write_single(root, NET, TINY + DECLARED)
    (root / "classes.txt").write_text("".join(f"class {index}\n" for index in range(1000)))
    image(root / "one.png", 60, 50)
    image(root / "two.jpg", 70, 90)
    finished = run_inv(root, "build")
    assert finished.code == 0, finished.out
    return root


@pytest.fixture
def vision(vision_once: Path, tmp_path: Path) -> Path:
    """A copy of the vision project that a test may change."""
    root = tmp_path / "project"
    shutil.copytree(vision_once, root)
    return root


def image(path: Path, width: int, height: int, mode: str = "RGB") -> Path:
    """An image of noise that has some shape when it is made smaller."""
    values = numpy.random.default_rng(width).integers(
        0, 255, (height // 5, width // 5, 3), dtype=numpy.uint8
    )
    Pillow.fromarray(values).resize((width, height)).convert(mode).save(path)
    return path


def only(finished: Finished) -> dict[str, Any]:
    """The only run of the only target."""
    (target,) = finished.json["targets"]
    (run,) = target["runs"]
    found: dict[str, Any] = run
    return found


# Without sources


def test_a_release_is_never_compared_with_an_installed_module() -> None:
    """A module with the name of the source need not be that of the model."""
    model = Model("m", Source("build", module="json"), Source("example", module="json"))
    assert source_is_here(model, Path(), ())
    job = RunJob(
        root=".",
        python_path=(),
        # As the worker reads it: with lists in place of tuples.
        target_document=json.loads(json.dumps(target_to_json(Target(model, "cpu")))),
        model="model.pt2",
        reference_data="reference.safetensors",
        tolerance={},
        signature=ONE,
        imports=(),
        where={"inputs": PLACE},
        seed=1,
        repeat=1,
        runs=(),
        has_sources=False,
    )
    session = Session(job, job.target, Events(io.StringIO(), queue.Queue()))
    assert session.expected(RunRequest("random", (), None), []) == ([], "none")
    with pytest.raises(UsageError, match="made by json:example, which is not in the release"):
        session.drawn({}, 0, "the reference input")


# Reading tensors


def test_what_the_command_line_takes_can_be_read_and_written() -> None:
    assert set(READERS) == set(TENSOR_SUFFIXES)
    assert set(WRITERS) == set(OUTPUT_SUFFIXES)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.npy", lambda path: numpy.save(path, X.numpy())),
        ("fortran.npy", lambda path: numpy.save(path, numpy.asfortranarray(X.numpy()))),
        ("a.npz", lambda path: numpy.savez(path, x=X.numpy())),
        ("another_name.npz", lambda path: numpy.savez(path, y=X.numpy())),
        ("a.safetensors", lambda path: save_file({"x": X}, path)),
        ("another_name.safetensors", lambda path: save_file({"y": X}, path)),
        ("a.pt", lambda path: torch.save(X, path)),
        ("upper.PT", lambda path: torch.save([X], path)),
        ("tuple.pt", lambda path: torch.save((X,), path)),
        ("another_name.pt", lambda path: torch.save({"y": X}, path)),
        ("view.pt", lambda path: torch.save(X.t().contiguous().t(), path)),
        ("parameter.pt", lambda path: torch.save(torch.nn.Parameter(X), path)),
    ],
)
def test_a_single_tensor_whatever_its_name(
    tmp_path: Path, name: str, write: Callable[[Path], object]
) -> None:
    write(tmp_path / name)
    (found,) = read(tmp_path / name, ONE)
    assert torch.equal(found, X)
    assert found.is_contiguous()
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.npz", lambda path: numpy.savez(path, n=N.numpy(), x=X.numpy())),
        ("a.safetensors", lambda path: save_file({"n": N, "x": X}, path)),
        ("named.pt", lambda path: torch.save({"n": N, "x": X}, path)),
        ("listed.pt", lambda path: torch.save([X, N], path)),
        ("tuple.pt", lambda path: torch.save((X, N), path)),
    ],
)
def test_several_tensors_by_name_or_position(
    tmp_path: Path, name: str, write: Callable[[Path], object]
) -> None:
    write(tmp_path / name)
    x, n = read(tmp_path / name, TWO)
    assert torch.equal(x, X)
    assert torch.equal(n, N)


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        (
            "a.npy",
            lambda path: numpy.save(path, X.double().numpy()),
            'numpy.save("a.npy", array.astype("float32"))',
        ),
        (
            "a.npz",
            lambda path: numpy.savez(path, x=X.double().numpy()),
            'name=array.astype("float32")',
        ),
        ("a.pt", lambda path: torch.save(X.half(), path), "tensor.to(torch.float32)"),
        ("a.safetensors", lambda path: save_file({"x": X.int()}, path), "x is int32 [2, 3]"),
        ("b.pt", lambda path: torch.save(X[0], path), "x is float32 [3]"),
        ("c.pt", lambda path: torch.save([X, N], path), "2 tensors, the artifact takes 1"),
        (
            "d.npz",
            lambda path: numpy.savez(path, x=X.numpy(), y=X.numpy()),
            "holds the tensors x, y",
        ),
        ("e.pt", lambda path: torch.save({}, path), "holds the tensors (none)"),
        ("f.pt", lambda path: torch.save({"x": [X]}, path), "a dict with list"),
        ("g.pt", lambda path: torch.save([X, 3], path), "a list with Tensor, int"),
        ("h.pt", lambda path: torch.save(3, path), "holds int and no tensor"),
        ("i.pt", lambda path: torch.save(X.to_sparse(), path), "to_dense()"),
        ("j.pt", lambda path: torch.save(Path("x"), path), "weights_only=True"),
        (
            "k.npy",
            lambda path: numpy.save(path, numpy.array([{}]), allow_pickle=True),
            "object arrays are not read",
        ),
        ("l.npy", lambda path: numpy.save(path, numpy.array(["text"])), "numpy.str_"),
        ("m.npy", lambda path: numpy.save(path, X.numpy().astype(">f4")), "cannot be read"),
        ("n.npy", lambda path: path.write_bytes(b""), "cannot be read"),
        ("o.safetensors", lambda path: path.write_bytes(b"no"), "cannot be read"),
        ("p.pt", lambda path: path.write_bytes(b"no"), "cannot be read"),
        ("q.npz", lambda path: path.write_bytes(b"PK\x03\x04"), "cannot be read"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_what_does_not_fit_is_the_users_to_mend(
    tmp_path: Path, name: str, write: Callable[[Path], object], said: str
) -> None:
    write(tmp_path / name)
    with pytest.raises(UsageError) as error:
        read(tmp_path / name, ONE)
    text = str(error.value)
    assert said in text
    assert name in text
    if "cannot be read" not in text and name not in ("f.pt", "g.pt", "h.pt", "i.pt"):
        assert "the artifact takes x float32 [batch, 3]; batch is 1 to 8" in text


def test_one_array_for_two_inputs_says_how_to_name_them(tmp_path: Path) -> None:
    numpy.save(tmp_path / "a.npy", X.numpy())
    with pytest.raises(UsageError, match=r"one tensor, the artifact takes 2") as error:
        read(tmp_path / "a.npy", TWO)
    assert "x float32 [batch, 3], n int64 []" in str(error.value)
    assert "by name in a .npz" in str(error.value)


def test_a_dtype_that_numpy_lacks_is_saved_otherwise(tmp_path: Path) -> None:
    numpy.save(tmp_path / "a.npy", X.numpy())
    signature = {"inputs": [{"name": "x", "dtype": "bfloat16", "shape": [2, 3]}]}
    with pytest.raises(UsageError, match="numpy has no bfloat16"):
        read(tmp_path / "a.npy", signature)


def test_no_code_runs_from_a_file(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "was_here"),)

    torch.save(Evil(), tmp_path / "a.pt")
    array = numpy.empty(1, dtype=object)
    array[0] = Evil()
    numpy.save(tmp_path / "a.npy", array, allow_pickle=True)
    numpy.savez(tmp_path / "a.npz", allow_pickle=True, x=array)
    for name in ("a.pt", "a.npy", "a.npz"):
        with pytest.raises(UsageError, match=name):
            read(tmp_path / name, ONE)
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize("suffix", [*TENSOR_SUFFIXES, ".png", ".jpg", ".webp", ".bmp"])
def test_a_file_that_was_cut_or_garbled_is_named(tmp_path: Path, suffix: str) -> None:
    whole, broken = tmp_path / f"whole{suffix}", tmp_path / f"broken{suffix}"
    if suffix in TENSOR_SUFFIXES:
        writers: Mapping[str, Callable[[], object]] = {
            ".npy": lambda: numpy.save(whole, X.numpy()),
            ".npz": lambda: numpy.savez_compressed(whole, x=X.numpy()),
            ".safetensors": lambda: save_file({"x": X}, whole),
            ".pt": lambda: torch.save(X, whole),
        }
        writers[suffix]()
    else:
        image(whole, 20, 15)
    content = whole.read_bytes()
    outcomes = set()
    for place in range(0, len(content), max(1, len(content) // 60)):
        for altered in (
            content[:place],
            content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :],
        ):
            broken.write_bytes(altered)
            try:
                if suffix in TENSOR_SUFFIXES:
                    read(broken, ONE)
                else:
                    images(Image(crop=8), tmp_path, PLACE).batch([broken], image_signature(1))
                outcomes.add("read")
            except UsageError:
                outcomes.add("refused")
    assert "refused" in outcomes


def test_the_reader_keeps_other_peoples_errors() -> None:
    with pytest.raises(KeyboardInterrupt), reading.readable("a.npz"):
        raise KeyboardInterrupt


# Images


def image_signature(
    batch: int | str, size: int | str = "side", dtype: str = "float32"
) -> dict[str, Any]:
    dims = {"batch": {"min": 3, "max": 9, "multiple_of": 3}}
    return {
        "inputs": [{"name": "x", "dtype": dtype, "shape": [batch, 3, size, size]}],
        "dims": dims,
    }


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "LA"])
def test_a_declared_preprocessing_is_torchvisions(tmp_path: Path, mode: str) -> None:
    from torchvision.transforms._presets import ImageClassification

    path = image(tmp_path / "a.png", 300, 260, mode)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    made = images(Image(256, 224, mean, std), tmp_path, PLACE).batch([path], image_signature(1))
    with Pillow.open(path) as opened:
        expected = ImageClassification(crop_size=224, mean=mean, std=std)(opened.convert("RGB"))
    assert torch.equal(made, expected[None])
    assert torch.equal(images(ENUM, tmp_path, PLACE).batch([path], image_signature(1)), made)


def test_what_is_not_declared_is_not_done(tmp_path: Path) -> None:
    path = image(tmp_path / "a.bmp", 30, 20)
    made = images(Image(), tmp_path, PLACE).batch([path], image_signature(1))
    with Pillow.open(path) as opened:
        expected = torch.from_numpy(numpy.array(opened)).permute(2, 0, 1).float() / 255
    assert torch.equal(made, expected[None])


def test_an_image_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    upright = Pillow.open(image(tmp_path / "a.png", 30, 20))
    turned = upright.transpose(Pillow.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was held on its side: turn by 270 degrees to see it upright
    turned.save(tmp_path / "b.png", exif=exif)
    use = images(Image(), tmp_path, PLACE)
    assert torch.equal(
        *(use.batch([tmp_path / name], image_signature(1)) for name in ("a.png", "b.png"))
    )


@pytest.mark.parametrize(
    ("batch", "rows"), [(1, [0]), (2, [0, 1]), (5, [0, 1, 0, 1, 0]), ("batch", [0, 1, 0])]
)
def test_images_are_repeated_until_the_batch_is_full(
    tmp_path: Path, batch: int | str, rows: list[int]
) -> None:
    paths = [image(tmp_path / "a.png", 30, 20), image(tmp_path / "b.png", 20, 20)][
        : 1 if batch == 1 else 2
    ]
    use = images(Image(crop=8), tmp_path, PLACE)
    made = use.batch(paths, image_signature(batch))
    singles = [use.batch([path], image_signature(1))[0] for path in paths]
    assert torch.equal(made, torch.stack([singles[row] for row in rows]))


def test_an_image_takes_the_inputs_dtype(tmp_path: Path) -> None:
    path = image(tmp_path / "a.png", 30, 20)
    made = images(Image(crop=8), tmp_path, PLACE).batch(
        [path], image_signature(1, dtype="bfloat16")
    )
    assert made.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("declared", "signature", "said"),
    [
        (Image(crop=8, mean=(0.5,), std=(0.5,)), image_signature(1), "1 values"),
        (Image(crop=8), image_signature(1, 9), "a.png becomes [2, 3, 8, 8]"),
        (Image(crop=8), image_signature(1, dtype="uint8"), "one floating point tensor"),
        (Image(crop=8), TWO, "one floating point tensor"),
        (Image(crop=8), ONE, "x float32 [batch, 3]"),
        (Image(crop=8), {"inputs": image_signature(1)["inputs"] * 2}, "one floating point tensor"),
        (Image(crop=8), image_signature("batch", 9), "batch is 3 to 9 in steps of 3"),
        (Image(), image_signature(2), "different sizes"),
        (
            Image(classes="absent.txt"),
            image_signature(1),
            "absent.txt cannot be read as names of classes",
        ),
        (Image(classes="a.png"), image_signature(1), "a.png cannot be read as names of classes"),
        (
            Source("resnet18", module="torchvision.models"),
            image_signature(1),
            "no member of a weights enum",
        ),
        (
            Source("ResNet18_Weights.V7", module="torchvision.models"),
            image_signature(1),
            "no member",
        ),
        (
            Source("ResNet99_Weights.DEFAULT", module="torchvision.models"),
            image_signature(1),
            "has no 'ResNet99",
        ),
        (
            Source("video.S3D_Weights.DEFAULT", module="torchvision.models"),
            image_signature(1),
            "preprocess",
        ),
    ],
)
def test_images_that_cannot_become_the_input(
    tmp_path: Path, declared: Image | Source, signature: Mapping[str, Any], said: str
) -> None:
    paths = [image(tmp_path / "a.png", 30, 20), image(tmp_path / "b.png", 20, 20)]
    with pytest.raises(UsageError) as error:
        images(declared, tmp_path, PLACE).batch(paths, signature)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"), [("deep.png", "8 bits"), ("animated.png", "cannot be read")]
)
def test_images_that_are_none(tmp_path: Path, name: str, said: str) -> None:
    if name == "deep.png":
        Pillow.fromarray(numpy.full((20, 20), 40000, dtype=numpy.uint16)).save(tmp_path / name)
    else:
        Pillow.new("RGB", (20, 20)).save(tmp_path / name, format="GIF")
    with pytest.raises(UsageError, match=said):
        images(Image(crop=8), tmp_path, PLACE).batch([tmp_path / name], image_signature(1))


def test_a_huge_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UsageError, match="DecompressionBombError"):
        images(Image(crop=8), tmp_path, PLACE).batch(
            [image(tmp_path / "a.png", 30, 20)], image_signature(1)
        )


def test_an_enum_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was started")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    use = images(ENUM, tmp_path, PLACE)
    assert (len(use.names), use.names[281], use.named_by) == (1000, "tabby", str(ENUM))


def test_the_most_probable_classes(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n\nbird\n\n")
    use = images(Image(classes="classes.txt"), tmp_path, PLACE)
    assert use.names == ("cat", "dog", "", "bird")
    scores = torch.tensor([[0.0, 2.0, 1.0, -1.0], [9.0, 0.0, 0.0, 0.0]], dtype=torch.float16)
    found = top_classes("output", scores, 1, use)
    assert found is not None
    (classes,) = found["images"]
    assert [(one["index"], one["name"]) for one in classes] == [
        (1, "dog"),
        (2, ""),
        (0, "cat"),
        (3, "bird"),
    ]
    assert classes[0]["probability"] == pytest.approx(float(scores[0].double().softmax(0)[1]))
    assert "unnamed" not in found


def test_names_that_do_not_fit_the_classes_are_not_used(tmp_path: Path) -> None:
    found = top_classes("output", torch.randn(1, 7), 1, images(ENUM, tmp_path, PLACE))
    assert found is not None
    assert len(found["images"][0]) == 5
    assert {one["name"] for one in found["images"][0]} == {None}
    assert found["unnamed"] == f"{ENUM} names 1000 classes, this output has 7"


@pytest.mark.parametrize(
    "output", [torch.zeros(2, 3, 4), torch.zeros(3), torch.zeros(2, 3).int(), torch.zeros(2, 1)]
)
def test_other_outputs_have_no_classes(tmp_path: Path, output: torch.Tensor) -> None:
    assert top_classes("output", output, 1, images(Image(), tmp_path, PLACE)) is None


# Writing, timing, eager


@pytest.mark.parametrize("suffix", OUTPUT_SUFFIXES)
def test_outputs_are_written_whole_and_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "below" / f"out{suffix}"
    outputs = {"['a']": X.t(), "[0][1]": torch.tensor([True]), "output": torch.tensor(1j)}
    save(path, outputs)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if suffix == ".npz":
        with numpy.load(path) as loaded:
            found = {name: torch.from_numpy(loaded[name]) for name in loaded.files}
    else:
        found = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    assert found.keys() == outputs.keys()
    assert all(torch.equal(found[name], value) for name, value in outputs.items())


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"bfloat16, which numpy does not have"):
        save(tmp_path / "out.npz", {"output": X.bfloat16()})
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"out\.npz cannot be written"):
        save(tmp_path / "file" / "out.npz", {"output": X})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "out.pt", {"output": X})
    before = (tmp_path / "out.pt").read_bytes()

    def refuse(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UsageError, match=r"the disk is full"):
        save(tmp_path / "out.pt", {"output": N})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"out.pt": before}


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (1, 1, 1, 1, 1)), (10, (1, 5, 9, 10, 10)), (200, (1, 100, 180, 198, 200))],
)
def test_figures_of_time_are_calls_that_were_measured(
    count: int, expected: tuple[float, ...]
) -> None:
    found = summary([float(value) for value in range(count, 0, -1)])
    assert (found.min, found.median, found.p90, found.p99, found.max) == expected
    assert found.repeat == count


@pytest.mark.parametrize(
    ("model", "here"),
    [
        (Model("m", Source("build", path="net.py"), ()), True),
        (Model("m", Source("build", path="gone.py"), ()), False),
        (Model("m", Source("build", path="net.py"), (), weights=Weights("gone.pt")), False),
        (Model("m", Source("build", path="net.py"), (), files=("gone.txt",)), False),
        (Model("m", Source("build", path="net.py"), Source("make", path="gone.py")), False),
        (Model("m", Source("resnet18", module="torchvision.models"), ()), True),
        (Model("m", Source("build", module="not_installed_anywhere.models"), ()), False),
    ],
)
def test_is_the_source_here(tmp_path: Path, model: Model, here: bool) -> None:
    (tmp_path / "net.py").write_text("")
    assert source_is_here(model, tmp_path, [str(tmp_path)]) is here


# The whole way


def test_images_fill_the_batch_and_outputs_are_eagers(vision: Path) -> None:
    finished = run_inv(
        vision,
        "run",
        "--input",
        "one.png,two.jpg,one.png,random,reference_data",
        "--seed",
        "3",
        "--repeat",
        "4",
        "--json",
    )
    assert finished.code == 0, finished.out
    (target,) = finished.json["targets"]
    assert (target["target"], target["verdict"], target["out_of_date"]) == (
        "tiny/cpu",
        "passed",
        [],
    )
    assert [(run["source"], run["seed"], run["check"]) for run in target["runs"]] == [
        (["one.png", "two.jpg"], None, "eager"),
        (["one.png"], None, "eager"),
        (["random"], 3, "eager"),
        (["reference_data"], None, "reference_data"),
    ]
    both, single, *_ = target["runs"]
    assert [entry["shape"] for entry in both["inputs"] + both["outputs"]] == [
        [2, 3, 32, 32],
        [2, 1000],
    ]
    assert [len(run["top"][0]["images"]) for run in (both, single)] == [2, 1]
    for one, other in zip(both["top"][0]["images"][0], single["top"][0]["images"][0], strict=True):
        assert one == pytest.approx(other)
    assert all(one["name"] == f"class {one['index']}" for one in both["top"][0]["images"][1])
    timing = both["timing"]
    assert timing["repeat"] == 4
    assert 0 < timing["min"] <= timing["median"] <= timing["p90"] <= timing["p99"] <= timing["max"]


def test_the_written_outputs_are_those_of_the_model(vision: Path) -> None:
    finished = run_inv(vision, "run", "--input", "two.jpg", "--output", "out/two.safetensors")
    assert finished.code == 0, finished.out
    assert f"outputs are in {vision / 'out/two.safetensors'}" in finished.out
    assert "two.jpg: classes by output, probabilities by softmax" in finished.out
    scope: dict[str, Any] = {}
    exec(NET, scope)  # noqa: S102 - the text above
    torch.manual_seed(0)
    net = scope["build"]()
    use = images(Image(40, 32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), vision, PLACE)
    with torch.no_grad():
        expected = net(use.batch([vision / "two.jpg"], image_signature(2)))
    found = load_file(vision / "out/two.safetensors")
    torch.testing.assert_close(found, {"output": expected}, atol=1e-5, rtol=1e-4)


def test_an_enum_of_torchvision_as_the_preprocessing(vision: Path) -> None:
    write_single(vision, NET, TINY + f"  image: {ENUM}\n")
    run = only(
        run_inv(
            vision, "run", "--input", "one.png", "--json", env={"TORCH_HOME": str(vision / "hub")}
        )
    )
    assert (run["verdict"], run["inputs"][0]["shape"]) == ("passed", [2, 3, 224, 224])
    names = images(ENUM, vision, PLACE).names
    assert [one["name"] for one in run["top"][0]["images"][0]] == [
        names[one["index"]] for one in run["top"][0]["images"][0]
    ]
    assert not (vision / "hub").exists()


def test_without_the_source_random_inputs_run_unverified(vision: Path) -> None:
    (vision / "net.py").unlink()
    finished = run_inv(vision, "run", "--input", "random,reference_data", "--output", "{input}.npz")
    assert finished.code == 0, finished.out
    assert finished.out.count("NOT checked: the model's source is not here") == 1
    assert "passed: checked against the outputs that eager gave at build time" in finished.out
    document = run_inv(vision, "run", "--input", "random", "--json").json
    assert (document["ok"], document["targets"][0]["verdict"]) == (True, "unverified")
    with (
        numpy.load(vision / "random.npz") as drawn,
        numpy.load(vision / "reference_data.npz") as reference_data,
    ):
        assert not numpy.array_equal(drawn["output"], reference_data["output"])


def test_the_seed_decides_random_inputs(vision: Path) -> None:
    (vision / "net.py").unlink()
    runs = {}
    for seed in ("0", "6"):
        runs[seed] = run_inv(
            vision, "run", "--input", "random,reference_data", "--seed", seed, "--json"
        ).json["targets"][0]["runs"]
    assert runs["0"][0]["inputs"] == runs["0"][1]["inputs"] == runs["6"][1]["inputs"]
    assert runs["6"][0]["inputs"] != runs["0"][0]["inputs"]


def test_a_failure_of_one_input_does_not_end_the_others(vision: Path) -> None:
    numpy.save(vision / "wide.npy", numpy.zeros((2, 3, 16, 16)))
    numpy.save(vision / "large.npy", numpy.zeros((2, 3, 264, 264), dtype=numpy.float32))
    numpy.save(vision / "right.npy", numpy.zeros((2, 3, 16, 16), dtype=numpy.float32))
    (vision / "bad.png").write_bytes(b"no image")
    finished = run_inv(vision, "run", "--input", "wide.npy,large.npy,bad.png,right.npy", "--json")
    assert finished.code == 2
    wide, large, bad, right = finished.json["targets"][0]["runs"]
    assert [run["verdict"] for run in (wide, large, bad, right)] == [
        "failed",
        "failed",
        "failed",
        "passed",
    ]
    assert (wide["error"]["kind"], bad["error"]["kind"]) == ("usage", "usage")
    assert 'array.astype("float32")' in wide["error"]["hint"]
    assert large["error"]["kind"] == "verification"
    assert "too large" in large["error"]["cause"]
    assert "side is 8 to 256" in large["error"]["hint"]
    assert "bad.png cannot be read" in bad["error"]["message"]
    assert "Traceback" not in finished.out + finished.err
    alone = run_inv(vision, "run", "--input", "large.npy")
    assert alone.code == 3
    assert "too large" in alone.out


def test_another_model_in_the_source_fails_the_check(vision: Path) -> None:
    net = vision / "net.py"
    net.write_text(net.read_text().replace(".mean((2, 3))", ".mean((2, 3)) * 1.01"))
    finished = run_inv(vision, "run", "--input", "one.png", "--json", "--output", "out.pt")
    assert finished.code == 3
    run = only(finished)
    assert (run["verdict"], run["passed"], run["verdicts"][0]["ok"]) == ("mismatch", False, False)
    assert [reason["what"] for reason in finished.json["targets"][0]["out_of_date"]] == ["net.py"]
    assert torch.load(vision / "out.pt", weights_only=True)["output"].shape == (2, 1000)
    assert "FAILED: checked against eager" in run_inv(vision, "run", "--input", "one.png").out


def test_a_source_that_does_not_import_or_takes_other_inputs(vision: Path) -> None:
    (vision / "net.py").write_text("import not_installed_anywhere\n")
    finished = run_inv(vision, "run", "--input", "random")
    assert finished.code == 2
    assert "net.py does not import" in finished.out
    two = TINY.replace("side, side]}]", "side, side]}, {shape: [1]}]")
    write_single(vision, NET.replace("self, image", "self, image, other"), two)
    numpy.save(vision / "right.npy", numpy.zeros((2, 3, 16, 16), dtype=numpy.float32))
    finished = run_inv(vision, "run", "--input", "right.npy,random")
    assert finished.code == 3
    assert "models.yaml has 2 input tensors now, the artifact takes 1" in finished.out
    assert "the random input holds 2 tensors" in finished.out


def test_an_image_for_a_model_without_image(vision: Path) -> None:
    write_single(vision, NET, TINY)
    finished = run_inv(vision, "run", "--input", "one.png")
    assert finished.code == 2
    assert "image: torchvision.models:ResNet18_Weights.DEFAULT" in finished.out


def test_an_altered_package_is_never_loaded(vision: Path) -> None:
    flip_a_bit(vision / "artifacts/tiny/cpu/model.pt2")
    finished = run_inv(vision, "run")
    assert finished.code == 4
    assert "model.pt2 does not match the manifest" in finished.out


def test_several_targets_each_with_its_own_inputs(built: Path) -> None:
    """Keyword inputs, a callable that makes them, dynamic batches and outputs that are no
    tensors."""
    finished = run_inv(
        built,
        "run",
        "--input",
        "random,reference_data",
        "--output",
        "{target}/{input}.npz",
        "--json",
    )
    assert finished.code == 0, finished.out
    assert [target["verdict"] for target in finished.json["targets"]] == ["passed"] * 3
    checks = [[run["check"] for run in target["runs"]] for target in finished.json["targets"]]
    assert checks == [["eager", "reference_data"]] * 3
    with numpy.load(built / "tagger/cpu/random.npz") as outputs:
        assert set(outputs) == {"['labels']", "['extra'][0]", "['extra'][1]"}
    assert sorted(path.name for path in built.glob("*/cpu/*.npz")) == sorted(
        ["reference_data.npz", "random.npz"] * 3
    )


def test_named_inputs_of_a_dynamic_size_are_checked_against_eager(built: Path) -> None:
    tensors = {"tokens": torch.randint(0, 11, (7, 6)), "mask": torch.ones(7, 6, dtype=torch.bool)}
    save_file(tensors, built / "a.safetensors")
    numpy.savez(built / "b.npz", **{name: value.numpy() for name, value in tensors.items()})
    torch.save([tensors["tokens"], tensors["mask"]], built / "c.pt")
    command = ("run", "--target", "tagger", "--input", "a.safetensors,b.npz,c.pt", "--json")
    finished = run_inv(built, *command)
    assert finished.code == 0, finished.out
    runs = finished.json["targets"][0]["runs"]
    assert [run["check"] for run in runs] == ["eager"] * 3
    assert "fp64" in runs[0]["verdicts"][0]
    assert all(run["outputs"] == runs[0]["outputs"] for run in runs)
    assert runs[0]["outputs"][0]["shape"] == [7, 6, 3]


@pytest.mark.parametrize(
    ("size", "dtype", "code", "said"), [(17, "int64", 3, "too large"), (4, "int32", 2, "int32")]
)
def test_inputs_that_do_not_fit_are_refused(
    built: Path, size: int, dtype: str, code: int, said: str
) -> None:
    tokens = torch.zeros(size, 6, dtype=getattr(torch, dtype))
    save_file(
        {"tokens": tokens, "mask": torch.ones(size, 6, dtype=torch.bool)},
        built / "given.safetensors",
    )
    finished = run_inv(built, "run", "--target", "tagger", "--input", "given.safetensors")
    assert finished.code == code
    assert said in finished.out
    assert "tokens int64 [batch, 6], mask bool [batch, 6]; batch is 1 to 16" in finished.out
