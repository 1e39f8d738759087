"""An agent on the openai package, over chat and responses, with the real CLIs."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from tests.real.bridge import Bridge
from tests.real.tool_loop import (
    ANSWER,
    BACKENDS,
    CITY,
    QUESTION,
    ZONE,
    Tools,
    check_loop,
    play,
    serve,
    turns,
)

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

ASKED: Any = [{"role": "user", "content": QUESTION}]
FUNCTIONS: Any = [
    {"name": "get_weather", "description": "The weather", "parameters": CITY},
    {"name": "get_time", "description": "The time", "parameters": ZONE},
]
CHAT_TOOLS: Any = [{"type": "function", "function": function} for function in FUNCTIONS]
RESPONSE_TOOLS: Any = [{"type": "function", "strict": False, **f} for f in FUNCTIONS]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BACKENDS)
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bridge]:
    async with serve(request.param, tmp_path_factory.mktemp("openai")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def client(served: Bridge) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=served.url, api_key="unused", max_retries=0) as opened:
        yield opened


def run(tools: Tools, name: str, arguments: str) -> str:
    result: str = getattr(tools, name)(**json.loads(arguments))
    return result


async def test_a_streamed_loop_over_chat(served: Bridge, client: AsyncOpenAI) -> None:
    play(served)
    tools, messages = Tools(), list(ASKED)
    said = ""
    while messages[-1]["role"] != "assistant":
        async with client.chat.completions.stream(
            model=served.name, messages=messages, tools=CHAT_TOOLS
        ) as stream:
            async for event in stream:
                if event.type == "content.delta":
                    said += event.delta
            (choice,) = (await stream.get_final_completion()).choices
        messages.append(choice.message.model_dump(exclude_none=True, exclude={"parsed"}))
        for call in choice.message.tool_calls or ():
            result = run(tools, call.function.name, call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    tools.check()
    check_loop(served)
    assert said == f"Let me see.{ANSWER}"
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize("remembers", [True, False], ids=["previous", "items"])
async def test_a_streamed_loop_over_responses(
    served: Bridge, client: AsyncOpenAI, remembers: bool
) -> None:
    play(served)
    tools, history, previous = Tools(), list(ASKED), None
    while True:
        async with client.responses.stream(
            model=served.name,
            input=history,
            tools=RESPONSE_TOOLS,
            previous_response_id=previous,
        ) as stream:
            _ = [event async for event in stream]
            response = await stream.get_final_response()
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            break
        history = [] if remembers else [*history, *response.output]
        previous = response.id if remembers else None
        for call in calls:
            result = run(tools, call.name, call.arguments)
            history.append(
                {"type": "function_call_output", "call_id": call.call_id, "output": result}
            )
    tools.check()
    check_loop(served)
    assert response.output_text == ANSWER


async def test_a_named_tool_is_the_one_that_is_called(served: Bridge, client: AsyncOpenAI) -> None:
    play(served)
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    made = await client.chat.completions.create(
        model=served.name,
        messages=ASKED,
        tools=CHAT_TOOLS,
        tool_choice=choice,
        parallel_tool_calls=False,
    )
    calls = made.choices[0].message.tool_calls or []
    assert [c.function.name for c in calls if c.type == "function"] == ["get_weather"]
    assert made.choices[0].finish_reason == "tool_calls"
    assert len(turns(served)) == 1
