"""Whole runs of the parts that need no real CLI, as small as they can be."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as way_in
from benchmarks import results

SMALL = [
    *("--set", "overhead.rounds=1"),
    *("--set", "overhead.one=10"),
    *("--set", "overhead.many=64"),
    *("--set", "overhead.profiled=200"),
    *("--set", "relayed.rounds=1"),
    *("--set", "relayed.each=1"),
    *("--set", "relayed.alone=1"),
    *("--set", "relayed.deltas=2"),
    *("--set", "relayed.gap=1"),
    *("--set", "relayed.profiled=200"),
    *("--set", "startup.rounds=1"),
    *("--set", "memory.real=0"),
    *("--set", "memory.batches=2"),
    *("--set", "memory.requests=20"),
]


def test_a_run_prints_its_table_keeps_it_and_writes_it_to_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, kept = tmp_path / "README.md", tmp_path / "results.json"
    page.write_text(f"{results.BEGIN}\n{results.END}\n")
    monkeypatch.setattr(way_in, "PAGE", page)
    asked = ["overhead", "startup", "memory", "relayed", *SMALL, "--results", str(kept), "--write"]
    ran = CliRunner().invoke(way_in.main, asked)
    assert ran.exit_code == 0, ran.output
    parts = results.read(kept)
    assert [part.name for part in parts] == ["memory", "overhead", "relayed", "startup"]
    assert ran.stdout.strip() == results.table(parts).strip()
    assert results.table(parts) in page.read_text()
    for part in parts:
        assert all(figure.met for figure in part.figures if figure.name == "wrong answers")
    found = {figure.name: figure for part in parts for figure in part.figures}
    assert found["first token after 20 ms, 16 streams: direct, p50"].value >= 20
    assert found["first token after 20 ms, 16 streams: clinvk, p50"].n == 16
    assert found["64 streams, streamed: right answers"].value == 64


def test_a_profile_tells_where_the_time_goes() -> None:
    ran = CliRunner().invoke(
        way_in.main, ["overhead", "relayed", "startup", "--quick", "--profile", *SMALL]
    )
    assert ran.exit_code == 0, ran.output
    assert "µs of processor time in the loop for each of 200 requests" in ran.stdout
    assert "clinvk/pump.py Pump.run" in ran.stdout
    assert "server/relay.py Passage.run" in ran.stdout
    assert "imports of serve" in ran.stdout
