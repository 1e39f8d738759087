"""The configuration as the command line reads it."""

import os
from collections.abc import Mapping
from pathlib import Path

from clinvk.cli.common import UsageError
from clinvk.config import Config, ConfigError, Loaded, find, load
from clinvk.environment import listening, with_upstream
from clinvk.extras import with_embeddings
from clinvk.keys import Keyring


def read_config(config_file: Path | None, *, look_here: bool = False) -> Loaded:
    """Return the configuration, or end with a usage error that says what is wrong with it."""
    try:
        return loaded(find(config_file, look_here=look_here))
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc


def loaded(path: Path | None) -> Loaded:
    """Return the configuration of a file; without one the built-in, with the environment's word.

    Where no backends are named, an extra that is installed adds its own.

    Raises:
        ConfigError: if either is wrong.
    """
    found = load(path)
    config = with_embeddings(found.config)
    if found.path is None:
        config = with_upstream(config, os.environ)
    return Loaded(config, found.path)


def open_keyring(config: Config) -> Keyring:
    """Return the keys of a server, or end with a usage error that says what is wrong with them."""
    try:
        return Keyring(config.server, env=os.environ, users=True)
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc


def with_server(config: Config, said: Mapping[str, str | int | bool | None]) -> Config:
    """Return the configuration with what the command line says of the server.

    Raises:
        ConfigError: if the environment, which says where to listen if nobody else does, is wrong.
    """
    changes: dict[str, str | int | None] = {
        k: v for k, v in said.items() if v is not None and v is not False
    }
    if "host" in changes or "port" in changes:
        if "uds" in changes:
            raise UsageError("--uds takes the place of --host and --port; leave them out")
        changes["uds"] = None
    changes = {**listening(config.server, os.environ), **changes}
    return config.model_copy(update={"server": config.server.model_copy(update=changes)})
