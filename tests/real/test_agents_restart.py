"""A conversation whose server is replaced while its calls are out: the answer comes all the same.

The real CLIs are told the history as the items it is made of, not as text.
"""

import json
from pathlib import Path
from typing import Any

import anthropic
import pytest
from openai import AsyncOpenAI

from clinvk.server.anthropic import PREFIX
from tests.real.bridge import Bridge
from tests.real.tool_loop import (
    ANSWER,
    BACKENDS,
    CALLS,
    CITY,
    QUESTION,
    RESULTS,
    ZONE,
    check_loop,
    play,
    serve,
    turns,
)
from tests.serving import API

pytestmark = [pytest.mark.real, pytest.mark.parametrize("name", BACKENDS)]

ASKED: Any = [{"role": "user", "content": QUESTION}]
SCHEMAS = {"get_weather": CITY, "get_time": ZONE}
RESULT_OF = dict(zip((name for name, _ in CALLS), RESULTS, strict=True))


def client(served: Bridge) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=served.url, api_key="unused", max_retries=0)


def anthropic_client(served: Bridge) -> anthropic.AsyncAnthropic:
    url = served.url.removesuffix(API) + PREFIX
    return anthropic.AsyncAnthropic(base_url=url, api_key="unused", max_retries=0)


def check_replayed(served: Bridge, headers: Any) -> None:
    """One request went up, with the tools, and the calls and results as such."""
    assert headers["x-clinvk-turn"] == "replayed"
    (asked,) = turns(served)
    assert asked.tools.keys() == SCHEMAS.keys()
    both = zip(CALLS, RESULTS, strict=True)
    assert asked.exchange == [(*call, result) for call, result in both]


async def test_over_chat(name: str, tmp_path: Path) -> None:
    tools: Any = [
        {"type": "function", "function": {"name": tool, "parameters": schema}}
        for tool, schema in SCHEMAS.items()
    ]
    async with serve(name, tmp_path) as served, client(served) as openai:
        play(served)
        async with openai.chat.completions.stream(
            model=name, messages=ASKED, tools=tools
        ) as stream:
            (choice,) = (await stream.get_final_completion()).choices
    message: Any = choice.message.model_dump(exclude_none=True, exclude={"parsed"})
    results: list[Any] = [
        {"role": "tool", "tool_call_id": call.id, "content": RESULT_OF[call.function.name]}
        for call in choice.message.tool_calls or ()
    ]
    async with serve(name, tmp_path) as served, client(served) as openai:
        play(served)
        done = await openai.chat.completions.with_raw_response.create(
            model=name, messages=[*ASKED, message, *results], tools=tools
        )
        assert done.parse().choices[0].message.content == ANSWER
        check_replayed(served, done.headers)


async def test_over_responses_that_are_kept_in_a_file(name: str, tmp_path: Path) -> None:
    tools: Any = [
        {"type": "function", "name": tool, "parameters": schema, "strict": False}
        for tool, schema in SCHEMAS.items()
    ]
    server = {"store": {"path": str(tmp_path / "responses.sqlite")}}
    async with serve(name, tmp_path, server=server) as served, client(served) as openai:
        play(served)
        async with openai.responses.stream(model=name, input=ASKED, tools=tools) as stream:
            first = await stream.get_final_response()
    results: Any = [
        {
            "type": "function_call_output",
            "call_id": item.call_id,
            "output": RESULT_OF[item.name],
        }
        for item in first.output
        if item.type == "function_call"
    ]
    async with serve(name, tmp_path, server=server) as served, client(served) as openai:
        play(served)
        done = await openai.responses.with_raw_response.create(
            model=name, input=results, tools=tools, previous_response_id=first.id
        )
        assert done.parse().output_text == ANSWER
        check_replayed(served, done.headers)


async def ask_anthropic(served: Bridge, messages: Any) -> tuple[Any, Any]:
    """Ask, streamed, and return the message and the reply's headers."""
    tools: Any = [
        {"name": tool, "description": tool, "input_schema": schema}
        for tool, schema in SCHEMAS.items()
    ]
    async with (
        anthropic_client(served) as opened,
        opened.messages.stream(
            model=served.name, max_tokens=1000, messages=messages, tools=tools
        ) as stream,
    ):
        return await stream.get_final_message(), stream.response.headers


def with_results(message: Any) -> list[Any]:
    """The history with what the calls of a message gave."""
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": RESULT_OF[block.name]}
        for block in message.content
        if block.type == "tool_use"
    ]
    said = [json.loads(block.model_dump_json(exclude_none=True)) for block in message.content]
    return [
        *ASKED,
        {"role": "assistant", "content": said},
        {"role": "user", "content": results},
    ]


async def test_over_anthropic_messages(name: str, tmp_path: Path) -> None:
    async with serve(name, tmp_path) as served:
        play(served)
        first, _ = await ask_anthropic(served, ASKED)
    assert [b.input for b in first.content if b.type == "tool_use"] == [given for _, given in CALLS]
    async with serve(name, tmp_path) as served:
        play(served)
        last, headers = await ask_anthropic(served, with_results(first))
        assert (last.content[0].text, last.stop_reason) == (ANSWER, "end_turn")
        check_replayed(served, headers)


async def test_an_anthropic_loop_without_a_restart_is_one_turn(name: str, tmp_path: Path) -> None:
    async with serve(name, tmp_path) as served:
        play(served)
        first, begun = await ask_anthropic(served, ASKED)
        assert (first.stop_reason, begun["x-clinvk-turn"]) == ("tool_use", "new")
        last, headers = await ask_anthropic(served, with_results(first))
        assert (last.content[0].text, last.stop_reason) == (ANSWER, "end_turn")
        assert headers["x-clinvk-turn"] == "resumed"
        check_loop(served)
