"""How long clinvk takes to start: `clinvk --help`, and `clinvk serve` until it listens.

The unit is what Python itself takes, `python -c pass`, measured by turns with the others.
"""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import processes
from benchmarks.processes import Place
from benchmarks.progress import Progress
from benchmarks.results import Part, figure
from benchmarks.stats import ratio, spread

_IMPORT = re.compile(r"import time: +(\d+) \| +(\d+) \| ( *)(\S+)")
_MS = 1000.0


@dataclass(frozen=True, slots=True)
class Size:
    """How often each is started."""

    rounds: int = 15


QUICK = Size(rounds=3)


def measure(size: Size, progress: Progress, *, quick: bool) -> Part:
    """Start each by turns, and return the figures."""
    with processes.place() as where:
        ways: dict[str, Callable[[], float]] = {
            "python": lambda: _run(where, [sys.executable, "-c", "pass"]),
            "help": lambda: _run(where, [processes.clinvk_program(), "--help"]),
            "serve": lambda: _listen(where),
        }
        rows: dict[str, list[float]] = {name: [] for name in ways}
        for once in ways.values():
            once()  # the files are read from the disk once
        with progress.task("startup", size.rounds) as step:
            for _ in range(size.rounds):
                for name, once in ways.items():
                    rows[name].append(once() * _MS)
                step()
    named = {"help": "`clinvk --help`", "serve": "`clinvk serve` until it listens"}
    figures = [figure("`python -c pass`", spread(rows["python"]), "ms")]
    for name, told in named.items():
        figures += [
            figure(told, spread(rows[name]), "ms"),
            figure(f"{told}, of Python's", ratio(rows[name], rows["python"]), ""),
        ]
    return Part("startup", tuple(figures), {"rounds": size.rounds}, quick=quick)


def _run(where: Place, argv: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, env=where.env, check=True, capture_output=True)
    return time.perf_counter() - started


def _listen(where: Place) -> float:
    started = time.perf_counter()
    with processes.serve(where, {"codex": processes.fake_backend()}):
        return time.perf_counter() - started


def profile(_size: Size, _progress: Progress, *, most: int = 30) -> str:
    """Return which imports the start of the server and of `--help` consist of."""
    told = []
    for title, module in (("--help", "clinvk.cli.main"), ("serve", "clinvk.cli.serving")):
        with processes.place() as where:
            argv = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
            done = subprocess.run(argv, env=where.env, check=True, capture_output=True, text=True)
        told.append(f"imports of {title}\n{import_times(done.stderr, most=most)}")
    return "\n\n".join(told)


def import_times(log: str, *, most: int) -> str:
    """Return what `-X importtime` logged as packages by their own time, the dearest first."""
    own: Counter[str] = Counter()
    for found in _IMPORT.finditer(log):
        own[found[4].partition(".")[0]] += int(found[1])
    total = sum(own.values())
    lines = [f"{total / _MS:.0f} ms in all"]
    lines += [f"{us / total:6.1%} {us / _MS:7.1f} ms  {name}" for name, us in own.most_common(most)]
    return "\n".join(lines)
