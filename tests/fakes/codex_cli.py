"""A stand-in for codex that misbehaves as its first argument says; the rest is codex's own."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

MODE, *ARGUMENTS = sys.argv[1:]


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def completed(answer: str) -> None:
    place = {"threadId": "t", "itemId": "i"}
    say(method="item/agentMessage/delta", params={**place, "delta": answer})
    say(method="turn/completed", params={"threadId": "t", "turn": {"status": "completed"}})


def start_turn(number: int) -> None:
    if MODE == "refuses":
        say(id=number, error={"code": -32600, "message": "no such thing"})
        return
    if MODE == "picky":
        say(id=number, error={"code": -32600, "message": "dynamic tool name is reserved: f"})
        return
    say(id=number, result={"turn": {"id": "u"}})
    if MODE == "dies":
        sys.stderr.write("out of coffee\n")
        sys.stderr.flush()
        os._exit(5)
    elif MODE == "closes":
        os.close(1)
    elif MODE == "asks":
        say(id="q", method="item/commandExecution/requestApproval", params={"threadId": "t"})
    elif MODE == "chatters":
        sys.stdout.write("warning: not JSON\n")
        say(method="turn/started", params={"threadId": "another"})
        say(method="future/event", params={"threadId": "t"})
        say(id=999, result={})
        completed("fine")
    else:
        completed("fine")


def answer(message: dict[str, Any]) -> None:
    number, method = message.get("id"), message.get("method")
    answers: dict[str, Callable[[int], None]] = {
        "initialize": lambda n: (
            say(id=n, error={"code": -1, "message": "too old"})
            if MODE == "hates"
            else say(id=n, result={"userAgent": "codex/9.8.7 (x)"})
        ),
        "thread/start": lambda n: say(
            id=n, result={} if MODE == "vague" else {"thread": {"id": "t"}, "model": "m"}
        ),
        "turn/start": start_turn,
    }
    if number == "q":
        completed(f"refused with {message['error']['code']}")
    elif MODE == "hangs" and method == "thread/start":
        return
    elif isinstance(number, int):
        answers.get(str(method), lambda n: say(id=n, result={}))(number)


if ARGUMENTS == ["--version"]:
    sys.stdout.write("codex-cli 9.8.7\n")
elif ARGUMENTS == ["app-server"]:
    for line in sys.stdin:
        answer(json.loads(line))
elif MODE == "slow":
    sys.stdin.read()
else:
    sys.exit("unrecognized subcommand")
