"""OpenAI's client with tools, images and JSON, over HTTP, on the real Claude Code."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError
from pydantic import BaseModel

from tests.fakes.anthropic import FakeAnthropic
from tests.fakes.api import Reply
from tests.real.bridge import Bridge, bridge

pytestmark = pytest.mark.real

PIXEL = "data:image/gif;base64,R0lGODdhAgACAIEAAP8AAAAAAAAAAAAAACwAAAAAAgACAAAIBgABCAQQEAA7"
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALLS = (("get_weather", {"city": "Paris"}), ("get_weather", {"city": "Rome"}))


class City(BaseModel):
    name: str
    people: int | None


@pytest.fixture(autouse=True)
def environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No login and no folder of the machine's is used."""
    for name in os.environ:
        if name.startswith(("ANTHROPIC_", "CLAUDE", "XDG_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture
async def claude(home: Path) -> AsyncIterator[Bridge]:
    async with bridge("claude", home) as made:
        yield made


def client(served: Bridge) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=served.url, api_key="unused", max_retries=0)


def fake_of(served: Bridge) -> FakeAnthropic:
    assert isinstance(served.fake, FakeAnthropic)
    return served.fake


async def test_a_loop_over_tools_ends_on_another_server(home: Path) -> None:
    messages: list[Any] = [{"role": "user", "content": "Paris or Rome?"}]
    tools: Any = [WEATHER]
    async with bridge("claude", home) as served, client(served) as openai:
        served.fake.answer(Reply(text=("Let me see.",), tool_calls=CALLS))
        async with openai.chat.completions.stream(
            model="claude", messages=messages, tools=tools
        ) as stream:
            (choice,) = (await stream.get_final_completion()).choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    calls = choice.message.tool_calls or []
    assert [call.function.arguments for call in calls] == ['{"city": "Paris"}', '{"city": "Rome"}']
    messages.append(choice.message.model_dump(exclude_none=True))
    messages += [{"role": "tool", "tool_call_id": c.id, "content": f"{c.id}: sun"} for c in calls]
    async with bridge("claude", home) as served, client(served) as openai:
        done = await openai.chat.completions.create(model="claude", messages=messages, tools=tools)
        sent = fake_of(served).body["messages"]
    assert done.choices[0].message.content == "Hello from the fake."
    results = [(b["tool_use_id"], b["content"]) for b in sent[-1]["content"]]
    assert results == [("toolu_0", "toolu_0: sun"), ("toolu_1", "toolu_1: sun")]


async def test_json_is_parsed_by_the_client(claude: Bridge) -> None:
    claude.fake.answer(
        Reply(text=("Sure.",), tool_calls=(("StructuredOutput", {"name": "Rome", "people": None}),))
    )
    async with client(claude) as openai:
        done = await openai.chat.completions.parse(
            model="claude",
            messages=[{"role": "user", "content": "Name a city."}],
            response_format=City,
        )
    assert done.choices[0].message.parsed == City(name="Rome", people=None)
    (tool,) = fake_of(claude).body["tools"]
    assert tool["input_schema"]["properties"]["people"]["anyOf"] == [
        {"type": "integer"},
        {"type": "null"},
    ]


async def test_an_image_is_sent_on(claude: Bridge) -> None:
    content: Any = [{"type": "image_url", "image_url": {"url": PIXEL, "detail": "low"}}]
    async with client(claude) as openai:
        await openai.chat.completions.create(
            model="claude", messages=[{"role": "user", "content": content}]
        )
    (message,) = fake_of(claude).body["messages"]
    assert message["content"][-1]["source"]["media_type"] == "image/gif"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 3}}}]},
            "tools[0].function.parameters",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "array"}},
                }
            },
            "response_format",
        ),
    ],
)
async def test_what_claude_cannot_take_is_a_400(
    claude: Bridge, asked: dict[str, Any], param: str
) -> None:
    async with client(claude) as openai:
        with pytest.raises(BadRequestError) as caught:
            await openai.chat.completions.create(
                model="claude", messages=[{"role": "user", "content": "hi"}], **asked
            )
    assert caught.value.param == param
    assert not claude.fake.requests
