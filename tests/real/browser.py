"""A real Chromium without a screen, driven over its DevTools protocol."""

import asyncio
import itertools
import re
import subprocess
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio

HERE = Path(__file__).parent
UNPACKED = HERE / "node_modules" / ".chromium"
WAIT_S = 60
NAMES = ("evil.example", "rebound.example")  # all of them are this machine

ARGUMENTS = (
    "--headless=shell",
    "--no-sandbox",  # tests may run as root
    "--no-zygote",
    "--single-process",
    "--in-process-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--disable-dev-shm-usage",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    # Browsers begin to keep pages from loopback by themselves; the server must not need them to.
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",
    f"--host-resolver-rules={','.join(f'MAP {name} 127.0.0.1' for name in NAMES)}",
    "--remote-debugging-port=0",
)


def chromium() -> Path:
    """Return the folder of the browser, unpacked at the first use."""
    if not UNPACKED.exists():
        subprocess.run(["node", HERE / "chromium.mjs", UNPACKED], check=True, timeout=WAIT_S * 2)
    for name in ("gl.tar", "lib.tar"):
        if not (UNPACKED / f"{name}.done").exists():
            with tarfile.open(UNPACKED / name) as archive:
                archive.extractall(UNPACKED, filter="data")
            (UNPACKED / f"{name}.done").touch()
    return UNPACKED


class Page:
    """A tab of the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)

    async def open(self, url: str) -> None:
        """Show a page and wait until it is there."""
        with anyio.fail_after(WAIT_S):
            await self._call("Page.enable")
            await self._call("Page.navigate", url=url)
            while (await self._socket.receive_json()).get("method") != "Page.loadEventFired":
                pass

    async def run(self, script: str) -> Any:
        """Run the body of an async function in the page and return its result."""
        with anyio.fail_after(WAIT_S):
            answer = await self._call(
                "Runtime.evaluate",
                expression=f"(async () => {{ {script} }})()",
                awaitPromise=True,
                returnByValue=True,
            )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])


@asynccontextmanager
async def browsing(folder: Path) -> AsyncIterator[Page]:
    """Start a browser whose profile is in `folder`, and give its tab."""
    unpacked = chromium()
    process = await asyncio.create_subprocess_exec(
        unpacked / "chromium",
        *ARGUMENTS,
        f"--user-data-dir={folder / 'profile'}",
        "about:blank",
        stderr=subprocess.PIPE,
        env={"HOME": str(folder), "LD_LIBRARY_PATH": str(unpacked / "lib")},
    )
    try:
        async with aiohttp.ClientSession() as http:
            with anyio.fail_after(WAIT_S):
                url = await _tab(process, http)
            async with http.ws_connect(url, max_msg_size=0) as socket:
                yield Page(socket)
    finally:
        process.kill()
        await process.wait()


async def _tab(process: asyncio.subprocess.Process, http: aiohttp.ClientSession) -> str:
    """The address of the only tab, once the browser has told where it is."""
    assert process.stderr is not None
    told = b""
    while not (found := re.search(rb"listening on ws://([\d.:]+)/", told)):
        line = await process.stderr.readline()
        assert line, told
        told += line
    async with http.get(f"http://{found[1].decode()}/json/list") as reply:
        (tab,) = await reply.json(content_type=None)
    return str(tab["webSocketDebuggerUrl"])
