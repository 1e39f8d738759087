"""The caller's functions as codex's dynamic tools: pure.

Codex offers them to its model as they are, but for what it does to a schema (observed with codex
0.169.0): it keeps the keywords it knows (type, properties, required, items, enum, the combinators,
references, descriptions) and drops the rest, and it takes for a string what has no type. What of
that would make the schema wrong, not only weaker, is written in its own terms first.
"""

import re
from typing import Any

from clinvk.backends import caller_tools
from clinvk.backends.caller_tools import offered
from clinvk.schema import schema_fault
from clinvk.turn import ToolChoice, ToolMode, ToolSpec, Turn

Item = dict[str, Any]

_RESERVED = re.compile(r"mcp(?:__.*)?")
_ALIAS = "caller_"

_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "not")
_TYPES: dict[type, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}


def check_tools(turn: Turn) -> tuple[str, ...]:
    """Refuse the tools that codex, or its model API, would refuse; name what is left out.

    Raises:
        BadRequestError: naming the tool.
    """
    return caller_tools.check_tools(turn, _refusal)


def dynamic_tools(turn: Turn) -> list[Item]:
    """Return the tools as `thread/start` takes them."""
    return [
        {
            "type": "function",
            "name": inner_name(tool.name),
            "description": tool.description or "",
            "inputSchema": _root(tool.parameters or {}),
        }
        for tool in offered(turn)
    ]


def demand(choice: ToolChoice) -> str | None:
    """Return what the model is told when it must call; codex itself always leaves it the choice."""
    if choice.mode is not ToolMode.REQUIRED:
        return None
    if choice.name is not None:
        return f"Your next reply must be a call of the tool {inner_name(choice.name)}."
    return "Your next reply must be a call of at least one of your tools."


def inner_name(name: str) -> str:
    """Return the name of a tool on codex's side, which keeps some for itself."""
    return f"{_ALIAS}{name}" if _RESERVED.fullmatch(name) else name


def outer_name(name: str) -> str:
    """Return the name of a tool as the caller knows it."""
    rest = name.removeprefix(_ALIAS)
    return rest if _RESERVED.fullmatch(rest) else name


def _refusal(tool: ToolSpec) -> str | None:
    fault = _fault(tool.parameters)
    said = f"the parameters of tool {tool.name!r} are no JSON Schema of an object"
    return fault and f"{said}: {fault}"


def _fault(schema: dict[str, Any] | None) -> str | None:
    if schema is None:
        return None
    if schema.get("type", "object") != "object":
        return f"its type is {schema['type']!r}"
    return schema_fault(schema)


def _root(schema: dict[str, Any]) -> Item:
    return {"properties": {}, **_plain(schema), "type": "object"}


def _plain(schema: object) -> Any:  # noqa: ANN401 - JSON
    """A schema whose meaning codex does not change."""
    if not isinstance(schema, dict):
        return {} if schema is True else schema
    plain: Item = {}
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            plain[key] = {name: _plain(inner) for name, inner in value.items()}
        elif key in _LISTS and isinstance(value, list):
            plain[key] = [_plain(inner) for inner in value]
        elif key in _SINGLE and isinstance(value, dict):
            plain[key] = _plain(value)
        elif key == "const":
            plain["enum"] = [value]
        elif key == "minItems":
            plain[key] = int(value)
        else:
            plain[key] = value
    values = plain.get("enum")
    if isinstance(values, list) and "type" not in plain:
        kinds = sorted({_TYPES[type(value)] for value in values})
        plain["type"] = kinds[0] if len(kinds) == 1 else kinds
    if "items" in plain or "prefixItems" in plain or "array" in plain.get("type", ()):
        plain["items"] = _items(plain.pop("prefixItems", None), plain.get("items", True))
    return plain


def _items(first: list[Item] | None, rest: object) -> Item:
    """What an array has in it: codex knows no tuples, in neither of their two spellings."""
    if isinstance(rest, list):
        first, rest = [_plain(inner) for inner in rest], True
    if first:
        return {"anyOf": first} if len(first) > 1 else first[0]
    return rest if isinstance(rest, dict) else {}
