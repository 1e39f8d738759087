"""A server in a thread of its own, for clients that know no event loop."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import anyio

from clinvk.config import (
    Config,
    EchoConfig,
    EmbeddingsConfig,
    FilesConfig,
    ServerConfig,
    StoreConfig,
)
from clinvk.server.app import create_app
from tests.serving import serving

LONG_S = 20.0  # a guard against hanging tests, not a measure
CONFIG = Config(
    server=ServerConfig(store=StoreConfig(path=":memory:"), max_body_mb=1),
    backends={
        "echo": EchoConfig(kind="echo", max_concurrency=1024, max_queue=65_536),
        "embeddings": EmbeddingsConfig(kind="embeddings"),
    },
    aliases={"m": "echo"},
)


@contextmanager
def served() -> Iterator[str]:
    """Serve until it is left; gives the address. Files are kept in a folder that goes with it."""
    addresses: list[str] = []
    up = threading.Event()
    leave: list[anyio.Event] = []
    loops: list[anyio.from_thread.BlockingPortal] = []

    async def run() -> None:
        async with anyio.from_thread.BlockingPortal() as portal:
            leave.append(anyio.Event())
            async with serving(create_app(config)) as url:
                addresses.append(url)
                loops.append(portal)
                up.set()
                await leave[0].wait()

    folder = TemporaryDirectory()
    server = CONFIG.server.model_copy(update={"files": FilesConfig(path=folder.name)})
    config = CONFIG.model_copy(update={"server": server})
    thread = threading.Thread(target=anyio.run, args=(run,))
    thread.start()
    try:
        assert up.wait(LONG_S)
        yield addresses[0]
    finally:
        if loops:
            loops[0].start_task_soon(leave[0].set)
        thread.join(LONG_S)
        folder.cleanup()


def exchange(url: str, sent: bytes, *, quiet_s: float = 0.0) -> bytes:
    """Send bytes on a connection of its own and return what comes until the other side closes.

    With `quiet_s` the wait ends when nothing has come for so long.
    """
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=LONG_S) as connection:
        received = b""
        try:
            connection.sendall(sent)
            connection.settimeout(quiet_s or LONG_S)
            while chunk := connection.recv(65_536):
                received += chunk
        except (ConnectionError, BrokenPipeError):
            pass  # it was refused before its end
        except TimeoutError:
            assert quiet_s, f"no answer and no end to {sent[:200]!r}"
        return received
