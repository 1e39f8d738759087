"""When a start that failed may be tried again."""

import pytest

from clinvk.procs.backoff import Backoff, StartBackoffError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_who_never_failed_may_always_try(clock: Clock) -> None:
    backoff = Backoff(1, 8, clock=clock)
    backoff.require()
    backoff.require()
    assert (backoff.trouble, backoff.wait_s) == (None, 0)


def test_the_first_failures_may_be_free(clock: Clock) -> None:
    backoff = Backoff(1, 8, free=4, clock=clock)
    for _ in range(4):
        backoff.require()
        backoff.failed(OSError("no"))
        assert backoff.trouble is None
    backoff.require()
    backoff.failed(OSError("no"))
    with pytest.raises(StartBackoffError, match="no") as caught:
        backoff.require()
    assert (caught.value.failures, caught.value.retry_after_s) == (5, 1)
    assert backoff.trouble == (
        "it has failed to start 5 times in a row and is tried again in 1 s: no"
    )


def test_waits_double_up_to_a_limit_however_often_it_fails(clock: Clock) -> None:
    backoff = Backoff(1, 8, clock=clock)
    waits = []
    for _ in range(5):
        backoff.failed(OSError())
        waits.append(backoff.wait_s)
    assert waits == [1, 2, 4, 8, 8]
    for _ in range(2000):
        backoff.failed(OSError())
    assert backoff.wait_s == 8


def test_when_a_try_is_due_one_may_and_the_others_wait_for_its_outcome(clock: Clock) -> None:
    backoff = Backoff(2, 8, clock=clock)
    backoff.failed(OSError("no"))
    assert backoff.retry_at == 102
    clock.now = 102
    assert backoff.trouble is None
    backoff.require()
    with pytest.raises(StartBackoffError) as caught:
        backoff.require()
    assert caught.value.retry_after_s == 2
    backoff.succeeded()
    backoff.require()
    assert (backoff.failures, backoff.trouble) == (0, None)


def test_a_try_that_nobody_finished_is_followed_by_another(clock: Clock) -> None:
    backoff = Backoff(2, 8, clock=clock)
    backoff.failed(OSError("no"))
    clock.now = 102
    backoff.require()
    clock.now = 104
    backoff.require()


def test_one_failure_is_told_as_one(clock: Clock) -> None:
    backoff = Backoff(2, 8, clock=clock)
    backoff.failed(OSError("no"))
    assert backoff.trouble == "it has failed to start once and is tried again in 2 s: no"
