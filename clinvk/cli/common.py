"""What several commands share: reading the configuration, logging, exit codes."""

import logging
import sys
from pathlib import Path

import click

from clinvk.config import Config, ConfigError, Loaded, find, load

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_INTERRUPTED = 130

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Read this backends.yaml.",
)


def read_config(config_file: Path | None, *, look_here: bool = False) -> Loaded:
    """Return the configuration, or end with a usage error that says what is wrong with it."""
    try:
        return load(find(config_file, look_here=look_here))
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc


class UsageError(click.ClickException):
    """The caller's mistake: printed as it is, exit code 2."""

    exit_code = EXIT_USAGE


def set_up_logging(level: str) -> None:
    """Log to stderr, one line an event."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )


def with_server(config: Config, *, host: str | None, port: int | None) -> Config:
    """Return the configuration with what the command line says of the server."""
    changes = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    return config.model_copy(update={"server": config.server.model_copy(update=changes)})
