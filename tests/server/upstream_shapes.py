"""Streams as servers other than OpenAI's send them, and what they mean.

Each is cut from what such a server sends, ids and texts shortened.
"""

import json
from dataclasses import dataclass, field
from typing import Any

AT_SEA = '{"at": "sea"}'
LOOK = [("look", {"at": "sea"})]


@dataclass(frozen=True)
class Shape:
    """What a server sends, and what it means."""

    name: str
    lines: str
    text: str = ""
    thought: str = ""
    calls: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    spent: tuple[int, int] | None = None


def chunk(delta: Any, finish: Any = None, **more: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return f"data: {json.dumps({'id': 'c', 'model': 'm', 'choices': [choice], **more})}\n\n"


def call(*, at: int | None = 0, **piece: Any) -> str:
    return chunk({"tool_calls": [piece if at is None else {"index": at, **piece}]})


def made(name: str, arguments: Any = AT_SEA) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


DONE = "data: [DONE]\n\n"
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
SPENT = f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n"
HI = chunk({"role": "assistant", "content": "Hi"})
STOP = chunk({}, "stop")

SHAPES = [
    Shape("plain", HI + STOP + SPENT + DONE, "Hi", spent=(9, 4)),
    Shape("no end mark", HI + STOP, "Hi"),
    Shape("no reason", HI + DONE, "Hi"),
    Shape("empty reason", chunk({"content": "Hi"}, "") + chunk({"content": ""}, "stop"), "Hi"),
    Shape("crlf", (HI + STOP + DONE).replace("\n", "\r\n"), "Hi"),
    Shape("no space after data", (HI + STOP + DONE).replace("data: ", "data:"), "Hi"),
    Shape(
        "OpenRouter waits in comments",
        ": OPENROUTER PROCESSING\n\n" + HI + ": OPENROUTER PROCESSING\n\n" + STOP + DONE,
        "Hi",
    ),
    Shape("heartbeats without data", "data:\n\n" + HI + "data: \n\n" + STOP + DONE, "Hi"),
    Shape("events with names", "event: message\nid: 1\n" + HI + "retry: 9\n" + STOP + DONE, "Hi"),
    Shape(
        "Azure begins with its filter",
        'data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":'
        '[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false}}}]}\n\n'
        + chunk({"role": "assistant", "content": None})
        + HI
        + STOP
        + DONE,
        "Hi",
    ),
    Shape(
        "vLLM tells usage with each chunk",
        chunk({"content": "H"}, usage={**USAGE, "completion_tokens": 1})
        + chunk({"content": "i"}, "stop", usage=USAGE)
        + DONE,
        "Hi",
        spent=(9, 4),
    ),
    Shape(
        "Moonshot has usage in the choice",
        HI
        + 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":'
        + json.dumps({**USAGE, "cached_tokens": 2})
        + "}]}\n\n"
        + DONE,
        "Hi",
        spent=(9, 4),
    ),
    Shape(
        "DeepSeek thinks, with nulls",
        chunk({"role": "assistant", "content": None, "reasoning_content": ""})
        + chunk({"content": None, "reasoning_content": "Hm."})
        + chunk({"content": "Hi", "reasoning_content": None})
        + chunk({"content": "", "reasoning_content": None}, "stop", usage=USAGE)
        + DONE,
        "Hi",
        "Hm.",
        spent=(9, 4),
    ),
    Shape(
        "OpenRouter thinks",
        chunk(
            {
                "content": "",
                "reasoning": "Hm.",
                "reasoning_details": [{"type": "reasoning.text", "text": "Hm."}],
            }
        )
        + HI
        + STOP
        + DONE,
        "Hi",
        "Hm.",
    ),
    Shape(
        "vLLM names its thinking twice",
        chunk({"reasoning": "Hm.", "reasoning_content": "Hm."}) + HI + STOP + DONE,
        "Hi",
        "Hm.",
    ),
    Shape(
        "Mistral thinks in parts",
        chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]})
        + chunk({"content": [{"type": "text", "text": "Hi"}, "?"]})
        + STOP
        + DONE,
        "Hi",
        "Hm.",
    ),
    Shape(
        "a whole answer for a stream",
        json.dumps(
            {
                "model": "m",
                "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
                "usage": USAGE,
            },
            indent=1,
        ),
        "Hi",
        spent=(9, 4),
    ),
    Shape(
        "Ollama ends calls by stop, whole in one",
        call(id="call_x", type="function", function=made("look")) + STOP + DONE,
        calls=LOOK,
    ),
    Shape(
        "Ollama gives all calls one number",
        call(id="a", function=made("look")) + call(id="b", function=made("hear")) + STOP + DONE,
        calls=[("look", {"at": "sea"}), ("hear", {"at": "sea"})],
    ),
    Shape(
        "Gemini gives no ids",
        call(id="", function=made("look"))
        + call(id="", function=made("look", '{"at": "sky"}'))
        + STOP
        + DONE,
        calls=[*LOOK, ("look", {"at": "sky"})],
    ),
    Shape(
        "no numbers, the id again and again",
        call(at=None, id="a", function=made("look", '{"at"'))
        + call(at=None, id="a", function=made("look", ': "sea"}'))
        + call(at=None, id="b", function=made("hear"))
        + chunk({}, "tool_calls"),
        calls=[("look", {"at": "sea"}), ("hear", {"at": "sea"})],
    ),
    Shape(
        "no numbers, no ids",
        call(at=None, function=made("look", '{"at":'))
        + call(at=None, function={"arguments": ' "sea"}'})
        + call(at=None, function=made("hear"))
        + chunk({}, "tool_calls"),
        calls=[("look", {"at": "sea"}), ("hear", {"at": "sea"})],
    ),
    Shape(
        "vLLM makes an id and tells the name for every piece",
        call(id="a", function=made("look", ""))
        + call(id="b", function=made("look", '{"at'))
        + call(id="c", function=made("look", '": "sea"}'))
        + call(id="d", function=made("look", ""))
        + STOP
        + DONE,
        calls=LOOK,
    ),
    Shape(
        "the name cut",
        call(id="a", function={"name": "lo"})
        + call(function={"name": "ok", "arguments": None})
        + call(function={"name": "", "arguments": AT_SEA})
        + STOP,
        calls=LOOK,
    ),
    Shape(
        "the name growing, and the id late",
        call(function={"name": "lo"}) + call(id="a", function=made("look")) + STOP,
        calls=LOOK,
    ),
    Shape(
        "arguments that are an object",
        call(function=made("look", {"at": "sea"})) + STOP,
        calls=LOOK,
    ),
    Shape(
        "a call without arguments, and one without a function",
        call(id="a", function={"name": "look", "arguments": None})
        + call(id="a", function=None)
        + call(id="b", function={"name": "hear"})
        + STOP,
        calls=[("look", {}), ("hear", {})],
    ),
    Shape(
        "a number for an id",
        call(id=7, function=made("look")) + chunk({"tool_calls": None, "content": ""}, "stop"),
        calls=LOOK,
    ),
]
