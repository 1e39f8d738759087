"""`clinvk run`: its arguments; cli/asking.py does it."""

import sys
from pathlib import Path

import click

from clinvk.cli.common import config_option
from clinvk.cli.prompt import compose

EPILOG = """\
Exit codes: 0 answered, 1 the backend failed, 2 usage or an unknown model, 3 the CLI is not
installed or not logged in, 130 interrupted.
"""


@click.command(epilog=EPILOG)
@click.argument("prompt", required=False)
@click.option("-m", "--model", help="Model to ask.  [default: that of the first installed CLI]")
@click.option("-s", "--system", "instructions", default="", help="System prompt.")
@click.option(
    "-f",
    "--file",
    "files",
    type=click.Path(path_type=Path),
    metavar="FILE",
    multiple=True,
    help="Text file to put before the prompt; may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the chat.completion object.")
@click.option("--no-stream", is_flag=True, help="Print the answer once it is complete.")
@click.option("-q", "--quiet", is_flag=True, help="Print no thinking, tokens and time on stderr.")
@config_option
def run(  # noqa: PLR0913, PLR0917 - one parameter an option
    prompt: str | None,
    model: str | None,
    instructions: str,
    files: tuple[Path, ...],
    as_json: bool,
    no_stream: bool,
    quiet: bool,
    config_file: Path | None,
) -> None:
    """Ask one question, without a server.

    PROMPT is the question. What is piped in on stdin follows it, after a blank line, or is
    the question if there is no PROMPT.
    """
    from clinvk.cli import asking  # noqa: PLC0415 - keeps --help fast

    question = asking.Question(model, instructions, compose(prompt, files))
    style = asking.Style(as_json=as_json, stream=not no_stream, quiet=quiet)
    sys.exit(asking.ask(config_file, question, style))
