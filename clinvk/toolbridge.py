"""Leads an agent that starts its MCP servers itself to the tools on clinvk's loopback port.

The agent runs this file as an MCP server over stdin and stdout, a message a line; each goes on to
the address in the environment, and what is answered comes back as a line. It knows no tool. It
ends with its stdin, and with the offer at that address, though the agent may forget it: a request
that waits for the offer's end is held there all the while.

Run as a program it is the bridge; so it imports nothing but the standard library.
"""

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

URL, SECRET = "CLINVK_TOOLS_URL", "CLINVK_TOOLS_SECRET"
SECRET_HEADER = "X-Clinvk-Secret"  # noqa: S105 - its name
UNTIL_END = "clinvk/until_end"

COMMAND = (sys.executable, "-I", "-S", str(Path(__file__).resolve()))

_INTERNAL_ERROR = -32603


class Bridge:
    """Passes messages on, each over a connection of its own, and writes what is answered."""

    def __init__(self, url: str, secret: str, out: IO[bytes]) -> None:
        parts = urlsplit(url)
        self._host, self._path, self._secret = parts.netloc, parts.path, secret
        self._out = out
        self._lock = threading.Lock()
        self._open: dict[object, HTTPConnection] = {}

    def forward(self, line: bytes) -> None:
        """Send a message on; its answer is written once it is there."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        told = message if isinstance(message, dict) else {}
        number = told.get("id")
        connection = HTTPConnection(self._host)
        if number is not None:
            with self._lock:
                self._open[_key(number)] = connection
        try:
            self.send(connection, line)
        except OSError as exc:
            self._fail(number, exc)
            return
        if told.get("method") == "notifications/cancelled":
            self._drop(told.get("params"))
        threading.Thread(target=self._answer, args=(number, connection), daemon=True).start()

    def wait(self) -> None:
        """Return once the offer has ended."""
        message = {"jsonrpc": "2.0", "id": UNTIL_END, "method": UNTIL_END}
        connection = HTTPConnection(self._host)
        with contextlib.closing(connection), contextlib.suppress(OSError, HTTPException):
            self.send(connection, json.dumps(message).encode())
            connection.getresponse().read()

    def send(self, connection: HTTPConnection, body: bytes) -> None:
        """Post a message; its answer can be read from the connection.

        Raises:
            OSError: if nobody is there.
        """
        headers = {"Content-Type": "application/json", SECRET_HEADER: self._secret}
        connection.request("POST", self._path, body, headers)

    def _answer(self, number: object, connection: HTTPConnection) -> None:
        try:
            answer = connection.getresponse().read().strip()
        except (OSError, HTTPException) as exc:
            self._fail(number, exc)
            return
        finally:
            connection.close()
        self._write(number, answer)

    def _fail(self, number: object, exc: Exception) -> None:
        error = {"code": _INTERNAL_ERROR, "message": f"the tools are gone: {exc}"}
        answer = {"jsonrpc": "2.0", "id": number, "error": error}
        self._write(number, b"" if number is None else json.dumps(answer).encode())

    def _drop(self, params: object) -> None:
        """End the request that is given up, so that its end is seen over there."""
        number = params.get("requestId") if isinstance(params, dict) else None
        with self._lock:
            connection = self._open.pop(_key(number), None)
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _write(self, number: object, answer: bytes) -> None:
        with self._lock:
            wanted = number is None or self._open.pop(_key(number), None) is not None
            if answer and wanted:
                with contextlib.suppress(OSError, ValueError):
                    self._out.write(answer + b"\n")
                    self._out.flush()


def _key(number: object) -> str:
    return json.dumps(number)


def serve(
    lines: IO[bytes],
    out: IO[bytes],
    env: Mapping[str, str],
    end: Callable[[int], None] = os._exit,
) -> None:
    """Pass on what comes until the lines end; `end` the whole process if the offer does first."""
    bridge = Bridge(env[URL], env[SECRET], out)

    def until_end() -> None:
        bridge.wait()
        end(0)

    threading.Thread(target=until_end, daemon=True).start()
    for line in lines:
        if line.strip():
            bridge.forward(line)


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer, os.environ)
    os._exit(0)  # nothing that still waits is heard any more
