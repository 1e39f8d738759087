"""The calls of the caller's tools in a codex turn: pure, fed its notifications.

Codex relays each call as soon as the model has made it, and then waits for its result. That no
more will come is told only by the raw events of the thread: the items of the model's response as
they are, and its end (observed with codex 0.169.0).
"""

import json
from collections.abc import Collection
from typing import Any

from clinvk.backends.codex_tools import outer_name
from clinvk.events import ToolCall

_SPEECH = frozenset({"message", "reasoning", "function_call_output"})


class Calls:
    """Collects the calls of `tools`, by their names on codex's side.

    What else the model calls, and a call whose arguments are no JSON object, codex itself tells
    the model to be wrong. `responses` is how many have been completed since the last `clear`, of
    which only a thread tells that has `tools`.
    """

    def __init__(self, tools: Collection[str], *, parallel: bool) -> None:
        self._tools = tools
        self._most = None if parallel else 1
        self._turn_id: object = None
        self._made: list[ToolCall] = []
        self._others = False
        self.watched = bool(tools)
        self.responses = 0

    def __bool__(self) -> bool:
        return bool(self._made)

    @property
    def made(self) -> list[ToolCall]:
        """The calls that are to be passed on, in order."""
        return self._made[: self._most]

    @property
    def complete(self) -> bool:
        """Whether `made` is all that the model did besides speaking, and each can be told apart."""
        ids = {call.id for call in self._made}
        return not self._others and len(ids) == len(self._made) == len(self.made)

    def clear(self) -> None:
        """Forget what was called so far."""
        self._made, self._others, self.responses = [], False, 0

    def feed(self, method: object, params: dict[str, Any]) -> bool:
        """Take a notification; return whether the response is complete and has calls."""
        match method, params:
            case "turn/started", {"turn": {"id": ident}}:
                self._turn_id = ident
            case "rawResponseItem/completed", {"turnId": ident, "item": dict(item)}:
                # What was put into the thread before the turn is told in the same way.
                if ident == self._turn_id:
                    self._take(item)
            case "rawResponse/completed", _:
                self.responses += 1
                return bool(self._made)
        return False

    def _take(self, item: dict[str, Any]) -> None:
        kind, name = str(item.get("type")), str(item.get("name"))
        arguments = str(item.get("arguments") or "{}")
        if kind == "function_call" and name in self._tools and _is_object(arguments):
            self._made.append(ToolCall(str(item.get("call_id")), outer_name(name), arguments))
        elif kind not in _SPEECH:
            self._others = True


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
