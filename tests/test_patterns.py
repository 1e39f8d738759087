"""Which regular expressions are not tried, and that those that are take no time to speak of."""

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.patterns import may_take_long
from tests.fuzz.budget import budget


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "^(a|a)*$",
        "^(([a-z])+.)+[A-Z]$",
        "^(a?){50}a{50}$",
        "(?:x*)*y",
        "^(a{1,9}){1,9}$",
        r"(.*)\1\1x",
        "^a*a*a*a*a*a*b$",
        r"((\d+)|x){3,}",
        "([)](a+))+",
    ],
)
def test_what_could_be_tried_for_ever_is_known_by_its_outlines(pattern: str) -> None:
    assert may_take_long(pattern, 100)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "^[a-z]+$",
        r"^\d{4}-\d{2}-\d{2}$",
        r"^(\d+\.)?\d+$",
        "^(red|green|blue)$",
        r"^[^@\s]+@[^@\s]+$",
        r"^\(\+\)*$",
        "^[(+)]+$",
        "^(abc)+$",
        "^a{2}b{1,3}$",
        r"(?i)^x\{2\}",
        "a{,}b",
    ],
)
def test_what_people_write_is_tried(pattern: str) -> None:
    assert not may_take_long(pattern, 1000)


def test_the_longer_the_text_the_less_is_tried() -> None:
    assert not may_take_long("(a+)+$", 20)
    assert not may_take_long("^a+$", 1_000_000)
    assert may_take_long("a+$", 1_000_000)


PIECES = st.sampled_from((*"ab.*+?|()[]{}^$\\,-", "(a", "b)", "*)", "+)", "{2,}", "{1,30}", r"\d"))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of what `re` means to read otherwise
@budget(400)
@given(st.lists(PIECES, max_size=14).map("".join))
def test_what_is_tried_ends(pattern: str) -> None:
    texts = ["a" * 24 + "!", "ab" * 12, "b" * 20]
    for text in texts:
        if not may_take_long(pattern, len(text)):
            with contextlib.suppress(re.error, OverflowError):
                started = time.process_time()
                re.search(pattern, text)
                assert time.process_time() - started < 5
