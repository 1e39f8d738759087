"""Which request goes on with which conversation."""

from dataclasses import replace
from typing import Any

import pytest

from clinvk.conversations import Course, Kept, Place, key_after, place_of, starts_over
from clinvk.turn import (
    ImagePart,
    Limits,
    Message,
    OutputFormat,
    PriorCall,
    Role,
    TextPart,
    ToolChoice,
    ToolMode,
    ToolSpec,
    Turn,
)


def said(role: str, text: str = "", **fields: Any) -> Message:
    return Message(Role(role), (TextPart(text),) if text else (), **fields)


def call(ident: str, arguments: str = "{}") -> PriorCall:
    return PriorCall(ident, "f", arguments)


FIRST = Turn("m", (said("system", "S"), said("user", "hi")), tools=(ToolSpec("f"),))
REPLY = said("assistant", "yes", calls=(call("a", '{"x": 1, "y": 2}'), call("b")))
RESULTS = (said("tool", "1", call_id="a"), said("tool", "2", call_id="b"))


def then(first: Turn, *messages: Message, **changes: Any) -> Turn:
    return replace(first, messages=(*first.messages, *messages), **changes)


def place(turn: Turn, *, caller: str = "", model: str = "m") -> Place | None:
    return place_of(turn, caller=caller, model=model)


def key(reply: Message = REPLY) -> bytes:
    return key_after(FIRST, reply, caller="", model="m")


def test_results_go_to_the_turn_that_waits_for_them() -> None:
    assert place(then(FIRST, REPLY, *RESULTS)) == Place(key(), RESULTS, Course.RESUMED)


def test_what_the_user_says_next_goes_on() -> None:
    reply, question = said("assistant", "yes"), said("user", "and?")
    expected = Place(key(reply), (question,), Course.CONTINUED)
    assert place(then(FIRST, reply, question)) == expected


def test_results_may_come_in_any_order() -> None:
    found = place(then(FIRST, REPLY, *reversed(RESULTS)))
    assert found is not None
    assert found.key == key()


@pytest.mark.parametrize(
    "retold",
    [
        (said("assistant", "yes"), said("assistant", calls=REPLY.calls)),
        (replace(REPLY, parts=(TextPart("y"), TextPart(""), TextPart("es"))),),
        (replace(REPLY, calls=(call("a", '{"y":2,"x":1}'), call("b", ""))),),
    ],
)
def test_a_client_may_write_the_reply_in_its_own_way(retold: tuple[Message, ...]) -> None:
    found = place(then(FIRST, *retold, *RESULTS))
    assert found is not None
    assert found.key == key()


@pytest.mark.parametrize(
    "other",
    [
        then(FIRST, replace(REPLY, parts=(TextPart("no"),)), *RESULTS),
        then(FIRST, replace(REPLY, calls=(call("a", '{"x": 2}'), call("b"))), *RESULTS),
        then(FIRST, replace(REPLY, calls=(call("a", "broken"), call("b"))), *RESULTS),
        then(FIRST, REPLY, *RESULTS, tools=()),
        then(FIRST, REPLY, *RESULTS, tool_choice=ToolChoice(ToolMode.NONE)),
        then(FIRST, REPLY, *RESULTS, format=OutputFormat()),
        then(FIRST, REPLY, *RESULTS, effort="high"),
        then(FIRST, REPLY, *RESULTS, parallel_calls=False),
        replace(FIRST, messages=(said("user", "hi"), REPLY, *RESULTS)),
        replace(FIRST, messages=(said("system", "S"), said("user", "ho"), REPLY, *RESULTS)),
        replace(FIRST, messages=(*FIRST.messages, said("user", "x"), REPLY, *RESULTS)),
    ],
)
def test_whatever_differs_is_another_conversation(other: Turn) -> None:
    found = place(other)
    assert found is not None
    assert found.key != key()


def test_callers_and_models_share_no_conversation() -> None:
    turn = then(FIRST, REPLY, *RESULTS)
    for found in (place(turn, caller="somebody"), place(turn, model="m/other")):
        assert found is not None
        assert found.key != key()


def test_limits_and_the_name_asked_for_do_not_matter() -> None:
    found = place(then(FIRST, REPLY, *RESULTS, limits=Limits(5), model="alias", ignored=("x",)))
    assert found is not None
    assert found.key == key()


def test_an_image_is_part_of_the_conversation() -> None:
    shown = Message(Role.USER, (TextPart("hi"), ImagePart(url="data:,x")))
    with_image = replace(FIRST, messages=(said("system", "S"), shown, REPLY, *RESULTS))
    found = place(with_image)
    assert found is not None
    assert found.key != key()


@pytest.mark.parametrize(
    "nowhere",
    [
        FIRST,
        then(FIRST, REPLY),
        then(FIRST, REPLY, RESULTS[0]),
        then(FIRST, REPLY, *RESULTS, RESULTS[0]),
        then(FIRST, REPLY, *RESULTS, said("user", "and?")),
        then(FIRST, REPLY, said("user", "and?")),
        then(FIRST, REPLY, RESULTS[0], said("tool", "2", call_id="c")),
        then(FIRST, said("assistant", "yes")),
        then(FIRST, said("assistant", "yes"), said("system", "T")),
        then(FIRST, said("assistant", "yes"), said("user", "and?"), said("developer", "T")),
    ],
)
def test_what_cannot_go_on_is_told_whole(nowhere: Turn) -> None:
    assert place(nowhere) is None


def test_a_turn_with_results_at_its_end_is_a_replay() -> None:
    assert starts_over(then(FIRST, REPLY, *RESULTS)) is Course.REPLAYED
    assert starts_over(FIRST) is Course.NEW
    assert starts_over(replace(FIRST, messages=())) is Course.NEW


def test_the_oldest_goes_for_the_newest() -> None:
    kept: Kept[str] = Kept(parked=2, idle=1)
    assert kept.add(Course.RESUMED, b"1", "one") == []
    assert kept.add(Course.CONTINUED, b"1", "idle") == []
    assert kept.add(Course.RESUMED, b"2", "two") == []
    assert repr(kept) == "<Kept 2 parked, 1 idle>"
    assert kept.add(Course.RESUMED, b"3", "three") == ["one"]
    assert kept.claim(Place(b"1", (), Course.RESUMED)) is None
    assert kept.claim(Place(b"1", (), Course.CONTINUED)) == "idle"
    assert kept.drop("two")
    assert not kept.drop("two")
    assert kept.clear() == ["three"]
    assert kept.clear() == []


def test_of_two_at_one_place_each_is_claimed_once() -> None:
    kept: Kept[str] = Kept(parked=2, idle=0)
    here = Place(b"1", (), Course.RESUMED)
    kept.add(Course.RESUMED, b"1", "one")
    kept.add(Course.RESUMED, b"1", "two")
    assert [kept.claim(here) for _ in range(3)] == ["two", "one", None]
    assert not kept.wants(Course.CONTINUED)
