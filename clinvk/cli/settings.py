"""The configuration as the command line reads it."""

from pathlib import Path

from clinvk.cli.common import UsageError
from clinvk.config import Config, ConfigError, Loaded, find, load


def read_config(config_file: Path | None, *, look_here: bool = False) -> Loaded:
    """Return the configuration, or end with a usage error that says what is wrong with it."""
    try:
        return load(find(config_file, look_here=look_here))
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc


def with_server(config: Config, *, host: str | None, port: int | None) -> Config:
    """Return the configuration with what the command line says of the server."""
    changes = {k: v for k, v in (("host", host), ("port", port)) if v is not None}
    return config.model_copy(update={"server": config.server.model_copy(update=changes)})
