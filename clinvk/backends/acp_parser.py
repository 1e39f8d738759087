"""What any ACP agent says in one turn, as events: pure.

Owns what the updates mean, and where agents put their counts of tokens, which is not settled:
`usage` in the reply to a prompt (of the protocol's own drafts), or `_meta.usage` at the updates.
Knows no agent by name.
"""

from typing import Any

from clinvk.backends.acp import Message
from clinvk.backends.acp_errors import classify
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
from clinvk.procs.tail import scrub


class AcpParser:
    """Turns what an agent says in one turn into events.

    It is fed `session/update` notifications and, last, the reply to `session/prompt`: messages
    as they stand on the wire, with `method` and `params`, or `result`, or `error`.
    """

    def __init__(self) -> None:
        self._text: list[str] = []
        self._started = False
        self.thinking = False
        self.activity = False

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._text)

    def feed(self, message: Message) -> list[Event]:
        """Take a message and return the events in it."""
        if isinstance(error := message.get("error"), dict):
            code = error.get("code")
            text = str(error.get("message", ""))
            return [Failed(self.failed(code if isinstance(code, int) else 0, text))]
        if isinstance(result := message.get("result"), dict):
            return self.ended(str(result.get("stopReason")), result)
        params = message.get("params")
        update = params.get("update") if isinstance(params, dict) else None
        if message.get("method") != "session/update" or not isinstance(update, dict):
            return []
        events = self._update(update)
        return [*self.begin(), *events] if events else []

    def begin(self) -> list[Event]:
        """Return the event that the turn has started, if it was not given yet."""
        begun, self._started = self._started, True
        return [] if begun else [Started()]

    def thought(self, text: str) -> str:
        """Return what to show of a piece of thinking; for an agent to override."""
        return text

    def ended(self, reason: str, result: Message) -> list[Event]:  # noqa: ARG002 - for overriding
        """Return the events of a turn's end; for an agent to override."""
        known = {
            "end_turn": FinishReason.STOP,
            "max_tokens": FinishReason.LENGTH,
            "max_turn_requests": FinishReason.LENGTH,
            "refusal": FinishReason.CONTENT_FILTER,
        }.get(reason)
        if known is None:
            return [Failed(CliProtocolError(f"the agent ended its turn by {reason!r}"))]
        return [Finished(known)]

    def failed(self, code: int, message: str) -> ClinvkError:
        """Return the error that an agent's error is to the caller; for an agent to override."""
        return CliProtocolError(f"the agent refused the turn: {scrub(message)} ({code})")

    def _update(self, update: Message) -> list[Event]:
        kind = str(update.get("sessionUpdate"))
        if kind in {"agent_message_chunk", "agent_thought_chunk"}:
            text = shown(update.get("content"))
            if not text:
                return []
            if kind == "agent_message_chunk":
                self._text.append(text)
                return [TextDelta(text)]
            thought = self.thought(text)
            self.thinking = True
            return [ReasoningDelta(thought)] if thought else []
        if kind in {"tool_call", "tool_call_update"}:
            self.activity = True
            name = str(update.get("title") or update.get("kind") or "tool")
            return [ToolActivity(name, str(update.get("status") or "pending"))]
        return []


def shown(block: object) -> str:
    """Return a content block of an answer as text; Markdown for what is none."""
    if not isinstance(block, dict):
        return ""
    kind, media, data = block.get("type"), block.get("mimeType"), block.get("data")
    match kind:
        case "text":
            return text if isinstance(text := block.get("text"), str) else ""
        case "resource_link":
            return f"[{block.get('title') or block.get('name') or 'link'}]({block.get('uri')})"
        case "resource":
            inner = block.get("resource")
            text = inner.get("text") if isinstance(inner, dict) else None
            return text if isinstance(text, str) else ""
        case "image" if isinstance(data, str) and data:
            return f"![image](data:{media};base64,{data})"
        case "audio" if isinstance(data, str) and data:
            return f"[audio](data:{media};base64,{data})"
        case _:
            return ""


class AgentParser(AcpParser):
    """Turns what an agent says in one turn into events."""

    def __init__(self, *, silence_ends: bool = False) -> None:
        """Make one; `silence_ends` is whether a turn may end without a word."""
        super().__init__()
        self._spent: Usage | None = None
        self._silence_ends = silence_ends
        self._refused: str | None = None

    def refused(self, what: str) -> None:
        """Note that the agent was refused what it asked for."""
        self._refused = what

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
        if self._fell_silent(reason, spent):
            # Agents end so when they are refused something, or keep an error to themselves.
            why = "" if self._refused is None else f" after it was refused {self._refused!r}"
            return [Failed(CliProtocolError(f"the agent ended its turn without an answer{why}"))]
        return [*([] if spent is None else [spent]), *super().ended(reason, result)]

    def _fell_silent(self, reason: str, spent: Usage | None) -> bool:
        if self._refused is not None:
            return reason == "cancelled" or (reason == "end_turn" and not self.text)
        said = self.text or self.thinking or self.activity or (spent and spent.output_tokens)
        return reason == "end_turn" and not (said or self._silence_ends)

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
