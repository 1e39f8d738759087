"""What a key allows, counted: requests in a minute, and turns at once."""

import aiohttp
import anyio
import pytest

from clinvk.events import TextDelta
from clinvk.server.auth import Account
from tests.fakes.backend import ANSWER, ScriptBackend
from tests.keyed import HI, as_, entry, keyed, over
from tests.serving import API


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_requests_a_minute_are_limited_for_each_key() -> None:
    clock = Clock()
    limited = keyed(entry("alice", requests_per_minute=2), entry("bob"))
    async with over(limited, now=clock) as served:
        assert (await served.ask("alice"))[0] == 200
        clock.now += 20
        assert (await served.call("GET", f"{API}/models", headers=as_("alice")))[0] == 200
        for _ in range(3):  # what is refused does not count
            status, body, headers = await served.ask("alice")
            assert (status, body["error"]["code"]) == (429, "key_limit_exceeded")
            assert body["error"]["type"] == "rate_limit_error"
            assert (headers["Retry-After"], headers["x-should-retry"]) == ("40", "true")
        assert "'alice' may send 2 requests a minute; ask again in 40 s" in body["error"]["message"]
        assert (await served.ask("bob"))[0] == 200
        assert (await served.call("GET", "/health", headers=as_("alice")))[0] == 200
        clock.now += 39
        assert (await served.ask("alice"))[0] == 429
        clock.now += 1
        assert (await served.ask("alice"))[0] == 200
        assert (await served.ask("alice"))[0] == 429
    assert len(served.backend.turns) == 3


async def test_turns_at_once_are_limited_for_each_key() -> None:
    backend = ScriptBackend()
    hold = anyio.Event()
    backend.script = (hold, *ANSWER)
    limited = keyed(entry("alice", max_turns=2), entry("bob", max_turns=3))
    async with over(limited, backend) as served, anyio.create_task_group() as group:
        done: list[int] = []

        async def ask(name: str) -> None:
            done.append((await served.ask(name))[0])

        with anyio.fail_after(20):
            group.start_soon(ask, "alice")
            await backend.entered.wait()
            status, body, headers = await served.ask("alice", n=2)
            assert (status, body["error"]["code"]) == (429, "key_limit_exceeded")
            assert int(headers["Retry-After"]) >= 1
            status, body, headers = await served.ask("alice", n=3)
            assert (status, body["error"]["param"]) == (400, "n")
            assert headers["x-should-retry"] == "false"
            group.start_soon(ask, "bob")  # another key's turns are its own
            while backend.running < 2:
                await anyio.lowlevel.checkpoint()
            hold.set()
            while len(done) < 2:
                await anyio.lowlevel.checkpoint()
        assert done == [200, 200]
        assert (await served.ask("alice", n=2))[0] == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_gives_its_turns_back(stream: bool) -> None:
    backend = ScriptBackend()
    backend.script = (TextDelta("a"), anyio.Event())
    async with over(keyed(entry("alice", max_turns=1)), backend) as served:
        path = f"{served.url}{API}/chat/completions"
        with anyio.fail_after(20):
            async with aiohttp.ClientSession() as gone, anyio.create_task_group() as group:

                async def ask() -> None:
                    body = {**HI, "stream": stream}
                    async with gone.post(path, json=body, headers=as_("alice")) as response:
                        await response.read()

                group.start_soon(ask)
                await backend.entered.wait()
                assert (await served.ask("alice"))[0] == 429
                group.cancel_scope.cancel()
            await backend.left.wait()
            backend.script = ANSWER
            assert (await served.ask("alice"))[0] == 200


def test_a_limit_that_was_lowered_counts_at_once() -> None:
    clock = Clock()
    account = Account(clock)
    for _ in range(4):
        assert account.count_request(10) == 0
        clock.now += 10
    assert account.count_request(2) == 40  # until only one of the last minute is left
    clock.now += 40
    assert account.count_request(2) == 0


def test_when_a_turn_may_end_is_learnt_from_those_that_ended() -> None:
    clock = Clock()
    account = Account(clock)
    assert account.free_in_s == 1
    with account.run(1):
        assert account.free_in_s == 5
        clock.now += 45
        assert account.free_in_s == 1
    with account.run(2):
        clock.now += 4
        assert (account.running, account.free_in_s) == (2, 11)
    assert account.running == 0
