"""What `clinvk doctor` does: look at each backend, and name the command that mends it."""

import time
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anyio
import click
from rich.text import Text

from clinvk.backends.base import Health, State
from clinvk.backends.embeddings import EmbeddingsBackend, Input
from clinvk.cli.common import (
    EXIT_FAILED,
    EXIT_SIGNAL,
    as_json,
    visible,
)
from clinvk.cli.interrupt import Interruption
from clinvk.cli.local import local_service
from clinvk.cli.render import (
    STATES,
    advice,
    error_console,
    output_console,
    plain_table,
    print_table,
    version,
)
from clinvk.cli.report import Report
from clinvk.cli.settings import read_config
from clinvk.config import Config
from clinvk.errors import ClinvkError
from clinvk.events import Failed
from clinvk.service import Service
from clinvk.turn import Message, Role, TextPart, Turn

PROBE = "Reply with the single word: ok"
# They stand beside what the server is for, and say nothing of whether it works.
BESIDE = ("echo", "embeddings")


@dataclass(frozen=True, slots=True)
class Probe:
    """How one tiny turn went; times in seconds."""

    first_s: float | None = None
    total_s: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found out about a backend."""

    name: str
    kind: str
    health: Health
    probe: Probe | None

    @property
    def works(self) -> bool:
        """Whether it can be expected to answer."""
        return self.health.state is State.READY and (self.probe is None or not self.probe.error)

    def body(self) -> dict[str, Any]:
        """Return it as JSON."""
        probe = None if self.probe is None else asdict(self.probe)
        return {"kind": self.kind, **asdict(self.health), "probe": probe, "works": self.works}


def check_up(config_file: Path | None, *, probe: bool, want_json: bool) -> int:
    """Examine every backend, print the findings, and return the exit code."""
    findings = anyio.run(_examine, read_config(config_file).config, probe)
    if isinstance(findings, int):
        return findings
    if want_json:
        click.echo(as_json({finding.name: finding.body() for finding in findings}))
    else:
        _print(findings, probed=probe)
    told = [finding for finding in findings if finding.kind not in BESIDE]
    told = told or [finding for finding in findings if finding.kind != "echo"]
    return 0 if any(finding.works for finding in told) else EXIT_FAILED


async def _examine(config: Config, probe: bool) -> list[Finding] | int:
    with Interruption() as interruption:
        async with local_service(config) as service:
            with interruption.scope:
                return await _findings(service, probe=probe)
    return EXIT_SIGNAL + interruption.number


async def _findings(service: Service, *, probe: bool) -> list[Finding]:
    backends = service.registry.backends
    with _progress(f"checking {', '.join(backends)}"):
        health = await service.health()
    probes: dict[str, Probe] = {}
    for name, found in health.items() if probe else ():
        if found.state is State.READY:
            # One after the other: starts at once would slow each other, and spoil the times.
            with _progress(f"asking {name} for one word"):
                probes[name] = await _probe(service, name)
    return [
        Finding(name, backends[name].kind, found, probes.get(name))
        for name, found in health.items()
    ]


async def _probe(service: Service, name: str) -> Probe:
    backend = service.registry.backends[name]
    if isinstance(backend, EmbeddingsBackend):
        return await _probe_embeddings(backend)
    report = Report(name)
    try:
        alone = service.way_of(service.registry.backend_alone(name))
        stream = service.start(Turn(name, (Message(Role.USER, (TextPart(PROBE),)),)), way=alone)
        try:
            async for _, event in stream:
                if isinstance(event, Failed):
                    raise event.error
                report.note(event)
        finally:
            stream.close()
    except ClinvkError as exc:
        return Probe(error=exc.message)
    return Probe(report.first_s, report.total_s)


async def _probe_embeddings(backend: EmbeddingsBackend) -> Probe:
    began = time.monotonic()
    try:
        await backend.embed([Input("input", "ok")], None, lambda _, vector: vector)
    except ClinvkError as exc:
        return Probe(error=exc.message)
    passed = time.monotonic() - began
    return Probe(passed, passed)


def _progress(what: str) -> AbstractContextManager[object]:
    return error_console().status(f"{what} …")


def _print(findings: list[Finding], *, probed: bool) -> None:
    table = plain_table("backend", "state", "version", *(["probe"] if probed else []), "what to do")
    for finding in findings:
        health, probe = finding.health, finding.probe
        cells = [Text(finding.name), STATES[health.state], Text(version(health))]
        if probed:
            cells.append(_timing(probe))
        failure = probe.error if probe and probe.error else ""
        table.add_row(*cells, Text(visible(failure or advice(health))))
    print_table(output_console(), table)


def _timing(probe: Probe | None) -> Text:
    if probe is None:
        return Text("")
    if probe.error is not None or probe.total_s is None:
        return Text("failed", "red")
    first = "" if probe.first_s is None else f"first after {probe.first_s:.2f} s, "
    return Text(f"{first}{probe.total_s:.2f} s")
