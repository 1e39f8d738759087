"""What a chat request means, and how each mistake in one is named."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.errors import BadRequestError
from clinvk.turn import (
    AudioPart,
    FilePart,
    ImagePart,
    Limits,
    Message,
    OutputFormat,
    PriorCall,
    Role,
    TextPart,
    ToolChoice,
    ToolMode,
    ToolSpec,
    Turn,
)
from clinvk.wire.openai_chat import OpenAIChat

HI = {"role": "user", "content": "hi"}


def turn(**fields: Any) -> Turn:
    body = {"model": "m", "messages": [HI], **fields}
    return OpenAIChat().parse(json.dumps(body).encode()).turn


def refusal(body: bytes) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        OpenAIChat().parse(body)
    return caught.value


def test_the_smallest_request() -> None:
    assert turn() == Turn("m", (Message(Role.USER, (TextPart("hi"),)),))


def test_roles_and_parts_are_kept_as_sent() -> None:
    messages = [
        {
            "role": "system",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": ""}],
        },
        {"role": "developer", "content": "b"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "c"},
                {"type": "image_url", "image_url": {"url": "http://x/i.png", "detail": "low"}},
                {"type": "image_url", "image_url": "data:image/png;base64,AA=="},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                {"type": "file", "file": {"filename": "f.pdf", "file_data": "AA=="}},
                {"type": "file", "file": {"file_id": "file-1"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "d"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "function_call": {"name": "g", "arguments": "[]"}},
        {"role": "function", "name": "g", "content": "e"},
    ]
    assert turn(messages=messages).messages == (
        Message(Role.SYSTEM, (TextPart("a"), TextPart(""))),
        Message(Role.DEVELOPER, (TextPart("b"),)),
        Message(
            Role.USER,
            (
                TextPart("c"),
                ImagePart(url="http://x/i.png"),
                ImagePart(url="data:image/png;base64,AA=="),
                AudioPart("wav", "AA=="),
                FilePart("f.pdf", data="AA=="),
                FilePart(file_id="file-1"),
            ),
        ),
        Message(Role.ASSISTANT, (), (PriorCall("c1", "f", "{}"),)),
        Message(Role.TOOL, (TextPart("d"),), call_id="c1"),
        Message(Role.ASSISTANT, (TextPart("no"),)),
        Message(Role.ASSISTANT, (), (PriorCall("g", "g", "[]"),)),
        Message(Role.TOOL, (TextPart("e"),), call_id="g", name="g"),
    )


@pytest.mark.parametrize(
    ("fields", "limits"),
    [
        ({"max_tokens": 5}, Limits(max_tokens=5)),
        ({"max_completion_tokens": 6, "max_tokens": 5}, Limits(max_tokens=6)),
        ({"stop": "x"}, Limits(stop=("x",))),
        ({"stop": ["x", "y"]}, Limits(stop=("x", "y"))),
        ({"stop": None, "max_tokens": None}, Limits()),
        ({"stop": []}, Limits()),
    ],
)
def test_limits(fields: dict[str, Any], limits: Limits) -> None:
    assert turn(**fields).limits == limits


def test_tools_and_functions_are_the_same_thing() -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    spec = (ToolSpec("f", "d", {"type": "object"}),)
    assert turn(tools=[{"type": "function", "function": function}]).tools == spec
    assert turn(functions=[function]).tools == spec
    assert turn(tools=[]).tools == ()


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, ToolChoice()),
        ({"tool_choice": "none"}, ToolChoice(ToolMode.NONE)),
        ({"tool_choice": "required"}, ToolChoice(ToolMode.REQUIRED)),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            ToolChoice(ToolMode.REQUIRED, "f"),
        ),
        ({"function_call": "auto"}, ToolChoice()),
        ({"function_call": {"name": "f"}}, ToolChoice(ToolMode.REQUIRED, "f")),
    ],
)
def test_tool_choices(fields: dict[str, Any], choice: ToolChoice) -> None:
    assert turn(**fields).tool_choice == choice


def test_parallel_calls_are_allowed_unless_forbidden() -> None:
    assert turn().parallel_calls
    assert not turn(parallel_tool_calls=False).parallel_calls


def test_formats() -> None:
    def made(value: Any) -> OutputFormat | None:
        return turn(response_format=value).format

    assert made({"type": "text"}) is None
    assert made({"type": "json_object"}) == OutputFormat()
    schema = {"type": "object"}
    asked = {"name": "n", "schema": schema, "strict": True}
    assert made({"type": "json_schema", "json_schema": asked}) == OutputFormat(
        schema, "n", strict=True
    )


def test_what_has_no_effect_is_told_by_name() -> None:
    sent = {
        "temperature": 0.5,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0.1,
        "seed": 1,
        "user": "u",
        "store": False,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "logit_bias": {"1": -100},
        "zebra": 1,
    }
    assert set(turn(**sent).ignored) == set(sent)
    assert turn(**dict.fromkeys(sent)).ignored == ()


def test_stream_effort_and_choices() -> None:
    parsed = OpenAIChat().parse(
        json.dumps(
            {"model": "m", "messages": [HI], "stream": True, "n": 3, "reasoning_effort": "high"}
        ).encode()
    )
    assert parsed.stream
    assert (parsed.turn.choices, parsed.turn.effort) == (3, "high")


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"model": 5}, "model"),
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [{}]}, "messages[0].role"),
    ({"messages": [HI, {"role": "bob"}]}, "messages[1].role"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": {}}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        "messages[0].content[0].text",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": 5}]}]},
        "messages[0].content[0].image_url",
    ),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
    ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].name"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
        "messages[0].tool_calls[0].function",
    ),
    ({"stream": "yes"}, "stream"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_completion_tokens": True}, "max_completion_tokens"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": 5}, "stop"),
    ({"temperature": "hot"}, "temperature"),
    ({"logit_bias": []}, "logit_bias"),
    ({"reasoning_effort": "extreme"}, "reasoning_effort"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        "response_format.json_schema.name",
    ),
    ({"tool_choice": "maybe"}, "tool_choice"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"function_call": "required"}, "function_call"),
    ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
]


@pytest.mark.parametrize(("fields", "param"), MISTAKES, ids=[p for _, p in MISTAKES])
def test_a_mistake_names_its_field(fields: dict[str, Any], param: str) -> None:
    error = refusal(json.dumps({"model": "m", "messages": [HI], **fields}).encode())
    assert (error.status, error.param) == (400, param)


def test_a_missing_field_has_a_code_of_its_own() -> None:
    for field in ("model", "messages"):
        body = {"model": "m", "messages": [HI]}
        del body[field]
        error = refusal(json.dumps(body).encode())
        assert (error.param, error.code) == (field, "missing_required_parameter")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "JSON object"),
        (b'"x"', "JSON object"),
        (b"\xff\xfe\xff", "not JSON"),
        (b'{"temperature": NaN}', "not JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"1" * 10_000, "not JSON"),
        (b'{"temperature": 1e999}', "over the largest number"),
        (b'{"metadata": {"a": "\xed\xa0\x80"}}', "not JSON in UTF-8"),
        ('{"model": "m"}'.encode("utf-16"), "not JSON in UTF-8"),
    ],
)
def test_a_body_that_is_no_request_says_so(body: bytes, word: str) -> None:
    assert word in refusal(body).message


def test_half_a_surrogate_pair_is_named_by_its_path() -> None:
    body = (
        rb'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"\ud83d"}]}]}'
    )
    assert refusal(body).param == "messages[0].content[0].text"
    assert refusal(rb'{"model":"\uDE00","messages":[]}').param == "model"
    assert refusal(rb'{"metadata":{"\ud83d":1}}').param == "metadata"
    whole = rb'{"model":"m","messages":[{"role":"user","content":"\ud83d\ude00"}]}'
    assert OpenAIChat().parse(whole).turn.messages[0].text == "\U0001f600"


def test_a_deep_body_with_half_a_pair_is_still_refused_calmly() -> None:
    body = rb'{"a":' + b"[" * 900 + rb'"\ud83d"' + b"]" * 900 + b"}"
    assert refusal(body).status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
FIELDS = st.sampled_from([*(next(iter(fields)) for fields, _ in MISTAKES), "x"])


@given(st.dictionaries(FIELDS, JSON, max_size=6))
def test_any_json_is_a_turn_or_a_400(fields: dict[str, Any]) -> None:
    body = json.dumps({"model": "m", "messages": [HI], **fields}).encode()
    with contextlib.suppress(BadRequestError):
        assert OpenAIChat().parse(body).turn.messages


@given(st.binary(max_size=200))
def test_any_bytes_are_a_400(body: bytes) -> None:
    assert refusal(body).status == 400


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("tools[0].function.parameters.type", "tools[0].function.parameters.type"),
        ("tools[1].function.parameters.type", "functions[0].parameters.type"),
        ("tools[2].name", "functions[1].name"),
        ("tools", "tools"),
        ("tool_choice", "function_call"),
        ("messages[1].tool_calls[0].function.arguments", "messages[1].function_call.arguments"),
        ("messages[1].tool_calls[0]", "messages[1].function_call"),
        ("messages[2].tool_call_id", "messages[2].name"),
        ("messages[3].tool_calls[0].arguments", "messages[3].tool_calls[0].arguments"),
        ("messages[4].tool_call_id", "messages[4].tool_call_id"),
        ("messages[0].content[0]", "messages[0].content[0]"),
        ("messages[9].tool_call_id", "messages[9].tool_call_id"),
    ],
)
def test_what_a_backend_says_of_an_older_field_has_its_name(told: str, meant: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    parsed = OpenAIChat().parse(
        json.dumps(
            {
                "model": "m",
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "function_call": {"name": "g", "arguments": "{}"}},
                    {"role": "function", "name": "g", "content": "x"},
                    {"role": "assistant", "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "c", "content": "x"},
                ],
                "tools": [{"type": "function", "function": {"name": "f"}}],
                "functions": [{"name": "g"}, {"name": "h"}],
                "function_call": "auto",
            }
        ).encode()
    )
    assert parsed.named(told) == meant
