"""Asks a server as many clients would, and times it: a process of its own, lean, and exact.

Each client keeps one connection open and asks `N TOKEN` of `benchmarks.fake_codex` with a token
that nobody else has. An answer is right if it is that text, whole and alone. Raw sockets, because
an HTTP client's own work would be timed, too.

    a Job as JSON on stdin -> a Heard as JSON on stdout, for each line
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count

from benchmarks.client import Connection, head_of, place_of, said
from benchmarks.fake_codex import expected


@dataclass(frozen=True, slots=True)
class Job:
    """How many requests to make of a server, `streams` of them at once, `deltas` in each answer.

    The streams begin one after the other within `spread_s` seconds.
    """

    url: str
    requests: int
    streams: int = 1
    deltas: int = 5
    stream: bool = True
    model: str = "codex"
    spread_s: float = 0.0


@dataclass(slots=True)
class Heard:
    """What came of a job: times in seconds; `reads` are how often a socket had some bytes."""

    wall_s: float = 0.0
    right: int = 0
    reads: int = 0
    received: int = 0
    first_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def body_of(job: Job, asked: str) -> bytes:
    """Return the body of a chat completion request."""
    messages = [{"role": "user", "content": asked}]
    return json.dumps({"model": job.model, "stream": job.stream, "messages": messages}).encode()


async def run(job: Job, *, report: Callable[[int], object] = lambda _: None) -> Heard:
    """Do a job; `report` is told each number of answers."""
    heard = Heard()
    numbers = count()
    host, port = place_of(job.url)
    head = head_of(job.url)

    async def client(place: int) -> None:
        await asyncio.sleep(job.spread_s * place / job.streams)
        connected = await asyncio.get_running_loop().create_connection(Connection, host, port)
        connection = connected[1]
        while (number := next(numbers)) < job.requests:
            asked = f"{job.deltas} token-{number}"
            body = body_of(job, asked)
            request = b"%b%d\r\n\r\n%b" % (head, len(body), body)
            started = time.perf_counter()
            try:
                response = await connection.ask(request)
            except (ConnectionError, TimeoutError) as exc:
                heard.wrong.append(f"{asked}: {exc!r}")
                return
            heard.received += len(response)
            heard.whole_s.append(time.perf_counter() - started)
            heard.first_s.append((connection.first or time.perf_counter()) - started)
            if said(response) == expected(asked):
                heard.right += 1
            else:
                heard.wrong.append(f"{asked}: {response[-300:]!r}")
            report(len(heard.whole_s))
        heard.reads += connection.reads
        connection.close()

    started = time.perf_counter()
    await asyncio.gather(*(client(place) for place in range(job.streams)))
    heard.wall_s = time.perf_counter() - started
    return heard


def main() -> None:
    """Do the jobs that come on stdin, one a line."""
    for line in sys.stdin:
        print(json.dumps(asdict(asyncio.run(run(Job(**json.loads(line)))))), flush=True)


if __name__ == "__main__":
    main()
