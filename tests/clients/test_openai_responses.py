"""The real openai and langchain-openai packages, over the Responses API of a served clinvk."""

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI
from pydantic import BaseModel

from clinvk.config import StoreConfig
from clinvk.errors import CliCrashedError
from clinvk.events import Finished, FinishReason, ReasoningDelta, TextDelta, ToolCall, Usage
from clinvk.server.app import create_app
from clinvk.turn import OutputFormat, PriorCall, Role
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.serving import API, serving

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Tell the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = (
    ReasoningDelta("Where?"),
    ToolCall("call_1", "weather", '{"city": "Oslo"}'),
    Usage(4, 3),
    Finished(FinishReason.TOOL_CALLS),
)


class City(BaseModel):
    name: str


@pytest.fixture
def backend() -> ScriptBackend:
    return ScriptBackend()


@pytest.fixture
async def address(backend: ScriptBackend) -> AsyncIterator[str]:
    config = script_config()
    server = config.server.model_copy(update={"store": StoreConfig(path=":memory:")})
    config = config.model_copy(update={"server": server})
    async with serving(create_app(config, build=builder(backend))) as url:
        yield url + API


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=address, api_key="unused", max_retries=0) as client:
        yield client


async def test_a_response(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="fake", input="hi", instructions="be brief")
    assert response.output_text == "Hello world"
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.total_tokens == 7
    assert response._request_id is not None


async def test_a_stream(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(model="fake", input="hi", stream=True)
    events = [event async for event in stream]
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    said = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert said == ["Hello", " world"]


async def test_the_stream_helper_builds_the_whole_response(
    client: AsyncOpenAI, backend: ScriptBackend
) -> None:
    backend.script = (ReasoningDelta("Hm."), TextDelta("Let me see."), *CALL[1:])
    async with client.responses.stream(model="fake", input="hi") as stream:
        kinds = [event.type async for event in stream]
        response = await stream.get_final_response()
    assert kinds[-1] == "response.completed"
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert response.output_text == "Let me see."


async def test_the_helper_parses_an_answer_of_a_schema(
    client: AsyncOpenAI, backend: ScriptBackend
) -> None:
    backend.script = (TextDelta('{"name": "Oslo"}'), Finished(FinishReason.STOP))
    parsed = await client.responses.parse(model="fake", input="hi", text_format=City)
    assert parsed.output_parsed == City(name="Oslo")
    asked = backend.turns[0][0].format
    assert isinstance(asked, OutputFormat)
    assert (asked.name, asked.strict) == ("City", True)


async def test_a_conversation_is_kept_read_and_deleted(
    client: AsyncOpenAI, backend: ScriptBackend
) -> None:
    first = await client.responses.create(model="fake", input="hi")
    second = await client.responses.create(
        model="fake", input="more", previous_response_id=first.id
    )
    assert [m.text for m in backend.turns[1][0].messages] == ["hi", "Hello world", "more"]
    assert (await client.responses.retrieve(second.id)).output_text == "Hello world"
    items = [item async for item in client.responses.input_items.list(second.id, order="asc")]
    assert [item.type for item in items] == ["message", "message", "message"]
    pages = client.responses.input_items.list(second.id, order="asc", limit=1)
    assert [item async for item in pages] == items
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(model="fake", input="x", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"
    with pytest.raises(openai.BadRequestError, match="synchronous"):
        await client.responses.cancel(second.id)


async def test_a_tool_is_called_and_its_result_comes_back(
    client: AsyncOpenAI, backend: ScriptBackend
) -> None:
    backend.script = CALL
    first = await client.responses.create(model="fake", input="weather?", tools=[WEATHER])
    call = first.output[-1]
    assert call.type == "function_call"
    backend.script = (TextDelta("rain"), Finished(FinishReason.STOP))
    history: list[Any]
    history = [{"role": "user", "content": "weather?"}, *(i.to_dict() for i in first.output)]
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "rainy"}
    second = await client.responses.create(
        model="fake", input=[*history, result], tools=[WEATHER], store=False
    )
    assert second.output_text == "rain"
    messages = backend.turns[1][0].messages
    assert [m.role for m in messages] == [Role.USER, Role.ASSISTANT, Role.TOOL]
    assert messages[1].calls == (PriorCall("call_1", "weather", '{"city": "Oslo"}'),)
    assert messages[2].call_id == "call_1"


async def test_a_failure_in_the_stream_is_told(client: AsyncOpenAI, backend: ScriptBackend) -> None:
    backend.script = (TextDelta("a"), CliCrashedError("it died"))
    stream = await client.responses.create(model="fake", input="hi", stream=True)
    *_, last = [event async for event in stream]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "it died"


async def test_langchain_answers_streams_and_goes_on(address: str, backend: ScriptBackend) -> None:
    model = ChatOpenAI(
        model="fake",
        base_url=address,
        api_key="unused",
        use_responses_api=True,
        use_previous_response_id=True,
    )
    answer = await model.ainvoke([("system", "be brief"), ("human", "hi")])
    assert answer.text == "Hello world"
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["total_tokens"] == 7
    chunks = [chunk async for chunk in model.astream("hi")]
    assert "".join(chunk.text for chunk in chunks) == "Hello world"
    await model.ainvoke([HumanMessage("hi"), answer, HumanMessage("more")])
    assert [m.text for m in backend.turns[-1][0].messages] == [
        "be brief",
        "hi",
        "Hello world",
        "more",
    ]


async def test_langchain_calls_tools(address: str, backend: ScriptBackend) -> None:
    backend.script = CALL
    model = ChatOpenAI(
        model="fake", base_url=address, api_key="unused", use_responses_api=True
    ).bind_tools([WEATHER])
    asked = HumanMessage("weather?")
    whole = await model.ainvoke([asked])
    chunks = [chunk async for chunk in model.astream([asked])]
    streamed: Any = chunks[0]  # by LangChain's types, messages add up to a prompt
    for chunk in chunks[1:]:
        streamed += chunk
    for message in (whole, streamed):
        assert [(c["name"], c["args"]) for c in message.tool_calls] == [
            ("weather", {"city": "Oslo"})
        ]
    await model.ainvoke([asked, whole, ToolMessage("rainy", tool_call_id="call_1")])
    messages = backend.turns[-1][0].messages
    assert [m.role for m in messages] == [Role.USER, Role.ASSISTANT, Role.TOOL]
    assert messages[1].calls[0].id == messages[2].call_id == "call_1"
