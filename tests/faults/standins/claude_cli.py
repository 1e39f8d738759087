"""Speaks Claude Code's stream-json, and misbehaves as it is asked to."""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.faults.standins import mischief

USAGE = {"input_tokens": 10, "output_tokens": 7}


class Answer:
    """One answer of the model."""

    def begin(self) -> list[dict[str, Any]]:
        message = {"id": "msg_1", "model": "fake-model", "usage": USAGE}
        block = {"type": "text", "text": ""}
        return [
            event(type="message_start", message=message),
            event(type="content_block_start", index=0, content_block=block),
        ]

    def delta(self, text: str) -> dict[str, Any]:
        piece = {"type": "text_delta", "text": text}
        return event(type="content_block_delta", index=0, delta=piece)

    def end(self, text: str) -> list[dict[str, Any]]:
        return [
            event(type="content_block_stop", index=0),
            event(type="message_delta", delta={"stop_reason": "end_turn"}, usage=USAGE),
            event(type="message_stop"),
            result(text[:100]),
        ]

    def refused(self) -> list[dict[str, Any]]:
        said = "API Error: Unable to connect to API (ECONNREFUSED)"
        content = [{"type": "text", "text": said}]
        message = {"model": "<synthetic>", "content": content}
        assistant = {"type": "assistant", "message": message, "error": "server_error"}
        return [assistant, {**result(said), "is_error": True}]

    def misdirected(self) -> list[dict[str, Any]]:
        return [{**message, "parent_tool_use_id": "another"} for message in self.end("")]


def event(**fields: Any) -> dict[str, Any]:
    return {"type": "stream_event", "event": fields, "parent_tool_use_id": None, "session_id": "s"}


def result(text: str) -> dict[str, Any]:
    return {
        "type": "result",
        "subtype": "success",
        "is_error": False,
        "api_error_status": None,
        "result": text,
        "num_turns": 1,
        "session_id": "s",
        "usage": USAGE,
    }


def take(message: dict[str, Any]) -> None:
    if message["type"] == "control_request":
        wrong = mischief.start_fault() == "start-wrong-id"
        reply = {"subtype": "success", "request_id": message["request_id"], "response": {}}
        if wrong:
            reply["request_id"] = "another"
        mischief.say({"type": "control_response", "response": reply})
    elif message["type"] == "user":
        mischief.say({"type": "system", "subtype": "init", "model": "fake-model", "tools": []})
        if message.get("shouldQuery") is False:
            mischief.say(result(""))
        else:
            mischief.answer(mischief.fault_in(json.dumps(message)), Answer())


def main() -> None:
    arguments = sys.argv[1:]
    if "--version" in arguments:
        sys.stdout.write("2.1.197 (Claude Code)\n")
    elif arguments[:2] == ["auth", "status"]:
        sys.stdout.write('{"loggedIn": true}\n')
    else:
        mischief.misbehave_at_start()
        for message in mischief.hear():
            take(message)


main()
