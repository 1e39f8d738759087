"""`clinvk` with a window into it: how many tasks it runs, and where its time goes.

    python -m benchmarks.hosted [--profile FILE] serve …

SIGUSR1 makes it say its tasks on stdout, `tasks N`. `benchmarks.sampling` reads the profile.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from benchmarks.sampling import Sampler
from clinvk.cli.main import main as clinvk


def _tell_tasks(_number: int, _frame: FrameType | None) -> None:
    print(f"tasks {len(asyncio.all_tasks())}", flush=True)


def main(arguments: Sequence[str]) -> None:
    """Run clinvk with these arguments."""
    signal.signal(signal.SIGUSR1, _tell_tasks)
    profile = None
    if arguments[:1] == ["--profile"]:
        profile, arguments = arguments[1], arguments[2:]
    sys.argv = ["clinvk", *arguments]
    if profile is None:
        clinvk()
        return
    sampler = Sampler()
    sampler.start()
    try:
        clinvk()
    finally:
        sampler.stop()
        sampler.dump(Path(profile))


if __name__ == "__main__":
    main(sys.argv[1:])
