"""What the tests of the real Gemini CLI share: a world a module, with one backend and process."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from clinvk.backends.gemini import GeminiBackend
from tests.fakes.gemini import FakeGemini
from tests.real.gemini_world import API_KEY_LOGIN, World, gemini_world


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with gemini_world(tmp_path_factory.mktemp("gemini")) as world:
        world.write(".gemini/settings.json", json.dumps(API_KEY_LOGIN))
        world.backend()
        yield world


@pytest.fixture
def world(shared: World) -> World:
    """The world whose one backend, and one process, most tests share."""
    return shared.fresh()


@pytest.fixture
def backend(world: World) -> GeminiBackend:
    return world.made[0]


@pytest.fixture
def fake(world: World) -> FakeGemini:
    return world.fake


@pytest_asyncio.fixture(loop_scope="module")
async def own_world(tmp_path: Path) -> AsyncIterator[World]:
    """A world of its own, for tests of start, login and end."""
    async with gemini_world(tmp_path) as world:
        yield world
