"""Private temporary folders, and those that a crash left behind."""

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clinvk.procs import scratch


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_is_for_its_user_alone() -> None:
    folder = scratch.make("kind")
    assert folder.stat().st_mode & 0o777 == 0o700
    scratch.remove(folder)
    assert not folder.exists()


def test_removing_spares_what_links_point_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("login")
    folder = scratch.make("kind")
    (folder / "link").symlink_to(kept)
    scratch.remove(folder)
    assert kept.read_text() == "login"


def test_only_folders_of_the_dead_are_stale(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = tmp_path / f"clinvk-kind-{dead.pid}-x"
    other = tmp_path / f"clinvk-other-{dead.pid}-x"
    odd = tmp_path / "clinvk-kind-notes"
    for folder in (stale, other, odd):
        folder.mkdir()
    mine = scratch.make("kind")
    scratch.remove_stale("kind")
    assert mine.name.startswith(f"clinvk-kind-{os.getpid()}-")
    assert (stale.exists(), mine.exists(), other.exists(), odd.exists()) == (
        False,
        True,
        True,
        True,
    )


def test_a_locked_folder_is_not_stale_whoever_holds_it(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    held = tmp_path / f"clinvk-kind-{dead.pid}-x"
    held.mkdir()
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    scratch.remove_stale("kind")
    assert held.exists()
    os.close(lock)
    scratch.remove_stale("kind")
    assert not held.exists()


def test_a_killed_owner_leaves_a_stale_folder(tmp_path: Path) -> None:
    script = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from clinvk.procs import scratch\n"
        "print(scratch.make('kind'), flush=True); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=False, capture_output=True, text=True
    )
    left = Path(killed.stdout.strip())
    assert left.exists()
    scratch.remove_stale("kind")
    assert not left.exists()


def test_removing_twice_and_what_was_never_made_is_harmless(tmp_path: Path) -> None:
    folder = scratch.make("kind")
    scratch.remove(folder)
    scratch.remove(folder)
    scratch.remove(tmp_path / "never")
