"""The caller's functions as gemini's model gets them: pure.

They come from an MCP server of clinvk's own. Observed with gemini 0.61.0: the model sees each as
`mcp_SERVER_NAME`, and a name of more than 63 characters is cut in its middle; a description is
kept as it is, and so is a schema but for two things: the type `[T, "null"]` becomes `T` with
`nullable`, and a parameter `wait_for_previous` is added, which would replace the caller's own. A
list with one tool whose schema is not as MCP has it is thrown away whole.
"""

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2s
from typing import Any

from clinvk.backends import mcp_tools
from clinvk.backends.caller_tools import offered
from clinvk.backends.mcp_tools import SERVER, object_schema
from clinvk.toolserver import Tool
from clinvk.turn import ToolMode, Turn

PREFIX = f"mcp_{SERVER}_"
ADDED = "wait_for_previous"

_LONGEST = 63 - len(PREFIX)
_DIGEST_BYTES = 4


def check_tools(turn: Turn) -> tuple[str, ...]:
    """Refuse tools that cannot be offered; see `mcp_tools.check_tools`."""
    return mcp_tools.check_tools(turn, "gemini", ADDED)


def offered_tools(turn: Turn) -> tuple[Tool, ...]:
    """Return the tools that the model may call, as the server offers them."""
    return tuple(
        Tool(_short(tool.name), tool.description or "", object_schema(tool.parameters or {}))
        for tool in offered(turn)
    )


def outer_names(turn: Turn) -> dict[str, str]:
    """Return the caller's name of each tool, by the name that the model sees."""
    return {PREFIX + _short(tool.name): tool.name for tool in offered(turn)}


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


def _short(name: str) -> str:
    """The name of a tool on the server: one that gemini would cut ends in a digest instead."""
    if len(name) <= _LONGEST:
        return name
    digest = blake2s(name.encode(), digest_size=_DIGEST_BYTES).hexdigest()
    return f"{name[: _LONGEST - len(digest) - 1]}_{digest}"
