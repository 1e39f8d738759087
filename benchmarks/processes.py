"""Starts what is measured: each server in a process and a home of its own, as a user would.

Owns children and their folders; nothing is left behind, and nothing of the user's is read.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil
import yaml

ROOT = Path(__file__).parents[1]
API = "/openai/v1"
START_S = 60.0
STOP_S = 15.0
FAKE_CODEX = (sys.executable, "-I", "-S", str(ROOT / "benchmarks" / "fake_codex.py"))


class BenchmarkError(Exception):
    """Something cannot be measured; the text says why, and what to do."""


@dataclass
class Child:
    """A process that answers lines by lines."""

    popen: "subprocess.Popen[str]"
    log: Path

    @property
    def pid(self) -> int:
        """The system's number of it."""
        return self.popen.pid

    def line(self, *, having: str = "") -> str:
        """Return the next line that it writes with `having` in it.

        Raises:
            BenchmarkError: if it ends instead; the text has the end of its stderr.
        """
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if having in line:
                return line.rstrip("\n")
        code = self.popen.wait()
        said = self.log.read_text("utf-8", "replace")[-2000:]
        raise BenchmarkError(f"{self.popen.args!r} ended with exit code {code}: {said}")

    def ask(self, question: Any) -> Any:  # noqa: ANN401 - JSON
        """Write a line of JSON and return the line that answers it."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(question) + "\n")
        self.popen.stdin.flush()
        return json.loads(self.line())


@contextmanager
def child(
    argv: Sequence[str], *, env: Mapping[str, str], folder: Path, name: str
) -> Iterator[Child]:
    """Run a process for as long as this is open; its stderr goes to a file in `folder`."""
    log = folder / f"{name}.log"
    with log.open("w") as stderr:
        popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=dict(env),
            cwd=folder,
            text=True,
        )
    try:
        yield Child(popen, log)
    finally:
        _end(popen)


def _end(popen: "subprocess.Popen[str]") -> None:
    for pipe in (popen.stdin, popen.stdout):
        _close(pipe)
    popen.terminate()
    try:
        popen.wait(STOP_S)
    except subprocess.TimeoutExpired:
        popen.kill()
        popen.wait()


def _close(pipe: IO[str] | None) -> None:
    if pipe is not None:
        with contextlib.suppress(OSError):
            pipe.close()


@dataclass(frozen=True)
class Place:
    """A folder for one benchmark, with an empty home and an environment that knows no other."""

    folder: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """The home of all that runs here."""
        return self.folder / "home"


@contextmanager
def place() -> Iterator[Place]:
    """Make a place, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="clinvk-bench-"))
    try:
        for name in ("home", "tmp"):
            (folder / name).mkdir()
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(ROOT),
        }
        yield Place(folder, env)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clinvk_program() -> str:
    """Return the path of `clinvk`.

    Raises:
        BenchmarkError: if it is not installed beside this Python.
    """
    found = Path(sys.executable).with_name("clinvk")
    if not found.exists():
        raise BenchmarkError(f"{found} is missing; run: make .venv/.dev")
    return str(found)


@dataclass
class Server(Child):
    """A server that listens at `url`."""

    url: str = ""

    def tree(self) -> list[psutil.Process]:
        """Return the process and all its children, the server first."""
        found = [psutil.Process(self.pid)]
        with contextlib.suppress(psutil.NoSuchProcess):
            found += found[0].children(recursive=True)
        return found

    def settle(self, *, quiet_s: float = 0.3, most_s: float = 20.0) -> None:
        """Wait until the server and its children do next to nothing, or `most_s` have passed."""
        end = time.monotonic() + most_s
        while time.monotonic() < end:
            before = busy_s(self.tree())
            time.sleep(quiet_s)
            if busy_s(self.tree()) - before < quiet_s / 15:
                return


def busy_s(processes: Sequence[psutil.Process]) -> float:
    """Return how many seconds of a processor they have used."""
    used = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used += times.user + times.system
    return used


def fake_backend(**limits: Any) -> dict[str, Any]:  # noqa: ANN401 - settings
    """Return the settings of a backend whose CLI costs nothing."""
    return {"kind": "codex", "command": list(FAKE_CODEX), "model": "fake-codex", **limits}


def write_config(where: Place, backends: Mapping[str, Any], name: str = "backends") -> Path:
    """Write a backends.yaml that listens on a free port."""
    config = {
        "server": {"port": 0, "store": {"path": ":memory:"}},
        "backends": dict(backends),
        "aliases": {},
    }
    path = where.folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    return path


@contextmanager
def serve(
    where: Place,
    backends: Mapping[str, Any],
    *,
    name: str = "clinvk",
    program: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> Iterator[Server]:
    """Run `clinvk serve` with these backends; `program` stands in for `clinvk`."""
    config = write_config(where, backends, name)
    argv = [*(program or (clinvk_program(),)), "serve", "--config", str(config), *arguments]
    with child(argv, env=where.env, folder=where.folder, name=name) as started:
        url = started.line(having="listening on").rpartition(" ")[2]
        yield Server(started.popen, started.log, url)


@contextmanager
def module(where: Place, name: str, *arguments: str, greets: bool = True) -> Iterator[Server]:
    """Run one of our modules; one that greets says in its first line where it listens."""
    argv = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    with child(argv, env=where.env, folder=where.folder, name=name) as started:
        yield Server(started.popen, started.log, started.line() if greets else "")
