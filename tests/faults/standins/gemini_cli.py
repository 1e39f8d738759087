"""Speaks the Agent Client Protocol as Gemini CLI does, and misbehaves as it is asked to."""

import json
import sys
from pathlib import Path
from typing import Any

import mischief

SESSIONS: list[str] = []
RECORDS = next((sys.argv[at + 1] for at, a in enumerate(sys.argv) if "record-resp" in a), None)


class Answer:
    """One answer of the model, to the prompt of a number."""

    def __init__(self, session: str, number: int) -> None:
        self.session = session
        self.number = number

    def begin(self) -> list[dict[str, Any]]:
        return []

    def delta(self, text: str) -> dict[str, Any]:
        content = {"type": "text", "text": text}
        update = {"sessionUpdate": "agent_message_chunk", "content": content}
        params = {"sessionId": self.session, "update": update}
        return {"jsonrpc": "2.0", "method": "session/update", "params": params}

    def end(self, text: str) -> list[dict[str, Any]]:
        record(text)
        return [reply(self.number, {"stopReason": "end_turn"})]

    def refused(self) -> list[dict[str, Any]]:
        said = {"code": 500, "message": "fetch failed: connect ECONNREFUSED"}
        return [{"jsonrpc": "2.0", "id": self.number, "error": said}]

    def misdirected(self) -> list[dict[str, Any]]:
        return [reply(999_999, {"stopReason": "end_turn"}), {"id": "x", "result": {}}]


def record(text: str) -> None:
    """Write the model's response where gemini does."""
    candidate = {"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}
    counts = {"promptTokenCount": 10, "candidatesTokenCount": 7}
    chunks = [{"candidates": [candidate], "usageMetadata": counts}]
    if RECORDS is not None:
        with Path(RECORDS).open("a") as file:
            line = {"method": "generateContentStream", "response": chunks}
            file.write(json.dumps(line) + "\n")


def reply(number: int, result: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": result}


def take(message: dict[str, Any]) -> None:
    number, method, params = message.get("id"), message.get("method"), message.get("params") or {}
    if not isinstance(number, int):
        return
    if method == "initialize":
        wrong = mischief.start_fault() == "start-wrong-id"
        mischief.say(reply(999_999 if wrong else number, {"protocolVersion": 1}))
    elif method == "session/new":
        SESSIONS.append(f"s{len(SESSIONS)}")
        mischief.say(reply(number, {"sessionId": SESSIONS[-1]}))
    elif method == "session/prompt":
        fault = mischief.fault_in(json.dumps(params["prompt"]))
        mischief.answer(fault, Answer(params["sessionId"], number))
    else:
        mischief.say(reply(number, {}))


def main() -> None:
    if "--version" in sys.argv:
        sys.stdout.write("0.61.0\n")
    else:
        mischief.misbehave_at_start()
        for message in mischief.hear():
            take(message)


main()
