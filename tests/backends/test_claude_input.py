"""A turn as lines for Claude Code, and how the program is started."""

import json
from pathlib import Path
from typing import Any

import pytest

from clinvk.backends import claude_command, claude_input
from clinvk.backends.claude_command import find_login
from clinvk.backends.claude_input import MAX_TEXT_BYTES
from clinvk.errors import BadRequestError, ContextTooLongError
from clinvk.turn import Message, PriorCall, Role, TextPart, Turn

EMPTY = {"type": "text", "text": ""}


def said(role: str, *texts: str, **fields: Any) -> Message:
    return Message(Role(role), tuple(map(TextPart, texts)), **fields)


def turn(*messages: Message | str) -> Turn:
    asked = (said("user", m) if isinstance(m, str) else m for m in messages)
    return Turn("claude", tuple(asked))


def texts(*values: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": value} for value in values]


def user(*blocks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "user", "message": {"role": "user", "content": [*blocks, EMPTY]}, **fields}


def refusal(asked: Turn) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        claude_input.check(asked)
    return caught.value


def test_one_message_is_one_line() -> None:
    script = claude_input.script(turn("/clear @x\n"))
    assert script.query == user(*texts("/clear @x\n"))
    assert script.history == ()
    assert script.instructions == ""


def test_instructions_are_apart_from_the_conversation() -> None:
    script = claude_input.script(turn(said("system", "a"), "hi", said("developer", "b")))
    assert script.instructions == "a\n\nb"
    assert script.query == user(*texts("hi"))


def test_earlier_messages_keep_their_roles() -> None:
    script = claude_input.script(
        turn("a", said("assistant", "b"), said("assistant", "c"), "d", "e", said("user", "f", "g"))
    )
    first, second, third = script.history
    assert first.line == user(*texts("a"), shouldQuery=False)
    assert first.waits
    assert [step.line["message"]["content"] for step in (second, third)] == [texts("b"), texts("c")]
    assert second.line["message"]["id"] != third.line["message"]["id"]
    assert not second.waits
    assert script.query == user(*texts("d", "e", "f", "g"))


def test_a_conversation_may_end_with_the_assistant() -> None:
    script = claude_input.script(turn("a", said("assistant", "b")))
    assert len(script.history) == 2
    assert script.query == user()


def test_calls_and_results_keep_their_tie() -> None:
    call = PriorCall("call_1", "get_weather", '{"city": "Paris"}')
    script = claude_input.script(
        turn(
            "a",
            said("assistant", "let me see", calls=(call, PriorCall("call_2", "now", ""))),
            said("tool", "sun", call_id="call_1"),
            said("tool", "", call_id="call_2"),
        )
    )
    assert script.history[1].line["message"]["content"] == [
        *texts("let me see"),
        {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Paris"}},
        {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
    ]
    assert script.query == user(
        {"type": "tool_result", "tool_use_id": "call_1", "content": "sun"},
        {"type": "tool_result", "tool_use_id": "call_2", "content": ""},
    )


def test_a_call_id_used_again_is_made_distinct() -> None:
    legacy = said("assistant", calls=(PriorCall("f", "f", "{}"),))
    result = said("tool", "x", call_id="f")
    script = claude_input.script(turn("a", legacy, result, legacy, result))
    uses = [step.line["message"]["content"][0]["id"] for step in script.history[1::2]]
    assert uses == ["f", "f_2"]
    assert script.query["message"]["content"][0]["tool_use_id"] == "f_2"


def test_blank_parts_join_their_neighbours() -> None:
    script = claude_input.script(turn(said("user", "\n", "a", "", " ", "\ufeff", "b", "c")))
    blocks = script.query["message"]["content"]
    assert "".join(block["text"] for block in blocks) == "\na \ufeffbc"
    assert all(block["text"].strip("\ufeff").strip() for block in blocks[:-1])


def test_empty_messages_say_nothing() -> None:
    script = claude_input.script(turn("a", said("assistant", ""), said("assistant"), "b", ""))
    assert script.history == ()
    assert script.query == user(*texts("a", "b"))


def test_instructions_alone_can_be_asked() -> None:
    asked = turn(said("system", "write a haiku"), "")
    claude_input.check(asked)
    assert claude_input.script(asked).query == user()


def test_blank_instructions_are_none() -> None:
    assert claude_input.script(turn(said("system", " \n"), "hi")).instructions == ""


@pytest.mark.parametrize("blank", [" ", "\n\t", "\ufeff", "\u3000"])
def test_blank_text_is_refused_by_name(blank: str) -> None:
    assert refusal(turn("a", said("assistant", blank), "b")).param == "messages[1].content"
    assert refusal(turn(said("system", "s"), blank)).param == "messages[1].content"


@pytest.mark.parametrize("nothing", [turn(""), turn(said("system", "")), turn(said("user"))])
def test_a_turn_without_any_text_is_refused(nothing: Turn) -> None:
    assert refusal(nothing).param == "messages"


def test_too_much_text_is_refused_with_the_limit() -> None:
    claude_input.check(turn("x" * MAX_TEXT_BYTES))
    error = refusal(turn(said("system", "é" * (MAX_TEXT_BYTES // 2)), "y"))
    assert isinstance(error, ContextTooLongError)
    assert str(MAX_TEXT_BYTES) in error.message


CALLS = said("assistant", calls=(PriorCall("c1", "f", "{}"), PriorCall("c2", "g", "{}")))


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (turn("a", said("tool", "x", call_id="c9")), "messages[1].tool_call_id"),
        (turn("a", CALLS, said("tool", "x", call_id="c3")), "messages[2].tool_call_id"),
        (turn("a", CALLS), "messages[1].tool_calls[0]"),
        (turn("a", CALLS, said("tool", "x", call_id="c1"), "b"), "messages[1].tool_calls[1]"),
        (
            turn("a", CALLS, *(said("tool", "x", call_id=c) for c in ("c1", "c1"))),
            "messages[3].tool_call_id",
        ),
        (
            turn("a", said("assistant", calls=(PriorCall("c", "f", "[]"),))),
            "messages[1].tool_calls[0].arguments",
        ),
        (
            turn("a", said("assistant", calls=(PriorCall("c", "f", "{"),))),
            "messages[1].tool_calls[0].arguments",
        ),
    ],
)
def test_calls_without_results_and_results_without_calls_are_refused(
    asked: Turn, param: str
) -> None:
    assert refusal(asked).param == param


def test_every_flag_that_isolates_is_given() -> None:
    argv = claude_command.arguments(None, None, None)
    assert {"--tools=", "--setting-sources=", "--strict-mcp-config", "--system-prompt="} <= set(
        argv
    )
    assert "--no-session-persistence" in argv
    assert "--bare" not in argv  # it would ignore subscription logins


@pytest.mark.parametrize(
    ("effort", "flag"),
    [
        ("none", "--thinking=disabled"),
        ("minimal", "--effort=low"),
        ("low", "--effort=low"),
        ("medium", "--effort=medium"),
        ("high", "--effort=high"),
        ("xhigh", "--effort=xhigh"),
        ("max", "--effort=max"),
    ],
)
def test_effort_is_a_flag(effort: str, flag: str) -> None:
    assert claude_command.arguments(None, effort, None)[-1] == flag
    assert claude_command.knows_effort(effort)


def test_an_unknown_effort_is_no_flag() -> None:
    plain = claude_command.arguments(None, None, None)
    assert claude_command.arguments(None, "huge", None) == plain
    assert not claude_command.knows_effort("huge")


def test_a_model_cannot_become_a_flag() -> None:
    assert claude_command.arguments("--bare", None, None)[-1] == "--model=--bare"


def test_logins_pass_and_nesting_does_not() -> None:
    source = {
        "PATH": "/bin",
        "ANTHROPIC_API_KEY": "k",
        "CLAUDE_CODE_OAUTH_TOKEN": "t",
        "CLAUDE_CODE_USE_BEDROCK": "1",
        "AWS_PROFILE": "p",
        "CLAUDE_CONFIG_DIR": "/nowhere",
        "CLAUDECODE": "1",
        "CLAUDE_CODE_ENTRYPOINT": "cli",
        "CLAUDE_CODE_SSE_PORT": "1",
        "CLAUDE_CODE_SIMPLE": "1",
        "OPENAI_API_KEY": "o",
    }
    env = find_login({}, 0, source=source).env
    assert {name for name in source if name in env} == {
        "PATH",
        "ANTHROPIC_API_KEY",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "CLAUDE_CODE_USE_BEDROCK",
        "AWS_PROFILE",
        "CLAUDE_CONFIG_DIR",
    }
    assert env["CLAUDE_CODE_DISABLE_ATTACHMENTS"] == "1"
    assert env["CLAUDE_CODE_MAX_RETRIES"] == "1"


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("CLAUDE_CODE_USE_BEDROCK", "AWS_SECRET_ACCESS_KEY"),
        ("CLAUDE_CODE_USE_FOUNDRY", "AZURE_CLIENT_SECRET"),
        ("CLAUDE_CODE_USE_VERTEX", "GOOGLE_APPLICATION_CREDENTIALS"),
    ],
)
def test_the_login_of_a_cloud_passes_only_if_claude_asks_there(
    flag: str, name: str, tmp_path: Path
) -> None:
    source = {name: "secret"}
    assert name not in find_login({}, 0, source=source).env
    assert name not in find_login({flag: "0"}, 0, source=source).env
    assert find_login({flag: "1"}, 0, source=source).env[name] == "secret"
    assert find_login({}, 0, source={**source, flag: "true"}).env[name] == "secret"
    (tmp_path / "settings.json").write_text(json.dumps({"env": {flag: "1", name: "other"}}))
    login = find_login({"CLAUDE_CONFIG_DIR": str(tmp_path)}, 0, source=source)
    assert login.env[name] == "other"


def test_the_configuration_has_the_last_word() -> None:
    env = find_login({"DISABLE_COMPACT": "0"}, 2, source={"DISABLE_COMPACT": "x"}).env
    assert env["DISABLE_COMPACT"] == "0"
    assert env["CLAUDE_CODE_MAX_RETRIES"] == "3"


def test_only_a_gateway_is_not_told_about_the_cli() -> None:
    name = "CLAUDE_CODE_ATTRIBUTION_HEADER"
    assert name not in find_login({}, 0, source={}).env
    gateway = {"ANTHROPIC_BASE_URL": "http://x"}
    assert find_login({}, 0, source=gateway).env[name] == "0"
    assert find_login({}, 0, source={**gateway, name: "1"}).env[name] == "1"


def test_of_the_users_settings_only_the_login_passes(tmp_path: Path) -> None:
    settings = {
        "apiKeyHelper": "/bin/key",
        "model": "haiku",
        "hooks": {"Stop": []},
        "env": {
            "ANTHROPIC_AUTH_TOKEN": "t",
            "CLAUDE_CODE_DISABLE_ATTACHMENTS": "0",
            "FOO": "1",
            "AWS_REGION": 3,
        },
    }
    (tmp_path / ".claude").mkdir()
    (tmp_path / ".claude" / "settings.json").write_text(json.dumps(settings))
    login = find_login({"HOME": str(tmp_path)}, 0, source={"ANTHROPIC_AUTH_TOKEN": "older"})
    assert login.settings == {"apiKeyHelper": "/bin/key"}
    assert login.env["ANTHROPIC_AUTH_TOKEN"] == "t"  # as the CLI itself has it
    assert login.env["CLAUDE_CODE_DISABLE_ATTACHMENTS"] == "1"
    assert "FOO" not in login.env
    assert "AWS_REGION" not in login.env


@pytest.mark.parametrize("content", ["{", "[]", '{"env": []}', "\udcff"])
def test_settings_that_cannot_be_read_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "settings.json").write_text(content, "utf-8", "surrogateescape")
    login = find_login({"CLAUDE_CONFIG_DIR": str(tmp_path)}, 0, source={})
    assert login.settings == {}
