r"""Whether a caller's regular expression could keep the server busy: by its outlines, not run.

Python's `re` tries every way to match, and nothing else runs meanwhile: `(a+)+$` takes years for
forty letters. What is repeated around a choice or another repetition is taken for such a one,
and of repetitions side by side the number counts. Some harmless patterns look like that, too.
"""

import math
import re

SHORT = 20  # of a text this short every way has been tried soon
MANY = 100  # times from which on a repetition is one of any length
MOST_STEPS = 1e8

_BOUNDS = re.compile(r"\{(\d*)(,?)(\d*)\}")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]?", re.DOTALL)


def may_take_long(pattern: str, length: int) -> bool:
    """Return whether to look for a pattern in `length` characters could take a second or more."""
    repeats, nested = _outlines(pattern)
    if nested and length > SHORT:
        return True
    places = repeats + (not pattern.startswith("^"))
    return bool(repeats) and length**places > MOST_STEPS


def _outlines(pattern: str) -> tuple[int, bool]:
    """How many repetitions there are, and whether one is around another, or around a choice."""
    repeats, nested = 0, False
    varies = [False]  # whether a group, the innermost last, matches in more ways than one
    at, after_group = 0, False
    while at < len(pattern):
        char = pattern[at]
        step = _CLASS.match(pattern, at) if char == "[" else None
        least, most, size = _times(pattern, at)
        if size:
            nested |= after_group and most > 1
            repeats += most - least >= MANY
            varies[-1] |= least != most
            at += size
            after_group = False
            continue
        after_group = False
        if char == "(":
            varies.append(False)
        elif char == ")" and len(varies) > 1:
            after_group = varies.pop()
            varies[-1] |= after_group
        elif char == "|":
            varies[-1] = True
        elif char == "\\" and pattern[at + 1 : at + 2].isdigit():
            nested = True  # what it repeats is known only then
        at = step.end() if step is not None else at + (2 if char == "\\" else 1)
    return repeats, nested


def _times(pattern: str, at: int) -> tuple[float, float, int]:
    """How often a quantifier repeats, least and most, and its length; that is 0 if it is none."""
    char = pattern[at]
    if char in "*+":
        return 0, math.inf, 1
    if char == "?" and pattern[at - 1 : at] != "(":
        return 0, 1, 1
    if char == "{" and (found := _BOUNDS.match(pattern, at)) is not None:
        least, comma, most = (part[:9] for part in found.groups())
        fewest = int(least or "0")
        return fewest, math.inf if comma and not most else int(most or fewest), len(found[0])
    return 0, 0, 0
