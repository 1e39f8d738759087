"""`clinvk doctor`: its arguments; cli/checkup.py does it."""

import sys
from pathlib import Path

import click

from clinvk.cli.common import config_option


@click.command()
@click.option("--probe", is_flag=True, help="Also ask each ready backend for one word.")
@click.option("--json", "want_json", is_flag=True, help="Print the findings as JSON.")
@config_option
def doctor(probe: bool, want_json: bool, config_file: Path | None) -> None:
    """Check each backend: installed, tested version, logged in; and say how to mend it.

    Uses no tokens, unless --probe is given. Exit code 1 if nothing but echo works.
    """
    from clinvk.cli import checkup  # noqa: PLC0415 - keeps --help fast

    sys.exit(checkup.check_up(config_file, probe=probe, want_json=want_json))
