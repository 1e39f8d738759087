"""The blocks of the model's message as they are streamed: words, thinking, calls, JSON. Pure.

Owns what of a message is the caller's: a call of a tool that was not offered is not, and when
JSON was asked for, words are not the answer.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clinvk.backends.claude_tools import ANSWER_TOOL
from clinvk.events import Event, ReasoningDelta, TextDelta, ToolCall
from clinvk.turn import OutputFormat


@dataclass(frozen=True, slots=True)
class Offer:
    """What the model may do beside talking: call `tools`, several at once if `parallel`.

    With a `form` the answer must be JSON of it.
    """

    tools: frozenset[str] = frozenset()
    parallel: bool = True
    form: OutputFormat | None = None

    @property
    def structured(self) -> bool:
        """Whether the answer must be JSON."""
        return self.form is not None


@dataclass(slots=True)
class _Call:
    """A call whose arguments still come."""

    id: str
    name: str
    input: object
    pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(self.pieces) or json.dumps(self.input or {})


class Blocks:
    """Turns blocks into events.

    Attributes:
        spoke: whether the message has said anything yet.
        visible: whether it has said more than spaces.
        called: whether a call was passed on.
        left_out: whether a call was not.
        broken: the tool of a call whose arguments are no JSON object.
        answer_id: the id of the answer in JSON.
    """

    def __init__(self, offer: Offer) -> None:
        self.spoke = False
        self.visible = False
        self.called = False
        self.left_out = False
        self.broken: str | None = None
        self.answer_id: str | None = None
        self._offer = offer
        self._call: _Call | None = None

    def feed(self, event: Mapping[str, Any]) -> list[Event]:
        """Take a `content_block_…` event."""
        match event.get("type"), event.get("content_block"), event.get("delta"):
            case "content_block_start", {"type": "tool_use", "id": str(id_), "name": str(name)}, _:
                return self._begin(_Call(id_, name, event["content_block"].get("input")))
            case "content_block_start", dict(block), _:
                return self._said(block)
            case "content_block_delta", _, {"partial_json": str(piece)}:
                return self._more(piece)
            case "content_block_delta", _, dict(delta):
                return self._said(delta)
            case "content_block_stop", _, _:
                return self._end()
        return []

    def _said(self, piece: Mapping[str, Any]) -> list[Event]:
        text, thinking = piece.get("text"), piece.get("thinking")
        if isinstance(text, str) and text:
            self.spoke = True
            self.visible = self.visible or bool(text.strip())
            return [ReasoningDelta(text) if self._offer.structured else TextDelta(text)]
        if isinstance(thinking, str) and thinking:
            self.spoke = True
            return [ReasoningDelta(thinking)]
        return []

    def _begin(self, call: _Call) -> list[Event]:
        self._call = call
        if self._offer.structured and call.name == ANSWER_TOOL and self.answer_id is None:
            self.answer_id = call.id
        return []

    def _more(self, piece: str) -> list[Event]:
        if self._call is None or not piece:
            return []
        self._call.pieces.append(piece)
        return self._answer(piece) if self._call.id == self.answer_id else []

    def _end(self) -> list[Event]:
        call, self._call = self._call, None
        if call is None:
            return []
        if call.id == self.answer_id:
            return [] if call.pieces else self._answer(call.arguments)
        if call.name not in self._offer.tools or (self.called and not self._offer.parallel):
            self.left_out = True
            return []
        if not _is_object(call.arguments):
            self.broken = call.name
            return []
        self.spoke = self.called = True
        return [ToolCall(call.id, call.name, call.arguments)]

    def _answer(self, piece: str) -> list[Event]:
        self.spoke = self.visible = True
        return [TextDelta(piece)]


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
