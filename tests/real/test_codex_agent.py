"""An agent on the openai package, clinvk, the real Codex CLI, and a fake of its API."""

import json
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, InternalServerError
from pydantic import BaseModel

from tests.fakes.api import Reply
from tests.real.bridge import Bridge, bridge, clean_environment
from tests.test_media import PNG

pytestmark = pytest.mark.real

HI: Any = [{"role": "user", "content": "hi"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "get_time", "description": "The time"}},
]


class Place(BaseModel):
    city: str
    country: str | None


@pytest.fixture
async def served(home: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bridge]:
    clean = clean_environment(home)
    for name in os.environ:
        if not name.startswith(("PYTEST_", "COV")):
            monkeypatch.delenv(name)
    for name, value in clean.items():
        monkeypatch.setenv(name, value)
    (home.parent / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", clean["TMPDIR"])
    async with bridge("codex", home) as running:
        yield running


@pytest.fixture
async def client(served: Bridge) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=served.url, api_key="unused", max_retries=0) as opened:
        yield opened


async def test_an_agent_calls_two_tools_at_once_and_answers(
    served: Bridge, client: AsyncOpenAI
) -> None:
    served.fake.answer(
        Reply(
            text=("Let me see.",),
            tool_calls=(("get_weather", {"city": "Rome"}), ("get_time", {})),
        ),
        Reply(text=("Sunny, ", "at noon.")),
    )
    stream = await client.chat.completions.create(
        model="codex/m", messages=HI, tools=TOOLS, stream=True
    )
    calls: dict[int, dict[str, str]] = {}
    said, reason = "", None
    async for chunk in stream:
        for choice in chunk.choices:
            said += choice.delta.content or ""
            reason = choice.finish_reason or reason
            for call in choice.delta.tool_calls or ():
                made = calls.setdefault(call.index, {"id": "", "name": "", "arguments": ""})
                made["id"] += call.id or ""
                if call.function is not None:
                    made["name"] += call.function.name or ""
                    made["arguments"] += call.function.arguments or ""
    assert (said, reason) == ("Let me see.", "tool_calls")
    assert [(c["name"], json.loads(c["arguments"])) for c in calls.values()] == [
        ("get_weather", {"city": "Rome"}),
        ("get_time", {}),
    ]
    functions = [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }
        for call in calls.values()
    ]
    history: Any = [
        *HI,
        {"role": "assistant", "content": said, "tool_calls": functions},
        *({"role": "tool", "tool_call_id": c["id"], "content": "ok"} for c in calls.values()),
    ]
    whole = await client.chat.completions.create(model="codex/m", messages=history, tools=TOOLS)
    assert whole.choices[0].message.content == "Sunny, at noon."
    assert whole.choices[0].finish_reason == "stop"
    assert [item["type"] for item in served.fake.requests[-1].body["input"]] == [
        *("message", "message", "function_call", "function_call"),
        *("function_call_output", "function_call_output"),
    ]


async def test_a_model_class_is_filled(served: Bridge, client: AsyncOpenAI) -> None:
    served.fake.answer(Reply(text=('{"city": "Rome", ', '"country": null}')))
    parsed = await client.chat.completions.parse(model="codex", messages=HI, response_format=Place)
    assert parsed.choices[0].message.parsed == Place(city="Rome", country=None)
    told = served.fake.requests[-1].body["text"]["format"]
    assert told["schema"]["properties"].keys() == {"city", "country"}


async def test_an_answer_that_is_no_json_is_an_error(served: Bridge, client: AsyncOpenAI) -> None:
    served.fake.answer(Reply(text=("Sorry",)))
    with pytest.raises(InternalServerError) as caught:
        await client.chat.completions.create(
            model="codex", messages=HI, response_format={"type": "json_object"}
        )
    assert (caught.value.status_code, caught.value.code) == (502, "invalid_answer")
    assert len(served.fake.requests) == 2


async def test_an_image_is_seen_and_an_address_is_refused_by_its_path(
    served: Bridge, client: AsyncOpenAI
) -> None:
    def asked(url: str) -> Any:
        image = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
        return [{"role": "user", "content": [{"type": "text", "text": "what?"}, image]}]

    url = f"data:image/png;base64,{PNG}"
    await client.chat.completions.create(model="codex", messages=asked(url))
    assert served.fake.requests[-1].body["input"][-1]["content"][1]["image_url"] == url
    with pytest.raises(BadRequestError, match="data URL") as caught:
        await client.chat.completions.create(model="codex", messages=asked("https://h/a.png"))
    assert caught.value.param == "messages[0].content[1]"
