"""What must not get worse, measured by the benchmarks in ways that no machine's speed decides.

Counts, and ratios of processor time between two servers that do the same by turns. The bounds are
about twice what was measured on a busy machine: they tell a blunder, not a few percent.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import anyio
import pytest

from benchmarks import memory, overhead, processes, startup
from benchmarks.client import Client
from benchmarks.fake_codex import expected
from benchmarks.memory import Size
from benchmarks.overhead import Arena, Round
from benchmarks.progress import Progress

HUNG_S = 60  # a guard against hanging tests, not a measure
FEW, MANY = 5, 105  # deltas


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    """A served clinvk and a bare relay over the same stand-in for a CLI, both warm."""
    with overhead.arena() as arena:
        for way in overhead.WAYS:
            arena.ask(way, requests=50, streams=4)
        yield arena


def right(done: Round) -> Round:
    assert done.heard.wrong == []
    assert done.heard.right == done.job.requests
    return done


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_every_answer_is_right_at_64_streams(arena: Arena, stream: bool) -> None:
    right(arena.ask("clinvk", requests=200, streams=64, stream=stream))


def test_a_request_costs_no_more_than_some_relays(arena: Arena) -> None:
    ratios = []
    for _ in range(3):
        ours, bare = (right(arena.ask(way, requests=200)) for way in overhead.WAYS)
        ratios.append(ours.busy_s / bare.busy_s)
    assert median(ratios) < 12  # 3.4 to 6.1 were measured


def test_a_further_delta_costs_no_more_than_some_relays(arena: Arena) -> None:
    ratios = []
    for _ in range(3):
        ours, bare = (right(arena.ask(way, requests=40, deltas=MANY)) for way in overhead.WAYS)
        ratios.append(ours.busy_s / bare.busy_s)
    assert median(ratios) < 10  # 3.1 to 5.7 were measured


def test_a_delta_is_one_small_write_at_most(arena: Arena) -> None:
    few, many = (right(arena.ask("clinvk", requests=20, deltas=each)) for each in (FEW, MANY))
    further = 20 * (MANY - FEW)
    assert many.heard.reads - few.heard.reads <= further
    assert many.heard.received - few.heard.received < 250 * further


async def test_a_chat_that_goes_on_tells_the_cli_only_what_is_new(tmp_path: Path) -> None:
    turns = 6
    told = {"goes on": tmp_path / "on", "told anew": tmp_path / "anew"}
    with ExitStack() as stack:
        where = stack.enter_context(processes.place())
        for way, file in told.items():
            backend = processes.fake_backend(
                env={"FAKE_CODEX_TOLD": str(file)}, max_idle=4 if way == "goes on" else 0
            )
            server = stack.enter_context(processes.serve(where, {"codex": backend}, name=way))
            client = Client(server.url, "codex")
            messages: list[dict[str, str]] = []
            for number in range(turns):
                asked = f"5 token-{number}"
                messages.append({"role": "user", "content": "x" * 1000 + f"\n{asked}"})
                with anyio.fail_after(HUNG_S):
                    answer = await client.ask(messages)
                assert answer.text == expected(asked)
                goes_on = way == "goes on" and number > 0
                assert answer.course == ("continued" if goes_on else "new")
                messages.append({"role": "assistant", "content": answer.text})
            client.close()
    new, anew = ([int(line) for line in file.read_text().splitlines()] for file in told.values())
    assert len(new) == len(anew) == turns
    assert new[-1] < 2 * new[1]
    assert anew[-1] > 3 * new[-1]


def test_a_server_is_after_many_requests_what_it_was_before() -> None:
    with Progress() as progress:
        part = memory.measure(Size(requests=450, batches=3, real=0), progress, quick=True)
    found = {figure.name.removeprefix("stand-in: "): figure.value for figure in part.figures}
    # 10 000 requests tell of leaks; these tell of one of 30 kB, or of a task, for each request.
    grown = found["server after 450 requests"] - found["server before the first request"]
    assert grown < 15
    assert found["processes after 450 requests"] < 10
    assert found["descriptors after 450 requests"] < 75
    assert found["tasks after 450 requests"] < 75


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import clinvk.cli.main"],
        capture_output=True,
        text=True,
        check=True,
    )
    told = startup.import_times(done.stderr, most=1000).split()
    assert "click" in told
    assert not {"aiohttp", "pydantic", "rich", "jsonschema", "yaml"} & set(told)
