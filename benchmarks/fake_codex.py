"""A stand-in for codex that costs next to nothing, so that what is left is clinvk's own.

It speaks `codex app-server`, because there one process carries every turn: no start of a process
is in the way. It says what codex 0.169.0 says in a turn, each line in a write of its own. Asked
`N TOKEN` in the last line, it answers in N deltas that begin with TOKEN; `expected` says which.
If $FAKE_CODEX_TOLD names a file, each turn adds a line to it: the bytes read since the last.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

USAGE = {
    "totalTokens": 12,
    "inputTokens": 7,
    "cachedInputTokens": 0,
    "cacheWriteInputTokens": 0,
    "outputTokens": 5,
    "reasoningOutputTokens": 0,
}
MODEL = "fake-codex"
_CHUNK = 1 << 20

Message = dict[str, Any]


def deltas(asked: str) -> list[str]:
    """Return the pieces of the answer to `N TOKEN`."""
    count, _, token = asked.partition(" ")
    return [token, *(f" {number}" for number in range(1, int(count)))]


def expected(asked: str) -> str:
    """Return the whole answer to `N TOKEN`."""
    return "".join(deltas(asked))


class FakeCodex:
    """The app-server: what each thread was told, and the answers."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._told: dict[str, str] = {}
        self._turns: dict[str, int] = {}
        self._threads = 0
        self.told = 0

    def take(self, message: Message) -> None:
        """Answer one message."""
        number = message.get("id")
        if number is None:
            return
        params = message.get("params") or {}
        thread = str(params.get("threadId"))
        match message.get("method"):
            case "thread/start":
                self._threads += 1
                thread = f"thread-{self._threads}"
                self._reply(number, {"thread": {"id": thread, "ephemeral": True}, "model": MODEL})
                self._say("thread/started", {"thread": {"id": thread, "ephemeral": True}})
            case "thread/inject_items":
                self._told[thread] = _last_text(params["items"])
                self._reply(number, {})
            case "turn/start":
                self._note()
                self._reply(number, {"turn": {"id": f"{thread}-turn", "status": "inProgress"}})
                self._turn(thread, _last_text([{"content": params.get("input") or ()}]))
            case "thread/unsubscribe":
                self._told.pop(thread, None)
                self._turns.pop(thread, None)
                self._reply(number, {})
            case "initialize":
                self._reply(number, {"userAgent": "fake/0.169.0"})
            case _:
                self._reply(number, {})

    def _note(self) -> None:
        if path := os.environ.get("FAKE_CODEX_TOLD"):
            with Path(path).open("a") as file:
                file.write(f"{self.told}\n")
            self.told = 0

    def _turn(self, thread: str, asked: str) -> None:
        place = {"threadId": thread, "turnId": f"{thread}-turn"}
        at = {**place, "itemId": f"{thread}-item"}
        asked = (asked or self._told.get(thread, "")).rpartition("\n")[2]
        text = expected(asked)
        item = {"type": "agentMessage", "id": at["itemId"], "text": ""}
        self._say("turn/started", {**place, "turn": {"id": place["turnId"]}})
        self._say("item/started", {**place, "item": item})
        for delta in deltas(asked):
            self._say("item/agentMessage/delta", {**at, "delta": delta})
        self._say("item/completed", {**place, "item": {**item, "text": text}})
        turns = self._turns[thread] = self._turns.get(thread, 0) + 1
        usage = {"total": {kind: turns * count for kind, count in USAGE.items()}, "last": USAGE}
        self._say("thread/tokenUsage/updated", {**place, "tokenUsage": usage})
        turn = {"id": place["turnId"], "status": "completed", "error": None}
        self._say("turn/completed", {**place, "turn": turn})

    def _reply(self, number: int, result: Message) -> None:
        self._send({"id": number, "result": result})

    def _say(self, method: str, params: Message) -> None:
        self._send({"method": method, "params": params})

    def _send(self, message: Message) -> None:
        self._write(json.dumps(message, separators=(",", ":")).encode() + b"\n")


def _last_text(items: Any) -> str:  # noqa: ANN401 - JSON
    for item in reversed(items):
        for part in reversed(item.get("content") or ()):
            if part.get("text"):
                return str(part["text"])
    return ""


def _write_all(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


def main() -> None:
    """Serve until stdin ends; the other commands of codex that clinvk asks are answered, too."""
    match sys.argv[1:]:
        case ["--version"]:
            sys.stdout.write("codex-cli 0.169.0\n")
        case ["login", "status"]:
            sys.stdout.write("Logged in using an API key\n")
        case ["debug", "models", *_]:
            sys.stdout.write(json.dumps({"models": [{"slug": MODEL}]}) + "\n")
        case ["app-server"]:
            fake = FakeCodex(_write_all)
            rest = b""
            while chunk := os.read(0, _CHUNK):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    fake.told += len(line) + 1
                    fake.take(json.loads(line))
        case arguments:
            sys.exit(f"the stand-in for codex does not know {arguments!r}")


if __name__ == "__main__":
    main()
