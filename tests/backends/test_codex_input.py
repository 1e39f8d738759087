"""What codex is given: the conversation as items, and models without their tools."""

import base64
import json

import pytest

from clinvk.backends.codex_catalog import Catalog
from clinvk.backends.codex_items import (
    MAX_INPUT_CHARS,
    check_parts,
    check_size,
    items,
    result_content,
)
from clinvk.errors import (
    BadRequestError,
    ContextTooLongError,
    UnsupportedError,
)
from clinvk.turn import (
    AudioPart,
    FilePart,
    Message,
    Part,
    PriorCall,
    Role,
    TextPart,
    Turn,
    require_known_calls,
)


def turn(*messages: Message) -> Turn:
    return Turn("codex", messages)


def said(role: Role, *texts: str) -> Message:
    return Message(role, tuple(TextPart(text) for text in texts))


def test_each_message_is_an_item_with_its_role_and_parts() -> None:
    conversation = turn(
        said(Role.SYSTEM, "s1", "s2"),
        said(Role.USER, "q\r\n", ""),
        Message(Role.ASSISTANT, (TextPart("let me see"),), (PriorCall("c1", "f", '{"a": 1}'),)),
        Message(Role.TOOL, (TextPart("r"),), call_id="c1"),
        said(Role.DEVELOPER, "d"),
        Message(Role.ASSISTANT, (TextPart(""),), (PriorCall("c2", "g", "{}"),)),
        Message(Role.TOOL, (), call_id="c2"),
        Message(Role.USER),
    )
    assert items(conversation) == [
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": "s1"}, {"type": "input_text", "text": "s2"}],
        },
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "q\r\n"},
                {"type": "input_text", "text": ""},
            ],
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "let me see"}],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "r"},
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "d"}]},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c2", "output": ""},
        {"type": "message", "role": "user", "content": []},
    ]


def test_the_limit_of_an_input_is_named() -> None:
    check_size(turn(said(Role.USER, "x" * MAX_INPUT_CHARS)))
    check_size(turn(said(Role.USER, "x" * (MAX_INPUT_CHARS + 1)), said(Role.ASSISTANT, "a")))
    with pytest.raises(ContextTooLongError, match="1048576") as caught:
        check_size(turn(said(Role.SYSTEM, "s"), said(Role.USER, "x" * MAX_INPUT_CHARS, "y")))
    assert caught.value.param == "messages[1].content"


def test_a_result_without_its_call_is_refused() -> None:
    call = Message(Role.ASSISTANT, (), (PriorCall("c1", "f", "{}"),))
    require_known_calls(turn(call, Message(Role.TOOL, call_id="c1")))
    with pytest.raises(BadRequestError, match="'c2'") as caught:
        require_known_calls(turn(call, Message(Role.TOOL, call_id="c2")))
    assert caught.value.param == "messages[1].tool_call_id"


ENTRIES = [
    {
        "slug": "gpt-9",
        "tool_mode": "code_mode_only",
        "multi_agent_version": "v2",
        "apply_patch_tool_type": "freeform",
        "use_responses_lite": True,
        "supported_reasoning_levels": [{"effort": "low"}, {"effort": "max"}],
        "context_window": 100,
        "new_field": 7,
    },
    {"slug": "gpt-9-mini", "use_responses_lite": False, "supported_reasoning_levels": []},
]


def catalog() -> Catalog:
    return Catalog.parse(json.dumps({"models": ENTRIES}))


def test_a_model_of_the_catalog_loses_its_tools_and_keeps_the_rest() -> None:
    entry = catalog().entries[0]
    assert "multi_agent_version" not in entry
    assert (entry["tool_mode"], entry["apply_patch_tool_type"]) == ("direct", None)
    assert entry["context_window"] > 10**8
    assert (entry["use_responses_lite"], entry["new_field"]) == (True, 7)


def test_a_model_that_is_not_in_the_catalog_gets_an_entry() -> None:
    known = catalog()
    assert known.entry_for(None) is None
    assert known.entry_for("gpt-9") is None
    other = known.entry_for("qwen")
    assert other is not None
    assert (other["slug"], other["tool_mode"], other["use_responses_lite"]) == (
        "qwen",
        "direct",
        False,
    )
    dated = known.entry_for("gpt-9-mini-2030")
    assert dated == {
        **known.entries[1],
        "slug": "gpt-9-mini-2030",
        "display_name": "gpt-9-mini-2030",
        "description": "gpt-9-mini-2030",
    }
    assert Catalog([]).entry_for("qwen") is None


@pytest.mark.parametrize(
    ("asked", "model", "effort"),
    [
        ("max", "gpt-9", "max"),
        ("max", "gpt-9-mini", "xhigh"),
        ("max", "qwen", "xhigh"),
        ("none", "gpt-9", "none"),
        ("xhigh", "qwen", "xhigh"),
    ],
)
def test_max_effort_is_the_most_a_model_has(asked: str, model: str, effort: str) -> None:
    assert catalog().effort(asked, model) == effort


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"models": 7}', '{"models": [1, {}]}'])
def test_what_is_no_catalog_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Catalog.parse(text)


def test_a_text_file_is_text_in_results_too() -> None:
    file = FilePart("n.txt", data=base64.b64encode(b"buy milk").decode())
    result = Message(Role.TOOL, (file,), call_id="c")
    assert result_content(result) == [{"type": "inputText", "text": "n.txt:\nbuy milk\n"}]


@pytest.mark.parametrize(
    "part", [FilePart("a.pdf", data=base64.b64encode(b"%PDF-1").decode()), AudioPart("wav", "AA==")]
)
def test_what_codex_cannot_be_told_is_refused(part: Part) -> None:
    with pytest.raises(UnsupportedError) as caught:
        check_parts(turn(Message(Role.USER, (TextPart("a"), part))))
    assert caught.value.param == "messages[0].content[1]"
