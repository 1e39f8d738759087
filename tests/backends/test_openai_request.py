"""Turns as bodies of Chat Completions requests."""

import base64

from clinvk.backends.openai_request import chat_body
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

HI = Message(Role.USER, (TextPart("hi"),))
PDF = base64.b64encode(b"%PDF-1.7").decode()


def test_the_least_asks_for_a_stream_with_usage() -> None:
    assert chat_body(Turn("any", (HI,)), "m") == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_settings_go_where_the_api_has_them() -> None:
    turn = Turn(
        "any",
        (HI,),
        tools=(ToolSpec("look", "Look.", {"type": "object"}, strict=True), ToolSpec("hear")),
        tool_choice=ToolChoice(ToolMode.REQUIRED, "look"),
        parallel_calls=False,
        format=OutputFormat({"type": "object"}, "form", strict=True),
        limits=Limits(max_tokens=9, stop=("END",)),
        effort="low",
        sampling={"temperature": 0.5, "seed": 7},
    )
    body = chat_body(turn, "m")
    look = {
        "name": "look",
        "description": "Look.",
        "parameters": {"type": "object"},
        "strict": True,
    }
    assert body["tools"] == [
        {"type": "function", "function": look},
        {"type": "function", "function": {"name": "hear"}},
    ]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert body["parallel_tool_calls"] is False
    form = {"name": "form", "schema": {"type": "object"}, "strict": True}
    assert body["response_format"] == {"type": "json_schema", "json_schema": form}
    assert (body["max_completion_tokens"], body["reasoning_effort"]) == (9, "low")
    assert (body["temperature"], body["seed"]) == (0.5, 7)
    assert "stop" not in body


def test_choices_and_formats_have_their_short_forms() -> None:
    turn = Turn("any", (HI,), tools=(ToolSpec("look"),), tool_choice=ToolChoice(ToolMode.NONE))
    assert chat_body(turn, "m")["tool_choice"] == "none"
    assert "parallel_tool_calls" not in chat_body(turn, "m")
    plain = chat_body(Turn("any", (HI,), format=OutputFormat()), "m")
    assert plain["response_format"] == {"type": "json_object"}
    loose = chat_body(Turn("any", (HI,), format=OutputFormat({})), "m")["response_format"]
    assert loose["json_schema"] == {"name": "answer", "schema": {}}


def test_parts_keep_their_kind() -> None:
    parts = (
        TextPart("see"),
        ImagePart(url="https://example.com/a.png"),
        ImagePart(media_type="image/gif", data="R0lG"),
        AudioPart("wav", "AA=="),
        FilePart("a.pdf", data=PDF),
        FilePart("n.txt", data=base64.b64encode(b"note").decode()),
        FilePart(file_id="file-1"),
    )
    (message,) = chat_body(Turn("any", (Message(Role.USER, parts),)), "m")["messages"]
    assert message["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lG"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {
            "type": "file",
            "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
        },
        {"type": "text", "text": "n.txt:\nnote\n"},
        {"type": "file", "file": {"file_id": "file-1"}},
    ]


def test_roles_names_calls_and_results_are_told() -> None:
    image = ImagePart(data="iVBO")
    messages = (
        Message(Role.DEVELOPER, (TextPart("be kind"),)),
        Message(Role.USER, (TextPart("look"),), name="ann"),
        Message(Role.ASSISTANT, (), (PriorCall("1", "look", "{}"), PriorCall("2", "see", "{}"))),
        Message(Role.TOOL, (TextPart("a sea"), image), call_id="1"),
        Message(Role.TOOL, (TextPart("a ship"),), call_id="2"),
        Message(Role.USER, (TextPart("and"), TextPart("now?"))),
        Message(Role.TOOL, (image,), call_id="3"),
    )
    told = chat_body(Turn("any", messages), "m")["messages"]
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
    assert told[0] == {"role": "system", "content": "be kind"}
    assert told[1] == {"role": "user", "content": "look", "name": "ann"}
    assert told[2]["content"] is None
    assert told[2]["tool_calls"][1] == {
        "id": "2",
        "type": "function",
        "function": {"name": "see", "arguments": "{}"},
    }
    assert told[3] == {"role": "tool", "content": "a sea", "tool_call_id": "1"}
    assert told[4] == {"role": "tool", "content": "a ship", "tool_call_id": "2"}
    assert told[5] == {"role": "user", "content": [picture]}
    assert [part["text"] for part in told[6]["content"]] == ["and", "now?"]
    assert told[-1] == {"role": "user", "content": [picture]}
