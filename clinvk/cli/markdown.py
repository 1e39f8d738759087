"""An answer on a terminal: Markdown that is drawn as it comes, thinking dim on stderr.

Every finished block is printed once, for good, above a small live region that holds only the
last, unfinished block, or as much of its end as the screen has room for. So an answer of any
length scrolls like ordinary output: nothing is lost, nothing is drawn twice.
"""

import asyncio
import time
from itertools import pairwise

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.markdown import CodeBlock, Markdown
from rich.segment import ControlType, Segment, Segments
from rich.syntax import Syntax

from clinvk.cli.common import visible
from clinvk.events import Event, ReasoningDelta, TextDelta, ToolActivity

DRAW_PAUSE_S = 0.08  # between two drawings
DRAW_SHARE = 0.2  # of the time, at most, is spent on drawing
MARGIN_ROWS = 2  # below the live region, for the cursor and for what a resize adds

_NEWLINE = Segment.line()

# HTML and the definitions of links stay text: else they would be left out, and answers are full
# of <tags>.
_parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
_parser.disable("reference")


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


def blocks(text: str) -> list[str]:
    """Return the source of each outermost block of `text`; joined they are `text`."""
    starts = [
        token.map[0]
        for token in _parser.parse(text)
        if token.level == 0 and token.nesting >= 0 and token.map is not None
    ]
    lines = text.split("\n")
    bounds = [0, *starts[1:], len(lines)]
    pieces = ["\n".join(lines[a:b]) for a, b in pairwise(bounds)]
    return [piece + "\n" for piece in pieces[:-1]] + pieces[-1:]


def split(text: str) -> tuple[list[str], str]:
    """Return the blocks of `text` that nothing can change any more, and the rest of it."""
    whole_lines = text.rfind("\n") + 1
    *done, last = blocks(text[:whole_lines])
    return done, last + text[whole_lines:]


def rows_of(console: Console, block: str) -> list[list[Segment]]:
    """Return the rows of a block, without blank ones around it."""
    rows = [_trimmed(row) for row in console.render_lines(markdown(block), pad=False)]
    inked = [at for at, row in enumerate(rows) if row]
    return rows[inked[0] : inked[-1] + 1] if inked else []


def _trimmed(row: list[Segment]) -> list[Segment]:
    """Leave out the spaces at the end, which a narrower window would wrap."""
    while row:
        *head, last = row
        if text := last.text.rstrip(" "):
            return [*head, Segment(text, last.style)]
        row = head
    return []


def _joined(rows: list[list[Segment]]) -> Segments:
    """Return rows as one thing to print, without a newline after the last."""
    return Segments(
        segment for at, row in enumerate(rows) for segment in ([_NEWLINE] if at else []) + row
    )


class _Region:
    """The rows at the cursor that are drawn over and over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._height = 0

    def draw(self, block: str, *, gap: bool) -> None:
        """Show the last rows of an unfinished block, as many as the screen has room for."""
        room = max(1, self._console.height - MARGIN_ROWS)
        rows = rows_of(self._console, _ending(block, room))
        rows = [*([[]] if gap else []), *rows][-room:]
        self._height = len(rows)
        self._console.print(_joined(rows), end="")

    def erase(self) -> None:
        """Leave nothing, and the cursor where the region began."""
        if self._height:
            up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * (self._height - 1)
            erase = Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up)
            self._console.control(erase)
            self._height = 0


def _ending(text: str, rows: int) -> str:
    """Leave out what would scroll off anyway: a block may be a file of many thousand lines."""
    lines = text.splitlines(keepends=True)
    if len(lines) <= 2 * rows:
        return text
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
        self._gap = False
        self._region = _Region(out)
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
        if not self._text:
            return
        started = time.monotonic()
        done, self._text = split(self._text)
        with self._out:  # one write, so that nothing flickers
            self._region.erase()
            self._print(done)
            self._region.draw(self._text, gap=self._gap)
        ended = time.monotonic()
        self._draw_at = ended + max(DRAW_PAUSE_S, (ended - started) / DRAW_SHARE)

    def _draw_soon(self) -> None:
        if self._drawing is None:
            delay = max(0.0, self._draw_at - time.monotonic())
            self._drawing = asyncio.get_running_loop().call_later(delay, self.draw)

    def _flush(self) -> None:
        """Print all there is, and leave nothing to be drawn."""
        if self._drawing is not None:
            self._drawing.cancel()
            self._drawing = None
        rest, self._text = self._text, ""
        with self._out:
            self._region.erase()
            self._print(blocks(rest))

    def _print(self, sources: list[str]) -> None:
        for source in sources:
            if rows := rows_of(self._out, source):
                self._out.print(_joined([*([[]] if self._gap else []), *rows, []]), end="")
                self._gap = True

    def _think(self, text: str) -> None:
        text = text if self._thought_end else text.lstrip("\n")
        self._thought_end = (self._thought_end + text)[-1:]
        self._err.print(text, style="dim", end="", markup=False, soft_wrap=True)

    def _end_thought(self) -> None:
        if self._thought_end:
            self._err.print("" if self._thought_end == "\n" else "\n")
            self._thought_end = ""
