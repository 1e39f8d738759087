"""The server from its first listening socket to its last child."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
from aiohttp import web

from clinvk.config import Config, ServerConfig
from clinvk.server import auth, handlers
from clinvk.server.access import broken_requests
from clinvk.server.app import OPENAI_PREFIX, SETTINGS
from clinvk.server.listening import listening
from clinvk.service import Service

CLOSE_TIMEOUT_S = 5.0  # for handlers to send their last frames after their turns were stopped


async def serve(
    app: web.Application,
    server: ServerConfig,
    ready: Callable[[str, Service], Coroutine[Any, Any, None]],
    reload: Callable[[], Config | None] = lambda: None,
) -> None:
    """Listen, call `ready` with the API's address, and serve until SIGINT or SIGTERM.

    After a signal running turns may finish for `grace_s`; a second signal ends them at once.
    SIGHUP applies what `reload` returns, if anything; from a terminal that is gone it ends all.

    Raises:
        ListenError: if the address cannot be listened on, or must not be without keys.
    """
    with listening(server, keyed=app[auth.KEYRING].required) as listener:
        runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            logger=broken_requests,
            shutdown_timeout=CLOSE_TIMEOUT_S,
        )
        await runner.setup()
        try:
            sites = [web.SockSite(runner, s, ssl_context=listener.tls) for s in listener.sockets]
            for site in sites:
                await site.start()
            gc.freeze()  # what the start left is not looked through again: some 40 ms a time
            service = app[handlers.SERVICE]
            terminal = _has_terminal()
            with _signals() as signals:
                address = listener.address + ("" if listener.path else OPENAI_PREFIX)
                announced = asyncio.create_task(ready(address, service))
                while await signals.get() == signal.SIGHUP and not _hung_up(terminal):
                    config = reload()
                    if config is not None:
                        app[SETTINGS].apply(config)
                announced.cancel()
                listener.withdraw()
                for site in sites:
                    await site.stop()
                await _drain(service, server.grace_s, signals)
        finally:
            await runner.cleanup()


async def _drain(service: Service, grace_s: float, signals: "asyncio.Queue[int]") -> None:
    async with anyio.create_task_group() as group:

        async def second_signal() -> None:
            await signals.get()
            service.stop_turns()

        group.start_soon(second_signal)
        await service.drain(grace_s)
        group.cancel_scope.cancel()


def _has_terminal() -> bool:
    with contextlib.suppress(OSError), Path("/dev/tty").open():
        return True
    return False


def _hung_up(terminal: bool) -> bool:
    """Whether a SIGHUP says that the terminal is gone, which there was at the start."""
    return terminal and not _has_terminal()


@contextlib.contextmanager
def _signals() -> Iterator["asyncio.Queue[int]"]:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[int] = asyncio.Queue()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it on purpose
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, queue.put_nowait, number)
    try:
        yield queue
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
