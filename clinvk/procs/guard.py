"""Ends what a server leaves behind when it is killed and can end nothing itself.

A small process beside the server holds the other end of a pipe. The server names each child's
process group in it; when the pipe ends, so has the server, and the guard stops every group that
is still named. It works wherever there are pipes and process groups, on Linux and macOS alike;
that most CLIs leave by themselves when their stdin ends is not relied on.

Run as a program it is the guard; so it imports nothing but the standard library.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

TERM_GRACE_S = 2.0
LOOK_S = 0.02

COMMAND = (sys.executable, "-I", "-S", str(Path(__file__).resolve()))


class Guard:
    """The server's end of the pipe to its guard, which is started with the first child."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._program: Popen[bytes] | None = None

    def watch(self, group: int) -> None:
        """Have a process group stopped if this process is killed."""
        self._groups.add(group)
        self._tell(f"+{group}\n")

    def forget(self, group: int) -> None:
        """A group is gone; its number may soon be another's."""
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End the guard."""
        if self._program is not None:
            self._program.communicate()
            self._program = None

    def _tell(self, line: str) -> None:
        if self._program is None or self._program.poll() is not None:
            self.close()
            self._program = Popen(  # noqa: S603 - this interpreter, with a file of ours
                COMMAND,
                stdin=PIPE,
                stdout=DEVNULL,
                stderr=DEVNULL,
                env={},
                start_new_session=True,
            )
            line = "".join(f"+{group}\n" for group in self._groups)
        # It may be killed between the look and the word; the next word starts another.
        with contextlib.suppress(BrokenPipeError):
            if self._program.stdin is not None:
                os.write(self._program.stdin.fileno(), line.encode())


def guard(pipe: int) -> None:
    """Read `+GROUP` and `-GROUP`, a line each, until the pipe ends; then stop what is left."""
    groups: set[int] = set()
    with os.fdopen(pipe, "rb") as lines:
        for line in lines:
            change, number = line[:1], int(line[1:])
            (groups.add if change == b"+" else groups.discard)(number)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        groups = {group for group in groups if _signal(group, sign)}
        deadline = time.monotonic() + TERM_GRACE_S
        while groups and time.monotonic() < deadline:
            time.sleep(LOOK_S)
            groups = {group for group in groups if _signal(group, 0)}


def _signal(group: int, number: int) -> bool:
    """Signal a group; return whether it is there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
        return True
    return False


if __name__ == "__main__":
    # It must outlive what its terminal or its group is told.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    guard(sys.stdin.fileno())
