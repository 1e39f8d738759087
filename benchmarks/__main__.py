"""The way in: `python -m benchmarks PART …`, and `table` for what was measured before.

Owns arguments, files and the machine's description; each part measures by itself.
"""

import os
import platform
import sys
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks import chat, first_token, memory, overhead, real, relayed, results, startup
from benchmarks.processes import BenchmarkError
from benchmarks.progress import Progress
from benchmarks.results import Part

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
PAGE = HERE / "README.md"

PARTS: dict[str, Any] = {
    "chat": chat,
    "first-token": first_token,
    "memory": memory,
    "overhead": overhead,
    "relayed": relayed,
    "startup": startup,
}
PROFILES = ("overhead", "relayed", "startup")


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice([*PARTS, "all", "table"]), required=True)
@click.option("--quick", is_flag=True, help="Measure little, to see that it works.")
@click.option("--set", "sizes", multiple=True, metavar="PART.NAME=N", help="Set how much is asked.")
@click.option(
    "--cli",
    "clis",
    multiple=True,
    type=click.Choice(real.NAMES),
    help="Measure this real CLI, and no others.",
)
@click.option("--profile", is_flag=True, help="Show where the time goes, instead of measuring.")
@click.option(
    "--results",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where figures are kept.  [default: benchmarks/results.json, and nowhere with --quick]",
)
@click.option("--write", is_flag=True, help="Put the kept table into benchmarks/README.md.")
def main(
    *,
    parts: tuple[str, ...],
    quick: bool,
    sizes: tuple[str, ...],
    clis: tuple[str, ...],
    profile: bool,
    file: Path | None,
    write: bool,
) -> None:
    """Measure PARTS of clinvk and print their figures as a table.

    `all` is every part; `table` measures nothing and prints what is kept.
    """
    chosen = list(PARTS) if "all" in parts else [name for name in PARTS if name in parts]
    keep = file or (None if quick else RESULTS)
    try:
        with Progress() as progress:
            if profile:
                for name in (each for each in chosen if each in PROFILES):
                    size = _size(name, sizes, clis, quick=quick)
                    click.echo(f"{PARTS[name].profile(size, progress)}\n")
                return
            measured = []
            for name in chosen:
                size = _size(name, sizes, clis, quick=quick)
                here = machine()
                part: Part = PARTS[name].measure(size, progress, quick=quick)
                measured.append(replace(part, machine=here))
                if keep is not None:
                    results.merge(keep, measured[-1:])  # at once: the next may fail
        kept = results.read(file or RESULTS)
    except (BenchmarkError, ValueError) as exc:
        raise click.ClickException(str(exc)) from exc
    click.echo(results.table(kept if "table" in parts else measured))
    if write:
        PAGE.write_text(results.put_table(PAGE.read_text("utf-8"), results.table(kept)), "utf-8")


def _size(name: str, sizes: tuple[str, ...], clis: tuple[str, ...], *, quick: bool) -> Any:  # noqa: ANN401 - any part's Size
    module = PARTS[name]
    size = resized(module.QUICK if quick else module.Size(), name, sizes)
    return replace(size, clis=clis) if clis and hasattr(size, "clis") else size


def resized(size: Any, part: str, sizes: tuple[str, ...]) -> Any:  # noqa: ANN401 - any part's Size
    """Return a size with what was set for its part.

    Raises:
        BenchmarkError: if it has no such number.
    """
    for told in sizes:
        place, _, value = told.partition("=")
        owner, _, name = place.partition(".")
        if owner not in PARTS or not value.isdecimal():
            raise BenchmarkError(f"{told!r} sets nothing; write it as overhead.rounds=3")
        if owner == part:
            known = [f.name for f in fields(size) if isinstance(getattr(size, f.name), int)]
            if name not in known:
                raise BenchmarkError(f"{part} has no {name!r}; it has {', '.join(known)}")
            size = replace(size, **{name: int(value)})
    return size


def machine() -> dict[str, str]:
    """Return where this runs: what figures depend on."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "system": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
        "load before": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
