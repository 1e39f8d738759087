"""The answer side of the OpenAI Responses dialect: items, events and the response object.

Owns the order of the events; knows neither the request nor the store. The items of an answer
are a reasoning item, a message or a function call each, opened and closed as the events come.
"""

import time
import uuid
from collections.abc import Callable
from typing import Any, assert_never

from clinvk.errors import ClinvkError
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
from clinvk.wire.base import Frame, same
from clinvk.wire.sse import dumps

_INCOMPLETE = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.CONTENT_FILTER: "content_filter",
}


class ResponsesEncoder:
    """Events and body of one response; the last event is told by `end`."""

    def __init__(
        self,
        settings: dict[str, Any],
        *,
        named: Callable[[str], str] = same,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._named = named
        self._new_id = new_id
        self._now = now
        self._id = f"resp_{new_id()}"
        self._created = int(now())
        self._sequence = 0
        self._output: list[dict[str, Any]] = []
        self._pieces: list[str] = []  # of the item that is open
        self._open = False
        self._usage: Usage | None = None
        self._reason: FinishReason | None = None
        self._error: ClinvkError | None = None
        self._ended: int | None = None

    @property
    def usage_estimated(self) -> bool:
        """Whether the count is clinvk's own."""
        return self._usage is not None and self._usage.estimated

    def forget(self) -> None:
        """Say in the answer that it is not stored; before `end` and `result`."""
        self._settings = {**self._settings, "store": False}

    def feed(self, event: Event, choice: int = 0) -> list[Frame]:  # noqa: ARG002 - there is one
        """Take an event; see `clinvk.wire.base.Encoder`."""
        match event:
            case TextDelta(text=text):
                frames = self._switch("message")
                self._pieces.append(text)
                at = self._at("content_index")
                delta = self._frame("response.output_text.delta", **at, delta=text, logprobs=[])
                return [*frames, delta]
            case ReasoningDelta(text=text):
                frames = self._switch("reasoning")
                self._pieces.append(text)
                at = self._at("summary_index")
                return [
                    *frames,
                    self._frame("response.reasoning_summary_text.delta", **at, delta=text),
                ]
            case ToolCall():
                return [*self._begin(), *self._close("completed"), *self._call(event)]
            case Usage():
                self._usage = event
                return []
            case Finished(reason=reason):
                status = "incomplete" if reason in _INCOMPLETE else "completed"
                frames = [*self._begin(), *self._close(status)]
                self._reason = reason
                self._ended = int(self._now())
                return frames
            case Failed(error=error):
                frames = self._begin()
                self._seal("incomplete")  # what was said stays; the failure is what is told
                self._error = error
                return frames
            case Started() | ToolActivity():
                return []
            case _:
                assert_never(event)

    def end(self) -> list[Frame]:
        """Return the event that ends the stream: completed, incomplete or failed."""
        return [self._frame(f"response.{self._status}", response=self.result())]

    def result(self) -> dict[str, Any]:
        """Return the `response` object as it stands."""
        body = {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": self._ended if self._status == "completed" else None,
            "status": self._status,
            "background": False,
            "error": self._failure(),
            "incomplete_details": None,
            **self._settings,
            "output": list(self._output),
        }
        if self._usage is not None:  # the schema knows no null here
            body["usage"] = _usage(self._usage)
        if self._reason in _INCOMPLETE:
            body["incomplete_details"] = {"reason": _INCOMPLETE[self._reason]}
        if self._error is not None:
            body["clinvk"] = {"error_code": self._error.code}
        elif self.usage_estimated:
            body["clinvk"] = {"usage": "estimated"}
        return body

    @property
    def _status(self) -> str:
        if self._error is not None:
            return "failed"
        if self._reason is None:
            return "in_progress"
        return "incomplete" if self._reason in _INCOMPLETE else "completed"

    def _failure(self) -> dict[str, Any] | None:
        """The codes are an enumeration of the API; clinvk's own stands beside the error."""
        error = self._error
        if error is None:
            return None
        code = {400: "invalid_prompt", 413: "invalid_prompt", 429: "rate_limit_exceeded"}
        return {
            "code": code.get(error.status, "server_error"),
            "message": error.message,
            "type": error.type,
            "param": error.param and self._named(error.param),
        }

    def _frame(self, kind: str, **fields: Any) -> Frame:  # noqa: ANN401 - JSON
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        # ASCII only: U+2028 and its like split lines in clients that use str.splitlines.
        return Frame(dumps(event), kind)

    def _begin(self) -> list[Frame]:
        """The two events that come before all others, once."""
        if self._sequence:
            return []
        fresh = self.result()
        fresh.pop("usage", None)
        fresh.pop("clinvk", None)
        return [
            self._frame("response.created", response=fresh),
            self._frame("response.in_progress", response=fresh),
        ]

    def _at(self, part: str) -> dict[str, Any]:
        """Where the open item's part is."""
        index = len(self._output) - 1
        return {"item_id": self._output[index]["id"], "output_index": index, part: 0}

    def _switch(self, kind: str) -> list[Frame]:
        """Open an item of a kind, and its part, unless such a one is open."""
        if self._open and self._output[-1]["type"] == kind:
            return []
        frames = [*self._begin(), *self._close("completed")]
        prefix, filled = ("msg", "content") if kind == "message" else ("rs", "summary")
        item: dict[str, Any] = {"id": f"{prefix}_{self._new_id()}", "type": kind}
        item |= {"status": "in_progress", filled: []}
        if kind == "message":
            item["role"] = "assistant"
        frames.append(self._added(item))
        self._open = True
        if kind == "message":
            at, added = self._at("content_index"), "response.content_part.added"
        else:
            at, added = self._at("summary_index"), "response.reasoning_summary_part.added"
        return [*frames, self._frame(added, **at, part=_part(kind, ""))]

    def _close(self, status: str) -> list[Frame]:
        """Finish the open item, if one is, and tell it."""
        if not self._seal(status):
            return []
        item = self._output[-1]
        if item["type"] == "message":
            at, part = self._at("content_index"), item["content"][0]
            frames = [
                self._frame("response.output_text.done", **at, text=part["text"], logprobs=[]),
                self._frame("response.content_part.done", **at, part=part),
            ]
        else:
            at, part = self._at("summary_index"), item["summary"][0]
            frames = [
                self._frame("response.reasoning_summary_text.done", **at, text=part["text"]),
                self._frame("response.reasoning_summary_part.done", **at, part=part),
            ]
        return [*frames, self._done(item)]

    def _seal(self, status: str) -> bool:
        """Put what was said into the open item; return whether one was open."""
        if not self._open:
            return False
        item = self._output[-1]
        field = "content" if item["type"] == "message" else "summary"
        part = _part(item["type"], "".join(self._pieces))
        self._output[-1] = {**item, "status": status, field: [part]}
        self._pieces.clear()
        self._open = False
        return True

    def _call(self, call: ToolCall) -> list[Frame]:
        item = {
            "id": f"fc_{self._new_id()}",
            "type": "function_call",
            "status": "in_progress",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
        }
        kind = "response.function_call_arguments"
        frames = [self._added(item)]
        at = {"item_id": item["id"], "output_index": len(self._output) - 1}
        frames.append(self._frame(f"{kind}.delta", **at, delta=call.arguments))
        frames.append(self._frame(f"{kind}.done", **at, name=call.name, arguments=call.arguments))
        item = {**item, "status": "completed", "arguments": call.arguments}
        self._output[-1] = item
        return [*frames, self._done(item)]

    def _added(self, item: dict[str, Any]) -> Frame:
        self._output.append(item)
        index = len(self._output) - 1
        return self._frame("response.output_item.added", output_index=index, item=item)

    def _done(self, item: dict[str, Any]) -> Frame:
        index = len(self._output) - 1
        return self._frame("response.output_item.done", output_index=index, item=item)


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "message":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "summary_text", "text": text}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
