"""The first token of the real CLIs: through clinvk, by a bare harness, and by a spawn a request.

The three by turns, each once all is quiet again after the one before: what a server does in the
background for the next request is nobody's wait, but must not fall on another's measurement.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
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
    versions = real.versions(size.clis)
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
    settings = {
        **versions,
        "rounds": size.rounds,
        "idle for": f"{size.idle_s} s",
        "deltas": size.deltas,
    }
    return Part("first-token", tuple(figures), settings, quick=quick)


class _Race:
    """One CLI, asked in every way; who is first alternates."""

    def __init__(self, name: str, url: str, starts: dict[str, Start], size: Size) -> None:
        self._name = name
        self._client = Client(url, name)
        self._bare: Bare = BARE[name](starts["bare"])
        self._late: Bare | None = LATE[name](starts["late"]) if name in LATE else None
        self._harnesses = [each for each in (self._bare, self._late) if each is not None]
        self._once = starts["cold"]
        self._size = size
        self._tokens = count()
        self._rows: Rows = defaultdict(list)

    async def run(self, step: Callable[[], None]) -> Rows:
        """Run all rounds; what was started for the last may still be busy at the next."""
        turns = [self._through_clinvk, self._by_bare, self._by_late, self._by_cold]
        idle = [self._clinvk_after_idle, self._bare_after_idle]
        try:
            for harness in self._harnesses:
                await harness.prepare()
            for ask in turns:
                await ask(defaultdict(list))
            for number in range(self._size.rounds):
                for ask in turns[:: -1 if number % 2 else 1]:
                    await ask(self._rows)
                step()
            for number in range(self._size.idle_rounds):
                for ask in idle[:: -1 if number % 2 else 1]:
                    await quiet()
                    await asyncio.sleep(self._size.idle_s)
                    await ask(self._rows)
                step()
        finally:
            self._client.close()
            for harness in self._harnesses:
                await harness.stop()
        return self._rows

    async def _through_clinvk(self, rows: Rows) -> None:
        messages: list[dict[str, str]] = []
        for case in ("new", "second"):
            asked = self._asked()
            messages.append({"role": "user", "content": asked})
            await quiet()
            told = await self._client.ask(messages)
            messages.append({"role": "assistant", "content": told.text})
            self._take(rows, case, "clinvk", asked, told)

    async def _by_bare(self, rows: Rows) -> None:
        """As clinvk does, a successor is started once the first answer is there."""
        first, second = self._asked(), self._asked()
        await quiet()
        self._take(rows, "new", "bare", first, await self._bare.new(first))
        await self._bare.prepare()
        await quiet()
        self._take(rows, "second", "bare", second, await self._bare.again(second))

    async def _by_late(self, rows: Rows) -> None:
        if self._late is not None:
            asked = self._asked()
            await quiet()
            self._take(rows, "new", "late", asked, await self._late.new(asked))
            await self._late.prepare()

    async def _by_cold(self, rows: Rows) -> None:
        """One shot takes no roles: the conversation so far is a text to it, as in most bridges."""
        first, second = self._asked(), self._asked()
        so_far = f"user: {first}\nassistant: {expected(first)}\nuser: {second}"
        for case, asked, prompt in (("new", first, first), ("second", second, so_far)):
            await quiet()
            told = await cold.ask(self._name, self._once, prompt)
            self._take(rows, case, "cold", asked, told)

    async def _clinvk_after_idle(self, rows: Rows) -> None:
        asked = self._asked()
        told = await self._client.ask([{"role": "user", "content": asked}])
        self._take(rows, "idle", "clinvk", asked, told)

    async def _bare_after_idle(self, rows: Rows) -> None:
        asked = self._asked()
        self._take(rows, "idle", "bare", asked, await self._bare.new(asked))
        await self._bare.prepare()

    def _take(self, rows: Rows, case: str, way: str, asked: str, told: Told) -> None:
        if told.text != expected(asked):
            raise BenchmarkError(f"{self._name} {way}: {told.text!r} is no answer to {asked!r}")
        rows[case, way].append(told)

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
