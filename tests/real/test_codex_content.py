"""The real Codex CLI with images, and with answers that must be JSON."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clinvk.backends.structured import in_words
from clinvk.errors import InvalidAnswerError
from clinvk.events import Failed, Finished, FinishReason, TextDelta, ToolCall, Usage
from clinvk.turn import (
    ImagePart,
    Message,
    OutputFormat,
    PriorCall,
    Role,
    TextPart,
    ToolSpec,
)
from tests.fakes.api import Reply
from tests.real.codex_world import World, codex_world, collect, text, turn
from tests.test_media import GIF, PNG, WEBP

pytestmark = pytest.mark.real

JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAP////////////////////////////////////////////////////////"
    "//////////////////////////////2wBDAf//////////////////////////////////////////////////////"
    "////////////////////////////////wAARCAACAAIDASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAL/xA"
    "AUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFQEBAQAAAAAAAAAAAAAAAAAAAQP/xAAUEQEAAAAAAAAAAAAAAAAAAAAA/9oA"
    "DAMBAAIRAxEAPwCQAo//2Q=="
)
OPEN = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CLOSED = {**OPEN, "additionalProperties": False}


@pytest.fixture
async def world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with codex_world(home, tmp_path, monkeypatch) as opened:
        yield opened


def image(kind: str, data: str) -> ImagePart:
    return ImagePart(url=f"data:image/{kind};base64,{data}")


@pytest.mark.parametrize("model", ["unheard-of", "gpt-5.5", "gpt-6-astra"])
async def test_images_arrive_as_images_in_their_place(world: World, model: str) -> None:
    parts = (
        TextPart("one"),
        image("png", PNG),
        TextPart("two"),
        image("jpeg", JPEG),
        image("webp", WEBP),
        ImagePart(media_type="image/jpeg", data=PNG),
        image("gif", GIF),
    )
    await collect(world.backend(), turn(Message(Role.USER, parts)), model)
    content = world.input()[-1]["content"]
    urls = [part.get("image_url") for part in content]
    png = f"data:image/png;base64,{PNG}"
    assert urls[:-1] == [None, png, None, parts[3].url, parts[4].url, png]
    assert urls[-1].startswith("data:image/png;base64,")  # codex makes a PNG of a GIF
    assert [part["text"] for part in content if part["type"] == "input_text"] == ["one", "two"]


async def test_an_image_that_cannot_be_read_becomes_a_text_that_says_so(world: World) -> None:
    broken = image("png", "iVBORw0KGgoAAAANSUhEUgAA")
    await collect(world.backend(), turn(Message(Role.USER, (broken,))))
    said = "image content omitted because it could not be processed"
    assert world.input()[-1]["content"] == [{"type": "input_text", "text": said}]


async def test_images_in_a_tools_result_arrive(world: World) -> None:
    history = (
        Message(Role.USER, (TextPart("q"),)),
        Message(Role.ASSISTANT, (), (PriorCall("c1", "look", "{}"),)),
        Message(Role.TOOL, (TextPart("seen:"), image("png", PNG)), call_id="c1"),
    )
    asked = replace(turn(*history), tools=(ToolSpec("look"),))
    await collect(world.backend(), asked)
    said, seen = world.input()[-1]["output"]
    assert said == {"type": "input_text", "text": "seen:"}
    assert seen["image_url"] == f"data:image/png;base64,{PNG}"


@pytest.mark.parametrize("model", ["unheard-of", "gpt-6-astra"])
@pytest.mark.parametrize(
    ("form", "sent"),
    [
        (OutputFormat(CLOSED, strict=True), CLOSED),
        (OutputFormat({**CLOSED, "minProperties": 1}, strict=True), {**CLOSED, "minProperties": 1}),
        (OutputFormat(OPEN), CLOSED),
    ],
)
async def test_a_schema_arrives_as_a_schema_and_the_answer_is_streamed(
    world: World, form: OutputFormat, sent: dict[str, Any], model: str
) -> None:
    world.fake.answer(Reply(text=('{"city":', ' "Rome"}')))
    events = await collect(world.backend(), replace(turn("hi"), format=form), model)
    told = world.fake.requests[-1].body["text"]["format"]
    assert (told["type"], told["strict"], told["schema"]) == ("json_schema", True, sent)
    assert len([i for i in world.input() if i["type"] == "message"]) == 1
    assert [e.text for e in events if isinstance(e, TextDelta)] == ['{"city":', ' "Rome"}']
    assert events[-1] == Finished(FinishReason.STOP)


@pytest.mark.parametrize("form", [OutputFormat(), OutputFormat({**OPEN, "minProperties": 1})])
async def test_what_codex_cannot_promise_is_asked_for_and_comes_clean(
    world: World, form: OutputFormat
) -> None:
    world.fake.answer(Reply(text=("```json\n", '{"city": "Rome"}', "\n```")))
    events = await collect(world.backend(), replace(turn("hi"), format=form))
    content = [{"type": "input_text", "text": in_words(form)}]
    assert world.input()[:-1] == [{"type": "message", "role": "developer", "content": content}]
    assert "format" not in world.fake.requests[-1].body.get("text", {})
    assert [e.text for e in events if isinstance(e, TextDelta)] == ['{"city": "Rome"}']
    assert events[-1] == Finished(FinishReason.STOP)


async def test_what_was_asked_for_and_is_wrong_is_mended_once(world: World) -> None:
    world.fake.answer(Reply(text=("Sure!",)), Reply(text=('{"a": 1}',)))
    events = await collect(world.backend(), replace(turn("hi"), format=OutputFormat()))
    assert (text(events), events[-1]) == ('{"a": 1}', Finished(FinishReason.STOP))
    assert Usage(22, 14) in events
    assert [item["role"] for item in world.input()] == ["developer", "user", "assistant", "user"]


@pytest.mark.parametrize("form", [OutputFormat(), OutputFormat(OPEN)])
@pytest.mark.parametrize("answer", ["Sorry.", '{"city": ', "[]"])
async def test_an_answer_that_is_not_of_the_form_is_a_failure(
    world: World, form: OutputFormat, answer: str
) -> None:
    world.fake.answer(Reply(text=(answer,)))
    events = await collect(world.backend(), replace(turn("hi"), format=form))
    assert isinstance(events[-1], Failed)
    assert type(events[-1].error) is InvalidAnswerError


@pytest.mark.parametrize(
    ("stop", "reason"),
    [("max_output_tokens", FinishReason.LENGTH), ("refusal", FinishReason.CONTENT_FILTER)],
)
async def test_an_answer_cut_short_or_refused_says_so(
    world: World, stop: str, reason: FinishReason
) -> None:
    world.fake.answer(Reply(text=('{"ci',), stop=stop))
    events = await collect(world.backend(), replace(turn("hi"), format=OutputFormat(OPEN)))
    assert events[-1] == Finished(reason)


@pytest.mark.parametrize("form", [OutputFormat(), OutputFormat(OPEN)])
async def test_tools_and_a_form_work_together(world: World, form: OutputFormat) -> None:
    tools = (ToolSpec("look", "Looks", OPEN),)
    world.fake.answer(
        Reply(text=("Let me look.",), tool_calls=(("look", {"city": "Rome"}),)),
        Reply(text=('{"city": "Rome"}',)),
    )
    asked = replace(turn("hi"), format=form, tools=tools)
    events = await collect(world.backend(), asked)
    body = world.fake.requests[-1].body
    assert body["tools"][0]["parameters"] == OPEN
    assert ("format" in body.get("text", {})) == (form.schema is not None)
    assert text(events) == "Let me look."
    assert ToolCall("call_resp_1_0", "look", json.dumps({"city": "Rome"})) in events
    assert events[-1] == Finished(FinishReason.TOOL_CALLS)
    events = await collect(world.backend(), asked)
    assert (text(events), events[-1]) == ('{"city": "Rome"}', Finished(FinishReason.STOP))
