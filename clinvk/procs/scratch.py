"""Private temporary folders that outlive neither their owner nor, for long, its crash.

Owns their names; knows nothing of what is put in them.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

# Each folder is locked while its owner lives: where containers share a temp folder, a process
# number says nothing.
_locks: dict[Path, int] = {}


def make(kind: str) -> Path:
    """Create a folder that only this user can enter; `kind` is part of its name."""
    path = Path(tempfile.mkdtemp(prefix=f"{_prefix(kind)}{os.getpid()}-"))
    _locks[path] = os.open(path, os.O_RDONLY)
    fcntl.flock(_locks[path], fcntl.LOCK_EX)
    return path


def remove(path: Path) -> None:
    """Delete a folder and all in it; what links point to stays."""
    shutil.rmtree(path, ignore_errors=True)
    if (lock := _locks.pop(path, None)) is not None:
        os.close(lock)


def remove_stale(kind: str) -> None:
    """Delete the folders of this user's processes that were killed before they could."""
    prefix = _prefix(kind)
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        pid = path.name.removeprefix(prefix).partition("-")[0]
        with contextlib.suppress(OSError, ValueError):
            if path.stat().st_uid != os.getuid():
                continue
            try:
                os.kill(int(pid), 0)
            except ProcessLookupError:
                _remove_unlocked(path)


def _remove_unlocked(path: Path) -> None:
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(lock)


def _prefix(kind: str) -> str:
    return f"clinvk-{kind}-"
