"""Thousands of random schedules: every request ends in one way, and the books balance."""

import logging
import os
import random
import time
from collections import Counter

import anyio
import pytest

from clinvk.config import Config, EchoConfig
from clinvk.conversations import Course
from clinvk.procs.supervisor import Supervisor
from clinvk.registry import Registry
from clinvk.routes import RouteConfig
from clinvk.service import Load, Service
from tests.fakes.backend import script_config
from tests.faults.books import HUNG_S, until
from tests.faults.chaos import ChaosBackend, Clients, Dice
from tests.fuzz.budget import TIMES

BUDGET_S = 12.0 * max(1, TIMES)
AT_ONCE = 30
ENDS = ("answered", "failed", "cancelled", "refused")
COURSES = (Course.NEW, Course.REPLAYED, Course.RESUMED, Course.CONTINUED)
LIMITS = {
    "max_concurrency": 3,
    "max_queue": 4,
    "max_parked": 4,
    "max_idle": 4,
    "park_s": 0.1,
    "idle_s": 0.1,
    "queue_s": 0.1,
    "first_s": 0.2,
    "silence_s": 0.2,
    "timeout_s": 1.0,
}


def routed(dice: Dice) -> Config:
    """Return the configuration of a model that two backends answer for."""
    targets: list[object] = ["one", "two"]
    if dice.likely(0.5):
        targets = [{"target": name, "weight": 1} for name in ("one", "two")]
    return Config(
        backends={
            name: EchoConfig.model_validate({"kind": "echo", **LIMITS}) for name in ("one", "two")
        },
        routes={"fake": RouteConfig.model_validate({"targets": targets, "rest_s": 0.05})},
    )


async def play(seed: int, books: Counter[str], courses: Counter[str]) -> None:
    """Play one schedule, and balance its books."""
    dice = Dice(random.Random(seed))
    config = script_config(**LIMITS)
    if dice.likely(0.5):
        config = routed(dice)
    async with Supervisor() as supervisor:
        backends = {name: ChaosBackend(dice, name) for name in config.backends}
        service = Service(config, Registry(config, dict(backends)), supervisor)
        clients = Clients(service, dice)
        async with anyio.create_task_group() as group:
            for number in range(dice.random.randint(1, 10)):
                group.start_soon(clients.converse, number)
                await dice.dally()
        ended = sum(clients.books[how] for how in ENDS)
        assert ended == clients.asked, clients.books
        if dice.likely(0.5):
            await service.drain(0.1)
        nothing = Load(running=0, waiting=0, parked=0, idle=0)
        await until(
            lambda: all(
                (backend.running, service.load()[name]) == (0, nothing)
                for name, backend in backends.items()
            ),
            lambda: ([backend.running for backend in backends.values()], service.load()),
        )
        await until(lambda: all(job.done for job in service._jobs), lambda: service._jobs)
        books.update(clients.books)
        courses.update(clients.courses)


@pytest.mark.timeout(BUDGET_S + 10 * HUNG_S)
async def test_every_request_ends_in_one_way_and_the_books_balance(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "clinvk")  # bugs are part of the play
    books: Counter[str] = Counter()
    courses: Counter[str] = Counter()
    first = int(
        os.environ.get("CLINVK_SEED", random.SystemRandom().randrange(10**9) if TIMES else 1)
    )
    seeds = iter(range(first, first + 10**9))
    ends = time.monotonic() + BUDGET_S
    played = 0

    async def keep_playing() -> None:
        nonlocal played
        while time.monotonic() < ends or not played:
            seed = next(seeds)
            try:
                await play(seed, books, courses)
            except Exception as exc:
                exc.add_note(f"CLINVK_SEED={seed}")
                raise
            played += 1

    async with anyio.create_task_group() as group:
        for _ in range(AT_ONCE):
            group.start_soon(keep_playing)
    assert min(courses[course] for course in COURSES) > 0, (played, courses)
    assert set(books) == {*ENDS, "handed on"}, (played, books)
    assert min(books.values()) > 0, (played, books)
