"""Whatever happens in a turn, every reply is of its vendor's schema, its SDK's types, and our own.

Two things are as the APIs are, not as their schemas say: a chunk of a completion has no finish
reason or usage yet, and Anthropic's error of a large request is not among those of the schema.
"""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import anthropic.types
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import ResponseItemList
from pydantic import TypeAdapter

from clinvk.errors import ClinvkError
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
from clinvk.server import docs
from clinvk.wire import anthropic_messages, openai_models
from clinvk.wire.anthropic_messages import AnthropicMessages
from clinvk.wire.base import Dialect, Encoder, Parsed
from clinvk.wire.openai_chat import OpenAIChat
from clinvk.wire.openai_completions import OpenAICompletions
from clinvk.wire.openai_responses import OpenAIResponses
from tests.fakes.openai_types import check_response, check_stream
from tests.published import check, check_event

MESSAGE_EVENT: TypeAdapter[Any] = TypeAdapter(anthropic.types.RawMessageStreamEvent)
PING = {"type": "ping"}

SOME = settings(max_examples=60, deadline=None)
TEXTS = st.text(max_size=6)
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
ARGUMENTS = st.sampled_from(["", "{}", '{"a": [1.5, null]}', "[1]", "{broken", "NaN"]) | TEXTS
COUNTS = st.integers(0, 2**40)
BODY = st.lists(
    st.builds(Started, st.none() | TEXTS)
    | st.builds(TextDelta, TEXTS)
    | st.builds(ReasoningDelta, TEXTS)
    | st.builds(ToolActivity, TEXTS, TEXTS)
    | st.builds(ToolCall, IDS, IDS, ARGUMENTS)
    | st.builds(Usage, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, estimated=st.booleans()),
    max_size=8,
)
FINISHED = st.builds(Finished, st.sampled_from(FinishReason), st.none() | TEXTS)


def kinds_of(kind: type[ClinvkError]) -> Iterator[type[ClinvkError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds_of(below)


ERRORS = st.builds(
    lambda kind, message, param: kind(message, param=param),
    st.sampled_from(list(kinds_of(ClinvkError))),
    TEXTS,
    st.none() | st.sampled_from(["messages[0].content", "tools[1]", "model"]),
)
FAILED = st.builds(Failed, ERRORS)

HI = [{"role": "user", "content": "hi"}]
OPTIONS = st.none() | st.fixed_dictionaries({"include_usage": st.booleans()})


@cache
def described(path: str, status: str = "200") -> Draft202012Validator:
    """What our own document says of a path's replies."""
    document = docs.openapi()
    reply = document["paths"][path]["post"]["responses"][status]["content"]["application/json"]
    return Draft202012Validator({**reply["schema"], "components": document["components"]})


def as_sent(value: Any) -> Any:
    return json.loads(json.dumps(value))


def frames(
    encoder: Encoder, events: list[Event], last: Event, choices: int = 1
) -> list[dict[str, Any]]:
    """Tell the same of every choice, and return what was streamed."""
    each = [(event, choice) for event in (*events, last) for choice in range(choices)]
    told = [frame for event, choice in each for frame in encoder.feed(event, choice)]
    told += encoder.end()
    return [json.loads(frame.data) for frame in told if frame.data != "[DONE]"]


def check_openai_errors(chunks: list[dict[str, Any]], last: Event) -> list[dict[str, Any]]:
    """Hold the errors among chunks to their schema, and return the other chunks."""
    failures = [chunk for chunk in chunks if "error" in chunk]
    assert bool(failures) == isinstance(last, Failed)
    for failure in failures:
        check("openai", "ErrorResponse", failure)
    return [chunk for chunk in chunks if "error" not in chunk]


def parsed(dialect: Dialect, body: dict[str, Any]) -> Parsed:
    return dialect.parse(json.dumps({"model": "m", **body}).encode())


@SOME
@given(BODY, FINISHED | FAILED, st.integers(1, 3), OPTIONS)
def test_every_chat_is_of_the_schemas(
    events: list[Event], last: Event, n: int, options: dict[str, Any] | None
) -> None:
    asked = parsed(OpenAIChat(), {"messages": HI, "n": n, "stream_options": options})
    chunks = frames(asked.encoder, events, last, n)
    for chunk in check_openai_errors(chunks, last):
        check("openai", "CreateChatCompletionStreamResponse", chunk)
        ChatCompletionChunk.model_validate(chunk, strict=True)
    if isinstance(last, Finished):
        body = as_sent(asked.encoder.result())
        check("openai", "CreateChatCompletionResponse", body)
        ChatCompletion.model_validate(body, strict=True)
        described("/openai/v1/chat/completions").validate(body)


@SOME
@given(BODY, FINISHED | FAILED, st.integers(1, 2), st.booleans(), OPTIONS)
def test_every_completion_is_of_the_schemas(
    events: list[Event], last: Event, n: int, echo: bool, options: dict[str, Any] | None
) -> None:
    asked = {"prompt": ["a", "b"], "n": n, "echo": echo, "stream_options": options}
    made = parsed(OpenAICompletions(), asked)
    for chunk in check_openai_errors(frames(made.encoder, events, last, 2 * n), last):
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        if chunk.get("usage", ...) is None:
            del chunk["usage"]
        check("openai", "CreateCompletionResponse", chunk)
        Completion.model_validate(chunk, strict=True)
    if isinstance(last, Finished):
        body = as_sent(made.encoder.result())
        check("openai", "CreateCompletionResponse", body)
        Completion.model_validate(body, strict=True)
        described("/openai/v1/completions").validate(body)


FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
SCHEMA = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
ITEMS: list[dict[str, Any]] = [
    {"role": "user", "content": "hi"},
    {"role": "system", "content": [{"type": "input_text", "text": "s"}]},
    {"role": "assistant", "content": "a"},
    {
        "role": "assistant",
        "content": [{"type": "output_text", "text": "t"}, {"type": "refusal", "refusal": "r"}],
    },
    {"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]},
    {"role": "user", "content": [{"type": "input_file", "filename": "f", "file_data": "data:,"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "x"},
    {
        "type": "function_call_output",
        "call_id": "c",
        "output": [{"type": "input_text", "text": "x"}],
    },
    {"type": "reasoning", "id": "r", "summary": []},
]
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "input": TEXTS | st.lists(st.sampled_from(ITEMS), max_size=4).map(lambda more: [*HI, *more]),
    "instructions": st.none() | TEXTS,
    "tools": st.lists(
        st.sampled_from([FUNCTION, {"type": "function", "name": "g"}, {"type": "web_search"}])
    ),
    "tool_choice": st.sampled_from(
        [
            *("none", "auto", "required"),
            {"type": "function", "name": "f"},
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            {"type": "web_search_preview"},
        ]
    ),
    "text": st.sampled_from(
        [
            *({}, {"format": {"type": "text"}}, {"format": {"type": "json_object"}}),
            *({"format": SCHEMA}, {"format": {**SCHEMA, "strict": True, "description": "d"}}),
            {"verbosity": "low"},
        ]
    ),
    "reasoning": st.sampled_from([{}, {"effort": "high", "summary": "auto"}, {"effort": None}]),
    "metadata": st.dictionaries(TEXTS, TEXTS, max_size=2),
    "max_output_tokens": st.integers(1, 9),
    "parallel_tool_calls": st.booleans(),
    "store": st.booleans(),
    "temperature": st.sampled_from([0, 1, 0.5]),
    "top_p": st.sampled_from([0, 1, 0.5]),
    "truncation": st.sampled_from(["auto", "disabled"]),
}
REQUESTS = st.fixed_dictionaries({"input": FIELDS.pop("input")}, optional=FIELDS)


@SOME
@given(REQUESTS, BODY, FINISHED | FAILED)
def test_every_response_is_of_the_schemas(
    request: dict[str, Any], events: list[Event], last: Event
) -> None:
    asked = OpenAIResponses().parse(json.dumps({"model": "m", **request}).encode())
    told = frames(asked.encoder, events, last)
    check_stream(told)
    for event in told:
        check_event("openai", event)
    body = as_sent(asked.encoder.result())
    check("openai", "Response", body)
    check_response(body)
    described("/openai/v1/responses").validate(body)


@SOME
@given(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=4))
def test_kept_items_are_of_the_schemas(items: list[dict[str, Any]]) -> None:
    asked = {"model": "m", "input": [*HI, *items]}
    wire = OpenAIResponses()
    kept = as_sent(wire.understand(wire.read(json.dumps(asked).encode())).items)
    page = {
        "object": "list",
        "data": kept,
        "first_id": kept[0]["id"],
        "last_id": kept[-1]["id"],
        "has_more": False,
    }
    check("openai", "ResponseItemList", page)
    ResponseItemList.model_validate(page)


@SOME
@given(BODY, FINISHED | FAILED, st.booleans())
def test_every_message_of_anthropics_is_of_the_schemas(
    events: list[Event], last: Event, thinking: bool
) -> None:
    shown = {"type": "adaptive" if thinking else "disabled"}
    asked = {"messages": HI, "max_tokens": 9, "thinking": shown}
    made = parsed(AnthropicMessages(), asked)
    for event in frames(made.encoder, events, last):
        if event["type"] == "error":
            if event["error"]["type"] == "request_too_large":
                event["error"]["type"] = "invalid_request_error"
            check("anthropic", "ErrorResponse", {**event, "request_id": None})
        elif event != PING:
            check_event("anthropic", event)
            MESSAGE_EVENT.validate_python(event, strict=True)
    if isinstance(last, Finished):
        body = as_sent(made.encoder.result())
        check("anthropic", "Message", body)
        anthropic.types.Message.model_validate(body, strict=True)
        described("/anthropic/v1/messages").validate(body)


@SOME
@given(ERRORS)
def test_every_error_is_of_the_schemas(error: ClinvkError) -> None:
    for dialect in (OpenAIChat(), OpenAICompletions(), OpenAIResponses()):
        status, body = dialect.error(error)
        assert 400 <= status < 600
        check("openai", "ErrorResponse", as_sent(body))
        described("/openai/v1/chat/completions", "default").validate(as_sent(body))
    status, body = AnthropicMessages().error(error)
    described("/anthropic/v1/messages", "default").validate(as_sent(body))
    if body["error"]["type"] == "request_too_large":
        assert status == 413
        body["error"]["type"] = "invalid_request_error"
    check("anthropic", "ErrorResponse", as_sent(body))


def test_models_are_of_the_schemas() -> None:
    page = openai_models.list_body([("a", "v", {"tools": "native"}), ("a/b", "v", {})])
    check("openai", "ListModelsResponse", page)
    check("openai", "Model", openai_models.model_body("a", "v", {}))
    check("anthropic", "ListResponse_ModelInfo_", anthropic_messages.list_body(["a", "b"]))
    check("anthropic", "ListResponse_ModelInfo_", anthropic_messages.list_body([]))
    check("anthropic", "ModelInfo", anthropic_messages.model_body("a"))
    check("anthropic", "CountMessageTokensResponse", anthropic_messages.count_body(3))
