"""The calls of one session: told at once or one by one, and answered as gemini asks for them."""

import json
from typing import Any

import pytest

from clinvk.backends.gemini_api import Record, RecordedCall
from clinvk.backends.gemini_calls import Calls
from clinvk.errors import CliCrashedError
from clinvk.events import ToolCall
from clinvk.toolserver import Call

NAMES = {"mcp_x_f": "f", "mcp_x_g": "g"}


def record(*calls: tuple[str, dict[str, Any]]) -> Record:
    made = tuple(
        RecordedCall(f"id_{n}", f"mcp_x_{name}", args) for n, (name, args) in enumerate(calls)
    )
    return Record("", "STOP", candidates=True, usage={}, calls=made)


def held(calls: Calls, number: int, name: str, **arguments: Any) -> Call:
    """Let gemini make a call, as it does: told first, asked for then."""
    call = Call(name, arguments)
    calls.show(f"id_{number}")
    calls.hold(call)
    return call


def shown(calls: Calls) -> str | None:
    return calls.shown


def made(*told: ToolCall) -> list[tuple[str, Any]]:
    return [(call.name, json.loads(call.arguments)) for call in told]


def text(said: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": said}]


def test_a_response_is_known_once_its_first_call_is_told_and_asked_for() -> None:
    for shown_first in (True, False):
        calls = Calls(NAMES, parallel=True)
        assert shown(calls) is None
        if shown_first:
            calls.show("id_0")
            assert shown(calls) is None
            calls.hold(Call("f", {}))
        else:
            calls.hold(Call("f", {}))
            assert shown(calls) is None
            calls.show("id_0")
        assert shown(calls) == "id_0"


def test_all_calls_are_told_and_each_has_its_own_result() -> None:
    calls = Calls(NAMES, parallel=True)
    first = held(calls, 0, "f", x=1)
    told = calls.tell(record(("f", {"x": 1}), ("g", {}), ("f", {"x": 2})))
    assert made(*told) == [("f", {"x": 1}), ("g", {}), ("f", {"x": 2})]
    assert len({call.id for call in told}) == 3
    calls.answer({call.id: text(str(n)) for n, call in enumerate(told)})
    second, third = held(calls, 1, "g"), held(calls, 2, "f", x=2)
    assert [call.content for call in (first, second, third)] == [text("0"), text("1"), text("2")]
    assert not calls.owed
    assert not calls.hidden
    assert shown(calls) is None


def test_the_next_response_is_another() -> None:
    calls = Calls(NAMES, parallel=True)
    held(calls, 0, "f")
    [told] = calls.tell(record(("f", {})))
    calls.answer({told.id: text("a")})
    calls.show("id_0")  # late, for what was already asked for
    again = Call("f", {})
    calls.hold(again)
    assert shown(calls) is None
    calls.show("id_9")
    assert shown(calls) == "id_9"
    [told] = calls.tell(None)
    calls.answer({told.id: text("b")})
    assert again.content == text("b")


def test_without_a_record_calls_are_told_one_by_one() -> None:
    calls = Calls(NAMES, parallel=True)
    held(calls, 0, "f", wait_for_previous=True, x="½")
    [told] = calls.tell(None)
    assert (told.name, told.arguments) == ("f", '{"x": "½"}')
    assert not calls.hidden


def test_what_gemini_passed_over_is_not_told() -> None:
    calls = Calls(NAMES, parallel=True)
    held(calls, 1, "g")
    told = calls.tell(record(("f", {"wrong": 1}), ("g", {}), ("f", {})))
    assert made(*told) == [("g", {}), ("f", {})]
    assert calls.hidden


def test_what_was_not_offered_is_not_told() -> None:
    calls = Calls(NAMES, parallel=True)
    held(calls, 1, "g")
    assert made(*calls.tell(record(("other", {}), ("g", {})))) == [("g", {})]
    assert calls.hidden


def test_calls_that_may_not_be_parallel_are_one() -> None:
    calls = Calls(NAMES, parallel=False)
    held(calls, 0, "f")
    assert made(*calls.tell(record(("f", {}), ("g", {})))) == [("f", {})]
    assert calls.hidden
    calls = Calls(NAMES, parallel=False)
    held(calls, 0, "f")
    calls.tell(record(("f", {})))
    assert not calls.hidden


def test_a_call_that_was_not_told_gets_no_result_of_another() -> None:
    calls = Calls(NAMES, parallel=True)
    held(calls, 0, "f")
    told = calls.tell(record(("f", {}), ("g", {"x": 1})))
    calls.answer({call.id: text("secret") for call in told})
    with pytest.raises(CliCrashedError):
        held(calls, 1, "g", x=2)


def test_a_call_that_gemini_gave_up_is_noticed() -> None:
    calls = Calls(NAMES, parallel=True)
    call = held(calls, 0, "f")
    calls.tell(None)
    assert not calls.dropped
    call.gone = True
    assert calls.dropped
