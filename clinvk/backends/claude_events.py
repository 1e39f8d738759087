"""What Claude Code says during a turn, as events. Pure.

The turn ends at the first stop reason of the model, not at the CLI's result: after a token limit,
or an answer without text, the CLI asks its model again by itself (observed with claude 2.1.197),
and neither its question nor that answer belongs to the caller's turn. Only where JSON is asked
for does the turn go on to the result: the CLI checks the JSON, and asks once more if there is none.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from clinvk.backends.claude_blocks import Blocks, Offer
from clinvk.backends.claude_errors import Complaint, classify
from clinvk.backends.claude_tools import ANSWER_TOOL
from clinvk.errors import (
    BadRequestError,
    ClinvkError,
    CliProtocolError,
    InvalidAnswerError,
    UpstreamError,
    UpstreamUnreachableError,
)
from clinvk.events import Event, Failed, Finished, FinishReason, Started, Usage
from clinvk.schema import AnswerCheck

# A tool_use stop without a call of an offered tool is one the model made up: nothing is called.
_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "tool_use": FinishReason.STOP,
    "pause_turn": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "refusal": FinishReason.CONTENT_FILTER,
}

SHOWN_TEXT = 300  # characters of an answer in words that an error quotes

_log = logging.getLogger(__name__)


class ClaudeParser:
    """Turns the messages of one turn into events; after the last event it is silent.

    Args:
        retries: how often the CLI may ask its model API again before the turn has failed.
        offer: what the model may do beside talking.
        follows: whether there was a turn before in the same process.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        retries: int = 0,
        offer: Offer = Offer(),  # noqa: B008 - it is frozen
        *,
        follows: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ended = False
        self._follows = follows
        self.may_linger = False
        self.may_go_on = False
        self._retries = retries
        self._offer = offer
        self._clock = clock
        self._started = False
        self._blocks = Blocks(offer)
        self._check = None if offer.form is None else AnswerCheck(offer.form)
        self._earlier = Usage(0, 0)
        self._usage: dict[str, Any] = {}
        self._thinking_tokens = 0
        self._kind: str | None = None
        self._resets_at: float | None = None

    def feed(self, message: Mapping[str, Any]) -> list[Event]:
        """Take a message and return the events it means.

        When the last of them has come, `ended` is true. `may_linger` says whether the CLI may be
        left to end by itself; if not, it may be about to ask its model again. `may_go_on` says
        whether it remembers just what was told, and can be asked more or given results.
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
            case "user":
                events = self._checked(_mapping(message.get("message")))
            case other:
                _log.debug("skipped a message of type %r", other)
                events = []
        if self._check is not None:
            events = list(map(self._check.feed, events))
        self.ended = any(isinstance(event, Finished | Failed) for event in events)
        return events

    def _stream(self, event: Mapping[str, Any]) -> list[Event]:
        match event.get("type"):
            case "message_start":
                return self._message_start(_mapping(event.get("message")))
            case "message_delta":
                return self._message_delta(event)
        return self._blocks.feed(event)

    def _message_start(self, message: Mapping[str, Any]) -> list[Event]:
        if self._blocks.spoke:
            lost = "claude lost its model API in mid-answer and began a second one; ask again"
            return _failed(UpstreamUnreachableError(lost))
        self._usage = dict(_mapping(message.get("usage")))
        self._thinking_tokens = 0
        if self._started:
            return []
        self._started = True
        model = message.get("model")
        return [Started(model if isinstance(model, str) else None)]

    def _message_delta(self, event: Mapping[str, Any]) -> list[Event]:
        reported = _mapping(event.get("usage"))
        self._usage |= {name: value for name, value in reported.items() if value is not None}
        stop = _mapping(event.get("delta")).get("stop_reason")
        if not isinstance(stop, str) or (self._follows and not self._started):
            return []  # of no message of this turn: one more end of the turn before
        reason = _REASONS.get(stop, FinishReason.STOP)
        if reason is FinishReason.STOP and self._blocks.broken is not None:
            return _failed(UpstreamError(f"the arguments of {self._blocks.broken!r} are no JSON"))
        if reason is FinishReason.STOP and self._blocks.called:
            reason = FinishReason.TOOL_CALLS
        elif reason is FinishReason.STOP and self._offer.structured:
            return self._go_on(stop)
        done = stop in {"end_turn", "stop_sequence"} and self._blocks.visible
        self.may_linger = done or stop == "refusal"
        if reason is FinishReason.TOOL_CALLS:
            self.may_go_on = not self._blocks.left_out
        else:
            self.may_go_on = done and not self._blocks.left_out
        return [self._counted(), Finished(reason)]

    def _go_on(self, stop: str) -> list[Event]:
        """Wait for what the CLI makes of a message that ought to hold JSON."""
        if stop == "tool_use" and self._blocks.answer_id is None:
            return _failed(InvalidAnswerError("claude called no tool of yours, and gave no JSON"))
        self._earlier = self._counted()
        self._usage, self._thinking_tokens = {}, 0
        self._blocks.spoke = self._blocks.answer_id is not None
        return []

    def _checked(self, message: Mapping[str, Any]) -> list[Event]:
        """Take the CLI's word on the JSON."""
        if self._blocks.answer_id is None or not isinstance(message.get("content"), list):
            return []
        for block in map(_mapping, message["content"]):
            if block.get("tool_use_id") == self._blocks.answer_id and block.get("is_error"):
                said = f"claude's JSON is not of the form asked for: {block.get('content')}"
                return _failed(InvalidAnswerError(said))
        return []

    def _counted(self) -> Usage:
        read = _count(self._usage.get("cache_read_input_tokens"))
        written = _count(self._usage.get("cache_creation_input_tokens"))
        output = _count(self._usage.get("output_tokens"))
        message = Usage(
            input_tokens=_count(self._usage.get("input_tokens")) + read + written,
            output_tokens=output,
            cached_tokens=read,
            cache_write_tokens=written,
            # The API counts thinking as it goes, a little roughly; the sum is exact.
            reasoning_tokens=min(self._thinking_tokens, output),
        )
        return self._earlier + message

    def _system(self, message: Mapping[str, Any]) -> list[Event]:
        match message.get("subtype"):
            case "init":
                return self._offered(message.get("tools"))
            case "thinking_tokens":
                self._thinking_tokens += _count(message.get("estimated_tokens_delta"))
            case "api_retry":
                return self._retry(message)
        return []

    def _offered(self, tools: object) -> list[Event]:
        """Check that the CLI offers its model what it was told to."""
        offered = set(map(str, tools)) if isinstance(tools, list) else set()
        if self._offer.structured and ANSWER_TOOL not in offered:
            return _failed(
                BadRequestError(
                    "Claude Code cannot check an answer against this schema; leave out what goes "
                    "beyond JSON Schema draft 7, and patterns that JavaScript cannot read",
                    param="response_format",
                )
            )
        # The CLI lists a tool named Agent as Task, its name of old, and offers it as it is.
        renamed = {"Agent"} if "Task" in offered else set()
        if missing := self._offer.tools - offered - renamed:
            names = ", ".join(sorted(missing))
            return _failed(CliProtocolError(f"claude left out tools that it was given: {names}"))
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
        return _failed(classify(said))

    def _result(self, message: Mapping[str, Any]) -> list[Event]:
        self.may_linger = True
        if message.get("stop_reason") == "refusal":
            return [self._counted(), Finished(FinishReason.CONTENT_FILTER)]
        if self._offer.structured and message.get("is_error") is False:
            if self._blocks.answer_id is not None:
                return [self._counted(), Finished(FinishReason.STOP)]
            said = f"claude answered in words, not in JSON: {_result_text(message)[:SHOWN_TEXT]}"
            return _failed(InvalidAnswerError(said))
        status, reason = message.get("api_error_status"), message.get("terminal_reason")
        resets_in_s = None if self._resets_at is None else self._resets_at - self._clock()
        complaint = Complaint(
            _result_text(message),
            status if isinstance(status, int) else None,
            self._kind,
            reason if isinstance(reason, str) else None,
            max(1.0, round(resets_in_s)) if resets_in_s is not None else None,
        )
        return _failed(classify(complaint))


def _failed(error: ClinvkError) -> list[Event]:
    return [Failed(error)]


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
    """A number that can be reckoned with; JSON as the CLI writes it has others, too."""
    try:
        found = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
