import anyio
import pytest

from clinvk.gate import Gate, GateFullError


async def test_turns_are_admitted_first_in_first_out() -> None:
    gate = Gate(1, 2)
    first, second, third = gate.enter(), gate.enter(), gate.enter()
    assert repr(gate) == "<Gate 1/1 running, 2/2 waiting>"
    with pytest.raises(GateFullError):
        gate.enter()
    first.give_back()
    with anyio.fail_after(5):
        await second.admitted()
    assert repr(gate) == "<Gate 1/1 running, 1/2 waiting>"
    second.give_back()
    with anyio.fail_after(5):
        await third.admitted()
    third.give_back()
    assert repr(gate) == "<Gate 0/1 running, 0/2 waiting>"


def test_leaving_the_queue_frees_the_place() -> None:
    gate = Gate(1, 1)
    running, waiting = gate.enter(), gate.enter()
    waiting.give_back()
    waiting.give_back()
    assert repr(gate) == "<Gate 1/1 running, 0/1 waiting>"
    gate.enter()
    running.give_back()
    running.give_back()
    assert repr(gate) == "<Gate 1/1 running, 0/1 waiting>"
