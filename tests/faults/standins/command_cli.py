"""Answers a prompt on stdout, as text or by lines of JSON, and misbehaves as it is asked to.

`--text` makes plain text of it: then there is no end but that of the process.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.faults.standins import mischief


class Answer:
    """One answer, a line of JSON each."""

    def begin(self) -> list[dict[str, Any]]:
        return [{"type": "begin"}]

    def delta(self, text: str) -> dict[str, Any]:
        return {"type": "delta", "text": text}

    def end(self, text: str) -> list[dict[str, Any]]:
        return [{"type": "end", "usage": {"in": 10, "out": 7}, "length": len(text)}]

    def refused(self) -> list[dict[str, Any]]:
        return [{"type": "error", "error": "fetch failed: connect ECONNREFUSED"}]

    def misdirected(self) -> list[dict[str, Any]]:
        return [{"type": "end of another"}]


def plain(message: dict[str, Any]) -> bytes:
    return str(message.get("text", "")).encode("utf-8", "surrogatepass")


def main() -> None:
    if "--text" in sys.argv:
        mischief.line = plain
    mischief.misbehave_at_start()
    if mischief.start_fault() == "start-wrong-id":
        mischief.say(*Answer().misdirected())
        sys.exit()
    fault = mischief.fault_in(sys.stdin.buffer.read().decode("utf-8", "replace"))
    own = OWN.get(fault)
    if own is None:
        mischief.answer(fault, Answer())
    else:
        own()
    if mischief.STAYS:
        mischief.hang()


OWN: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "nothing-and-fails": lambda: sys.exit(9),
}

main()
