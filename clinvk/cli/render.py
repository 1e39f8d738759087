"""How things look in a terminal, by rich: the answer on stdout, everything else on stderr."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from clinvk.backends.base import Health, State
from clinvk.registry import Registry

STATES = {
    State.READY: "[green]ready[/]",
    State.MISSING: "[yellow]not installed[/]",
    State.NOT_LOGGED_IN: "[yellow]not logged in[/]",
    State.FAILING: "[red]failing[/]",
}


def error_console() -> Console:
    """Return a console on stderr."""
    return Console(stderr=True, highlight=False)


def health_table(registry: Registry, health: Mapping[str, Health]) -> Table:
    """Return what each backend offers, or what is wrong with it and how to mend it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("backend", "state", "version", "models, or what to do"):
        table.add_column(heading, overflow="fold")
    ids = [row.id for row in registry.rows()]
    for name, found in health.items():
        models = ", ".join(i for i in ids if i == name or i.startswith(f"{name}/"))
        advice = f"{found.reason or 'it cannot be used'}; run: {found.fix}"
        table.add_row(
            name,
            STATES[found.state],
            found.version or "",
            models if found.state is State.READY else advice,
        )
    return table
