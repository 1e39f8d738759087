"""The caller's functions as an MCP server offers them to any agent: pure.

Owns what MCP itself asks of them, and who may be called; knows no agent by name.
"""

from typing import Any

from clinvk.backends import caller_tools
from clinvk.errors import BadRequestError
from clinvk.schema import resolved_root, schema_fault
from clinvk.turn import ToolMode, ToolSpec, Turn

SERVER = "x"  # short, as agents put it before every name, and names are bounded

Schema = dict[str, Any]


def check_tools(turn: Turn, agent: str, kept: str | None = None) -> tuple[str, ...]:
    """Refuse tools that cannot be offered as they are; name what is left out.

    `kept` is the name of a parameter that the agent keeps for itself.

    Raises:
        BadRequestError: naming the tool's field, or the choice, at fault.
    """

    def fault_of(tool: ToolSpec) -> str | None:
        fault = _fault(tool.parameters or {}, agent, kept)
        return fault and f"the parameters of tool {tool.name!r} cannot be offered: {fault}"

    left_out = caller_tools.check_tools(turn, fault_of)
    if turn.tool_choice.mode is ToolMode.REQUIRED and not turn.tools:
        raise BadRequestError("there is no tool to choose; send tools", param="tool_choice")
    return left_out


def _fault(schema: Schema, agent: str, kept: str | None) -> str | None:
    if fault := schema_fault(schema):
        return f"they are no JSON Schema: {fault}"
    found = resolved_root(schema)
    if found.get("type", "object") != "object":
        return f"their type is {found['type']!r}, and must be 'object'"
    if kept is not None and kept in found.get("properties", {}):
        return f"{agent} keeps the name {kept!r} for a parameter of its own; rename yours"
    return None


def object_schema(schema: Schema) -> Schema:
    """Return a schema of parameters as MCP has it: an object with properties that are objects."""
    found = resolved_root(schema)
    properties = found.get("properties", {})
    opened = {
        name: ({} if value else {"not": {}}) if isinstance(value, bool) else value
        for name, value in properties.items()
    }
    return {**found, "type": "object", "properties": opened}
