"""What relaying costs: a server with OpenAI's API asked directly, and through clinvk, by turns.

The server takes as long to its first token as models do, and its streams are begun one after the
other over the time that one takes, as people do: what is left is what clinvk adds to each.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import processes, sampling
from benchmarks.load import Heard, Job
from benchmarks.model_server import model
from benchmarks.processes import BenchmarkError, Child, Place
from benchmarks.progress import Progress
from benchmarks.results import Figure, Part
from benchmarks.stats import Spread, quantile, ratio

WAYS = ("direct", "clinvk")
FIRST_MS = (0, 20, 100, 300)
STREAMS = (1, 16, 64)
MORE_SHARE, MORE_MS = 0.10, 2.0  # that a first token may come later by
NAME = "up"
_MS = 1e3


@dataclass(frozen=True, slots=True)
class Size:
    """How much is asked: rounds, requests of each stream in a round, deltas and their distance.

    `alone` and `short` are of a stream that is alone.
    """

    rounds: int = 3
    each: int = 2
    alone: int = 30
    deltas: int = 50
    short: int = 5
    gap: int = 20
    profiled: int = 2000


QUICK = Size(rounds=1, each=1, alone=5, deltas=10, profiled=300)


@dataclass
class Row:
    """The times to the first token of one way, all and by rounds, and the wrong answers."""

    first_ms: list[float] = field(default_factory=list)
    middle_ms: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, heard: Heard) -> None:
        """Take a round."""
        first = [seconds * _MS for seconds in heard.first_s]
        self.first_ms += first
        self.middle_ms.append(quantile(first, 0.5))
        self.wrong += heard.wrong


class Arena:
    """The server, clinvk before it, and the process that asks them."""

    def __init__(self, urls: dict[str, str], asks: Child) -> None:
        self._urls = urls
        self._asks = asks

    def ask(self, way: str, first_ms: int, gap_ms: int, **what: Any) -> Heard:  # noqa: ANN401 - a Job's fields
        """Ask for streams of that speed, by one way."""
        name = model(first_ms, gap_ms)
        asked = name if way == "direct" else f"{NAME}/{name}"
        return Heard(**self._asks.ask(asdict(Job(self._urls[way], model=asked, **what))))


@contextmanager
def arena(where: Place, program: tuple[str, ...] = ()) -> Iterator[Arena]:
    """Start all that is needed, and stop it."""
    with processes.module(where, "model_server") as upstream:
        backend = {"kind": "openai", "base_url": upstream.url, "models": ["any"]}
        with (
            processes.serve(where, {NAME: backend}, program=program) as server,
            processes.module(where, "load", greets=False) as asks,
        ):
            server.settle()
            yield Arena({"direct": upstream.url, "clinvk": server.url}, asks)


def measure(size: Size, progress: Progress, *, quick: bool) -> Part:
    """Run everything, and return the figures."""
    kinds = [(first_ms, streams) for first_ms in FIRST_MS for streams in STREAMS]
    rows: dict[tuple[int, int], dict[str, Row]] = {kind: defaultdict(Row) for kind in kinds}
    with (
        processes.place() as where,
        arena(where) as ways,
        progress.task("relayed", (size.rounds + 1) * len(kinds)) as step,
    ):
        for number in range(-1, size.rounds):  # the first is not counted
            for first_ms, streams in kinds:
                for way in WAYS[:: -1 if number % 2 else 1]:
                    heard = ways.ask(way, first_ms, size.gap, **_job(size, first_ms, streams))
                    if number >= 0:
                        rows[first_ms, streams][way].add(heard)
                step()
    settings = {
        "deltas": f"{size.deltas}, or {size.short} of one stream",
        "ms between them": size.gap,
        "rounds": size.rounds,
        "requests a round": f"{size.alone}, or {size.each} of each stream",
    }
    told = [figure for kind in kinds for figure in _figures(*kind, rows[kind])]
    wrong = [text for ways in rows.values() for row in ways.values() for text in row.wrong]
    asked = sum(len(row.first_ms) for ways in rows.values() for row in ways.values())
    note = "; ".join(wrong[:3])
    told.append(Figure("wrong answers", len(wrong), "", n=asked, target="= 0", note=note))
    return Part("relayed", tuple(told), settings, quick=quick)


def _job(size: Size, first_ms: int, streams: int) -> dict[str, Any]:
    if streams == 1:
        return {"requests": size.alone, "deltas": size.short}
    whole_s = (first_ms + size.gap * (size.deltas - 1)) / _MS
    requests = size.each * streams
    return {"requests": requests, "streams": streams, "deltas": size.deltas, "spread_s": whole_s}


def _figures(first_ms: int, streams: int, ways: dict[str, Row]) -> Iterator[Figure]:
    many = f"{streams} stream{'' if streams == 1 else 's'}"
    name = f"first token {f'after {first_ms} ms' if first_ms else 'at once'}, {many}"
    direct, ours = ways["direct"], ways["clinvk"]
    for share in (50, 95):
        before, now = (quantile(row.first_ms, share / 100) for row in (direct, ours))
        n = len(ours.first_ms)
        yield Figure(f"{name}: direct, p{share}", before, "ms", n=len(direct.first_ms))
        yield Figure(f"{name}: clinvk, p{share}", now, "ms", n=n)
        bound = before * MORE_SHARE + MORE_MS
        yield Figure(
            f"{name}: more by clinvk, p{share}", now - before, "ms", n=n, target=f"<= {bound:.2f}"
        )
    found: Spread = ratio(ours.middle_ms, direct.middle_ms)
    yield Figure(f"{name}: clinvk / direct", found.middle, "", found.low, found.high, found.n)


def profile(size: Size, progress: Progress) -> str:
    """Return where clinvk's time goes, at 16 streams that come at once."""
    with processes.place() as where:
        stats = where.folder / "profile"
        program = (sys.executable, "-m", "benchmarks.hosted", "--profile", str(stats))
        with arena(where, program) as ways, progress.task("relayed, profiled", 1) as step:
            job = {"requests": size.profiled, "streams": 16, "deltas": size.deltas}
            heard = ways.ask("clinvk", 0, 0, **job)
            step()
        if heard.wrong:
            raise BenchmarkError(f"{len(heard.wrong)} answers were wrong: {heard.wrong[:3]}")
        return sampling.report(stats, requests=size.profiled)
