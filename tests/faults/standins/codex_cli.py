"""Speaks codex's app-server protocol, and misbehaves as it is asked to."""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.faults.standins import mischief

THREADS: dict[str, str] = {}
TURNS: dict[str, int] = {}


class Answer:
    """One answer of the model."""

    def __init__(self, thread: str) -> None:
        self.thread = thread
        self.item = f"{thread}-{TURNS[thread]}"

    def begin(self) -> list[dict[str, Any]]:
        item = {"type": "agentMessage", "id": self.item}
        return [
            self.note("turn/started", turn={"id": "u"}),
            self.note("item/started", item=item),
        ]

    def delta(self, text: str) -> dict[str, Any]:
        return self.note("item/agentMessage/delta", itemId=self.item, delta=text)

    def end(self, text: str) -> list[dict[str, Any]]:
        item = {"type": "agentMessage", "id": self.item, "text": text}
        counts = {"inputTokens": 10 * TURNS[self.thread], "outputTokens": 7 * TURNS[self.thread]}
        return [
            self.note("item/completed", item=item),
            self.note("thread/tokenUsage/updated", tokenUsage={"total": counts}),
            self.note("turn/completed", turn={"id": "u", "status": "completed"}),
        ]

    def refused(self) -> list[dict[str, Any]]:
        said = "stream disconnected before completion: error sending request for url"
        error = {"message": said, "codexErrorInfo": None, "additionalDetails": said}
        return [self.note("turn/completed", turn={"id": "u", "status": "failed", "error": error})]

    def misdirected(self) -> list[dict[str, Any]]:
        ended = self.note("turn/completed", turn={"id": "u", "status": "completed"})
        return [{**ended, "params": {**ended["params"], "threadId": "another"}}]

    def note(self, method: str, **params: Any) -> dict[str, Any]:
        return {"method": method, "params": {"threadId": self.thread, "turnId": "u", **params}}


def take(message: dict[str, Any]) -> None:
    number, method, params = message.get("id"), message.get("method"), message.get("params") or {}
    thread = str(params.get("threadId"))
    result: dict[str, Any] = {}
    if method == "initialize":
        result = {"userAgent": "codex/0.169.0 (stand-in)"}
        if mischief.start_fault() == "start-wrong-id":
            number = 999
    elif method == "thread/start":
        thread = f"t{len(THREADS)}"
        THREADS[thread], TURNS[thread] = "", 0
        result = {"thread": {"id": thread}, "model": "fake-model"}
    elif method == "thread/inject_items":
        THREADS[thread] = mischief.fault_in(json.dumps(params["items"][-1]))
    elif method == "turn/start":
        TURNS[thread] += 1
        result = {"turn": {"id": "u"}}
    if number is not None:
        mischief.say({"id": number, "result": result})
    if method == "turn/start":
        mischief.answer(THREADS[thread], Answer(thread))


def main() -> None:
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        sys.stdout.write("codex-cli 0.169.0\n")
    elif arguments == ["app-server"]:
        mischief.misbehave_at_start()
        for message in mischief.hear():
            take(message)
    elif arguments[:2] == ["debug", "models"]:
        sys.stdout.write('{"models": []}\n')


main()
