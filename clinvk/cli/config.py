"""`clinvk config`: which backends.yaml is read, what it amounts to, and a first one to edit."""

import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import click
import yaml

from clinvk.cli.common import CommandError, UsageError, config_option
from clinvk.cli.settings import read_config
from clinvk.config import ENV_VAR, FILE_NAME, find, user_file
from clinvk.procs.tail import scrub

MASK = "[hidden]"
_SECRET_NAME = re.compile(
    r"(?i)api[_-]?key|(^|[._-])key$|token|secret|passw|authorization|credential|cookie"
)
# Codex keys whose value is the name of a variable, not what it holds.
_NAMES_A_VARIABLE = re.compile(r"(?i)env_(key|var)$")


@click.group()
def config() -> None:
    """Show or create backends.yaml."""


@config.command()
@config_option
def path(config_file: Path | None) -> None:
    """Print the file that is read, or 'built-in'."""
    found = find(config_file, look_here=False)
    click.echo("built-in" if found is None else str(found))
    if found is None:
        click.echo(f"'clinvk config init' writes {user_file()}", err=True)
    elif not found.is_file():
        click.echo(f"{found} does not exist", err=True)
    if (here := find(config_file, look_here=True)) != found:
        click.echo(f"'clinvk serve' reads {here} in this folder", err=True)


@config.command()
@config_option
def show(config_file: Path | None) -> None:
    """Print the configuration in effect.

    It is YAML, with what looks like a secret hidden.
    """
    loaded = read_config(config_file)
    data = hide_secrets(loaded.config.model_dump(mode="json"))
    data["backends"] = {
        name: {"kind": backend["kind"], **backend} for name, backend in data["backends"].items()
    }
    click.echo(f"# {'built-in' if loaded.path is None else loaded.path}")
    click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100), nl=False)


@config.command()
@click.option("--force", is_flag=True, help="Overwrite the file.")
def init(force: bool) -> None:
    """Write your own backends.yaml.

    It holds the built-in defaults, with comments, and goes into your configuration folder.
    """
    target = user_file()
    if target.exists() and not force:
        raise UsageError(f"{target} exists; --force overwrites it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch(mode=0o600)  # keys will be written into it
        target.write_text(default_text(), "utf-8")
    except OSError as exc:
        raise CommandError(f"{target} cannot be written: {exc.strerror or exc}") from exc
    click.echo(str(target))
    if named := os.environ.get(ENV_VAR):
        click.echo(f"not read while ${ENV_VAR} names {named}", err=True)


def default_text() -> str:
    """Return the commented defaults: in a wheel they lie in the package, in a checkout above it."""
    package = resources.files("clinvk")
    packaged = package / FILE_NAME
    if packaged.is_file():
        return packaged.read_text("utf-8")
    return (Path(str(package)).parent / FILE_NAME).read_text("utf-8")


def hide_secrets(value: Any, name: str = "") -> Any:  # noqa: ANN401 - any JSON
    """Return `value` with every text masked that looks like a secret, by its name or itself."""
    if isinstance(value, dict):
        return {key: hide_secrets(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [hide_secrets(item, name) for item in value]
    if not isinstance(value, str):
        return value
    if _SECRET_NAME.search(name) and not _NAMES_A_VARIABLE.search(name):
        return MASK
    return scrub(value)
