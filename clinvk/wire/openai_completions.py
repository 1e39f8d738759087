"""The OpenAI Completions dialect: `POST /completions`, streamed and not.

Owns the turns made of a request, one for each prompt, the chunks and the body; knows no backend.
Reasoning and tools have no place in this dialect and are left out.
"""

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, assert_never

from clinvk.errors import BadRequestError, ClinvkError, UnsupportedError
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
from clinvk.turn import Limits, Message, Role, TextPart, Turn
from clinvk.wire import sse
from clinvk.wire.base import Frame, Parsed
from clinvk.wire.body import check, load, sampling
from clinvk.wire.openai_chat import error_body
from clinvk.wire.openai_completions_types import IGNORED, UNION_STEPS, CompletionRequest
from clinvk.wire.sse import dumps

MAX_CHOICES = 128  # of all prompts together, as `n` alone

_SUFFIX = (
    "Answer only with the text that belongs between what the user writes and the following:\n\n"
)


class OpenAICompletions:
    """The dialect of `POST /completions`."""

    def parse(self, body: bytes) -> Parsed:
        """Check a request body; see `clinvk.wire.base.Dialect`."""
        request = check(CompletionRequest, load(body), steps=UNION_STEPS)
        prompts = [request.prompt] if isinstance(request.prompt, str) else list(request.prompt)
        n = request.n or 1
        _require_feasible(request, n, len(prompts))
        first, *more = (_turn(request, prompt, n) for prompt in prompts)
        options = request.stream_options
        encoder = CompletionEncoder(
            request.model,
            echoes=tuple(p for p in prompts for _ in range(n)) if request.echo else (),
            include_usage=bool(options and options.include_usage),
        )
        named = partial(_name, suffixed=bool(request.suffix))
        return Parsed(first, bool(request.stream), encoder, more=tuple(more), named=named)

    def error(self, exc: ClinvkError) -> tuple[int, dict[str, Any]]:
        """Return status and error body, as every OpenAI endpoint reports it."""
        return exc.status, error_body(exc)


def _require_feasible(request: CompletionRequest, n: int, prompts: int) -> None:
    if request.logprobs is not None:
        raise UnsupportedError("no CLI tells 'logprobs'; leave it out", param="logprobs")
    if request.best_of is not None and request.best_of != n:
        raise UnsupportedError(
            f"'best_of' must equal 'n', which is {n}: answers cannot be ranked", param="best_of"
        )
    if n * prompts > MAX_CHOICES:
        raise BadRequestError(
            f"{prompts} prompts with {n} answers each are over {MAX_CHOICES}; send fewer",
            param="prompt",
        )


def _turn(request: CompletionRequest, prompt: str, n: int) -> Turn:
    unknown = sorted((request.model_extra or {}).items())
    ignored = [name for name in IGNORED if getattr(request, name) is not None]
    ignored += [name for name, value in unknown if value is not None]
    stop = request.stop
    suffix = (TextPart(_SUFFIX + request.suffix),) if request.suffix else ()
    return Turn(
        model=request.model,
        messages=(
            *(Message(Role.SYSTEM, (part,)) for part in suffix),
            Message(Role.USER, (TextPart(prompt),)),
        ),
        limits=Limits(
            max_tokens=request.max_tokens,
            stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        ),
        choices=n,
        ignored=tuple(ignored),
        sampling=sampling(request),
    )


def _name(param: str, *, suffixed: bool) -> str:
    """Return what a field that a backend names is called here."""
    if param.startswith("messages"):
        return "suffix" if suffixed and param.startswith("messages[0]") else "prompt"
    return "max_tokens" if param == "max_completion_tokens" else param


@dataclass(slots=True)
class _Choice:
    """What one choice has said so far, its prompt included if that was to be repeated."""

    text: list[str] = field(default_factory=list)
    reason: FinishReason | None = None


class CompletionEncoder:
    """The answer to one request, as chunks and as a body; `echoes` begin the choices' texts."""

    def __init__(
        self,
        model: str,
        *,
        echoes: tuple[str, ...] = (),
        include_usage: bool = False,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._echoes = echoes
        self._include_usage = include_usage
        self._id = f"cmpl-{new_id()}"
        self._created = int(now())
        self._choices: dict[int, _Choice] = {}
        self._usages: list[Usage] = []

    @property
    def usage_estimated(self) -> bool:
        """Whether any of the counts is clinvk's own."""
        return any(usage.estimated for usage in self._usages)

    def feed(self, event: Event, choice: int = 0) -> list[Frame]:
        """Take an event; see `clinvk.wire.base.Encoder`."""
        match event:
            case TextDelta(text=text):
                return [*self._begin(choice), self._piece(choice, text)]
            case Usage():
                self._usages.append(event)
                return []
            case Finished(reason=reason):
                frames = self._begin(choice)
                # Nothing can be called in this dialect, so nothing waits for a call.
                calls = reason is FinishReason.TOOL_CALLS
                self._choices[choice].reason = FinishReason.STOP if calls else reason
                return [*frames, self._chunk(choice, "")]
            case Failed(error=error):
                self._choices.setdefault(choice, _Choice())
                return [Frame(dumps(error_body(error)))]
            case Started() | ReasoningDelta() | ToolActivity() | ToolCall():
                return []
            case _:
                assert_never(event)

    def end(self) -> list[Frame]:
        """Return the usage chunk, if it was asked for and every choice finished, and the mark."""
        finished = self._choices and all(c.reason for c in self._choices.values())
        if not (self._include_usage and finished):
            return [sse.DONE]
        chunk = {**self._head(), "choices": [], **self._usage()}
        return [Frame(dumps(chunk)), sse.DONE]

    def result(self) -> dict[str, Any]:
        """Return the `text_completion` object."""
        return {
            **self._head(),
            "choices": [
                _choice_body(index, "".join(state.text), state.reason)
                for index, state in sorted(self._choices.items())
            ],
            **self._usage(),
        }

    def _head(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._model,
        }

    def _begin(self, index: int) -> list[Frame]:
        if index in self._choices:
            return []
        self._choices[index] = _Choice()
        return [self._piece(index, self._echoes[index])] if self._echoes else []

    def _piece(self, index: int, text: str) -> Frame:
        self._choices[index].text.append(text)
        return self._chunk(index, text)

    def _chunk(self, index: int, text: str) -> Frame:
        choice = _choice_body(index, text, self._choices[index].reason)
        chunk = {**self._head(), "choices": [choice]}
        return Frame(dumps({**chunk, "usage": None} if self._include_usage else chunk))

    def _usage(self) -> dict[str, Any]:
        spent = sum(self._usages, Usage(0, 0))
        body: dict[str, Any] = {
            "usage": {
                "prompt_tokens": spent.input_tokens,
                "completion_tokens": spent.output_tokens,
                "total_tokens": spent.input_tokens + spent.output_tokens,
            }
        }
        if self.usage_estimated:
            body["clinvk"] = {"usage": "estimated"}
        return body


def _choice_body(index: int, text: str, reason: FinishReason | None) -> dict[str, Any]:
    return {"text": text, "index": index, "logprobs": None, "finish_reason": reason}
