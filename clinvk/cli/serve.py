"""`clinvk serve`: arguments, the listening line, the table of what is ready."""

from pathlib import Path

import anyio
import click

from clinvk.cli.common import EXIT_FAILED, config_option, read_config, set_up_logging, with_server
from clinvk.cli.render import error_console, health_table
from clinvk.server.app import create_app
from clinvk.server.lifecycle import ListenError
from clinvk.server.lifecycle import serve as serve_app
from clinvk.service import Service


@click.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="0 picks one.  [default: 8080]")
@config_option
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
def serve(host: str | None, port: int | None, config_file: Path | None, log_level: str) -> None:
    """Serve the CLIs as OpenAI models over HTTP, until Ctrl-C."""
    set_up_logging(log_level)
    loaded = read_config(config_file, look_here=True)
    if loaded.path is not None:
        click.echo(f"read {loaded.path}", err=True)
    config = with_server(loaded.config, host=host, port=port)

    async def ready(address: str, service: Service) -> None:
        click.echo(f"clinvk is listening on {address}")
        error_console().print(health_table(service.registry, await service.health()))

    try:
        anyio.run(serve_app, create_app(config, warm=True), config.server, ready)
    except ListenError as exc:
        click.echo(f"clinvk: {exc}", err=True)
        raise SystemExit(EXIT_FAILED) from exc
