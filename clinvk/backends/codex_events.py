"""The notifications of one codex turn as events: pure, fed one message at a time."""

import logging
from typing import Any

from clinvk.backends.codex_calls import Calls
from clinvk.backends.codex_errors import classify, outcome
from clinvk.errors import ClinvkError, CliProtocolError
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolActivity,
    Usage,
)

_log = logging.getLogger(__name__)

_NOTHING = Usage(0, 0)

_QUIET_ITEMS = frozenset({"userMessage", "agentMessage", "reasoning", "dynamicToolCall"})


class TurnParser:
    """Turns the notifications of one thread into events, those of one turn after the other.

    A turn that goes on after its calls is two here. `retries` is how often codex may try its
    model API again before a turn is given up. `calls` is empty yet, and knows the caller's tools.
    `done` is whether the last event is out, `ended` whether codex itself has ended the turn:
    after calls it has not, for it waits for results.
    """

    def __init__(self, model: str | None, *, retries: int, calls: Calls | None = None) -> None:
        self._model = model
        self._retries = self._retries_left = retries
        self._calls = Calls((), parallel=True) if calls is None else calls
        self._started = False
        self._said: dict[str, str] = {}
        self._open_messages: set[str] = set()
        self._total = self._told = _NOTHING
        self._updates = 0
        self._in_step = True
        self._reason: FinishReason | None = None
        self.done = False
        self.ended = False

    @property
    def waits(self) -> bool:
        """Whether codex waits to be told more, and remembers nothing but what was told of it."""
        awaited = FinishReason.STOP if self.ended else FinishReason.TOOL_CALLS
        return self._in_step and self._reason is awaited

    def go_on(self) -> None:
        """Begin the next turn."""
        self._started = self.done = self.ended = False
        self._said.clear()
        self._open_messages.clear()
        self._updates = 0
        self._reason = None
        self._retries_left = self._retries
        self._calls.clear()

    def feed(self, message: dict[str, Any]) -> list[Event]:
        """Take a notification and return the events it stands for."""
        method, params = message.get("method"), message.get("params")
        if not isinstance(params, dict):
            return []
        return self._aside(method, params) if self.done else self._take(method, params)

    def _take(self, method: object, params: dict[str, Any]) -> list[Event]:
        if self._calls.feed(method, params):
            return self._call(_table(params.get("usage")))
        match method:
            case "item/started":
                return self._item_started(_table(params.get("item")))
            case "item/agentMessage/delta":
                return self._text(str(params.get("itemId")), str(params.get("delta", "")))
            case "item/reasoning/summaryTextDelta" | "item/reasoning/textDelta":
                return self._reasoning(str(params.get("itemId")), str(params.get("delta", "")))
            case "item/reasoning/summaryPartAdded":
                return self._reasoning_part(str(params.get("itemId")))
            case "item/completed":
                return self._item_completed(_table(params.get("item")))
            case "thread/tokenUsage/updated":
                # The thread's total, for an answer cut short is only there.
                total = _usage(_table(_table(params.get("tokenUsage")).get("total")))
                self._total = self._total if total == _NOTHING else total
                self._updates += 1
            case "model/rerouted":
                self._model = str(params.get("toModel") or self._model)
            case "error":
                return self._error(params)
            case "turn/completed":
                self.ended = True
                return self._completed(_table(params.get("turn")))
            case _:
                _log.debug("ignored %s", method)
        return []

    def _aside(self, method: object, params: dict[str, Any]) -> list[Event]:
        """Take what is told between two turns."""
        if method == "turn/completed":
            self.ended = True
        elif method in ("thread/closed", "error") or _is_result(method, params):
            self._in_step = False
        return []

    def _begin(self) -> list[Event]:
        if self._started:
            return []
        self._started = True
        return [Started(self._model)]

    def _item_started(self, item: dict[str, Any]) -> list[Event]:
        kind = item.get("type")
        if not isinstance(kind, str) or kind in ("userMessage", "dynamicToolCall"):
            return []  # a call may be told of only after the next turn has begun
        events = self._begin()
        if kind == "agentMessage":
            self._open_messages.add(str(item.get("id")))
        if kind not in _QUIET_ITEMS:
            self._in_step = False
            events.append(ToolActivity(kind, str(item.get("status", "started"))))
        return events

    def _text(self, item: str, delta: str) -> list[Event]:
        if not delta:
            return []
        gap = "" if item in self._said or not self._said_text() else "\n\n"
        self._said[item] = self._said.get(item, "") + delta
        return [*self._begin(), TextDelta(gap + delta)]

    def _said_text(self) -> bool:
        return any(not item.startswith("reasoning ") for item in self._said)

    def _reasoning(self, item: str, delta: str) -> list[Event]:
        if not delta:
            return []
        key = f"reasoning {item}"
        self._said[key] = self._said.get(key, "") + delta
        return [*self._begin(), ReasoningDelta(delta)]

    def _reasoning_part(self, item: str) -> list[Event]:
        thought = any(key.startswith("reasoning ") for key in self._said)
        return self._reasoning(item, "\n\n") if thought else []

    def _item_completed(self, item: dict[str, Any]) -> list[Event]:
        """Catch up on what came without deltas."""
        kind, ident = item.get("type"), str(item.get("id"))
        if kind == "agentMessage":
            self._open_messages.discard(ident)
            text, said = str(item.get("text", "")), self._said.get(ident, "")
            if text.startswith(said):
                return self._text(ident, text[len(said) :])
            self._in_step = False
            return []
        if kind == "reasoning" and f"reasoning {ident}" not in self._said:
            pieces = item.get("summary") or item.get("content")
            told = map(str, pieces) if isinstance(pieces, list) else ()
            return self._reasoning(ident, "\n\n".join(told))
        if isinstance(kind, str) and kind not in _QUIET_ITEMS:
            return [ToolActivity(kind, str(item.get("status", "completed")))]
        return []

    def _call(self, used: dict[str, Any]) -> list[Event]:
        self.done = True
        spent = self._spend(_usage(used))
        self._settle(FinishReason.TOOL_CALLS)
        return [*self._begin(), *self._calls.made, *spent, Finished(FinishReason.TOOL_CALLS)]

    def _error(self, params: dict[str, Any]) -> list[Event]:
        """A failure that codex means to retry; one that it does not comes again at the end."""
        if not params.get("willRetry"):
            return []
        # A second try would say it all again.
        if self._retries_left > 0 and not self._said and not self._calls:
            self._retries_left -= 1
            # What the response had begun with may be remembered.
            self._in_step = self._in_step and not self._started
            self._open_messages.clear()
            return []
        error = _table(params.get("error"))
        said = str(error.get("additionalDetails") or error.get("message") or "")
        return self._fail(classify(said, error.get("codexErrorInfo")))

    def _completed(self, turn: dict[str, Any]) -> list[Event]:
        status = turn.get("status")
        if status == "completed":
            # Codex knows no refusals: it drops the message, which then never completes.
            refused = bool(self._open_messages)
            return self._finish(FinishReason.CONTENT_FILTER if refused else FinishReason.STOP)
        if status == "failed":
            ended = outcome(turn.get("error"))
            return self._finish(ended) if isinstance(ended, FinishReason) else self._fail(ended)
        return self._fail(CliProtocolError(f"codex ended the turn as {status!r}; ask again"))

    def _finish(self, reason: FinishReason) -> list[Event]:
        self.done = True
        self._settle(reason)
        return [*self._begin(), *self._spend(_NOTHING), Finished(reason)]

    def _settle(self, reason: FinishReason) -> None:
        """See whether all was told: one response, in which nothing else was called.

        Codex answers a wrong call itself, and then asks its model again.
        """
        self._reason = reason
        responses = self._calls.responses if self._calls.watched else self._updates
        self._in_step = self._in_step and responses == 1 and self._calls.complete

    def _spend(self, uncounted: Usage) -> list[Event]:
        """What was used since this was last told; `uncounted` is not in the total yet."""
        spent = _minus(self._total + uncounted, self._told)
        self._told += spent
        return [] if spent == _NOTHING else [spent]

    def _fail(self, error: ClinvkError) -> list[Event]:
        self.done = True
        return [Failed(error)]


def _usage(tokens: dict[str, Any]) -> Usage:
    def count(name: str) -> int:
        value = tokens.get(name)
        return value if isinstance(value, int) else 0

    return Usage(
        input_tokens=count("inputTokens"),
        output_tokens=count("outputTokens"),
        cached_tokens=count("cachedInputTokens"),
        cache_write_tokens=count("cacheWriteInputTokens"),
        reasoning_tokens=count("reasoningOutputTokens"),
    )


def _minus(total: Usage, told: Usage) -> Usage:
    return Usage(
        input_tokens=max(0, total.input_tokens - told.input_tokens),
        output_tokens=max(0, total.output_tokens - told.output_tokens),
        cached_tokens=max(0, total.cached_tokens - told.cached_tokens),
        cache_write_tokens=max(0, total.cache_write_tokens - told.cache_write_tokens),
        reasoning_tokens=max(0, total.reasoning_tokens - told.reasoning_tokens),
    )


def _is_result(method: object, params: dict[str, Any]) -> bool:
    """Whether a call has been answered."""
    item = _table(params.get("item"))
    return method == "item/completed" and item.get("type") == "dynamicToolCall"


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
