"""A CLI that misbehaves in a turn: one right answer or one typed error, and nothing is left.

Each fault is asked for twice at once, streamed and not, beside a request of somebody else's; then
comes a request that must be answered.
"""

from functools import partial
from pathlib import Path

import anyio
import pytest

from tests.faults.conftest import ADAPTERS, ANSWER, POOLED, Outcome, made

CRASHED = {"cli_crashed"}
BROKEN = {"cli_crashed", "cli_protocol_error"}
LATE = {"timeout"}
LOST = {"upstream_unreachable", "upstream_error"}
RIGHT: set[str] = set()

TEXTS = {
    "nothing": "",
    "bad-utf8": "Hello�",
    "lone-surrogate": "Hello\ud83c",
    "long-line": "x" * 64_000_000,
}

# What each fault is to those who asked for it; the last is whether it hits the whole process.
FAULTS: dict[str, tuple[set[str], bool]] = {
    "die-before": (CRASHED, True),
    "die-during": (CRASHED, True),
    "die-after": (RIGHT, True),
    "leave-unfinished": (CRASHED, True),
    "killed": (CRASHED, True),
    "half-a-line": (CRASHED, True),
    "closes-stdout": (CRASHED, True),
    "endless-line": (BROKEN, True),
    "hang-before": (LATE, True),
    "hang-during": (LATE, True),
    "hang-stubborn": (LATE, True),
    "hang-with-child": (LATE, True),
    "hang-at-exit": (RIGHT, False),
    "stopped": (LATE, True),
    "closes-stdin": (LATE, True),
    "no-end": (LATE, True),
    "misdirected": (LATE, False),
    "two-ends": (RIGHT, False),
    "bad-utf8": (RIGHT, False),
    "lone-surrogate": (RIGHT, False),
    "long-line": (RIGHT, False),
    "noise": (RIGHT, False),
    "byte-by-byte": (RIGHT, False),
    "flood-stdout": (RIGHT, False),
    "flood-stderr": (RIGHT, False),
    "refused": (LOST, False),
}
# Of any agent those that end, block or confuse what many turns share; the rest is gemini's code.
OF_ACP = (
    *("die-before", "die-during", "die-after", "killed", "closes-stdout", "endless-line"),
    *("hang-during", "hang-stubborn", "hang-with-child", "hang-at-exit", "stopped"),
    *("misdirected", "two-ends", "bad-utf8", "lone-surrogate", "noise", "refused"),
)
CASES = [(adapter, fault) for adapter in ADAPTERS for fault in FAULTS]
CASES += [("acp", fault) for fault in OF_ACP]
HUGE = {"flood-stdout", "flood-stderr", "long-line"}
HANGS = {name for name, (codes, _) in FAULTS.items() if codes is LATE}


def fits(fault: str, found: Outcome, codes: set[str]) -> bool:
    if codes:
        return found.code in codes
    return found.code is None and found.text == TEXTS.get(fault, ANSWER)


@pytest.mark.parametrize(("adapter", "fault"), CASES)
async def test_one_answer_or_one_error_and_nothing_left(
    adapter: str, fault: str, tmp_path: Path
) -> None:
    codes, whole_process = FAULTS[fault]
    async with made(adapter, tmp_path, impatient=fault in HANGS) as world:
        found: dict[str, Outcome] = {}

        async def ask(name: str, text: str, *, stream: bool) -> None:
            found[name] = await world.ask(text, stream=stream)

        # A hundred megabytes take long enough once.
        ways = {"streamed": True} if fault in HUGE else {"streamed": True, "whole": False}
        async with anyio.create_task_group() as group:
            for name, stream in ways.items():
                group.start_soon(partial(ask, name, f"fault={fault}", stream=stream))
            group.start_soon(partial(ask, "other", "hi", stream=True))
        shares = world.adapter != "claude" and whole_process
        # Who shares its process with the fault may go down with it, but not silently.
        allowed = codes | BROKEN | LATE if shares else codes
        for name in ways:
            assert fits(fault, found[name], codes) or (shares and found[name].code in allowed), (
                found
            )
        assert found["other"].right or (shares and found["other"].code in allowed), found
        assert (await world.ask(stream=True)).right
        assert (await world.ask()).right
        await world.at_rest()


@pytest.mark.parametrize("adapter", POOLED)
@pytest.mark.parametrize("fault", ["die-after", "hang-after", "two-ends", "noise", "hang-at-exit"])
async def test_a_conversation_that_is_kept_goes_on_rightly_or_not_at_all(
    adapter: str, fault: str, tmp_path: Path
) -> None:
    async with made(adapter, tmp_path, impatient=True, max_idle=4) as world:
        first = {"role": "user", "content": f"fault={fault}"}
        assert (await world.ask(first["content"])).right
        history = (first, {"role": "assistant", "content": ANSWER})
        for stream in (True, False):
            found = await world.ask("fault=none", *history, stream=stream)
            # What hangs is known to hang once it is asked, and an end too many comes too late.
            wrong = fault in {"hang-after", "two-ends"} and found.code in LATE | BROKEN
            assert found.right or wrong, found
        assert (await world.ask()).right


@pytest.mark.parametrize("adapter", POOLED)
async def test_those_who_ask_a_cli_that_hangs_unseen_hear_of_it(
    adapter: str, tmp_path: Path
) -> None:
    async with made(adapter, tmp_path, impatient=True) as world:
        assert (await world.ask("fault=hang-after")).right
        found: list[Outcome] = []

        async def ask(*, stream: bool) -> None:
            found.append(await world.ask(stream=stream))

        async with anyio.create_task_group() as group:
            for stream in (True, False, True):
                group.start_soon(partial(ask, stream=stream))
        assert all(each.right or each.code in LATE | BROKEN for each in found), found
        assert (await world.ask()).right
        await world.at_rest()
