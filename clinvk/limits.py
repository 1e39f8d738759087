"""Cuts an answer at `max_tokens` or before a stop text, whatever the CLI can do itself.

Pure: events in, events out. Tokens are those of `clinvk.tokens`, reasoning included.
"""

from clinvk import tokens
from clinvk.events import Event, Finished, FinishReason, ReasoningDelta, TextDelta
from clinvk.turn import Limits

_RESETTLE_CHARS = 512  # the text re-counted at each delta stays about this short
_SPACELESS_CHARS = 4096  # some languages have no spaces: then it is cut anywhere


class LimitFilter:
    """Passes a turn's events through until a limit is reached; then `done` is true."""

    def __init__(self, limits: Limits) -> None:
        self._meter = None if limits.max_tokens is None else _TokenMeter(limits.max_tokens)
        self._stop = _StopFinder(limits.stop) if limits.stop else None
        self.done = False

    def feed(self, event: Event) -> list[Event]:
        """Return what remains of `event`; a `Finished` among it is the last event of all."""
        match event:
            case TextDelta(text=text):
                return self._text(text)
            case ReasoningDelta(text=text) if self._meter is not None:
                kept = self._meter.take(text)
                out: list[Event] = [ReasoningDelta(kept)] if kept else []
                return out + (self._finish(FinishReason.LENGTH) if self._meter.full else [])
            case Finished():
                return [*self._held(), event]
            case _:
                return [event]

    def _text(self, text: str) -> list[Event]:
        if self._meter is not None:
            text = self._meter.take(text)
        found: str | None = None
        if self._stop is not None:
            text, found = self._stop.take(text)
        out: list[Event] = [TextDelta(text)] if text else []
        if found is not None:
            return out + self._finish(FinishReason.STOP, found)
        if self._meter is not None and self._meter.full:
            return [*out, *self._held(), *self._finish(FinishReason.LENGTH)]
        return out

    def _finish(self, reason: FinishReason, stop: str | None = None) -> list[Event]:
        self.done = True
        return [Finished(reason, stop)]

    def _held(self) -> list[Event]:
        held = self._stop.flush() if self._stop is not None else ""
        return [TextDelta(held)] if held else []


class _TokenMeter:
    """Counts as text comes; only the part after the last settled space is counted again."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._tail = ""
        self.full = False

    def take(self, text: str) -> str:
        """Return as much of `text` as fits; `full` is set if some did not."""
        combined = self._tail + text
        if tokens.count(combined) > self._left:
            self.full = True
            return tokens.cut(combined, self._left)[len(self._tail) :]
        if len(combined) > _RESETTLE_CHARS:
            at = combined.rfind(" ")
            if at <= 0 and len(combined) > _SPACELESS_CHARS:
                at = len(combined) - _RESETTLE_CHARS
            if at > 0:
                self._left -= tokens.count(combined[:at])
                combined = combined[at:]
        self._tail = combined
        return text


class _StopFinder:
    """Finds the first stop text, also one that is split over deltas."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""

    def take(self, text: str) -> tuple[str, str | None]:
        """Return the text that is surely before any stop text, and the one that was found."""
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            self._held = ""
            return text[:at], stop
        keep = max(self._overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def flush(self) -> str:
        """Return what was held back, now that nothing can complete it."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        longest = min(len(stop) - 1, len(text))
        return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
