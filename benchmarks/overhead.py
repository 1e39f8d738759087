"""What clinvk itself costs: a CLI that costs nothing, through clinvk and through a bare relay.

By turns, so that what else the machine does falls on both. Settings and figures are here; the
requests are made by `benchmarks.load` in a process of its own.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks import processes, sampling
from benchmarks.bare import Codex
from benchmarks.load import Heard, Job
from benchmarks.processes import Child, Place, Server, busy_s
from benchmarks.progress import Progress
from benchmarks.real import Start
from benchmarks.results import Figure, Part, figure
from benchmarks.stats import Spread, quantile, ratio, spread

WAYS = ("clinvk", "relay")
STREAMS = (16, 64)
TICK_S = 0.01  # systems count a process's time in these
_MS = 1e3
_US = 1e6


@dataclass(frozen=True, slots=True)
class Size:
    """How much is asked: rounds of each kind, requests in a round, and requests for a profile."""

    rounds: int = 7
    one: int = 100
    many: int = 400
    deltas: int = 5
    long: int = 205
    profiled: int = 3000


QUICK = Size(rounds=2, one=30, many=100, profiled=500)


@dataclass(frozen=True, slots=True)
class Round:
    """A job, what came of it, and the processor time that the server took for it."""

    job: Job
    heard: Heard
    busy_s: float


@dataclass
class Row:
    """All rounds of one kind by one way; a list a round, but for the times of all requests."""

    first_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    middle_first_ms: list[float] = field(default_factory=list)
    busy_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    right: int = 0
    asked: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, done: Round) -> None:
        """Take a round."""
        first = [seconds * _MS for seconds in done.heard.first_s]
        self.first_ms += first
        self.whole_ms += [seconds * _MS for seconds in done.heard.whole_s]
        self.middle_first_ms.append(quantile(first, 0.5))
        self.busy_us.append(done.busy_s * _US / done.job.requests)
        self.per_s.append(done.heard.right / done.heard.wall_s)
        self.right += done.heard.right
        self.asked += done.job.requests
        self.wrong += done.heard.wrong


class Arena:
    """clinvk and the relay, both up, and the process that asks them."""

    def __init__(self, folder: Path, asks: Child, servers: dict[str, Server]) -> None:
        self.folder = folder
        self.servers = servers
        self._asks = asks

    def ask(self, way: str, **what: Any) -> Round:  # noqa: ANN401 - a Job's fields
        """Do a job by one way."""
        server = self.servers[way]
        job = Job(server.url, **what)
        ours = [psutil.Process(server.pid)]
        before = busy_s(ours)
        heard = Heard(**self._asks.ask(asdict(job)))
        return Round(job, heard, max(busy_s(ours) - before, TICK_S))

    def each(self, rows: dict[str, Row], **what: Any) -> None:  # noqa: ANN401 - a Job's fields
        """Do a job by each way, one after the other, in an order that alternates."""
        turned = len(rows["clinvk"].per_s) % 2
        for way in WAYS[::-1] if turned else WAYS:
            rows[way].add(self.ask(way, **what))


@contextmanager
def arena() -> Iterator[Arena]:
    """Start all that is needed, and stop it."""
    with (
        processes.place() as where,
        processes.serve(where, backend()) as server,
        processes.module(where, "relay") as relay,
        processes.module(where, "load", greets=False) as asks,
    ):
        server.settle()
        yield Arena(where.folder, asks, {"clinvk": server, "relay": relay})


def backend(streams: int = max(STREAMS)) -> dict[str, Any]:
    """Return the one backend, with a place for every stream."""
    return {"codex": processes.fake_backend(max_concurrency=streams)}


def measure(size: Size, progress: Progress, *, quick: bool) -> Part:
    """Run everything, and return the figures."""
    kinds: dict[str, dict[str, Any]] = {
        "one": {"requests": size.one, "deltas": size.deltas},
        "long": {"requests": max(1, size.one // 5), "deltas": size.long},
        **{
            f"{streams} {how}": {
                "requests": size.many,
                "streams": streams,
                "deltas": size.deltas,
                "stream": how == "streamed",
            }
            for streams in STREAMS
            for how in ("streamed", "whole")
        },
    }
    rows: dict[str, dict[str, Row]] = {kind: defaultdict(Row) for kind in kinds}
    with arena() as ways, progress.task("overhead", (size.rounds + 1) * len(kinds)) as step:
        for warm_up in (True, *[False] * size.rounds):
            for kind, what in kinds.items():
                ways.each(defaultdict(Row) if warm_up else rows[kind], **what)
                step()
        alone = asyncio.run(_alone(ways.folder, size.one))
    settings = {
        "deltas": f"{size.deltas} and {size.long}",
        "rounds": size.rounds,
        "requests a round": f"{size.one}, or {size.many} at many streams",
    }
    return Part("overhead", (*_figures(rows, size), alone), settings, quick=quick)


async def _alone(folder: Path, times: int) -> Figure:
    """What the stand-in itself takes, asked by the bare harness."""
    cli = Codex(Start([*processes.FAKE_CODEX, "app-server"], {}, folder, folder))
    try:
        await cli.prepare()
        told = [await cli.new(f"5 token-{number}") for number in range(times)]
    finally:
        await cli.stop()
    return figure("the stand-in itself: first token", spread([t.first_s * _MS for t in told]), "ms")


def _figures(rows: dict[str, dict[str, Row]], size: Size) -> list[Figure]:
    one, relayed = rows["one"]["clinvk"], rows["one"]["relay"]
    long = [rows["long"][way].busy_us for way in WAYS]
    told = [
        figure("first token, 1 stream", spread(one.first_ms), "ms", "<= 2.5"),
        figure("first token, 1 stream, relay", spread(relayed.first_ms), "ms"),
        figure(
            "first token, 1 stream, clinvk / relay",
            ratio(one.middle_first_ms, relayed.middle_first_ms),
            "",
        ),
        figure("whole answer, 1 stream", spread(one.whole_ms), "ms"),
        figure("processor time, each request", spread(one.busy_us), "µs"),
        figure(
            "processor time, each request, clinvk / relay", ratio(one.busy_us, relayed.busy_us), ""
        ),
        figure("processor time, each further delta", _further(rows, size), "µs"),
        figure(f"processor time, {size.long} deltas, clinvk / relay", ratio(*long), ""),
    ]
    for streams in STREAMS:
        for how in ("streamed", "whole"):
            told += _many(f"{streams} streams, {how}", rows[f"{streams} {how}"], streams, how)
    asked = sum(row.asked for ways in rows.values() for row in ways.values())
    wrong = [text for ways in rows.values() for row in ways.values() for text in row.wrong]
    told.append(
        Figure("wrong answers", len(wrong), "", n=asked, target="= 0", note="; ".join(wrong[:3]))
    )
    return told


def _further(rows: dict[str, dict[str, Row]], size: Size) -> Spread:
    """What one more delta costs, of which the long answers have many."""
    pairs = zip(rows["long"]["clinvk"].busy_us, rows["one"]["clinvk"].busy_us, strict=True)
    return spread([(long - short) / (size.long - size.deltas) for long, short in pairs])


def _many(name: str, ways: dict[str, Row], streams: int, how: str) -> list[Figure]:
    ours, others = ways["clinvk"], ways["relay"]
    target = ">= 400" if streams == 16 and how == "streamed" else None
    told = [
        figure(f"{name}: requests a second", spread(ours.per_s), "/s", target),
        figure(f"{name}: requests a second, clinvk / relay", ratio(ours.per_s, others.per_s), ""),
    ]
    times = {"first token": ours.first_ms, "whole answer": ours.whole_ms}
    if how == "whole":
        times.pop("first token")
    for what, row in times.items():
        told += [
            Figure(f"{name}: {what}, p{share}", quantile(row, share / 100), "ms", n=len(row))
            for share in (50, 95, 99)
        ]
    told.append(
        Figure(f"{name}: right answers", ours.right, "", n=ours.asked, target=f"= {ours.asked}")
    )
    return told


def profile(size: Size, progress: Progress) -> str:
    """Return where clinvk's time goes, at 16 streams."""
    job = Job("", size.profiled, min(STREAMS), size.deltas)
    with processes.place() as where:
        stats = where.folder / "profile"
        program = [sys.executable, "-m", "benchmarks.hosted", "--profile", str(stats)]
        with (
            processes.serve(where, backend(), program=program) as server,
            progress.task("overhead, profiled", 1) as step,
        ):
            _ask_once(where, server, replace(job, url=server.url))
            step()
        return sampling.report(stats, requests=size.profiled)


def _ask_once(where: Place, server: Server, job: Job) -> None:
    with processes.module(where, "load", greets=False) as asks:
        server.settle()
        heard = Heard(**asks.ask(asdict(job)))
    if heard.wrong:
        raise processes.BenchmarkError(f"{len(heard.wrong)} answers were wrong: {heard.wrong[:3]}")
