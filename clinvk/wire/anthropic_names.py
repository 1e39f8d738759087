"""Names of request fields: what is told of a turn's parts, as Anthropic's API calls them.

Backends name a field as Chat Completions does, by the message or tool of the turn; here system
blocks stand apart, and results and calls are blocks of a message.
"""

import re
from dataclasses import dataclass

_MESSAGE = re.compile(r"messages\[(\d+)\](?:\.(\w+)(?:\[(\d+)\])?(.*))?")
_TOOL = re.compile(r"tools\[(\d+)\](?:\.function)?(?:\.(\w+))?(.*)")
_OF_CALLS = {"name": "name", "arguments": "input"}
_OF_TOOLS = {"parameters": "input_schema"}
_RENAMED = {
    "reasoning_effort": "output_config.effort",
    "max_completion_tokens": "max_tokens",
    "stop": "stop_sequences",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message of the turn comes from: its paths, and those of its parts and calls."""

    message: str
    content: str
    parts: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Names:
    """Where every message and tool of a turn stands in the request, in their order.

    `form` is the field that asks for JSON.
    """

    places: tuple[Place, ...]
    tools: tuple[int, ...]
    form: str

    def of(self, param: str) -> str:
        """Return the name of a field in this API."""
        if (match := _MESSAGE.fullmatch(param)) and int(match[1]) < len(self.places):
            return _in_message(self.places[int(match[1])], match)
        if (match := _TOOL.fullmatch(param)) and int(match[1]) < len(self.tools):
            field = f".{_OF_TOOLS.get(match[2], match[2])}" if match[2] else ""
            return f"tools[{self.tools[int(match[1])]}]{field}{match[3]}"
        head, dot, rest = param.partition(".")
        renamed = self.form if head == "response_format" else _RENAMED.get(head, head)
        return renamed + dot + rest


def _in_message(place: Place, match: re.Match[str]) -> str:
    _, field, index, rest = match.groups()
    at = -1 if index is None else int(index)
    if field == "content":
        return place.parts[at] if 0 <= at < len(place.parts) else place.content
    if field == "tool_calls" and 0 <= at < len(place.calls):
        inner = rest.removeprefix(".function").removeprefix(".")
        return f"{place.calls[at]}.{_OF_CALLS.get(inner, inner)}" if inner else place.calls[at]
    return f"{place.message}.tool_use_id" if field == "tool_call_id" else place.message
