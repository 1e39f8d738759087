"""What asks and what is asked: the stand-ins, the client, the CLIs' starts, the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as way_in
from benchmarks import cold, overhead, real, results, startup, upstream
from benchmarks.client import head_of, place_of, said
from benchmarks.fake_codex import FakeCodex, expected
from benchmarks.processes import BenchmarkError
from benchmarks.progress import Progress
from benchmarks.results import Figure, Part

PART = Part("overhead", (Figure("first token", 1.5, "ms"),))


def test_the_stand_in_answers_with_the_token_it_was_asked_for() -> None:
    written: list[bytes] = []
    fake = FakeCodex(written.append)
    text = [{"type": "input_text", "text": "3 token-x"}]
    for number, (method, params) in enumerate(
        [
            ("initialize", {}),
            ("thread/start", {}),
            ("thread/inject_items", {"threadId": "thread-1", "items": [{"content": text}]}),
            ("turn/start", {"threadId": "thread-1", "input": []}),
            ("thread/unsubscribe", {"threadId": "thread-1"}),
            ("future/method", {}),
        ]
    ):
        fake.take({"id": number, "method": method, "params": params})
    fake.take({"method": "initialized"})
    messages = [json.loads(line) for line in written]
    said_here = [m["params"]["delta"] for m in messages if m.get("method", "").endswith("/delta")]
    assert "".join(said_here) == expected("3 token-x") == "token-x 1 2"
    assert [m["id"] for m in messages if "id" in m] == [0, 1, 2, 3, 4, 5]


def test_the_text_of_a_response_is_read_streamed_or_not() -> None:
    assert said(b'{"message": {"role": "assistant", "content": "a 1"}}') == "a 1"
    assert said(b'data: {"content":""}\n\ndata: {"content":"a"}\n\ndata: {"content":" 1"}') == "a 1"


def test_an_address_is_told_to_the_server() -> None:
    assert place_of("http://127.0.0.1:8080/openai/v1") == ("127.0.0.1", 8080)
    assert place_of("http://localhost") == ("localhost", 80)
    assert head_of("http://a:1/v1").startswith(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a:1\r\n"
    )


def test_the_last_question_in_a_request_is_the_one_that_is_answered() -> None:
    body = json.dumps({"messages": ["5 token-1", "token-1 1 2 3 4", "user: 7 token-2b\nend"]})
    assert upstream.asked_in(body) == "7 token-2b"
    assert upstream.asked_in("{}") == ""


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("claude", ["claude", "-p", "--verbose"]),
        ("codex", ["codex", "exec", "--json", "--ephemeral", "--skip-git-repo-check", "-"]),
        ("gemini", ["gemini", "--output-format", "stream-json"]),
    ],
)
def test_one_shot_arguments_are_made_of_those_that_clinvk_gives(name: str, argv: list[str]) -> None:
    given = [name, "-p", "--input-format=stream-json", "--verbose"]
    assert cold.arguments(name, given) == argv


def test_text_is_read_from_the_lines_of_one_shot_commands() -> None:
    delta = {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}
    lines: dict[str, dict[str, Any]] = {
        "claude": {"type": "stream_event", "event": delta},
        "codex": {"type": "item.completed", "item": {"type": "agent_message", "text": "a"}},
        "gemini": {"type": "message", "role": "assistant", "content": "a"},
    }
    assert [cold.text_of(name)(line) for name, line in lines.items()] == ["a", "a", "a"]
    assert not any(cold.text_of(name)({"type": "init"}) for name in lines)


def test_a_noted_start_is_moved_with_its_folder(tmp_path: Path) -> None:
    root = tmp_path / "private"
    (root / "work").mkdir(parents=True)
    (root / "config.toml").write_text(f'catalog = "{root}/models.json"')
    (root / "state.sqlite").write_text("busy")
    (root / "login").symlink_to("/nowhere")
    start = real.Start(["cli", f"--settings={root}/s"], {"HOME": str(root)}, root / "work", root)
    moved = start.moved(tmp_path / "copy")
    assert moved.argv == ["cli", f"--settings={tmp_path}/copy/s"]
    assert moved.env == {"HOME": f"{tmp_path}/copy"}
    assert moved.cwd.is_dir()
    assert (moved.root / "config.toml").read_text() == f'catalog = "{tmp_path}/copy/models.json"'
    assert sorted(path.name for path in moved.root.iterdir()) == ["config.toml", "login", "work"]


def test_a_missing_cli_is_told_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(real, "BIN", tmp_path)
    with pytest.raises(BenchmarkError, match=r"run: make tests/real/node_modules/\.installed"):
        real.program("claude")


def test_sizes_are_set_by_part_and_name() -> None:
    set_to = ("overhead.rounds=3", "startup.rounds=9")
    assert way_in.resized(overhead.QUICK, "overhead", set_to).rounds == 3
    with pytest.raises(BenchmarkError, match="has no 'laps'; it has rounds"):
        way_in.resized(startup.QUICK, "startup", ("startup.laps=3",))
    for nonsense in ("rounds=3", "overhead.rounds=many", "walk.rounds=3"):
        with pytest.raises(BenchmarkError, match="sets nothing"):
            way_in.resized(overhead.QUICK, "overhead", (nonsense,))


def test_a_kept_table_is_printed_without_measuring(tmp_path: Path) -> None:
    kept = tmp_path / "results.json"
    results.merge(kept, [PART])
    ran = CliRunner().invoke(way_in.main, ["table", "--results", str(kept)])
    assert ran.exit_code == 0
    assert ran.stdout.strip() == results.table([PART]).strip()


def test_what_cannot_be_measured_is_told_in_a_line() -> None:
    ran = CliRunner().invoke(way_in.main, ["startup", "--set", "startup.laps=3"])
    assert ran.exit_code == 1
    assert "Error: startup has no 'laps'" in ran.stderr


def test_progress_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress, progress.task("measuring", 1) as step:
        progress.say("a word")
        step()
    out, err = capsys.readouterr()
    assert out == ""
    assert "a word" in err
