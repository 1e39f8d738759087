"""The configuration as the command line reads it."""

import os
from collections.abc import Mapping
from pathlib import Path

from clinvk.cli.common import UsageError
from clinvk.config import Config, ConfigError, Loaded, find, load
from clinvk.keys import Keyring


def read_config(config_file: Path | None, *, look_here: bool = False) -> Loaded:
    """Return the configuration, or end with a usage error that says what is wrong with it."""
    try:
        return load(find(config_file, look_here=look_here))
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc


def open_keyring(config: Config) -> Keyring:
    """Return the keys of a server, or end with a usage error that says what is wrong with them."""
    try:
        return Keyring(config.server, env=os.environ, users=True)
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc


def with_server(config: Config, said: Mapping[str, str | int | bool | None]) -> Config:
    """Return the configuration with what the command line says of the server."""
    changes: dict[str, str | int | None] = {
        k: v for k, v in said.items() if v is not None and v is not False
    }
    if "host" in changes or "port" in changes:
        if "uds" in changes:
            raise UsageError("--uds takes the place of --host and --port; leave them out")
        changes["uds"] = None
    return config.model_copy(update={"server": config.server.model_copy(update=changes)})
