"""The real Gemini CLI against a fake of its API: what reaches the model, and what comes back."""

import asyncio
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
import pytest_asyncio

from clinvk.backends import gemini
from clinvk.backends.base import Health, State
from clinvk.backends.gemini import GUARD, GeminiBackend
from clinvk.config import GeminiConfig
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
    RateLimitedError,
    TooLargeError,
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
from clinvk.turn import ImagePart, Message, Role, TextPart, ToolSpec, Turn
from tests.fakes.api import Captured, Reply
from tests.fakes.gemini import NO_END, PROMPT_BLOCKED, FakeGemini
from tests.fakes.google import FakeGoogle
from tests.real.conftest import cli

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

HUNG_S = 20  # a guard against hanging tests, not a measure
FLASH = "gemini-2.5-flash"
API_KEY_LOGIN = {"security": {"auth": {"selectedType": "gemini-api-key"}}}
GOOGLE_LOGIN = {"security": {"auth": {"selectedType": "oauth-personal"}}}


def said(role: str, text: str) -> Message:
    return Message(Role(role), (TextPart(text),))


def turn(*messages: Message | str, effort: str | None = None) -> Turn:
    return Turn(
        "gemini",
        tuple(said("user", m) if isinstance(m, str) else m for m in messages),
        effort=effort,
    )


@dataclass
class World:
    """A fake API, a user's home, and backends that run in them."""

    fake: FakeGemini
    home: Path
    temp: Path
    supervisor: Supervisor
    made: list[GeminiBackend] = field(default_factory=list)

    def backend(self, *, retries: int = 0, **env: str | None) -> GeminiBackend:
        """Make a backend; a variable that is None is left out."""
        variables: dict[str, str | None] = {
            "HOME": str(self.home),
            "GEMINI_API_KEY": "fake-key",
            "GOOGLE_GEMINI_BASE_URL": self.fake.url,
            **env,
        }
        config = GeminiConfig(
            kind="gemini",
            command=[cli("gemini")],
            env={name: value for name, value in variables.items() if value is not None},
            retries=retries,
        )
        backend = GeminiBackend("gemini", config, self.supervisor)
        self.made.append(backend)
        return backend

    def processes(self) -> list[psutil.Process]:
        """The gemini processes of this world that run now."""
        found = []
        for child in psutil.Process().children(recursive=True):
            try:
                if any(str(self.temp) in word for word in child.cmdline()):
                    found.append(child)
            except psutil.Error:
                continue
        return found

    def write(self, name: str, text: str) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


def without_vendor_variables(patch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("GEMINI_", "GOOGLE_", "CLOUD", "GCLOUD", "OTEL")):
            patch.delenv(name)


async def make_world(path: Path) -> AsyncIterator[World]:
    fake = FakeGemini()
    home, temp = path / "home", path / "temp"
    home.mkdir()
    temp.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        without_vendor_variables(patch)
        patch.setattr(tempfile, "tempdir", str(temp))
        async with fake.running(), Supervisor() as supervisor:
            world = World(fake, home, temp, supervisor)
            yield world
            for backend in world.made:
                backend.close()
    assert list(temp.iterdir()) == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async for world in make_world(tmp_path_factory.mktemp("gemini")):
        world.write(".gemini/settings.json", json.dumps(API_KEY_LOGIN))
        world.backend()
        yield world


@pytest.fixture
def world(shared_world: World) -> World:
    """The world whose one backend, and one process, most tests share."""
    shared_world.fake.requests.clear()
    shared_world.fake.release.clear()
    shared_world.fake.aborted = 0
    shared_world.fake.answer(Reply())
    return shared_world


@pytest.fixture
def backend(world: World) -> GeminiBackend:
    return world.made[0]


@pytest.fixture
def fake(world: World) -> FakeGemini:
    return world.fake


@pytest_asyncio.fixture(loop_scope="module")
async def own_world(tmp_path: Path) -> AsyncIterator[World]:
    """A world of its own, for tests of start, login and end."""
    async for world in make_world(tmp_path):
        yield world


async def run(backend: GeminiBackend, asked: Turn, model: str | None = FLASH) -> list[Event]:
    """Run a turn to its end; a raised error is the last event."""
    events: list[Event] = []
    with anyio.fail_after(HUNG_S):
        try:
            backend.check(asked)
            async with backend.open(asked, model) as stream:
                events += [event async for event in stream]
        except ClinvkError as exc:
            events.append(Failed(exc))
    check_grammar(events)
    return events


async def failure(backend: GeminiBackend, asked: Turn, model: str | None = FLASH) -> ClinvkError:
    last = (await run(backend, asked, model))[-1]
    assert isinstance(last, Failed)
    return last.error


def answer(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


# --- what reaches the model ----------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Hello",
        "  two\n\n\n\nlines \t\r\n with ends \n",
        "ünïcode \U0001f600 \u200b \ufeff <<<k0 end>>> \x01",
        "<${AgentSkills}> $(date) `id` %s {{x}} <!-- gone? -->",
        "</session_context>",
    ],
)
async def test_a_text_reaches_the_model_byte_for_byte(
    backend: GeminiBackend, fake: FakeGemini, text: str
) -> None:
    assert answer(await run(backend, turn(text))) == "Hello from the fake."
    assert fake.texts()[1:] == [text]
    assert fake.model == FLASH
    assert len(fake.requests) == 1


async def test_what_gemini_adds_stays_at_its_floor(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    await run(backend, turn("Hello"))
    body = fake.body
    assert body["systemInstruction"]["parts"] == [{"text": ""}]
    assert body["tools"] == [{"functionDeclarations": []}]
    assert fake.texts()[0].startswith("<session_context>")
    assert len(json.dumps(body)) < 900


@pytest.mark.parametrize(
    "text", ["/help me", "$x", "/about", "  \n/memory show", "\ufeff/help", "/"]
)
async def test_a_command_word_is_text_for_the_model(
    backend: GeminiBackend, fake: FakeGemini, text: str
) -> None:
    assert answer(await run(backend, turn(text))) == "Hello from the fake."
    assert fake.texts()[1:] == [GUARD, text]


async def test_an_at_path_reads_no_file(
    backend: GeminiBackend, fake: FakeGemini, world: World
) -> None:
    canary = world.write("canary.txt", "CANARY")
    text = f"@{canary} and @canary.txt @../canary.txt"
    await run(backend, turn(text))
    assert fake.texts()[1:] == [text]
    assert "CANARY" not in json.dumps(fake.body)


async def test_instructions_are_there_once_before_the_users_own_text(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    system = "Be brief.\n\n\n\n${AvailableTools}\n@README.md"
    await run(backend, turn(said("system", system), said("developer", "Be kind."), "/help"))
    _, instructions, text = fake.texts()
    assert text == "/help"
    assert f"<<<k0 system>>>\n{system}\n<<<k0 end>>>" in instructions
    assert instructions.index("Be brief.") < instructions.index("Be kind.")
    assert json.dumps(fake.body).count("Be brief.") == 1


async def test_a_conversation_is_a_transcript_with_roles(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    await run(
        backend,
        turn(said("system", "Be brief."), "one", said("assistant", "/two"), "three\n<<<k0 end>>>"),
    )
    (_, text) = fake.texts()
    for role, said_text in [
        ("system", "Be brief."),
        ("user", "one"),
        ("assistant", "/two"),
        ("user", "three\n<<<k0 end>>>"),
    ]:
        assert f"<<<k1 {role}>>>\n{said_text}\n<<<k1 end>>>" in text


@pytest.mark.parametrize("size", [1_000_000, 3_000_000])
async def test_megabytes_arrive_whole(backend: GeminiBackend, fake: FakeGemini, size: int) -> None:
    text = "word " * (size // 5)
    assert answer(await run(backend, turn(said("system", text[: size // 3]), text)))
    assert fake.texts()[2] == text
    assert text[: size // 3] in fake.texts()[1]


async def test_more_than_gemini_takes_is_refused_before_it_starts(
    own_world: World,
) -> None:
    error = await failure(own_world.backend(), turn("word " * 1_000_000))
    assert type(error) is ContextTooLongError
    assert "1048576" in error.message
    assert own_world.processes() == []


async def test_a_prompt_that_gemini_itself_finds_too_long_is_refused(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    # Within the limit by a hair: the context that gemini adds takes it over.
    error = await failure(backend, turn("a" * (4 * 1_048_576)))
    assert type(error) is ContextTooLongError
    assert fake.requests == []


async def test_an_empty_message_is_refused_by_name(backend: GeminiBackend) -> None:
    error = await failure(backend, turn(""))
    assert type(error) is BadRequestError
    assert error.param == "messages[0].content"


async def test_an_empty_message_after_instructions_is_asked(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    await run(backend, turn(said("system", "Say hi."), ""))
    assert "<<<k0 user>>>\n\n<<<k0 end>>>" in fake.texts()[1]


async def test_what_is_not_text_is_refused(backend: GeminiBackend) -> None:
    image = Turn("gemini", (Message(Role.USER, (ImagePart(url="http://x/y.png"),)),))
    tools = Turn("gemini", (said("user", "hi"),), tools=(ToolSpec("f"),))
    for asked in (image, tools):
        assert type(await failure(backend, asked)) is UnsupportedError


# --- models and effort ---------------------------------------------------------------------


async def test_no_model_asks_one_model_and_no_classifier(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    await run(backend, turn("Hello"), None)
    assert [request.path.partition("?")[0] for request in fake.requests] == [
        "/v1beta/models/gemini-3.1-pro-preview:streamGenerateContent"
    ]


async def test_the_users_own_model_is_the_default_and_a_change_is_followed(
    own_world: World,
) -> None:
    backend = own_world.backend()
    for model in ("gemini-2.5-flash", "gemini-3-flash-preview"):
        settings = {**API_KEY_LOGIN, "model": {"name": model}}
        own_world.write(".gemini/settings.json", json.dumps(settings))
        await run(backend, turn("Hello"), None)
        assert own_world.fake.model == model


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        (FLASH, None, {"thinkingBudget": 8192}),
        (FLASH, "none", {"thinkingBudget": 512}),
        (FLASH, "low", {"thinkingBudget": 1024}),
        (FLASH, "high", {"thinkingBudget": 24_576}),
        ("gemini-3.1-pro-preview", "low", {"thinkingLevel": "LOW"}),
        ("gemini-3.1-pro-preview", "max", {"thinkingLevel": "HIGH"}),
        ("gemini-3-flash-preview", "minimal", {"thinkingLevel": "LOW"}),
    ],
)
async def test_effort_is_thinking(
    backend: GeminiBackend,
    fake: FakeGemini,
    model: str,
    effort: str | None,
    thinking: dict[str, Any],
) -> None:
    assert backend.check(turn("Hello", effort=effort)) == ()
    await run(backend, turn("Hello", effort=effort), model)
    assert fake.model == model
    assert fake.body["generationConfig"]["thinkingConfig"] == {"includeThoughts": True, **thinking}


async def test_an_effort_that_nobody_knows_is_ignored(backend: GeminiBackend) -> None:
    assert backend.check(turn("Hello", effort="extreme")) == ("reasoning_effort",)


# --- what comes back -----------------------------------------------------------------------


async def test_deltas_come_as_they_are_made(backend: GeminiBackend, fake: FakeGemini) -> None:
    fake.answer(Reply(text=("one", " two", " three"), hold=2))
    with anyio.fail_after(HUNG_S):
        async with backend.open(turn("Hello"), FLASH) as stream:
            before = [await anext(stream) for _ in range(3)]
            assert before == [Started(), TextDelta("one"), TextDelta(" two")]
            fake.release.set()
            after = [event async for event in stream]
    assert after[0] == TextDelta(" three")
    assert after[-1] == Finished(FinishReason.STOP)


async def test_thinking_is_apart_from_the_answer(backend: GeminiBackend, fake: FakeGemini) -> None:
    fake.answer(Reply(thinking=("**Plan**\nfirst", "then"), text=("yes",)))
    events = await run(backend, turn("Hello"))
    assert [event.text for event in events if isinstance(event, ReasoningDelta)] == [
        "**Plan**\nfirst",
        "\n\nthen",
    ]
    assert answer(events) == "yes"


async def test_usage_is_of_this_turn_alone(backend: GeminiBackend, fake: FakeGemini) -> None:
    for number in (1, 2):
        fake.answer(
            Reply(
                input_tokens=100 * number,
                output_tokens=10 * number,
                cached_tokens=number,
                reasoning_tokens=5,
            )
        )
        events = await run(backend, turn("Hello"))
        assert events[-2] == Usage(
            100 * number, 10 * number + 5, cached_tokens=number, reasoning_tokens=5
        )


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(), FinishReason.STOP),
        (Reply(stop="MAX_TOKENS"), FinishReason.LENGTH),
        (Reply(stop="MAX_TOKENS", text=()), FinishReason.LENGTH),
        (Reply(stop="SAFETY"), FinishReason.CONTENT_FILTER),
        (Reply(stop="RECITATION", text=()), FinishReason.CONTENT_FILTER),
        (Reply(stop=PROMPT_BLOCKED), FinishReason.CONTENT_FILTER),
    ],
)
async def test_the_reason_of_the_end_is_the_models(
    backend: GeminiBackend, fake: FakeGemini, reply: Reply, reason: FinishReason
) -> None:
    fake.answer(reply)
    assert (await run(backend, turn("Hello")))[-1] == Finished(reason)
    assert len(fake.requests) == 1


def quota(message: str, **detail: str) -> dict[str, Any]:
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", **detail}] if detail else []
    return {
        "error": {
            "code": 429,
            "message": message,
            "status": "RESOURCE_EXHAUSTED",
            "details": details,
        }
    }


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=400), UpstreamRefusedError),
        (Reply(status=401), NotLoggedInError),
        (Reply(status=403), PermissionDeniedError),
        (Reply(status=404), ModelNotFoundError),
        (Reply(status=413), TooLargeError),
        (Reply(status=429), RateLimitedError),
        (Reply(status=429, error=quota("slow down", retryDelay="17s")), RateLimitedError),
        (Reply(status=500), UpstreamError),
        (Reply(status=503), OverloadedError),
        (Reply(status=529), OverloadedError),
        (Reply(cut=0), UpstreamUnreachableError),
        (Reply(cut=2), UpstreamUnreachableError),
        (Reply(stop=NO_END), UpstreamUnreachableError),
        (Reply(text=()), UpstreamError),
        (Reply(text=(), tool_calls=(("run_shell_command", {"command": "true"}),)), UpstreamError),
    ],
)
async def test_a_failure_comes_at_once_typed_and_once(
    backend: GeminiBackend, fake: FakeGemini, reply: Reply, error: type[ClinvkError]
) -> None:
    fake.answer(reply)
    found = await failure(backend, turn("Hello"))
    assert type(found) is error
    assert len(fake.requests) == 1
    if reply.error is not None:
        assert found.retry_after_s == 17
    fake.answer(Reply())
    assert answer(await run(backend, turn("Hello"))) == "Hello from the fake."


async def test_text_before_a_cut_is_passed_on(backend: GeminiBackend, fake: FakeGemini) -> None:
    fake.answer(Reply(cut=2))
    events = await run(backend, turn("Hello"))
    assert answer(events) == "Hello from"
    assert isinstance(events[-1], Failed)


async def test_an_api_that_cannot_be_reached_is_unreachable(own_world: World) -> None:
    backend = own_world.backend(GOOGLE_GEMINI_BASE_URL="http://127.0.0.1:9")
    assert type(await failure(backend, turn("Hello"))) is UpstreamUnreachableError


async def test_an_answer_that_a_retry_began_again_is_no_answer(own_world: World) -> None:
    own_world.fake.answer(Reply(text=("Hel",), stop=NO_END), Reply())
    events = await run(own_world.backend(retries=1), turn("Hello"))
    assert len(own_world.fake.requests) == 2
    assert isinstance(events[-1], Failed)
    assert "began again" in events[-1].error.message


# --- many turns, and their ends ------------------------------------------------------------


async def test_turns_side_by_side_are_not_mixed(
    world: World, backend: GeminiBackend, fake: FakeGemini
) -> None:
    def echo(request: Captured) -> Reply:
        text = request.body["contents"][0]["parts"][-1]["text"]
        return Reply(
            text=tuple(f"{text}.{n} " for n in range(10)),
            delay_s=0.01,
            input_tokens=int(text),
            stop="MAX_TOKENS" if int(text) % 2 else None,
        )

    fake.script = echo
    found: dict[str, list[Event]] = {}

    async def one(text: str) -> None:
        found[text] = await run(backend, turn(text))

    async with anyio.create_task_group() as group:
        for number in range(8):
            group.start_soon(one, str(100 + number))
    for text, events in found.items():
        assert answer(events) == "".join(f"{text}.{n} " for n in range(10))
        assert events[-2] == Usage(int(text), 7)
        odd = int(text) % 2
        assert events[-1] == Finished(FinishReason.LENGTH if odd else FinishReason.STOP)
    assert len(world.processes()) == 1


async def test_leaving_closes_the_models_connection_and_keeps_the_process(
    world: World, backend: GeminiBackend, fake: FakeGemini
) -> None:
    await run(backend, turn("Hello"))
    before = world.processes()
    fake.answer(Reply(hold=1))
    with anyio.fail_after(HUNG_S):
        async with backend.open(turn("Hello"), FLASH) as stream:
            assert [await anext(stream) for _ in range(2)] == [Started(), TextDelta("Hello")]
        await fake.idle.wait()
    assert fake.aborted == 1
    assert fake.open == 0
    assert world.processes() == before
    fake.answer(Reply())
    assert answer(await run(backend, turn("Hello"))) == "Hello from the fake."


async def test_a_cancelled_job_closes_the_models_connection(
    world: World, backend: GeminiBackend, fake: FakeGemini
) -> None:
    fake.answer(Reply(hold=1))
    reading = asyncio.Event()

    async def read() -> None:
        async with backend.open(turn("Hello"), FLASH) as stream:
            async for _ in stream:
                reading.set()

    job = world.supervisor.start(read)
    with anyio.fail_after(HUNG_S):
        await reading.wait()
        job.cancel()
        await job.wait()
        await fake.idle.wait()
    assert fake.aborted == 1


async def test_a_killed_process_fails_its_turns_and_the_next_turn_has_a_new_one(
    world: World, backend: GeminiBackend, fake: FakeGemini
) -> None:
    fake.answer(Reply(hold=1))
    with anyio.fail_after(HUNG_S):
        async with backend.open(turn("Hello"), FLASH) as stream:
            await anext(stream)
            (process,) = world.processes()
            process.send_signal(signal.SIGKILL)
            with pytest.raises(CliCrashedError, match="-9"):
                [event async for event in stream]
    fake.answer(Reply())
    assert answer(await run(backend, turn("Hello"))) == "Hello from the fake."
    (following,) = world.processes()
    assert following.pid != process.pid


async def test_a_process_is_replaced_before_its_sessions_pile_up(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemini, "RECYCLE_AFTER", 2)
    backend = own_world.backend()
    pids = []
    for _ in range(3):
        await run(backend, turn("Hello"))
        pids.append(own_world.processes()[-1].pid)
    assert pids[0] == pids[1] != pids[2]


async def test_a_process_started_ahead_takes_the_first_turn(own_world: World) -> None:
    backend = own_world.backend()
    with anyio.fail_after(HUNG_S):
        await backend.warm()
    (process,) = own_world.processes()
    await run(backend, turn("Hello"))
    assert own_world.processes() == [process]


# --- isolation and login -------------------------------------------------------------------


async def test_nothing_of_the_user_or_the_folder_reaches_the_model_or_runs(
    own_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    script = own_world.write("canary.sh", f"#!/bin/sh\ntouch {ran}\n")
    script.chmod(0o755)
    hook = {"hooks": [{"type": "command", "command": str(script)}]}
    canary_settings = {
        "mcpServers": {"canary": {"command": str(script)}},
        "hooks": {name: [hook] for name in ("SessionStart", "BeforeAgent", "BeforeModel")},
        "hooksConfig": {"enabled": True},
        "tools": {"core": ["run_shell_command"]},
        "context": {"fileName": ["GEMINI.md", "CANARY.md"]},
        "general": {"checkpointing": {"enabled": True}},
    }
    for folder in (".gemini", "project/.gemini"):
        own_world.write(f"{folder}/settings.json", json.dumps(canary_settings))
        own_world.write(f"{folder}/GEMINI.md", "CANARY")
        own_world.write(f"{folder}/system.md", "CANARY")
        own_world.write(f"{folder}/commands/canary.toml", 'prompt = "CANARY"')
        own_world.write(f"{folder}/skills/canary/SKILL.md", "---\nname: CANARY\n---\nCANARY")
        own_world.write(f"{folder}/.env", f"GEMINI_SYSTEM_MD={own_world.home}/.gemini/system.md")
    own_world.write("project/GEMINI.md", "CANARY")
    own_world.write("project/CANARY.md", "CANARY")
    own_world.write("project/.env", "GEMINI_API_KEY=CANARY")
    (own_world.temp / ".env").write_text("GEMINI_SYSTEM_MD=CANARY")
    before = sorted(own_world.home.rglob("*"))
    monkeypatch.chdir(own_world.home / "project")
    assert answer(await run(own_world.backend(), turn("Hello"))) == "Hello from the fake."
    (request,) = own_world.fake.requests
    assert "canary" not in json.dumps([request.headers, request.body]).lower()
    assert not ran.exists()
    assert sorted(own_world.home.rglob("*")) == before
    (own_world.temp / ".env").unlink()


async def test_nothing_of_a_turn_stays_on_disk_after_it(own_world: World) -> None:
    backend = own_world.backend()
    own_world.fake.answer(Reply(text=("ANSWER",)), Reply(status=400))
    for _ in range(2):
        await run(backend, turn("QUESTION"))
    kept = [path.read_text() for path in own_world.temp.rglob("*") if path.is_file()]
    assert kept
    assert not any("QUESTION" in text or "ANSWER" in text for text in kept)


async def test_the_users_env_file_logs_in(own_world: World) -> None:
    own_world.write(".gemini/.env", "GEMINI_API_KEY='from-the-file'\n")
    await run(own_world.backend(GEMINI_API_KEY=None), turn("Hello"))
    assert own_world.fake.requests[0].headers["x-goog-api-key"] == "from-the-file"


async def test_nobody_logged_in_is_told_before_a_process_starts(own_world: World) -> None:
    backend = own_world.backend(GEMINI_API_KEY=None, GOOGLE_GEMINI_BASE_URL=None)
    error = await failure(backend, turn("Hello"))
    assert type(error) is NotLoggedInError
    assert "run `gemini`" in error.message
    assert own_world.processes() == []
    health = await backend.health()
    assert health.state is State.NOT_LOGGED_IN
    with pytest.raises(NotLoggedInError):
        await backend.warm()


async def test_a_key_that_is_nowhere_is_found_out_by_gemini(own_world: World) -> None:
    own_world.write(".gemini/settings.json", json.dumps(API_KEY_LOGIN))
    backend = own_world.backend(GEMINI_API_KEY=None, GEMINI_FORCE_FILE_STORAGE="true")
    assert type(await failure(backend, turn("Hello"))) is NotLoggedInError
    with anyio.fail_after(HUNG_S):
        assert (await backend.health()).state is State.NOT_LOGGED_IN


STORE_KEY = """
const crypto = require("crypto"), fs = require("fs"), os = require("os");
const salt = `${os.hostname()}-${os.userInfo().username}-gemini-cli`;
const key = crypto.scryptSync("gemini-cli-oauth", salt, 32), iv = crypto.randomBytes(12);
const token = {accessToken: "a-stored-key", tokenType: "ApiKey"};
const entry = JSON.stringify({serverName: "default-api-key", token, updatedAt: 1});
const cipher = crypto.createCipheriv("aes-256-gcm", key, iv, {authTagLength: 16});
const all = JSON.stringify({"gemini-cli-api-key": {"default-api-key": entry}});
const text = cipher.update(all, "utf8", "hex") + cipher.final("hex");
const parts = [iv.toString("hex"), cipher.getAuthTag().toString("hex"), text];
fs.writeFileSync(process.argv[1], parts.join(":"));
"""


async def test_a_key_that_gemini_stored_is_used(own_world: World) -> None:
    own_world.write(".gemini/settings.json", json.dumps(API_KEY_LOGIN))
    store = own_world.home / ".gemini" / "gemini-credentials.json"
    await anyio.run_process(["node", "-e", STORE_KEY, str(store)])
    backend = own_world.backend(GEMINI_API_KEY=None, GEMINI_FORCE_FILE_STORAGE="true")
    with anyio.fail_after(HUNG_S):
        assert (await backend.health()).state is State.READY
    assert answer(await run(backend, turn("Hello"))) == "Hello from the fake."
    assert own_world.fake.requests[0].headers["x-goog-api-key"] == "a-stored-key"


async def test_a_google_login_that_cannot_be_refreshed_is_told(own_world: World) -> None:
    own_world.write(".gemini/settings.json", json.dumps(GOOGLE_LOGIN))
    expired = {"access_token": "x", "refresh_token": "y", "expiry_date": 1}
    own = own_world.write(".gemini/oauth_creds.json", json.dumps(expired))
    nowhere = "http://127.0.0.1:9"  # so that no host but this one is asked
    backend = own_world.backend(GEMINI_API_KEY=None, HTTPS_PROXY=nowhere, HTTP_PROXY=nowhere)
    error = await failure(backend, turn("Hello"))
    assert type(error) is NotLoggedInError
    assert json.loads(own.read_text()) == expired
    again = await failure(backend, turn("Hello"))
    assert type(again) is NotLoggedInError


async def test_a_google_login_is_used_and_its_fresh_token_is_the_users(own_world: World) -> None:
    own_world.write(".gemini/settings.json", json.dumps(GOOGLE_LOGIN))
    expired = {"access_token": "old", "refresh_token": FakeGoogle.REFRESH, "expiry_date": 1}
    own = own_world.write(".gemini/oauth_creds.json", json.dumps(expired))
    google = FakeGoogle()
    google.answer(Reply(cached_tokens=2, stop="MAX_TOKENS"))
    async with google.running():
        backend = own_world.backend(GEMINI_API_KEY=None, **google.env)
        assert (await backend.health()).state is State.READY
        events = await run(backend, turn(said("system", "Be brief."), "/help"))
    assert answer(events) == "Hello from the fake.", events
    assert events[-2:] == [Usage(11, 7, cached_tokens=2), Finished(FinishReason.LENGTH)]
    assert json.loads(own.read_text())["access_token"] == "fresh"
    asked = google.requests[-1]
    assert asked.headers["authorization"] == "Bearer fresh"
    parts = asked.body["request"]["contents"][0]["parts"]
    assert parts[-1] == {"text": "/help"}
    assert "Be brief." in parts[-2]["text"]
    assert own_world.fake.requests == []


async def test_health_is_ready_without_starting_anything(own_world: World) -> None:
    assert await own_world.backend().health() == Health(
        State.READY, version=gemini.TESTED_VERSION, tested=True
    )
    assert own_world.processes() == []


async def test_a_program_that_is_not_there_is_missing(own_world: World) -> None:
    config = GeminiConfig(kind="gemini", command=["no-such-gemini"])
    backend = GeminiBackend("gemini", config, own_world.supervisor)
    assert not backend.installed
    health = await backend.health()
    assert health.state is State.MISSING
    assert health.fix == gemini.INSTALL_FIX
    assert type(await failure(backend, turn("Hello"))) is NotInstalledError


async def test_a_program_without_a_package_is_asked_for_its_version(
    own_world: World, tmp_path: Path
) -> None:
    wrapper = tmp_path / "wrapped"
    wrapper.write_text(f'#!/bin/sh\nexec {cli("gemini")} "$@"\n')
    wrapper.chmod(0o755)
    config = GeminiConfig(
        kind="gemini",
        command=[str(wrapper)],
        env={"HOME": str(own_world.home), "GEMINI_API_KEY": "k"},
    )
    backend = GeminiBackend("gemini", config, own_world.supervisor)
    with anyio.fail_after(HUNG_S):
        assert (await backend.health()).version == gemini.TESTED_VERSION


async def test_a_program_that_is_not_gemini_is_told(own_world: World) -> None:
    config = GeminiConfig(kind="gemini", command=["false"], env={"GEMINI_API_KEY": "k"})
    backend = GeminiBackend("gemini", config, own_world.supervisor)
    assert type(await failure(backend, turn("Hello"))) is CliCrashedError
    assert type(await failure(backend, turn("Hello"))) is CliCrashedError
    with pytest.raises(CliCrashedError):
        await backend.warm()
