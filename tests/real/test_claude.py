"""The real Claude Code against a fake of its API: what reaches the model, and what comes back."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from clinvk.backends.base import Health, State
from clinvk.backends.claude import INSTALL_FIX, TESTED_VERSION
from clinvk.backends.claude_input import MAX_TEXT_BYTES
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
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Usage,
)
from clinvk.turn import AudioPart, Message, PriorCall, Role, ToolSpec
from tests.fakes.anthropic import NO_END
from tests.fakes.api import Captured, Reply
from tests.real.claude_world import HUNG_S, World, answer, failure, make_world, run, said, turn

pytestmark = pytest.mark.real

HELLO = tuple(map(TextDelta, ("Hello", " from", " the", " fake", ".")))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with make_world(tmp_path) as made:
        yield made


async def test_an_answer_comes_whole(world: World) -> None:
    world.fake.answer(Reply(thinking=("Let me", " see."), cached_tokens=5))
    assert await run(world.backend(), turn("hi")) == [
        Started("claude-opus-4-8"),
        ReasoningDelta("Let me"),
        ReasoningDelta(" see."),
        *HELLO,
        Usage(input_tokens=16, output_tokens=7, cached_tokens=5, reasoning_tokens=4),
        Finished(FinishReason.STOP),
    ]
    assert world.asked() == [("user", ["hi"])]
    assert world.system() == []
    assert world.fake.body["tools"] == []
    assert len(world.fake.turns) == 1


async def test_what_the_cli_adds_stays_at_its_floor(world: World) -> None:
    await run(world.backend(), turn(said("system", "S"), "hi"))
    assert int(world.fake.turns[0].headers["content-length"]) < 1200


async def test_deltas_come_one_by_one(world: World) -> None:
    world.fake.answer(Reply(text=("a", "b"), hold=1))
    with anyio.fail_after(HUNG_S):
        async with world.backend().open(turn("hi"), None) as events:
            assert await anext(events) == Started("claude-opus-4-8")
            assert await anext(events) == TextDelta("a")
            assert world.fake.open == 1
            world.fake.release.set()
            assert await anext(events) == TextDelta("b")
            assert [type(event) async for event in events] == [Usage, Finished]


TEXTS = (
    "/foo bar",
    "/clear",
    "/model opus",
    "@canary.txt and @{canary} what is it",
    "  leading and trailing \n\n",
    "!ls",
    "# remember this",
    "ultrathink",
    "<system-reminder>x</system-reminder> [Request interrupted by user]",
    'é😀\u2028\ufeff\u0000\x1b[31m \r\n \\ "',
)


async def test_texts_reach_the_model_byte_for_byte(world: World) -> None:
    canary = world.write("canary.txt", "CANARY")
    texts = [text.replace("{canary}", str(canary)) for text in TEXTS]
    conversation = [said(role, text) for text in texts for role in ("user", "assistant")]
    backend = world.backend()
    for last in (texts[0], texts[3]):
        await run(backend, turn(said("system", texts[0]), *conversation, last))
        assert world.asked() == [
            *((message.role.value, [message.text]) for message in conversation),
            ("user", [last]),
        ]
        assert world.system() == [texts[0]]
        assert "CANARY" not in str(world.fake.body)


async def test_roles_reach_the_model(world: World) -> None:
    call = PriorCall("call_1", "get_weather", '{"city": "Paris"}')
    await run(
        world.backend(),
        turn(
            said("assistant", "Welcome."),
            said("system", "First."),
            said("user", "one", "two"),
            "three",
            said("assistant", "four"),
            said("assistant", "five", calls=(call,)),
            said("tool", "sun", call_id="call_1"),
            said("developer", "Second."),
            "six",
        ),
    )
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "sun"}
    use = {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Paris"}}
    assert world.asked() == [
        ("user", []),
        ("assistant", ["Welcome."]),
        ("user", ["one", "two", "three"]),
        ("assistant", ["four"]),
        ("assistant", ["five", use]),
        ("user", [result, "six"]),
    ]
    assert world.system() == ["First.\n\nSecond."]
    assert len(world.fake.turns) == 1


async def test_a_conversation_may_end_with_the_assistant(world: World) -> None:
    await run(world.backend(), turn("a", said("assistant", "b")))
    assert world.asked() == [("user", ["a"]), ("assistant", ["b"]), ("user", ["(no content)"])]


async def test_instructions_alone_are_answered(world: World) -> None:
    assert answer(await run(world.backend(), turn(said("system", "haiku"), ""))) == (
        "Hello from the fake."
    )
    assert world.asked() == [("user", [])]
    assert world.system() == ["haiku"]


async def test_long_texts_are_carried(world: World) -> None:
    system, text = "s" * 1_500_000, "word " * 600_000
    asked = turn(said("system", system), text, said("assistant", text[:9]), text)
    assert answer(await run(world.backend(), asked, "sonnet")) == "Hello from the fake."
    assert world.system() == [system]
    assert world.asked()[-1] == ("user", [text])


@pytest.mark.parametrize(
    ("effort", "sent"),
    [
        ("none", ("disabled", "high")),
        ("minimal", ("adaptive", "low")),
        ("medium", ("adaptive", "medium")),
        ("max", ("adaptive", "max")),
    ],
)
async def test_effort_reaches_the_model(world: World, effort: str, sent: tuple[str, str]) -> None:
    await run(world.backend(), turn("hi", effort=effort), "sonnet")
    body = world.fake.body
    assert (body["thinking"]["type"], body["output_config"]["effort"]) == sent
    assert body["model"] == "claude-sonnet-5"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(text=("a", "b"), stop="max_tokens"), FinishReason.LENGTH),
        (Reply(text=("a", "b"), stop="model_context_window_exceeded"), FinishReason.LENGTH),
        (Reply(text=("a", "b"), stop="refusal"), FinishReason.CONTENT_FILTER),
        (Reply(text=("a", "b"), tool_calls=(("Bash", {"command": "ls"}),)), FinishReason.STOP),
    ],
)
async def test_the_answer_ends_where_the_model_ends(
    world: World, reply: Reply, reason: FinishReason
) -> None:
    world.fake.answer(reply, Reply(text=("more",)))
    events = await run(world.backend(), turn("hi"))
    assert answer(events) == "ab"
    assert events[-2:] == [Usage(11, 7), Finished(reason)]


async def test_an_empty_answer_is_not_asked_for_again(world: World) -> None:
    world.fake.answer(Reply(text=()), Reply(text=("more",)))
    events = await run(world.backend(), turn("hi"))
    assert [type(event) for event in events] == [Started, Usage, Finished]


def vendor(kind: str, message: str) -> dict[str, object]:
    return {"type": "error", "error": {"type": kind, "message": message}}


LIMITED = Reply(status=429, headers={"retry-after": "7"})
TOO_LONG = vendor("invalid_request_error", "prompt is too long: 1200000 tokens > 1000000 maximum")


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (Reply(status=400), UpstreamRefusedError, "fake error 400"),
        (Reply(status=400, error=TOO_LONG), ContextTooLongError, "context window"),
        (Reply(status=401), NotLoggedInError, "claude auth login"),
        (Reply(status=403), PermissionDeniedError, "fake error 403"),
        (Reply(status=404), ModelNotFoundError, "model"),
        (Reply(status=413), TooLargeError, "32MB"),
        (LIMITED, RateLimitedError, "429"),
        (Reply(status=500), UpstreamError, "500"),
        (Reply(status=529), OverloadedError, "529"),
        (Reply(cut=2), UpstreamUnreachableError, "lost"),
        (Reply(stop=NO_END), UpstreamUnreachableError, "ended"),
        (Reply(error=vendor("overloaded_error", "Overloaded")), OverloadedError, "overloaded"),
    ],
)
async def test_failures_of_the_model_api_are_typed(
    world: World, reply: Reply, error: type[ClinvkError], words: str
) -> None:
    world.fake.answer(reply)
    failed = await failure(world.backend(), turn("hi"))
    assert type(failed) is error
    assert words in failed.message
    assert failed.retry_after_s == (7 if reply is LIMITED else None)
    assert len(world.fake.turns) <= 2  # a login has a second try, an unknown model one unstreamed


async def test_retries_are_the_configurations(world: World) -> None:
    world.fake.answer(Reply(status=500), Reply())
    assert answer(await run(world.backend(retries=1), turn("hi"))) == "Hello from the fake."
    assert len(world.fake.turns) == 2


async def test_a_model_api_that_is_not_there_is_unreachable(world: World) -> None:
    backend = world.backend(ANTHROPIC_BASE_URL="http://127.0.0.1:9")
    assert type(await failure(backend, turn("hi"))) is UpstreamUnreachableError


async def test_without_a_login_the_command_is_told(world: World) -> None:
    failed = await failure(world.backend(ANTHROPIC_API_KEY=None), turn("hi"))
    assert type(failed) is NotLoggedInError
    assert "claude auth login" in failed.message


async def test_leaving_stops_the_turn(world: World) -> None:
    world.fake.answer(Reply(text=("a", "b"), hold=1))
    async with world.backend().open(turn("hi"), None) as events:
        assert [await anext(events) for _ in range(2)][1] == TextDelta("a")
    with anyio.fail_after(1):
        await world.fake.idle.wait()
        await world.all_gone()
    assert world.fake.aborted == 1


@pytest.mark.parametrize("begun", ["starting", "answering"])
async def test_cancelling_stops_the_turn(world: World, begun: str) -> None:
    world.fake.answer(Reply(hold=1))
    spoken = anyio.Event()

    async def work() -> None:
        async with world.backend().open(turn("hi"), None) as events:
            async for event in events:
                if isinstance(event, TextDelta):
                    spoken.set()

    job = world.supervisor.start(work)
    with anyio.fail_after(HUNG_S):
        await (world.fake.greeted if begun == "starting" else spoken).wait()
        job.cancel()
        await job.wait()
    with anyio.fail_after(1):
        await world.all_gone()
        if begun == "answering":
            await world.fake.idle.wait()
    assert not world.fake.open


async def test_turns_at_once_are_not_mixed(world: World) -> None:
    def script(request: Captured) -> Reply:
        word = request.body["messages"][-1]["content"][-1]["text"]
        return Reply(text=tuple(f"{word}{number} " for number in range(20)))

    world.fake.script = script
    backend = world.backend()
    answers: dict[str, str] = {}

    async def ask(word: str) -> None:
        answers[word] = answer(await run(backend, turn(word)))

    async with anyio.create_task_group() as group:
        for word in "abcdefgh":
            group.start_soon(ask, word)
    assert answers == {
        word: "".join(f"{word}{number} " for number in range(20)) for word in "abcdefgh"
    }


async def test_a_killed_cli_is_an_error_and_the_next_turn_works(world: World) -> None:
    world.fake.answer(Reply(hold=1), Reply())
    backend = world.backend()

    def kill() -> None:
        (child,) = world.processes()
        os.kill(child.pid, signal.SIGKILL)

    failed = await failure(backend, turn("hi"), on_text=kill)
    assert type(failed) is CliCrashedError
    assert "-9" in failed.message
    assert answer(await run(backend, turn("again"))) == "Hello from the fake."


async def test_a_program_that_is_no_claude_is_an_error(world: World) -> None:
    failed = await failure(world.backend(command=sys.executable), turn("hi"))
    assert type(failed) is CliCrashedError
    assert "unknown option" in failed.message.lower()
    health = await world.backend(command="/bin/false").health()
    assert health.state is State.FAILING


async def test_what_cannot_be_sent_is_refused_before_a_start(world: World) -> None:
    backend = world.backend()
    sound = Message(Role.USER, (AudioPart("wav", "UklGRg=="),))
    assert type(await failure(backend, turn(sound))) is UnsupportedError
    assert type(await failure(backend, turn("hi", tools=(ToolSpec("a b"),)))) is BadRequestError
    assert type(await failure(backend, turn("x" * (MAX_TEXT_BYTES + 1)))) is ContextTooLongError
    missing = await failure(world.backend(command="no-such-claude"), turn("hi"))
    assert type(missing) is NotInstalledError
    assert INSTALL_FIX in missing.message
    assert not world.fake.requests
    assert backend.check(turn("hi", effort="huge")) == ("reasoning_effort",)


async def test_health_is_the_logins(world: World) -> None:
    ready = Health(State.READY, TESTED_VERSION, tested=True)
    assert await world.backend().health() == ready
    out = await world.backend(ANTHROPIC_API_KEY=None).health()
    assert (out.state, out.fix) == (State.NOT_LOGGED_IN, "claude auth login")
    assert out.version == TESTED_VERSION
    gone = await world.backend(command="no-such-claude").health()
    assert (gone.state, gone.fix) == (State.MISSING, INSTALL_FIX)
    assert world.backend().installed
    assert not world.backend(command="no-such-claude").installed
    assert not world.fake.turns


async def test_closing_stops_running_turns(world: World) -> None:
    world.fake.answer(Reply(hold=1))
    backend = world.backend()

    def close() -> None:
        assert "1 running" in repr(backend)
        backend.close()

    assert type(await failure(backend, turn("hi"), on_text=close)) is CliCrashedError
