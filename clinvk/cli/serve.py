"""`clinvk serve`: its arguments; cli/serving.py does it."""

import sys
from pathlib import Path

import click

from clinvk.cli.common import config_option


@click.command()
@click.option("--host", metavar="HOST", help="Address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    help="Port to listen on; 0 picks a free one.  [default: 8080]",
)
@click.option("--uds", metavar="PATH", help="Listen on a Unix socket that only you may use.")
@click.option("--tls-cert", metavar="FILE", help="Speak TLS with this certificate (PEM).")
@click.option("--tls-key", metavar="FILE", help="The certificate's private key (PEM).")
@click.option(
    "--insecure-no-auth", is_flag=True, help="Let others reach it without any key. Think twice."
)
@config_option
@click.option("--no-warm", is_flag=True, help="Start no CLI before it is asked.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to log on stderr.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="A line of words or a JSON object for each event.",
)
@click.option("--log-prompts", is_flag=True, help="Log what is asked and answered, too.")
def serve(
    config_file: Path | None,
    log_level: str,
    log_format: str,
    *,
    no_warm: bool,
    log_prompts: bool,
    **server: str | int | bool | None,
) -> None:
    """Serve the CLIs as OpenAI models over HTTP, until Ctrl-C.

    Ctrl-C or SIGTERM lets running turns finish for a while; a second one ends them at once.
    """
    from clinvk.cli import serving  # noqa: PLC0415 - keeps --help fast

    logs = serving.Logs(log_level, log_format, prompts=log_prompts)
    code = serving.serve_until_signal(config_file, server, logs=logs, warm=not no_warm)
    sys.exit(code)
