"""What the agents of all clients share: a server, two tools, and what the model API was asked.

The fake answers a question by two calls at once, and their results by `ANSWER`. What it was asked
is told in no vendor's words, so that one test holds for every CLI.
"""

import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.api import Captured, Reply
from tests.real.bridge import Bridge, bridge, clean_environment

BACKENDS = ("claude", "codex", "gemini")
HUNG_S = 100  # a guard against hanging tests, not a measure

QUESTION = "What is it like in Rome now?"
ANSWER = "Sunny at noon."
CALLS = (("get_weather", {"city": "Rome"}), ("get_time", {"zone": "CET"}))
RESULTS = ("sunny in Rome", "noon in CET")
CALLING = Reply(thinking=("Which", " one?"), text=("Let me ", "see."), tool_calls=CALLS)
ANSWERING = Reply(text=("Sunny", " at noon."))
GEMINI_PREFIX = "mcp_x_"  # of the tools' names, for its model
_UNTRUSTED = re.compile(r"\A<untrusted_context>\n|\n</untrusted_context>\Z")
_CALLED = re.compile(rf"^called '(?:{GEMINI_PREFIX})?(\w+)' as '(\w+)' with (.*)$", re.MULTILINE)
_RESULT = re.compile(r"^<<<k0 tool result '(\w+)'>>>\n(.*)\n<<<k0 end>>>", re.MULTILINE)


def parameters(*names: str) -> dict[str, Any]:
    """The JSON Schema of texts by these names."""
    return {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": list(names),
    }


CITY, ZONE = parameters("city"), parameters("zone")


class Tools:
    """The two tools as functions; `ran` is what they were called with."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, dict[str, str]]] = []

    def get_weather(self, city: str) -> str:
        """Tell the weather of a city."""
        self.ran.append(("get_weather", {"city": city}))
        return f"sunny in {city}"

    def get_time(self, zone: str) -> str:
        """Tell the time of a zone."""
        self.ran.append(("get_time", {"zone": zone}))
        return f"noon in {zone}"

    def check(self) -> None:
        """Both ran once, each as it was called; at once, so in either order."""
        assert sorted(self.ran) == sorted(CALLS)


@dataclass
class Heard:
    """One request to a model API: the tools it offers, the calls made before, and their results."""

    tools: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)

    @property
    def exchange(self) -> list[tuple[str, dict[str, Any], str | None]]:
        """Each call with its result."""
        return [(*call, self.results.get(ident)) for ident, call in self.calls.items()]


def _of_anthropic(body: dict[str, Any]) -> Heard:
    heard = Heard({tool["name"]: tool["input_schema"] for tool in body.get("tools", ())})
    for message in body["messages"]:
        blocks = [] if isinstance(message["content"], str) else message["content"]
        for block in blocks:
            if block["type"] == "tool_use":
                heard.calls[block["id"]] = (block["name"], block["input"])
            elif block["type"] == "tool_result":
                heard.results[block["tool_use_id"]] = _text(block["content"])
    return heard


def _of_responses(body: dict[str, Any]) -> Heard:
    tools = list(body.get("tools", ()))
    for item in body["input"]:  # newer models are given their tools there
        for space in item["tools"] if item["type"] == "additional_tools" else ():
            tools += space["tools"]
    heard = Heard({tool["name"]: tool["parameters"] for tool in tools})
    for item in body["input"]:
        if item["type"] == "function_call":
            heard.calls[item["call_id"]] = (item["name"], json.loads(item["arguments"]))
        elif item["type"] == "function_call_output":
            heard.results[item["call_id"]] = _text(item["output"])
    return heard


def _of_gemini(body: dict[str, Any]) -> Heard:
    heard = Heard()
    for group in body.get("tools", ()):
        for made in group["functionDeclarations"]:
            schema = dict(made["parametersJsonSchema"])
            own = {"wait_for_previous"}  # the CLI's, on every tool
            properties = schema.get("properties", {}).items()
            schema["properties"] = {name: kind for name, kind in properties if name not in own}
            heard.tools[made["name"].removeprefix(GEMINI_PREFIX)] = schema
    for part in (part for content in body["contents"] for part in content["parts"]):
        if (call := part.get("functionCall")) is not None:
            heard.calls[call["id"]] = (call["name"].removeprefix(GEMINI_PREFIX), call["args"])
        elif (result := part.get("functionResponse")) is not None:
            wrapped = result["response"]["output"]
            heard.results[result["id"]] = _UNTRUSTED.sub("", wrapped)
        else:  # a conversation that is told anew is a transcript
            text = part.get("text", "")
            for name, ident, arguments in _CALLED.findall(text):
                heard.calls[ident] = (name, json.loads(arguments))
            heard.results |= dict(_RESULT.findall(text))
    return heard


def _text(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


_HEARD: dict[str, Callable[[dict[str, Any]], Heard]] = {
    "claude": _of_anthropic,
    "codex": _of_responses,
    "gemini": _of_gemini,
}


def heard(served: Bridge, request: Captured) -> Heard:
    """Tell what a request to the model API holds."""
    return _HEARD[served.name](request.body)


def turns(served: Bridge) -> list[Heard]:
    """What each request to the model API held."""
    return [heard(served, request) for request in served.fake.requests]


def play(served: Bridge, *, calling: Reply = CALLING, answering: Reply = ANSWERING) -> None:
    """Let the model call until it has results, and then answer."""
    play_by(served, lambda asked: answering if asked.results else calling)


def play_by(served: Bridge, answer: Callable[[Heard], Reply]) -> None:
    """Let the model answer what it hears; forget what was asked before."""
    served.fake.requests.clear()
    served.courses.clear()
    served.fake.script = lambda request: said(served, answer(heard(served, request)))


def said(served: Bridge, reply: Reply) -> Reply:
    """Name the tools as the model of this CLI knows them."""
    if served.name != "gemini":
        return reply
    calls = tuple((GEMINI_PREFIX + name, given) for name, given in reply.tool_calls)
    return replace(reply, tool_calls=calls)


def check_loop(served: Bridge, *more: str, course: str = "resumed") -> None:
    """Hold what was asked for a loop to what one is, and all of it to have been one turn.

    `more` are the names of tools that the client has of its own, `course` is how it went on.
    """
    check_turns(turns(served), *more)
    assert served.courses == ["new", course]


def check_turns(asked: list[Heard], *more: str) -> None:
    """Two requests went up: with the tools, and then with the calls and their results too."""
    first, last = asked
    for turn in asked:
        assert turn.tools.keys() == {"get_weather", "get_time", *more}
        assert turn.tools["get_weather"]["properties"].keys() == {"city"}
        assert turn.tools["get_time"]["properties"]["zone"]["type"] == "string"
    assert first.exchange == []
    both = zip(CALLS, RESULTS, strict=True)
    assert last.exchange == [(*call, result) for call, result in both]


def of_json(served: Bridge, value: dict[str, Any]) -> Reply:
    """How the model of this CLI says JSON where the CLI holds it to a schema."""
    if served.name == "claude":
        return Reply(text=(), tool_calls=(("StructuredOutput", value),))
    text = json.dumps(value)
    return Reply(text=(text[:5], text[5:]))


@asynccontextmanager
async def serve(
    name: str, folder: Path, *, server: dict[str, Any] | None = None
) -> AsyncIterator[Bridge]:
    """Serve one CLI to a module's clients, in an environment with nothing of the machine's."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    clean = clean_environment(home)
    with pytest.MonkeyPatch.context() as patch:
        for variable in os.environ:
            if not variable.startswith(("PYTEST_", "COV")):
                patch.delenv(variable)
        for variable, value in clean.items():
            patch.setenv(variable, value)
        patch.setattr(tempfile, "tempdir", clean["TMPDIR"])
        async with bridge(name, home, server=server or {"store": {"path": ":memory:"}}) as made:
            yield made
