"""Items: as they are kept and come back, and what their fields are called."""

import json
from typing import Any

import pytest
from openai.types.responses import ResponseItemList

from clinvk.turn import Message, PriorCall, Role, TextPart
from clinvk.wire.openai_responses import Answerable, OpenAIResponses

HI = Message(Role.USER, (TextPart("hi"),))
WIRE = OpenAIResponses()


def encoded(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": "hi", **fields}).encode()


def understood(**fields: Any) -> Answerable:
    return WIRE.understand(WIRE.read(encoded(**fields)))


ITEMS = [
    {"role": "user", "content": "hi"},
    {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": "data:,"},
            {"type": "refusal", "refusal": "no"},
            {"type": "input_file", "filename": "a", "file_data": "AA=="},
        ],
    },
    {"type": "reasoning", "id": "rs_1", "summary": []},
    {"role": "assistant", "content": "said", "id": "msg_7"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "r"},
    {
        "type": "function_call_output",
        "call_id": "c",
        "output": [{"type": "input_image", "image_url": "data:,"}],
    },
]


def test_what_is_kept_is_what_the_api_lists() -> None:
    kept = understood(input=ITEMS).items
    page = {"object": "list", "data": kept, "first_id": "a", "last_id": "b", "has_more": False}
    ResponseItemList.model_validate(page)
    assert all(item["id"] for item in kept)
    assert [item["id"] for item in kept].index("msg_7") == 2


def test_an_item_without_an_id_has_the_same_one_whenever_it_is_sent() -> None:
    assert understood(input=ITEMS).items == understood(input=ITEMS).items


def test_no_two_items_of_a_conversation_have_one_id() -> None:
    hi = {"role": "user", "content": "hi"}
    first = understood(input=[hi, hi]).items
    again = WIRE.understand(WIRE.read(encoded(previous_response_id="r", input=[hi, hi])), first)
    assert again.items[:2] == first
    assert len({item["id"] for item in again.items}) == 4


def test_what_is_kept_means_the_same_when_it_comes_back() -> None:
    first = understood(input=ITEMS)
    again = WIRE.understand(WIRE.read(encoded(previous_response_id="r")), first.items)
    assert again.turn.messages == (*first.turn.messages, HI)
    assert again.items[:-1] == first.items
    (part,) = again.items[-1]["content"]
    assert part == {"type": "input_text", "text": "hi"}


def test_an_answer_comes_back_as_what_was_said() -> None:
    output: list[dict[str, Any]] = [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "x"}]},
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "yes", "annotations": []}],
        },
        {"id": "fc_1", "type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ]
    asked = WIRE.read(encoded(previous_response_id="r"))
    assert WIRE.understand(asked, output).turn.messages == (
        Message(Role.ASSISTANT, (TextPart("yes"),), (PriorCall("c", "f", "{}"),)),
        HI,
    )


def test_a_reference_is_replaced_by_its_item() -> None:
    asked = WIRE.read(encoded(input=[{"type": "item_reference", "id": "msg_1"}]))
    assert asked.references == ("msg_1",)
    item = {"type": "message", "id": "msg_1", "role": "user", "content": "hi"}
    assert WIRE.understand(asked, None, {"msg_1": item}).turn.messages == (HI,)


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("messages[0].content", "instructions"),
        ("messages[1].content[0]", "previous_response_id"),
        ("messages[2].content", "input[0].content"),
        ("messages[2].content[1]", "input[0].content[1]"),
        ("messages[3].content[0]", "input[2].content[0]"),
        ("messages[3].tool_calls[1].function.arguments", "input[5].arguments"),
        ("messages[4].tool_call_id", "input[6].call_id"),
        ("messages[4].content[0]", "input[6].output[0]"),
        ("messages[5].tool_calls[0].id", "input[7].id"),
        ("messages[5]", "input[7]"),
        ("messages", "input"),
        ("tools[0].function.name", "tools[1].name"),
        ("tools", "tools"),
        ("response_format", "text.format"),
        ("response_format.schema", "text.format.schema"),
        ("model", "model"),
    ],
)
def test_a_field_of_the_turn_has_the_name_of_the_request(told: str, meant: str) -> None:
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    asked = WIRE.read(
        encoded(
            instructions="x",
            previous_response_id="r",
            input=[
                {"role": "user", "content": "hi"},
                {"type": "reasoning", "summary": []},
                {"role": "assistant", "content": "wait"},
                {**call, "call_id": "a"},
                {"type": "reasoning", "summary": []},
                {**call, "call_id": "b"},
                {"type": "function_call_output", "call_id": "a", "output": "x"},
                {**call, "call_id": "c"},
            ],
            tools=[{"type": "web_search"}, {"type": "function", "name": "f"}],
        )
    )
    earlier = [{"id": "msg_0", "role": "user", "content": "before"}]
    assert WIRE.understand(asked, earlier).named(told) == meant


def test_an_input_of_words_has_no_parts() -> None:
    assert understood().named("messages[0].content[0]") == "input"
