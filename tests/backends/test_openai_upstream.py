"""The backend of an OpenAI-compatible server, against a fake of one that fails by script."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import anyio
import pytest

from clinvk.backends import openai_http, openai_upstream
from clinvk.backends.base import State
from clinvk.backends.openai_errors import retry_after
from clinvk.backends.openai_upstream import OpenAIBackend
from clinvk.config import OpenAIConfig
from clinvk.errors import (
    ClinvkError,
    CliProtocolError,
    ContextTooLongError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitedError,
    TooLargeError,
    UpstreamError,
    UpstreamRefusedError,
    UpstreamUnauthorizedError,
    UpstreamUnreachableError,
)
from clinvk.events import Event, Finished, FinishReason, TextDelta, Usage, check_grammar
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import Message, Role, TextPart, Turn
from tests.fakes.api import Reply
from tests.fakes.chat import NO_END, FakeChat

TURN = Turn("any", (Message(Role.USER, (TextPart("hi"),)),))
HUNG_S = 30


@pytest.fixture
async def fake() -> AsyncIterator[FakeChat]:
    async with FakeChat().running() as fake:
        assert isinstance(fake, FakeChat)
        yield fake


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    async with Supervisor() as supervisor:
        yield supervisor


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_http, "RETRY_S", 0)


def config(fake: FakeChat, **fields: Any) -> OpenAIConfig:
    return OpenAIConfig(kind="openai", base_url=f"{fake.url}/v1/", **fields)


@pytest.fixture
def backend(fake: FakeChat, supervisor: Supervisor) -> OpenAIBackend:
    return OpenAIBackend("up", config(fake, api_key="sk-up", headers={"X-Team": "t"}), supervisor)


async def told(backend: OpenAIBackend, turn: Turn = TURN, model: str | None = "m") -> list[Event]:
    with anyio.fail_after(HUNG_S):
        async with backend.open(turn, model) as events:
            found = [event async for event in events]
    check_grammar(found)
    return found


async def test_a_turn_is_asked_for_with_the_key_and_told(
    fake: FakeChat, backend: OpenAIBackend
) -> None:
    found = await told(backend)
    assert "".join(e.text for e in found if isinstance(e, TextDelta)) == "Hello from the fake."
    assert found[-2:] == [Usage(11, 7), Finished(FinishReason.STOP)]
    (asked,) = fake.requests
    assert asked.body["model"] == "m"
    assert asked.headers["authorization"] == "Bearer sk-up"
    assert asked.headers["x-team"] == "t"
    assert backend.check(TURN) == ()


async def test_connections_are_kept(fake: FakeChat, backend: OpenAIBackend) -> None:
    ports = set()
    fake.script = lambda _: Reply()
    for _ in range(3):
        await told(backend)
        ports.add(fake.peer)
    assert len(ports) == 1


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"message": "no", "param": "tools"}, UpstreamRefusedError),
        (400, {"message": "no", "code": "context_length_exceeded"}, ContextTooLongError),
        (401, {"message": "no"}, UpstreamUnauthorizedError),
        (403, {"message": "no"}, PermissionDeniedError),
        (404, {"message": "no"}, ModelNotFoundError),
        (413, {"message": "no"}, TooLargeError),
        (418, "no", UpstreamRefusedError),
        (429, {"message": "no", "code": "insufficient_quota"}, QuotaExceededError),
        (429, {"message": "no"}, RateLimitedError),
        (500, {"message": "no"}, UpstreamError),
        (503, {"message": "no"}, OverloadedError),
    ],
)
async def test_a_refusal_is_typed(
    status: int, error: Any, kind: type[ClinvkError], fake: FakeChat, backend: OpenAIBackend
) -> None:
    fake.answer(Reply(status=status, error=error, headers={"Retry-After": "7"}))
    with pytest.raises(kind) as caught:
        await told(backend)
    assert type(caught.value) is kind
    assert caught.value.message.endswith(": no")
    assert caught.value.retry_after_s == 7


async def test_a_refusal_names_its_field_and_holds_no_key(
    fake: FakeChat, backend: OpenAIBackend
) -> None:
    error = {"message": "bad key sk-abcdefgh", "param": "tools", "code": None}
    fake.answer(Reply(status=400, error=error))
    with pytest.raises(UpstreamRefusedError) as caught:
        await told(backend)
    assert caught.value.param == "tools"
    assert "sk-abcdefgh" not in caught.value.message


async def test_what_has_not_begun_is_tried_again(fake: FakeChat, backend: OpenAIBackend) -> None:
    fake.answer(Reply(status=503, error={}), Reply(status=502, error={}), Reply())
    assert (await told(backend))[-1] == Finished(FinishReason.STOP)
    assert len(fake.requests) == 3


async def test_what_has_begun_is_not(fake: FakeChat, backend: OpenAIBackend) -> None:
    fake.answer(Reply(cut=2))
    with pytest.raises(UpstreamUnreachableError, match="'up'"):
        await told(backend)
    assert len(fake.requests) == 1


async def test_a_stream_without_its_end_is_no_answer(
    fake: FakeChat, backend: OpenAIBackend
) -> None:
    fake.answer(Reply(stop=NO_END))
    with pytest.raises(UpstreamUnreachableError, match="half way"):
        await told(backend)


async def test_an_error_within_the_stream_is_raised(fake: FakeChat, backend: OpenAIBackend) -> None:
    fake.answer(Reply(error={"message": "out of memory", "code": 500}))
    with pytest.raises(UpstreamError, match="out of memory"):
        await told(backend)


async def test_leaving_ends_the_request(fake: FakeChat, backend: OpenAIBackend) -> None:
    fake.answer(Reply(hold=1))
    with anyio.fail_after(HUNG_S):
        async with backend.open(TURN, "m") as events:
            while not isinstance(await anext(events), TextDelta):
                pass
        while fake.open:
            await anyio.lowlevel.checkpoint()
    assert fake.aborted == 1


async def test_nobody_there_is_told_without_the_address(supervisor: Supervisor) -> None:
    config = OpenAIConfig(kind="openai", base_url="http://127.0.0.1:1/v1")
    backend = OpenAIBackend("up", config, supervisor)
    with pytest.raises(UpstreamUnreachableError, match=r"'up'.*refused") as caught:
        await told(backend)
    assert "127.0.0.1" not in caught.value.message
    health = await backend.health()
    assert (health.state, health.fix is not None) == (State.FAILING, True)
    await backend.refresh()
    assert backend.models == ()
    backend.close()


async def test_a_line_without_end_is_refused(
    backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_upstream, "LINE_BYTES", 10)
    with pytest.raises(CliProtocolError, match="longer than 10"):
        await told(backend)


async def test_models_are_those_that_are_listed(fake: FakeChat, backend: OpenAIBackend) -> None:
    fake.models = ["a", "b/c", "a"]
    async with anyio.create_task_group() as group:
        group.start_soon(backend.refresh)
        group.start_soon(backend.refresh)
    await backend.warm()
    assert backend.models == ("a", "b/c")
    assert len(fake.requests) == 1
    with pytest.raises(ModelNotFoundError, match="up/a, up/b/c"):
        backend.require_model(None)
    assert (await backend.health()).state is State.READY
    assert len(fake.requests) == 2


async def test_the_only_model_is_the_default(fake: FakeChat, supervisor: Supervisor) -> None:
    backend = OpenAIBackend("up", config(fake), supervisor)
    with pytest.raises(ModelNotFoundError, match="up/MODEL"):
        backend.require_model(None)
    await backend.refresh()
    assert backend.require_model(None) == "m"
    fixed = OpenAIBackend("up", config(fake, models=["x", "y"], model="y"), supervisor)
    await fixed.refresh()
    assert (fixed.models, fixed.require_model(None)) == (["x", "y"], "y")
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("status", "state"), [(401, State.NOT_LOGGED_IN), (404, State.READY), (500, State.FAILING)]
)
async def test_health_is_what_the_list_of_models_says(
    status: int, state: State, fake: FakeChat, backend: OpenAIBackend
) -> None:
    fake.listing = status
    assert (await backend.health()).state is state


async def test_a_list_that_is_none_is_told(fake: FakeChat, backend: OpenAIBackend) -> None:
    fake.models = [1]  # type: ignore[list-item]
    assert (await backend.health()).state is State.READY
    fake.listed = {"object": "error"}
    reason = (await backend.health()).reason
    assert reason is not None
    assert "lists no models" in reason


@pytest.mark.parametrize(
    ("listed", "models"),
    [
        ([{"id": "a"}, {"name": "b"}, "c", {"id": None}], ("a",)),  # Together's is a bare list
        ({"object": "list", "data": None}, ()),  # Ollama's, while it has none
        ({"data": [{"id": f"org/model-{n}", "about": "x" * 2000} for n in range(999)]}, 999),
    ],
)
async def test_lists_of_other_forms_are_read(
    listed: Any, models: Any, fake: FakeChat, backend: OpenAIBackend
) -> None:
    fake.listed = listed
    await backend.refresh()
    assert backend.models == models or len(backend.models) == models
    assert (await backend.health()).state is State.READY


async def test_who_asks_for_a_wait_is_asked_again_after_it(
    fake: FakeChat, backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(anyio, "sleep", wait)
    busy = Reply(status=503, error={"message": "no"}, headers={"Retry-After": "3"})
    fake.answer(busy, Reply())
    assert (await told(backend))[-1] == Finished(FinishReason.STOP)
    assert waits == [3]
    fake.answer(replace(busy, headers={"Retry-After": "60"}))
    with pytest.raises(OverloadedError) as caught:
        await told(backend)
    assert caught.value.retry_after_s == 60
    assert (waits, len(fake.requests)) == ([3], 3)


async def test_a_redirect_is_not_followed(fake: FakeChat, supervisor: Supervisor) -> None:
    moved = config(fake).model_copy(update={"base_url": f"{fake.url}/moved"})
    with pytest.raises(UpstreamError, match="redirects"):
        await told(OpenAIBackend("up", moved, supervisor))


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("5", 5, 5),
        ("-1", 0, 0),
        ("nan", None, None),
        ("soon", None, None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("Wed, 21 Oct 2115 07:28:00 GMT", 86_400, 86_400),
    ],
)
def test_how_long_to_wait_is_read(text: str, least: float | None, most: float | None) -> None:
    assert retry_after({"Retry-After": text}) in (least, most)
    assert retry_after({}) is None


async def test_an_answer_that_is_no_stream_is_taken(fake: FakeChat, backend: OpenAIBackend) -> None:
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop"}
    fake.whole = json.dumps({"model": "m", "choices": [choice]}, indent=1)
    assert TextDelta("Hi") in await told(backend)
    fake.whole = f"data: {json.dumps({'choices': [choice]})}"
    assert TextDelta("Hi") in await told(backend)


async def test_an_error_that_is_no_json_is_told(fake: FakeChat, backend: OpenAIBackend) -> None:
    fake.whole, fake.whole_status = "<h1>Bad\x1b[31m gateway</h1>", 500
    with pytest.raises(UpstreamError, match="<h1>Bad gateway</h1>"):
        await told(backend)
    fake.whole = ""
    with pytest.raises(UpstreamError, match="no reason"):
        await told(backend)
