"""The caller's functions before any CLI sees them: which may be called, and whether they are fit.

Pure; what a CLI makes of a schema is its adapter's to say.
"""

import re
from collections.abc import Callable

from clinvk.errors import BadRequestError
from clinvk.turn import ToolMode, ToolSpec, Turn

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def offered(turn: Turn) -> tuple[ToolSpec, ...]:
    """Return the tools that the model may call."""
    choice = turn.tool_choice
    if choice.mode is ToolMode.NONE:
        return ()
    return tuple(tool for tool in turn.tools if choice.name in (None, tool.name))


def check_tools(turn: Turn, fault_of: Callable[[ToolSpec], str | None]) -> tuple[str, ...]:
    """Refuse tools that cannot be offered as they are; name what is left out.

    Args:
        turn: whose tools they are.
        fault_of: says what is wrong with a tool's parameters, if anything.

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
        fault = fault_of(tool)
        if fault is not None:
            raise BadRequestError(fault, param=f"{where}.parameters")
    choice = turn.tool_choice
    if choice.name is not None and choice.name not in names:
        raise BadRequestError(
            f"tool_choice names {choice.name!r}, which is not among the tools",
            param="tool_choice",
        )
    return ("tools[].function.strict",) if any(t.strict for t in offered(turn)) else ()
