"""Signals that end a command, turned into one cancellation."""

import asyncio
import signal
from types import TracebackType
from typing import Self

import anyio

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """While it is entered, the first signal cancels `scope`; later ones are ignored.

    Ignored, because what follows is the bounded stopping of children, and to break that off
    would leave them running.
    """

    def __init__(self) -> None:
        self.scope = anyio.CancelScope()
        self.number = 0

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._take, number)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    def _take(self, number: int) -> None:
        self.number = self.number or number
        self.scope.cancel()
