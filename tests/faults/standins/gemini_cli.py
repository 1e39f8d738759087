"""Speaks the Agent Client Protocol as Gemini CLI does, and misbehaves as it is asked to."""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.faults.standins import acp_cli, mischief
from tests.faults.standins.acp_cli import reply

SESSIONS: list[str] = []
RECORDS = next((sys.argv[at + 1] for at, a in enumerate(sys.argv) if "record-resp" in a), None)


class Answer(acp_cli.Answer):
    """One answer of the model, which is recorded."""

    def end(self, text: str) -> list[dict[str, Any]]:
        record(text)
        return super().end(text)


def record(text: str) -> None:
    """Write the model's response where gemini does."""
    candidate = {"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}
    counts = {"promptTokenCount": 10, "candidatesTokenCount": 7}
    chunks = [{"candidates": [candidate], "usageMetadata": counts}]
    if RECORDS is not None:
        with Path(RECORDS).open("a") as file:
            line = {"method": "generateContentStream", "response": chunks}
            file.write(json.dumps(line) + "\n")


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
