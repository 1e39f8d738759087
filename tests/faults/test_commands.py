"""A command that misbehaves: one right answer or one typed error, and nothing is left.

Each turn is a process of its own, so that all faults can be asked for at once.
"""

from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk import events
from tests.faults.conftest import Outcome, World, made, standin
from tests.faults.test_turns import BROKEN, CRASHED, LATE, RIGHT, fits
from tests.faults.test_turns import FAULTS as OF_ALL

HUGE = ("flood-stdout", "flood-stderr", "long-line")
# What is otherwise than where a process has many turns: its end belongs to the answer.
JSONL = {
    **{fault: codes for fault, (codes, _) in OF_ALL.items() if fault not in HUGE},
    "die-after": CRASHED,
    "leave-unfinished": BROKEN,
    "misdirected": BROKEN,
    "closes-stdout": LATE,
    "hang-after": LATE,
    "hang-at-exit": LATE,
    "nothing": BROKEN,
    "nothing-and-fails": CRASHED,
    "leaves-child": RIGHT,
    "none": RIGHT,
}
TEXT = {
    **JSONL,
    "leave-unfinished": RIGHT,  # there is no other end than that of the process
    "misdirected": RIGHT,
    "nothing": RIGHT,
}
# Of text every word counts, noise too, and it cannot tell of an error.
for fault in ("noise", "refused", "endless-line", "lone-surrogate"):
    del TEXT[fault]


async def all_at_once(world: World, faults: dict[str, set[str]]) -> dict[str, Outcome]:
    """Ask for each fault, streamed and not."""
    found: dict[str, Outcome] = {}

    async def ask(fault: str, *, stream: bool) -> None:
        way = "streamed" if stream else "whole"
        found[f"{fault} {way}"] = await world.ask(f"fault={fault}", stream=stream)

    async with anyio.create_task_group() as group:
        for fault in faults:
            for stream in (True, False):
                group.start_soon(partial(ask, fault, stream=stream))
    return found


def wrong(found: dict[str, Outcome], faults: dict[str, set[str]]) -> list[str]:
    """Those that are not as they must be."""
    return [
        f"{name}: {outcome.code} {outcome.message} {outcome.text[:50]!r}"
        for name, outcome in found.items()
        if not fits(name.split()[0], outcome, faults[name.split()[0]])
    ]


def as_(output: str) -> dict[str, Any]:
    """The settings of a command that prints lines of JSON, or text."""
    return {"output": output, "command": [*standin("command"), f"--{output}"]}


@pytest.mark.parametrize("impatient", [False, True])
@pytest.mark.parametrize("output", ["jsonl", "text"])
async def test_one_answer_or_one_error_and_nothing_left(
    output: str, tmp_path: Path, *, impatient: bool
) -> None:
    """Those that hang are waited for impatiently, and the others as long as it takes."""
    every = JSONL if output == "jsonl" else TEXT
    faults = {fault: codes for fault, codes in every.items() if (codes is LATE) == impatient}
    async with made("command", tmp_path, impatient=impatient, **as_(output)) as world:
        found = await all_at_once(world, faults)
        assert wrong(found, faults) == []
        for stream in (True, False):
            assert (await world.ask(stream=stream)).right
        await world.at_rest()


@pytest.mark.parametrize("fault", HUGE)
async def test_floods_are_taken(fault: str, tmp_path: Path) -> None:
    async with made("command", tmp_path) as world:
        found = await world.ask(f"fault={fault}", stream=True)
        assert fits(fault, found, RIGHT), found.text[:100]
        await world.at_rest()


@pytest.mark.parametrize("output", ["jsonl", "text"])
async def test_an_answer_without_end_is_given_up(
    output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "ANSWER_CHARS", 1_000_000)
    async with made("command", tmp_path, **as_(output)) as world:
        form = {"response_format": {"type": "json_object"}}
        for stream in (True, False):
            for more in ({}, form):
                found = await world.ask("fault=endless", stream=stream, **more)
                assert found.code == "cli_protocol_error", found
                assert "1,000,000 characters" in found.message
        assert (await world.ask()).right
        await world.at_rest()
