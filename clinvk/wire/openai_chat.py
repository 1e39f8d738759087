"""The OpenAI Chat Completions dialect: `POST /chat/completions`, streamed and not.

Owns the turn made of a request, the chunks and the body; knows no backend. `ToolActivity` has
no place in this dialect and is left out: as `tool_calls` it would make clients run what has
already run.
"""

import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, assert_never

from clinvk.errors import BadRequestError, ClinvkError
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
from clinvk.turn import (
    AudioPart,
    FilePart,
    ImagePart,
    Limits,
    Message,
    OutputFormat,
    Part,
    PriorCall,
    Role,
    TextPart,
    ToolChoice,
    ToolMode,
    ToolSpec,
    Turn,
)
from clinvk.wire import sse
from clinvk.wire.base import Frame, Parsed
from clinvk.wire.body import check, load, sampling
from clinvk.wire.openai_chat_types import (
    IGNORED,
    UNION_STEPS,
    AudioPartIn,
    ChatRequest,
    FilePartIn,
    FunctionNameIn,
    ImagePartIn,
    JsonObjectFormatIn,
    JsonSchemaFormatIn,
    MessageIn,
    NamedToolIn,
    PartIn,
    RefusalPartIn,
    TextFormatIn,
    TextPartIn,
)
from clinvk.wire.sse import dumps

_TOOL = re.compile(r"tools\[(\d+)\](?:\.function)?(.*)")
_FILE = re.compile(r"(messages\[\d+\]\.content\[\d+\])\.file_id")
_CALL = re.compile(r"(messages\[(\d+)\])\.(tool_call_id|tool_calls\[(\d+)\](?:\.function)?)(.*)")


class OpenAIChat:
    """The dialect of `POST /chat/completions`."""

    def parse(self, body: bytes) -> Parsed:
        """Check a request body; see `clinvk.wire.base.Dialect`."""
        request = check(ChatRequest, load(body), steps=UNION_STEPS)
        turn = _turn(request)
        options = request.stream_options
        encoder = ChatEncoder(turn.model, include_usage=bool(options and options.include_usage))
        return Parsed(turn, bool(request.stream), encoder, named=partial(_name, request))

    def error(self, exc: ClinvkError) -> tuple[int, dict[str, Any]]:
        """Return status and error body; all four keys are always there, as the OpenAPI requires."""
        return exc.status, error_body(exc)


def error_body(exc: ClinvkError) -> dict[str, Any]:
    """Return an error as every OpenAI endpoint reports it."""
    return {
        "error": {
            "message": exc.message,
            "type": exc.type,
            "param": exc.param,
            "code": exc.code,
        }
    }


def _turn(request: ChatRequest) -> Turn:
    functions = [tool.function for tool in request.tools or ()] + list(request.functions or ())
    unknown = sorted((request.model_extra or {}).items())
    ignored = [name for name in IGNORED if getattr(request, name) is not None]
    ignored += [name for name, value in unknown if value is not None]
    stop = request.stop
    return Turn(
        model=request.model,
        messages=tuple(_message(m, f"messages[{i}]") for i, m in enumerate(request.messages)),
        tools=tuple(
            ToolSpec(f.name, f.description, f.parameters, bool(f.strict)) for f in functions
        ),
        tool_choice=_tool_choice(request),
        parallel_calls=request.parallel_tool_calls is not False,
        format=_format(request),
        limits=Limits(
            max_tokens=request.max_completion_tokens or request.max_tokens,
            stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        ),
        effort=request.reasoning_effort,
        choices=request.n or 1,
        ignored=tuple(ignored),
        sampling=sampling(request),
    )


def _tool_choice(request: ChatRequest) -> ToolChoice:
    match request.tool_choice or request.function_call:
        case None:
            return ToolChoice()
        case str(mode):
            return ToolChoice(ToolMode(mode))
        case NamedToolIn(function=function):
            return ToolChoice(ToolMode.REQUIRED, function.name)
        case FunctionNameIn(name=name):
            return ToolChoice(ToolMode.REQUIRED, name)


def _format(request: ChatRequest) -> OutputFormat | None:
    match request.response_format:
        case None | TextFormatIn():
            return None
        case JsonObjectFormatIn():
            return OutputFormat()
        case JsonSchemaFormatIn(json_schema=asked):
            return OutputFormat(asked.schema_ or {}, asked.name, bool(asked.strict))


def _name(request: ChatRequest, param: str) -> str:
    """Return the name of a field in the request, which may have used an older one."""
    if match := _FILE.fullmatch(param):
        return f"{match[1]}.file.file_id"
    tools = len(request.tools or ())
    if (match := _TOOL.fullmatch(param)) and int(match[1]) >= tools and request.functions:
        return f"functions[{int(match[1]) - tools}]{match[2]}"
    if (match := _CALL.fullmatch(param)) and int(match[2]) < len(request.messages):
        message = request.messages[int(match[2])]
        if match[3] == "tool_call_id" and message.role == "function":
            return f"{match[1]}.name"
        if match[4] and int(match[4]) >= len(message.tool_calls or ()):
            return f"{match[1]}.function_call{match[5]}"
    older = param == "tool_choice" and request.tool_choice is None and request.function_call
    return "function_call" if older else param


def _message(message: MessageIn, path: str) -> Message:
    calls = [
        PriorCall(c.id, c.function.name, c.function.arguments) for c in message.tool_calls or ()
    ]
    if (legacy := message.function_call) is not None:
        calls.append(PriorCall(legacy.name, legacy.name, legacy.arguments))
    call_id = message.tool_call_id
    role = Role.TOOL if message.role == "function" else Role(message.role)
    if message.role == "function":
        call_id = message.name
    if role is Role.TOOL and not call_id:
        needed = "name" if message.role == "function" else "tool_call_id"
        raise BadRequestError(
            f"a {message.role} message must name the call it answers", param=f"{path}.{needed}"
        )
    if isinstance(message.content, str):
        parts: tuple[Part, ...] = (TextPart(message.content),)
    else:
        parts = tuple(_part(part) for part in message.content or ())
    return Message(role, parts, tuple(calls), call_id, message.name)


def _part(part: PartIn) -> Part:
    match part:
        case TextPartIn():
            return TextPart(part.text)
        case RefusalPartIn():
            return TextPart(part.refusal)
        case ImagePartIn():
            return ImagePart(url=part.image_url.url)
        case AudioPartIn():
            return AudioPart(part.input_audio.format, part.input_audio.data)
        case FilePartIn():
            return FilePart(part.file.filename, None, part.file.file_data, part.file.file_id)
        case _:
            assert_never(part)


@dataclass(slots=True)
class _Choice:
    """What one choice has said so far."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    reason: FinishReason | None = None
    begun: bool = False


class ChatEncoder:
    """Chunks and body of one chat completion."""

    def __init__(
        self,
        model: str,
        *,
        include_usage: bool = False,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._include_usage = include_usage
        self._id = f"chatcmpl-{new_id()}"
        self._created = int(now())
        self._choices: dict[int, _Choice] = {}
        self._usages: list[Usage] = []
        head = self._head("chat.completion.chunk")
        # Written once: only the choice changes from chunk to chunk.
        self._prefix = dumps(head)[:-1] + ',"choices":[{"index":'
        self._suffix = '}],"usage":null}' if include_usage else "}]}"

    @property
    def usage_estimated(self) -> bool:
        """Whether any of the counts is clinvk's own."""
        return any(usage.estimated for usage in self._usages)

    def feed(self, event: Event, choice: int = 0) -> list[Frame]:
        """Take an event; see `clinvk.wire.base.Encoder`."""
        state = self._choices.setdefault(choice, _Choice())
        match event:
            case TextDelta(text=text):
                state.text.append(text)
                return self._delta(choice, state, {"content": text})
            case ReasoningDelta(text=text):
                state.reasoning.append(text)
                return self._delta(choice, state, {"reasoning_content": text})
            case ToolCall():
                state.calls.append(event)
                call = {"index": len(state.calls) - 1, **_call_body(event)}
                return self._delta(choice, state, {"tool_calls": [call]})
            case Usage():
                self._usages.append(event)
                return []
            case Finished(reason=reason):
                state.reason = reason
                return [*self._begin(choice, state), self._chunk(choice, {}, reason)]
            case Failed(error=error):
                return [Frame(dumps(error_body(error)))]
            case Started() | ToolActivity():
                return []
            case _:
                assert_never(event)

    def end(self) -> list[Frame]:
        """Return the usage chunk, if it was asked for and every choice finished, and the mark."""
        finished = self._choices and all(c.reason for c in self._choices.values())
        if not (self._include_usage and finished):
            return [sse.DONE]
        chunk = {**self._head("chat.completion.chunk"), "choices": [], **self._usage()}
        return [Frame(dumps(chunk)), sse.DONE]

    def result(self) -> dict[str, Any]:
        """Return the `chat.completion` object."""
        return {
            **self._head("chat.completion"),
            "choices": [
                {
                    "index": index,
                    "message": _message_body(state),
                    "logprobs": None,
                    "finish_reason": state.reason,
                }
                for index, state in sorted(self._choices.items())
            ],
            **self._usage(),
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _begin(self, index: int, state: _Choice) -> list[Frame]:
        if state.begun:
            return []
        state.begun = True
        return [self._chunk(index, {"role": "assistant", "content": ""})]

    def _delta(self, index: int, state: _Choice, delta: dict[str, Any]) -> list[Frame]:
        if state.begun:
            return [self._chunk(index, delta)]
        return [*self._begin(index, state), self._chunk(index, delta)]

    def _chunk(
        self, index: int, delta: dict[str, Any], reason: FinishReason | None = None
    ) -> Frame:
        finish = f'"{reason.value}"' if reason else "null"
        return Frame(
            f'{self._prefix}{index},"delta":{dumps(delta)},"logprobs":null,'
            f'"finish_reason":{finish}{self._suffix}'
        )

    def _usage(self) -> dict[str, Any]:
        spent = sum(self._usages, Usage(0, 0))
        body: dict[str, Any] = {
            "usage": {
                "prompt_tokens": spent.input_tokens,
                "completion_tokens": spent.output_tokens,
                "total_tokens": spent.input_tokens + spent.output_tokens,
                "prompt_tokens_details": {"cached_tokens": spent.cached_tokens},
                "completion_tokens_details": {"reasoning_tokens": spent.reasoning_tokens},
            }
        }
        if self.usage_estimated:
            body["clinvk"] = {"usage": "estimated"}
        return body


def _message_body(state: _Choice) -> dict[str, Any]:
    body: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(state.text) if state.text or not state.calls else None,
        "refusal": None,
        "annotations": [],
    }
    if state.reasoning:
        body["reasoning_content"] = "".join(state.reasoning)
    if state.calls:
        body["tool_calls"] = [_call_body(call) for call in state.calls]
    return body


def _call_body(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
