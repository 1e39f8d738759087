"""Streams as servers other than OpenAI's send them, told in the APIs of their clients.

The clients are the vendors' own, so what they make of it is what a program sees.
"""

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from anthropic import APIStatusError as AnthropicError
from anthropic import AsyncAnthropic
from openai import APIError, AsyncOpenAI

from tests.fakes.raw import Answer, RawUpstream
from tests.server.test_relay import STREAM, World, served, settings
from tests.server.upstream_shapes import DONE, HI, SHAPES, STOP, Shape, chunk
from tests.serving import API


@dataclass
class Clients:
    up: RawUpstream
    openai: AsyncOpenAI
    anthropic: AsyncAnthropic

    async def ask_anthropic(self) -> Any:
        async with self.anthropic.messages.stream(
            model="up/m",
            max_tokens=2000,
            thinking={"type": "enabled", "budget_tokens": 1024},
            messages=[{"role": "user", "content": "hi"}],
            tools=[{"name": name, "input_schema": {"type": "object"}} for name in ("look", "hear")],
        ) as stream:
            return await stream.get_final_message()

    async def ask_responses(self) -> Any:
        tools: Any = [
            {"type": "function", "name": name, "parameters": {}, "strict": False}
            for name in ("look", "hear")
        ]
        stream = await self.openai.responses.create(
            model="up/m", input="hi", stream=True, tools=tools
        )
        events = [event async for event in stream]
        return events[-1]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with RawUpstream().running() as up:
        async for each in served(settings(up, retries=0), up):
            yield each


@pytest.fixture
async def clients(world: World) -> AsyncIterator[Clients]:
    async with (
        AsyncOpenAI(base_url=world.url + API, api_key="k", max_retries=0) as one,
        AsyncAnthropic(base_url=f"{world.url}/anthropic", api_key="k", max_retries=0) as other,
    ):
        yield Clients(world.up, one, other)


def sends(up: RawUpstream, lines: str, **headers: str) -> None:
    data = lines.encode()
    up.answer = Answer(headers=STREAM | headers, pieces=(data[:40], data[40:]))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_an_anthropic_client_is_told_it(shape: Shape, clients: Clients) -> None:
    sends(clients.up, shape.lines)
    message = await clients.ask_anthropic()
    found: dict[str, str] = {"text": "", "thinking": ""}
    for block in message.content:
        if block.type != "tool_use":
            found[block.type] += getattr(block, block.type)
    uses = [(b.name, b.input) for b in message.content if b.type == "tool_use"]
    assert (found["text"], found["thinking"], uses) == (shape.text, shape.thought, shape.calls)
    assert message.stop_reason == ("tool_use" if shape.calls else "end_turn")
    assert len({b.id for b in message.content if b.type == "tool_use"}) == len(shape.calls)
    if shape.spent is not None:
        assert (_input(message.usage), message.usage.output_tokens) == shape.spent


def _input(usage: Any) -> int:
    return int(usage.input_tokens) + int(usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_a_responses_client_is_told_it(shape: Shape, clients: Clients) -> None:
    sends(clients.up, shape.lines)
    last = await clients.ask_responses()
    assert last.type == "response.completed", last
    response = last.response
    assert response.output_text == shape.text
    thoughts = [item for item in response.output if item.type == "reasoning"]
    assert "".join(p.text for t in thoughts for p in t.summary) == shape.thought
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(c.name, json.loads(c.arguments or "{}")) for c in calls] == shape.calls
    if shape.spent is not None:
        spent = response.usage
        assert (spent.input_tokens, spent.output_tokens) == shape.spent


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("length", "max_tokens"),
        ("MAX_TOKENS", "max_tokens"),
        ("model_length", "max_tokens"),
        ("sensitive", "refusal"),
        ("eos", "end_turn"),
    ],
)
async def test_why_it_ended_is_said_in_the_words_of_the_api(
    reason: str, told: str, clients: Clients
) -> None:
    sends(clients.up, HI + chunk({}, reason) + DONE)
    assert (await clients.ask_anthropic()).stop_reason == told


FAILURES = {
    "OpenRouter, beside a reason": HI
    + chunk({"content": ""}, "error", error={"code": 429, "message": "Slow down"}),
    "a text": HI + 'data: {"error": "Slow down"}\n\n',
    "an event": HI + 'event: error\ndata: {"message": "Slow down"}\n\n',
    "vLLM of old": HI + 'data: {"object": "error", "message": "Slow down", "code": 429}\n\n',
    "FastAPI": HI + 'data: {"detail": "Slow down"}\n\n',
    "Gemini, in a list": HI + 'data: [{"error": {"code": 429, "message": "Slow down"}}]\n\n',
    "a reason alone": HI + chunk({}, "network_error") + DONE,
    "junk": HI + "data: {oops\n\n",
    "half a line": HI + 'data: {"choices": [',
    "nothing": "",
    "an end and no more": DONE,
    "half way": HI,
}


@pytest.mark.parametrize("lines", FAILURES.values(), ids=FAILURES)
async def test_a_failure_within_a_stream_is_one(lines: str, clients: Clients) -> None:
    sends(clients.up, lines)
    with pytest.raises(AnthropicError) as caught:
        await clients.ask_anthropic()
    assert ("Slow down" in lines) == ("Slow down" in str(caught.value))
    sends(clients.up, lines)
    try:
        last = await clients.ask_responses()
    except APIError:  # before the first byte, and where the client knows the event
        return
    assert last.type == "response.failed"


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (
            422,
            {"detail": [{"loc": ["body", "top_p"], "msg": "too big"}]},
            400,
            "body.top_p: too big",
        ),
        (422, {"detail": [{"loc": None, "msg": "odd"}]}, 400, "odd"),
        (422, {"detail": {"why": "x"}}, 400, '{"why": "x"}'),
        (422, {"detail": []}, 400, "no reason"),
        (400, [{"error": {"code": 400, "message": "no"}}], 400, "no"),
        (400, ["no"], 400, "no"),
        (400, {"object": "error", "message": "no", "code": 400}, 400, "no"),
        (500, {"error": "no"}, 502, "no"),
        (400, {"error": {"message": "This model's maximum context length is 9 tokens"}}, 400, "9"),
        (400, {"error": {"type": "exceed_context_size_error", "message": "big"}}, 400, "big"),
        (500, {"error": {"type": "overloaded_error", "message": "busy"}}, 529, "busy"),
    ],
)
async def test_what_a_server_says_of_a_refusal_is_told(
    status: int, body: Any, code: int, said: str, clients: Clients
) -> None:
    clients.up.answer = Answer(status, pieces=(json.dumps(body).encode(),))
    with pytest.raises(AnthropicError) as caught:
        await clients.ask_anthropic()
    assert (caught.value.status_code, said in str(caught.value)) == (code, True)


@pytest.mark.parametrize("name", ["gzip", "deflate"])
async def test_a_stream_that_is_compressed_unasked_is_read(name: str, clients: Clients) -> None:
    pack = gzip.compress if name == "gzip" else zlib.compress
    packed = pack((HI + "".join(chunk({"content": "."}) for _ in range(15_000)) + STOP).encode())
    headers = STREAM | {"Content-Encoding": name}
    clients.up.answer = Answer(headers=headers, pieces=(packed[:30], packed[30:]))
    last = await clients.ask_responses()
    assert last.response.output_text == "Hi" + "." * 15_000
    assert clients.up.asked[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("name", ["gzip", "br"])
async def test_a_stream_that_cannot_be_unpacked_is_an_error(name: str, clients: Clients) -> None:
    clients.up.answer = Answer(
        headers=STREAM | {"Content-Encoding": name}, pieces=(b"junk", HI.encode())
    )
    with pytest.raises(AnthropicError, match=name):
        await clients.ask_anthropic()


async def test_a_page_is_no_answer(clients: Clients) -> None:
    clients.up.answer = Answer(headers={"Content-Type": "text/html"}, pieces=(b"<html>",))
    with pytest.raises(AnthropicError, match=r"web page.*/v1"):
        await clients.ask_anthropic()


@pytest.mark.parametrize(
    ("answer", "right"),
    [('{"a": 1}', True), ('{"a": "1"}', False), ("no", False), ('```json\n{"a": 1}\n```', False)],
)
async def test_an_answer_that_breaks_its_schema_is_no_answer(
    answer: str, clients: Clients, *, right: bool
) -> None:
    sends(clients.up, chunk({"content": answer}) + STOP + DONE)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form: Any = {"type": "json_schema", "name": "a", "schema": schema, "strict": False}
    stream = await clients.openai.responses.create(
        model="up/m", input="hi", stream=True, text={"format": form}
    )
    last = [event async for event in stream][-1]
    assert last.type == ("response.completed" if right else "response.failed")
    sent = json.loads(clients.up.asked[0].body)["response_format"]
    assert sent == {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


async def test_a_compressed_reply_passes_and_is_unpacked_by_the_client(clients: Clients) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}}
    packed = gzip.compress(json.dumps({"id": "c", "choices": [choice]}).encode())
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    clients.up.answer = Answer(headers=headers, pieces=(packed[:9], packed[9:]))
    answer = await clients.openai.chat.completions.create(
        model="up/m", messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.choices[0].message.content == "Hi"
