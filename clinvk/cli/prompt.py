"""The prompt of `clinvk run`, from the argument, files and stdin."""

import html
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from clinvk.cli.common import UsageError, is_terminal

NO_PROMPT = (
    "there is no prompt; give it as an argument (clinvk run 'why is the sky blue?') "
    "or on stdin (git diff | clinvk run 'review this')"
)


def compose(prompt: str | None, files: Sequence[Path]) -> str:
    """Return the files, each under its name, then the prompt, then stdin if it is not a terminal.

    Raises:
        UsageError: if that is nothing, or not text.
    """
    pieces = [_tagged(path) for path in files]
    if prompt is not None:
        pieces.append(_checked(prompt, "the prompt"))
    # A script without a stdin of its own often has an empty one: no text, no blank line.
    pieces.append(_stdin())
    text = "\n\n".join(piece for piece in pieces if piece)
    if not text.strip():
        raise UsageError(NO_PROMPT)
    return text


def _tagged(path: Path) -> str:
    try:
        content = _text(path.read_bytes(), f"{str(path)!r}")
    except OSError as exc:
        raise UsageError(f"{str(path)!r} cannot be read: {exc.strerror or exc}") from exc
    name = html.escape(os.fsencode(path).decode("utf-8", "replace"))
    newline = "" if content.endswith("\n") else "\n"
    return f'<file name="{name}">\n{content}{newline}</file>'


def _stdin() -> str:
    if sys.stdin is None or is_terminal(sys.stdin):
        return ""
    return _text(sys.stdin.buffer.read(), "stdin")


def _text(data: bytes, name: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise UsageError(f"{name} is not UTF-8 text (byte {exc.start})") from exc
    if "\0" in text:
        raise UsageError(f"{name} is binary (a NUL at character {text.index(chr(0))})")
    return text


def _checked(text: str, name: str) -> str:
    # Bytes of an argument that are not UTF-8 arrive as lone surrogates.
    return _text(text.encode("utf-8", "surrogateescape"), name)
