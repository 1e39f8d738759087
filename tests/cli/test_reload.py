"""New settings for a running `clinvk serve`: SIGHUP, `clinvk reload`, and a terminal that goes."""

import json
import os
import pty
import signal
import subprocess
import urllib.request
from pathlib import Path

from tests.cli.conftest import WAIT_S, Clinvk, interrupted, read_until
from tests.cli.test_serve import asked, served


def models(address: str) -> list[str]:
    with urllib.request.urlopen(f"{address}/models", timeout=WAIT_S) as reply:
        return [model["id"] for model in json.load(reply)["data"]]


def test_reload_uses_the_new_file_for_new_turns(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    process, address = served(clinvk)
    with asked(address, "please wait") as response:
        clinvk.config(echo={"kind": "echo"}, other={"kind": "echo"})
        ended = clinvk("reload")
        assert (ended.code, ended.err) == (0, "")
        assert ended.out == f"told {address} to read its settings again\n"
        log = read_until(process.stderr, "new settings are used")
        assert "new turns: backends echo, other" in log
        assert models(address) == ["echo", "other"]
        (clinvk.folder / "go").write_bytes(b"")
        assert response.read().decode().endswith("data: [DONE]\n\n")
    assert interrupted(process, signal.SIGTERM).code == 0


def test_a_file_with_mistakes_is_left_alone(clinvk: Clinvk) -> None:
    path = clinvk.config(one={"kind": "echo"})
    process, address = served(clinvk)
    path.write_text("backends: {one: {kind: nonsense}}")
    process.send_signal(signal.SIGHUP)
    log = read_until(process.stderr, "not used")
    assert "the old ones stay" in log
    assert f"{path}:1: backends.one" in log
    assert models(address) == ["one"]
    path.unlink()
    path.mkdir()
    process.send_signal(signal.SIGHUP)
    assert "cannot be read" in read_until(process.stderr, "not used")
    assert interrupted(process, signal.SIGTERM).code == 0


def test_what_needs_a_new_start_is_said(clinvk: Clinvk) -> None:
    clinvk.config(one={"kind": "echo"})
    process, address = served(clinvk)
    clinvk.config({"grace_s": 1, "max_body_mb": 1}, two={"kind": "echo"})
    process.send_signal(signal.SIGHUP)
    log = read_until(process.stderr, "new settings are used")
    assert "server.grace_s, server.max_body_mb will be used from the next start on" in log
    assert models(address) == ["two"]


def test_reload_without_a_server_says_so(clinvk: Clinvk) -> None:
    ended = clinvk("reload")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "clinvk: no server of yours runs; start one with: clinvk serve\n"


def test_a_server_that_was_killed_is_not_found(clinvk: Clinvk) -> None:
    process, _ = served(clinvk)
    [file] = state(clinvk).iterdir()
    process.kill()
    process.wait(WAIT_S)
    assert clinvk("reload").code == 1
    assert not file.exists()


def test_a_server_that_ended_is_not_found(clinvk: Clinvk) -> None:
    process, _ = served(clinvk)
    assert interrupted(process, signal.SIGTERM).code == 0
    assert list(state(clinvk).iterdir()) == []


def test_a_server_with_no_place_for_its_file_serves_all_the_same(clinvk: Clinvk) -> None:
    state(clinvk).parent.mkdir(parents=True)
    state(clinvk).write_text("in the way")
    process, address = served(clinvk)
    assert "echo" in models(address)
    assert interrupted(process, signal.SIGTERM).code == 0


def test_a_terminal_that_goes_takes_its_server_along(clinvk: Clinvk) -> None:
    master, slave = pty.openpty()
    process = clinvk.start(
        *("serve", "--port", "0"),
        stdin=slave,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: own_terminal(slave),
    )
    os.close(slave)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(b"clinvk is listening")
    os.close(master)
    assert process.wait(WAIT_S) == 0


def own_terminal(slave: int) -> None:
    """Make a terminal that of this process alone; its output stays where it is."""
    import fcntl  # noqa: PLC0415 - in a child between fork and exec
    import termios  # noqa: PLC0415

    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


def state(clinvk: Clinvk) -> Path:
    return Path(clinvk.env["HOME"]) / ".local/state/clinvk/servers"
