"""Whether the `param` of an error stands in the request that it was made of."""

import re
from typing import Any

_STEP = re.compile(r"\[(\d+)\]|\.?([^.\[\]]+)")
_ROOTS = frozenset(
    {
        *("model", "messages", "max_tokens", "prompt", "input", "tools", "tool_choice", "n"),
        *("functions", "function_call", "response_format", "stop", "stream", "instructions"),
    }
)


def is_of(param: str | None, body: dict[str, Any]) -> bool:
    """Whether every step of a path is in the body; the last may be what is missing.

    None passes only where a name of the body itself is what no encoding can carry, or empty.
    """
    if param is None:
        return "" in body or any("\ud800" <= char <= "\udfff" for key in body for char in key)
    if param in body or param in _ROOTS:
        return True
    at: Any = body
    steps = [m[2] if m[1] is None else int(m[1]) for m in _STEP.finditer(param)]
    for number, step in enumerate(steps):
        try:
            at = at[step]
        except (LookupError, TypeError):
            # A key may have the marks of a path in it.
            return number == len(steps) - 1 or (isinstance(at, dict) and _has_odd_key(at))
    return True


def _has_odd_key(found: dict[str, Any]) -> bool:
    return any(not key or set(key) & set(".[]") for key in found)
