"""The real langchain-openai package against a served clinvk."""

from collections.abc import AsyncIterator

import pytest
from langchain_openai import ChatOpenAI

from clinvk.events import Finished, FinishReason, TextDelta, Usage
from clinvk.server.app import create_app
from clinvk.turn import Role
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.serving import API, serving


@pytest.fixture
def backend() -> ScriptBackend:
    return ScriptBackend()


@pytest.fixture
async def address(backend: ScriptBackend) -> AsyncIterator[str]:
    async with serving(create_app(script_config(), build=builder(backend))) as url:
        yield url + API


async def test_invoke_and_history(address: str, backend: ScriptBackend) -> None:
    model = ChatOpenAI(model="fake", base_url=address, api_key="unused", temperature=0.3)
    answer = await model.ainvoke(
        [("system", "be brief"), ("human", "a"), ("ai", "b"), ("human", "c")]
    )
    assert answer.text == "Hello world"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == 5
    assert answer.response_metadata["finish_reason"] == "stop"
    (turn, _) = backend.turns[0]
    assert [m.role for m in turn.messages] == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER]


async def test_stream_with_usage(address: str, backend: ScriptBackend) -> None:
    backend.script = (
        TextDelta("a"),
        TextDelta("b"),
        Usage(2, 1),
        Finished(FinishReason.STOP),
    )
    model = ChatOpenAI(model="fake", base_url=address, api_key="unused", stream_usage=True)
    chunks = [chunk async for chunk in model.astream("hi")]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert whole.text == "ab"
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["total_tokens"] == 3


async def test_max_tokens_and_stop_reach_the_turn(address: str, backend: ScriptBackend) -> None:
    model = ChatOpenAI(
        model="fake", base_url=address, api_key="unused", max_completion_tokens=1, stop=["x"]
    )
    answer = await model.ainvoke("hi")
    assert answer.text == "Hello"
    assert answer.response_metadata["finish_reason"] == "length"
    assert backend.turns[0][0].limits.stop == ("x",)
