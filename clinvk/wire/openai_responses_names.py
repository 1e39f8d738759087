"""Names of request fields: what is told of a turn's parts, as this API calls them.

Backends name a field as Chat Completions does, by the message or tool of the turn; here they
stand in items, and some elsewhere.
"""

import re
from dataclasses import dataclass

_MESSAGE = re.compile(r"messages\[(\d+)\](?:\.(\w+)(?:\[(\d+)\])?(.*))?")
_TOOL = re.compile(r"tools\[(\d+)\](?:\.function)?(.*)")
_RENAMED = {
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "max_completion_tokens": "max_output_tokens",
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message of the turn comes from: the path of its item, and those of its calls."""

    item: str
    content: str
    calls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Names:
    """Where every message and every tool of a turn stands in the request, in their order."""

    places: tuple[Place, ...]
    tools: tuple[int, ...]

    def of(self, param: str) -> str:
        """Return the name of a field in this API."""
        if (match := _MESSAGE.fullmatch(param)) and int(match[1]) < len(self.places):
            return _in_item(self.places[int(match[1])], match)
        if (match := _TOOL.fullmatch(param)) and int(match[1]) < len(self.tools):
            return f"tools[{self.tools[int(match[1])]}]{match[2]}"
        head, dot, rest = param.partition(".")
        return _RENAMED.get(head, head) + dot + rest


def _in_item(place: Place, match: re.Match[str]) -> str:
    _, field, index, rest = match.groups()
    if field == "tool_calls" and index is not None and int(index) < len(place.calls):
        return place.calls[int(index)] + rest.replace(".function", "", 1)
    if not place.item.startswith("input["):
        return place.item
    if field == "content":
        return place.content if index is None else f"{place.content}[{index}]{rest}"
    if field == "tool_call_id":
        return f"{place.item}.call_id"
    return place.item
