"""The whole way: an HTTP client, clinvk, each real CLI, and a fake of its model API."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import psutil
import pytest
from openai import AsyncOpenAI

from tests.fakes.api import Captured, Reply
from tests.real.bridge import Bridge, alone, bridge

pytestmark = pytest.mark.real
CLIS = ["claude", "codex", "gemini"]


@pytest.fixture(autouse=True)
def environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's environment is inherited."""
    alone(home, monkeypatch)


@pytest.fixture(params=CLIS)
async def served(request: pytest.FixtureRequest, home: Path) -> AsyncIterator[Bridge]:
    async with bridge(request.param, home) as running:
        yield running


async def deltas(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The chunks of a stream as they come."""
    async for line in response.content:
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(
        choice["delta"].get("content", "") for chunk in chunks for choice in chunk["choices"]
    )


async def until(condition: Any) -> None:
    """Wait until something observable is so; the guard only ends a hang."""
    with anyio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await anyio.sleep(0.01)


async def test_the_openai_client_talks_to_the_cli(served: Bridge) -> None:
    async with AsyncOpenAI(base_url=served.url, api_key="unused", max_retries=0) as client:
        whole = await client.chat.completions.create(
            model=served.name, messages=[{"role": "user", "content": "hi"}]
        )
        assert whole.choices[0].message.content == "Hello from the fake."
        assert whole.choices[0].finish_reason == "stop"
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (11, 7)
        stream = await client.chat.completions.create(
            model=served.name, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        pieces = [c.choices[0].delta.content async for c in stream if c.choices[0].delta.content]
    assert "".join(pieces) == "Hello from the fake."
    assert len(pieces) > 1


async def test_a_delta_is_sent_on_while_the_model_still_thinks(served: Bridge) -> None:
    served.fake.answer(Reply(text=("one", " two"), hold=1))
    with anyio.fail_after(60):
        async with served.post(stream=True) as response:
            chunks = []
            async for chunk in deltas(response):
                chunks.append(chunk)
                if text_of(chunks) == "one":
                    served.fake.release.set()
    assert text_of(chunks) == "one two"


async def test_the_prompt_arrives_byte_for_byte(served: Bridge) -> None:
    text = (
        'Zeile\r\n\ttab "quotes" \\n \u00e9\u4e16\U0001f600\u2028 <|endoftext|> </s> @/etc/passwd'
    )
    async with served.post(text) as response:
        assert response.status == 200, await response.text()
    bodies = json.dumps([request.body for request in served.fake.requests])
    assert json.dumps(text)[1:-1] in bodies


async def test_twenty_streams_at_once_are_not_interleaved(served: Bridge) -> None:
    def script(captured: Captured) -> Reply:
        marker = re.findall(r"marker-\d+-", json.dumps(captured.body))[-1]
        return Reply(text=tuple(f"{marker}{i} " for i in range(5)))

    served.fake.script = script

    async def one(number: int) -> None:
        async with served.post(f"marker-{number}-", stream=True) as response:
            assert response.status == 200, await response.text()
            got = text_of([chunk async for chunk in deltas(response)])
        assert got == "".join(f"marker-{number}-{i} " for i in range(5))

    with anyio.fail_after(110):
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(one, number)


@pytest.mark.parametrize("stream", [True, False])
async def test_client_disconnect_closes_the_upstream_connection(
    served: Bridge, stream: bool
) -> None:
    served.fake.answer(Reply(text=("one", " two"), hold=1))
    request = asyncio.create_task(_read(served, stream=stream))
    await until(lambda: served.fake.open == 1)
    request.cancel()
    await asyncio.wait([request])
    await until(lambda: served.fake.open == 0)
    assert served.fake.aborted == 1
    served.fake.release.set()
    async with served.post() as response:
        assert response.status == 200, await response.text()


async def _read(served: Bridge, **fields: Any) -> str:
    async with served.post(**fields) as response:
        text: str = await response.text()
        return text


async def test_a_cli_killed_mid_turn_is_an_error_and_the_next_request_works(
    served: Bridge,
) -> None:
    served.fake.answer(Reply(text=("one", " two"), hold=1), Reply())
    with anyio.fail_after(60):
        async with served.post(stream=True) as response:
            chunks = []
            async for chunk in deltas(response):
                chunks.append(chunk)
                if "error" in chunk:
                    break
                if text_of(chunks) == "one":
                    for child in psutil.Process().children(recursive=True):
                        child.send_signal(signal.SIGKILL)
        assert chunks[-1]["error"]["code"] == "cli_crashed"
        async with served.post() as response:
            assert response.status == 200, await response.text()


ERRORS = [
    (400, 400, "upstream_bad_request"),
    (401, 503, "cli_not_logged_in"),
    (404, 404, "model_not_found"),
    (429, 429, "rate_limit_exceeded"),
    (500, 502, "upstream_error"),
    (529, 502, "upstream_overloaded"),
]


@pytest.mark.parametrize(("upstream", "status", "code"), ERRORS)
async def test_errors_of_the_model_api_come_typed(
    served: Bridge, upstream: int, status: int, code: str
) -> None:
    served.fake.answer(Reply(status=upstream))
    async with served.post(stream=True) as response:
        body = await response.json()
    assert (response.status, body["error"]["code"]) == (status, code)
    assert len(served.fake.requests) <= 4


async def test_a_cut_stream_is_an_error_and_never_a_stop(served: Bridge) -> None:
    served.fake.answer(Reply(text=("one", " two", " three"), cut=2))
    with anyio.fail_after(60):
        async with served.post(stream=True) as response:
            if response.status == 200:
                said = [chunk async for chunk in deltas(response)]
            else:  # a cut connection may lose the words before the cut, too
                said = [await response.json()]
    assert said[-1]["error"]["code"] == "upstream_unreachable"


async def test_stop_texts_and_token_limits_cut_and_close_upstream(served: Bridge) -> None:
    served.fake.answer(Reply(text=("one two", " EN", "D three", " four"), hold=3))
    async with served.post(stop="END") as response:
        body = await response.json()
    choice = body["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two ", "stop")
    await until(lambda: served.fake.open == 0)
    served.fake.answer(Reply(text=("one two", " three four", " five"), hold=2))
    async with served.post(max_tokens=3) as response:
        body = await response.json()
    choice = body["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two three", "length")
    await until(lambda: served.fake.open == 0)


async def test_two_choices_are_two_turns(served: Bridge) -> None:
    async with served.post(n=2) as response:
        body = await response.json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["usage"]["prompt_tokens"] == 22
