"""The real Codex CLI against a fake of its API: what reaches the model, and what comes back."""

import asyncio
import base64
import contextlib
import json
import os
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from aiohttp import web

from clinvk.backends.base import Health, State
from clinvk.backends.codex import INSTALL, LOGIN_BY_KEY, LOGIN_TO_FILE, TESTED, CodexBackend
from clinvk.config import CodexConfig
from clinvk.errors import (
    BadRequestError,
    CliCrashedError,
    ClinvkError,
    ContextTooLongError,
    ModelNotFoundError,
    NotInstalledError,
    NotLoggedInError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    TooLargeError,
    UnavailableError,
    UnsupportedError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamUnreachableError,
)
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Usage,
    check_grammar,
)
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import ImagePart, Message, PriorCall, Role, TextPart, ToolSpec, Turn
from tests.fakes.api import Captured, Reply
from tests.fakes.responses import FakeResponses
from tests.real.conftest import cli

pytestmark = pytest.mark.real

HUNG_S = 30  # a guard against hanging tests, not a measure


def said(role: str, *texts: str) -> Message:
    return Message(Role(role), tuple(TextPart(text) for text in texts))


def turn(*messages: Message | str, effort: str | None = None) -> Turn:
    return Turn(
        "codex",
        tuple(said("user", m) if isinstance(m, str) else m for m in messages),
        effort=effort,
    )


@dataclass
class World:
    """A fake API, a user's home, a temporary folder, and backends that run in them."""

    fake: FakeResponses
    home: Path
    temporary: Path
    supervisor: Supervisor

    @property
    def codex_home(self) -> Path:
        return self.home / ".codex"

    def backend(
        self,
        *,
        command: str | None = None,
        env: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
        retries: int = 0,
    ) -> CodexBackend:
        """A backend whose model provider is the fake."""
        provider = {
            "model_provider": "fake",
            "model_providers.fake": {
                "name": "fake",
                "base_url": self.fake.base_url,
                "wire_api": "responses",
                "env_key": "FAKE_KEY",
            },
        }
        return CodexBackend(
            "codex",
            CodexConfig(
                kind="codex",
                command=[command or cli("codex")],
                env={"HOME": str(self.home), "FAKE_KEY": "sk-test"} if env is None else env,
                config=provider if config is None else config,
                retries=retries,
            ),
            self.supervisor,
        )

    def with_login(self, **more: Any) -> CodexBackend:
        """A backend on the built-in provider and the login of the home."""
        reach = {
            "openai_base_url": self.fake.base_url,
            "chatgpt_base_url": f"{self.fake.url}/backend-api/",
            "features.enable_request_compression": False,
            **more.pop("config", {}),
        }
        env = {"HOME": str(self.home), **more.pop("env", {})}
        return self.backend(env=env, config=reach, **more)

    def input(self) -> list[dict[str, Any]]:
        """The items of the last upstream request, without what codex numbers."""
        extra = ("id", "internal_chat_message_metadata_passthrough")
        items = self.fake.requests[-1].body["input"]
        return [{k: v for k, v in item.items() if k not in extra} for item in items]

    def login_with_key(self, key: str) -> None:
        """Log the user in, as the user would."""
        self.codex_home.mkdir(exist_ok=True)
        env = {"HOME": str(self.home), "PATH": os.environ["PATH"]}
        command = [cli("codex"), "login", "--with-api-key"]
        subprocess.run(command, input=key.encode(), env=env, check=True, capture_output=True)


@pytest.fixture
async def world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    path = os.environ["PATH"]
    for name in list(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", path)
    monkeypatch.setenv("HOME", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    async with FakeResponses().running() as fake:
        async with Supervisor() as supervisor:
            yield World(fake, home, temporary, supervisor)
        assert list(temporary.iterdir()) == []
    assert psutil.Process().children(recursive=True) == []


async def collect(backend: CodexBackend, asked: Turn, model: str | None = "m") -> list[Event]:
    """Run a turn to its end."""
    events: list[Event] = []
    with anyio.fail_after(HUNG_S):
        async with backend.open(asked, model) as stream:
            async for event in stream:
                events.append(event)  # noqa: PERF401 - what came before a failure counts
    check_grammar(events)
    return events


async def failure(backend: CodexBackend, asked: Turn, model: str | None = "m") -> ClinvkError:
    """Run a turn that fails, and return how."""
    try:
        events = await collect(backend, asked, model)
    except ClinvkError as exc:
        return exc
    assert isinstance(events[-1], Failed)
    return events[-1].error


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def until(condition: Any) -> None:
    with anyio.fail_after(HUNG_S):
        while not condition():  # noqa: ASYNC110 - other processes set no event
            await anyio.sleep(0.005)


def servers() -> list[psutil.Process]:
    """The processes of this test's app-servers, the launcher first."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one, too
            if "app-server" in child.cmdline():
                found.append(child)
    return found


# --- what reaches the model


ODD = 'Zeile\r\n\ttab "q" \\n \u00e9\u4e16\U0001f600\u2028\ufeff\x01 <|endoftext|> </s> '


@pytest.mark.parametrize("model", [None, "gpt-5.5", "unheard-of"])
async def test_the_conversation_arrives_as_it_was_sent(world: World, model: str | None) -> None:
    conversation = turn(
        said("system", f"{ODD}1", " and more"),
        said("developer", "D\n\n"),
        said("user", "first", f"{ODD}2"),
        Message(Role.ASSISTANT, (TextPart(" call"),), (PriorCall("c1", "f", '{"a": 1}'),)),
        Message(Role.TOOL, (TextPart("42"),), call_id="c1"),
        said("system", "S in between"),
        said("assistant", "answer"),
        said("user", ODD),
    )
    await collect(world.backend(), conversation, model)

    def item(role: str, *texts: str) -> dict[str, Any]:
        kind = "output_text" if role == "assistant" else "input_text"
        content = [{"type": kind, "text": text} for text in texts]
        return {"type": "message", "role": role, "content": content}

    assert world.input() == [
        item("developer", f"{ODD}1", " and more"),
        item("developer", "D\n\n"),
        item("user", "first", f"{ODD}2"),
        item("assistant", " call"),
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "42"},
        item("developer", "S in between"),
        item("assistant", "answer"),
        item("user", ODD),
    ]
    assert len(world.fake.requests) == 1


@pytest.mark.parametrize("model", [None, "gpt-6-astra", "gpt-5.6-luna", "gpt-5.5", "unheard-of"])
async def test_the_model_is_offered_no_tool_and_told_nothing_else(
    world: World, model: str | None
) -> None:
    await collect(world.backend(), turn("hi"), model)
    body = world.fake.requests[-1].body
    assert body.get("tools", []) == []
    assert body.get("instructions", "") == ""
    content = [{"type": "input_text", "text": "hi"}]
    assert world.input() == [{"type": "message", "role": "user", "content": content}]
    assert len(json.dumps(body)) < 2100
    assert body["model"] == (model or body["model"])
    assert (world.fake.other, len(world.fake.requests)) == ([], 1)


@pytest.mark.parametrize("last", ["assistant", "developer", "system"])
async def test_a_conversation_may_end_with_any_role(world: World, last: str) -> None:
    await collect(world.backend(), turn("q", said(last, "end")))
    assert world.input()[-1]["content"][0]["text"] == "end"


async def test_commands_files_and_skills_in_a_text_are_only_text(world: World) -> None:
    canary = world.home / "canary.txt"
    canary.write_text("CANARY")
    for folder in (world.home / ".agents/skills/trap", world.codex_home / "skills/trap"):
        folder.mkdir(parents=True)
        (folder / "SKILL.md").write_text("---\nname: trap\ndescription: CANARY\n---\nCANARY\n")
    asked = f"/init $trap [$trap]({world.home}/.agents/skills/trap/SKILL.md) @{canary} @canary.txt"
    await collect(world.backend(), turn(said("system", "/compact $trap"), asked))
    assert world.input()[-1]["content"] == [{"type": "input_text", "text": asked}]
    assert "CANARY" not in json.dumps(world.fake.requests[-1].body)


async def test_nothing_of_the_users_settings_is_used(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    here = tmp_path / "project"
    for folder in (world.codex_home / "prompts", world.codex_home / "rules", here / ".codex"):
        folder.mkdir(parents=True)
    hook = {
        "hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": f"touch {ran}"}]}]}
    }
    for folder in (world.codex_home, world.home, here):
        (folder / "AGENTS.md").write_text("CANARY agents")
        (folder / "hooks.json").write_text(json.dumps(hook))
    (world.codex_home / "prompts/p.md").write_text("CANARY prompt")
    settings = f"""
        notify = ["touch", "{ran}"]
        instructions = "CANARY instructions"
        developer_instructions = "CANARY developer"
        model_instructions_file = "{world.home}/AGENTS.md"
        model_reasoning_effort = "high"
        [features]
        shell_tool = true
        memories = true
        [mcp_servers.canary]
        command = "touch"
        args = ["{ran}"]
        [[hooks.SessionStart]]
        hooks = [{{type = "command", command = "touch {ran}"}}]
    """
    for path in (world.codex_home / "config.toml", here / ".codex" / "config.toml"):
        path.write_text(settings)
    before = sorted(world.home.rglob("*"))
    monkeypatch.chdir(here)
    await collect(world.backend(), turn("hi"))
    assert "CANARY" not in json.dumps(world.fake.requests[-1].body)
    assert world.fake.requests[-1].body.get("tools", []) == []
    assert "effort" not in world.fake.requests[-1].body["reasoning"]
    assert not ran.exists()
    assert sorted(world.home.rglob("*")) == before


async def test_the_users_way_to_the_model_is_kept(world: World) -> None:
    world.codex_home.mkdir()
    (world.codex_home / "config.toml").write_text(
        f"""
        model = "users-model"
        model_provider = "mine"
        [model_providers.mine]
        name = "mine"
        base_url = "{world.fake.base_url}"
        wire_api = "responses"
        http_headers = {{"X-Mine" = "yes"}}
        env_http_headers = {{"X-Env" = "MY_HEADER"}}
        """
    )
    backend = world.backend(env={"HOME": str(world.home), "MY_HEADER": "from env"}, config={})
    await collect(backend, turn("hi"), None)
    request = world.fake.requests[-1]
    assert request.body["model"] == "users-model"
    assert (request.headers["x-mine"], request.headers["x-env"]) == ("yes", "from env")


async def test_a_secret_of_the_configuration_is_in_no_argument(world: World) -> None:
    backend = world.backend(
        config={
            "model_provider": "fake",
            "model_providers.fake.name": "fake",
            "model_providers.fake.base_url": world.fake.base_url,
            "model_providers.fake.experimental_bearer_token": "sk-secret-token",
        }
    )
    await collect(backend, turn("hi"))
    assert world.fake.requests[-1].headers["authorization"] == "Bearer sk-secret-token"
    assert not any("secret" in " ".join(process.cmdline()) for process in servers())


async def test_what_is_long_arrives_whole(world: World) -> None:
    prompt = "\u4e16 " * 500_000
    conversation = turn(
        said("system", "s" * 3_000_000),
        said("user", "h" * 1_200_000),
        Message(Role.ASSISTANT, (), (PriorCall("c", "f", "{}"),)),
        Message(Role.TOOL, (TextPart("r" * 1_000_000),), call_id="c"),
        prompt,
    )
    backend = world.backend()
    for model in (None, "unheard-of"):
        await collect(backend, conversation, model)
        items = world.input()
        texts = [item["content"][0]["text"] for item in items if item["type"] == "message"]
        assert texts == ["s" * 3_000_000, "h" * 1_200_000, prompt]
        assert items[-2]["output"] == "r" * 1_000_000
    assert len(world.fake.requests) == 2


async def test_more_than_codex_takes_is_refused_before_anything_starts(world: World) -> None:
    with pytest.raises(ContextTooLongError, match="1048576"):
        world.backend().check(turn("x" * 1_048_577))
    assert servers() == []


async def test_effort_reaches_the_model(world: World) -> None:
    backend = world.backend()
    for effort, model, sent in (
        (None, "gpt-5.5", "medium"),
        ("none", "gpt-5.5", "none"),
        ("minimal", "gpt-5.5", "minimal"),
        ("high", None, "high"),
        ("xhigh", "unheard-of", "xhigh"),
        ("max", "gpt-5.5", "xhigh"),
        ("max", "gpt-6-astra", "max"),
    ):
        await collect(backend, turn("hi", effort=effort), model)
        assert world.fake.requests[-1].body["reasoning"]["effort"] == sent


# --- what comes back


async def test_deltas_come_one_by_one(world: World) -> None:
    world.fake.answer(Reply(text=("one", " two"), hold=1))
    events: list[Event] = []
    with anyio.fail_after(HUNG_S):
        async with world.backend().open(turn("hi"), "m") as stream:
            async for event in stream:
                events.append(event)
                if event == TextDelta("one"):
                    assert world.fake.open == 1
                    world.fake.release.set()
    assert events == [
        Started("m"),
        TextDelta("one"),
        TextDelta(" two"),
        Usage(11, 7),
        Finished(FinishReason.STOP),
    ]


@pytest.mark.parametrize("model", [None, "unheard-of"])
async def test_thinking_is_apart_from_the_answer(world: World, model: str | None) -> None:
    world.fake.answer(Reply(thinking=("Let me", " think."), reasoning_tokens=3, cached_tokens=2))
    events = await collect(world.backend(), turn("hi"), model)
    assert [e.text for e in events if isinstance(e, ReasoningDelta)] == ["Let me", " think."]
    assert text(events) == "Hello from the fake."
    assert Usage(11, 7, cached_tokens=2, reasoning_tokens=3) in events


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        ("max_output_tokens", FinishReason.LENGTH),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("refusal", FinishReason.CONTENT_FILTER),
    ],
)
async def test_the_reason_of_the_end_is_the_real_one(
    world: World, stop: str, reason: FinishReason
) -> None:
    world.fake.answer(Reply(stop=stop))
    events = await collect(world.backend(), turn("hi"))
    assert events[-1] == Finished(reason)
    assert text(events) == ("" if stop == "refusal" else "Hello from the fake.")


async def test_turns_at_once_are_not_mixed_up(world: World) -> None:
    def script(captured: Captured) -> Reply:
        name = captured.body["input"][-1]["content"][0]["text"]
        return Reply(text=tuple(f"{name}-{i} " for i in range(20)), delay_s=0.005)

    world.fake.script = script
    backend = world.backend()
    got: dict[str, str] = {}

    async def one(name: str) -> None:
        got[name] = text(await collect(backend, turn(name)))

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(one, f"n{number}")
    assert got == {f"n{n}": "".join(f"n{n}-{i} " for i in range(20)) for n in range(8)}
    assert len(servers()) <= 2


async def test_a_slow_reader_holds_up_no_other(world: World) -> None:
    backend = world.backend()
    world.fake.answer(Reply(text=("x" * 1000,) * 2000), Reply())
    with anyio.fail_after(HUNG_S):
        async with backend.open(turn("slow"), "m") as slow:
            assert await anext(slow) == Started("m")
            assert text(await collect(backend, turn("quick"))) == "Hello from the fake."
            rest = [event async for event in slow]
    assert len(text(rest)) == 2_000_000


# --- failures


def said_no(status: int, *, code: str | None = None, **more: Any) -> Reply:
    error = {"message": "the API says no", "code": code}
    return Reply(status=status, error=error, **more)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (said_no(400), UpstreamRefusedError),
        (said_no(401), NotLoggedInError),
        (said_no(403), PermissionDeniedError),
        (said_no(404), ModelNotFoundError),
        (said_no(413), TooLargeError),
        (said_no(429), RateLimitedError),
        (said_no(500), UpstreamError),
        (said_no(503), UpstreamError),
        (said_no(529), OverloadedError),
        (Reply(status=404, error={"message": "x", "code": "model_not_found"}), ModelNotFoundError),
        (
            Reply(status=429, error={"message": "x", "code": "insufficient_quota"}),
            QuotaExceededError,
        ),
        (
            Reply(status=400, error={"message": "x", "code": "context_length_exceeded"}),
            ContextTooLongError,
        ),
        (Reply(error={"message": "x", "code": "server_error"}), UpstreamError),
        (Reply(cut=0), UpstreamUnreachableError),
        (Reply(cut=2), UpstreamUnreachableError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value.status),
)
async def test_a_failure_of_the_api_is_typed_and_not_retried(
    world: World, reply: Reply, kind: type[ClinvkError]
) -> None:
    world.fake.answer(reply)
    backend = world.backend()
    error = await failure(backend, turn("hi"))
    assert type(error) is kind
    assert len(world.fake.requests) == 1
    world.fake.answer(Reply())
    assert text(await collect(backend, turn("again"))) == "Hello from the fake."


async def test_the_built_in_provider_is_not_retried_either(world: World) -> None:
    world.login_with_key("sk-user")
    backend = world.with_login()
    for status, kind in ((401, NotLoggedInError), (500, UpstreamError)):
        world.fake.requests.clear()
        world.fake.answer(said_no(status))
        assert type(await failure(backend, turn("hi"))) is kind
        assert len(world.fake.requests) == 1


async def test_a_rate_limit_tells_when_to_ask_again(world: World) -> None:
    world.fake.answer(said_no(429, headers={"Retry-After": "7"}))
    error = await failure(world.backend(), turn("hi"))
    assert (type(error), error.retry_after_s) == (RateLimitedError, 7)


async def test_retries_are_as_configured(world: World) -> None:
    world.fake.answer(said_no(500), Reply())
    events = await collect(world.backend(retries=1), turn("hi"))
    assert text(events) == "Hello from the fake."
    assert len(world.fake.requests) == 2


async def test_no_retry_after_the_answer_has_begun(world: World) -> None:
    world.fake.answer(Reply(cut=2), Reply())
    events = await collect(world.backend(retries=3), turn("hi"))
    assert text(events) == "Hello from"
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, UpstreamUnreachableError)


async def test_an_api_that_is_down_is_unreachable(world: World) -> None:
    backend = world.backend()
    async with FakeResponses().running() as gone:
        world.fake.url = gone.url
    error = await failure(world.backend(), turn("hi"))
    assert type(error) is UpstreamUnreachableError
    assert backend.installed


async def test_a_key_that_is_not_set_is_named(world: World) -> None:
    error = await failure(world.backend(env={"HOME": str(world.home)}), turn("hi"))
    assert type(error) is NotLoggedInError
    assert "FAKE_KEY" in error.message


async def test_a_configuration_that_codex_refuses_is_told(world: World) -> None:
    error = await failure(world.backend(config={"model_provider": "nowhere"}), turn("hi"))
    assert "nowhere" in error.message
    assert isinstance(error, UnavailableError | CliCrashedError)


# --- leaving


async def test_leaving_closes_the_upstream_connection(world: World) -> None:
    world.fake.answer(Reply(hold=2))
    backend = world.backend()
    for model in (None, "unheard-of"):
        with anyio.fail_after(HUNG_S):
            async with backend.open(turn("hi"), model) as stream:
                async for event in stream:
                    if isinstance(event, TextDelta):
                        break
        await until(lambda: world.fake.open == 0)
    assert world.fake.aborted == 2


async def test_being_cancelled_at_any_moment_closes_the_upstream_connection(world: World) -> None:
    world.fake.answer(Reply(hold=1))
    backend = world.backend()
    await backend.warm()
    for moment in range(24):
        job = asyncio.ensure_future(collect(backend, turn("hi")))
        await asyncio.sleep(moment * 0.003)
        job.cancel()
        await asyncio.wait([job])
    world.fake.answer(Reply())
    assert text(await collect(backend, turn("hi"))) == "Hello from the fake."
    await until(lambda: world.fake.open == 0)


async def test_leaving_before_the_api_answers_closes_the_connection(world: World) -> None:
    world.fake.answer(Reply(hold=0))
    job = asyncio.ensure_future(collect(world.backend(), turn("hi")))
    await until(lambda: world.fake.open == 1)
    job.cancel()
    await asyncio.wait([job])
    await until(lambda: world.fake.open == 0)


# --- the process


@pytest.mark.parametrize("victim", [0, -1], ids=["launcher", "native"])
async def test_a_killed_cli_fails_its_turns_at_once_and_the_next_turn_works(
    world: World, victim: int
) -> None:
    world.fake.answer(Reply(hold=1))
    backend = world.backend()
    errors: list[ClinvkError] = []

    async def one() -> None:
        errors.append(await failure(backend, turn("hi")))

    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(one)
            await until(lambda: world.fake.open == 3)
            before = servers()
            before[victim].send_signal(signal.SIGKILL)
    assert [type(error) for error in errors] == [CliCrashedError] * 3
    assert "SIGKILL" in errors[0].message
    await until(lambda: not any(process in servers() for process in before))
    world.fake.answer(Reply())
    assert text(await collect(backend, turn("again"))) == "Hello from the fake."


async def test_a_cli_that_dies_between_turns_is_replaced_unseen(world: World) -> None:
    backend = world.backend()
    await collect(backend, turn("hi"))
    servers()[0].send_signal(signal.SIGKILL)
    assert text(await collect(backend, turn("again"))) == "Hello from the fake."


async def test_warming_starts_the_server_and_closing_ends_it(world: World) -> None:
    backend = world.backend()
    await backend.warm()
    assert servers() != []
    backend.close()
    await until(lambda: servers() == [])
    await until(lambda: list(world.temporary.iterdir()) == [])


async def test_folders_of_a_killed_clinvk_are_removed(world: World) -> None:
    stale = world.temporary / f"clinvk-codex-{2**22 + 1}-x"  # no process has this number
    stale.mkdir()
    await collect(world.backend(), turn("hi"))
    assert not stale.exists()


def script(folder: Path, body: str) -> str:
    """A program that stands in for codex."""
    path = folder / "codex"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


async def test_a_cli_that_does_not_start_says_why_and_when_to_ask_again(
    world: World, tmp_path: Path
) -> None:
    backend = world.backend(command=script(tmp_path, "echo 'no such thing' >&2; exit 7"))
    error = await failure(backend, turn("hi"))
    assert type(error) is CliCrashedError
    assert "exit code 7" in error.message
    assert "no such thing" in error.message
    with pytest.raises(CliCrashedError) as caught:
        await backend.warm()
    assert caught.value.retry_after_s is not None


async def test_a_program_that_is_something_else_is_no_codex(world: World, tmp_path: Path) -> None:
    backend = world.backend(command=script(tmp_path, "echo hello"))
    found = await backend.health()
    assert (found.state, found.fix) == (State.FAILING, INSTALL)


# --- the login


def jwt(**claims: Any) -> str:
    def encode(part: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()

    return f"{encode({'alg': 'none'})}.{encode(claims)}.c2ln"


def tokens(refresh: str, *, lives_s: int) -> dict[str, str]:
    account = {"chatgpt_account_id": "acc", "chatgpt_plan_type": "plus", "user_id": "u"}
    token = jwt(**{"https://api.openai.com/auth": account, "exp": int(time.time()) + lives_s})
    return {
        "id_token": token,
        "access_token": token,
        "refresh_token": refresh,
        "account_id": "acc",
    }


def login_with_chatgpt(world: World, *, lives_s: int, refreshed: str) -> None:
    world.codex_home.mkdir()
    login = {
        "auth_mode": "chatgpt",
        "OPENAI_API_KEY": None,
        "tokens": tokens("first", lives_s=lives_s),
        "last_refresh": refreshed,
    }
    (world.codex_home / "auth.json").write_text(json.dumps(login))


async def test_a_subscription_login_is_used(world: World) -> None:
    login_with_chatgpt(world, lives_s=3600, refreshed="2030-01-01T00:00:00Z")
    (world.codex_home / "installation_id").write_text("11111111-2222-4333-8444-555555555555")
    backend = world.with_login()
    assert (await backend.health()).state is State.READY
    world.fake.answer(Reply(thinking=("hm",)))
    events = await collect(backend, turn("hi"), "gpt-5.5")
    request = world.fake.requests[-1]
    assert request.headers["chatgpt-account-id"] == "acc"
    assert request.headers["version"] == TESTED
    assert request.body["reasoning"]["summary"] == "auto"
    assert "1111-2222" in json.dumps(request.body["client_metadata"])
    assert ReasoningDelta("hm") in events
    assert not any("analytics" in path or "plugins" in path for path in world.fake.other)


async def test_a_refreshed_token_reaches_the_users_file(world: World) -> None:
    async def refresh(_: web.Request) -> web.Response:
        return web.json_response(tokens("second", lives_s=3600))

    app = web.Application()
    app.router.add_post("/token", refresh)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/token"
    login_with_chatgpt(world, lives_s=-10, refreshed="2020-01-01T00:00:00Z")
    backend = world.with_login(env={"CODEX_REFRESH_TOKEN_URL_OVERRIDE": url})
    await collect(backend, turn("hi"))
    login = json.loads((world.codex_home / "auth.json").read_text())
    assert login["tokens"]["refresh_token"] == "second"
    await runner.cleanup()


async def test_a_new_login_counts_from_the_next_turn(world: World) -> None:
    backend = world.with_login()
    assert await backend.health() == Health(
        State.NOT_LOGGED_IN, TESTED, tested=True, reason="codex is not logged in", fix="codex login"
    )
    for key in ("sk-first", "sk-second"):
        world.login_with_key(key)
        assert (await backend.health()).state is State.READY
        await collect(backend, turn("hi"))
        assert world.fake.requests[-1].headers["authorization"] == f"Bearer {key}"


async def test_a_key_in_the_environment_is_a_login(world: World) -> None:
    backend = world.with_login(env={"CODEX_API_KEY": "sk-env", "OPENAI_ORGANIZATION": "org"})
    assert (await backend.health()).state is State.READY
    await collect(backend, turn("hi"))
    headers = world.fake.requests[-1].headers
    assert (headers["authorization"], headers["openai-organization"]) == ("Bearer sk-env", "org")


async def test_a_login_that_codex_would_not_use_is_told_apart(world: World) -> None:
    found = await world.with_login(env={"OPENAI_API_KEY": "sk-x"}).health()
    assert (found.state, found.fix) == (State.NOT_LOGGED_IN, LOGIN_BY_KEY)
    world.codex_home.mkdir()
    (world.codex_home / "config.toml").write_text('cli_auth_credentials_store = "keyring"')
    found = await world.with_login().health()
    assert (found.state, found.fix) == (State.NOT_LOGGED_IN, LOGIN_TO_FILE)


async def test_health_of_a_provider_with_its_own_key(world: World) -> None:
    found = await world.backend().health()
    assert found == Health(State.READY, TESTED, tested=True)
    found = await world.backend(env={"HOME": str(world.home)}).health()
    assert (found.state, found.fix) == (State.NOT_LOGGED_IN, "export FAKE_KEY=…")
    assert world.fake.requests == []


async def test_a_missing_cli_is_told_with_the_command_that_installs_it(world: World) -> None:
    backend = world.backend(command="/no/such/codex")
    assert not backend.installed
    assert await backend.health() == Health(
        State.MISSING, reason="'/no/such/codex' was not found", fix=INSTALL
    )
    with pytest.raises(NotInstalledError, match="npm install"):
        backend.check(turn("hi"))
    with pytest.raises(NotInstalledError):
        await backend.warm()


def test_what_cannot_be_carried_is_refused_by_name(world: World) -> None:
    backend = world.backend()
    image = Message(Role.USER, (TextPart("a"), ImagePart(url="http://x/y.png")))
    with pytest.raises(UnsupportedError) as caught:
        backend.check(turn(image))
    assert caught.value.param == "messages[0].content[1]"
    with pytest.raises(UnsupportedError) as caught:
        backend.check(replace(turn("hi"), tools=(ToolSpec("f"),)))
    assert caught.value.param == "tools"
    with pytest.raises(BadRequestError):
        backend.check(turn(Message(Role.TOOL, (TextPart("r"),), call_id="c")))
    assert backend.check(turn("hi", effort="max")) == ()
    assert backend.check(turn(replace(said("user", "hi"), name="ann"))) == ("messages[].name",)
