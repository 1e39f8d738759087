"""The first token of the real CLIs: through clinvk, by a bare harness, and by a spawn a request.

The three by turns, each once all is quiet again after the one before: what a server does in the
background for the next request is nobody's wait, but must not fall on another's measurement.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count

from benchmarks import cold, processes, real
from benchmarks.bare import BARE, LATE, Bare
from benchmarks.client import Client
from benchmarks.fake_codex import expected
from benchmarks.processes import BenchmarkError
from benchmarks.progress import Progress
from benchmarks.quiet import quiet
from benchmarks.real import Start
from benchmarks.results import Figure, Part, figure
from benchmarks.stats import ratio, spread
from benchmarks.told import Told

MOST_OF_BARE = 1.15
LEAST_OF_COLD = {"claude": 7, "codex": 2.5, "gemini": 25}
WAYS = ("clinvk", "bare", "late", "cold")
CASES = {"new": "new conversation", "second": "second turn", "idle": "new, after idle"}
_TITLES = {"late": "bare set up late"}
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Size:
    """How often each is asked, after how many seconds of nothing, in how many deltas."""

    clis: tuple[str, ...] = real.NAMES
    rounds: int = 15
    idle_rounds: int = 5
    idle_s: int = 10
    deltas: int = 5


QUICK = Size(rounds=2, idle_rounds=1, idle_s=1)

Rows = dict[tuple[str, str], list[Told]]


def measure(size: Size, progress: Progress, *, quick: bool) -> Part:
    """Measure each CLI, and return the figures."""
    figures: list[Figure] = []
    for name in size.clis:
        real.program(name)
    for name in size.clis:
        with ExitStack() as stack:
            where = stack.enter_context(processes.place())
            upstream = stack.enter_context(processes.module(where, "upstream", name))
            with real.noted(where, name, upstream.url) as start:
                copies = {way: start.moved(where.folder / way) for way in WAYS if way != "clinvk"}
            backends = {name: real.backend(name, upstream.url)}
            server = stack.enter_context(processes.serve(where, backends))
            real.ask_once(server, name)
            with progress.task(f"first token, {name}", size.rounds + size.idle_rounds) as step:
                rows = asyncio.run(_Race(name, server.url, copies, size).run(step))
        figures += told(name, rows)
    settings = {"rounds": size.rounds, "idle for": f"{size.idle_s} s", "deltas": size.deltas}
    return Part("first-token", tuple(figures), settings, quick=quick)


class _Race:
    """One CLI, asked in three ways."""

    def __init__(self, name: str, url: str, starts: dict[str, Start], size: Size) -> None:
        self._name = name
        self._client = Client(url, name)
        self._bare: Bare = BARE[name](starts["bare"])
        self._late: Bare | None = LATE[name](starts["late"]) if name in LATE else None
        self._once = starts["cold"]
        self._size = size
        self._tokens = count()
        self._rows: Rows = defaultdict(list)

    async def run(self, step: Callable[[], None]) -> Rows:
        """Run all rounds."""
        try:
            await self._round(timed=False)
            for _ in range(self._size.rounds):
                await self._round(timed=True)
                step()
            for _ in range(self._size.idle_rounds):
                await self._idle_round()
                step()
        finally:
            self._client.close()
            for harness in self._harnesses():
                await harness.stop()
        return self._rows

    async def _round(self, *, timed: bool) -> None:
        rows: Rows = self._rows if timed else defaultdict(list)
        await self._through_clinvk(rows, "new", "second")
        first = self._asked()
        await self._take(rows, "new", "bare", first, lambda: self._bare.new(first))
        second = self._asked()
        await self._take(rows, "second", "bare", second, lambda: self._bare.again(second))
        if self._late is not None:
            await self._take(rows, "new", "late", first, partial(self._late.new, first))
        await self._take(rows, "new", "cold", first, lambda: self._cold(first))
        # One shot takes no roles: the conversation so far is a text to it, as in most bridges.
        so_far = f"user: {first}\nassistant: {expected(first)}\nuser: {second}"
        await self._take(rows, "second", "cold", second, lambda: self._cold(so_far))

    async def _idle_round(self) -> None:
        await quiet()
        await asyncio.sleep(self._size.idle_s)
        await self._through_clinvk(self._rows, "idle")
        asked = self._asked()
        await quiet()
        await self._bare.prepare()
        await quiet()
        await asyncio.sleep(self._size.idle_s)
        await self._take(self._rows, "idle", "bare", asked, lambda: self._bare.new(asked))

    async def _through_clinvk(self, rows: Rows, *cases: str) -> None:
        messages: list[dict[str, str]] = []
        for case in cases:
            asked = self._asked()
            messages.append({"role": "user", "content": asked})
            told = await self._take(rows, case, "clinvk", asked, lambda: self._client.ask(messages))
            messages.append({"role": "assistant", "content": told.text})

    async def _take(
        self, rows: Rows, case: str, way: str, asked: str, ask: Callable[[], Awaitable[Told]]
    ) -> Told:
        """Ask once all is quiet; an answer that is not right is none."""
        if case == "new":
            for harness in self._harnesses():
                await harness.prepare()
        if case != "idle":
            await quiet()
        told = await ask()
        if told.text != expected(asked):
            raise BenchmarkError(f"{self._name} {way}: {told.text!r} is no answer to {asked!r}")
        rows[case, way].append(told)
        return told

    def _harnesses(self) -> list[Bare]:
        return [self._bare, *([] if self._late is None else [self._late])]

    async def _cold(self, asked: str) -> Told:
        return await cold.ask(self._name, self._once, asked)

    def _asked(self) -> str:
        return f"{self._size.deltas} token-{next(self._tokens)}"


def told(name: str, rows: Rows) -> Iterator[Figure]:
    """Yield the figures of one CLI's race; what was not asked is left out."""
    for case, title in CASES.items():
        first = {
            way: [each.first_s * _MS for each in rows[case, way]]
            for way in WAYS
            if rows.get((case, way))
        }
        whole = {way: [each.whole_s * _MS for each in rows[case, way]] for way in first}
        if "clinvk" not in first:
            continue
        at = f"{name}, {title}"
        courses = {each.course for each in rows[case, "clinvk"]} - {""}
        note = "x-clinvk-turn: " + ", ".join(sorted(courses))
        for way, values in first.items():
            yield figure(
                f"{at}: first token, {_TITLES.get(way, way)}",
                spread(values),
                "ms",
                note="" if way != "clinvk" else note,
            )
        yield figure(
            f"{at}: first token, clinvk / bare",
            ratio(first["clinvk"], first["bare"]),
            "",
            f"<= {MOST_OF_BARE}",
        )
        yield figure(f"{at}: whole turn, clinvk / bare", ratio(whole["clinvk"], whole["bare"]), "")
        if "late" in first:
            yield figure(
                f"{at}: first token, clinvk / bare set up late",
                ratio(first["clinvk"], first["late"]),
                "",
            )
        if "cold" in first:
            target = f">= {LEAST_OF_COLD[name]}" if case == "new" else None
            yield figure(
                f"{at}: first token, cold / clinvk",
                ratio(first["cold"], first["clinvk"]),
                "",
                target,
            )
