"""The real Codex CLI against a fake of its API: what reaches the model, and what comes back."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from clinvk.errors import (
    ContextTooLongError,
)
from clinvk.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Usage,
)
from clinvk.turn import Message, PriorCall, Role, TextPart
from tests.fakes.api import Captured, Reply
from tests.real.codex_world import HUNG_S, World, codex_world, collect, said, servers, text, turn

pytestmark = pytest.mark.real


@pytest.fixture
async def world(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with codex_world(home, tmp_path, monkeypatch) as opened:
        yield opened


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
