"""How much memory the machine has to spare, as far as it tells."""

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")


def available_mb(source: Path = _MEMINFO) -> float | None:
    """Return the memory that could be used without swapping, in MB; None where nothing tells."""
    try:
        for line in source.read_text("ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024 / 1e6
    except (OSError, ValueError, IndexError):
        return None
    return None
