"""What `clinvk serve` does: the listening line on stdout, all else on stderr."""

import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
import click

from clinvk.cli import settings
from clinvk.cli.common import CommandError, UsageError
from clinvk.cli.local import set_up_logging
from clinvk.cli.render import error_console, health_table, print_table
from clinvk.cli.running import announced
from clinvk.cli.settings import open_keyring, read_config, with_server
from clinvk.config import Config, ConfigError, find
from clinvk.environment import listening
from clinvk.server.app import create_app
from clinvk.server.lifecycle import serve
from clinvk.server.listening import ExposedError, ListenError
from clinvk.service import Service

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Logs:
    """What is logged, and how."""

    level: str
    format: str
    prompts: bool


def serve_until_signal(
    config_file: Path | None,
    server: Mapping[str, str | int | bool | None],
    *,
    logs: Logs,
    warm: bool,
) -> int:
    """Serve and return the exit code; `server` is what the command line says of the server.

    Raises:
        CommandError: if the address cannot be listened on.
    """
    loaded = read_config(config_file, look_here=True)
    set_up_logging(logs.level, logs.format)
    if loaded.path is not None:
        # It names the programs that will be run, and may lie in the current folder.
        click.echo(f"read {loaded.path.absolute()}", err=True)
    try:
        config = with_server(loaded.config, server)
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc
    by_environment = {} if server.get("uds") else listening(loaded.config.server, os.environ)
    if told := [name for name in by_environment if server.get(name) is None]:
        names = " and ".join(f"${name.upper()}" for name in told)
        click.echo(f"where to listen is said by {names}", err=True)
    keyring = open_keyring(config)
    if keyring.required:
        click.echo(f"callers need a key: {', '.join(keyring.names) or 'none is valid'}", err=True)
    app = create_app(config, warm=warm, log_prompts=logs.prompts, keyring=keyring)

    def reload() -> Config | None:
        path = loaded.path or find(config_file, look_here=True)
        new = _read_again(path, server, config)
        if new is not None:
            keyring.configure(new.server, env=os.environ)
        return new

    try:
        with ExitStack() as running:
            announce = partial(_announce, running)
            anyio.run(serve, app, config.server, announce, reload)
    except ExposedError as exc:
        raise UsageError(str(exc)) from exc
    except ListenError as exc:
        raise CommandError(str(exc)) from exc
    return 0


def _read_again(
    path: Path | None, server: Mapping[str, str | int | bool | None], old: Config
) -> Config | None:
    """Return the configuration as it is now; None, and the log says why, if it is wrong."""
    try:
        new = with_server(settings.loaded(path).config, server)
    except (ConfigError, UsageError) as exc:
        _log.error("the new settings are not used, the old ones stay: %s", exc)
        return None
    later = sorted(
        name
        for name in type(old.server).model_fields
        if name != "api_keys" and getattr(old.server, name) != getattr(new.server, name)
    )
    if later:
        names = ", ".join(f"server.{name}" for name in later)
        _log.warning("%s will be used from the next start on", names)
    _log.info("new settings are used for new turns: backends %s", ", ".join(new.backends))
    return new


async def _announce(running: ExitStack, address: str, service: Service) -> None:
    running.enter_context(announced(address))
    click.echo(f"clinvk is listening on {address}")
    print_table(error_console(), health_table(service.registry, await service.health()))
