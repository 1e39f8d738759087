"""The command in a process of its own, in a home of its own, with no real CLI in reach."""

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
import yaml

from tests.cli.screen import screen

ROOT = Path(__file__).parents[2]
FAKE_CLAUDE = ROOT / "tests/fakes/claude_cli.py"
WAIT_S = 30  # a guard against hanging, never reached by a test that passes


@dataclass
class Ended:
    """What a finished command left."""

    code: int
    out: str
    err: str


@dataclass
class Clinvk:
    """Runs `clinvk` with an environment that is said in full."""

    folder: Path
    env: dict[str, str]
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __call__(self, *args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Ended:
        """Run a command to its end."""
        process = self.start(*args, env=env, stdin=subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=WAIT_S)
        return Ended(process.returncode, out.decode(), err.decode())

    def start(
        self, *args: str, env: dict[str, str] | None = None, **how: Any
    ) -> "subprocess.Popen[bytes]":
        """Start a command, its three streams pipes unless said otherwise."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            [sys.executable, "-m", "clinvk", *args],
            cwd=self.folder,
            env={**self.env, **(env or {})},
            **{**pipes, **how},
        )
        self.started.append(process)
        return process

    def config(self, server: dict[str, Any] | None = None, **backends: dict[str, Any]) -> Path:
        """Write a backends.yaml to the user's folder."""
        path = self.user_file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"server": server or {}, "backends": backends}))
        return path

    def with_fake_claude(self, **more: Any) -> Path:
        """Configure a backend `claude` that is the fake; return where it writes its process id."""
        pid_file, go = self.folder / "fake.pid", self.folder / "go"
        os.mkfifo(go)
        self.config(
            {"grace_s": 3600},  # no test waits for it
            claude={
                "kind": "claude",
                "command": [sys.executable, str(FAKE_CLAUDE)],
                "env": {"FAKE_CLAUDE_PID": str(pid_file), "FAKE_CLAUDE_GO": str(go)},
                **more,
            },
            echo={"kind": "echo"},
        )
        return pid_file

    def without(self, package: str) -> dict[str, str]:
        """Return the variables with which a Python finds no such package."""
        (self.folder / "sitecustomize.py").write_text(
            f"import sys; sys.modules[{package!r}] = None"
        )
        return {"PYTHONPATH": f"{self.folder}:{self.env['PYTHONPATH']}"}

    @property
    def user_file(self) -> Path:
        return Path(self.env["XDG_CONFIG_HOME"]) / "clinvk/backends.yaml"


@pytest.fixture
def clinvk(tmp_path: Path) -> Iterator[Clinvk]:
    home, folder, programs = (tmp_path / name for name in ("home", "work", "bin"))
    for path in (home, folder, programs):
        path.mkdir()
    env = {
        "PATH": str(programs),
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "TMPDIR": str(tmp_path),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "PYTHONPATH": str(ROOT),
        **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
    }
    command = Clinvk(folder, env)
    yield command
    for process in command.started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


class Terminal:
    """A command on a terminal; what it writes is read as it comes."""

    def __init__(self, clinvk: Clinvk, *args: str, rows: int = 12, columns: int = 60) -> None:
        self._size = {"rows": rows, "columns": columns}
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        self._raw = b""
        self._news = threading.Condition()
        self.process = clinvk.start(*args, **streams, preexec_fn=lambda: os.login_tty(slave))
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Wait until `text` was written."""
        with self._news:
            found = self._news.wait_for(lambda: text in self.raw, WAIT_S)
        assert found, f"{text!r} is not in {self.raw!r}"

    def end(self) -> int:
        """Wait for the command's end and return its exit code."""
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        os.close(self._master)
        return code

    @property
    def raw(self) -> str:
        return self._raw.decode(errors="replace")

    @property
    def lines(self) -> list[str]:
        """What can be read on the screen and above it."""
        return [line for line in screen(self.raw, **self._size) if line]

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # Linux says EIO when the last writer is gone
            while chunk := os.read(self._master, 65_536):
                with self._news:
                    self._raw += chunk
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()


def read_until(stream: IO[bytes] | None, text: str) -> str:
    """Read lines until one has `text`; all that was read."""
    assert stream is not None
    read = ""
    for line in stream:
        read += line.decode()
        if text in read:
            return read
    raise AssertionError(f"{text!r} never came: {read!r}")


def interrupted(process: "subprocess.Popen[bytes]", number: signal.Signals) -> Ended:
    """Send a signal and wait for the end."""
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT_S)
    return Ended(process.returncode, out.decode(), err.decode())


def has_ended(pid_file: Path) -> bool:
    """Whether the fake CLI that wrote its process id is gone."""
    return not psutil.pid_exists(int(pid_file.read_text()))
