"""The real CLIs killed, stopped and left behind: typed errors, answers after, and nothing left."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import aiohttp
import anyio
import psutil
import pytest
import yaml

from clinvk.backends.gemini_tools import PREFIX
from tests.fakes.api import Reply
from tests.faults.books import Books, until
from tests.real.bridge import FAKES, Bridge, alone, bridge, clean_environment, settings

pytestmark = pytest.mark.real
HANG_S = 60  # a guard, never reached by a test that passes
ROOT = Path(__file__).parents[2]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def call(name: str) -> Reply:
    """The model calls f, by the name that it knows it by."""
    return Reply(text=(), tool_calls=((f"{PREFIX}f" if name == "gemini" else "f", {}),))


@pytest.fixture(params=["claude", "codex", "gemini"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def served(
    name: str, home: Path, patch: pytest.MonkeyPatch, **limits: Any
) -> AsyncIterator[Bridge]:
    """Serve a real CLI; nothing may be left of it."""
    alone(home, patch)
    books = Books(home.parent / "tmp")
    async with bridge(name, home, **limits) as running:
        yield running
    await books.balanced()


def at_home(home: Path) -> list[psutil.Process]:
    """Every process of this machine with this home that is no server of ours."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get("HOME") == str(home)
            if mine and "clinvk" not in process.cmdline()[:3]:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def send(home: Path, number: signal.Signals) -> None:
    """Signal every process of the CLI."""
    for process in at_home(home):
        process.send_signal(number)


async def error_in(response: aiohttp.ClientResponse) -> str:
    """Return the code of the one error in a stream that must not end as if it were whole."""
    data = (await response.read()).decode()
    assert '"finish_reason": "' not in data
    [error] = [line for line in data.split("\n\n") if line.startswith('data: {"error"')]
    return str(json.loads(error.removeprefix("data: "))["error"]["code"])


async def test_a_cli_that_is_stopped_is_given_up_and_replaced(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(name, home, monkeypatch, silence_s=2.0) as bridge:
        bridge.fake.answer(Reply(text=("one", " two"), hold=1), Reply())
        with anyio.fail_after(HANG_S):
            async with bridge.post(stream=True) as response:
                assert b"one" in await response.content.readuntil(b"one")
                send(home, signal.SIGSTOP)
                assert await error_in(response) == "timeout"
            bridge.fake.release.set()
            async with bridge.post() as response:
                assert response.status == 200, await response.text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_cli_that_dies_while_it_waits_is_replaced_unseen(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """Parked on a call, and idle after an answer."""
    async with served(name, home, monkeypatch) as bridge:
        bridge.fake.answer(call(name), Reply())
        asked = {"role": "user", "content": "hi"}
        with anyio.fail_after(HANG_S):
            async with bridge.post(tools=TOOLS) as response:
                reply = (await response.json())["choices"][0]["message"]
            [made] = reply["tool_calls"]
            send(home, number)
            messages = [asked, reply, {"role": "tool", "tool_call_id": made["id"], "content": "1"}]
            async with bridge.post(tools=TOOLS, messages=messages) as response:
                answer = (await response.json())["choices"][0]["message"]
            assert answer["content"] == "Hello from the fake."
            send(home, number)
            messages += [answer, {"role": "user", "content": "and?"}]
            async with bridge.post(tools=TOOLS, messages=messages) as response:
                assert response.status == 200, await response.text()
                assert (await response.json())["choices"][0]["finish_reason"] == "stop"
        assert bridge.courses[0] == "new"
        # A CLI that has not yet noticed its signal may still answer.
        assert bridge.courses[1] in {"replayed", "resumed"}
        assert bridge.courses[2] in {"new", "continued"}


async def test_a_cli_that_dies_before_it_answers_is_one_error(
    name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(name, home, monkeypatch) as bridge:
        bridge.fake.answer(Reply(hold=0), Reply())
        with anyio.fail_after(HANG_S):
            asked = asyncio.ensure_future(bridge.post(stream=True).__aenter__())
            await until(lambda: bridge.fake.open == 1, lambda: bridge.fake.requests)
            send(home, signal.SIGKILL)
            response = await asked
            if response.status == 200:
                assert await error_in(response) == "cli_crashed"
            else:
                assert (await response.json())["error"]["code"] == "cli_crashed"
            bridge.fake.release.set()
            async with bridge.post() as response:
                assert response.status == 200, await response.text()


@pytest.fixture
def left(home: Path) -> Iterator[None]:
    """Whatever a failed test leaves is ended."""
    yield
    send(home, signal.SIGKILL)


@asynccontextmanager
async def clinvk_serve(
    name: str, home: Path, fake: Any
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run `clinvk serve` as a user does, and give its address."""
    path = home.parent / "backends.yaml"
    path.write_text(yaml.safe_dump({"backends": {name: settings(name, fake, home)}}))
    (home.parent / "tmp").mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "clinvk", "serve", "--port", "0", "--config", str(path)),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=DEVNULL,
        env={**clean_environment(home), "PYTHONPATH": str(ROOT)},
        cwd=home.parent,
    )
    assert process.stdout is not None
    try:
        line = (await process.stdout.readuntil(b"/openai/v1")).decode()
        yield process, line[line.rindex("http") :]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.usefixtures("left")
async def test_a_killed_server_takes_every_cli_along(name: str, home: Path) -> None:
    """One in a turn, one parked, one idle, and those that were started ahead."""
    async with FAKES[name]().running() as fake:
        fake.answer(Reply(), call(name), Reply(text=("one", " two"), hold=1))
        with anyio.fail_after(HANG_S):
            async with (
                clinvk_serve(name, home, fake) as (server, url),
                aiohttp.ClientSession() as http,
            ):
                body = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
                address = f"{url}/chat/completions"
                async with http.post(address, json=body) as response:
                    assert response.status == 200, await response.text()
                async with http.post(address, json={**body, "tools": TOOLS}) as response:
                    assert response.status == 200, await response.text()
                async with http.post(address, json={**body, "stream": True}) as response:
                    await response.content.readuntil(b"one")
                    held = at_home(home)
                    assert len(held) >= (3 if name == "claude" else 1)
                    server.kill()
                    with pytest.raises(aiohttp.ClientError):
                        await response.read()
                await until(lambda: not at_home(home), lambda: at_home(home))
            temp = home.parent / "tmp"
            kept = {path.name for path in temp.glob("clinvk-*")}
            assert kept
            fake.release.set()
            fake.answer(Reply())
            async with (
                clinvk_serve(name, home, fake) as (server, url),
                aiohttp.ClientSession() as http,
                http.post(f"{url}/chat/completions", json=body) as response,
            ):
                # The next server removes what the killed one could not.
                assert response.status == 200, await response.text()
                assert not kept & {path.name for path in temp.glob("clinvk-*")}
                server.terminate()
                await server.wait()
            await until(lambda: not at_home(home), lambda: at_home(home))
            assert not list(temp.glob("clinvk-*"))
