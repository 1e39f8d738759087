"""Stand-ins for an agent and for a command, which answer as the one for codex does.

`python soak_programs.py acp` speaks the Agent Client Protocol, `… command` prints its answer.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.fake_codex import deltas

QUESTION = re.compile(r"\d+ (?:tok|call)\d+x")


def last_question(text: str) -> str:
    """Return what was asked last in a prompt that may hold a whole conversation."""
    asked: str = QUESTION.findall(text)[-1]
    return asked


def say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")


def take(message: dict[str, Any]) -> None:
    """Answer one message of a client of the protocol."""
    params = message.get("params") or {}
    result: dict[str, Any] = {}
    match message.get("method"):
        case "initialize":
            result = {"protocolVersion": 1}
        case "session/new":
            result = {"sessionId": f"s{message['id']}"}
        case "session/prompt":
            for piece in deltas(last_question(json.dumps(params["prompt"]))):
                content = {"type": "text", "text": piece}
                update = {"sessionUpdate": "agent_message_chunk", "content": content}
                told = {"sessionId": params["sessionId"], "update": update}
                say({"method": "session/update", "params": told})
            result = {"stopReason": "end_turn"}
    if "id" in message:
        say({"id": message["id"], "result": result})
    sys.stdout.flush()


def main() -> None:
    if sys.argv[1] == "command":
        for piece in deltas(last_question(sys.stdin.read())):
            sys.stdout.write(piece)
            sys.stdout.flush()
    else:
        for line in sys.stdin:
            take(json.loads(line))


if __name__ == "__main__":
    main()
