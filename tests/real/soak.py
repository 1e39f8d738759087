"""A long run of everything at once: `python -m tests.real.soak --requests 1000`.

With `--fakes` the CLI is a stand-in that costs next to nothing, for ten thousand in minutes, and
so are an agent, a command and an upstream beside it.

Serves the real CLIs over fakes of their model APIs, as `clinvk serve` does, and asks 32 things at
a time: streamed and not, chats that go on, loops with tools; while clients leave in mid-answer,
the model API fails, and CLIs are killed. Every answer must be right or one typed error, none may
get stuck, and at the end nothing may be left but what was there at the start.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import yaml

from benchmarks.fake_codex import expected
from benchmarks.processes import FAKE_CODEX
from tests.fakes.api import Captured, Reply
from tests.real.bridge import FAKES, settings

AT_ONCE = 32
STUCK_S = 120.0
KEPT = 24  # conversations and spares that a server may hold at its defaults
CLIS = ("claude", "codex", "gemini")
STANDINS = ("codex", "acp", "command", "openai")
PROGRAM = (sys.executable, "-S", "-E", str(Path(__file__).with_name("soak_programs.py")))
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALLED_AS = {"claude": "look", "codex": "look", "gemini": "mcp_x_look"}


def answer_of(token: str) -> str:
    """What the model says to a token."""
    return f"It is {token}, and nothing else."


@dataclass(frozen=True)
class Play:
    """What is asked of whom, and what is then the right answer."""

    backends: tuple[str, ...]
    tools: float
    question: Callable[[str], str]
    answer: Callable[[str], str]


REAL = Play(CLIS, 0.2, lambda token: f"What is {token}?", answer_of)
FAKES_PLAY = Play(STANDINS, 0.0, lambda token: f"5 {token}", lambda token: expected(f"5 {token}"))


class Model:
    """Answers each request by the last token in it, and sometimes fails."""

    def __init__(
        self, name: str, rng: random.Random, trouble: float, answer: Callable[[str], str]
    ) -> None:
        self._name = name
        self._answer = answer
        self._rng = rng
        self._trouble = trouble

    def __call__(self, captured: Captured) -> Reply:
        """Make the reply to a request of the CLI."""
        found = re.findall(r"(?:tok|call)\d+x", json.dumps(captured.body))
        if not found:
            return Reply()
        token = found[-1]
        if self._rng.random() < self._trouble:
            return self._rng.choice(
                [Reply(status=500), Reply(status=429), Reply(text=("It",), cut=1)]
            )
        if token.startswith("call"):
            return Reply(text=(), tool_calls=((CALLED_AS[self._name], {"token": token}),))
        words = re.findall(r"\S+\s*", self._answer(token))
        return Reply(text=tuple(words), delay_s=self._rng.choice([0, 0, 0.01]))


@dataclass
class Tally:
    """What became of all requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    courses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Client:
    """One of many who ask."""

    def __init__(self, play: Play, url: str, http: aiohttp.ClientSession, tally: Tally) -> None:
        self._play = play
        self._url = url
        self._http = http
        self._tally = tally

    async def scene(self, number: int, model: str, rng: random.Random) -> None:
        """Do one of the things that clients do."""
        messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
        turns = rng.choice([1, 1, 2, 3])
        for turn in range(turns):
            with_tool = rng.random() < self._play.tools
            token = f"{'call' if with_tool else 'tok'}{number * 10 + turn}x"
            messages.append({"role": "user", "content": self._play.question(token)})
            reply = await self._ask(model, messages, rng, token, tools=with_tool)
            if reply is None:
                return
            messages.append(reply)
            for call in reply.get("tool_calls") or ():
                said = f"tok{number * 10 + turn}x"
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": said})
            if reply.get("tool_calls"):
                last = await self._ask(model, messages, rng, said, tools=True)
                if last is None:
                    return
                messages.append(last)

    async def _ask(
        self,
        model: str,
        messages: list[dict[str, Any]],
        rng: random.Random,
        token: str,
        *,
        tools: bool,
    ) -> dict[str, Any] | None:
        body: dict[str, Any] = {"model": model, "messages": messages}
        body |= {"tools": [TOOL]} if tools else {}
        body["stream"] = rng.random() < 0.7
        leaves = rng.random() < 0.1
        try:
            async with asyncio.timeout(STUCK_S):
                url = f"{self._url}/chat/completions"
                async with self._http.post(url, json=body) as response:
                    how = response.headers.get("x-clinvk-turn", "-")
                    if response.status != 200:
                        self._failed(await response.json())
                        return None
                    if not body["stream"]:
                        reply: dict[str, Any] = (await response.json())["choices"][0]["message"]
                        return self._right(reply, token, how)
                    if leaves:
                        await response.content.readline()
                        self._tally.outcomes["left"] += 1
                        return None
                    streamed = folded(await response.text())
                    if "error" in streamed:
                        self._failed(streamed)
                        return None
                    return self._right(streamed, token, how)
        except TimeoutError:
            self._tally.wrong.append(f"{model}: stuck for {STUCK_S:g} s on {token}")
        except (aiohttp.ClientError, ValueError) as exc:
            self._tally.wrong.append(f"{model}: {type(exc).__name__}: {exc}")
        return None

    def _failed(self, body: dict[str, Any]) -> None:
        error = body.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        if not code or code == "internal_error":
            self._tally.wrong.append(f"no typed error: {body}")
        self._tally.outcomes[f"error {code}"] += 1

    def _right(self, reply: dict[str, Any], token: str, how: str) -> dict[str, Any] | None:
        self._tally.courses[how] += 1
        calls: list[dict[str, Any]] = reply.get("tool_calls") or []
        if token.startswith("call"):
            right = bool(calls) and json.loads(calls[0]["function"]["arguments"]) == {
                "token": token
            }
        else:
            right = reply.get("content") == self._play.answer(token)
        if not right:
            self._tally.wrong.append(f"{how}: for {token} came {reply}")
            return None
        self._tally.outcomes["right"] += 1
        kept = {"role": "assistant", "content": reply.get("content")}
        return {**kept, "tool_calls": calls} if calls else kept


def folded(stream: str) -> dict[str, Any]:
    """Return the message, or the error, that a stream of chunks tells."""
    text, done = "", False
    calls: dict[int, dict[str, Any]] = {}
    for line in stream.splitlines():
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            done = True
            continue
        chunk = json.loads(line.removeprefix("data: "))
        if "error" in chunk:
            return {"error": chunk["error"]}
        for choice in chunk["choices"]:
            text += choice["delta"].get("content") or ""
            for part in choice["delta"].get("tool_calls") or ():
                empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
                call = calls.setdefault(part["index"], empty)
                call["id"] += part.get("id") or ""
                for key, value in (part.get("function") or {}).items():
                    call["function"][key] += value or ""
    if not done:
        raise ValueError("the stream has no end")
    return {"content": text, **({"tool_calls": list(calls.values())} if calls else {})}


@dataclass
class Served:
    """A running `clinvk serve`, and where it writes."""

    process: asyncio.subprocess.Process
    url: str
    log: Path
    temp: Path

    @property
    def inside(self) -> psutil.Process:
        """The process, to look into."""
        return psutil.Process(self.process.pid)


@asynccontextmanager
async def serving(folder: Path, play: Play, model: Callable[[str], Model]) -> AsyncIterator[Served]:
    """Serve the real CLIs over their fakes; what is left of it is the caller's to see."""
    home, temp, log = folder / "home", folder / "tmp", folder / "log"
    home.mkdir()
    temp.mkdir()
    async with AsyncExitStack() as stack:
        backends = {}
        for name in play.backends:
            limits = {"max_concurrency": 16, "max_queue": 256}
            if name in {"acp", "command"}:
                program = {"command": [*PROGRAM, name], "env": {"HOME": str(home)}}
                backends[name] = {"kind": name, **program, **limits}
                continue
            fake = await stack.enter_async_context(FAKES[name]().running())
            fake.script = model(name)
            backends[name] = {**settings(name, fake, home), **limits}
            if play is FAKES_PLAY and name == "codex":
                backends[name]["command"] = list(FAKE_CODEX)
        config = folder / "backends.yaml"
        server = {"port": 0, "store": {"path": ":memory:"}}
        config.write_text(yaml.safe_dump({"server": server, "backends": backends}))
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "clinvk", "serve", "--config", str(config)),
                env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(temp)},
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
            )
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        yield Served(process, line.split()[-1], log, temp)


class Soak:
    """One run: its chances, and what came of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.tally = Tally()
        self.report: dict[str, Any] = {}
        self._options = options
        self._play = FAKES_PLAY if options.fakes else REAL
        self._rng = random.Random(options.seed)
        self._kills: list[str] = []
        self._memory: list[int] = []
        self._done = 0

    async def run(self) -> bool:
        """Run it all; return whether everything is as it should be."""
        with tempfile.TemporaryDirectory(prefix="clinvk-soak-") as folder:
            async with (
                serving(Path(folder), self._play, self._model) as served,
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(None)
                ) as http,
            ):
                before, after = await self._ask_it_all(served, http)
                children = served.inside.children(recursive=True)
                served.process.send_signal(signal.SIGTERM)
                code = await served.process.wait()
            _, alive = psutil.wait_procs(children, timeout=10)
            log, left = served.log.read_text(), [path.name for path in served.temp.iterdir()]
        checks = {
            "every answer right or one typed error": not self.tally.wrong,
            "no traceback in the log": "Traceback" not in log,
            "exit code 0": code == 0,
            "no process left": not alive,
            "no temporary folder left": not left,
            # each kept conversation of claude has a process with three pipes
            "no descriptors left": after <= before + 3 * KEPT,
        }
        self.report |= {
            "outcomes": dict(self.tally.outcomes.most_common()),
            "courses": dict(self.tally.courses.most_common()),
            "kills": dict(Counter(self._kills)),
            "memory_mb": [round(each / 1e6, 1) for each in self._memory],
            "descriptors": [before, after],
            "checks": checks,
            "wrong": self.tally.wrong[:10],
            "left": left,
            "traceback": log[log.index("Traceback") :][:3000] if "Traceback" in log else None,
        }
        return all(checks.values())

    def _model(self, name: str) -> Model:
        return Model(name, self._rng, self._options.trouble, self._play.answer)

    async def _ask_it_all(self, served: Served, http: aiohttp.ClientSession) -> tuple[int, int]:
        """Return the server's descriptors before and after."""
        client = Client(self._play, served.url, http, self.tally)
        for name in self._play.backends:  # so that all has been used once
            await client.scene(10**6, name, random.Random(1))
        before = served.inside.num_fds()
        self._memory.append(served.inside.memory_info().rss)
        started = time.monotonic()
        hunter = asyncio.create_task(self._hunt(served.inside))
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with gate:
                name = self._rng.choice(self._play.backends)
                await client.scene(number, name, random.Random(number))
            self._count(served.inside)

        await asyncio.gather(*(one(number) for number in range(self._options.requests)))
        hunter.cancel()
        self.report["requests"] = self._options.requests
        self.report["seconds"] = round(time.monotonic() - started, 1)
        async with asyncio.timeout(STUCK_S):
            while await busy(http, served.url.removesuffix("/openai/v1")):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return before, served.inside.num_fds()

    def _count(self, server: psutil.Process) -> None:
        self._done += 1
        if self._done % max(1, self._options.requests // 10) == 0:
            self._memory.append(server.memory_info().rss)
            sys.stderr.write(f"{self._done} of {self._options.requests}\n")

    async def _hunt(self, server: psutil.Process) -> None:
        """Kill one of the server's CLIs every now and then; never its guard."""
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / self._options.kill_every))
            found = [c for c in server.children(recursive=True) if not is_guard(c)]
            if found:
                victim = self._rng.choice(found)
                with contextlib.suppress(psutil.NoSuchProcess):
                    self._kills.append(victim.name())
                    victim.kill()


def is_guard(process: psutil.Process) -> bool:
    """Return whether it is the server's guard, or has just ended."""
    try:
        return any(word.endswith("guard.py") for word in process.cmdline())
    except psutil.Error:
        return True


async def busy(http: aiohttp.ClientSession, url: str) -> bool:
    """Return whether turns run or wait, by the server's own metrics."""
    async with http.get(f"{url}/metrics") as response:
        text = await response.text()
    found = re.findall(r"^clinvk_turns_(?:running|waiting)\{.*\} ([\d.]+)$", text, re.MULTILINE)
    return any(map(float, found))


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trouble", type=float, default=0.1, help="how often the API fails")
    parser.add_argument("--kill-every", type=float, default=1.0, help="seconds, on average")
    parser.add_argument("--fakes", action="store_true", help="a stand-in for the CLI")
    soak = Soak(parser.parse_args())
    right = asyncio.run(soak.run())
    sys.stdout.write(json.dumps(soak.report, indent=1) + "\n")
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
