"""`clinvk run` on a terminal."""

import json

from tests.cli.conftest import Clinvk, Terminal, has_ended


def test_terminal_shows_markdown_and_the_tokens(clinvk: Clinvk) -> None:
    terminal = Terminal(clinvk, "run", "-m", "echo", "some **bold** text\n\n- item")
    assert terminal.end() == 0
    assert terminal.lines[:2] == ["some bold text", " • item"]
    assert terminal.lines[2].startswith("echo: ")
    assert "\x1b[1mbold\x1b[0m" in terminal.raw


def test_answer_longer_than_the_screen_is_there_once(clinvk: Clinvk) -> None:
    numbers = [str(number) for number in range(100, 200)]
    text = "\n\n".join(["first", "```\n" + "\n".join(numbers) + "\n```", *numbers, "last"])
    terminal = Terminal(clinvk, "run", "-q", "-m", "echo", text, rows=10)
    assert terminal.end() == 0
    assert terminal.lines == ["first", *numbers, *numbers, "last"]


def test_thinking_is_dim_and_before_the_answer(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    terminal = Terminal(clinvk, "run", "please think")
    assert terminal.end() == 0
    assert terminal.lines[:2] == ["Let me see.", "please think"]
    assert "\x1b[2mLet me see.\x1b[0m" in terminal.raw


def test_quiet_shows_the_answer_alone(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    terminal = Terminal(clinvk, "run", "-q", "please think")
    assert terminal.end() == 0
    assert terminal.lines == ["please think"]


def test_ctrl_c_stops_the_turn_and_keeps_what_was_said(clinvk: Clinvk) -> None:
    pid_file = clinvk.with_fake_claude()
    terminal = Terminal(clinvk, "run", "please hang")
    terminal.wait_for("begun")
    terminal.type("\x03")
    assert terminal.end() == 130
    assert "begun" in terminal.lines[-1]
    assert has_ended(pid_file)


def test_json_is_indented_for_a_person(clinvk: Clinvk) -> None:
    terminal = Terminal(clinvk, "run", "-q", "--json", "-m", "echo", "hi", columns=200)
    assert terminal.end() == 0
    assert len(terminal.lines) > 10
    assert json.loads("\n".join(terminal.lines))["object"] == "chat.completion"


def test_dumb_terminal_gets_plain_text(clinvk: Clinvk) -> None:
    clinvk.env["TERM"] = "dumb"
    terminal = Terminal(clinvk, "run", "-q", "-m", "echo", "some **bold** text")
    assert terminal.end() == 0
    assert terminal.raw == "some **bold** text\r\n"


def test_terminal_without_a_prompt_is_told_how(clinvk: Clinvk) -> None:
    terminal = Terminal(clinvk, "run", columns=200)
    assert terminal.end() == 2
    assert terminal.lines[0].startswith("clinvk: there is no prompt; give it as an argument")
