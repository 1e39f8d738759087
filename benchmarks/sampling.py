"""Where a program's processor time goes, by a look at its stack every few milliseconds of it.

cProfile makes calls look dear that are cheap; a look at every tick of used processor time costs
the same everywhere. Time in C code counts for the Python function that called it.
"""

import json
import signal
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

INTERVAL_S = 0.001  # systems look less often than that
_LOOP = "events.py Handle._run"
_OWN_ROOMS = ("clinvk", "anyio", "asyncio", "aiohttp", "json", "pydantic", "sniffio", "logging")

Frame = tuple[str, str]


class Sampler:
    """Looks at the main thread's stack, from `start` to `stop`."""

    def __init__(self) -> None:
        self._stacks: Counter[tuple[Frame, ...]] = Counter()
        self._used_s = 0.0

    @property
    def seen(self) -> int:
        """How many looks there were."""
        return self._stacks.total()

    def start(self) -> None:
        """Begin to look."""
        self._used_s = -time.process_time()
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def stop(self) -> None:
        """Look no more."""
        self._used_s += time.process_time()
        signal.setitimer(signal.ITIMER_PROF, 0)

    def dump(self, path: Path) -> None:
        """Write what was seen, as JSON: each stack, innermost first, and how often."""
        told = {"used_s": self._used_s, "stacks": list(self._stacks.items())}
        path.write_text(json.dumps(told), "utf-8")

    def _look(self, _number: int, frame: FrameType | None) -> None:
        stack = []
        while frame is not None:
            stack.append((frame.f_code.co_filename, frame.f_code.co_qualname))
            frame = frame.f_back
        self._stacks[tuple(stack)] += 1


def report(path: Path, *, requests: int, most: int = 30) -> str:
    """Return a dump as text: own time and time with callees, for packages and functions.

    Only what runs in the event loop counts, not how the program came up.
    """
    told = json.loads(path.read_text("utf-8"))
    seen = [([_frame(frame) for frame in stack], int(times)) for stack, times in told["stacks"]]
    tick_us = told["used_s"] * 1e6 / max(1, sum(times for _, times in seen))
    stacks = [(inner, times) for stack, times in seen if (inner := _in_loop(stack))]
    total = sum(times for _, times in stacks)
    each_us = total * tick_us / requests
    own: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    rooms: Counter[str] = Counter()
    for stack, times in stacks:
        own[_name(stack[0])] += times
        rooms[_room(stack[0])] += times
        for name in {_name(frame) for frame in stack}:
            whole[name] += times
    lines = [f"{each_us:.0f} µs of processor time in the loop for each of {requests} requests"]
    for title, counted in (
        ("packages, own time", rooms),
        ("functions, own time", own),
        ("functions, with what they call", whole),
    ):
        lines += ["", title, *_rows(counted.most_common(most), total, each_us)]
    return "\n".join(lines)


def _frame(told: list[str]) -> Frame:
    file, function = told
    return file, function


def _in_loop(stack: list[Frame]) -> list[Frame]:
    """The frames that the event loop called; none if it called none."""
    names = [_name(frame).endswith(_LOOP) for frame in stack]
    return stack[: max(1, names.index(True))] if True in names else []


def _rows(counted: Iterable[tuple[str, int]], total: int, each_us: float) -> list[str]:
    return [f"{n / total:6.1%} {each_us * n / total:7.1f} µs  {name}" for name, n in counted]


def _name(frame: Frame) -> str:
    file, function = frame
    return f"{'/'.join(Path(file).parts[-2:])} {function}"


def _room(frame: Frame) -> str:
    parts = Path(frame[0]).parts
    return next((room for room in _OWN_ROOMS if room in parts), "other")
