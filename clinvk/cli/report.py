"""The line that `clinvk run` ends with: who answered, how many tokens, how long it took."""

import time
from collections.abc import Callable

from clinvk.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Usage,
)

REMARKS = {
    FinishReason.LENGTH: "cut at the model's token limit",
    FinishReason.CONTENT_FILTER: "refused by the model",
}


class Report:
    """Watches a turn."""

    def __init__(self, model: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._clock = clock
        self._started = clock()
        self._answering: str | None = None
        self._backend: str | None = None
        self._first_s: float | None = None
        self._total_s = 0.0
        self._usage = Usage(0, 0)
        self._reason = FinishReason.STOP

    @property
    def first_s(self) -> float | None:
        """Seconds until the first text or thinking, if there was any."""
        return self._first_s

    @property
    def total_s(self) -> float:
        """Seconds until the last event."""
        return self._total_s

    def answered_by(self, backend: str) -> None:
        """Take the name of the backend that answered."""
        self._backend = backend

    def note(self, event: Event) -> None:
        """Take the next event."""
        self._total_s = self._clock() - self._started
        match event:
            case Started(model=model):
                self._answering = model
            case TextDelta() | ReasoningDelta() if self._first_s is None:
                self._first_s = self._total_s
            case Usage():
                self._usage = event
            case Finished(reason=reason):
                self._reason = reason
            case _:
                pass

    def line(self) -> str:
        """Return the line."""
        who = self._model
        if self._backend and self._backend != who.partition("/")[0]:
            who = f"{who} by {self._backend}"
        if self._answering and self._answering != who.partition("/")[2]:
            who = f"{who} ({self._answering})"
        pieces = [self._tokens(), f"{self._total_s:.1f} s"]
        if self._first_s is not None:
            pieces.insert(1, f"first after {self._first_s:.1f} s")
        if remark := REMARKS.get(self._reason):
            pieces.append(remark)
        return f"{who}: {', '.join(pieces)}"

    def _tokens(self) -> str:
        usage = self._usage
        about = "about " if usage.estimated else ""
        cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
        thinking = f" ({usage.reasoning_tokens} thinking)" if usage.reasoning_tokens else ""
        tokens = f"{about}{usage.input_tokens} tokens in{cached}"
        return f"{tokens}, {usage.output_tokens} out{thinking}"
