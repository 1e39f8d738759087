"""The caller's tools as a server of Claude Code's own, spoken to over its control channel. Pure.

Owns which tools are offered, how they are described, and what the CLI's questions about them are
answered; that of a call is not: it is the caller's to run. Observed with claude 2.1.197: with
`CLAUDE_AGENT_SDK_MCP_NO_PREFIX` the model sees the names as they are, and a description is cut
after 2048 characters.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from clinvk.backends import caller_tools, claude_schema
from clinvk.errors import BadRequestError
from clinvk.turn import ToolChoice, ToolMode, ToolSpec, Turn

SERVER = "x"
# The tool by which the CLI asks its model for JSON.
ANSWER_TOOL = "StructuredOutput"
MAX_DESCRIPTION = 2048  # in units of UTF-16
MAX_RESULT = 500_000  # in units of UTF-16; the CLI puts a longer one in a file and names that

Definition = dict[str, Any]
Content = list[dict[str, Any]]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_KEPT = {"ToolSearch"}  # left out of every request, without a word
_METHOD_NOT_FOUND = -32601


def check(turn: Turn) -> None:
    """Refuse tools that cannot be offered.

    Raises:
        BadRequestError: naming the tool's field, or the choice, at fault.
    """
    choice = turn.tool_choice
    if choice.mode is ToolMode.NONE:
        return
    names = [tool.name for tool in turn.tools]
    for at, tool in enumerate(turn.tools):
        param = f"tools[{at}].function"
        if not _NAME.fullmatch(tool.name):
            raise BadRequestError(
                f"{tool.name!r} is no name for a tool; use up to 128 of a-z, A-Z, 0-9, _ and -",
                param=f"{param}.name",
            )
        if tool.name in _KEPT:
            raise BadRequestError(
                f"Claude Code keeps the name {tool.name!r} for itself; rename the tool",
                param=f"{param}.name",
            )
        if tool.name in names[:at]:
            raise BadRequestError(
                f"{tool.name!r} is the name of an earlier tool too", param=f"{param}.name"
            )
        if tool.name == ANSWER_TOOL and turn.format is not None:
            raise BadRequestError(
                f"{tool.name!r} is how Claude Code answers in JSON; rename the tool, or leave "
                f"response_format out",
                param=f"{param}.name",
            )
        claude_schema.parameters(tool.parameters, f"{param}.parameters")
    if choice.name is not None and choice.name not in names:
        raise BadRequestError(f"no tool has the name {choice.name!r}", param="tool_choice")
    if choice.mode is ToolMode.REQUIRED and not names:
        raise BadRequestError("there is no tool to choose; send tools", param="tool_choice")


def offered(turn: Turn) -> tuple[Definition, ...]:
    """Return the definitions of the tools that the model may call, for a turn that is checked."""
    return tuple(_definition(tool) for tool in caller_tools.offered(turn))


def wish(choice: ToolChoice) -> str:
    """Return what the model is told of the choice; the CLI has no setting for it."""
    if choice.mode is not ToolMode.REQUIRED:
        return ""
    if choice.name is not None:
        return f"You must answer by calling the tool {choice.name}."
    return "You must answer by calling at least one of your tools."


def reply(
    message: Mapping[str, Any], tools: Sequence[Definition], results: Mapping[str, Content]
) -> dict[str, Any] | None:
    """Return the answer to a message of the CLI to the server; None to a call without a result.

    `results` are those that the caller has given, by the ids of their calls.
    """
    match message.get("method"):
        case "tools/call":
            content = results.get(_call_id(message.get("params")))
            if content is None:
                return None
            result: dict[str, Any] = {"content": content}
        case "initialize":
            result = {
                "protocolVersion": message.get("params", {}).get("protocolVersion"),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": SERVER, "version": "1"},
            }
        case "tools/list":
            result = {"tools": list(tools)}
        case "ping" | None:
            result = {}
        case str(method) if method.startswith("notifications/"):
            result = {}
        case method:
            error = {"code": _METHOD_NOT_FOUND, "message": f"there is no method {method!r}"}
            return {"jsonrpc": "2.0", "id": message.get("id"), "error": error}
    return {"jsonrpc": "2.0", "id": message.get("id"), "result": result}


def _call_id(params: object) -> str:
    meta = params.get("_meta") if isinstance(params, dict) else None
    return str(meta.get("claudecode/toolUseId")) if isinstance(meta, dict) else ""


def _definition(tool: ToolSpec) -> Definition:
    schema = claude_schema.parameters(tool.parameters, "tools")
    description, rest = _split(tool.description or "")
    if rest:
        said = schema.get("description")
        schema["description"] = f"{rest}\n\n{said}" if said else rest
    return {
        "name": tool.name,
        "description": description,
        "inputSchema": schema,
        "_meta": {
            # or a setting of the user's hides tools until the model searches for them
            "anthropic/alwaysLoad": True,
            "anthropic/maxResultSizeChars": MAX_RESULT,
        },
    }


def _split(description: str) -> tuple[str, str]:
    """Split a description before the place where the CLI would cut it, at a space if there is."""
    fits = description.encode("utf-16-le", "surrogatepass")[: 2 * MAX_DESCRIPTION]
    head = fits.decode("utf-16-le", "ignore")
    if head == description:
        return description, ""
    at = max(head.rfind(" "), head.rfind("\n")) + 1 or len(head)
    return description[:at], description[at:]
