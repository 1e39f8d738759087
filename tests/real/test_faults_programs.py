"""Real agents and real commands killed in mid-answer: one typed error each, then answers."""

from pathlib import Path

import anyio
import psutil
import pytest

from clinvk.errors import CliCrashedError
from clinvk.events import Event, Failed, Finished, FinishReason
from tests.fakes.api import FakeApi, Reply
from tests.faults.books import children, until
from tests.real.agents_world import (
    BIN,
    COMMANDS,
    HUNG_S,
    World,
    agent_world,
    answer,
    line,
    run,
    turn,
)
from tests.real.test_command_recipes import recipe_on_fake
from tests.real.test_command_recipes import run as run_command

pytestmark = pytest.mark.real
HELD = Reply(hold=2)
WELL = "Hello from the fake."


def kill() -> None:
    """Kill the agent itself; what it has started must go with it."""
    found = [each for each in psutil.Process().children() if str(BIN) in " ".join(line(each))]
    assert found
    for each in found:
        each.kill()


async def held(fake: FakeApi, number: int) -> None:
    """Wait until so many answers are held in the middle."""
    while fake.holding < number:  # noqa: ASYNC110 - the fake sets no event
        await anyio.sleep(0.01)


async def talk(world: World, found: list[list[Event]]) -> None:
    found.append(await run(world.backend, turn("hi")))


@pytest.mark.parametrize("name", COMMANDS)
async def test_an_agent_that_is_killed_is_one_error_for_each_and_replaced(
    name: str, tmp_path: Path
) -> None:
    async with agent_world(name, tmp_path) as world:
        found: list[list[Event]] = []
        world.answers(HELD)
        with anyio.fail_after(HUNG_S):
            async with anyio.create_task_group() as group:
                for _ in range(2):
                    group.start_soon(talk, world, found)
                await held(world.fake, 2)
                kill()
        assert len(found) == 2
        for events in found:
            [failed] = [event for event in events if isinstance(event, Failed)]
            assert isinstance(failed.error, CliCrashedError)
            assert "-9" in failed.error.message
        world.fake.release.set()
        world.answers(Reply())
        assert answer(await run(world.backend, turn("and now?"))) == WELL


@pytest.mark.parametrize("name", ["claude-p", "codex-exec"])
async def test_a_command_that_is_killed_is_one_error_and_the_next_is_right(
    name: str, tmp_path: Path
) -> None:
    async with recipe_on_fake(name, tmp_path) as (backend, fake):
        fake.answer(HELD, Reply())
        found: list[Event] = []

        async def ask() -> None:
            found.extend(await run_command(backend, "hi"))

        with anyio.fail_after(HUNG_S):
            async with anyio.create_task_group() as group:
                group.start_soon(ask)
                await held(fake, 1)
                for child in children():
                    child.kill()
        last = found[-1]
        assert isinstance(last, Failed)
        assert isinstance(last.error, CliCrashedError)
        assert "exit code -9" in last.error.message
        fake.release.set()
        events = await run_command(backend, "hi")
        assert answer(events) == WELL
        assert events[-1] == Finished(FinishReason.STOP)
        await until(lambda: not children(), children)
