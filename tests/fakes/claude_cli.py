"""A program that speaks enough of Claude Code's stream-json for tests of the command line.

It answers with the text it was asked, word by word, unless the last word is one of these:

    hang    says "begun\\n" and then nothing; writes its process id to $FAKE_CLAUDE_PID
    flood   says lines until nobody listens
    die     says "half" and exits
    think   thinks before it answers
    refuse  fails as the CLI does for an API error 500
    logout  fails as the CLI does without a login
    cut     ends by a token limit

Before it answers it writes its process id to $FAKE_CLAUDE_PID.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSION = "2.1.197 (Claude Code)"
USAGE = {
    "input_tokens": 10,
    "cache_read_input_tokens": 5,
    "cache_creation_input_tokens": 0,
    "output_tokens": 7,
}


def main() -> None:
    arguments = sys.argv[1:]
    if "--version" in arguments:
        sys.stdout.write(f"{VERSION}\n")
    elif arguments[:2] == ["auth", "status"]:
        sys.stdout.write(json.dumps({"loggedIn": True, "authMethod": "api_key"}) + "\n")
    else:
        for line in sys.stdin:
            take(json.loads(line))


def take(message: dict[str, Any]) -> None:
    if message["type"] == "control_request":
        reply = {"subtype": "success", "request_id": message["request_id"], "response": {}}
        say(type="control_response", response=reply)
    elif message["type"] == "user":
        say(type="system", subtype="init", model="fake-model", tools=[], mcp_servers=[])
        if message.get("shouldQuery") is False:
            result("", usage=dict.fromkeys(USAGE, 0))
        else:
            answer(text_of(message["message"]["content"]))


def text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(block.get("text", "") for block in content)


def answer(asked: str) -> None:
    Path(os.environ["FAKE_CLAUDE_PID"]).write_text(str(os.getpid()))
    last = next(iter(asked.rsplit(maxsplit=1)[-1:]), "")
    if last == "refuse":
        fail(500, "server_error", "API Error: 500 fake trouble")
    elif last == "logout":
        fail(None, "authentication_failed", "Not logged in · Please run /login")
    else:
        stream(last, words(last, asked))


def words(last: str, asked: str) -> Iterator[str]:
    if last in {"hang", "wait"}:
        yield "begun\n"
    if last == "die":
        yield "half"
        sys.exit(7)
    while last == "hang":
        signal.pause()
    if last == "wait":
        Path(os.environ["FAKE_CLAUDE_GO"]).read_bytes()
    while last == "flood":
        yield "another line of it\n"
    for at, word in enumerate(asked.split(" ")):
        yield f" {word}" if at else word


def stream(last: str, texts: Iterator[str]) -> None:
    event(type="message_start", message={"id": "msg_1", "model": "fake-model", "usage": USAGE})
    index = 0
    if last == "think":
        block(index, {"type": "thinking", "thinking": ""}, "thinking", ["Let me see."])
        index += 1
    text = block(index, {"type": "text", "text": ""}, "text", texts)
    reason = "max_tokens" if last == "cut" else "end_turn"
    event(type="message_delta", delta={"stop_reason": reason}, usage=USAGE)
    event(type="message_stop")
    result(text, usage=USAGE, stop_reason=reason)


def block(index: int, start: dict[str, Any], kind: str, texts: Any) -> str:
    said = []
    event(type="content_block_start", index=index, content_block=start)
    for text in texts:
        said.append(text)
        delta = {"type": f"{kind}_delta", kind: text}
        event(type="content_block_delta", index=index, delta=delta)
    event(type="content_block_stop", index=index)
    return "".join(said)


def fail(status: int | None, error: str, text: str) -> None:
    content = [{"type": "text", "text": text}]
    say(type="assistant", message={"model": "<synthetic>", "content": content}, error=error)
    result(text, usage=dict.fromkeys(USAGE, 0), is_error=True, api_error_status=status)


def result(text: str, **more: Any) -> None:
    say(
        **{
            "type": "result",
            "subtype": "success",
            "is_error": False,
            "api_error_status": None,
            "result": text,
            "num_turns": 1,
            **more,
        }
    )


def event(**fields: Any) -> None:
    say(type="stream_event", event=fields, parent_tool_use_id=None)


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps({**message, "session_id": "s"}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
