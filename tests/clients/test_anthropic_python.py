"""The real anthropic package against a served clinvk."""

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import anyio
import pytest
from anthropic import AsyncAnthropic
from anthropic.types import MessageParam, ToolParam

from clinvk.errors import CliCrashedError, NotLoggedInError, OverloadedError, RateLimitedError
from clinvk.events import Finished, FinishReason, ReasoningDelta, TextDelta, ToolCall, Usage
from clinvk.server.anthropic import PREFIX
from clinvk.server.app import create_app
from clinvk.turn import ImagePart, TextPart
from tests.fakes.backend import ScriptBackend, builder, script_config
from tests.serving import serving

HI: list[MessageParam] = [{"role": "user", "content": "hi"}]
ASKED: dict[str, Any] = {"model": "fake", "max_tokens": 100, "messages": HI}
TOOL: ToolParam = {"name": "f", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture
def backend() -> ScriptBackend:
    return ScriptBackend()


@pytest.fixture
async def client(backend: ScriptBackend) -> AsyncIterator[AsyncAnthropic]:
    async with (
        serving(create_app(script_config(), build=builder(backend))) as url,
        AsyncAnthropic(base_url=url + PREFIX, api_key="unused", max_retries=1) as client,
    ):
        yield client


async def test_a_message(client: AsyncAnthropic, backend: ScriptBackend) -> None:
    message = await client.messages.create(**ASKED, system="Be brief.")
    assert message.content[0].type == "text"
    assert message.content[0].text == "Hello world"
    assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 2)
    assert message._request_id is not None
    assert backend.turns[0][0].instructions == "Be brief."


async def test_the_stream_helper_builds_the_same_message(
    client: AsyncAnthropic, backend: ScriptBackend
) -> None:
    backend.script = (
        ReasoningDelta("hm"),
        TextDelta("a"),
        TextDelta("b"),
        ToolCall("c1", "f", '{"x": [1]}'),
        ToolCall("c2", "f", "{}"),
        Usage(7, 5, cached_tokens=3, reasoning_tokens=1),
        Finished(FinishReason.TOOL_CALLS),
    )
    thinking: dict[str, Any] = {"thinking": {"type": "adaptive"}, "tools": [TOOL]}
    whole = await client.messages.create(**ASKED, **thinking)
    async with client.messages.stream(**ASKED, **thinking) as stream:
        texts = [text async for text in stream.text_stream]
        built = await stream.get_final_message()
    assert texts == ["a", "b"]
    assert [block.type for block in built.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [b.input for b in built.content if b.type == "tool_use"] == [{"x": [1]}, {}]
    fields = {"content", "stop_reason", "stop_sequence", "usage", "role", "model"}
    assert built.model_dump(include=fields, exclude_none=True) == whole.model_dump(
        include=fields, exclude_none=True
    )
    assert (built.usage.input_tokens, built.usage.output_tokens) == (4, 5)


async def test_a_loop_over_tools_ends_with_the_answer(
    client: AsyncAnthropic, backend: ScriptBackend
) -> None:
    backend.script = (ToolCall("c1", "f", "{}"), Finished(FinishReason.TOOL_CALLS))
    first = await client.messages.create(**ASKED, tools=[TOOL], tool_choice={"type": "any"})
    backend.script = (TextDelta("done"), Finished(FinishReason.STOP))
    image: Any = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": "AA=="},
    }
    last = await client.messages.create(
        model="fake",
        max_tokens=100,
        tools=[TOOL],
        messages=[
            *HI,
            {"role": "assistant", "content": first.content},
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "c1",
                        "content": [{"type": "text", "text": "seen"}, image],
                    }
                ],
            },
        ],
    )
    assert last.content[0].type == "text"
    result = backend.turns[-1][0].messages[-1]
    assert result.call_id == "c1"
    assert result.parts == (TextPart("seen"), ImagePart(None, "image/png", "AA=="))


async def test_a_thread_is_refused_so_that_the_whole_conversation_comes(
    client: AsyncAnthropic, backend: ScriptBackend
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="whole conversation") as caught:
        await client.beta.messages.create(**ASKED, thread={"type": "create"})
    assert isinstance(caught.value.body, dict)
    details = {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}
    assert caught.value.body["error"]["details"] == details
    thread = client.beta.messages.thread(
        model="fake", max_tokens=100, unsupported_request_behavior="continue_unthreaded"
    )
    for text in ("a", "b"):
        await thread.send({"role": "user", "content": text})
    assert [len(turn.messages) for turn, _ in backend.turns] == [1, 3]


async def test_the_models(client: AsyncAnthropic) -> None:
    assert [model.id async for model in client.models.list()] == ["fake", "short"]
    assert (await client.models.retrieve("short")).type == "model"


async def test_a_count_of_tokens(client: AsyncAnthropic) -> None:
    counted = await client.messages.count_tokens(model="fake", messages=HI, tools=[TOOL])
    assert counted.input_tokens > 1


async def test_a_mistake_is_the_clients_own_exception(client: AsyncAnthropic) -> None:
    with pytest.raises(anthropic.BadRequestError, match="messages") as caught:
        await client.messages.create(model="fake", max_tokens=1, messages=[])
    assert caught.value.request_id is not None
    with pytest.raises(anthropic.NotFoundError) as missing:
        await client.messages.create(model="nope", max_tokens=1, messages=HI)
    assert isinstance(missing.value.body, dict)
    assert missing.value.body["error"]["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("error", "raised", "turns"),
    [
        (NotLoggedInError("log in"), anthropic.InternalServerError, 1),
        (OverloadedError("later", retry_after_s=0.01), anthropic.InternalServerError, 2),
        (RateLimitedError("slow down", retry_after_s=0.01), anthropic.RateLimitError, 2),
    ],
)
async def test_only_a_passing_failure_is_retried(
    client: AsyncAnthropic,
    backend: ScriptBackend,
    error: Exception,
    raised: type[Exception],
    turns: int,
) -> None:
    backend.script = (error,)
    with pytest.raises(raised):
        await client.messages.create(**ASKED)
    assert len(backend.turns) == turns


async def test_a_failure_in_the_stream_raises(
    client: AsyncAnthropic, backend: ScriptBackend
) -> None:
    backend.script = (TextDelta("a"), CliCrashedError("it died"))
    stream = await client.messages.create(**ASKED, stream=True)
    with pytest.raises(anthropic.APIStatusError, match="it died"):
        _ = [event async for event in stream]


async def test_closing_the_stream_stops_the_turn(
    client: AsyncAnthropic, backend: ScriptBackend
) -> None:
    backend.script = (TextDelta("a"), anyio.Event())
    stream = await client.messages.create(**ASKED, stream=True)
    with anyio.fail_after(5):
        await anext(aiter(stream))
        await stream.close()
        await backend.left.wait()
    assert backend.running == 0


async def test_a_bearer_token_will_do_as_well(backend: ScriptBackend) -> None:
    async with (
        serving(create_app(script_config(), build=builder(backend))) as url,
        AsyncAnthropic(base_url=url + PREFIX, auth_token="unused") as client,
    ):
        assert (await client.messages.create(**ASKED)).role == "assistant"
