"""`clinvk run` as a program among others: pipes, exit codes, and what goes to which stream."""

import json
import os
import signal
import subprocess

import pytest

from tests.cli.conftest import WAIT_S, Clinvk, has_ended, interrupted, read_until


def test_pipe_gets_the_answer_and_nothing_else(clinvk: Clinvk) -> None:
    ended = clinvk("run", "-m", "echo", "**two** words")
    assert (ended.code, ended.out) == (0, "**two** words\n")
    assert "echo: 2 tokens in, 2 out" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_quiet_says_nothing_on_stderr(clinvk: Clinvk) -> None:
    ended = clinvk("run", "-q", "-m", "echo", "hi")
    assert (ended.code, ended.out, ended.err) == (0, "hi\n", "")


def test_stdin_is_the_prompt_or_follows_it(clinvk: Clinvk) -> None:
    assert clinvk("run", "-qm", "echo", stdin=b"from\nstdin\n").out == "from\nstdin\n"
    assert clinvk("run", "-qm", "echo", "asked", stdin=b"piped").out == "asked\n\npiped\n"


def test_files_come_before_the_prompt(clinvk: Clinvk) -> None:
    (clinvk.folder / "a.txt").write_text("A\n")
    (clinvk.folder / "b.txt").write_text("B\n")
    ended = clinvk("run", "-qm", "echo", "-f", "a.txt", "-f", "b.txt", "what?")
    assert ended.out == (
        '<file name="a.txt">\nA\n</file>\n\n<file name="b.txt">\nB\n</file>\n\nwhat?\n'
    )


def test_no_prompt_is_a_usage_error(clinvk: Clinvk) -> None:
    ended = clinvk("run")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("clinvk: there is no prompt; give it as an argument")


def test_json_is_the_completion_object_on_one_line(clinvk: Clinvk) -> None:
    ended = clinvk("run", "--json", "-m", "echo", "hi")
    assert ended.code == 0
    assert ended.out.count("\n") == 1
    body = json.loads(ended.out)
    assert body["object"] == "chat.completion"
    assert body["model"] == "echo"
    assert body["choices"][0]["message"]["content"] == "hi"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == 2


def test_without_streaming_the_answer_is_the_same(clinvk: Clinvk) -> None:
    ended = clinvk("run", "-q", "--no-stream", "-m", "echo", "hi")
    assert (ended.code, ended.out, ended.err) == (0, "hi\n", "")


def test_first_installed_cli_answers_by_default(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    ended = clinvk("run", "who?")
    assert (ended.code, ended.out) == (0, "who?\n")
    assert ended.err.startswith("claude (fake-model): ")


def test_echo_answers_if_no_cli_is_installed_and_says_so(clinvk: Clinvk) -> None:
    ended = clinvk("run", "hi")
    assert (ended.code, ended.out) == (0, "hi\n")
    assert "no CLI is installed, so echo answers; 'clinvk doctor' says" in ended.err


def test_configuration_of_the_folder_is_not_read(clinvk: Clinvk) -> None:
    (clinvk.folder / "backends.yaml").write_text("backends: {evil: {kind: echo}}")
    ended = clinvk("run", "-m", "evil", "hi")
    assert ended.code == 2
    assert "the model 'evil' does not exist; there are: echo" in ended.err


def test_usage_of_the_cli_is_told(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    ended = clinvk("run", "one two three")
    assert (ended.code, ended.out) == (0, "one two three\n")
    assert "claude (fake-model): 15 tokens in (5 cached), 7 out, first after " in ended.err


def test_cut_answer_is_told(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    ended = clinvk("run", "please cut")
    assert (ended.code, ended.out) == (0, "please cut\n")
    assert ended.err.endswith("cut at the model's token limit\n")


def test_thinking_is_no_part_of_a_pipe(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    ended = clinvk("run", "-q", "please think")
    assert (ended.code, ended.out, ended.err) == (0, "please think\n", "")
    message = json.loads(clinvk("run", "-q", "--json", "please think").out)["choices"][0]["message"]
    assert message["reasoning_content"] == "Let me see."


@pytest.mark.parametrize(
    ("prompt", "code", "message"),
    [("please refuse", 1, "fake trouble"), ("please logout", 3, "log")],
)
@pytest.mark.parametrize("style", [[], ["--json"], ["--no-stream"]])
def test_failed_turn_ends_by_its_exit_code(
    clinvk: Clinvk, prompt: str, code: int, message: str, style: list[str]
) -> None:
    clinvk.with_fake_claude()
    ended = clinvk("run", *style, prompt)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith("clinvk: ")
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_answer_that_breaks_off_ends_its_line_before_the_error(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    ended = clinvk("run", "please die")
    assert (ended.code, ended.out) == (1, "half\n")
    assert ended.err.startswith("clinvk: ")
    ended = clinvk("run", "--no-stream", "please die")
    assert (ended.code, ended.out) == (1, "")


def test_missing_cli_says_how_to_install_it(clinvk: Clinvk) -> None:
    ended = clinvk("run", "-m", "claude", "hi")
    assert (ended.code, ended.out) == (3, "")
    assert "npm install -g @anthropic-ai/claude-code" in ended.err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal_stops_the_turn_and_its_process(
    clinvk: Clinvk, number: signal.Signals, code: int
) -> None:
    pid_file = clinvk.with_fake_claude()
    process = clinvk.start("run", "please hang", stdin=subprocess.DEVNULL)
    assert read_until(process.stdout, "begun") == "begun\n"
    ended = interrupted(process, number)
    assert (ended.code, ended.out, ended.err) == (code, "", "")
    assert has_ended(pid_file)


def test_signal_that_is_ignored_on_purpose_stays_ignored(clinvk: Clinvk) -> None:
    """As nohup does it."""
    clinvk.with_fake_claude()
    process = clinvk.start(
        *("run", "-q", "please wait"),
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert read_until(process.stdout, "begun") == "begun\n"
    process.send_signal(signal.SIGHUP)
    (clinvk.folder / "go").write_bytes(b"")
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out, err) == (0, b"please wait\n", b"")


def test_reader_that_leaves_ends_the_turn_quietly(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    process = clinvk.start("run", "please flood", stdin=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"another line of it\n"
    process.stdout.close()
    assert process.wait(WAIT_S) == 141
    assert process.stderr is not None
    assert process.stderr.read() == b""


def test_reader_that_is_slow_does_not_deafen_it(clinvk: Clinvk) -> None:
    """A full pipe is waited for, so a signal is heard although nobody reads."""
    pid_file = clinvk.with_fake_claude()
    process = clinvk.start("run", "please flood", stdin=subprocess.DEVNULL)
    read_until(process.stdout, "another")
    process.send_signal(signal.SIGTERM)
    assert process.wait(WAIT_S) == 143
    assert has_ended(pid_file)


def test_ctrl_c_before_the_turn_exits_130(clinvk: Clinvk) -> None:
    fifo = clinvk.folder / "fifo"
    os.mkfifo(fifo)
    process = clinvk.start("run", "-f", str(fifo), "hi", stdin=subprocess.DEVNULL)
    with fifo.open("wb"):  # returns when the other end is being read
        ended = interrupted(process, signal.SIGINT)
    assert (ended.code, ended.out, ended.err.strip()) == (130, "", "")


def test_answer_to_a_file_is_complete(clinvk: Clinvk) -> None:
    path = clinvk.folder / "answer"
    with path.open("wb") as file:
        process = clinvk.start("run", "-qm", "echo", "hi", stdin=subprocess.DEVNULL, stdout=file)
        assert process.wait(WAIT_S) == 0
    assert path.read_text() == "hi\n"


def test_what_only_embeds_is_asked_nothing_and_says_so(clinvk: Clinvk) -> None:
    clinvk.config(vectors={"kind": "embeddings"})
    ended = clinvk("run", "hi")
    assert (ended.code, ended.out) == (2, "")
    assert "'vectors' makes embeddings and answers no messages; claude" in ended.err
