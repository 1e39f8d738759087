"""Drives any program that answers a prompt on its stdout, by its entry in backends.yaml alone.

Owns how the prompt reaches it and what its end means; a process a turn, never a shell, in an
empty private folder. What it prints is command_output's.

    check -> words and input; open -> start -> stdout -> events -> exit code
"""

import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from clinvk import transcript
from clinvk.backends import claims, structured
from clinvk.backends.acp_errors import api_error
from clinvk.backends.acp_prompt import with_files_as_text
from clinvk.backends.base import Health, Processes, State, find_program
from clinvk.backends.command_output import JsonParser, LineParser, TextParser
from clinvk.capabilities import Count, Level
from clinvk.config import CommandConfig
from clinvk.errors import (
    BadRequestError,
    CliCrashedError,
    ClinvkError,
    CliProtocolError,
    ContextTooLongError,
    ModelNotFoundError,
    NotInstalledError,
    NotLoggedInError,
    OverloadedError,
    RateLimitedError,
    UpstreamError,
)
from clinvk.events import Event, Failed, Finished, FinishReason, Started
from clinvk.procs import scratch
from clinvk.procs.environment import child_environment
from clinvk.procs.process import (
    Command,
    LineTooLongError,
    Process,
    ProcessGoneError,
    ProcessStartError,
    start,
    when_stopped,
)
from clinvk.procs.supervisor import Supervisor
from clinvk.procs.tail import scrub
from clinvk.turn import Turn, require_known_calls, require_no_tools

INSTALL_FIX = "install it, or mend `command` in backends.yaml"
SCRATCH = "command"
WORD_BYTES = 131_071  # of one argument, on Linux
ARGV_BYTES = 900_000  # of all; macOS has 1 MiB for them and the environment

_PLACE = re.compile(r"\{(model|prompt|system|file)\}")
_ERRORS: dict[str, type[ClinvkError]] = {
    "bad_request": BadRequestError,
    "context_too_long": ContextTooLongError,
    "not_logged_in": NotLoggedInError,
    "rate_limited": RateLimitedError,
    "overloaded": OverloadedError,
    "upstream": UpstreamError,
}

Parser = TextParser | JsonParser | LineParser
_PARSERS: dict[str, Callable[[CommandConfig], Parser]] = {
    "text": TextParser,
    "json": JsonParser,
    "jsonl": LineParser,
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a program is given."""

    argv: tuple[str, ...]
    text: str


class CommandBackend:
    """A program as a backend."""

    kind = "command"
    vendor = "command"
    trouble = None

    def __init__(self, name: str, config: CommandConfig, supervisor: Supervisor) -> None:
        self.name = name
        self._config = config
        self._supervisor = supervisor
        self._running: set[Process] = set()
        self._starts = 0
        self._failures = 0
        self._swept = False
        self.capabilities = replace(
            claims.COMMAND,
            reasoning=Level.NO if config.reasoning is None else Level.NATIVE,
            usage=Count.ESTIMATED if config.usage is None else Count.REPORTED,
        )

    @property
    def installed(self) -> bool:
        """Whether the program is found."""
        return find_program(self._config.command, self._env()) is not None

    @property
    def processes(self) -> Processes:
        """How many processes there are now."""
        return Processes(len(self._running), 0, self._starts, self._failures)

    def check(self, turn: Turn) -> tuple[str, ...]:
        """Return the fields without effect; see `Backend.check`."""
        self._program()
        require_no_tools(turn, self.name)
        require_known_calls(turn)
        structured.check_format(turn.format)
        self._asked(structured.told(turn), self._config.model, Path("/"))
        return ("reasoning_effort",) if turn.effort else ()

    def open(
        self, turn: Turn, model: str | None
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Run the turn; see `Backend.open`."""
        return structured.opened(turn, partial(self._ask, model=model))

    @asynccontextmanager
    async def _ask(self, turn: Turn, model: str | None) -> AsyncIterator[AsyncIterator[Event]]:
        if not self._swept:
            self._swept = True
            scratch.remove_stale(SCRATCH)
        folder = scratch.make(SCRATCH)
        try:
            asked = self._asked(turn, model, folder)
            process = await self._start(asked, folder)
        except BaseException:
            scratch.remove(folder)
            raise
        self._supervisor.start(lambda: when_stopped(process, lambda: self._gone(process, folder)))
        self._supervisor.start(lambda: self._give(process, asked.text))
        try:
            async with aclosing(self._events(process)) as events:
                yield events
        finally:
            process.stop_soon()

    async def health(self) -> Health:
        """Look whether the program is there; of its login nothing can be known."""
        if not self.installed:
            reason = f"{self._config.command[0]!r} was not found; check `command`"
            return Health(State.MISSING, reason=reason, fix=INSTALL_FIX)
        return Health(State.READY)

    async def warm(self) -> None:
        """Need nothing: a process answers one turn."""

    def close(self) -> None:
        """Begin to stop every process."""
        for process in self._running:
            process.stop_soon()

    async def _start(self, asked: _Asked, folder: Path) -> Process:
        work = folder / "work"
        work.mkdir(mode=0o700)
        if self._config.prompt == "file":
            path = folder / "prompt.txt"
            path.touch(mode=0o600)
            path.write_text(asked.text, "utf-8")
        self._starts += 1
        try:
            process = await start(self._supervisor, Command(asked.argv, self._env(), work))
        except ProcessStartError as exc:
            self._failures += 1
            raise CliCrashedError(f"{asked.argv[0]!r} could not be started: {exc}") from exc
        self._failures = 0
        self._running.add(process)
        return process

    def _gone(self, process: Process, folder: Path) -> None:
        self._running.discard(process)
        scratch.remove(folder)

    async def _give(self, process: Process, text: str) -> None:
        """Write the prompt beside the reader: a program may answer before it has read all."""
        try:
            if self._config.prompt == "stdin":
                await process.write(text.encode())
        except ProcessGoneError:
            return  # its exit code says why
        await process.end_input()

    async def _events(self, process: Process) -> AsyncGenerator[Event, None]:
        parser = _PARSERS[self._config.output](self._config)
        pieces = process.lines() if isinstance(parser, LineParser) else process.chunks()
        begun = False
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    for event in parser.feed(piece):
                        begun = True
                        yield event
        except LineTooLongError as exc:
            raise CliProtocolError(f"the output of {self.name!r} is no JSON lines: {exc}") from exc
        await process.exited()
        rest = parser.finish()
        failure = self._failure(process, parser)
        if failure is not None:
            yield Failed(failure)
            return
        for event in rest if begun or rest[:1] == [Started()] else [Started(), *rest]:
            yield event
        yield Finished(FinishReason.STOP)

    def _failure(self, process: Process, parser: Parser) -> ClinvkError | None:
        """Return what went wrong, by what the program said, its exit code and its stderr."""
        code = process.returncode
        if parser.error is None and code == 0:
            if parser.ended:
                return None
            what = "after" if self._config.output == "text" else "end"
            said = scrub(parser.tail.strip()) or process.stderr_tail[-2000:].strip()
            said = said or "it said nothing"
            return api_error(said, None, repr(self.name)) or CliProtocolError(
                f"{self.name!r} ended without what `{what}` looks for: {said}"
            )
        said = scrub(parser.error or "") or process.stderr_tail[-2000:].strip()
        said = said or scrub(parser.tail.strip()) or "it said nothing"
        if (kind := self._config.exit_codes.get(code or 0)) is not None:
            return _ERRORS[kind](f"{self.name!r} ended with exit code {code}: {said}")
        if (found := api_error(said, None, repr(self.name))) is not None:
            return found
        if parser.error is not None:
            return UpstreamError(f"{self.name!r} failed: {said}")
        return CliCrashedError(f"{self.name!r} ended with exit code {code}: {said}")

    def _asked(self, turn: Turn, model: str | None, folder: Path) -> _Asked:
        """Return what to give the program.

        Raises:
            BadRequestError: if the system cannot carry it as an argument.
        """
        words, config = self._config.command[1:], self._config
        turn = with_files_as_text(turn)
        apart = any("{system}" in word for word in words)
        system = turn.instructions
        if apart or (config.system is not None and system):
            rest = replace(turn, messages=turn.conversation or turn.messages)
            text = transcript.render(rest)
            if not apart and config.system is not None:
                text = _filled(config.system, {"system": system, "prompt": text})
        else:
            text = transcript.render(turn)
        values = {
            "model": model or config.model or "",
            "prompt": text,
            "system": system,
            "file": str(folder / "prompt.txt"),
        }
        if values["model"].startswith("-"):
            raise ModelNotFoundError(f"{model!r} is no name of a model", param="model")
        options = True
        for word in words:
            options = options and word != "--"
            _require_word(word, _filled(word, values), values, options=options)
        argv = (self._program(), *(_filled(word, values) for word in words))
        if sum(len(os.fsencode(word)) + 9 for word in argv) > ARGV_BYTES:
            raise BadRequestError(
                "the messages are too long for a command line; shorten them, or set "
                "'prompt: stdin' in backends.yaml",
                param="messages",
            )
        return _Asked(argv, text)

    def _env(self) -> dict[str, str]:
        return child_environment(self._config.pass_env, self._config.env)

    def _program(self) -> str:
        path = find_program(self._config.command, self._env())
        if path is None:
            raise NotInstalledError(
                f"{self._config.command[0]!r} for backend {self.name!r} was not found; "
                f"{INSTALL_FIX}"
            )
        return path


def _filled(template: str, values: dict[str, str]) -> str:
    """Put values in their places, once: what they hold is not looked at again."""
    return _PLACE.sub(lambda found: values.get(found[1], found[0]), template)


def _require_word(word: str, filled: str, values: dict[str, str], *, options: bool) -> None:
    """Refuse what cannot be an argument, or would be taken for an option."""
    fault = None
    if "\0" in filled:
        fault = "they hold a NUL character, which no command line can carry"
    elif len(filled.encode("utf-8", "surrogatepass")) > WORD_BYTES:
        fault = f"they are longer than the {WORD_BYTES} bytes that an argument may have"
    else:
        first = _PLACE.match(word)
        if options and first and values[first[1]].startswith("-"):
            fault = "they begin with '-', which a program takes for an option"
    if fault is not None:
        raise BadRequestError(
            f"the messages cannot be passed on: {fault}; change them, or set 'prompt: stdin' in "
            "backends.yaml",
            param="messages",
        )
