"""What a backend says of a part of the turn is told by the caller's own name of the field."""

import json
from typing import Any

import pytest

from clinvk.errors import BadRequestError, UnsupportedError
from clinvk.events import Failed, TextDelta
from clinvk.turn import Role
from clinvk.wire.anthropic_messages import AnthropicMessages

PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
TEXT = {"type": "text", "text": "t"}
TOOLS = [
    {"type": "web_search_20250305", "name": "web_search"},
    {"name": "f", "input_schema": {"type": "object"}},
]
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "plain"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            TEXT,
            {"type": "tool_use", "id": "a", "name": "f", "input": {}},
            {"type": "tool_use", "id": "b", "name": "f", "input": {}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": [TEXT, PNG], "is_error": True},
            {"type": "tool_result", "tool_use_id": "b", "content": "b"},
            {
                "type": "document",
                "source": {"type": "content", "content": [TEXT, PNG]},
            },
            {"type": "document", "source": {"type": "content", "content": "d"}},
            PNG,
        ],
    },
]


def body(**more: Any) -> bytes:
    return json.dumps(
        {
            "model": "m",
            "max_tokens": 9,
            "system": [TEXT, TEXT],
            "messages": MESSAGES,
            "tools": TOOLS,
            **more,
        }
    ).encode()


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("messages[1].content", "system[1].text"),
        ("messages[1].content[0]", "system[1].text"),
        ("messages[1]", "system[1]"),
        ("messages[2].content[0]", "messages[0].content"),
        ("messages[2]", "messages[0]"),
        ("messages[3].content[0]", "messages[1].content[1]"),
        ("messages[3].tool_calls[1]", "messages[1].content[3]"),
        ("messages[3].tool_calls[1].function.arguments", "messages[1].content[3].input"),
        ("messages[3].tool_calls[0].arguments", "messages[1].content[2].input"),
        ("messages[3].tool_calls[0].function.name", "messages[1].content[2].name"),
        ("messages[3].tool_calls[7]", "messages[1]"),
        ("messages[4].content", "messages[2].content[0].content"),
        ("messages[4].content[0]", "messages[2].content[0]"),
        ("messages[4].content[2]", "messages[2].content[0].content[1]"),
        ("messages[4].tool_call_id", "messages[2].content[0].tool_use_id"),
        ("messages[5].content[0]", "messages[2].content[1].content"),
        ("messages[6].content[1]", "messages[2].content[2].source.content[1]"),
        ("messages[6].content[2]", "messages[2].content[3].source.content"),
        ("messages[6].content[3]", "messages[2].content[4]"),
        ("messages[6].content", "messages[2].content"),
        ("messages[99]", "messages[99]"),
        ("messages", "messages"),
        ("tools[0].function.name", "tools[1].name"),
        ("tools[0].function.parameters.type", "tools[1].input_schema.type"),
        ("tools[0]", "tools[1]"),
        ("tools[9].function", "tools[9].function"),
        ("tools", "tools"),
        ("tool_choice", "tool_choice"),
        ("reasoning_effort", "output_config.effort"),
        ("stop", "stop_sequences"),
        ("response_format", "output_config.format"),
    ],
)
def test_a_field_of_the_turn_has_the_name_of_the_request(told: str, meant: str) -> None:
    parsed = AnthropicMessages().parse(body())
    roles = [message.role for message in parsed.turn.messages]
    assert roles == [
        *(Role.SYSTEM, Role.SYSTEM, Role.USER, Role.ASSISTANT),
        *(Role.TOOL, Role.TOOL, Role.USER),
    ]
    assert parsed.named(told) == meant


def test_the_older_field_that_asks_for_json_is_named() -> None:
    form = {"type": "json_schema", "schema": {}}
    named = AnthropicMessages().parse(body(output_format=form)).named
    assert named("response_format") == "output_format"


def test_a_system_text_and_results_alone_have_names() -> None:
    named = AnthropicMessages().parse(body(system="s", messages=MESSAGES[:2])).named
    assert (named("messages[0].content[0]"), named("messages[0]")) == ("system", "system")
    parsed = AnthropicMessages().parse(
        body(system=None, messages=[{"role": "user", "content": [TEXT, MESSAGES[2]["content"][1]]}])
    )
    assert parsed.named("messages[0].content[0]") == "messages[0].content[0]"
    assert parsed.named("messages[1].content[0]") == "messages[0].content[1].content"


def test_a_failure_in_the_stream_names_the_field() -> None:
    encoder = AnthropicMessages().parse(body()).encoder
    encoder.feed(TextDelta("a"))
    (frame,) = encoder.feed(Failed(BadRequestError("no", param="tools[0].function.parameters")))
    assert json.loads(frame.data)["error"]["message"] == "tools[1].input_schema: no"
    (frame,) = encoder.feed(Failed(UnsupportedError("no")))
    assert json.loads(frame.data)["error"]["message"] == "no"
