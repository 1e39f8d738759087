"""What any ACP agent says in one turn, as events: pure.

Owns where agents put their counts of tokens, which is not settled: `usage` in the reply to a
prompt (of the protocol's own drafts), or `_meta.usage` at the updates. Knows no agent by name.
"""

from typing import Any

from clinvk.backends.acp import AcpParser, Message
from clinvk.backends.acp_errors import classify
from clinvk.events import Event, Failed, Usage


class AgentParser(AcpParser):
    """Turns what an agent says in one turn into events."""

    def __init__(self) -> None:
        super().__init__()
        self._spent: Usage | None = None

    def feed(self, message: Message) -> list[Event]:
        """Take a message and return the events in it."""
        if isinstance(error := message.get("error"), dict):
            return [Failed(classify(error.get("code"), error.get("message"), error.get("data")))]
        params = message.get("params")
        update = params.get("update") if isinstance(params, dict) else None
        if isinstance(update, dict) and (spent := _usage(update.get("_meta"))) is not None:
            self._spent = spent if self._spent is None else self._spent + spent
        return super().feed(message)

    def ended(self, reason: str, result: Message) -> list[Event]:
        """Return the events of a turn's end."""
        spent = self._spent if self._spent is not None else _usage(result)
        return [*([] if spent is None else [spent]), *super().ended(reason, result)]

    def paused(self) -> list[Event]:
        """Return what stands before the calls that a turn pauses for."""
        return [*self.begin(), *([] if self._spent is None else [self._spent])]


def _usage(holder: object) -> Usage | None:
    counts = holder.get("usage") if isinstance(holder, dict) else None
    if not isinstance(counts, dict):
        return None
    cached, written = _count(counts, "cachedReadTokens"), _count(counts, "cachedWriteTokens")
    thoughts = _count(counts, "thoughtTokens")
    spent = Usage(
        input_tokens=_count(counts, "inputTokens"),
        output_tokens=_count(counts, "outputTokens"),
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=thoughts,
    )
    # Some count what was cached beside the input, and some within it.
    total = _count(counts, "totalTokens")
    if total and total >= spent.input_tokens + spent.output_tokens + cached + written > 0:
        spent = Usage(
            spent.input_tokens + cached + written,
            max(spent.output_tokens, total - spent.input_tokens - cached - written),
            cached,
            written,
            thoughts,
        )
    return spent if spent.input_tokens or spent.output_tokens else None


def _count(counts: dict[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) and value > 0 else 0
