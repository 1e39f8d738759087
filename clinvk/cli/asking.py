"""What `clinvk run` does: one turn in this process, shown as it comes, and how its end is told."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import anyio
import click

from clinvk.cli.common import (
    EXIT_FAILED,
    EXIT_SIGNAL,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    is_terminal,
    visible,
)
from clinvk.cli.interrupt import Interruption
from clinvk.cli.local import local_service
from clinvk.cli.markdown import MarkdownPrinter
from clinvk.cli.printers import JsonPrinter, PlainPrinter, Printer
from clinvk.cli.render import error_console, output_console
from clinvk.cli.report import Report
from clinvk.cli.settings import read_config
from clinvk.config import Config
from clinvk.errors import (
    BadRequestError,
    ClinvkError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from clinvk.events import Failed
from clinvk.registry import Registry
from clinvk.service import Service
from clinvk.stream import Stream
from clinvk.turn import Message, Role, TextPart, Turn

EXIT_BROKEN_PIPE = EXIT_SIGNAL + 13  # as a shell reports SIGPIPE


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask, and whom; no model means the first CLI that is installed."""

    model: str | None
    instructions: str
    text: str

    def to(self, model: str) -> Turn:
        """Return the turn that asks it of `model`."""
        said = ((Role.SYSTEM, self.instructions), (Role.USER, self.text))
        return Turn(model, tuple(Message(role, (TextPart(text),)) for role, text in said if text))


@dataclass(frozen=True, slots=True)
class Style:
    """How to show the answer."""

    as_json: bool
    stream: bool
    quiet: bool

    def printer(self, model: str) -> Printer:
        """Return what shows the answer of `model` on this stdout."""
        if self.as_json:
            return JsonPrinter(model)
        out = output_console()
        if is_terminal(sys.stdout) and out.is_terminal and not out.is_dumb_terminal:
            err = error_console()
            return MarkdownPrinter(out, err, stream=self.stream, thinking=not self.quiet)
        return PlainPrinter(stream=self.stream)


def ask(config_file: Path | None, question: Question, style: Style) -> int:
    """Run one turn, show its answer, and return the exit code."""
    return anyio.run(_run, read_config(config_file).config, question, style)


async def _run(config: Config, question: Question, style: Style) -> int:
    with Interruption() as interruption:
        async with local_service(config) as service:
            with interruption.scope:
                try:
                    return await _ask(service, question, style)
                except BrokenPipeError:
                    _forget_stdout()
                    return EXIT_BROKEN_PIPE
    return EXIT_SIGNAL + interruption.number


async def _ask(service: Service, question: Question, style: Style) -> int:
    try:
        model = question.model or _default_model(service.registry, quiet=style.quiet)
        report = Report(model)
        stream = service.start(question.to(model))
        await _show(stream, style.printer(model), report)
        report.answered_by(stream.backend)
    except ClinvkError as exc:
        click.echo(f"clinvk: {visible(exc.message)}", err=True)
        return exit_code(exc)
    if not style.quiet:
        error_console().print(report.line(), style="dim", markup=False)
    return 0


async def _show(stream: Stream, printer: Printer, report: Report) -> None:
    complete = False
    try:
        async for _, event in stream:
            if isinstance(event, Failed):
                raise event.error
            report.note(event)
            await printer.show(event)
        complete = True
    finally:
        stream.close()
        await printer.end(complete=complete)


def exit_code(error: ClinvkError) -> int:
    """Return the exit code that stands for a failed turn."""
    match error:
        case BadRequestError() | NotFoundError() | TooLargeError():
            return EXIT_USAGE
        case UnavailableError():
            return EXIT_UNAVAILABLE
        case _:
            return EXIT_FAILED


def _default_model(registry: Registry, *, quiet: bool) -> str:
    """Return the first backend whose CLI is installed; echo answers only if there is none."""
    backends = registry.backends.values()
    clis = [backend for backend in backends if backend.kind not in ("echo", "embeddings")]
    echoes = [backend.name for backend in backends if backend.kind == "echo"]
    for backend in clis:
        if backend.installed:
            return backend.name
    if clis and echoes and not quiet:
        click.echo(
            f"clinvk: no CLI is installed, so {echoes[0]} answers; "
            f"'clinvk doctor' says how to install one",
            err=True,
        )
    return (echoes or [backend.name for backend in clis] or list(registry.backends))[0]


def _forget_stdout() -> None:
    """Keep Python from complaining, at its exit, that it cannot flush stdout."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
