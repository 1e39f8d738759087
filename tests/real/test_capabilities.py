"""Every claim of what a backend can do, held against its real CLI.

A probe asks for one thing through the whole server and says who did it: the CLI, as the body that
it sent upstream shows, clinvk, or nobody.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, fields
from typing import Any

import anyio
import pytest
import pytest_asyncio

from clinvk.backends import claims
from clinvk.capabilities import Capabilities, Count, Level
from tests.fakes.api import Captured, Reply
from tests.real import upstream
from tests.real.bridge import Bridge, alone, bridge
from tests.real.test_files import PDF, TEXT, file, text_file
from tests.sites import HOST, Site
from tests.test_media import PNG

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

HUNG_S = 60  # a guard against hanging tests, not a measure
SERVER = {"fetch": {"allow_private": [HOST]}, "store": {"path": ":memory:"}}
SYSTEM = "Speak like a system."
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("look", "hear")
]


class RefusedError(Exception):
    """A 400, whose `param` names what was at fault."""


@dataclass
class Answer:
    """A reply of the server."""

    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def message(self) -> dict[str, Any]:
        message: dict[str, Any] = self.body["choices"][0]["message"]
        return message


@dataclass
class Asker:
    """One backend, and what it told its model API since the last `fresh`."""

    bridge: Bridge
    site: Site

    def fresh(self) -> "Asker":
        self.bridge.fake.requests.clear()
        self.bridge.fake.release.clear()
        self.bridge.fake.answer(Reply())
        self.site.asked.clear()
        return self

    def answers(self, *replies: Reply) -> None:
        """Script the model; calls are of `look` and `hear`, whatever they are called upstream."""
        left = list(replies)

        def script(captured: Captured) -> Reply:
            reply = left.pop(0) if len(left) > 1 else left[0]
            names = upstream.tools(captured.body)
            calls = [
                (next((n for n in names if n.endswith(name)), name), arguments)
                for name, arguments in reply.tool_calls
            ]
            return Reply(**{**vars(reply), "tool_calls": tuple(calls)})

        self.bridge.fake.script = script

    async def ask(self, *messages: dict[str, Any] | str, **more: Any) -> Answer:
        told = [{"role": "user", "content": m} if isinstance(m, str) else m for m in messages]
        body = {"model": self.bridge.name, "messages": told or [user("hi")], **more}
        with anyio.fail_after(HUNG_S):
            url = f"{self.bridge.url}/chat/completions"
            async with self.bridge.http.post(url, json=body) as response:
                got = await response.json()
                if response.status == 400:
                    assert got["error"]["param"], got
                    raise RefusedError
                assert response.status == 200, got
                return Answer({k.lower(): v for k, v in response.headers.items()}, got)

    @property
    def told(self) -> list[dict[str, Any]]:
        """The bodies that asked the model, in order."""
        asked = (":streamGenerateContent", "/v1/messages", "/responses", "/chat/completions")
        return [r.body for r in self.bridge.fake.requests if any(a in r.path for a in asked)]

    def level(self, exact: Callable[[Any], bool], within: str) -> Level:
        """Who passed something on: as a value of its own, or within a text."""
        values = [leaf for body in self.told for leaf in upstream.leaves(body)]
        if any(map(exact, values)):
            return Level.NATIVE
        found = any(isinstance(value, str) and within in value for value in values)
        return Level.EMULATED if found else Level.NO

    def place(self, role: str, text: str) -> Level:
        """Who passed on a text, and whether in its role."""
        spoken = [each for body in self.told for each in upstream.said(body)]
        if (role, text) in spoken:
            return Level.NATIVE
        return Level.EMULATED if any(text in each for _, each in spoken) else Level.NO


def user(*parts: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": p} if isinstance(p, str) else p for p in parts]
    return {"role": "user", "content": content}


async def stream(asker: Asker) -> Level:
    asker.answers(Reply(text=("one", " two"), hold=1))
    body = {"model": asker.bridge.name, "messages": [user("one two")], "stream": True}
    pieces = []
    with anyio.fail_after(HUNG_S):
        url = f"{asker.bridge.url}/chat/completions"
        async with asker.bridge.http.post(url, json=body) as response:
            if response.status == 400:
                raise RefusedError
            async for line in response.content:
                if line.startswith(b"data: {"):
                    delta = json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]
                    pieces += [delta["content"]] if delta.get("content") else []
                    asker.bridge.fake.release.set()
    return Level.NATIVE if pieces == ["one", " two"] else Level.EMULATED


async def system_prompt(asker: Asker) -> Level:
    await asker.ask({"role": "system", "content": SYSTEM}, "hi")
    return asker.place("system", SYSTEM)


async def history(asker: Asker) -> Level:
    await asker.ask("first question", {"role": "assistant", "content": "said"}, "second question")
    return min(
        asker.place("user", "first question"), asker.place("model", "said"), key=list(Level).index
    )


async def continued_turns(asker: Asker) -> Level:
    first = await asker.ask("where it began")
    asker.fresh()
    second = await asker.ask("where it began", first.message, "and then")
    if second.headers["x-clinvk-turn"] == "continued":
        return Level.NATIVE
    return asker.level(lambda _: False, "where it began")


async def reasoning(asker: Asker) -> Level:
    asker.answers(Reply(thinking=("Hm", ", well.")))
    answer = await asker.ask()
    return Level.NATIVE if "well." in answer.message.get("reasoning_content", "") else Level.NO


async def reasoning_effort(asker: Asker) -> Level:
    low = await asker.ask(reasoning_effort="low")
    if "reasoning_effort" in low.headers.get("x-clinvk-ignored", ""):
        return Level.NO
    await asker.ask(reasoning_effort="high")
    first, second = map(upstream.effort, asker.told)
    return Level.NATIVE if first != second else Level.NO


async def tools(asker: Asker) -> Level:
    asker.answers(Reply(text=(), tool_calls=(("look", {"at": "sea"}),)), Reply())
    answer = await asker.ask(tools=TOOLS)
    (call,) = answer.message["tool_calls"]
    assert call["function"]["name"] == "look"
    assert json.loads(call["function"]["arguments"]) == {"at": "sea"}
    declared = upstream.tools(asker.told[0])
    return Level.NATIVE if any(name.endswith("look") for name in declared) else Level.EMULATED


async def parallel_tool_calls(asker: Asker) -> Level:
    asker.answers(Reply(text=(), tool_calls=(("look", {}), ("hear", {}))), Reply())
    answer = await asker.ask(tools=TOOLS)
    names = [call["function"]["name"] for call in answer.message["tool_calls"]]
    return Level.NATIVE if names == ["look", "hear"] else Level.NO


async def tool_choice(asker: Asker) -> Level:
    asker.answers(Reply(text=("No.",)), Reply(text=(), tool_calls=(("look", {}),)), Reply())
    answer = await asker.ask(tools=TOOLS, tool_choice="required")
    assert answer.message["tool_calls"]
    return Level.NATIVE if upstream.must_call(asker.told[0]) else Level.EMULATED


async def resumed_turns(asker: Asker) -> Level:
    asker.answers(Reply(text=(), tool_calls=(("look", {}),)), Reply())
    first = await asker.ask("look there", tools=TOOLS)
    (call,) = first.message["tool_calls"]
    result = {"role": "tool", "tool_call_id": call["id"], "content": "the open sea"}
    second = await asker.ask("look there", first.message, result, tools=TOOLS)
    assert any("the open sea" in str(leaf) for leaf in upstream.leaves(asker.told[-1]))
    return Level.NATIVE if second.headers["x-clinvk-turn"] == "resumed" else Level.EMULATED


async def vision(asker: Asker) -> Level:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    await asker.ask(user("see", image))
    return asker.level(lambda value: str(value).removeprefix("data:image/png;base64,") == PNG, PNG)


async def image_urls(asker: Asker) -> Level:
    url = f"{asker.site.url}/a.png"
    await asker.ask(user("see", {"type": "image_url", "image_url": {"url": url}}))
    if asker.site.asked:
        assert asker.level(lambda value: str(value).endswith(PNG), PNG) is Level.NATIVE
        return Level.EMULATED
    return asker.level(lambda value: value == url, url)


async def audio(asker: Asker) -> Level:
    sound = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    await asker.ask(user("hear", sound))
    return asker.level(lambda value: value == "UklGRg==", "UklGRg==")


async def files(asker: Asker) -> Level:
    await asker.ask(user("read", text_file("n.txt", TEXT)))
    return asker.level(lambda value: value == TEXT, TEXT)


async def pdf(asker: Asker) -> Level:
    await asker.ask(user("read", file("a.pdf", PDF)))
    prefix = "data:application/pdf;base64,"
    return asker.level(lambda value: str(value).removeprefix(prefix) == PDF, PDF)


async def json_object(asker: Asker) -> Level:
    return await _form(asker, {"type": "json_object"})


async def json_schema(asker: Asker) -> Level:
    form = {"name": "answer", "schema": SCHEMA, "strict": True}
    return await _form(asker, {"type": "json_schema", "json_schema": form})


async def _form(asker: Asker, form: dict[str, Any]) -> Level:
    def script(captured: Captured) -> Reply:
        if "StructuredOutput" in upstream.tools(captured.body):
            return Reply(text=(), tool_calls=(("StructuredOutput", {"a": 1}),))
        text = ('{"a": ', "1}")
        fenced = ("```json\n", *text, "\n```")
        return Reply(text=text if upstream.form(captured.body) else fenced)

    asker.bridge.fake.script = script
    answer = await asker.ask(response_format=form)
    assert json.loads(answer.message["content"]) == {"a": 1}
    return Level.NATIVE if upstream.form(asker.told[0]) else Level.EMULATED


async def max_tokens(asker: Asker) -> Level:
    asker.answers(Reply(text=("one two", " three four")))
    answer = await asker.ask("one two three four", max_tokens=2)
    assert answer.body["choices"][0]["finish_reason"] == "length"
    assert answer.message["content"] == "one two"
    asked = [leaf for body in asker.told for leaf in upstream.leaves(body)]
    return Level.NATIVE if 2 in asked else Level.EMULATED


async def stop(asker: Asker) -> Level:
    asker.answers(Reply(text=("one", " EN", "D two")))
    answer = await asker.ask("one END two", stop="END")
    assert answer.body["choices"][0]["finish_reason"] == "stop"
    assert answer.message["content"] == "one "
    found = asker.level(lambda value: value == "END", "no such text")
    return Level.NATIVE if found is Level.NATIVE else Level.EMULATED


async def n(asker: Asker) -> Level:
    answer = await asker.ask(n=2)
    assert len(answer.body["choices"]) == 2
    return Level.NATIVE if len(asker.told) == 1 else Level.EMULATED


async def sampling(asker: Asker) -> Level:
    knobs = {"temperature": 0.123, "top_p": 0.456, "seed": 789, "presence_penalty": 0.321}
    answer = await asker.ask(**knobs)
    ignored = answer.headers.get("x-clinvk-ignored", "").split(", ")
    return Level.NO if set(knobs) <= set(ignored) else Level.NATIVE


async def embeddings(asker: Asker) -> Level:
    body = {"model": asker.bridge.name, "input": "hello"}
    async with asker.bridge.http.post(f"{asker.bridge.url}/embeddings", json=body) as response:
        got = await response.json()
    if response.status == 400:
        assert "cannot do embeddings" in got["error"]["message"]
        raise RefusedError
    assert [type(each) for each in got["data"][0]["embedding"]][:2] == [float, float]
    return Level.NATIVE


async def usage(asker: Asker) -> Count:
    asker.answers(Reply(input_tokens=123, output_tokens=45))
    if asker.bridge.name == "embeddings":
        return await _usage_of_embeddings(asker)
    answer = await asker.ask("three words here")
    if answer.headers.get("x-clinvk-usage") == "estimated":
        return Count.ESTIMATED
    spent = answer.body["usage"]
    words = {"prompt_tokens": 3, "completion_tokens": 3}
    counted = {"prompt_tokens": 123, "completion_tokens": 45} if asker.told else words
    assert {key: spent[key] for key in counted} == counted
    return Count.REPORTED


async def _usage_of_embeddings(asker: Asker) -> Count:
    body = {"model": asker.bridge.name, "input": "three words here"}
    async with asker.bridge.http.post(f"{asker.bridge.url}/embeddings", json=body) as response:
        assert (await response.json())["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    return Count.REPORTED


Probe = Callable[[Asker], Awaitable[Level | Count]]
PROBES: dict[str, Probe] = {field.name: globals()[field.name] for field in fields(Capabilities)}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(claims.BY_KIND))
async def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Asker]:
    home = tmp_path_factory.mktemp(request.param) / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        alone(home, patch)
        async with Site().running() as site, bridge(request.param, home, server=SERVER) as served:
            yield Asker(served, site)


@pytest.mark.parametrize("capability", PROBES)
async def test_the_claim_is_what_is_seen(shared: Asker, capability: str) -> None:
    try:
        seen = await PROBES[capability](shared.fresh())
    except RefusedError:
        seen = Level.NO
        assert shared.told == []
    assert seen is getattr(claims.BY_KIND[shared.bridge.name], capability)


async def test_every_model_tells_its_claims(shared: Asker) -> None:
    for path in ("models", f"models/{shared.bridge.name}", f"models/{shared.bridge.name}/other"):
        async with shared.bridge.http.get(f"{shared.bridge.url}/{path}") as response:
            got = await response.json()
        model = got["data"][0] if path == "models" else got
        assert model["clinvk"] == claims.BY_KIND[shared.bridge.name].told()
