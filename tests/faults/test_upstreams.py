"""A server with OpenAI's GONE that misbehaves: one right answer, one error, or its own word.

Each fault is asked for in four ways: passed on, to a client of the same GONE, and translated, to
one of Anthropic's; streamed and whole. What passes on is told as it is, or its connection ends.
"""

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from clinvk import config, events
from clinvk.backends import openai_http, openai_upstream
from clinvk.server import handlers
from clinvk.server.app import create_app
from clinvk.service import Service
from tests.faults.books import HUNG_S, Books, until
from tests.faults.conftest import ANSWER, Outcome, streamed, whole
from tests.faults.upstream import FAULTS, Upstream
from tests.serving import API, serving

WAYS = ("passed streamed", "passed whole", "translated streamed", "translated whole")
BUG = "its log says why"
CUT = "cut"  # the connection ended within the reply
PASSED = "passed"  # what the server said was told, and is no right answer
RIGHT: set[str] = set()
OWN, GONE = {PASSED}, {"api_error"}
LOST = ({"upstream_unreachable", "upstream_error"}, GONE)
BROKEN = ({CUT, "upstream_unreachable"}, GONE)  # by whether the head was seen before
LATE = ({CUT, "timeout"}, {"timeout_error"})


@dataclass
class World:
    """A clinvk before one such server."""

    up: Upstream
    app: web.Application
    url: str
    http: aiohttp.ClientSession
    books: Books

    @property
    def service(self) -> Service:
        return self.app[handlers.SERVICE]

    async def ask(self, way: str, fault: str = "none") -> Outcome:
        """Ask in one of the ways, and see that the reply has one end of one kind."""
        passed, stream = way.startswith("passed"), way.endswith("streamed")
        path = f"{API}/chat/completions" if passed else "/anthropic/v1/messages"
        messages = [{"role": "user", "content": f"fault={fault}"}]
        body = {"model": "up/m", "messages": messages, "stream": stream, "max_tokens": 10**9}
        with anyio.fail_after(HUNG_S):
            async with self.http.post(self.url + path, json=body) as response:
                try:
                    data = await response.read()
                except aiohttp.ClientPayloadError:
                    return Outcome("", CUT)
        read = passed_on if passed else translated
        return read(response, data, stream=stream)

    async def in_every_way(self, *faults: str) -> dict[tuple[str, str], Outcome]:
        """Ask for faults in all ways at once."""
        found: dict[tuple[str, str], Outcome] = {}

        async def ask(fault: str, way: str) -> None:
            found[fault, way] = await self.ask(way, fault)

        async with anyio.create_task_group() as group:
            for fault in faults:
                for way in WAYS:
                    group.start_soon(partial(ask, fault, way))
        return found

    async def at_rest(self) -> None:
        await until(lambda: not self.up.busy, lambda: self.up.asked)
        await self.books.at_rest(self.app, processes=0)


def passed_on(response: aiohttp.ClientResponse, data: bytes, *, stream: bool) -> Outcome:
    """What a client of the same GONE has got."""
    after = response.headers.get("Retry-After")
    if response.headers.get("x-clinvk-turn") != "relayed":
        error = json.loads(data)["error"]
        return Outcome("", error["code"], error["message"], response.status, after)
    with suppress(ValueError, AssertionError, LookupError, TypeError, RecursionError):
        found = streamed(data.decode()) if stream else whole(json.loads(data))
        if found.right and response.status == 200:
            return found
    return Outcome("", PASSED, data.decode("utf-8", "replace"), response.status, after)


def translated(response: aiohttp.ClientResponse, data: bytes, *, stream: bool) -> Outcome:
    """What a client of Anthropic's has got."""
    if response.status != 200:
        error = json.loads(data)["error"]
        after = response.headers.get("Retry-After")
        return Outcome("", error["type"], error["message"], response.status, after)
    if not stream:
        told = json.loads(data)
        assert told["stop_reason"] == "end_turn"
        return Outcome("".join(block["text"] for block in told["content"]))
    lines = [line for line in data.decode().splitlines() if line.startswith("data: ")]
    frames = [json.loads(line.removeprefix("data: ")) for line in lines]
    deltas = [f["delta"] for f in frames if f["type"] == "content_block_delta"]
    text = "".join(delta["text"] for delta in deltas)
    ends = [f["type"] for f in frames if f["type"] in ("message_stop", "error")]
    assert ends == [frames[-1]["type"]]
    if ends == ["error"]:
        return Outcome(text, frames[-1]["error"]["type"], frames[-1]["error"]["message"])
    return Outcome(text)


@asynccontextmanager
async def made(path: Path, up: Upstream | None = None, **settings: Any) -> AsyncIterator[World]:
    """Serve such a server; when it is left, nothing may be left of it."""
    (path / "temp").mkdir(exist_ok=True)
    async with (up or Upstream()).running() as upstream:
        backend = {"kind": "openai", "base_url": upstream.url, "api_key": "sk-up", **settings}
        parsed = config.Config.model_validate({"backends": {"up": backend}})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(path / "temp"))
            patch.setattr(openai_http, "RETRY_S", 0.01)
            books = Books(path / "temp")
            app = create_app(parsed)
            async with serving(app) as url, aiohttp.ClientSession() as http:
                yield World(upstream, app, url, http, books)
            await until(lambda: not upstream.connections, lambda: upstream.connections)
            await books.balanced()


# What each fault is to those who asked: with the request passed on, and translated.
CODES: dict[str, tuple[set[str], set[str]]] = {
    "none": (RIGHT, RIGHT),
    **dict.fromkeys(("die-before", "reset-before", "cut-head", "no-http", "endless-head"), LOST),
    **dict.fromkeys(("redirects", "moved", "two-lengths", "switches"), LOST),
    **dict.fromkeys(("hang-before", "half-a-head", "hang-during", "hang-after-head"), LATE),
    **dict.fromkeys(("die-during", "reset-during", "bad-chunk", "long-body"), BROKEN),
    # Whoever has heard the end of an answer needs no end of its connection.
    **dict.fromkeys(("no-end", "short-length"), (LATE[0] | BROKEN[0], RIGHT)),
    **dict.fromkeys(("early-hints", "dies-after", "resets-after", "byte-by-byte"), (RIGHT, RIGHT)),
    **dict.fromkeys(("noise", "bad-utf8"), (OWN, RIGHT)),
    **dict.fromkeys(
        ("half-an-event", "unfinished", "calls", "error-during", "status-during"), (OWN, GONE)
    ),
    **dict.fromkeys(("nothing", "html", "null", "list", "empty-object", "half-json"), (OWN, GONE)),
    **dict.fromkeys(("no-choices", "gzip", "deep", "500", "500-html", "999"), (OWN, GONE)),
    **dict.fromkeys(("503", "503-and-after", "error-at-200"), (OWN, {"overloaded_error"})),
    **dict.fromkeys(("429", "429-and-after"), (OWN, {"rate_limit_error"})),
}
TEXTS = {"bad-utf8": "Hello\ufffd w\u00f6rld \U0001f30d"}
ENDLESS: dict[str, tuple[set[str], set[str]]] = {
    "endless": (LATE[0] | BROKEN[0], GONE),
    "endless-line": (LATE[0] | BROKEN[0], GONE),
    "endless-calls": (LATE[0] | BROKEN[0], GONE),
    "endless-body": (LATE[0] | BROKEN[0], GONE),
    "endless-error": (LATE[0] | BROKEN[0], GONE),
}
HANGS = {fault for fault, codes in CODES.items() if codes is LATE} | {"no-end"}
PATIENCE = {"first_s": 0.5, "silence_s": 0.5, "timeout_s": 1.0}


def wrong(found: dict[tuple[str, str], Outcome]) -> list[str]:
    """Those that are not as they must be."""
    return [
        f"{fault}, {way}: {outcome.code} {outcome.message[:80]} {outcome.text[:50]!r}"
        for (fault, way), outcome in found.items()
        if not fits(fault, way, outcome)
    ]


def fits(fault: str, way: str, found: Outcome) -> bool:
    codes = {**CODES, **ENDLESS}[fault][way.startswith("translated")]
    if codes:
        return found.code in codes and BUG not in found.message
    return found.code is None and found.text == TEXTS.get(fault, ANSWER)


async def test_one_answer_or_one_error_and_nothing_left(tmp_path: Path) -> None:
    assert {*CODES, *ENDLESS} == set(FAULTS)
    async with made(tmp_path, max_concurrency=512) as world:
        found = await world.in_every_way(*(set(CODES) - HANGS))
        assert wrong(found) == []
        for (fault, _), outcome in found.items():
            assert outcome.retry_after == ("7" if fault.endswith("-and-after") else None)
        assert wrong(await world.in_every_way("none")) == []
        await world.at_rest()


async def test_who_hangs_is_given_up_and_nothing_left(tmp_path: Path) -> None:
    async with made(tmp_path, **PATIENCE) as world:
        assert wrong(await world.in_every_way(*HANGS)) == []
        assert wrong(await world.in_every_way("none")) == []
        await world.at_rest()


@pytest.mark.parametrize("fault", ENDLESS)
async def test_what_has_no_end_is_given_up(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "ANSWER_CHARS", 1_000_000)
    monkeypatch.setattr(openai_upstream, "LINE_BYTES", 1_000_000)
    async with made(tmp_path, **{**PATIENCE, "timeout_s": 0.5}) as world:
        found = await world.in_every_way(fault)
        assert wrong(found) == []
        translated = [each.status for (_, way), each in found.items() if way == WAYS[3]]
        assert translated == [502]
        await world.at_rest()
