"""Agents of openai-agents, with tools and handing over, with the real CLIs."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)
from openai import AsyncOpenAI

from tests.fakes.api import Reply
from tests.real.bridge import Bridge
from tests.real.tool_loop import (
    ANSWER,
    ANSWERING,
    BACKENDS,
    CALLING,
    QUESTION,
    Heard,
    Tools,
    check_loop,
    play,
    play_by,
    serve,
    turns,
)

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

UNTRACED = RunConfig(tracing_disabled=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BACKENDS)
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bridge]:
    async with serve(request.param, tmp_path_factory.mktemp("agents")) as made:
        yield made


@pytest_asyncio.fixture(
    loop_scope="module", params=[OpenAIChatCompletionsModel, OpenAIResponsesModel]
)
async def model(request: pytest.FixtureRequest, served: Bridge) -> AsyncIterator[Any]:
    async with AsyncOpenAI(base_url=served.url, api_key="unused", max_retries=0) as client:
        yield request.param(model=served.name, openai_client=client)


def agent(model: Any, tools: Tools, **options: Any) -> Agent[None]:
    offered: list[Any] = [function_tool(tools.get_weather), function_tool(tools.get_time)]
    return Agent(name="Guide", instructions="Be brief.", model=model, tools=offered, **options)


async def test_a_loop_over_tools(served: Bridge, model: Any) -> None:
    play(served)
    tools = Tools()
    result = await Runner.run(agent(model, tools), QUESTION, run_config=UNTRACED)
    assert result.final_output == ANSWER
    tools.check()
    check_loop(served)


async def test_a_streamed_loop_that_must_begin_with_a_tool(served: Bridge, model: Any) -> None:
    play(served)
    tools = Tools()
    settings = ModelSettings(tool_choice="required", parallel_tool_calls=True)
    made = agent(model, tools, model_settings=settings)
    result = Runner.run_streamed(made, QUESTION, run_config=UNTRACED)
    said = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    assert "".join(said).endswith(ANSWER)
    assert result.final_output == ANSWER
    tools.check()
    check_loop(served, course="replayed")  # no call is required the second time


async def test_one_agent_hands_over_to_another(served: Bridge, model: Any) -> None:
    tools = Tools()
    guide = agent(model, tools)
    desk = Agent(name="Desk", instructions="Hand over.", model=model, handoffs=[guide])

    def answer(asked: Heard) -> Reply:
        if not asked.results:
            return Reply(text=(), tool_calls=(("transfer_to_guide", {}),))
        return CALLING if len(asked.results) == 1 else ANSWERING

    play_by(served, answer)
    result = await Runner.run(desk, QUESTION, run_config=UNTRACED)
    assert (result.final_output, result.last_agent) == (ANSWER, guide)
    tools.check()
    first, second, last = turns(served)
    assert first.tools.keys() == {"transfer_to_guide"}
    assert second.tools.keys() == last.tools.keys() == {"get_weather", "get_time"}
    assert [name for name, _, _ in last.exchange] == [
        *("transfer_to_guide", "get_weather", "get_time")
    ]
