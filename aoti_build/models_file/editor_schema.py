"""The JSON schema of models.yaml for editors, made of the same types as the parser."""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import core_schema

from aoti_build.common.json_object import JsonObject
from aoti_build.models_file.field_types import Wire
from aoti_build.models_file.schema import VERSION, File


class _EditorSchema(GenerateJsonSchema):
    """pydantic's schema without what an editor has no use for: titles of fields, and null, which no
    key may hold."""

    def generate(
        self, schema: core_schema.CoreSchema, mode: JsonSchemaMode = "validation"
    ) -> JsonSchemaValue:
        return {**super().generate(schema, mode), "$schema": self.schema_dialect}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        if schema.get("default") is None or isinstance(schema["default"], Wire):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        # Patterned keys, as pydantic writes them, let every other key pass.
        result = super().dict_schema(schema)
        for pattern, values in result.pop("patternProperties", {}).items():
            result.update(propertyNames={"pattern": pattern}, additionalProperties=values)
        return result

    # The signature is pydantic's.
    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def json_schema() -> JsonObject:
    """The JSON schema (draft 2020-12) of models.yaml."""
    schema = File.model_json_schema(schema_generator=_EditorSchema)
    return {**schema, "title": f"models.yaml of aoti_build, version {VERSION}"}


def json_schema_text() -> str:
    """The content of models.schema.json."""
    return json.dumps(json_schema(), indent=2, sort_keys=True) + "\n"
