"""The prompt of `clinvk run`: argument, files and stdin."""

import io
from pathlib import Path

import pytest

from clinvk.cli.common import UsageError
from clinvk.cli.prompt import compose


@pytest.fixture(autouse=True)
def piped(monkeypatch: pytest.MonkeyPatch) -> io.BytesIO:
    """A stdin that is not a terminal."""
    stdin = io.BytesIO()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stdin))
    return stdin


def fill(stdin: io.BytesIO, data: bytes) -> None:
    stdin.write(data)
    stdin.seek(0)


def test_argument_alone_is_the_prompt() -> None:
    assert compose(" why? ", ()) == " why? "


def test_stdin_alone_is_the_prompt_byte_for_byte(piped: io.BytesIO) -> None:
    fill(piped, "\r\n è\n".encode())
    assert compose(None, ()) == "\r\n è\n"


def test_stdin_follows_the_argument(piped: io.BytesIO) -> None:
    fill(piped, b"diff\n")
    assert compose("review this", ()) == "review this\n\ndiff\n"


def test_files_stand_first_under_their_names(tmp_path: Path) -> None:
    one, two = tmp_path / "one.txt", tmp_path / 'a"b.txt'
    one.write_text("1\n")
    two.write_text("2")
    assert compose("compare", (one, two)) == (
        f'<file name="{one}">\n1\n</file>\n\n'
        f'<file name="{tmp_path}/a&quot;b.txt">\n2\n</file>\n\n'
        "compare"
    )


@pytest.mark.parametrize("data", [b"", b" \n"])
def test_nothing_is_a_usage_error_that_says_how(piped: io.BytesIO, data: bytes) -> None:
    fill(piped, data)
    with pytest.raises(UsageError, match="as an argument"):
        compose(None, ())


def test_closed_stdin_is_no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert compose("hi", ()) == "hi"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"\x7fELF\xff", "is not UTF-8 text"), (b"a\0b", "is binary"), (None, "cannot be read")],
)
def test_file_that_is_no_text_is_named(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=reason) as caught:
        compose("hi", (path,))
    assert str(path) in caught.value.message


def test_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        compose("hi", (tmp_path,))


def test_stdin_that_is_no_text_is_named(piped: io.BytesIO) -> None:
    fill(piped, b"\xff")
    with pytest.raises(UsageError, match="stdin is not UTF-8 text"):
        compose("hi", ())


def test_argument_that_is_no_text_is_named() -> None:
    with pytest.raises(UsageError, match="the prompt is not UTF-8 text"):
        compose("\udcff", ())
