"""Which servers of this user run: a locked file each, so that `clinvk reload` finds them.

Owns the files; the lock, not the number in the name, says whether a server still runs.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import platformdirs


@contextlib.contextmanager
def announced(address: str) -> Iterator[None]:
    """Have this process found as the server at an address, while it lasts."""
    try:
        folder = _folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = folder / str(os.getpid())
        file = path.open("w")
    except OSError:
        # Without a place for it the server is not found, and serves all the same.
        yield
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(address)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def servers() -> list[tuple[int, str]]:
    """Return the process number and the address of each server that runs."""
    found = []
    for path in sorted(_folder().glob("[0-9]*")):
        with contextlib.suppress(OSError), path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append((int(path.name), file.read()))
            else:
                path.unlink()  # its server was killed
    return found


def _folder() -> Path:
    return Path(platformdirs.user_state_dir("clinvk", appauthor=False)) / "servers"
