"""The `clinvk` command: its name, its version and its subcommands, each loaded when it is used.

Nothing heavy is imported here, so that `--help` and `--version` answer at once.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from clinvk import __version__

EXIT_INTERRUPTED = 130

# name -> (module and attribute, the line in `clinvk --help`)
COMMANDS = {
    "serve": ("clinvk.cli.serve:serve", "Serve the CLIs as OpenAI models over HTTP."),
    "reload": ("clinvk.cli.reload:reload", "Have running servers read backends.yaml again."),
    "run": ("clinvk.cli.run:run", "Ask one question, without a server."),
    "models": ("clinvk.cli.models:models", "List the models that can be asked for."),
    "doctor": ("clinvk.cli.doctor:doctor", "Check each backend and say how to mend it."),
    "keys": ("clinvk.cli.keys:keys", "Make, list and revoke the keys of callers."),
    "config": ("clinvk.cli.config:config", "Show or create backends.yaml."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called.

    It also gives every failure one form: `clinvk: message` on stderr, and an exit code.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command by name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,  # noqa: ANN401 - click's signature
    ) -> Any:  # noqa: ANN401
        """Run a command line and exit, or return its result if `standalone_mode` is false."""
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.ClickException as exc:
            if not standalone_mode:
                raise
            _report(exc)
            code = exc.exit_code
        except (click.Abort, KeyboardInterrupt):
            if not standalone_mode:
                raise
            code = EXIT_INTERRUPTED
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


def _report(exc: click.ClickException) -> None:
    message = exc.format_message()
    context = exc.ctx if isinstance(exc, click.UsageError) else None
    if context is None:
        click.echo(f"clinvk: {message}", err=True)
    elif message == context.get_help():
        click.echo(message, err=True)  # a group was called without a subcommand
    else:
        message = message[:1].lower() + message[1:].rstrip(".")
        click.echo(f"clinvk: {message}; see {context.command_path} --help", err=True)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="clinvk")
def main() -> None:
    """Serve the coding CLIs you are logged in to as OpenAI models."""
