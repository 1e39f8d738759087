"""Jobs outlive whoever asked for them, and never the supervisor."""

import asyncio
import logging

import anyio
import pytest

from clinvk.procs.supervisor import Supervisor


async def test_a_job_runs_and_is_waited_for() -> None:
    done: list[str] = []

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        done.append("work")

    async with Supervisor() as supervisor:
        job = supervisor.start(work)
        at_first = job.done
        with anyio.fail_after(10):
            await job.wait()
        assert (at_first, job.done) == (False, True)
    assert done == ["work"]


async def test_a_cancelled_job_stops_alone() -> None:
    released = anyio.Event()
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await released.wait()
            ended.append(f"{name} done")
        except BaseException:
            ended.append(f"{name} cancelled")
            raise

    async with Supervisor() as supervisor:
        one = supervisor.start(lambda: work("one"))
        two = supervisor.start(lambda: work("two"))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(10):
            one.cancel()
            await one.wait()
            released.set()
            await two.wait()
    assert ended == ["one cancelled", "two done"]


async def test_leaving_cancels_and_awaits_every_job() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                ended.append("cleaned up")

    async with Supervisor() as supervisor:
        supervisor.start(work)
        supervisor.start(work)
        await anyio.wait_all_tasks_blocked()
    assert ended == ["cleaned up", "cleaned up"]


async def test_a_job_that_fails_is_logged_and_harms_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released = anyio.Event()

    async def fail() -> None:
        raise ValueError("a bug")

    async with Supervisor() as supervisor:
        other = supervisor.start(released.wait)
        failing = supervisor.start(fail)
        with anyio.fail_after(10):
            await failing.wait()
            assert not other.done
            released.set()
            await other.wait()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "a bug" in str(record.exc_info[1])


async def test_the_callers_raw_cancellation_does_not_touch_its_job() -> None:
    released = anyio.Event()
    ended: list[str] = []

    async def work() -> None:
        await released.wait()
        ended.append("done")

    async with Supervisor() as supervisor:
        jobs = []

        async def caller() -> None:
            jobs.append(supervisor.start(work))
            await jobs[0].wait()

        task = asyncio.create_task(caller())
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not jobs[0].done
        released.set()
        with anyio.fail_after(10):
            await jobs[0].wait()
    assert ended == ["done"]


async def test_the_leavers_raw_cancellation_does_not_stop_the_cleaning_up() -> None:
    entered, released, cleaned_up = anyio.Event(), anyio.Event(), anyio.Event()

    async def work() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                entered.set()
                await released.wait()
                cleaned_up.set()

    async def leave() -> None:
        async with Supervisor() as supervisor:
            supervisor.start(work)
            await anyio.wait_all_tasks_blocked()

    task = asyncio.create_task(leave())
    with anyio.fail_after(10):
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        released.set()
        await cleaned_up.wait()


async def test_nothing_starts_before_or_after() -> None:
    supervisor = Supervisor()
    with pytest.raises(RuntimeError):
        supervisor.start(anyio.sleep_forever)
    async with supervisor:
        pass
    with pytest.raises(RuntimeError):
        supervisor.start(anyio.sleep_forever)


async def test_it_may_be_left_by_another_task_than_entered_it() -> None:
    supervisor = Supervisor()
    await asyncio.create_task(supervisor.__aenter__())
    job = supervisor.start(anyio.sleep_forever)
    await asyncio.create_task(supervisor.__aexit__(None, None, None))
    assert job.done
