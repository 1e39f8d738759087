"""A terminal's screen, as far as clinvk's output needs one: what is left to read at the end."""

import re

_TOKEN = re.compile(r"\x1b\[(?P<number>[0-9;?]*)(?P<letter>[A-Za-z])|[^\x1b]")


def screen(output: str, *, rows: int, columns: int) -> list[str]:
    """The lines of the scrollback and the screen, without spaces at their ends.

    What has scrolled off the top cannot be reached by moving the cursor up, as in any terminal.
    """
    lines = [""]
    row = column = 0
    for token in _TOKEN.finditer(output):
        top = max(0, len(lines) - rows)
        letter, text = token["letter"], token[0]
        if letter == "A":
            row = max(top, row - int(token["number"] or 1))
        elif letter == "K":
            lines[row] = ""
        elif letter in {"m", "h", "l"}:
            pass
        elif letter is not None:
            raise AssertionError(f"{text!r} is not known to this terminal")
        elif text == "\r":
            column = 0
        elif text == "\n" or column == columns:
            row += 1
            column = 0 if text != "\n" else column
            if row == len(lines):
                lines.append("")
        if letter is None and text not in "\r\n":
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]
