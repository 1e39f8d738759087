"""The Anthropic Messages dialect: `POST /messages`, streamed and not, and what is around it.

Owns the events of the stream, the message and the errors; knows no backend. `ToolActivity` is
left out: as `tool_use` it would make clients run what has already run. Thinking is shown only
where it was asked for, since many clients take the first block for the answer.
"""

import json
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, assert_never

from clinvk.errors import ClinvkError, OverloadedError, UnsupportedError
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolActivity,
    ToolCall,
    Usage,
)
from clinvk.turn import Turn
from clinvk.wire.anthropic_requests import understand
from clinvk.wire.anthropic_types import UNION_STEPS, CountRequest, MessagesRequest
from clinvk.wire.base import Frame, Parsed, same
from clinvk.wire.body import check, load
from clinvk.wire.sse import dumps

MODELS_CREATED = "2025-01-01T00:00:00Z"  # a CLI's models have no date of their own
OVERLOADED = 529

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    OVERLOADED: "overloaded_error",
}
_STOP_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
}


class ThreadUnsupportedError(UnsupportedError):
    """The conversation is to be held between turns; clients that hear this send all of it."""


class AnthropicMessages:
    """The dialect of `POST /messages`."""

    def parse(self, body: bytes) -> Parsed:
        """Check a request body; see `clinvk.wire.base.Dialect`."""
        request = check(MessagesRequest, load(body), steps=UNION_STEPS)
        if request.thread is not None:
            raise ThreadUnsupportedError(
                "no threads are held here; leave 'thread' out and send the whole conversation",
                param="thread",
            )
        turn, names = understand(request)
        thinking = request.thinking
        shown = thinking is not None and thinking.type != "disabled"
        encoder = MessageEncoder(
            request.model,
            show_thinking=shown and thinking is not None and thinking.display != "omitted",
            named=names.of,
        )
        return Parsed(turn, bool(request.stream), encoder, named=names.of)

    def parse_count(self, body: bytes) -> Turn:
        """Check the body of `POST /messages/count_tokens` and return the turn to be counted.

        Raises:
            BadRequestError: with `param` naming the field at fault.
        """
        return understand(check(CountRequest, load(body), steps=UNION_STEPS))[0]

    def error(self, exc: ClinvkError) -> tuple[int, dict[str, Any]]:
        """Return status and error body; the server fills `request_id` in."""
        status, error = _error(exc, exc.param)
        return status, {"type": "error", "error": error, "request_id": None}


def count_body(input_tokens: int) -> dict[str, Any]:
    """Return the answer of `POST /messages/count_tokens`."""
    return {"input_tokens": input_tokens}


def model_body(model_id: str) -> dict[str, Any]:
    """Return the `model` object."""
    return {
        "type": "model",
        "id": model_id,
        "display_name": model_id,
        "created_at": MODELS_CREATED,
        "max_input_tokens": None,
        "max_tokens": None,
        "capabilities": None,
        "lifecycle": "active",
    }


def list_body(model_ids: Iterable[str]) -> dict[str, Any]:
    """Return the page of models, which is the only one."""
    data = [model_body(model_id) for model_id in model_ids]
    return {
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }


@dataclass(slots=True)
class _Block:
    """A block of the answer; `empty` is it as it starts, `key` what the pieces fill."""

    empty: dict[str, Any]
    key: str
    pieces: list[str] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        whole = "".join(self.pieces)
        return {**self.empty, self.key: json.loads(whole) if self.key == "input" else whole}


class MessageEncoder:
    """The answer to one request, as events of a stream and as a message."""

    def __init__(
        self,
        model: str,
        *,
        show_thinking: bool = False,
        named: Callable[[str], str] = same,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._model = model
        self._show_thinking = show_thinking
        self._named = named
        self._id = f"msg_{new_id()}"
        self._begun = False
        self._blocks: list[_Block] = []
        self._open = False  # whether the last block is
        self._usage: Usage | None = None
        self._finished: Finished | None = None

    @property
    def usage_estimated(self) -> bool:
        """Whether the counts are clinvk's own."""
        return self._usage is not None and self._usage.estimated

    def feed(self, event: Event, choice: int = 0) -> list[Frame]:  # noqa: ARG002 - always one
        """Take an event; see `clinvk.wire.base.Encoder`."""
        match event:
            case TextDelta(text=text):
                return self._piece({"type": "text", "text": "", "citations": None}, "text", text)
            case ReasoningDelta(text=text):
                if not self._show_thinking:
                    return []
                empty = {"type": "thinking", "thinking": "", "signature": ""}
                return self._piece(empty, "thinking", text)
            case ToolCall(id=call_id, name=name):
                block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
                block["caller"] = {"type": "direct"}
                return [*self._start(block, "input"), self._delta(_input(event)), *self._stop()]
            case Usage():
                self._usage = event
                return []
            case Finished():
                self._finished = event
                return [*self._begin(), *self._stop(), *self._finish()]
            case Failed(error=error):
                param = error.param and self._named(error.param)
                return [_frame("error", error=_error(error, param)[1])]
            case Started() | ToolActivity():
                return []
            case _:
                assert_never(event)

    def end(self) -> list[Frame]:
        """Return nothing: the stream ends with its message."""
        return []

    def result(self) -> dict[str, Any]:
        """Return the `message` object."""
        return {
            **self._head(),
            "content": [block.body() for block in self._blocks],
            **_ending(self._finished),
            "usage": _usage(self._usage),
            **self._estimate(),
        }

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "container": None,
        }

    def _begin(self) -> list[Frame]:
        if self._begun:
            return []
        self._begun = True
        message = {
            **self._head(),
            "content": [],
            **_ending(None),
            "usage": {**_usage(self._usage), "output_tokens": 0},
        }
        return [_frame("message_start", message=message), _frame("ping")]

    def _piece(self, empty: dict[str, Any], key: str, piece: str) -> list[Frame]:
        if not piece:
            return []
        if self._open and self._blocks[-1].key == key:
            return [self._delta(piece)]
        return [*self._start(empty, key), self._delta(piece)]

    def _start(self, empty: dict[str, Any], key: str) -> list[Frame]:
        frames = [*self._begin(), *self._stop()]
        self._blocks.append(_Block(empty, key))
        self._open = True
        at = len(self._blocks) - 1
        return [*frames, _frame("content_block_start", index=at, content_block=empty)]

    def _delta(self, piece: str) -> Frame:
        block = self._blocks[-1]
        block.pieces.append(piece)
        if block.key == "input":
            delta = {"type": "input_json_delta", "partial_json": piece}
        else:
            delta = {"type": f"{block.key}_delta", block.key: piece}
        return _frame("content_block_delta", index=len(self._blocks) - 1, delta=delta)

    def _stop(self) -> list[Frame]:
        if not self._open:
            return []
        self._open = False
        return [_frame("content_block_stop", index=len(self._blocks) - 1)]

    def _finish(self) -> list[Frame]:
        whole = self.result()
        return [
            _frame(
                "message_delta",
                delta={**_ending(self._finished), "container": None},
                usage=whole["usage"],
                **self._estimate(),
            ),
            _frame("message_stop"),
        ]

    def _estimate(self) -> dict[str, Any]:
        return {"clinvk": {"usage": "estimated"}} if self.usage_estimated else {}


def _ending(finished: Finished | None) -> dict[str, str | None]:
    if finished is None:
        return {"stop_reason": None, "stop_sequence": None, "stop_details": None}
    reason = "stop_sequence" if finished.stop is not None else _STOP_REASONS[finished.reason]
    return {"stop_reason": reason, "stop_sequence": finished.stop, "stop_details": None}


def _usage(usage: Usage | None) -> dict[str, Any]:
    """What Anthropic counts as input is only what no cache had a part in.

    The schema requires what is null.
    """
    usage = usage or Usage(0, 0)
    return {
        "input_tokens": max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "cache_creation": None,
        "server_tool_use": None,
        "service_tier": None,
        "inference_geo": None,
    }


def _input(call: ToolCall) -> str:
    """A call's arguments as the JSON object that a block's input must be."""
    try:
        found = json.loads(call.arguments or "{}", parse_constant=_refuse)
    except (ValueError, RecursionError):
        found = None
    # What is no object is still the model's word: clients see it fail their schema.
    return dumps(found if isinstance(found, dict) else {"arguments": call.arguments})


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _error(exc: ClinvkError, param: str | None) -> tuple[int, dict[str, Any]]:
    status = OVERLOADED if isinstance(exc, OverloadedError) else exc.status
    kind = _ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    # The shape has no place for the field at fault but the message.
    named = param is None or param in exc.message
    message = exc.message if named else f"{param}: {exc.message}"
    error: dict[str, Any] = {"type": kind, "message": message}
    if isinstance(exc, ThreadUnsupportedError):
        error["details"] = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    return status, error


def _frame(kind: str, **fields: Any) -> Frame:  # noqa: ANN401 - JSON
    return Frame(dumps({"type": kind, **fields}), event=kind)
