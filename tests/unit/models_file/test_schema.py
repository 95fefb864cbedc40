"""The JSON schema for editors says the same as the loader, as far as a schema can say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import aoti_build
from aoti_build.models_file.parsing import editor_schema, field_types, schema, tuned_file

GOOD: dict[str, Any] = {
    "version": 1,
    "inductor_configs": {"fast": {"max_autotune": True, "cpp.threads": 4}},
    "models": {
        "a": {
            "source": "m:f",
            "kwargs": {"weights": None},
            "seed": 3,
            "weights": "w/a.pt",
            "dims": {"batch": {"min": 1, "max": 8, "multiple_of": 1, "example": 4}},
            "inputs": [
                {"shape": ["batch", 3], "dtype": "int64", "low": 0, "high": 9},
                {"shape": ["batch", 3, 4, 4], "memory_format": "channels_last"},
            ],
            "memory_format": "channels_last_3d",
            "devices": ["cpu", "cuda"],
            "inductor_configs": {"cuda": ["fast"]},
            "tolerance": {"atol": 1e-4, "rtol": 0},
            "cpu": {"isa": "avx2"},
        },
        "b": {"source": "b.py:f", "inputs": "b.py:inputs", "inductor_configs": ["default"]},
        "c": {"source": "b.py:f", "inputs": {"x": {"shape": []}}, "cuda": {"arch": "sm_120"}},
        "d": {
            "source": "b.py:f",
            "inputs": "b.py:inputs",
            "cpu": {"isa": ["native", "avx512"]},
            "cuda": {"arch": ["native", "sm_90a"]},
        },
    },
}


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    def put(data: Any, rest: tuple[str | int, ...]) -> Any:
        if not rest:
            return value
        if isinstance(data, list):
            return [
                put(item, rest[1:]) if index == rest[0] else item for index, item in enumerate(data)
            ]
        return {**data, rest[0]: put(data.get(rest[0], {}), rest[1:])}

    return dict(put(GOOD, path))


def test_the_committed_file_is_what_the_types_say() -> None:
    file = Path(aoti_build.__file__).with_name("models_file") / "models.schema.json"
    assert file.read_text(encoding="utf-8") == editor_schema.json_schema_text(), (
        "write it again with `inv schema --output aoti_build/models_file/models.schema.json`"
    )


def test_it_is_a_schema_of_draft_2020_12() -> None:
    made = editor_schema.json_schema()
    Draft202012Validator.check_schema(made)
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert "$id" not in made


def test_every_key_has_words_for_an_editor_and_no_default_is_null() -> None:
    made = editor_schema.json_schema()
    types = [made, *made["$defs"].values()]
    for described in types:
        for name, key in described["properties"].items():
            assert (
                key.get("description")
                or made["$defs"][key["$ref"].rpartition("/")[2]]["description"]
            ), name
    text = editor_schema.json_schema_text()
    assert '"null"' not in text
    assert ": null" not in text


def test_a_good_file_passes() -> None:
    Draft202012Validator(editor_schema.json_schema()).validate(GOOD)
    schema.File.model_validate(GOOD)


MODEL = ("models", "a")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), 2),
        (("extra",), 1),
        (("models",), {}),
        (("models", "a/b"), GOOD["models"]["b"]),
        (("models", "end."), GOOD["models"]["b"]),
        (("inductor_configs", "-x"), {}),
        (("inductor_configs", "fast"), {"a-b": 1}),
        ((*MODEL, "seed"), -1),
        ((*MODEL, "seed"), True),
        ((*MODEL, "seed"), None),
        ((*MODEL, "devices"), []),
        ((*MODEL, "devices"), ["gpu"]),
        ((*MODEL, "inductor_configs"), []),
        ((*MODEL, "inductor_configs"), {"gpu": ["fast"]}),
        ((*MODEL, "inductor_configs"), 7),
        ((*MODEL, "inputs"), []),
        ((*MODEL, "inputs"), {}),
        ((*MODEL, "inputs", 0, "shape"), [1.5]),
        ((*MODEL, "inputs", 0, "shape"), [-1]),
        ((*MODEL, "inputs", 0, "dtype"), "float"),
        ((*MODEL, "inputs", 0, "low"), "1"),
        ((*MODEL, "inputs", 0, "probability"), 2),
        ((*MODEL, "inputs", 1, "memory_format"), "nhwc"),
        ((*MODEL, "memory_format"), ["channels_last"]),
        ((*MODEL, "outputs"), "list"),
        ((*MODEL, "imports"), ["a/b"]),
        ((*MODEL, "imports"), "a"),
        ((*MODEL, "tolerance", "atol"), -1),
        ((*MODEL, "cpu", "isa"), "sse"),
        ((*MODEL, "cpu", "isa"), []),
        ((*MODEL, "cpu", "isa"), ["avx2", "sse"]),
        ((*MODEL, "cpu", "isa"), {"avx2": 1}),
        ((*MODEL, "cuda", "arch"), "90"),
        ((*MODEL, "cuda", "arch"), "sm_9"),
        ((*MODEL, "cuda", "arch"), 90),
        ((*MODEL, "cuda", "arch"), []),
        ((*MODEL, "cuda", "arch"), ["native", "compute_80"]),
        ((*MODEL, "dims", "batch"), {"min": 1}),
        ((*MODEL, "dims", "batch", "multiple_of"), 0),
    ],
)
def test_what_one_refuses_the_other_refuses(path: tuple[str | int, ...], value: Any) -> None:
    data = changed(path, value)
    assert not Draft202012Validator(editor_schema.json_schema()).is_valid(data)
    if path != ("version",):  # refused by the resolver, with a sentence of its own
        with pytest.raises(ValueError, match="validation error"):
            schema.File.model_validate(data)


def test_every_mapping_type_has_its_place() -> None:
    types = {*schema.MAPPING_TYPES.values(), *tuned_file.MAPPING_TYPES.values()}
    assert types == set(field_types.YamlMapping.__subclasses__())
    assert schema.mapping_type_at(("models", "a", "dims", "*")) is schema.Dim
    assert schema.mapping_type_at(("models", "a", "kwargs")) is None
