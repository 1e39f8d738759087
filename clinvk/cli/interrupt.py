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
        self._heard: list[signal.Signals] = []

    def __enter__(self) -> Self:
        # What is ignored stays so: nohup and shells start programs like that on purpose.
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        loop = asyncio.get_running_loop()
        for number in heard:
            loop.add_signal_handler(number, self._take, number)
        self._heard = heard
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in self._heard:
            loop.remove_signal_handler(number)

    def _take(self, number: signal.Signals) -> None:
        self.number = self.number or number
        self.scope.cancel()
