"""Ends what a server leaves behind when it is killed and can end nothing itself.

A small process beside the server holds the other end of a pipe. The server names each child's
process group in it; when the pipe ends, so has the server, and the guard stops every group that
is still named. It works wherever there are pipes and process groups, on Linux and macOS alike;
that most CLIs leave by themselves when their stdin ends is not relied on.

Run as a program it is the guard; it then imports nothing but the standard library.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

TERM_GRACE_S = 2.0
LOOK_S = 0.02

COMMAND = (sys.executable, "-I", "-S", str(Path(__file__).resolve()))


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
