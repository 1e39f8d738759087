"""`clinvk models`: what can be asked for."""

from pathlib import Path

import click

from clinvk.cli.common import as_json, config_option


@click.command()
@click.option("--json", "want_json", is_flag=True, help="Print the list object of GET /models.")
@config_option
def models(want_json: bool, config_file: Path | None) -> None:
    """List the models that can be asked for: those of every CLI that is installed.

    Any other model that a CLI knows is asked for as BACKEND/MODEL.
    """
    from clinvk.cli.local import models_of  # noqa: PLC0415 - keeps --help fast
    from clinvk.cli.render import output_console, plain_table, print_table  # noqa: PLC0415
    from clinvk.cli.settings import read_config  # noqa: PLC0415
    from clinvk.wire.openai_models import list_body  # noqa: PLC0415

    rows = models_of(read_config(config_file).config)
    if want_json:
        models = ((row.id, row.owned_by, row.capabilities.told()) for row in rows)
        click.echo(as_json(list_body(models)))
        return
    table = plain_table("model", "owned by")
    for row in rows:
        table.add_row(row.id, row.owned_by)
    print_table(output_console(), table)
