"""A server with OpenAI's API that misbehaves: one right answer, one error, or its own word.

What passes on is told as it is, or its connection ends.
"""

from pathlib import Path
from typing import Any

import pytest

from clinvk import events
from clinvk.backends import openai_upstream
from tests.faults.conftest import ANSWER, Outcome
from tests.faults.upstream import ENDLESS, FAULTS
from tests.faults.upstream_world import BROKEN, BUG, GONE, LATE, LOST, OWN, RIGHT, WAYS, made

# What each fault is to those who asked: with the request passed on, and translated.
CODES: dict[str, tuple[set[str], set[str]]] = {
    "none": (RIGHT, RIGHT),
    **dict.fromkeys(("die-before", "reset-before", "cut-head", "no-http", "endless-head"), LOST),
    **dict.fromkeys(("redirects", "moved", "two-lengths", "switches"), LOST),
    **dict.fromkeys(("hang-before", "half-a-head", "hang-during", "hang-after-head"), LATE),
    **dict.fromkeys(("die-during", "reset-during", "bad-chunk", "long-body"), BROKEN),
    # Whoever has heard the end of an answer needs no end of its connection.
    **dict.fromkeys(("no-end", "short-length"), (LATE[0] | BROKEN[0], RIGHT)),
    "odd-usage": (RIGHT, RIGHT),
    **dict.fromkeys(("early-hints", "dies-after", "resets-after", "byte-by-byte"), (RIGHT, RIGHT)),
    **dict.fromkeys(("noise", "bad-utf8"), (OWN, RIGHT)),
    **dict.fromkeys(
        ("half-an-event", "unfinished", "calls", "error-during", "status-during"), (OWN, GONE)
    ),
    **dict.fromkeys(("nothing", "html", "null", "list", "empty-object", "half-json"), (OWN, GONE)),
    **dict.fromkeys(("no-choices", "gzip", "deep", "500", "500-html", "999"), (OWN, GONE)),
    **dict.fromkeys(("503", "503-and-after", "error-at-200"), (OWN, {"overloaded_error"})),
    **dict.fromkeys(("429", "429-and-after"), (OWN, {"rate_limit_error"})),
}
TEXTS = {"bad-utf8": "Hello\ufffd w\u00f6rld \U0001f30d"}
GIVEN_UP = (LATE[0] | BROKEN[0], GONE)
HANGS = {fault for fault, codes in CODES.items() if codes is LATE} | {"no-end"}
CLOSES = {"dies-after", "resets-after"}
PATIENCE: dict[str, Any] = {"first_s": 0.5, "silence_s": 0.5, "timeout_s": 1.0}


def wrong(found: dict[tuple[str, str], Outcome]) -> list[str]:
    """Those that are not as they must be."""
    return [
        f"{fault}, {way}: {outcome.code} {outcome.message[:80]} {outcome.text[:50]!r}"
        for (fault, way), outcome in found.items()
        if not fits(fault, way, outcome)
    ]


def fits(fault: str, way: str, found: Outcome) -> bool:
    codes = CODES.get(fault, GIVEN_UP)[way.startswith("translated")]
    if codes:
        return found.code in codes and BUG not in found.message
    return found.code is None and found.text == TEXTS.get(fault, ANSWER)


async def test_one_answer_or_one_error_and_nothing_left(tmp_path: Path) -> None:
    assert set(CODES) == set(FAULTS)
    async with made(tmp_path, max_concurrency=512) as world:
        found = await world.in_every_way(*(f for f in CODES if f not in HANGS | CLOSES))
        assert wrong(found) == []
        for (fault, _), outcome in found.items():
            assert outcome.retry_after == ("7" if fault.endswith("-and-after") else None)
        assert wrong(await world.in_every_way("none")) == []
        # Last, or a request that comes at the same moment may find its connection closed.
        assert wrong(await world.in_every_way(*CLOSES)) == []
        await world.at_rest()


async def test_who_hangs_is_given_up_and_nothing_left(tmp_path: Path) -> None:
    async with made(tmp_path, **PATIENCE) as world:
        assert wrong(await world.in_every_way(*HANGS)) == []
        assert wrong(await world.in_every_way("none")) == []
        await world.at_rest()


@pytest.mark.parametrize("fault", ENDLESS)
async def test_what_has_no_end_is_given_up(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Long before the time is up that ends what passes as it is, however busy the machine.
    monkeypatch.setattr(events, "ANSWER_CHARS", 2_000)
    monkeypatch.setattr(openai_upstream, "LINE_BYTES", 2_000)
    async with made(tmp_path, **{**PATIENCE, "timeout_s": 2.0}) as world:
        found = await world.in_every_way(fault)
        assert wrong(found) == []
        translated = [each.status for (_, way), each in found.items() if way == WAYS[3]]
        assert translated == [502]
        await world.at_rest()
