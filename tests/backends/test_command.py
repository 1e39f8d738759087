"""Any program as a backend: how a prompt reaches it, what it prints, and how it ends."""

import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.backends.base import State
from clinvk.backends.command import ARGV_BYTES, WORD_BYTES, CommandBackend
from clinvk.backends.command_output import HELD_CHARS, Cleaner, look
from clinvk.capabilities import Count, Level
from clinvk.config import ConfigError, parse
from clinvk.errors import (
    BadRequestError,
    CliCrashedError,
    ClinvkError,
    CliProtocolError,
    ContextTooLongError,
    ModelNotFoundError,
    NotInstalledError,
    NotLoggedInError,
    RateLimitedError,
    UnsupportedError,
    UpstreamError,
    UpstreamUnreachableError,
)
from clinvk.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    Usage,
    check_grammar,
)
from clinvk.kinds import CommandConfig
from clinvk.procs.supervisor import Supervisor
from clinvk.turn import FilePart, Message, OutputFormat, Role, TextPart, ToolSpec, Turn

HUNG_S = 30
CAT = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
ARGS = "import json, sys; print(json.dumps(sys.argv[1:]))"
Make = Callable[..., CommandBackend]


def turn(text: str, *, system: str | None = None, **more: Any) -> Turn:
    said = [Message(Role.SYSTEM, (TextPart(system),))] if system else []
    return Turn("m", (*said, Message(Role.USER, (TextPart(text),))), **more)


def made_by(supervisor: Supervisor) -> Make:
    """Return what makes a backend of a script and settings."""

    def made(script: str = CAT, *words: str, **more: Any) -> CommandBackend:
        command = [sys.executable, "-c", script, *words]
        config = CommandConfig(kind="command", **{"command": command, **more})
        return CommandBackend("c", config, supervisor)

    return made


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    temp = tmp_path / "temp"
    temp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temp))
    async with Supervisor() as supervisor:
        yield made_by(supervisor)
    assert list(temp.iterdir()) == []


async def ask(backend: CommandBackend, asked: Turn | str, model: str | None = None) -> list[Event]:
    asked = turn(asked) if isinstance(asked, str) else asked
    with anyio.fail_after(HUNG_S):
        backend.check(asked)
        async with backend.open(asked, model) as stream:
            events = [event async for event in stream]
    check_grammar(events)
    return events


async def told(backend: CommandBackend, asked: Turn | str, model: str | None = None) -> str:
    events = await ask(backend, asked, model)
    assert events[-1] == Finished(FinishReason.STOP)
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def failure(backend: CommandBackend) -> ClinvkError:
    last = (await ask(backend, "hi"))[-1]
    assert isinstance(last, Failed)
    return last.error


# --- the way in ------------------------------------------------------------------------------


async def test_a_prompt_is_given_byte_for_byte(make: Make) -> None:
    said = "--x $HOME `id` \\ \"'\n\u00e4\u4e2d\U0001f600 /help"
    assert await told(make(), said) == said
    assert await told(make(ARGS, "p={prompt}", prompt="argv"), said) == json.dumps([f"p={said}"])
    script = "import os, sys; print(open(sys.argv[1]).read(), oct(os.stat(sys.argv[1]).st_mode))"
    assert await told(make(script, "{file}", prompt="file"), said) == f"{said} 0o100600"


async def test_a_long_prompt_and_a_long_answer_do_not_wait_for_each_other(make: Make) -> None:
    script = "import sys\nprint('x' * 500_000, flush=True)\nprint(len(sys.stdin.read()))"
    assert (await told(make(script), "y" * 2_000_000)).endswith("\n2000000")


async def test_a_program_that_reads_nothing_answers_all_the_same(make: Make) -> None:
    assert await told(make("print('ok')"), "y" * 2_000_000) == "ok"


async def test_system_messages_are_put_where_the_settings_say(make: Make) -> None:
    asked = turn("hi", system="Be {prompt}.")
    assert await told(make(system="[{system}]\n\n{prompt}"), asked) == "[Be {prompt}.]\n\nhi"
    assert await told(make(system="[{system}]\n\n{prompt}"), "hi") == "hi"
    assert "Be {prompt}." in await told(make(), asked)
    words = make(ARGS, "{system}", "{prompt}", prompt="argv")
    assert json.loads(await told(words, asked)) == ["Be {prompt}.", "hi"]


async def test_a_text_file_is_told_as_text(make: Make) -> None:
    file = Message(Role.USER, (TextPart("read "), FilePart("a.txt", data="SGVsbG8=")))
    assert await told(make(), Turn("m", (file,))) == "read a.txt:\nHello\n".rstrip("\n")


async def test_the_model_is_put_in_its_place(make: Make) -> None:
    backend = make(ARGS, "--model", "{model}", model="small")
    assert json.loads(await told(backend, "hi")) == ["--model", "small"]
    assert json.loads(await told(backend, "hi", "big")) == ["--model", "big"]
    with pytest.raises(ModelNotFoundError):
        await ask(backend, "hi", "--yolo")


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ("a\0b", "NUL"),
        ("x" * (WORD_BYTES + 1), "longer than"),
        ("--yolo", "begin with '-'"),
    ],
)
async def test_what_an_argument_cannot_carry_is_refused(make: Make, said: str, fault: str) -> None:
    with pytest.raises(BadRequestError, match=fault) as caught:
        make(ARGS, "{prompt}", prompt="argv").check(turn(said))
    assert caught.value.param == "messages"


async def test_a_command_line_that_is_too_long_is_refused(make: Make) -> None:
    many = ARGV_BYTES // WORD_BYTES + 1
    with pytest.raises(BadRequestError, match="too long for a command line"):
        make(ARGS, *["{prompt}"] * many, prompt="argv").check(turn("x" * WORD_BYTES))


async def test_after_two_dashes_nothing_is_an_option(make: Make) -> None:
    backend = make(ARGS, "--", "{prompt}", prompt="argv")
    assert json.loads(await told(backend, "--yolo"))[-1] == "--yolo"


async def test_it_runs_in_an_empty_folder_with_what_it_may_see(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "one")
    monkeypatch.setenv("B_KEY", "two")
    script = "import json, os; print(json.dumps([os.listdir('.'), dict(os.environ)]))"
    files, env = json.loads(await told(make(script, pass_env=["A_*"], env={"C": "d"}), "hi"))
    assert files == []
    assert (env["A_KEY"], env["C"], env.get("B_KEY")) == ("one", "d", None)


# --- the way out -----------------------------------------------------------------------------


async def test_text_streams_as_it_comes(make: Make, tmp_path: Path) -> None:
    script = """
import os, sys
for piece in (b"\\x1b[1mo\\xc3", b"\\xa4 \\x1b[", b"31mtwo\\r"):
    os.write(1, piece)
    open(sys.argv[1]).read()
os.write(1, b"\\n\\nthree\\x1b]\\x07\\n\\n")
"""
    fifo = anyio.Path(tmp_path / "fifo")
    os.mkfifo(fifo)
    text = ""
    with anyio.fail_after(HUNG_S):
        async with make(script, str(fifo)).open(turn("hi"), None) as stream:
            assert await anext(aiter(stream)) == Started()
            for until in ("o", "o\u00e4 ", "o\u00e4 two"):
                while text != until:
                    event = await anext(aiter(stream))
                    assert isinstance(event, TextDelta)
                    text += event.text
                await fifo.write_text("go on")
            rest = [event async for event in stream]
    assert rest == [TextDelta("\n\nthree"), Finished(FinishReason.STOP)]


@given(st.data(), st.text())
def test_output_cut_anywhere_is_the_same_text(data: st.DataObject, said: str) -> None:
    raw = ("\x1b[1;31m" + said + "\x1b[0m").encode("utf-8", "replace")
    whole = Cleaner().feed(raw, last=True)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=5)))
    cleaner, pieces = Cleaner(), []
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        pieces.append(cleaner.feed(raw[start:end]))
    assert "".join([*pieces, cleaner.feed(b"", last=True)]) == whole


def test_a_terminal_sequence_without_an_end_is_not_waited_for() -> None:
    cleaner = Cleaner()
    assert cleaner.feed(b"a\x1b]0;" + b"x" * HELD_CHARS).startswith("a]0;x")


async def test_lines_of_json_are_read_by_paths(make: Make) -> None:
    lines = [
        "noise",
        json.dumps({"role": "user", "content": "not this"}),
        json.dumps({"role": "assistant", "thought": "hm"}),
        json.dumps({"role": "assistant", "content": "one "}),
        json.dumps({"role": "assistant", "content": "two"}),
        json.dumps({"type": "done", "usage": {"in": 5, "out": 2, "cached": 3}}),
    ]
    settings = {
        "output": "jsonl",
        "text": "$[role=assistant].content",
        "reasoning": "$.thought",
        "end": "$[type=done]",
        "usage": {"input": "$.usage.in", "output": "$.usage.out", "cached": "$.usage.cached"},
    }
    backend = make(f"print({chr(10).join(lines)!r})", **settings)
    assert backend.capabilities.reasoning is Level.NATIVE
    assert backend.capabilities.usage is Count.REPORTED
    assert await ask(backend, "hi") == [
        Started(),
        ReasoningDelta("hm"),
        TextDelta("one "),
        TextDelta("two"),
        Usage(5, 2, 3),
        Finished(FinishReason.STOP),
    ]
    cut = make(f"print({chr(10).join(lines[:-1])!r})", **settings)
    assert isinstance(await failure(cut), CliProtocolError)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("$", {"a": {"b": [1, {"c d": True}]}, "n": None}),
        ("$.a.b[0]", 1),
        ("$.a.b[1]['c d']", True),
        ("$.a.b[2]", None),
        ("$.a[0]", None),
        ("$.a.b.c", None),
        ("$.a.b['c']", None),
        ("$.a.b[1][x=1]", None),
        ("$.a.b[x=1]", None),
        ("$[n=null].a.b[0]", 1),
    ],
)
def test_a_path_finds_what_stands_there(path: str, found: object) -> None:
    assert look({"a": {"b": [1, {"c d": True}]}, "n": None}, path) == found


async def test_the_form_of_an_answer_is_asked_for_in_words(make: Make) -> None:
    assert await told(make("print('{}')"), turn("hi", format=OutputFormat())) == "{}"


async def test_an_empty_answer_is_an_answer(make: Make) -> None:
    assert await ask(make("pass"), "hi") == [Started(), Finished(FinishReason.STOP)]


# --- ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "stderr", "error"),
    [
        (3, "no such thing", CliCrashedError),
        (41, "log in", NotLoggedInError),
        (2, "prompt is too long", ContextTooLongError),
        (1, "API error 429: slow down", RateLimitedError),
        (1, "Error: fetch failed", UpstreamUnreachableError),
        (1, "", CliCrashedError),
    ],
)
async def test_an_exit_code_and_stderr_are_a_typed_error(
    make: Make, code: int, stderr: str, error: type[ClinvkError]
) -> None:
    script = f"import sys; print('so far'); sys.stderr.write({stderr!r}); sys.exit({code})"
    codes = {41: "not_logged_in", 2: "context_too_long"}
    found = await failure(make(script, exit_codes=codes))
    assert type(found) is error
    assert (stderr or "so far") in found.message


async def test_an_error_among_the_lines_counts_whatever_the_exit_code(make: Make) -> None:
    settings = {"output": "jsonl", "text": "$.text", "error": "$.error"}
    found = await failure(make("""print('{"error": {"why": "tired"}}')""", **settings))
    assert type(found) is UpstreamError
    assert "tired" in found.message


async def test_leaving_stops_the_program_and_its_children(make: Make, tmp_path: Path) -> None:
    script = """
import subprocess, sys, time
held = open(sys.argv[1], "w")
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=held)
print("on", flush=True)
time.sleep(600)
"""
    fifo = anyio.Path(tmp_path / "fifo")
    os.mkfifo(fifo)
    backend = make(script, str(fifo))
    with anyio.fail_after(HUNG_S):
        async with anyio.create_task_group() as group:
            group.start_soon(fifo.read_bytes)  # ends once nobody holds the other end
            async with backend.open(turn("hi"), None) as stream:
                assert [await anext(aiter(stream)) for _ in range(2)][1] == TextDelta("on")
                assert backend.processes.running == 1


async def test_closing_stops_what_runs(make: Make) -> None:
    backend = make("import time; print('on', flush=True); time.sleep(600)")
    with anyio.fail_after(HUNG_S):
        async with backend.open(turn("hi"), None) as stream:
            events = []
            async for event in stream:
                events.append(event)
                backend.close()
    assert isinstance(events[-1], Failed)


async def test_a_program_that_is_not_there_is_named_with_what_to_do(make: Make) -> None:
    backend = make(command=["/no/such/program"])
    health = await backend.health()
    assert (health.state, backend.installed) == (State.MISSING, False)
    assert "check `command`" in str(health.reason)
    with pytest.raises(NotInstalledError, match="mend `command`"):
        backend.check(turn("hi"))


async def test_a_program_that_cannot_run_leaves_nothing(make: Make, tmp_path: Path) -> None:
    program = tmp_path / "broken"
    program.write_bytes(b"\x7fELF")
    program.chmod(0o755)
    backend = make(command=[str(program)])
    await backend.warm()
    assert (await backend.health()).state is State.READY
    with pytest.raises(CliCrashedError, match="could not be started"):
        await ask(backend, "hi")
    assert backend.processes.failures == 1


async def test_tools_are_refused_and_effort_is_named(make: Make) -> None:
    with pytest.raises(UnsupportedError):
        make().check(turn("hi", tools=(ToolSpec("t"),)))
    assert make().check(turn("hi", effort="high")) == ("reasoning_effort",)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ("command: [a], prompt: argv", "must hold {prompt}"),
        ('command: [a, "{file}"]', "needs 'prompt: file'"),
        ('command: [a, "{model}"]', "needs 'model'"),
        ("command: [a], output: jsonl", "needs 'text'"),
        ('command: [a], output: jsonl, text: "a.b"', "text: string should match pattern"),
    ],
)
def test_settings_that_do_not_fit_together_are_named(settings: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=r"b\.yaml:2: backends\.c") as caught:
        parse(f"backends:\n  c: {{kind: command, {settings}}}\n", name="b.yaml", env=os.environ)
    assert fault in str(caught.value)
