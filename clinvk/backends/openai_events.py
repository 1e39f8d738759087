"""Events of a stream of Chat Completions chunks, of OpenAI's own and of those like it. Pure.

Servers differ: some call thinking `reasoning`, or send it as parts of the content, end a turn
with calls by `stop`, tell a failure as a chunk of another form or by a reason of their own, send
chunks that say nothing, or answer with the whole body though a stream was asked for.
"""

import json
from typing import Any

from pydantic import BaseModel, ValidationError

from clinvk.backends.openai_calls import CallPiece, Calls
from clinvk.backends.openai_errors import complaint
from clinvk.errors import CliProtocolError, OverloadedError, UpstreamError, UpstreamUnreachableError
from clinvk.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Usage,
)
from clinvk.procs.tail import scrub

# By lower case. OpenAI's own, and those of Mistral, Cohere, Gemini, GLM, DeepSeek and vLLM.
_REASONS = {
    "length": FinishReason.LENGTH,
    "max_tokens": FinishReason.LENGTH,
    "model_length": FinishReason.LENGTH,
    "max_length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
    "safety": FinishReason.CONTENT_FILTER,
    "sensitive": FinishReason.CONTENT_FILTER,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
}
_FAILURES: dict[str, type[UpstreamError]] = {
    "error": UpstreamError,
    "abort": UpstreamError,
    "network_error": UpstreamError,
    "insufficient_system_resource": OverloadedError,
}
_DONE = "[DONE]"
_SHOWN = 100


class _Delta(BaseModel):
    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: list[CallPiece] | None = None


class _PromptDetails(BaseModel):
    cached_tokens: int | None = None


class _CompletionDetails(BaseModel):
    reasoning_tokens: int | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    cached_tokens: int | None = None  # so Moonshot tells it
    prompt_cache_hit_tokens: int | None = None  # and so DeepSeek


class _Choice(BaseModel):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None
    usage: _Usage | None = None


class _Chunk(BaseModel):
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    message: Any = None
    detail: Any = None


class ChatEvents:
    """Turns the data of server-sent events into events; `end` gives those of the end."""

    def __init__(self) -> None:
        self.done = False
        self._started = False
        self._reason: str | None = None
        self._usage: _Usage | None = None
        self._calls = Calls()

    def feed(self, data: str) -> list[Event]:
        """Take the next chunk.

        Raises:
            ClinvkError: if it tells an error, or is no chunk.
        """
        if data == _DONE:
            self.done = True
            return []
        if not data:
            return []
        chunk = _read(data)
        if chunk.error is not None:
            raise complaint(None, chunk.error)
        if chunk.choices is None and (told := chunk.message or chunk.detail) is not None:
            raise complaint(None, told if isinstance(told, str) else json.dumps(told))
        events: list[Event] = []
        if not self._started:
            self._started = True
            events.append(Started(chunk.model or None))
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices or ():
            self._usage = choice.usage or self._usage  # so Moonshot tells it
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
        told = (self._reason or "").lower()
        if told in _FAILURES:
            raise _FAILURES[told](f"the upstream gave up its answer: {self._reason}")
        calls = self._calls.whole
        events: list[Event] = [*calls]
        if self._usage is not None:
            events.append(_usage(self._usage))
        reason = _REASONS.get(told, FinishReason.STOP)
        if calls and reason is FinishReason.STOP:
            reason = FinishReason.TOOL_CALLS
        elif not calls and reason is FinishReason.TOOL_CALLS:
            reason = FinishReason.STOP
        return [*events, Finished(reason)]

    def _said(self, delta: _Delta) -> list[Event]:
        events: list[Event] = []
        thought, text = _parts(delta.content)
        if told := _words(delta.reasoning_content) or _words(delta.reasoning) or thought:
            events.append(ReasoningDelta(told))
        if text := text or _words(delta.refusal):
            events.append(TextDelta(text))
        for piece in delta.tool_calls or ():
            self._calls.push(piece)
        return events


def _read(data: str) -> _Chunk:
    try:
        told = json.loads(data)
        if isinstance(told, list) and told:  # so Gemini tells an error
            told = told[0]
        return _Chunk.model_validate(told)
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]["msg"]
    except (ValueError, RecursionError):
        fault = f"it is no JSON: {scrub(data[:_SHOWN])!r}"
    raise CliProtocolError(f"the upstream sent what is no chunk: {fault}")


def _usage(told: _Usage) -> Usage:
    prompt = told.prompt_tokens_details or _PromptDetails()
    completion = told.completion_tokens_details or _CompletionDetails()
    cached = prompt.cached_tokens or told.cached_tokens or told.prompt_cache_hit_tokens
    counts = (told.prompt_tokens, told.completion_tokens, cached, completion.reasoning_tokens)
    given, made, cached, thought = (max(count or 0, 0) for count in counts)
    return Usage(given, made, cached_tokens=cached, reasoning_tokens=thought)


def _words(value: object) -> str:
    return value if isinstance(value, str) else ""


def _parts(content: object) -> tuple[str, str]:
    """Return the thinking and the text of a content, which Mistral sends as parts."""
    if not isinstance(content, list):
        return "", _words(content)
    thoughts, texts = [], []
    for part in content:
        if not isinstance(part, dict):
            continue
        texts.append(_words(part.get("text")))
        inner = part.get("thinking")
        thoughts.append(_parts(inner)[1] if isinstance(inner, list) else _words(inner))
    return "".join(thoughts), "".join(texts)
