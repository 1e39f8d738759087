"""How much memory the machine has to spare, as far as it tells."""

from pathlib import Path

SCARCE_MB = 512.0
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


def is_scarce() -> bool:
    """Whether nothing more should be kept in memory only because it may be of use."""
    found_mb = available_mb()
    return found_mb is not None and found_mb < SCARCE_MB
