"""`clinvk keys`: make, list and revoke the keys that callers of the server need."""

import os
import re
from pathlib import Path

import click
from rich.text import Text

from clinvk import keys as kept
from clinvk.cli.common import CommandError, UsageError, as_json, config_option
from clinvk.cli.render import error_console, output_console, plain_table, print_table
from clinvk.cli.settings import read_config
from clinvk.config import KEY_NAME, Config, ConfigError, KeyConfig


@click.group()
def keys() -> None:
    """Make, list and revoke the keys that callers of the server need."""


@keys.command()
@click.argument("name")
@click.option(
    "--requests-per-minute",
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="How many requests it may send in a minute.",
)
@click.option(
    "--max-turns", type=click.IntRange(1, 1024), metavar="N", help="How many turns may run at once."
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="PATTERN",
    help="A model it is for, such as claude or 'codex/*'; may be given more than once.",
)
@config_option
def create(
    name: str,
    requests_per_minute: int | None,
    max_turns: int | None,
    models: tuple[str, ...],
    config_file: Path | None,
) -> None:
    """Make a key, and print it: this once, as only its hash is kept.

    A server that runs takes it at once.
    """
    if not re.fullmatch(KEY_NAME, name):
        raise UsageError(f"{name!r} must be letters, digits, '.', '_', '@' and '-', at most 64")
    path, key = _file(config_file), kept.new_key()
    entry = KeyConfig(
        name=name,
        sha256=kept.hash_of(key),
        created=kept.today(),
        requests_per_minute=requests_per_minute,
        max_turns=max_turns,
        models=[model for model in models if model],
    )
    try:
        kept.add(path, entry)
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc
    except OSError as exc:
        raise CommandError(f"{path} cannot be written: {exc.strerror or exc}") from exc
    click.echo(key)
    click.echo(
        f"its hash is in {path}; send the key as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'",
        err=True,
    )


@keys.command("list")
@click.option("--json", "want_json", is_flag=True, help="Print JSON.")
@config_option
def list_keys(config_file: Path | None, want_json: bool) -> None:
    """List the keys by name: those in the file, in backends.yaml and in $CLINVK_API_KEYS."""
    config = read_config(config_file, look_here=True).config
    rows = _rows(config)
    if want_json:
        click.echo(as_json([{"where": where, **_told(key)} for where, key in rows]))
        return
    if not rows:
        error_console().print("there are no keys; 'clinvk keys create NAME' makes one")
        return
    table = plain_table("name", "created", "requests a minute", "turns at once", "models", "where")
    for where, key in rows:
        cells = (
            key.name,
            key.created or "",
            key.requests_per_minute or "",
            key.max_turns or "",
            ", ".join(key.models) or "all",
            where,
        )
        table.add_row(*(Text(str(cell)) for cell in cells))
    print_table(output_console(), table)


@keys.command()
@click.argument("name")
@config_option
def revoke(name: str, config_file: Path | None) -> None:
    """Make a key invalid, for a server that runs, too."""
    config = read_config(config_file, look_here=True).config
    path = kept.keys_file(config.server)
    try:
        found = kept.remove(path, name)
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc
    except OSError as exc:
        raise CommandError(f"{path} cannot be written: {exc.strerror or exc}") from exc
    elsewhere = [where for where, key in _rows(config) if key.name == name]
    if elsewhere:
        raise UsageError(
            f"the key {name!r} is in {' and '.join(elsewhere)}; remove it there, "
            f"and 'clinvk reload' (what is in the environment needs a new start)"
        )
    if not found:
        names = ", ".join(key.name for _, key in _rows(config)) or "none"
        raise UsageError(f"there is no key {name!r}; there are: {names}")
    click.echo(f"{name} is revoked", err=True)
    if not _rows(config):
        click.echo(
            f"no key is left, and a server that reads {path} lets nobody in; "
            f"remove the file to serve loopback without keys",
            err=True,
        )


def _file(config_file: Path | None) -> Path:
    return kept.keys_file(read_config(config_file, look_here=True).config.server)


def _rows(config: Config) -> list[tuple[str, KeyConfig]]:
    """Every key with where it is."""
    path = kept.keys_file(config.server)
    try:
        in_file = kept.read(path) if path.exists() else []
        in_env = kept.from_environment(os.environ)
    except ConfigError as exc:
        raise UsageError(str(exc)) from exc
    return [
        *((str(path), key) for key in in_file),
        *(("backends.yaml", key) for key in config.server.api_keys),
        *(
            (f"${kept.ENV_VAR}", KeyConfig(name=key.name, sha256=key.digest.hex()))
            for key in in_env
        ),
    ]


def _told(key: KeyConfig) -> dict[str, object]:
    return key.model_dump(mode="json", exclude={"sha256"})
