"""What a real agent makes of errors that pass; the other one tries again for over a minute."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from clinvk.errors import OverloadedError, RateLimitedError, UpstreamError
from clinvk.events import Failed
from tests.fakes.api import Reply
from tests.real.agents_world import World, agent_world, run, turn

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with agent_world("claude-code-acp", tmp_path_factory.mktemp("agent")) as opened:
        yield opened


@pytest.mark.parametrize(
    ("status", "error"), [(429, RateLimitedError), (500, UpstreamError), (529, OverloadedError)]
)
async def test_errors_of_the_model_api_are_typed_with_its_words(
    world: World, status: int, error: type[Exception]
) -> None:
    world.answers(Reply(status=status))
    last = (await run(world.backend, turn("hi")))[-1]
    assert isinstance(last, Failed)
    assert type(last.error) is error
    assert "fake error" in last.error.message
