"""An agent on langchain-openai, over chat and responses, with the real CLIs."""

from collections.abc import AsyncIterator
from typing import Any

import anyio.to_thread
import pytest
import pytest_asyncio
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.fakes.api import Reply
from tests.real.bridge import Bridge
from tests.real.tool_loop import (
    ANSWER,
    BACKENDS,
    QUESTION,
    Tools,
    check_loop,
    of_json,
    play,
    serve,
    turns,
)

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


class Place(BaseModel):
    """Where it is."""

    city: str
    people: int


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BACKENDS)
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bridge]:
    async with serve(request.param, tmp_path_factory.mktemp("langchain")) as made:
        yield made


def chat(served: Bridge, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model=served.name, base_url=served.url, api_key="unused", max_retries=0, **options
    )


async def streamed(model: Any, messages: list[BaseMessage]) -> AIMessage:
    whole: AIMessageChunk | None = None
    async for chunk in model.astream(messages):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    return whole


async def at_once(model: Any, messages: list[BaseMessage]) -> AIMessage:
    answer: AIMessage = await model.ainvoke(messages)
    return answer


async def in_a_thread(model: Any, messages: list[BaseMessage]) -> AIMessage:
    answer: AIMessage = await anyio.to_thread.run_sync(model.invoke, messages)
    return answer


@pytest.mark.parametrize("ask", [streamed, at_once, in_a_thread])
@pytest.mark.parametrize("over", ["chat", "responses"])
async def test_a_loop_over_tools(served: Bridge, over: str, ask: Any) -> None:
    play(served)
    tools = Tools()
    offered = {made.name: made for made in (tool(tools.get_weather), tool(tools.get_time))}
    model = chat(served, use_responses_api=over == "responses").bind_tools(list(offered.values()))
    messages: list[BaseMessage] = [HumanMessage(QUESTION)]
    while True:
        answer = await ask(model, messages)
        messages.append(answer)
        if not answer.tool_calls:
            break
        messages += [await offered[call["name"]].ainvoke(call) for call in answer.tool_calls]
    tools.check()
    check_loop(served)
    assert answer.text == ANSWER


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_an_answer_is_made_a_model_class(served: Bridge, method: Any) -> None:
    value = {"city": "Rome", "people": 3}
    called = Reply(text=(), tool_calls=(("Place", value),))
    said = Reply(text=('{"city": "Rome", "people": 3}',))
    as_json = said if method == "json_mode" and served.name == "codex" else of_json(served, value)
    play(served, calling=called if method == "function_calling" else as_json)
    model = chat(served).with_structured_output(Place, method=method)
    assert await model.ainvoke("Answer in JSON: where?") == Place(city="Rome", people=3)
    assert len(turns(served)) == 1
