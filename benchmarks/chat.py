"""A long chat: what each turn sends and takes, continued where it was against told anew.

Two servers, one of which keeps no conversation, are asked the same by turns. What goes up to the
model API is weighed there; what clinvk tells the CLI, by what its process writes to its pipes.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import psutil

from benchmarks import processes, real
from benchmarks.client import Client
from benchmarks.fake_codex import expected
from benchmarks.processes import BenchmarkError, Place, Server
from benchmarks.progress import Progress
from benchmarks.quiet import quiet
from benchmarks.results import Figure, Part, figure
from benchmarks.stats import ratio, spread

WAYS = {"continued": {}, "new": {"max_idle": 0}}
_MS = 1000.0
_LAST = 10  # turns, whose times count as those of a long chat
_SENTENCE = "A long chat has long questions, of which this is one. "


@dataclass(frozen=True, slots=True)
class Size:
    """How many turns, how long each question is in bytes, and each answer in deltas."""

    clis: tuple[str, ...] = real.NAMES
    turns: int = 50
    question: int = 800
    deltas: int = 50


QUICK = Size(turns=4)


@dataclass
class Row:
    """What each turn of a chat sent and took: bytes and milliseconds."""

    up: list[int] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)
    down: list[int] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    courses: Counter[str] = field(default_factory=Counter)


class _Chat:
    """One chat with one server."""

    def __init__(self, name: str, server: Server, upstream: Server) -> None:
        self.row = Row()
        self._client = Client(server.url, name)
        self._server = psutil.Process(server.pid)
        self._upstream = upstream
        self._messages: list[dict[str, str]] = []

    async def turn(self, asked: str, size: Size) -> None:
        """Ask once more."""
        before = _SENTENCE * (size.question // len(_SENTENCE))
        self._messages.append({"role": "user", "content": before + asked})
        self._upstream.ask("")
        written = _written(self._server)
        told = await self._client.ask(self._messages)
        self.row.down.append(_written(self._server) - written)
        if told.text != expected(asked):
            raise BenchmarkError(f"{told.text!r} is no answer to {asked!r}")
        self._messages.append({"role": "assistant", "content": told.text})
        sent = self._upstream.ask("")
        self.row.up.append(sum(request["bytes"] for request in sent))
        self.row.fresh.append(sum(request["bytes"] - request["same"] for request in sent))
        self.row.first_ms.append(told.first_s * _MS)
        self.row.whole_ms.append(told.whole_s * _MS)
        self.row.courses[told.course] += 1

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def measure(size: Size, progress: Progress, *, quick: bool) -> Part:
    """Chat with each CLI in both ways, and return the figures."""
    versions = real.versions(size.clis)
    figures: list[Figure] = []
    for name in size.clis:
        with ExitStack() as stack, progress.task(f"chat, {name}", size.turns) as step:
            chats = {way: _begin(stack, name, way) for way in WAYS}
            asyncio.run(_talk(chats, size, step))
        figures += told(name, {way: chat.row for way, chat in chats.items()})
    settings = {
        **versions,
        "turns": size.turns,
        "bytes in a question": size.question,
        "deltas in an answer": size.deltas,
    }
    return Part("chat", tuple(figures), settings, quick=quick)


def _begin(stack: ExitStack, name: str, way: str) -> _Chat:
    where: Place = stack.enter_context(processes.place())
    upstream = stack.enter_context(processes.module(where, "upstream", name))
    real.log_in(where)
    backends = {name: {**real.backend(name, upstream.url), **WAYS[way]}}
    server = stack.enter_context(processes.serve(where, backends))
    real.ask_once(server, name)
    return _Chat(name, server, upstream)


async def _talk(chats: dict[str, _Chat], size: Size, step: Callable[[], None]) -> None:
    try:
        for number in range(size.turns):
            for chat in list(chats.values())[:: 1 if number % 2 else -1]:
                await quiet(still_s=0.1)
                await chat.turn(f"{size.deltas} token-{number}", size)
            step()
    finally:
        for chat in chats.values():
            chat.close()


def _written(process: psutil.Process) -> int:
    """Bytes written to files and pipes so far, but not to sockets; 0 where nobody counts them."""
    counters = getattr(process, "io_counters", None)
    return int(counters().write_chars) if counters is not None else 0


def told(name: str, rows: dict[str, Row]) -> Iterator[Figure]:
    """Yield the figures of a chat that was continued, and of one that began anew each turn."""
    ours, anew = rows["continued"], rows["new"]
    turns = len(ours.up)
    yield Figure(
        f"{name}: turns that went on",
        ours.courses["continued"],
        "",
        n=turns,
        target=f"= {turns - 1}",
        note=f"of the other chat {anew.courses['continued']}",
    )
    for title, key in (
        ("sent up to the model API", "up"),
        ("sent up that the turn before had not", "fresh"),
        ("told to the CLI", "down"),
    ):
        last, other = getattr(ours, key)[-1], getattr(anew, key)[-1]
        yield Figure(
            f"{name}: {title} in turn {turns}, continued", last, "bytes", note=f"new: {other}"
        )
        if other:
            yield Figure(f"{name}: {title} in turn {turns}, continued / new", last / other, "")
    late = slice(max(1, turns - _LAST), None)
    for title, mine, others in (
        ("first token", ours.first_ms[late], anew.first_ms[late]),
        ("whole turn", ours.whole_ms[late], anew.whole_ms[late]),
    ):
        yield figure(f"{name}: {title} of the last turns, continued", spread(mine), "ms")
        yield figure(f"{name}: {title} of the last turns, new", spread(others), "ms")
        yield figure(f"{name}: {title} of the last turns, continued / new", ratio(mine, others), "")
