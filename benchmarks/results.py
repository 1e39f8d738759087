"""What a run found, as JSON and as a table: figures, their targets, and the machine. Pure.

A target is text such as `<= 1.15`; without one a figure only informs.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.stats import Spread

BEGIN = "<!-- figures: begin -->"
END = "<!-- figures: end -->"
_TARGET = re.compile(r"(<=|>=|=) (\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: a median with its spread where it was measured more than once."""

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    n: int = 1
    target: str | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it is what it should be; None without a target."""
        if self.target is None:
            return None
        found = _TARGET.fullmatch(self.target)
        if found is None:
            raise ValueError(f"{self.target!r} is no target; write `<= 1.15`, `>= 7` or `= 200`")
        bound = float(found[2])
        return {
            "<=": self.value <= bound,
            ">=": self.value >= bound,
            "=": self.value == bound,
        }[found[1]]


def figure(
    name: str, found: Spread, unit: str, target: str | None = None, note: str = ""
) -> Figure:
    """Return a figure of several measurements."""
    return Figure(name, found.middle, unit, found.low, found.high, found.n, target, note)


@dataclass(frozen=True, slots=True)
class Part:
    """What one part of the benchmark found, where and how."""

    name: str
    figures: tuple[Figure, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False


def dump(parts: Iterable[Part]) -> str:
    """Return the parts as JSON."""
    return json.dumps({part.name: asdict(part) for part in parts}, indent=1) + "\n"


def load(text: str) -> dict[str, Part]:
    """Return the parts of what `dump` wrote.

    Raises:
        ValueError: if it is something else.
    """
    try:
        return {
            name: Part(**{**told, "figures": tuple(Figure(**f) for f in told["figures"])})
            for name, told in json.loads(text).items()
        }
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"these are no results of a run: {exc}") from exc


def read(path: Path) -> list[Part]:
    """Return the parts in a file, none if there is no file.

    Raises:
        ValueError: if it holds something else.
    """
    return list(load(path.read_text("utf-8")).values()) if path.exists() else []


def merge(path: Path, parts: Iterable[Part]) -> None:
    """Write the parts to a file, in place of those of the same names."""
    known = {part.name: part for part in (*read(path), *parts)}
    path.write_text(dump(known[name] for name in sorted(known)), "utf-8")


def table(parts: Iterable[Part]) -> str:
    """Return the parts as Markdown."""
    return "\n".join(_section(part) for part in parts)


def put_table(page: str, told: str) -> str:
    """Return a page with its table replaced.

    Raises:
        ValueError: if it has no place for one.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no lines {BEGIN!r} and {END!r} to put the table between")
    return f"{head}{BEGIN}\n\n{told}\n{END}{tail}"


def _section(part: Part) -> str:
    where = ", ".join(f"{key} {value}" for key, value in part.machine.items())
    how = ", ".join(f"{key} {value}" for key, value in part.settings.items())
    lines = [
        f"### {part.name}",
        "",
        f"{where}.{' A quick run.' if part.quick else ''}  ",
        f"{how}.",
        "",
        "| | median | 10 % to 90 % | n | target | |",
        "|---|--:|--:|--:|--:|---|",
        *map(_row, part.figures),
        "",
    ]
    return "\n".join(lines)


def _row(told: Figure) -> str:
    around = "" if told.low is None or told.high is None else f"{_n(told.low)} to {_n(told.high)}"
    verdict = {None: told.note, True: "met", False: "**missed**"}[told.met]
    if told.note and told.met is not None:
        verdict = f"{verdict}; {told.note}"
    target = told.target or ""
    value = f"{_n(told.value)} {told.unit}".rstrip()
    return f"| {told.name} | {value} | {around} | {told.n} | {target} | {verdict} |"


def _n(value: float) -> str:
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"
