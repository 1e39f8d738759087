"""Speaks the Agent Client Protocol, and misbehaves as it is asked to.

Beside the faults of every stand-in it has those of a session's opening: the file `fault` in the
home names `STAGE-WHAT`, a stage such as `new`, `mode`, `model` or `cancel`, and what happens there.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.faults.standins import mischief

SESSIONS: list[str] = []
WAITING: list["Answer"] = []  # for so many answers to what we asked
MODES = {"currentModeId": "yolo", "availableModes": [{"id": "yolo"}, {"id": "default"}]}
MODELS = {"currentModelId": "m", "availableModels": [{"modelId": "m"}, {"modelId": "n"}]}
STAGES = {"session/new": "new", "session/set_mode": "mode", "session/set_model": "model"}


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
        return [reply(self.number, {"stopReason": "end_turn"})]

    def refused(self) -> list[dict[str, Any]]:
        said = {"code": 500, "message": "fetch failed: connect ECONNREFUSED"}
        return [{"jsonrpc": "2.0", "id": self.number, "error": said}]

    def misdirected(self) -> list[dict[str, Any]]:
        return [reply(999_999, {"stopReason": "end_turn"}), {"id": "x", "result": {}}]


def reply(number: int, result: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "result": result}


def misplay(what: str, number: int) -> None:
    """Do at a stage what is asked for in place of an answer."""
    match what:
        case "die":
            mischief.die()
        case "hang":
            mischief.hang()
        case "close":
            os.close(1)
            mischief.hang()
        case "silence":
            pass
        case "error":
            mischief.say({"id": number, "error": {"code": -32603, "message": "boom"}})
        case "login":
            mischief.say({"id": number, "error": {"code": -32000, "message": "who are you"}})
        case "junk":
            mischief.say({"id": number, "result": [1]})
        case "odd":
            mischief.say({"id": number, "error": {"code": [], "message": {}, "data": [1]}})


def ask_back(session: str, prompt: int) -> None:
    """Ask the client for all that an agent may ask for, in ways that it may not."""
    option: dict[str, Any] = {"kind": "allow_always", "optionId": "a"}
    asked: list[tuple[str, Any]] = [
        ("fs/read_text_file", {"sessionId": session, "path": "/etc/passwd"}),
        ("fs/write_text_file", {"sessionId": session, "path": "/x", "content": "x"}),
        ("terminal/create", {"sessionId": session, "command": "id"}),
        ("session/request_permission", {"sessionId": session, "toolCall": 1, "options": [option]}),
        ("session/request_permission", [1]),
        ("session/no_such", None),
    ]
    for at, (method, params) in enumerate(asked):
        mischief.say({"jsonrpc": "2.0", "id": f"a{at}", "method": method, "params": params})
    WAITING[:] = [Answer(session, prompt)] * len(asked)


def note(message: dict[str, Any]) -> None:
    """Write down what we were answered, and answer ourselves once all is."""
    with (Path(os.environ["HOME"]) / "refused").open("a") as file:
        file.write(json.dumps(message) + "\n")
    last = WAITING.pop()
    if not WAITING:
        mischief.answer("", last)


def take(message: dict[str, Any]) -> None:
    number, method, params = message.get("id"), message.get("method"), message.get("params") or {}
    if not isinstance(number, int):
        if str(number).startswith("a"):  # what we asked is answered
            note(message)
        return
    stage, _, what = mischief.start_fault().partition("-")
    if STAGES.get(str(method)) == stage:
        misplay(what, number)
    elif method == "initialize":
        wrong = (stage, what) == ("start", "wrong-id")
        mischief.say(reply(999_999 if wrong else number, {"protocolVersion": 1}))
    elif method == "session/new":
        SESSIONS.append(f"s{len(SESSIONS)}")
        opened = {"sessionId": SESSIONS[-1], "modes": MODES, "models": MODELS}
        mischief.say(reply(number, opened))
    elif method == "session/prompt":
        fault = mischief.fault_in(json.dumps(params["prompt"]))
        if fault == "asks-back":
            ask_back(params["sessionId"], number)
            return
        mischief.answer(fault, Answer(params["sessionId"], number))
    else:
        mischief.say(reply(number, {}))


def main() -> None:
    mischief.misbehave_at_start()
    for message in mischief.hear():
        take(message)


if __name__ == "__main__":
    main()
