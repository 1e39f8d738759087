"""What clinvk itself costs: a CLI that costs nothing, through clinvk and through a bare relay.

By turns, so that what else the machine does falls on both. Settings and figures are here; the
requests are made by `benchmarks.load` in a process of its own.
"""

import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import processes, sampling
from benchmarks.load import Heard, Job
from benchmarks.processes import Place, Server
from benchmarks.progress import Progress
from benchmarks.results import Figure, Part, figure
from benchmarks.stats import quantile, ratio, spread

WAYS = ("clinvk", "relay")
STREAMS = (16, 64)
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much is asked: rounds of each kind, and requests in a round."""

    rounds: int = 7
    one: int = 100
    many: int = 400
    deltas: int = 5
    long: int = 205


QUICK = Size(rounds=2, one=30, many=100)


@dataclass
class _Row:
    """All rounds of one kind by one way."""

    first_ms: list[float] = field(default_factory=list)
    whole_ms: list[float] = field(default_factory=list)
    medians_ms: list[float] = field(default_factory=list)
    whole_medians_ms: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    right: int = 0
    asked: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, job: Job, heard: Heard) -> None:
        """Take a round."""
        first = [seconds * _MS for seconds in heard.first_s]
        whole = [seconds * _MS for seconds in heard.whole_s]
        self.first_ms += first
        self.whole_ms += whole
        if first:
            self.medians_ms.append(quantile(first, 0.5))
            self.whole_medians_ms.append(quantile(whole, 0.5))
        self.per_s.append(heard.right / heard.wall_s)
        self.right += heard.right
        self.asked += job.requests
        self.wrong += heard.wrong


class Arena:
    """clinvk and the relay, both up, and the process that asks them."""

    def __init__(self, loader: Server, urls: dict[str, str]) -> None:
        self._loader = loader
        self._urls = urls

    def round(self, rows: dict[str, _Row], **what: Any) -> None:  # noqa: ANN401 - a Job's fields
        """Do a job by each way, one after the other, in an order that alternates."""
        order = WAYS if not rows["clinvk"].per_s or len(rows["clinvk"].per_s) % 2 else WAYS[::-1]
        for way in order:
            job = Job(self._urls[way], **what)
            rows[way].add(job, Heard(**self._loader.ask(asdict(job))))


def backend(streams: int = max(STREAMS)) -> dict[str, Any]:
    """Return the one backend, with a place for every stream."""
    return {"codex": processes.fake_backend(max_concurrency=streams)}


def measure(size: Size, progress: Progress, *, quick: bool) -> Part:
    """Run everything, and return the figures."""
    with (
        processes.place() as where,
        processes.serve(where, backend()) as server,
        processes.module(where, "relay") as relay,
        processes.child(
            [sys.executable, "-m", "benchmarks.load"],
            env=where.env,
            folder=where.folder,
            name="load",
        ) as asks,
    ):
        arena = Arena(Server(asks.popen, asks.log), {"clinvk": server.url, "relay": relay.url})
        server.settle()
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
        rows: dict[str, dict[str, _Row]] = {kind: defaultdict(_Row) for kind in kinds}
        with progress.task("overhead", (size.rounds + 1) * len(kinds)) as step:
            for warm_up in (True, *[False] * size.rounds):
                for kind, what in kinds.items():
                    arena.round(defaultdict(_Row) if warm_up else rows[kind], **what)
                    step()
    settings = {"deltas": size.deltas, "rounds": size.rounds, "requests a round": size.many}
    return Part("overhead", tuple(_figures(rows, size)), settings, quick=quick)


def _figures(rows: dict[str, dict[str, _Row]], size: Size) -> list[Figure]:
    one, relayed = rows["one"]["clinvk"], rows["one"]["relay"]
    told = [
        figure("first token, 1 stream", spread(one.first_ms), "ms", "<= 2.5"),
        figure(
            "first token, 1 stream, of the relay's", ratio(one.medians_ms, relayed.medians_ms), ""
        ),
        figure("whole answer, 1 stream", spread(one.whole_ms), "ms"),
        _per_delta(rows, size),
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


def _per_delta(rows: dict[str, dict[str, _Row]], size: Size) -> Figure:
    """What one more delta costs, of which the long answers have many."""
    more = (size.long - size.deltas) / _MS
    each = [
        (long - short) / more
        for long, short in zip(
            rows["long"]["clinvk"].whole_medians_ms,
            rows["one"]["clinvk"].whole_medians_ms,
            strict=True,
        )
    ]
    return figure("each further delta", spread(each), "µs")


def _many(name: str, ways: dict[str, _Row], streams: int, how: str) -> list[Figure]:
    ours, others = ways["clinvk"], ways["relay"]
    target = ">= 400" if streams == 16 and how == "streamed" else None
    told = [
        figure(f"{name}: requests a second", spread(ours.per_s), "/s", target),
        figure(f"{name}: requests a second, of the relay's", ratio(ours.per_s, others.per_s), ""),
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


def profile(progress: Progress, *, requests: int = 3000, streams: int = 16) -> str:
    """Return where clinvk's time goes, for streams of 5 deltas."""
    with processes.place() as where:
        stats = where.folder / "profile"
        program = [sys.executable, "-m", "benchmarks.hosted", "--profile", str(stats)]
        with (
            processes.serve(where, backend(), program=program) as server,
            progress.task("overhead, profiled", 1) as step,
        ):
            _ask_once(where, server, Job(server.url, requests, streams))
            step()
        return sampling.report(stats, requests=requests)


def _ask_once(where: Place, server: Server, job: Job) -> None:
    argv = [sys.executable, "-m", "benchmarks.load"]
    with processes.child(argv, env=where.env, folder=where.folder, name="load") as asks:
        server.settle()
        heard = Heard(**asks.ask(asdict(job)))
    if heard.wrong:
        raise processes.BenchmarkError(f"{len(heard.wrong)} answers were wrong: {heard.wrong[:3]}")


__all__ = ["QUICK", "Size", "measure", "profile"]
