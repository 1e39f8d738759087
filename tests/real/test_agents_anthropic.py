"""An agent on the anthropic package's own tool runner, with the real CLIs."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from anthropic import AsyncAnthropic, beta_async_tool

from clinvk.server.anthropic import PREFIX
from tests.real.bridge import Bridge
from tests.real.tool_loop import ANSWER, BACKENDS, QUESTION, Tools, check_loop, play, serve
from tests.serving import API

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=BACKENDS)
async def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Bridge]:
    async with serve(request.param, tmp_path_factory.mktemp("anthropic")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def client(served: Bridge) -> AsyncIterator[AsyncAnthropic]:
    url = served.url.removesuffix(API) + PREFIX
    async with AsyncAnthropic(base_url=url, api_key="unused", max_retries=0) as opened:
        yield opened


@pytest.mark.parametrize("thinking", [None, {"type": "adaptive"}], ids=["quiet", "thinking"])
async def test_a_streamed_loop_over_tools(
    served: Bridge, client: AsyncAnthropic, thinking: Any
) -> None:
    play(served)
    tools = Tools()

    @beta_async_tool
    async def get_weather(city: str) -> str:
        """The weather of a city."""
        return tools.get_weather(city)

    @beta_async_tool
    async def get_time(zone: str) -> str:
        """The time of a zone."""
        return tools.get_time(zone)

    runner = client.beta.messages.tool_runner(
        model=served.name,
        max_tokens=1000,
        messages=[{"role": "user", "content": QUESTION}],
        tools=[get_weather, get_time],
        stream=True,
        **({"thinking": thinking} if thinking else {}),
    )
    kinds = []
    async for stream in runner:
        message = await stream.get_final_message()
        kinds.append([block.type for block in message.content])
    thought = ["thinking"] if thinking else []
    assert kinds == [[*thought, "text", "tool_use", "tool_use"], ["text"]]
    assert message.content[0].type == "text"
    assert (message.content[0].text, message.stop_reason) == (ANSWER, "end_turn")
    tools.check()
    check_loop(served)  # though it first asks for a thread, which is refused
