"""The long-lived task that owns every child and every turn's pump.

aiohttp cancels a handler by `task.cancel()`, which goes through anyio's shields; what a handler
owned would be left half stopped. So handlers own nothing: they ask the supervisor for a job and
may at most cancel it. One plain task holds the task group, because a task group may only be
left by the task that entered it, and fixtures and server hooks do not promise that.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import anyio
from anyio.abc import TaskGroup

_log = logging.getLogger(__name__)


class Closeable(Protocol):
    """What must be closed when the last job has ended."""

    def close(self) -> None:
        """Let go of everything."""


C = TypeVar("C", bound=Closeable)


class Job:
    """A piece of work in the supervisor's task group."""

    __slots__ = ("_done", "_scope")

    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._done = anyio.Event()

    def cancel(self) -> None:
        """Ask the work to stop; returns at once and may be called from any task."""
        self._scope.cancel()

    @property
    def done(self) -> bool:
        """Whether the work has stopped."""
        return self._done.is_set()

    async def wait(self) -> None:
        """Wait until the work has stopped."""
        await self._done.wait()

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            with self._scope:
                await work()
        except Exception:  # noqa: BLE001 - logged with its traceback
            # One job's bug must not cancel its siblings.
            _log.exception("a supervised job failed")
        finally:
            self._done.set()


class Supervisor:
    """Runs jobs until it is left; leaving cancels and awaits them all."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._group: TaskGroup | None = None
        self._started = asyncio.Event()
        self._stop = asyncio.Event()
        self._shared: dict[Any, Closeable] = {}

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._main(), name="clinvk-supervisor")
        await self._started.wait()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._task is not None:
            await asyncio.shield(self._task)
        for shared in self._shared.values():
            shared.close()
        self._shared.clear()

    def shared(self, make: type[C]) -> C:
        """Return the one object of a kind that all jobs share; it is closed after the last job."""
        found = self._shared.get(make)
        if not isinstance(found, make):
            found = self._shared[make] = make()
        return found

    def start(self, work: Callable[[], Awaitable[None]]) -> Job:
        """Start `work` and return its job; an exception in it is logged, not raised.

        Raises:
            RuntimeError: if the supervisor is not running.
        """
        if self._group is None:
            raise RuntimeError("the supervisor is not running")
        job = Job()
        self._group.start_soon(job._run, work)  # noqa: SLF001 - both classes are one mechanism
        return job

    async def _main(self) -> None:
        async with anyio.create_task_group() as group:
            self._group = group
            self._started.set()
            await self._stop.wait()
            self._group = None
            group.cancel_scope.cancel()
