"""Waits until what we have started does next to nothing, so that only one thing is measured."""

import asyncio

import psutil

from benchmarks.processes import busy_s


async def quiet(*, still_s: float = 0.25, most_s: float = 15.0) -> None:
    """Wait until our processes are still for a while, or `most_s` seconds have passed."""
    ours = psutil.Process()
    for _ in range(int(most_s / still_s)):
        before = busy_s(ours.children(recursive=True))
        await asyncio.sleep(still_s)
        if busy_s(ours.children(recursive=True)) - before <= still_s / 10:
            return
