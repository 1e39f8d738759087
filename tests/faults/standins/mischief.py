"""How the stand-ins misbehave, whatever protocol they speak.

What is asked names the fault, as `fault=NAME`; the file `fault` in the home names one of the
start. Owns bytes and signals; each stand-in gives it the lines of its protocol.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

STAYS: list[bool] = []  # whether to stay when there is nothing more to hear
ANSWER = ("Hello", " wörld 🌍")
MB = 1_000_000
JUNK_LINE = b"not a line of any protocol " * 37 + b"\n"
JUNK = (
    b"\n",
    b"Warning: not JSON\n",
    b"\x00\x01\x02\xff\xfe\n",
    b"[]\n",
    b"null\n",
    b"1\n",
    b"{}\n",
    b'{"type": []}\n',
    b'{"id": {}, "method": 1}\n',
    b'{"id": [1], "result": 1}\n',
    b'{"type": "stream_event", "event": 1}\n',
    b'{"type": "system", "subtype": {}}\n',
    b'{"method": "session/update", "params": []}\n',
    b'{"method": "item/started", "params": {"threadId": [], "item": 1}}\n',
    b"[" * 5000 + b"\n",
    b'{"half": \n',
    b"\r\n",
)


class Talk(Protocol):
    """One answer in a protocol: messages before it, a delta, and its end."""

    def begin(self) -> list[dict[str, Any]]:
        """Say that the model has begun."""

    def delta(self, text: str) -> dict[str, Any]:
        """Say a piece of text."""

    def end(self, text: str) -> list[dict[str, Any]]:
        """Say that the answer is over."""

    def refused(self) -> list[dict[str, Any]]:
        """Say that the model API cannot be reached."""

    def misdirected(self) -> list[dict[str, Any]]:
        """End the answer, but to somebody who never asked."""


def fault_in(text: str) -> str:
    """Return the fault that was asked for last."""
    found = re.findall(r"fault=([\w-]+)", text)
    return found[-1] if found else ""


def start_fault() -> str:
    """Return the fault of the start."""
    path = Path(os.environ["HOME"]) / "fault"
    return path.read_text().strip() if path.exists() else ""


def out(data: bytes) -> None:
    """Write all of it."""
    while data:
        data = data[os.write(1, data) :]


def say(*messages: dict[str, Any]) -> None:
    """Write a line each."""
    for message in messages:
        out(line(message))


def line(message: dict[str, Any]) -> bytes:
    """Return a message as a line of UTF-8."""
    return json.dumps(message, ensure_ascii=False).encode() + b"\n"


def hear() -> Iterator[dict[str, Any]]:
    """Read a message a line."""
    for text in sys.stdin.buffer:
        yield json.loads(text)
    if STAYS:
        hang()


def stubborn() -> None:
    """Mind no signal that can be minded."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def hang() -> None:
    """Do nothing for ever, whatever is written to us."""
    while True:
        time.sleep(60)


def die(code: int = 3) -> None:
    """Give a reason, and end."""
    os.write(2, b"boom: the stand-in was told to die\n")
    os._exit(code)


def misbehave_at_start() -> None:
    """Play the fault of the start, if there is one; each start leaves a line in `starts`."""
    with (Path(os.environ["HOME"]) / "starts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    match start_fault():
        case "start-die":
            die()
        case "start-hang":
            hang()
        case "start-stubborn":
            stubborn()
            hang()
        case "start-flood":
            while True:
                out(b"garbage at the start\n" * 1000)


def answer(fault: str, talk: Talk) -> None:
    """Answer, or do what the fault is."""
    FAULTS.get(fault, _well)(talk)


def _well(talk: Talk) -> None:
    say(*talk.begin(), *map(talk.delta, ANSWER), *talk.end("".join(ANSWER)))


def _half(talk: Talk) -> None:
    say(*talk.begin(), talk.delta(ANSWER[0]))


def _whole(talk: Talk) -> None:
    say(*talk.begin(), *map(talk.delta, ANSWER))


def _then(first: Callable[[Talk], None], *acts: Callable[[], object]) -> Callable[[Talk], None]:
    def play(talk: Talk) -> None:
        first(talk)
        for act in acts:
            act()

    return play


def _nothing(talk: Talk) -> None:
    pass


def _kill(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _stay() -> None:
    stubborn()
    STAYS.append(True)


def _leave_child() -> None:
    """Leave a child in our group that minds no signal and holds our pipes."""
    code = "import signal,time;signal.signal(15,signal.SIG_IGN);time.sleep(600)"
    subprocess.Popen([sys.executable, "-S", "-E", "-c", code])


def _with_child() -> None:
    _leave_child()
    hang()


def _flood_stdout(talk: Talk) -> None:
    _half(talk)
    for _ in range(100):
        out(JUNK_LINE * (MB // len(JUNK_LINE)))
    say(talk.delta(ANSWER[1]), *talk.end("".join(ANSWER)))


def _flood_stderr(talk: Talk) -> None:
    _half(talk)
    data = memoryview(JUNK_LINE * (MB // len(JUNK_LINE)))
    for _ in range(100):
        rest = data
        while rest:
            rest = rest[os.write(2, rest) :]
    say(talk.delta(ANSWER[1]), *talk.end("".join(ANSWER)))


def _long_line(talk: Talk) -> None:
    text = "x" * (64 * MB)
    say(*talk.begin(), talk.delta(text), *talk.end(text))


def _endless_line(talk: Talk) -> None:
    _half(talk)
    out(b'{"endless": "')
    while True:
        out(b"x" * MB)


def _noise(talk: Talk) -> None:
    for message in (*talk.begin(), *map(talk.delta, ANSWER), *talk.end("".join(ANSWER))):
        out(b"".join(JUNK))
        say(message)


def _half_a_line(talk: Talk) -> None:
    _half(talk)
    data = line(talk.delta(ANSWER[1]))
    out(data[: len(data) // 2])
    die()


def _byte_by_byte(talk: Talk) -> None:
    say(*talk.begin())
    for message in map(talk.delta, ANSWER):
        for byte in line(message):
            out(bytes([byte]))
    say(*talk.end("".join(ANSWER)))


def _waits(talk: Talk) -> None:
    """Say the rest once there is a file `go` in the home."""
    _half(talk)
    while not (Path(os.environ["HOME"]) / "go").exists():
        time.sleep(0.01)
    say(talk.delta(ANSWER[1]), *talk.end("".join(ANSWER)))


def _endless(talk: Talk) -> None:
    say(*talk.begin())
    while True:
        say(*[talk.delta("x" * 100_000)] * 10)


def _drips(talk: Talk) -> None:
    say(*talk.begin())
    while True:
        say(talk.delta("x"))
        time.sleep(0.05)


def _bad_utf8(talk: Talk) -> None:
    say(*talk.begin(), talk.delta(ANSWER[0]))
    out(line(talk.delta("BAD")).replace(b"BAD", b"\xff"))
    say(*talk.end(ANSWER[0]))


def _lone_surrogate(talk: Talk) -> None:
    say(*talk.begin(), talk.delta(ANSWER[0]))
    out(json.dumps(talk.delta("\ud83c")).encode() + b"\n")
    say(*talk.end(ANSWER[0]))


def _two_ends(talk: Talk) -> None:
    _well(talk)
    say(*talk.end("".join(ANSWER)))


def _refused(talk: Talk) -> None:
    say(*talk.refused())


def _misdirected(talk: Talk) -> None:
    _whole(talk)
    say(*talk.misdirected())


FAULTS: dict[str, Callable[[Talk], None]] = {
    "die-before": _then(_nothing, die),
    "die-during": _then(_half, die),
    "die-after": _then(_well, die),
    "leave-unfinished": _then(_whole, lambda: os._exit(0)),
    "killed": _then(_half, _kill(signal.SIGKILL)),
    "hang-before": _then(_nothing, hang),
    "hang-during": _then(_half, hang),
    "hang-stubborn": _then(_half, stubborn, hang),
    "hang-after": _then(_well, hang),
    "hang-at-exit": _then(_well, _stay),
    "hang-with-child": _then(_half, _with_child),
    "leaves-child": _then(_well, _leave_child),
    "no-end": _then(_whole, hang),
    "two-ends": _two_ends,
    "waits": _waits,
    "endless": _endless,
    "drips": _drips,
    "stopped": _then(_half, _kill(signal.SIGSTOP)),
    "flood-stdout": _flood_stdout,
    "flood-stderr": _flood_stderr,
    "long-line": _long_line,
    "endless-line": _endless_line,
    "noise": _noise,
    "half-a-line": _half_a_line,
    "byte-by-byte": _byte_by_byte,
    "bad-utf8": _bad_utf8,
    "lone-surrogate": _lone_surrogate,
    "refused": _refused,
    "misdirected": _misdirected,
    "closes-stdout": _then(_half, lambda: os.close(1), hang),
    "closes-stdin": _then(_half, lambda: os.close(0), hang),
}
