"""Events of a stream of Chat Completions chunks, of OpenAI's own and of those like it. Pure.

Servers differ: some call thinking `reasoning`, leave out the index of a call, end a turn with
calls by `stop`, or answer with the whole body though a stream was asked for.
"""

from typing import Any

from pydantic import BaseModel, ValidationError

from clinvk.backends.openai_errors import complaint
from clinvk.errors import CliProtocolError, UpstreamUnreachableError
from clinvk.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)

_REASONS = {
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}
_DONE = "[DONE]"


class _Function(BaseModel):
    name: str | None = None
    arguments: str | None = None


class _Call(BaseModel):
    index: int | None = None
    id: str | None = None
    function: _Function = _Function()


class _Delta(BaseModel):
    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(BaseModel):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class _CompletionDetails(BaseModel):
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Chunk(BaseModel):
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class ChatEvents:
    """Turns the data of server-sent events into events; `end` gives those of the end."""

    def __init__(self) -> None:
        self.done = False
        self._started = False
        self._reason: str | None = None
        self._usage: _Usage | None = None
        self._calls: dict[int, ToolCall] = {}

    def feed(self, data: str) -> list[Event]:
        """Take the next chunk.

        Raises:
            ClinvkError: if it tells an error, or is no chunk.
        """
        if data == _DONE:
            self.done = True
            return []
        try:
            chunk = _Chunk.model_validate_json(data)
        except ValidationError as exc:
            fault = exc.errors(include_url=False)[0]["msg"]
            raise CliProtocolError(f"the upstream sent what is no chunk: {fault}") from exc
        if chunk.error is not None:
            raise complaint(None, chunk.error)
        events: list[Event] = []
        if not self._started:
            self._started = True
            events.append(Started(chunk.model or None))
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices or ():
            self._reason = choice.finish_reason or self._reason
            events += self._said(choice.delta or choice.message or _Delta())
        return events

    def end(self) -> list[Event]:
        """Return the calls, the usage, and why it ended.

        Raises:
            UpstreamUnreachableError: if the stream broke off.
        """
        if self._reason is None and not (self.done and self._started):
            raise UpstreamUnreachableError("the upstream ended its answer half way")
        events: list[Event] = [*self._calls.values()]
        if self._usage is not None:
            events.append(_usage(self._usage))
        reason = _REASONS.get(self._reason or "", FinishReason.STOP)
        if self._calls and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        elif not self._calls and reason is FinishReason.TOOL_CALLS:
            reason = FinishReason.STOP
        return [*events, Finished(reason)]

    def _said(self, delta: _Delta) -> list[Event]:
        events: list[Event] = []
        if thought := delta.reasoning_content or delta.reasoning:
            events.append(ReasoningDelta(thought))
        if text := delta.content or delta.refusal:
            events.append(TextDelta(text))
        for piece in delta.tool_calls or ():
            self._called(piece)
        return events

    def _called(self, piece: _Call) -> None:
        at = piece.index
        if at is None:  # an id begins a call of its own
            at = len(self._calls) - (0 if piece.id or not self._calls else 1)
        before = self._calls.get(at)
        function = piece.function
        if before is None:
            ident = piece.id or f"call_{at}"
            self._calls[at] = ToolCall(ident, function.name or "", function.arguments or "")
            return
        self._calls[at] = ToolCall(
            piece.id or before.id,
            before.name or function.name or "",
            before.arguments + (function.arguments or ""),
        )


def _usage(told: _Usage) -> Usage:
    prompt = told.prompt_tokens_details or _PromptDetails()
    completion = told.completion_tokens_details or _CompletionDetails()
    return Usage(
        told.prompt_tokens or 0,
        told.completion_tokens or 0,
        cached_tokens=prompt.cached_tokens or 0,
        reasoning_tokens=completion.reasoning_tokens or 0,
    )
