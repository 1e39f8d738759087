"""What Claude Code says during a turn, as events. Pure.

The turn ends at the first stop reason of the model, not at the CLI's result: after a token limit,
or an answer without text, the CLI asks its model again by itself (observed with claude 2.1.197),
and neither its question nor that answer belongs to the caller's turn.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from clinvk.backends.claude_errors import Complaint, classify
from clinvk.errors import UpstreamUnreachableError
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Usage,
)

# A tool_use stop without a tool on offer is a call the model made up: there is nothing to call.
_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "tool_use": FinishReason.STOP,
    "pause_turn": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "refusal": FinishReason.CONTENT_FILTER,
}

_log = logging.getLogger(__name__)


class ClaudeParser:
    """Turns the messages of one turn into events; after the last event it is silent.

    Args:
        retries: how often the CLI may ask its model API again before the turn has failed.
        clock: seconds since 1970.
    """

    def __init__(self, retries: int = 0, *, clock: Callable[[], float] = time.time) -> None:
        self.ended = False
        self.may_linger = False
        self._retries = retries
        self._clock = clock
        self._started = False
        self._spoke = False
        self._visible = False
        self._usage: dict[str, Any] = {}
        self._thinking_tokens = 0
        self._kind: str | None = None
        self._resets_at: float | None = None

    def feed(self, message: Mapping[str, Any]) -> list[Event]:
        """Take a message and return the events it means.

        When the last of them has come, `ended` is true, and `may_linger` says whether the CLI
        may be left to end by itself; if not, it may be about to ask its model again.
        """
        if self.ended or message.get("parent_tool_use_id") is not None:
            return []
        match message.get("type"):
            case "stream_event":
                events = self._stream(_mapping(message.get("event")))
            case "system":
                events = self._system(message)
            case "assistant":
                kind = message.get("error")
                self._kind = kind if isinstance(kind, str) else self._kind
                events = []
            case "rate_limit_event":
                info = _mapping(message.get("rate_limit_info"))
                self._resets_at = _number(info.get("resetsAt"))
                events = []
            case "result":
                events = self._result(message)
            case other:
                _log.debug("skipped a message of type %r", other)
                events = []
        self.ended = any(isinstance(event, Finished | Failed) for event in events)
        return events

    def _stream(self, event: Mapping[str, Any]) -> list[Event]:
        match event.get("type"):
            case "message_start":
                return self._message_start(_mapping(event.get("message")))
            case "content_block_start":
                return self._piece(_mapping(event.get("content_block")))
            case "content_block_delta":
                return self._piece(_mapping(event.get("delta")))
            case "message_delta":
                return self._message_delta(event)
        return []

    def _message_start(self, message: Mapping[str, Any]) -> list[Event]:
        if self._spoke:
            lost = "claude lost its model API in mid-answer and began a second one; ask again"
            return [Failed(UpstreamUnreachableError(lost))]
        self._usage = dict(_mapping(message.get("usage")))
        self._thinking_tokens = 0
        if self._started:
            return []
        self._started = True
        model = message.get("model")
        return [Started(model if isinstance(model, str) else None)]

    def _piece(self, piece: Mapping[str, Any]) -> list[Event]:
        text, thinking = piece.get("text"), piece.get("thinking")
        if isinstance(text, str) and text:
            self._spoke = True
            self._visible = self._visible or bool(text.strip())
            return [TextDelta(text)]
        if isinstance(thinking, str) and thinking:
            self._spoke = True
            return [ReasoningDelta(thinking)]
        return []

    def _message_delta(self, event: Mapping[str, Any]) -> list[Event]:
        reported = _mapping(event.get("usage"))
        self._usage |= {name: value for name, value in reported.items() if value is not None}
        stop = _mapping(event.get("delta")).get("stop_reason")
        if not isinstance(stop, str):
            return []
        done = stop in {"end_turn", "stop_sequence"} and self._visible
        self.may_linger = done or stop == "refusal"
        return [self._counted(), Finished(_REASONS.get(stop, FinishReason.STOP))]

    def _counted(self) -> Usage:
        read = _count(self._usage.get("cache_read_input_tokens"))
        written = _count(self._usage.get("cache_creation_input_tokens"))
        output = _count(self._usage.get("output_tokens"))
        return Usage(
            input_tokens=_count(self._usage.get("input_tokens")) + read + written,
            output_tokens=output,
            cached_tokens=read,
            cache_write_tokens=written,
            # The API counts thinking as it goes, a little roughly; the sum is exact.
            reasoning_tokens=min(self._thinking_tokens, output),
        )

    def _system(self, message: Mapping[str, Any]) -> list[Event]:
        match message.get("subtype"):
            case "thinking_tokens":
                self._thinking_tokens += _count(message.get("estimated_tokens_delta"))
            case "api_retry":
                return self._retry(message)
        return []

    def _retry(self, message: Mapping[str, Any]) -> list[Event]:
        attempt, status = message.get("attempt"), message.get("error_status")
        # A login that another process has just renewed deserves its second try; without a status
        # there was no connection, and only the result says why.
        if _count(attempt) <= self._retries or not isinstance(status, int) or status == 401:
            return []
        kind = message.get("error")
        waits_ms = _number(message.get("retry_delay_ms"))
        # The API asks for whole seconds; the CLI's own delays are jittered.
        asked = waits_ms is not None and waits_ms > 0 and waits_ms % 1000 == 0
        said = Complaint(
            f"it answered {status}",
            status,
            kind if isinstance(kind, str) else None,
            retry_after_s=waits_ms / 1000 if asked and waits_ms is not None else None,
        )
        return [Failed(classify(said))]

    def _result(self, message: Mapping[str, Any]) -> list[Event]:
        self.may_linger = True
        if message.get("stop_reason") == "refusal":
            return [self._counted(), Finished(FinishReason.CONTENT_FILTER)]
        status, reason = message.get("api_error_status"), message.get("terminal_reason")
        resets_in_s = None if self._resets_at is None else self._resets_at - self._clock()
        said = Complaint(
            _result_text(message),
            status if isinstance(status, int) else None,
            self._kind,
            reason if isinstance(reason, str) else None,
            max(1.0, round(resets_in_s)) if resets_in_s is not None else None,
        )
        return [Failed(classify(said))]


def _result_text(message: Mapping[str, Any]) -> str:
    if isinstance(text := message.get("result"), str) and text:
        return text
    errors = message.get("errors")
    if isinstance(errors, list) and errors:
        return "; ".join(map(str, errors))
    return str(message.get("subtype"))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
