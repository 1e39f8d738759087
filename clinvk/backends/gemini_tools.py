"""The caller's functions as gemini's model gets them: pure.

They come from an MCP server of clinvk's own. Observed with gemini 0.61.0: the model sees each as
`mcp_SERVER_NAME`, and a name of more than 63 characters is cut in its middle; a description is
kept as it is, and so is a schema but for two things: the type `[T, "null"]` becomes `T` with
`nullable`, and a parameter `wait_for_previous` is added, which would replace the caller's own. A
list with one tool whose schema is not as MCP has it is thrown away whole.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2s
from typing import Any

from clinvk.errors import BadRequestError
from clinvk.schema import schema_fault
from clinvk.toolserver import Tool
from clinvk.turn import ToolMode, ToolSpec, Turn

SERVER = "x"
PREFIX = f"mcp_{SERVER}_"
ADDED = "wait_for_previous"

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_LONGEST = 63 - len(PREFIX)
_DIGEST_BYTES = 4

Schema = dict[str, Any]


def check_tools(turn: Turn) -> tuple[str, ...]:
    """Refuse tools that cannot be offered as they are; name what is left out.

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
        fault = _fault(tool.parameters or {})
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
    return ("tools[].function.strict",) if any(t.strict for t in _offered(turn)) else ()


def offered_tools(turn: Turn) -> tuple[Tool, ...]:
    """Return the tools that the model may call, as the server offers them."""
    return tuple(
        Tool(_short(tool.name), tool.description or "", _schema(tool.parameters or {}))
        for tool in _offered(turn)
    )


def outer_names(turn: Turn) -> dict[str, str]:
    """Return the caller's name of each tool, by the name that the model sees."""
    return {PREFIX + _short(tool.name): tool.name for tool in _offered(turn)}


def must_call(turn: Turn) -> bool:
    """Whether the model must call a tool, which gemini can be set to."""
    return turn.tool_choice.mode is ToolMode.REQUIRED


def as_seen(turn: Turn) -> Turn:
    """Return the turn with the tools that were called named as the model sees them."""
    seen = {outer: inner for inner, outer in outer_names(turn).items()}
    if not seen:
        return turn
    messages = [
        replace(m, calls=tuple(replace(c, name=seen.get(c.name, c.name)) for c in m.calls))
        for m in turn.messages
    ]
    return replace(turn, messages=tuple(messages))


def arguments_of(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call without the one that gemini has added."""
    return {name: value for name, value in made.items() if name != ADDED}


def _offered(turn: Turn) -> tuple[ToolSpec, ...]:
    choice = turn.tool_choice
    if choice.mode is ToolMode.NONE:
        return ()
    return tuple(tool for tool in turn.tools if choice.name in (None, tool.name))


def _short(name: str) -> str:
    """The name of a tool on the server: one that gemini would cut ends in a digest instead."""
    if len(name) <= _LONGEST:
        return name
    digest = blake2s(name.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{name[: _LONGEST - len(digest) - 1]}_{digest}"


def _fault(schema: Schema) -> str | None:
    if fault := schema_fault(schema):
        return f"they are no JSON Schema: {fault}"
    found = _resolved(schema)
    if found.get("type", "object") != "object":
        return f"their type is {found['type']!r}, and must be 'object'"
    if ADDED in found.get("properties", {}):
        return f"gemini keeps the name {ADDED!r} for a parameter of its own; rename yours"
    return None


def _schema(schema: Schema) -> Schema:
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
