"""What several commands share and `--help` can afford: exit codes, errors, an option."""

import json
import sys
from pathlib import Path
from typing import TextIO

import click

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_SIGNAL = 128  # plus the signal's number

# A model's text must not steer the terminal: C0 and C1 controls become pictures of themselves.
_CONTROLS = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t\r"},
    ord("\r"): None,
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Read this backends.yaml.",
)


class CommandError(click.ClickException):
    """The command failed; the message is printed after the program's name."""

    exit_code = EXIT_FAILED


class UsageError(CommandError):
    """The caller's mistake."""

    exit_code = EXIT_USAGE


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads (or types into) the stream; it is None if it was closed."""
    return stream is not None and stream.isatty()


def visible(text: str) -> str:
    """Return `text` with its control characters made visible, but newlines and tabs."""
    return text.translate(_CONTROLS)


def as_json(value: object) -> str:
    """Return JSON for stdout: indented for a person, one line for a program."""
    if is_terminal(sys.stdout):
        return visible(json.dumps(value, indent=2, ensure_ascii=False))
    return json.dumps(value)
