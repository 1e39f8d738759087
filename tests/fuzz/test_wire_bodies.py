"""Any body at all through each wire, and what it asks for through each backend's checks."""

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk import registry
from clinvk.backends import (
    claude_input,
    codex_format,
    codex_items,
    codex_tools,
    gemini_prompt,
    gemini_tools,
    structured,
)
from clinvk.config import ClaudeConfig, CodexConfig, Config, EchoConfig, GeminiConfig
from clinvk.errors import BadRequestError, ClinvkError
from clinvk.media import is_remote
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import ImagePart, Turn
from clinvk.wire.anthropic_messages import AnthropicMessages
from clinvk.wire.base import Dialect
from clinvk.wire.openai_chat import OpenAIChat
from clinvk.wire.openai_completions import OpenAICompletions
from clinvk.wire.openai_responses import OpenAIResponses
from tests.fuzz.bodies import GOOD, changed, encoded, values
from tests.fuzz.budget import budget
from tests.fuzz.naming import is_of

DIALECTS: dict[str, Dialect] = {
    "chat": OpenAIChat(),
    "completions": OpenAICompletions(),
    "responses": OpenAIResponses(),
    "messages": AnthropicMessages(),
    "count": AnthropicMessages(),
}
ANY_PROGRAM = [sys.executable]
CONFIG = Config(
    backends={
        "claude": ClaudeConfig(kind="claude", command=ANY_PROGRAM),
        "codex": CodexConfig(kind="codex", command=ANY_PROGRAM),
        "gemini": GeminiConfig(kind="gemini", command=ANY_PROGRAM),
        "echo": EchoConfig(kind="echo"),
    }
)


def parsed(dialect: str, body: bytes) -> tuple[list[Turn], Callable[[str], str]]:
    """The turns that a body asks for, and what fields are called in it."""
    wire = DIALECTS[dialect]
    if dialect == "count":
        assert isinstance(wire, AnthropicMessages)
        return [wire.parse_count(body)], lambda param: param
    found = wire.parse(body)
    return [found.turn, *found.more], found.named


def told(dialect: str, exc: ClinvkError) -> dict[str, Any]:
    """The error as a client gets it, which must be JSON in UTF-8."""
    status, body = DIALECTS[dialect].error(exc)
    assert 400 <= status < 500
    json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    return body


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_body_is_understood_or_refused_by_the_name_of_its_field(dialect: str) -> None:
    @budget(250)
    @given(changed(GOOD[dialect]))
    def holds(body: dict[str, Any]) -> None:
        try:
            parsed(dialect, json.dumps(body).encode())
        except BadRequestError as exc:
            told(dialect, exc)
            named_in(exc, body)

    holds()


def named_in(exc: BadRequestError, body: dict[str, Any]) -> None:
    assert is_of(exc.param, body), (exc.param, exc.message)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_any_bytes_are_understood_or_refused(dialect: str) -> None:
    @budget(150)
    @given(st.binary(max_size=64) | encoded(changed(GOOD[dialect]) | values))
    def holds(body: bytes) -> None:
        try:
            parsed(dialect, body)
        except BadRequestError as exc:
            told(dialect, exc)

    holds()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_understood_a_backend_takes_or_refuses_by_the_name_of_its_field(
    dialect: str,
) -> None:
    backends = registry.build(CONFIG, Supervisor())

    @budget(200)
    @given(changed(GOOD[dialect]))
    def holds(body: dict[str, Any]) -> None:
        try:
            turns, named = parsed(dialect, json.dumps(body).encode())
        except BadRequestError:
            return
        for turn in turns:
            for name, backend in backends.backends.items():
                try:
                    ignored = backends.check(turn, backend)
                except BadRequestError as exc:
                    exc.param = exc.param and named(exc.param)
                    told(dialect, exc)
                    if dialect != "count":
                        named_in(exc, body)
                else:
                    assert all(isinstance(field, str) for field in ignored)
                    carried(name, turn)

    holds()


def carried(backend: str, turn: Turn) -> None:
    """Make what a CLI is told of a turn; a checked one can be told, as JSON."""
    parts = [part for message in turn.messages for part in message.parts]
    if backend == "claude":
        script = claude_input.script(turn)
        lines = [*(step.line for step in script.history), script.query]
        json.dumps([*lines, script.tools, script.schema])
    elif any(isinstance(part, ImagePart) and is_remote(part) for part in parts):
        return  # it is fetched first
    elif backend == "codex":
        asked = structured.told(turn)
        json.dumps([codex_items.items(asked), codex_tools.dynamic_tools(turn)])
        json.dumps(codex_format.output_schema(turn.format))
    elif backend == "gemini":
        asked = structured.told(turn)
        assert gemini_prompt.prompt(asked)
        json.dumps([tool.schema for tool in gemini_tools.offered_tools(turn)])
