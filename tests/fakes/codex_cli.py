"""A stand-in for codex that misbehaves as its first argument says; the rest is codex's own.

What it is asked is written to `asked` in its HOME, a method a line.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODE, *ARGUMENTS = sys.argv[1:]
RESULTS: list[str] = []
TURNS: list[int] = []


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def completed(answer: str) -> None:
    place = {"threadId": "t", "itemId": "i"}
    say(method="item/agentMessage/delta", params={**place, "delta": answer})
    say(method="turn/completed", params={"threadId": "t", "turn": {"status": "completed"}})


def call(ident: str) -> None:
    """Make a call, and ask for its result."""
    place = {"threadId": "t", "turnId": "u", "callId": ident}
    say(id=ident, method="item/tool/call", params={**place, "tool": "f", "arguments": {}})


def make_calls() -> None:
    """Make two calls, but ask for the result of the first alone."""
    say(method="turn/started", params={"threadId": "t", "turn": {"id": "u"}})
    for ident in ("one", "two"):
        item = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": ident}
        place = {"threadId": "t", "turnId": "u"}
        say(method="rawResponseItem/completed", params={**place, "item": item})
    say(method="rawResponse/completed", params={"threadId": "t"})
    call("one")


def take_result(ident: str, message: dict[str, Any]) -> None:
    RESULTS.append(message["result"]["contentItems"][0]["text"])
    if ident == "one":
        call("two")
    else:
        completed(" and ".join(RESULTS))


def start_turn(number: int) -> None:
    if MODE == "refuses" or (MODE == "forgets" and TURNS):
        say(id=number, error={"code": -32600, "message": "no such thing"})
        return
    if MODE == "picky":
        say(id=number, error={"code": -32600, "message": "dynamic tool name is reserved: f"})
        return
    TURNS.append(number)
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
    elif MODE == "calls":
        make_calls()
    else:
        completed("fine")


def done(number: int) -> None:
    say(id=number, result={})


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
    if method is not None:
        with (Path(os.environ["HOME"]) / "asked").open("a") as asked:
            asked.write(f"{method}\n")
    if number == "q":
        completed(f"refused with {message['error']['code']}")
    elif isinstance(number, str):
        take_result(number, message)
    elif MODE == "hangs" and method == "thread/start":
        return
    elif isinstance(number, int):
        answers.get(str(method), done)(number)


if ARGUMENTS == ["--version"]:
    sys.stdout.write("codex-cli 9.8.7\n")
elif ARGUMENTS == ["app-server"]:
    for line in sys.stdin:
        answer(json.loads(line))
elif MODE == "slow":
    sys.stdin.read()
else:
    sys.exit("unrecognized subcommand")
