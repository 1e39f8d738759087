"""What an ACP agent alone can do wrong: while a session opens, and by what it asks of clinvk."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.backends import acp
from clinvk.procs.rpc import METHOD_NOT_FOUND
from tests.faults.books import HUNG_S, children, until
from tests.faults.conftest import Outcome, made
from tests.faults.test_turns import BROKEN, CRASHED, RIGHT, fits

NO = {"cli_protocol_error"}
LOGIN = {"cli_not_logged_in"}
STAGES = ("new", "mode", "model")
# What happens at each stage of an opening, and what it is to those who ask.
OPENING: dict[str, tuple[set[str], set[str], set[str]]] = {
    "die": (CRASHED, CRASHED, CRASHED),
    "close": (BROKEN, BROKEN, BROKEN),
    "hang": (NO, NO, NO),
    "silence": (NO, NO, NO),
    "error": (NO, NO, NO),
    "login": (LOGIN, LOGIN, LOGIN),
    "junk": (NO, RIGHT, RIGHT),
    "odd": (NO, NO, NO),
}


@pytest.mark.parametrize("what", OPENING)
async def test_a_session_that_does_not_open_is_one_error_and_the_next_is_right(
    what: str, tmp_path: Path
) -> None:
    async with made("acp", tmp_path, impatient=True, first_s=1.5) as world:
        found: dict[str, Outcome] = {}

        async def ask(name: str, *, stream: bool) -> None:
            found[name] = await world.ask(stream=stream, model="acp/n")

        for stage, codes in zip(STAGES, OPENING[what], strict=True):
            assert (await world.ask()).right
            world.fail_starts(f"{stage}-{what}")
            async with anyio.create_task_group() as group:
                group.start_soon(partial(ask, "streamed", stream=True))
                group.start_soon(partial(ask, "whole", stream=False))
            assert all(fits("", outcome, codes) for outcome in found.values()), (stage, found)
            world.fail_starts("")
            after = await world.ask(model="acp/n")
            assert after.right, (stage, after)
        await world.at_rest()


async def test_an_agent_that_asks_for_all_it_can_think_of_is_refused_and_answers(
    tmp_path: Path,
) -> None:
    async with made("acp", tmp_path) as world:
        for stream in (True, False):
            assert (await world.ask("fault=asks-back", stream=stream)).right
        refused = [json.loads(line) for line in (world.home / "refused").read_text().splitlines()]
        assert len(refused) == 2 * 6
        for reply in refused:
            permission = reply.get("result") == {"outcome": {"outcome": "cancelled"}}
            assert permission or reply["error"]["code"] == METHOD_NOT_FOUND, reply


async def test_who_leaves_while_a_session_opens_frees_the_place_at_once(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"first_s": 0.5, "max_concurrency": 1}
    async with made("acp", tmp_path, impatient=True, **limits) as world:
        assert (await world.ask()).right
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(acp, "OPEN_S", 5 * HUNG_S)
            world.fail_starts("new-hang")
            for stream in (True, False):  # the second waits for the place of the first
                found = await world.ask(stream=stream)
                assert (found.code, "first_s" in found.message) == ("timeout", True), found
            [process] = children()
            process.kill()
        world.fail_starts("")
        await until(lambda: not children(), children)
        assert (await world.ask()).right
        await world.at_rest()
