"""How things look in a terminal, by rich: consoles and tables."""

import io
import sys
from collections.abc import Mapping

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from clinvk.backends.base import Health, State
from clinvk.cli.common import is_terminal, visible
from clinvk.registry import Registry

UNLIMITED_COLUMNS = 10_000  # what a program reads is not folded

STATES = {
    State.READY: Text("ready", "green"),
    State.MISSING: Text("not installed", "yellow"),
    State.NOT_LOGGED_IN: Text("not logged in", "yellow"),
    State.FAILING: Text("failing", "red"),
}


def output_console() -> Console:
    """Return a console on stdout."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that is not UTF-8 shows a question mark, rather than end the command.
        sys.stdout.reconfigure(errors="replace")
    width = None if is_terminal(sys.stdout) else UNLIMITED_COLUMNS
    return Console(highlight=False, width=width)


def error_console() -> Console:
    """Return a console on stderr."""
    width = None if is_terminal(sys.stderr) else UNLIMITED_COLUMNS
    return Console(stderr=True, highlight=False, width=width)


def plain_table(*headings: str) -> Table:
    """Return a table without lines."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def version(found: Health) -> str:
    """Return a backend's version, and whether it is not the one that clinvk's tests run."""
    if found.version is None:
        return ""
    return f"{found.version} (untested)" if found.tested is False else found.version


def advice(found: Health) -> str:
    """Return what is wrong with a backend and what mends it."""
    if found.state is State.READY:
        return found.reason or ""
    reason = found.reason or "it cannot be used"
    if found.fix is None or found.fix in reason:
        return reason
    return f"{reason}; fix: {found.fix}"


def print_table(console: Console, table: Table) -> None:
    """Print a table; a program that reads it gets no spaces at the ends of lines."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as printed:
        console.print(table)
    lines = [line.rstrip() for line in printed.get().splitlines()]
    click.echo("\n".join(lines), err=console.stderr)


def health_table(registry: Registry, health: Mapping[str, Health]) -> Table:
    """Return what each backend offers, or what is wrong with it and how to mend it; and routes."""
    table = plain_table("backend", "state", "version", "models, or what to do")
    ids = [row.id for row in registry.rows()]
    for name, found in health.items():
        models = ", ".join(i for i in ids if i == name or i.startswith(f"{name}/"))
        what = models if found.state is State.READY else visible(advice(found))
        table.add_row(name, STATES[found.state], version(found), Text(what))
    for name, route in registry.config.routes.items():
        targets = ", ".join(visible(each.target) for each in route.targets)
        table.add_row(Text(visible(name)), "route to", "", Text(targets))
    return table
