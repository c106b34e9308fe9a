"""JSON Schemas of flow files and of the workspace file, so that editors complete and check them.

What a flow file may say is in the models of `operators/language`, `operators/triggers` and `operators/steps`, and its
schema is made of them and of the tables of conditions. Written by hand is only what binds them together.

A schema sees one place at a time. What takes the whole flow or a parser (step names, templates, zones, impossible
conditions) is left to `nudge check`. What `check` takes, the schema takes too, with one exception: `where:` and
`when:` with nothing behind them, which is most often a condition that somebody forgot to write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from operators import triggers
from operators.conditions.arguments import DIALECT, MOMENT_SCHEMA, SCALAR_SCHEMA, Schema, described, list_of
from operators.conditions.tests import TESTS
from operators.conditions.when import KEYWORDS
from operators.language.flow import Flow
from operators.language.model import Model
from operators.language.workspace import Workspace
from operators.steps import KINDS

_PATH: Final = r"[^.]+(\.[^.]+)*"  # No part of a path is empty.


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


# ---- conditions ----------------------------------------------------------------------------------------------------


def _conditions() -> Schema:
    """Return the definitions of `where`, of `when`, and of the tests in both."""
    tests = {name: described(kind.argument.schema, kind.says) for name, kind in TESTS.items()}

    def groups(name: str) -> Schema:
        each = list_of(_ref(name))
        return {
            "any": described(each, "at least one of these holds"),
            "all": described(each, "each of these holds"),
            "not": described(_ref(name), "this does not hold"),
        }

    definitions: Schema = {
        "Test": {
            "title": "test",
            "description": "a value, a list of values, or tests such as {gte: 50}; null: there is no value",
            "anyOf": [
                {"type": ["string", "number", "boolean", "null"], "description": "equal to this; null: no value"},
                described(list_of(SCALAR_SCHEMA), "one of these"),
                {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": tests},
            ],
        },
        "Where": {
            "title": "where",
            "description": "Conditions on the properties of an event, all of which must hold. Nested properties are "
            "written with dots; a property that is called like a keyword is written properties.any.",
            "type": "object",
            "minProperties": 1,
            "properties": groups("Where"),
            "propertyNames": {"pattern": f"^{_PATH}$"},
            "additionalProperties": _ref("Test"),
        },
        "When": {
            "title": "when",
            "description": "Conditions on the user, all of which must hold: profile.<attribute>, entry.<property> "
            "(of the event that started the journey), what the user did, and the user's local time.",
            "type": "object",
            "minProperties": 1,
            "properties": {
                **groups("When"),
                **{name: keyword.schema for name, keyword in KEYWORDS.items()},
            },
            "patternProperties": {rf"^(profile|entry)\.{_PATH}$": _ref("Test")},
            "additionalProperties": False,
        },
    }
    for keyword in KEYWORDS.values():
        definitions.update(keyword.definitions)
    return definitions


# ---- from the models -----------------------------------------------------------------------------------------------


class _Generator(GenerateJsonSchema):
    """Schemas of the models, without what helps nobody in an editor."""

    def get_schema_from_definitions(self, json_ref: Any) -> JsonSchemaValue | None:
        try:
            return super().get_schema_from_definitions(json_ref)
        except KeyError:
            return None  # One of the definitions that are written by hand.

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # The key itself says as much.

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if not isinstance(made.get("default"), str | int | float):
            made.pop("default", None)  # An editor would offer to write null, or empty mappings.
        return made

    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value  # In the order of the models, which is that of the documentation.


def _definitions(*models: type[Model]) -> Schema:
    """Return the definitions of *models* and of all they mention, `SendModel` being called `Send`."""
    _, made = models_json_schema([(model, "validation") for model in models], schema_generator=_Generator)
    short = {name: name.removesuffix("Model") for name in made["$defs"]}
    definitions: Schema = {short[name]: _tidied(schema, short) for name, schema in made["$defs"].items()}
    for name, schema in definitions.items():
        schema["title"] = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()
        for value in schema["properties"].values():
            if "not" in value:
                value["description"] = f"{value['description']} Not supported yet."
    return definitions


def _tidied(schema: Any, short: dict[str, str]) -> Any:
    """Return *schema* with short names of definitions, and with what the models say too little about."""
    if isinstance(schema, list):
        return [_tidied(one, short) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "date-time":
        return dict(MOMENT_SCHEMA)  # `date-time` would refuse a date alone, or a space instead of the T.
    tidied = {key: _tidied(value, short) for key, value in schema.items()}
    if isinstance(schema.get("$ref"), str):
        name = schema["$ref"].rpartition("/")[2]
        tidied["$ref"] = f"#/$defs/{short.get(name, name)}"
    if "patternProperties" in schema:
        tidied["additionalProperties"] = False  # What is no name is no key either.
        tidied.pop("propertyNames", None)
    return tidied


def _top(definitions: Schema, name: str, title: str, description: str) -> Schema:
    """Return the definition *name* as a schema of its own, with the others that it needs."""
    whole = {
        "$schema": DIALECT,
        **definitions[name],
        "title": title,
        "description": description,
    }
    needed = _needed(whole, definitions)
    return {**whole, "$defs": {key: value for key, value in definitions.items() if key in needed}}


def _needed(schema: Schema, definitions: Schema) -> set[str]:
    found: set[str] = set()
    todo = list(_references(schema))
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(_references(definitions[name]))
    return found


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].rpartition("/")[2]
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def flow_schema() -> Schema:
    """Return the JSON Schema of flow files."""
    parts = [part for kind in KINDS.values() for part in kind.parts]
    of_keywords = [model for keyword in KEYWORDS.values() for model in keyword.models]
    definitions = _definitions(Flow, *triggers.MODELS, *KINDS.values(), *parts, *of_keywords)
    kinds = []
    for kind, model in KINDS.items():
        name = model.__name__.removesuffix("Model")
        definitions[name]["title"] = kind
        required = definitions[name].get("required", [])
        definitions[name]["required"] = list(
            dict.fromkeys([*required, kind])
        )  # Else a step without kind were an `end`.
        kinds.append(_ref(name))
    definitions["Flow"]["properties"]["trigger"]["anyOf"] = [_ref(model.__name__) for model in triggers.MODELS]
    definitions["Step"] = {
        "title": "step",
        "description": "One step: a mapping with its kind as key, " + ", ".join(KINDS) + "; or the word end.",
        "anyOf": [*kinds, {"const": "end", "description": "End the journey here."}],
    }
    definitions.update(_conditions())
    return _top(definitions, "Flow", "Nudge flow", "A flow: who enters, what happens to them, and what ends it.")


def workspace_schema() -> Schema:
    """Return the JSON Schema of `nudge.yaml`."""
    description = "nudge.yaml: channels, rules for messages, and settings of nudge run, for all flows of a folder."
    return _top(_definitions(Workspace), "Workspace", "Nudge workspace", description)
