"""Private temporary folders that outlive neither their owner nor, for long, its crash.

Owns their names; knows nothing of what is put in them.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path


def make(kind: str) -> Path:
    """Create a folder that only this user can enter; `kind` is part of its name."""
    return Path(tempfile.mkdtemp(prefix=f"{_prefix(kind)}{os.getpid()}-"))


def remove(path: Path) -> None:
    """Delete a folder and all in it; what links point to stays."""
    shutil.rmtree(path, ignore_errors=True)


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
                remove(path)


def _prefix(kind: str) -> str:
    return f"clinvk-{kind}-"
