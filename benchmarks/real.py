"""The real CLIs, each pointed at a fake of its model API, and started as clinvk starts it.

How clinvk starts a CLI is not repeated here: a clinvk is run once with `benchmarks.record` in the
CLI's place, and what was noted is started again, in a copy of the folder that clinvk had made.
"""

import json
import shutil
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import processes
from benchmarks.client import said
from benchmarks.fake_codex import expected
from benchmarks.processes import ROOT, BenchmarkError, Place, Server

BIN = ROOT / "tests" / "real" / "node_modules" / ".bin"
PACKAGES = {
    "claude": "@anthropic-ai/claude-code",
    "codex": "@openai/codex",
    "gemini": "@google/gemini-cli",
}
INSTALL = "make tests/real/node_modules/.installed"
NAMES = tuple(PACKAGES)
# What tells the process that answers from those that are only asked for a version or a login.
_ANSWERS = {"claude": "-p", "codex": "app-server", "gemini": "--acp"}
_REWRITTEN = {".json", ".toml", ".md", ".env", ""}
_REWRITE_BYTES = 1 << 24


def program(name: str) -> str:
    """Return the path of a real CLI.

    Raises:
        BenchmarkError: if it is not installed; the text has the command that installs it.
    """
    path = BIN / name
    if not path.exists():
        raise BenchmarkError(f"{name} is not installed here; run: {INSTALL}")
    return str(path)


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of the real CLIs.

    Raises:
        BenchmarkError: if one is not installed.
    """
    found = {}
    for name in names:
        program(name)
        package = BIN.parent / PACKAGES[name] / "package.json"
        found[name] = str(json.loads(package.read_text("utf-8"))["version"])
    return found


def backend(name: str, upstream: str, command: list[str] | None = None) -> dict[str, Any]:
    """Return what a user writes in backends.yaml to point a CLI at another model API."""
    settings: dict[str, Any] = {"kind": name, "command": command or [program(name)]}
    if name == "claude":
        settings["env"] = {"ANTHROPIC_BASE_URL": upstream, "ANTHROPIC_API_KEY": "sk-ant-bench"}
    elif name == "codex":
        settings["env"] = {"FAKE_KEY": "sk-bench"}
        provider = {"name": "fake", "wire_api": "responses", "env_key": "FAKE_KEY"}
        provider["base_url"] = f"{upstream}/v1"
        settings["config"] = {"model_provider": "fake", "model_providers.fake": provider}
    else:
        settings["env"] = {"GOOGLE_GEMINI_BASE_URL": upstream, "GEMINI_API_KEY": "bench"}
    return settings


def log_in(where: Place) -> None:
    """Choose the login by key in a home, as a user does in gemini's dialogue."""
    folder = where.home / ".gemini"
    folder.mkdir(exist_ok=True)
    chosen = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
    (folder / "settings.json").write_text(json.dumps(chosen), "utf-8")


@dataclass(frozen=True, slots=True)
class Start:
    """How a process is started: `root` is the private folder that belongs to it."""

    argv: list[str]
    env: dict[str, str]
    cwd: Path
    root: Path

    def moved(self, to: Path) -> "Start":
        """Return the same start in a copy of its folder."""
        here, there = str(self.root), str(to)

        def rewritten(text: str) -> str:
            return text.replace(here, there)

        shutil.copytree(self.root, to, symlinks=True, ignore=shutil.ignore_patterns("*.sqlite*"))
        for path in to.rglob("*"):
            if path.is_symlink() or not path.is_file() or path.suffix not in _REWRITTEN:
                continue
            if path.stat().st_size < _REWRITE_BYTES:
                path.write_bytes(path.read_bytes().replace(here.encode(), there.encode()))
        return Start(
            [rewritten(word) for word in self.argv],
            {key: rewritten(value) for key, value in self.env.items()},
            Path(rewritten(str(self.cwd))),
            to,
        )


@contextmanager
def noted(where: Place, name: str, upstream: str) -> Iterator[Start]:
    """Give how clinvk starts a CLI; its folder is there as long as this is open."""
    notes = where.folder / f"{name}.starts"
    notes.touch()
    log_in(where)
    recorder = [sys.executable, "-m", "benchmarks.record", str(notes), program(name)]
    settings = backend(name, upstream, recorder)
    settings["env"] |= {"PYTHONPATH": str(ROOT)}
    with processes.serve(where, {name: settings}, name=f"{name}-noted") as server:
        ask_once(server, name)
        started = [json.loads(line) for line in notes.read_text("utf-8").splitlines()]
        found = [start for start in started if _ANSWERS[name] in start["argv"]]
        if not found:
            raise BenchmarkError(f"clinvk did not start {name}: {started!r}")
        yield _start(found[-1], where)


def _start(told: Mapping[str, Any], where: Place) -> Start:
    cwd = Path(told["cwd"])
    temporary = where.folder / "tmp"
    root = temporary / cwd.relative_to(temporary).parts[0]
    return Start(told["argv"], told["env"], cwd, root)


def ask_once(server: Server, model: str, asked: str = "3 token-once") -> None:
    """Ask a server something, so that all is up that a first answer needs.

    Raises:
        BenchmarkError: if the answer is not right.
    """
    messages = [{"role": "user", "content": asked}]
    body = json.dumps({"model": model, "messages": messages}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/chat/completions", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = response.read()
    except urllib.error.HTTPError as exc:
        raise BenchmarkError(f"{model} failed: {exc.read().decode('utf-8', 'replace')}") from exc
    if said(answer) != expected(asked):
        raise BenchmarkError(f"{model} answered {answer!r} to {asked!r}")
