"""What a server holds: processes, descriptors, tasks, folders, places; and that it held nothing.

One checker for every fault: `opened` before, `balanced` after.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import psutil
from aiohttp import web

from clinvk.procs import guard
from clinvk.server import handlers

HUNG_S = 15  # a guard against hanging tests, not a measure


def descriptors() -> dict[str, str]:
    """What this process has open, by number."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        try:
            found[link.name] = os.readlink(link)  # noqa: PTH115 - "socket:[1]" is no path
        except OSError:
            continue  # the descriptor of this very look
    return found


def children() -> list[psutil.Process]:
    """The processes below this one, but the guard, which ends with the supervisor."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.status() != psutil.STATUS_ZOMBIE and guard.COMMAND[-1] not in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found


async def until(condition: Callable[[], bool], what: Callable[[], object]) -> None:
    """Wait for what has no event; `what` tells what was seen if it never comes."""
    with anyio.move_on_after(HUNG_S):
        while not condition():  # noqa: ASYNC110 - see above
            await anyio.sleep(0.01)
        return
    raise AssertionError(f"the books do not balance: {what()}")


@dataclass
class Books:
    """What there was before, to be compared with what is left."""

    temp: Path
    tasks: set["asyncio.Task[object]"] = field(default_factory=asyncio.all_tasks)
    open: dict[str, str] = field(default_factory=descriptors)
    left: set[int] = field(default_factory=lambda: {child.pid for child in children()})

    async def at_rest(self, app: web.Application, *, processes: int) -> None:
        """Wait until a server that runs has nothing to do, and no more than these processes."""

        def load() -> list[tuple[int, int]]:
            loads = app[handlers.SERVICE].load().values()
            return [(load.running, load.waiting) for load in loads]

        await until(lambda: not any(map(any, load())), load)
        await until(lambda: len(self._children()) <= processes, self._children)
        await until(lambda: len(self._folders()) <= processes, self._folders)

    async def balanced(self) -> None:
        """Wait until nothing is left of what was opened since."""
        await until(lambda: not self._children(), self._children)
        await until(lambda: not self._folders(), self._folders)
        await until(lambda: not self._tasks(), self._tasks)
        await until(lambda: not self._open(), self._open)

    def _children(self) -> list[psutil.Process]:
        return [child for child in children() if child.pid not in self.left]

    def _folders(self) -> list[Path]:
        return list(self.temp.iterdir())

    def _tasks(self) -> set["asyncio.Task[object]"]:
        return asyncio.all_tasks() - self.tasks

    def _open(self) -> list[str]:
        now = descriptors()
        surplus = len(now) - len(self.open)
        return [f"{n} {what}" for n, what in now.items() if self.open.get(n) != what][
            : max(0, surplus)
        ]
