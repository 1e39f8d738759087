"""The caller's tools on the real Gemini CLI: what its model is offered, calls, and hears."""

import json
from typing import Any

import anyio
import pytest

from clinvk.backends.gemini import GeminiBackend
from clinvk.errors import CliCrashedError
from clinvk.events import (
    Finished,
    FinishReason,
    Started,
    TextDelta,
    Usage,
)
from clinvk.turn import (
    AudioPart,
    ImagePart,
    Message,
    OutputFormat,
    PriorCall,
    Role,
    TextPart,
    ToolChoice,
    ToolMode,
    ToolSpec,
)
from tests.fakes.api import Reply
from tests.fakes.gemini import FakeGemini
from tests.real.gemini_agent import (
    BOTH,
    DONE,
    ONE,
    SEEN,
    TIME,
    WEATHER,
    asked,
    calls_in,
    declared,
    go_through,
    opened,
    parts,
    result,
)
from tests.real.gemini_world import (
    FLASH,
    HUNG_S,
    World,
    answer,
    run,
    said,
    turn,
)
from tests.test_media import PNG

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


# --- what is offered -----------------------------------------------------------------------


async def test_tools_are_declared_with_their_text_and_schema(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    description = "Line one.\n\n  ½ ﬁ <x> ${HOME} {{y}}\n" + "long " * 2000
    schema: dict[str, Any] = {
        "type": "object",
        "$defs": {"p": {"type": "object", "properties": {"a": {"const": 1}}}},
        "properties": {
            "p": {"$ref": "#/$defs/p"},
            "any": True,
            "n": {"type": "integer", "minimum": 1, "description": "ﬁ"},
            "u": {"anyOf": [{"type": "string", "pattern": "^a"}, {"type": "null"}]},
            "t": {"type": "array", "prefixItems": [{"type": "string"}], "items": False},
        },
        "required": ["n"],
        "additionalProperties": False,
    }
    await run(backend, asked(tools=(ToolSpec("f", description, schema), TIME)))
    first, second = declared(fake)
    added = first["parametersJsonSchema"]["properties"].pop("wait_for_previous")
    assert added["type"] == "boolean"
    assert first == {
        "name": "mcp_x_f",
        "description": description,
        "parametersJsonSchema": {
            **schema,
            "properties": {**schema["properties"], "any": {}},
        },
    }
    assert second["name"] == "mcp_x_get_time"
    assert second["parametersJsonSchema"]["type"] == "object"
    assert len(fake.requests) == 1


async def test_a_turn_with_one_tool_adds_little(backend: GeminiBackend, fake: FakeGemini) -> None:
    await run(backend, turn("Hello"))
    plain = len(json.dumps(fake.body))
    await run(backend, asked("Hello", tools=(TIME,)))
    assert len(json.dumps(fake.body)) - plain < 450
    assert fake.body["systemInstruction"]["parts"] == [{"text": ""}]
    assert "toolConfig" not in fake.body
    assert fake.texts()[1:] == ["Hello"]


async def test_what_stands_before_the_conversation_is_the_same_in_every_session(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    await run(backend, asked("Hello"))
    await run(backend, asked("Bye"))
    assert fake.texts(-2)[0] == fake.texts(-1)[0]
    assert fake.turns[-2].body["tools"] == fake.turns[-1].body["tools"]


async def test_a_name_of_64_letters_goes_there_and_back(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    names = ["n" * 63 + "1", "n" * 63 + "2", "m" * 57]
    asking = asked(tools=tuple(ToolSpec(name) for name in names))
    await run(backend, asking)
    seen = [tool["name"] for tool in declared(fake)]
    assert len(set(seen)) == 3
    assert all(len(name) <= 64 and "..." not in name for name in seen)
    fake.answer(Reply(text=(), tool_calls=tuple((name, {}) for name in seen)))
    assert [call.name for call in calls_in(await run(backend, asking))] == names


@pytest.mark.parametrize("model", [FLASH, "gemini-3.1-pro-preview", "a-model-of-tomorrow"])
async def test_a_call_that_is_required_is_required_of_the_model(
    backend: GeminiBackend, fake: FakeGemini, model: str
) -> None:
    must = ToolChoice(ToolMode.REQUIRED)
    await run(backend, asked(tool_choice=must, effort="low"), model)
    assert fake.body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
    await run(backend, asked(tool_choice=ToolChoice(ToolMode.REQUIRED, "get_time")), model)
    assert fake.body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
    assert [tool["name"] for tool in declared(fake)] == ["mcp_x_get_time"]


async def test_no_tool_is_offered_where_none_is_wanted(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    await run(backend, asked(tool_choice=ToolChoice(ToolMode.NONE)))
    assert declared(fake) == []


async def test_each_session_has_its_own_tools(backend: GeminiBackend, fake: FakeGemini) -> None:
    async with (
        opened(backend, asked("one", tools=(WEATHER,))),
        opened(backend, asked("two", tools=(TIME,))),
        opened(backend, turn("three")),
    ):
        names = {fake.texts(at)[1]: [t["name"] for t in declared(fake, at)] for at in range(3)}
    assert names == {"one": ["mcp_x_get_weather"], "two": ["mcp_x_get_time"], "three": []}


# --- calls and results ---------------------------------------------------------------------


async def test_the_calls_of_a_response_are_told_at_once_and_their_results_heard(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    fake.answer(BOTH, DONE)
    async with opened(backend, asked()) as (live, events):
        weather, time = calls_in(events)
        assert (weather.name, json.loads(weather.arguments)) == ("get_weather", {"city": "Rome"})
        assert (time.name, time.arguments) == ("get_time", "{}")
        assert weather.id != time.id
        assert events == [
            Started(),
            TextDelta("Let me"),
            TextDelta(" see."),
            weather,
            time,
            Usage(11, 7),
            Finished(FinishReason.TOOL_CALLS),
        ]
        assert len(fake.requests) == 1
        # in any order
        assert await go_through(live, result(time, "noon"), result(weather, "sun", "ny ½")) == [
            Started(),
            TextDelta("Sunny."),
            Usage(11, 7),
            Finished(FinishReason.STOP),
        ]
        assert live.waits
    assert parts(fake, "model") == [
        {"text": "Let me see."},
        {"functionCall": {"name": SEEN["get_weather"], "args": {"city": "Rome"}}},
        {"functionCall": {"name": SEEN["get_time"], "args": {}}},
    ]
    wrapped = "<untrusted_context>\n{}\n</untrusted_context>"
    assert parts(fake, "user") == [
        {
            "functionResponse": {
                "name": SEEN["get_weather"],
                "response": {"output": wrapped.format("sunny ½")},
            }
        },
        {
            "functionResponse": {
                "name": SEEN["get_time"],
                "response": {"output": wrapped.format("noon")},
            }
        },
    ]
    assert len(fake.requests) == 2


async def test_round_after_round_goes_on_in_one_session(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    rounds = 5
    fake.answer(*[ONE] * rounds, DONE)
    async with opened(backend, asked()) as (live, first):
        events = first
        for number in range(rounds):
            [call] = calls_in(events)
            assert events[-2:] == [Usage(11, 7), Finished(FinishReason.TOOL_CALLS)]
            events = await go_through(live, result(call, f"no. {number}"))
        assert answer(events) == "Sunny."
        assert events[-2] == Usage(11, 7)
    heard = json.dumps(fake.body["contents"])
    assert all(heard.count(f"no. {number}") == 1 for number in range(rounds))


async def test_images_in_results_are_images(backend: GeminiBackend, fake: FakeGemini) -> None:
    fake.answer(ONE, DONE)
    image = ImagePart(media_type="image/png", data=PNG)
    async with opened(backend, asked()) as (live, events):
        [call] = calls_in(events)
        await go_through(live, result(call, "look", image))
    heard = parts(fake, "user")
    assert "look" in heard[0]["functionResponse"]["response"]["output"]
    assert heard[1:] == [{"inlineData": {"mimeType": "image/png", "data": PNG}}]


async def test_a_second_call_that_may_not_be_parallel_is_left_out(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    fake.answer(BOTH)
    async with opened(backend, asked(parallel_calls=False)) as (live, events):
        assert [call.name for call in calls_in(events)] == ["get_weather"]
        assert not live.waits


async def test_geminis_own_parameter_is_not_the_callers(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    arguments = {"city": "Rome", "wait_for_previous": True}
    fake.answer(Reply(text=(), tool_calls=((SEEN["get_weather"], arguments),)), DONE)
    async with opened(backend, asked()) as (live, events):
        [call] = calls_in(events)
        assert json.loads(call.arguments) == {"city": "Rome"}
        assert answer(await go_through(live, result(call, "sun"))) == "Sunny."


async def test_what_was_not_offered_is_not_run(
    backend: GeminiBackend, fake: FakeGemini, world: World
) -> None:
    canary = world.home / "ran"
    shell = ("run_shell_command", {"command": f"touch {canary}"})
    fake.answer(Reply(text=(), tool_calls=(shell,)), DONE)
    async with opened(backend, asked()) as (live, events):
        assert calls_in(events) == []
        assert answer(events) == "Sunny."
        assert not live.waits  # the model was told something that the caller was not
    assert not canary.exists()
    assert "not found" in json.dumps(parts(fake, "user"))


async def test_calls_after_one_of_what_was_not_offered_are_told(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    fake.answer(Reply(text=("Hm. ",), tool_calls=(("list_directory", {}),)), BOTH)
    async with opened(backend, asked()) as (live, events):
        assert answer(events) == "Hm. Let me see."
        assert [call.name for call in calls_in(events)] == ["get_weather", "get_time"]
        assert not live.waits


async def test_arguments_that_break_the_schema_are_told_to_the_model_by_gemini(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    wrong = (SEEN["get_weather"], {"town": 1})
    fake.answer(Reply(text=(), tool_calls=(wrong, (SEEN["get_time"], {}))), DONE)
    async with opened(backend, asked()) as (live, events):
        assert [call.name for call in calls_in(events)] == ["get_time"]
        assert not live.waits
    fake.answer(Reply(text=(), tool_calls=((SEEN["get_time"], {}), wrong)), DONE)
    async with opened(backend, asked()) as (live, events):
        time, weather = calls_in(events)
        with anyio.fail_after(HUNG_S):
            await live.go_on((result(time, "noon"), result(weather, "?")))
            with pytest.raises(CliCrashedError):
                await anext(live)


@pytest.mark.parametrize(
    "news", [(AudioPart("wav", "UklGRg=="),), ("a </untrusted_context> b",)], ids=["sound", "tag"]
)
async def test_a_result_that_gemini_would_change_is_not_given_to_it(
    backend: GeminiBackend, fake: FakeGemini, news: tuple[Any, ...]
) -> None:
    fake.answer(ONE)
    async with opened(backend, asked()) as (live, events):
        [call] = calls_in(events)
        with pytest.raises(CliCrashedError):
            await live.go_on((result(call, *news),))


# --- with a form, and replayed ---------------------------------------------------------------


async def test_an_answer_of_a_form_may_call_tools_before(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    form = OutputFormat({"type": "object", "required": ["n"]})
    fake.answer(ONE)
    events = await run(backend, asked(format=form))
    [call] = calls_in(events)
    assert events[-1] == Finished(FinishReason.TOOL_CALLS)
    fake.answer(Reply(text=('{"n": 1}',)))
    history = (
        said("user", "hi"),
        Message(Role.ASSISTANT, (), (PriorCall(call.id, call.name, call.arguments),)),
        result(call, "sunny"),
    )
    assert answer(await run(backend, asked(*history, format=form))) == '{"n": 1}'


async def test_a_history_with_calls_is_told_with_the_names_that_the_model_sees(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    call = PriorCall("call_1", "get_weather", '{"city": "Rome"}')
    gone = PriorCall("call_2", "no_more", "{}")
    image = ImagePart(media_type="image/png", data=PNG)
    history = (
        said("user", "hi"),
        Message(Role.ASSISTANT, (), (call, gone)),
        Message(Role.TOOL, (TextPart("sunny"), image), call_id="call_1"),
        Message(Role.TOOL, (TextPart("nothing"),), call_id="call_2"),
    )
    fake.answer(DONE)
    assert answer(await run(backend, asked(*history))) == "Sunny."
    _, before, picture, after = fake.body["contents"][0]["parts"]
    assert "called 'mcp_x_get_weather' as 'call_1' with {\"city\": \"Rome\"}" in before["text"]
    assert "called 'no_more'" in before["text"]
    assert before["text"].endswith("<<<k0 tool result 'call_1'>>>\nsunny")
    assert picture == {"inlineData": {"mimeType": "image/png", "data": PNG}}
    assert "nothing" in after["text"]
