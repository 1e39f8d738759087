"""What the machine says of its memory."""

from pathlib import Path

import pytest

from clinvk.procs import memory
from clinvk.procs.memory import SCARCE_MB, available_mb, is_scarce


def test_the_kernel_is_believed(tmp_path: Path) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 8 kB\nMemAvailable:    1000000 kB\n")
    assert available_mb(info) == 1024


@pytest.mark.parametrize("text", ["", "MemTotal: 8 kB\n", "MemAvailable: much\n", "MemAvailable:"])
def test_nothing_is_made_up(tmp_path: Path, text: str) -> None:
    info = tmp_path / "meminfo"
    info.write_text(text)
    assert available_mb(info) is None


def test_no_file_is_no_answer(tmp_path: Path) -> None:
    assert available_mb(tmp_path / "none") is None


@pytest.mark.parametrize("found_mb", [None, SCARCE_MB, SCARCE_MB - 1])
def test_little_memory_is_scarce(monkeypatch: pytest.MonkeyPatch, found_mb: float | None) -> None:
    monkeypatch.setattr(memory, "available_mb", lambda: found_mb)
    assert is_scarce() is (found_mb == SCARCE_MB - 1)
