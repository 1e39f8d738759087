"""`clinvk reload`: have running servers read backends.yaml again."""

import os
import signal

import click

from clinvk.cli.common import CommandError
from clinvk.cli.running import servers


@click.command()
def reload() -> None:
    """Have your running servers read backends.yaml again.

    New turns use it, running ones end as they began; a file with mistakes is left alone, and the
    server's log says why.
    """
    found = servers()
    if not found:
        raise CommandError("no server of yours runs; start one with: clinvk serve")
    for pid, address in found:
        os.kill(pid, signal.SIGHUP)
        click.echo(f"told {address} to read its settings again")
