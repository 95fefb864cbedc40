"""The JSON Schema of models.yaml, generated from the types that the parser uses.

Editors use it for completion and checks.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from aoti_build.common.json_object import JsonObject
from aoti_build.models_file.parsing.field_types import YamlMapping
from aoti_build.models_file.parsing.schema import VERSION, File


class _EditorSchema(GenerateJsonSchema):
    """pydantic's generator, without titles of fields and without null.

    Titles repeat the keys. null is a default in the Python types, but the file may not contain it.
    """

    def generate(
        self,
        schema: core_schema.CoreSchema,
        mode: JsonSchemaMode = "validation",
    ) -> JsonSchemaValue:
        return {**super().generate(schema, mode), "$schema": self.schema_dialect}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        default = schema.get("default")
        if default is None or isinstance(default, YamlMapping):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        # pydantic's patternProperties would accept every key that does not match the pattern.
        result = super().dict_schema(schema)
        patterns = result.pop("patternProperties", {})
        for pattern, values in patterns.items():
            result["propertyNames"] = {"pattern": pattern}
            result["additionalProperties"] = values
        return result

    # The signature is pydantic's.
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def json_schema() -> JsonObject:
    """Return the JSON Schema (draft 2020-12) of models.yaml."""
    schema = File.model_json_schema(schema_generator=_EditorSchema)
    return {**schema, "title": f"models.yaml of aoti_build, version {VERSION}"}


def json_schema_text() -> str:
    """Return the content of models.schema.json."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"
