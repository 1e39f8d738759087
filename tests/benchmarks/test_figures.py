"""What becomes of measurements: figures, tables, profiles."""

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import __main__ as way_in
from benchmarks import chat, first_token, memory, overhead, results, sampling, startup, stats
from benchmarks.load import Heard, Job
from benchmarks.memory import Sample
from benchmarks.results import Figure, Part
from benchmarks.stats import Spread
from benchmarks.told import Told


def test_a_spread_is_the_median_and_the_percentiles_around_it() -> None:
    assert stats.spread([5, 1, 3, 2, 4]) == Spread(3, 1.4, 4.6, 5)
    assert stats.quantile([1, 2], 0.5) == 1.5
    assert stats.quantile([7], 0.99) == 7


def test_a_ratio_is_that_of_the_medians_with_the_spread_of_the_pairs() -> None:
    found = stats.ratio([2, 4, 9], [1, 2, 3])
    assert found.middle == 2
    assert found.n == 3
    assert 2 <= found.low <= found.high <= 3


def test_the_trend_is_the_least_squares_line() -> None:
    assert stats.slope([0, 1, 2], [5, 7, 9]) == pytest.approx(2)
    assert stats.slope([0, 1, 2], [5, 5, 5]) == pytest.approx(0)


def test_a_shared_beginning_is_counted_in_bytes() -> None:
    assert stats.same_prefix(b"abcdef", b"abcxyz") == 3
    assert stats.same_prefix(b"", b"abc") == 0
    assert stats.same_prefix(b"abc", b"abc") == 3


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        stats.quantile([], 0.5)
    with pytest.raises(ValueError, match="cannot be paired"):
        stats.ratio([1], [1, 2])
    with pytest.raises(ValueError, match="two points"):
        stats.slope([1, 1], [1, 2])


@pytest.mark.parametrize(
    ("target", "met"), [("<= 2.5", True), (">= 2.5", False), ("= 2", True), (None, None)]
)
def test_a_figure_is_held_to_its_target(target: str | None, met: bool | None) -> None:
    assert Figure("f", 2, "ms", target=target).met is met


def test_a_target_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no target"):
        _ = Figure("f", 2, "ms", target="fast").met


PART = Part(
    "overhead",
    (
        Figure("first token", 1.5, "ms", 1.25, 2500.5, 100, "<= 2.5"),
        Figure("slow", 150.25, "ms", target="<= 100", note="why"),
        Figure("wrong answers", 0, "", note="of 700"),
    ),
    {"rounds": 7},
    {"Python": "3.11"},
)


def test_figures_come_back_from_their_file_and_replace_older_ones(tmp_path: Path) -> None:
    kept = tmp_path / "results.json"
    assert results.read(kept) == []
    results.merge(kept, [Part("overhead", ()), Part("chat", ())])
    results.merge(kept, [PART])
    assert results.read(kept) == [Part("chat", ()), PART]


@pytest.mark.parametrize("text", ["[]", '{"overhead": {}}', '{"overhead": 3}', "nothing"])
def test_a_file_of_something_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no results|Expecting"):
        results.load(text)


def test_the_table_tells_the_spread_and_what_was_missed() -> None:
    assert results.table([PART]).splitlines() == [
        "### overhead",
        "",
        "Python 3.11.  ",
        "rounds 7.",
        "",
        "| | median | 10 % to 90 % | n | target | |",
        "|---|--:|--:|--:|--:|---|",
        "| first token | 1.5 ms | 1.25 to 2500 | 100 | <= 2.5 | met |",
        "| slow | 150.2 ms |  | 1 | <= 100 | **missed**; why |",
        "| wrong answers | 0 |  | 1 |  | of 700 |",
    ]


def test_the_table_is_put_where_the_page_has_its_marks() -> None:
    page = f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n"
    assert results.put_table(page, "new") == (
        f"before\n{results.BEGIN}\n\nnew\n{results.END}\nafter\n"
    )
    with pytest.raises(ValueError, match="has no lines"):
        results.put_table("a page", "new")


def test_the_page_shows_what_is_kept() -> None:
    kept = results.read(way_in.RESULTS)
    assert results.table(kept).strip() in way_in.PAGE.read_text("utf-8")


def test_imports_are_added_up_by_package() -> None:
    log = """import time: self [us] | cumulative | imported package
import time:      1000 |       1000 |   aiohttp.web
import time:      2000 |       3000 | aiohttp
import time:      1000 |       1000 | json
"""
    assert startup.import_times(log, most=1).splitlines() == [
        "4 ms in all",
        " 75.0%     3.0 ms  aiohttp",
    ]


def test_samples_are_counted_by_who_runs_and_who_called(tmp_path: Path) -> None:
    loop = ["/lib/asyncio/events.py", "Handle._run"]
    stacks = [
        [[["/x/json/encoder.py", "encode"], ["/x/clinvk/pump.py", "run"], loop, ["/m.py", "m"]], 3],
        [[["/x/clinvk/pump.py", "run"], loop], 1],
        [[["/x/clinvk/config.py", "load"]], 9],
    ]
    path = tmp_path / "profile"
    path.write_text(json.dumps({"used_s": 0.0130, "stacks": stacks}))
    told = sampling.report(path, requests=4).splitlines()
    assert told[0] == "1000 µs of processor time in the loop for each of 4 requests"
    assert " 75.0%   750.0 µs  json" in told
    assert "100.0%  1000.0 µs  clinvk/pump.py run" in told


def test_a_sampler_sees_the_stack_it_interrupts(tmp_path: Path) -> None:
    sampler = sampling.Sampler()
    sampler.start()
    while sum(range(1000)) and not sampler.seen:
        pass
    sampler.stop()
    sampler.dump(tmp_path / "profile")
    stack, _ = json.loads((tmp_path / "profile").read_text())["stacks"][0]
    assert any(name == "test_a_sampler_sees_the_stack_it_interrupts" for _, name in stack)


def test_growth_is_that_of_the_second_half() -> None:
    grown = [50.0, 54.0, 55.0, 55.5, 56.0]
    samples = [Sample(1000 * at, mib, 10, 2, 9, 7) for at, mib in enumerate(grown)]
    told = {figure.name: figure for figure in memory.told("stand-in", samples)}
    growth = told["stand-in: growth in the second half, each 1000 requests"]
    assert growth.value == pytest.approx(0.5)
    assert growth.met is False
    assert told["stand-in: server after 4000 requests"].met is False


def test_a_chat_is_told_by_its_last_turns() -> None:
    def row(course: str, told: int) -> chat.Row:
        times = [float(told)] * 3
        courses = Counter({"new": 1, course: 2})
        return chat.Row([10, 20, 30], [10, 10, 10], [told] * 3, times, times, courses)

    rows = {"continued": row("continued", 5), "new": row("new", 20)}
    told = {figure.name: figure for figure in chat.told("codex", rows)}
    assert told["codex: turns that went on"].met
    assert told["codex: told to the CLI in turn 3, continued / new"].value == 0.25
    assert told["codex: first token of the last turns, continued / new"].value == 0.25
    assert told["codex: sent up to the model API in turn 3, continued / new"].value == 1


def test_a_race_is_told_by_what_could_be_asked() -> None:
    rows = {
        ("new", "clinvk"): [Told(0.010, 0.02, "", "new")],
        ("new", "bare"): [Told(0.010, 0.01)],
        ("new", "cold"): [Told(0.100, 0.11)],
    }
    told = {figure.name: figure for figure in first_token.told("claude", rows)}
    assert len(told) == 6
    assert told["claude, new conversation: first token, clinvk / bare"].met
    assert told["claude, new conversation: first token, cold / clinvk"].met
    assert told["claude, new conversation: whole turn, clinvk / bare"].value == 2


def test_a_round_adds_to_its_row() -> None:
    row = overhead.Row()
    heard = Heard(wall_s=2.0, right=1, first_s=[0.001, 0.003], whole_s=[0.01, 0.01], wrong=["?"])
    row.add(overhead.Round(Job("http://x", 2), heard, 0.004))
    assert (row.middle_first_ms, row.busy_us, row.per_s) == ([2.0], [2000.0], [0.5])
    assert (row.right, row.asked, row.wrong) == (1, 2, ["?"])
