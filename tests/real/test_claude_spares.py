"""The real Claude Code started ahead: a spare answers as a fresh process would."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import psutil
import pytest

from clinvk.backends.base import Processes
from clinvk.backends.claude import ClaudeBackend
from clinvk.events import Failed
from clinvk.turn import OutputFormat, ToolSpec
from tests.fakes.api import Reply
from tests.real.claude_world import HUNG_S, World, answer, make_world, run, said, turn

pytestmark = pytest.mark.real


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        yield made


async def spare(world: World, *, count: int = 1) -> list[psutil.Process]:
    """Wait until so many processes run and have greeted their model API."""
    with anyio.fail_after(HUNG_S):
        while len(world.processes()) != count:  # noqa: ASYNC110 - the keeper tells nobody
            await anyio.sleep(0.01)
    return world.processes()


async def warm(world: World, backend: ClaudeBackend, *, count: int = 1) -> psutil.Process:
    """Wait until so many spares are ready, and return the first."""
    await backend.warm()
    with anyio.fail_after(HUNG_S):
        while f"{count}/5 waiting" not in repr(backend):  # noqa: ASYNC110 - it tells nobody
            await anyio.sleep(0.01)
    return world.processes()[0]


async def test_a_spare_takes_the_turn_and_another_takes_its_place(world: World) -> None:
    backend = world.backend()
    waiting = await warm(world, backend)
    assert answer(await run(backend, turn("hi"))) == "Hello from the fake."
    with anyio.fail_after(HUNG_S):
        while waiting in world.processes():  # noqa: ASYNC110 - its keeper takes its exit code
            await anyio.sleep(0.01)
    successor = await warm(world, backend)
    assert successor.pid != waiting.pid
    assert backend.processes == Processes(running=1, spares=1, starts=2)
    backend.close()
    with anyio.fail_after(HUNG_S):
        await world.all_gone()


async def test_a_turn_takes_the_spare_that_is_coming_up(world: World) -> None:
    backend = world.backend()
    await backend.warm()
    [coming] = await spare(world)
    running: set[int] = set()
    await run(backend, turn("hi"), on_text=lambda: running.update(p.pid for p in world.processes()))
    assert coming.pid in running
    assert len(running) <= 2  # and its successor


async def test_a_spare_asks_what_a_fresh_process_asks(world: World) -> None:
    asked = turn(
        said("system", "S"),
        "one",
        said("assistant", "two"),
        "three",
        tools=(ToolSpec("f"),),
        format=OutputFormat({"type": "object", "properties": {"n": {"type": "integer"}}}),
    )
    world.fake.answer(Reply(text=(), tool_calls=(("StructuredOutput", {"n": 1}),)))
    warmed, cold = world.backend(), world.backend()
    await warm(world, warmed)
    assert answer(await run(warmed, asked)) == '{"n": 1}'
    assert answer(await run(cold, asked)) == '{"n": 1}'
    bodies = [{**request.body, "metadata": None} for request in world.fake.turns]
    assert bodies[0] == bodies[1]


async def test_a_spare_that_was_killed_is_not_used(world: World) -> None:
    backend = world.backend()
    waiting = await warm(world, backend)
    waiting.kill()
    with anyio.fail_after(HUNG_S):
        await world.all_gone()
    assert answer(await run(backend, turn("hi"))) == "Hello from the fake."


async def test_models_in_use_have_spares_and_made_up_ones_have_none(world: World) -> None:
    backend = world.backend()
    await warm(world, backend)
    world.fake.answer(Reply(status=404))
    assert isinstance((await run(backend, turn("hi"), "made-up"))[-1], Failed)
    world.fake.answer(Reply())
    await run(backend, turn("hi"), "claude-sonnet-4-5")
    running = await spare(world, count=2)
    models = {arg for p in running for arg in p.cmdline() if arg.startswith("--model=")}
    assert models == {"--model=claude-sonnet-4-5"}


async def test_a_spare_whose_turn_failed_is_replaced_too(world: World) -> None:
    backend = world.backend()
    await warm(world, backend)
    world.fake.answer(Reply(status=400))
    assert isinstance((await run(backend, turn("hi")))[-1], Failed)
    await warm(world, backend)
    assert backend.processes.starts == 2


async def test_another_login_gets_no_spare_of_the_last(world: World) -> None:
    backend = world.backend()
    await warm(world, backend)
    world.write(".claude/settings.json", '{"env": {"ANTHROPIC_CUSTOM_HEADERS": "x-team: one"}}')
    assert answer(await run(backend, turn("hi"))) == "Hello from the fake."
    assert world.fake.turns[-1].headers["x-team"] == "one"
