"""The Markdown printer on a terminal of a few rows: every block once, in order, nothing lost."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from clinvk.cli.markdown import MarkdownPrinter, split
from clinvk.events import Event, ReasoningDelta, TextDelta, ToolActivity
from tests.cli.screen import screen

ROWS, COLUMNS = 8, 30

BLOCKS = (
    "A paragraph that is longer than the terminal is wide, so that it wraps.",
    "# A title",
    "- one\n- two\n- three",
    "1. first\n2. second",
    "```python\n" + "".join(f"line_{n} = {n}\n" for n in range(40)) + "```",
    "> quoted",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "<b>tags</b> and `code`",
    "    indented code",
)


class Terminal:
    """A console on memory, both streams on the same screen."""

    def __init__(self) -> None:
        self._file = io.StringIO()
        self.console = Console(
            file=self._file, force_terminal=True, width=COLUMNS, height=ROWS, highlight=False
        )

    def printer(self, *, stream: bool = True, thinking: bool = True) -> MarkdownPrinter:
        return MarkdownPrinter(self.console, self.console, stream=stream, thinking=thinking)

    @property
    def raw(self) -> str:
        return self._file.getvalue()

    @property
    def lines(self) -> list[str]:
        # A terminal makes "\r\n" of "\n".
        lines = screen(self.raw.replace("\n", "\r\n"), rows=ROWS, columns=COLUMNS)
        while lines and not lines[-1]:
            lines.pop()
        return lines


async def drawn(events: list[Event], *, stream: bool = True, every: int = 1) -> list[str]:
    """Show the events, with the live region drawn after every so many."""
    terminal = Terminal()
    printer = terminal.printer(stream=stream)
    for number, event in enumerate(events):
        await printer.show(event)
        if stream and number % every == 0:
            printer.draw()
    await printer.end(complete=True)
    return terminal.lines


def pieces(text: str, size: int) -> list[Event]:
    return [TextDelta(text[at : at + size]) for at in range(0, len(text), size)]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
async def test_long_answer_is_on_the_screen_once_however_it_comes(size: int) -> None:
    text = "\n\n".join(BLOCKS)
    whole = await drawn([TextDelta(text)], stream=False)
    assert await drawn(pieces(text, size)) == whole
    assert sum("line_39" in line for line in whole) == 1
    assert any("<b>tags</b>" in line for line in whole)


@settings(deadline=None, max_examples=40)
@given(
    blocks=st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=6),
    size=st.integers(1, 60),
    every=st.integers(1, 9),
)
async def test_no_cutting_and_no_timing_changes_the_screen(
    blocks: list[str], size: int, every: int
) -> None:
    text = "\n\n".join(blocks)
    assert await drawn(pieces(text, size), every=every) == await drawn(
        [TextDelta(block + "\n\n") for block in blocks]
    )


@settings(deadline=None)
@given(st.lists(st.sampled_from(BLOCKS), max_size=6).map("\n\n".join), st.integers(0, 400))
def test_split_loses_nothing(text: str, at: int) -> None:
    done, rest = split(text[:at])
    assert "".join([*done, rest]) == text[:at]


def test_a_block_that_may_go_on_is_not_finished() -> None:
    assert split("- one\n- two\n") == ([], "- one\n- two\n")
    assert split("text\n\n- one\n- tw") == (["text\n\n"], "- one\n- tw")
    assert split("text\n\n1") == ([], "text\n\n1")


async def test_nothing_is_left_out_for_being_html_or_the_address_of_a_link() -> None:
    lines = await drawn([TextDelta("<p>hi</p>\n\nSee [a][1], [b](http://b)\n\n[1]: http://a\n")])
    assert lines == ["<p>hi</p>", "", "See [a][1], b (http://b)", "", "[1]: http://a"]


async def test_text_is_drawn_before_the_answer_ends() -> None:
    terminal = Terminal()
    printer = terminal.printer()
    await printer.show(TextDelta("already"))
    printer.draw()
    assert "already" in terminal.raw
    await printer.end(complete=False)
    assert terminal.lines == ["already"]


async def test_unfinished_block_takes_no_more_than_the_screen() -> None:
    terminal = Terminal()
    printer = terminal.printer()
    await printer.show(TextDelta(BLOCKS[4].removesuffix("```")))
    printer.draw()
    assert len(terminal.lines) < ROWS
    assert terminal.lines[-1] == "line_39 = 39"
    await printer.end(complete=True)


async def test_thinking_stands_before_the_answer_and_after_it() -> None:
    lines = await drawn(
        [
            ReasoningDelta("\nLet me "),
            ReasoningDelta("think."),
            TextDelta("One."),
            ToolActivity("search", "done"),
            ReasoningDelta("More.\n"),
            TextDelta("Two."),
        ]
    )
    assert [line for line in lines if line] == [
        "Let me think.",
        "One.",
        "search: done",
        "More.",
        "Two.",
    ]


async def test_thinking_is_left_out_when_it_is_not_wanted() -> None:
    terminal = Terminal()
    printer = terminal.printer(thinking=False)
    for event in (ReasoningDelta("hm"), ToolActivity("search", "done"), TextDelta("Yes.")):
        await printer.show(event)
    await printer.end(complete=True)
    assert terminal.lines == ["Yes."]


async def test_the_model_cannot_steer_the_terminal() -> None:
    terminal = Terminal()
    printer = terminal.printer()
    await printer.show(TextDelta("a\x1b[2Jb\x07c\x9b31md"))
    await printer.show(ReasoningDelta("e\x1b]0;title\x07"))
    await printer.end(complete=True)
    assert "\x1b[2J" not in terminal.raw
    assert not {"\x07", "\x9b"} & set(terminal.raw)
    assert "\x1b]" not in terminal.raw


async def test_failed_answer_that_was_not_to_be_streamed_is_not_printed() -> None:
    terminal = Terminal()
    printer = terminal.printer(stream=False)
    await printer.show(TextDelta("half"))
    await printer.end(complete=False)
    assert terminal.raw == ""
