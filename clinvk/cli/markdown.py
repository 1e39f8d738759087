"""An answer on a terminal: Markdown that is drawn as it comes, thinking dim on stderr.

Every finished block is printed once, for good, above a small live region that holds only the
last, unfinished block, or as much of its end as the screen has room for. So an answer of any
length scrolls like ordinary output: nothing is lost, nothing is drawn twice.
"""

import asyncio
import time

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import CodeBlock, Markdown
from rich.segment import Segment
from rich.syntax import Syntax

from clinvk.cli.common import visible
from clinvk.events import Event, ReasoningDelta, TextDelta, ToolActivity

DRAW_PAUSE_S = 0.08  # between two drawings
DRAW_SHARE = 0.2  # of the time, at most, is spent on drawing
MARGIN_ROWS = 2  # below the live region, for the cursor and for what a resize adds

# HTML stays text: as HTML it would be left out, and answers are full of <tags>.
_parser = MarkdownIt("commonmark", {"html": False}).enable("table").enable("strikethrough")


class _Code(CodeBlock):
    """Code without padding and in the terminal's own colours, so that it can be copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(
            code, self.lexer_name, theme="ansi_dark", background_color="default", word_wrap=True
        )


class _Markdown(Markdown):
    elements = {**Markdown.elements, "fence": _Code, "code_block": _Code}  # noqa: RUF012 - rich's


def markdown(text: str) -> Markdown:
    """Return `text` for a console, links with their address and HTML as it stands."""
    page = _Markdown("", hyperlinks=False)
    page.parsed = _parser.parse(text)
    return page


def split(text: str) -> tuple[str, str]:
    """Return the blocks of `text` that nothing can change any more, and the rest of it."""
    lines = text[: text.rfind("\n") + 1].splitlines(keepends=True)
    starts = [
        token.map[0]
        for token in _parser.parse("".join(lines))
        if token.level == 0 and token.nesting >= 0 and token.map is not None
    ]
    if len(starts) < 2:
        return "", text
    done = "".join(lines[: starts[-1]])
    return done, text[len(done) :]


class _Tail:
    """The last rows of an unfinished block that fit on the screen."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = max(1, console.height - MARGIN_ROWS)
        rows = console.render_lines(markdown(self._ending(room)), options, pad=False)[-room:]
        for number, row in enumerate(rows):
            if number:
                yield Segment.line()
            yield from row

    def _ending(self, rows: int) -> str:
        """Leave out what would scroll off anyway: a block may be a file of many thousand lines."""
        lines = self._text.splitlines(keepends=True)
        if len(lines) <= 2 * rows:
            return self._text
        fence = lines[0] if lines[0].lstrip().startswith(("```", "~~~")) else ""
        return fence + "".join(lines[-rows:])


class MarkdownPrinter:
    """The answer as Markdown, drawn as it comes or (`stream` false) once it is complete.

    It is drawn only when there is something new, so that text on the screen can be selected.
    """

    def __init__(self, out: Console, err: Console, *, stream: bool, thinking: bool) -> None:
        self._out = out
        self._err = err
        self._stream = stream
        self._thinking = thinking
        self._text = ""
        self._thought_end = ""
        self._printed = False
        self._live: Live | None = None
        self._drawing: asyncio.TimerHandle | None = None
        self._draw_at = 0.0

    async def show(self, event: Event) -> None:
        """Take an event."""
        match event:
            case TextDelta(text=text):
                self._end_thought()
                self._text += visible(text)
                if self._stream:
                    self._draw_soon()
            case ReasoningDelta(text=text) if self._thinking:
                self._flush()
                self._think(visible(text))
            case ToolActivity(name=name, status=status) if self._thinking:
                self._flush()
                self._end_thought()
                self._err.print(visible(f"{name}: {status}"), style="dim", markup=False)
            case _:
                pass

    async def end(self, *, complete: bool) -> None:
        """Print the last block and give the terminal back."""
        self._end_thought()
        if self._stream or complete:
            self._flush()

    def draw(self) -> None:
        """Print the blocks that are finished and draw the one that is not."""
        self._drawing = None
        started = time.monotonic()
        done, self._text = split(self._text)
        if self._live is None:
            self._live = Live(
                console=self._out,
                get_renderable=lambda: _Tail(self._text),
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="visible",
            )
            self._live.start()
        if done:
            self._print(done)
        self._live.refresh()
        ended = time.monotonic()
        self._draw_at = ended + max(DRAW_PAUSE_S, (ended - started) / DRAW_SHARE)

    def _draw_soon(self) -> None:
        if self._drawing is None:
            delay = max(0.0, self._draw_at - time.monotonic())
            self._drawing = asyncio.get_running_loop().call_later(delay, self.draw)

    def _flush(self) -> None:
        """Print all there is, and leave no live region."""
        if self._drawing is not None:
            self._drawing.cancel()
            self._drawing = None
        rest, self._text = self._text, ""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if rest.strip():
            self._print(rest)

    def _print(self, blocks: str) -> None:
        if self._printed:
            self._out.print()
        self._printed = True
        self._out.print(markdown(blocks))

    def _think(self, text: str) -> None:
        text = text if self._thought_end else text.lstrip("\n")
        self._thought_end = (self._thought_end + text)[-1:]
        self._err.print(text, style="dim", end="", markup=False, soft_wrap=True)

    def _end_thought(self) -> None:
        if self._thought_end:
            self._err.print("" if self._thought_end == "\n" else "\n")
            self._thought_end = ""
