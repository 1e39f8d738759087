"""Memory, descriptors, processes and tasks of a server that answers many requests.

Most of them with a CLI that costs nothing, for it is the server that must not grow; fewer with
the real ones. Sampled between batches, when nothing is asked.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from benchmarks import processes, real
from benchmarks.load import Heard, Job
from benchmarks.processes import BenchmarkError, Child, Server
from benchmarks.progress import Progress
from benchmarks.results import Figure, Part
from benchmarks.stats import slope

MOST_MIB = 55.0
FLAT_MIB = 0.1  # for each thousand requests, in the second half
_MIB = 1024.0 * 1024.0


@dataclass(frozen=True, slots=True)
class Size:
    """How many requests, in how many batches, and how many of each real CLI."""

    clis: tuple[str, ...] = real.NAMES
    requests: int = 10_000
    batches: int = 20
    streams: int = 8
    real: int = 200


QUICK = Size(requests=400, batches=4, real=8)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was there after so many requests; memory in MiB, that of the children added up."""

    requests: int
    server_mib: float
    children_mib: float
    processes: int
    descriptors: int
    tasks: int


def measure(size: Size, progress: Progress, *, quick: bool) -> Part:
    """Ask and look, and return the figures."""
    versions = real.versions(size.clis if size.real else ())
    figures = []
    kinds = [("stand-in", size.requests), *((name, size.real) for name in size.clis if size.real)]
    for name, requests in kinds:
        with ExitStack() as stack:
            where = stack.enter_context(processes.place())
            if name == "stand-in":
                backends: dict[str, Any] = {"codex": processes.fake_backend()}
            else:
                upstream = stack.enter_context(processes.module(where, "upstream", name))
                real.log_in(where)
                backends = {name: real.backend(name, upstream.url)}
            program = [sys.executable, "-m", "benchmarks.hosted"]
            server = stack.enter_context(processes.serve(where, backends, program=program))
            asks = stack.enter_context(processes.module(where, "load", greets=False))
            job = Job(
                server.url, requests // size.batches, size.streams, model=next(iter(backends))
            )
            with progress.task(f"memory, {name}", size.batches) as step:
                samples = _samples(server, asks, job, size.batches, step)
        figures += told(name, samples)
    settings = {
        **versions,
        "requests": size.requests,
        "streams": size.streams,
        "of each real CLI": size.real,
    }
    return Part("memory", tuple(figures), settings, quick=quick)


def _samples(
    server: Server, asks: Child, job: Job, batches: int, step: Callable[[], None]
) -> list[Sample]:
    server.settle()
    samples = [look(server, 0)]
    for batch in range(1, batches + 1):
        heard = Heard(**asks.ask(asdict(job)))
        if heard.wrong:
            raise BenchmarkError(f"{len(heard.wrong)} answers were wrong: {heard.wrong[:3]}")
        server.settle(quiet_s=0.1)
        samples.append(look(server, batch * job.requests))
        step()
    return samples


def look(server: Server, requests: int) -> Sample:
    """Return what is there now."""
    ours, *children = server.tree()
    os.kill(server.pid, signal.SIGUSR1)
    tasks = int(server.line(having="tasks ").split()[1])
    return Sample(
        requests,
        ours.memory_info().rss / _MIB,
        sum(_rss(child) for child in children) / _MIB,
        1 + len(children),
        ours.num_fds(),
        tasks,
    )


def _rss(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss)
    except psutil.Error:
        return 0.0


def told(name: str, samples: list[Sample]) -> list[Figure]:
    """Return the figures of what was seen; growth is of the second half, when caches are full."""
    first, warm, last = samples[0], samples[1], samples[-1]
    later = samples[len(samples) // 2 :]
    grows = slope([s.requests / 1000 for s in later], [s.server_mib for s in later])
    n = last.requests
    ours = name == "stand-in"
    return [
        Figure(f"{name}: server before the first request", first.server_mib, "MiB"),
        Figure(
            f"{name}: server after {n} requests",
            last.server_mib,
            "MiB",
            target=f"<= {MOST_MIB:g}" if ours else None,
        ),
        Figure(
            f"{name}: growth in the second half, each 1000 requests",
            grows,
            "MiB",
            n=len(later),
            target=f"<= {FLAT_MIB:g}" if ours else None,
        ),
        Figure(f"{name}: children after the first batch", warm.children_mib, "MiB"),
        Figure(f"{name}: children after {n} requests", last.children_mib, "MiB"),
        *(
            Figure(
                f"{name}: {what} after {n} requests",
                getattr(last, what),
                "",
                note=f"{getattr(warm, what)} after the first batch, {getattr(first, what)} before",
            )
            for what in ("processes", "descriptors", "tasks")
        ),
    ]
