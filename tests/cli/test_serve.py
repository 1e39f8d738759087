"""`clinvk serve` as a process: its first line, its signals, its exit code."""

import http.client
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.cli.conftest import Clinvk, has_ended, interrupted, read_until


def served(clinvk: Clinvk, *args: str, **how: Any) -> tuple["subprocess.Popen[bytes]", str]:
    """Start a server and give its address, from the first line it prints."""
    process = clinvk.start("serve", "--port", "0", *args, stdin=subprocess.DEVNULL, **how)
    assert process.stdout is not None
    line = process.stdout.readline().decode()
    assert line.startswith("clinvk is listening on http://")
    return process, line.split()[-1]


@contextmanager
def asked(address: str, text: str) -> Iterator[http.client.HTTPResponse]:
    """Ask for a streamed answer and give the response, its first words read."""
    parts = urlsplit(address)
    assert parts.hostname is not None
    with closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)) as connection:
        message = {"role": "user", "content": text}
        body = json.dumps({"model": "claude", "stream": True, "messages": [message]})
        headers = {"Content-Type": "application/json"}
        connection.request("POST", f"{parts.path}/chat/completions", body, headers)
        with connection.getresponse() as response:
            assert response.status == 200
            while b"begun" not in response.readline():
                pass
            yield response


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_with_exit_code_0(clinvk: Clinvk, number: signal.Signals) -> None:
    process, _ = served(clinvk)
    read_until(process.stderr, "echo")  # the table of what is ready
    ended = interrupted(process, number)
    assert (ended.code, ended.out) == (0, "")


def test_table_says_what_is_ready_and_how_to_mend_the_rest(clinvk: Clinvk) -> None:
    process, _ = served(clinvk)
    table = read_until(process.stderr, "echo")
    assert "fix: npm install -g @openai/codex" in table
    assert table.splitlines()[-1].split() == ["echo", "ready", "echo"]


def test_it_says_which_file_it_read(clinvk: Clinvk) -> None:
    (clinvk.folder / "backends.yaml").write_text("backends: {here: {kind: echo}}")
    process, _ = served(clinvk)
    errors = read_until(process.stderr, "ready")
    assert errors.splitlines()[0] == f"read {clinvk.folder}/backends.yaml"
    assert errors.splitlines()[-1].split() == ["here", "ready", "here"]


def test_routes_are_told_beside_the_backends(clinvk: Clinvk) -> None:
    (clinvk.folder / "backends.yaml").write_text(
        "backends: {here: {kind: echo}}\nroutes: {best: [here/x, here]}"
    )
    process, _ = served(clinvk)
    assert read_until(process.stderr, "here/x, here").splitlines()[-1].split() == [
        *("best", "route", "to"),
        *("here/x,", "here"),
    ]


def test_running_turn_may_finish(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    process, address = served(clinvk)
    with asked(address, "please wait") as response:
        process.send_signal(signal.SIGTERM)
        (clinvk.folder / "go").write_bytes(b"")
        rest = response.read().decode()
    assert "please" in rest
    assert rest.endswith("data: [DONE]\n\n")
    assert process.wait(30) == 0


def test_second_signal_stops_the_running_turn(clinvk: Clinvk) -> None:
    pid_file = clinvk.with_fake_claude()
    process, address = served(clinvk)
    with asked(address, "please hang") as response:
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        rest = response.read().decode()
    assert "server_shutting_down" in rest
    assert process.wait(30) == 0
    assert has_ended(pid_file)


def test_grace_period_is_bounded(clinvk: Clinvk) -> None:
    clinvk.with_fake_claude()
    text = clinvk.user_file.read_text()
    clinvk.user_file.write_text(text.replace("grace_s: 3600", "grace_s: 0.1"))
    process, address = served(clinvk)
    with asked(address, "please hang") as response:
        process.send_signal(signal.SIGTERM)
        assert "server_shutting_down" in response.read().decode()
    assert process.wait(30) == 0


def test_port_in_use_says_what_to_do(clinvk: Clinvk) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = clinvk("serve", "--port", str(taken.getsockname()[1]))
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines()[-1].startswith("clinvk: cannot listen on 127.0.0.1:")
    assert ended.err.splitlines()[-1].endswith(
        "choose another with --host and --port (0 picks a free port)"
    )


def test_host_that_is_no_address_of_this_machine_says_so(clinvk: Clinvk) -> None:
    ended = clinvk("serve", "--host", "192.0.2.1", "--port", "0", "--insecure-no-auth")
    assert (ended.code, ended.out) == (1, "")
    assert "clinvk: cannot listen on 192.0.2.1:0: " in ended.err


def test_ipv6_address_is_written_in_brackets(clinvk: Clinvk) -> None:
    process, address = served(clinvk, "--host", "::1")
    assert address.startswith("http://[::1]:")
    assert interrupted(process, signal.SIGTERM).code == 0
