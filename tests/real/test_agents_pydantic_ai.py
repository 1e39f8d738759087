"""An agent on pydantic-ai, over chat and responses, with the real CLIs."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.fakes.api import Reply
from tests.real.bridge import Bridge
from tests.real.tool_loop import (
    ANSWER,
    BACKENDS,
    CALLS,
    QUESTION,
    Tools,
    check_loop,
    of_json,
    play,
    serve,
)

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

VALUE = {"sky": "sunny", "clock": "noon"}


class Forecast(BaseModel):
    """What it is like."""

    sky: str
    clock: str


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BACKENDS)
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bridge]:
    async with serve(request.param, tmp_path_factory.mktemp("pydantic")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", params=[OpenAIChatModel, OpenAIResponsesModel])
async def model(
    request: pytest.FixtureRequest, served: Bridge
) -> AsyncIterator[OpenAIChatModel | OpenAIResponsesModel]:
    async with AsyncOpenAI(base_url=served.url, api_key="unused", max_retries=0) as client:
        yield request.param(served.name, provider=OpenAIProvider(openai_client=client))


def course(model: OpenAIChatModel | OpenAIResponsesModel) -> str:
    """Over responses it sends the model's thinking back as something that the model said."""
    return "replayed" if isinstance(model, OpenAIResponsesModel) else "resumed"


async def test_a_loop_over_tools(
    served: Bridge, model: OpenAIChatModel | OpenAIResponsesModel
) -> None:
    play(served)
    tools = Tools()
    agent = Agent(model, tools=[tools.get_weather, tools.get_time])
    assert (await agent.run(QUESTION)).output == ANSWER
    tools.check()
    check_loop(served, course=course(model))


async def test_a_streamed_loop_over_tools(
    served: Bridge, model: OpenAIChatModel | OpenAIResponsesModel
) -> None:
    # It takes text for the answer, whatever is called after it.
    play(served, calling=Reply(text=(), tool_calls=CALLS))
    tools = Tools()
    agent = Agent(model, tools=[tools.get_weather, tools.get_time])
    async with agent.run_stream(QUESTION) as stream:
        said = [piece async for piece in stream.stream_text(delta=True, debounce_by=None)]
    assert "".join(said) == ANSWER
    tools.check()
    check_loop(served)


async def test_an_answer_by_a_tool_of_its_own_that_must_be_called(
    served: Bridge, model: OpenAIChatModel | OpenAIResponsesModel
) -> None:
    play(served, answering=Reply(text=(), tool_calls=(("final_result", VALUE),)))
    tools = Tools()
    agent = Agent(model, tools=[tools.get_weather, tools.get_time], output_type=Forecast)
    assert (await agent.run(QUESTION)).output == Forecast(**VALUE)
    tools.check()
    # What was demanded of codex's model is no part of the caller's history.
    went_on = "replayed" if served.name == "codex" else course(model)
    check_loop(served, "final_result", course=went_on)


async def test_an_answer_as_json(
    served: Bridge, model: OpenAIChatModel | OpenAIResponsesModel
) -> None:
    play(served, calling=of_json(served, VALUE))
    agent = Agent(model, output_type=NativeOutput(Forecast))
    assert (await agent.run(QUESTION)).output == Forecast(**VALUE)
