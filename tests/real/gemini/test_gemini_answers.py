"""What comes back through the real Gemini CLI, from one turn and from many at once."""

import asyncio
import signal
from typing import Any

import anyio
import pytest

from clinvk.backends import gemini
from clinvk.backends.gemini import GeminiBackend
from clinvk.backends.gemini_home import MAX_ROUNDS
from clinvk.errors import (
    CliCrashedError,
    ClinvkError,
    ModelNotFoundError,
    NotLoggedInError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitedError,
    TooLargeError,
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
)
from tests.fakes.api import Captured, Reply
from tests.fakes.gemini import NO_END, PROMPT_BLOCKED, FakeGemini
from tests.real.conftest import cli
from tests.real.gemini_world import (
    FLASH,
    HUNG_S,
    World,
    answer,
    failure,
    run,
    turn,
)

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]


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


async def test_a_model_that_keeps_calling_what_it_was_not_given_is_left(
    backend: GeminiBackend, fake: FakeGemini
) -> None:
    fake.answer(Reply(text=(), tool_calls=(("run_shell_command", {"command": "true"}),)))
    found = await failure(backend, turn("Hello"))
    assert type(found) is UpstreamError
    assert "tools that it was not given" in found.message
    assert len(fake.requests) == MAX_ROUNDS


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
    own_world: World,
) -> None:
    backend, fake = own_world.backend(), own_world.fake

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
    assert len(own_world.processes()) == 1


async def test_leaving_closes_the_models_connection_and_keeps_the_process(
    own_world: World,
) -> None:
    backend, fake = own_world.backend(), own_world.fake
    await run(backend, turn("Hello"))
    before = own_world.processes()
    fake.answer(Reply(hold=1))
    with anyio.fail_after(HUNG_S):
        async with backend.open(turn("Hello"), FLASH) as stream:
            assert [await anext(stream) for _ in range(2)] == [Started(), TextDelta("Hello")]
        await fake.idle.wait()
    assert fake.aborted == 1
    assert fake.open == 0
    assert own_world.processes() == before
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
    own_world: World,
) -> None:
    backend, fake = own_world.backend(), own_world.fake
    fake.answer(Reply(hold=1))
    with anyio.fail_after(HUNG_S):
        async with backend.open(turn("Hello"), FLASH) as stream:
            await anext(stream)
            (process,) = own_world.processes()
            process.send_signal(signal.SIGKILL)
            with pytest.raises(CliCrashedError, match="-9"):
                [event async for event in stream]
    fake.answer(Reply())
    assert answer(await run(backend, turn("Hello"))) == "Hello from the fake."
    (following,) = own_world.processes()
    assert following.pid != process.pid


async def test_a_process_is_replaced_before_its_sessions_pile_up(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemini, "RECYCLE_AFTER", 2)
    backend = own_world.backend()
    await run(backend, turn("Hello"))
    [first] = own_world.processes()
    with anyio.fail_after(HUNG_S):
        while first.is_running():  # until its successor is ready
            assert answer(await run(backend, turn("Hello"))) == "Hello from the fake."


async def test_a_process_started_ahead_takes_the_first_turn(own_world: World) -> None:
    backend = own_world.backend()
    with anyio.fail_after(HUNG_S):
        await backend.warm()
    (process,) = own_world.processes()
    await run(backend, turn("Hello"))
    assert own_world.processes() == [process]


async def test_a_gemini_without_the_recording_flag_answers_all_the_same(own_world: World) -> None:
    other = own_world.home / "other-gemini"
    other.write_text(
        "#!/bin/sh\n"
        'case " $* " in *" --record-responses "*)\n'
        '  echo "Unknown arguments: record-responses, recordResponses" >&2; exit 1;;\n'
        "esac\n"
        f'exec "{cli("gemini")}" "$@"\n'
    )
    other.chmod(0o700)
    own_world.fake.answer(Reply(thinking=("Hm.",), cached_tokens=3))
    backend = own_world.backend(command=str(other))
    first, second = await run(backend, turn("Hello")), await run(backend, turn("Hello"))
    assert answer(first) == answer(second) == "Hello from the fake."
    assert first[-2:] == second[-2:] == [Usage(11, 7), Finished(FinishReason.STOP)]
