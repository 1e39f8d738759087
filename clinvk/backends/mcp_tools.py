"""The caller's functions as an MCP server offers them to any agent: pure.

Owns what MCP itself asks of them, and who may be called; knows no agent by name.
"""

import re
from typing import Any

from clinvk.errors import BadRequestError
from clinvk.schema import schema_fault
from clinvk.turn import ToolMode, ToolSpec, Turn

SERVER = "x"  # short, as agents put it before every name, and names are bounded

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")

Schema = dict[str, Any]


def check_tools(turn: Turn, agent: str, kept: str | None = None) -> tuple[str, ...]:
    """Refuse tools that cannot be offered as they are; name what is left out.

    `kept` is the name of a parameter that the agent keeps for itself.

    Raises:
        BadRequestError: naming the tool's field, or the choice, at fault.
    """
    names: set[str] = set()
    for at, tool in enumerate(turn.tools):
        where = f"tools[{at}].function"
        if not _NAME.fullmatch(tool.name):
            raise BadRequestError(
                f"{tool.name!r} cannot be the name of a tool; use up to 64 of a-z, A-Z, 0-9, "
                "_ and -",
                param=f"{where}.name",
            )
        if tool.name in names:
            raise BadRequestError(
                f"there is more than one tool {tool.name!r}; rename one", param=f"{where}.name"
            )
        names.add(tool.name)
        fault = _fault(tool.parameters or {}, agent, kept)
        if fault is not None:
            raise BadRequestError(
                f"the parameters of tool {tool.name!r} cannot be offered: {fault}",
                param=f"{where}.parameters",
            )
    choice = turn.tool_choice
    if choice.name is not None and choice.name not in names:
        raise BadRequestError(
            f"tool_choice names {choice.name!r}, which is not among the tools",
            param="tool_choice",
        )
    if choice.mode is ToolMode.REQUIRED and not names:
        raise BadRequestError("there is no tool to choose; send tools", param="tool_choice")
    return ("tools[].function.strict",) if any(t.strict for t in offered(turn)) else ()


def offered(turn: Turn) -> tuple[ToolSpec, ...]:
    """Return the tools that the model may call."""
    choice = turn.tool_choice
    if choice.mode is ToolMode.NONE:
        return ()
    return tuple(tool for tool in turn.tools if choice.name in (None, tool.name))


def _fault(schema: Schema, agent: str, kept: str | None) -> str | None:
    if fault := schema_fault(schema):
        return f"they are no JSON Schema: {fault}"
    found = _resolved(schema)
    if found.get("type", "object") != "object":
        return f"their type is {found['type']!r}, and must be 'object'"
    if kept is not None and kept in found.get("properties", {}):
        return f"{agent} keeps the name {kept!r} for a parameter of its own; rename yours"
    return None


def object_schema(schema: Schema) -> Schema:
    """Return a schema of parameters as MCP has it: an object with properties that are objects."""
    found = _resolved(schema)
    properties = found.get("properties", {})
    opened = {
        name: ({} if value else {"not": {}}) if isinstance(value, bool) else value
        for name, value in properties.items()
    }
    return {**found, "type": "object", "properties": opened}


def _resolved(schema: Schema) -> Schema:
    """Put the definition that the root refers to in its place: properties are added beside."""
    match str(schema.get("$ref")).split("/"):
        case ["#", "$defs" | "definitions" as where, name]:
            target = schema[where][name]
            if isinstance(target, dict):
                return {**{k: v for k, v in schema.items() if k != "$ref"}, **target}
    return schema
