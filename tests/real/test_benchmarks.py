"""The benchmarks reach the real CLIs in every way they compare; nothing here measures."""

import pytest

from benchmarks import chat, first_token, memory, real
from benchmarks.progress import Progress
from benchmarks.results import Figure, Part

pytestmark = pytest.mark.real


def by_name(part: Part) -> dict[str, Figure]:
    return {figure.name.partition(": ")[2]: figure for figure in part.figures}


@pytest.mark.parametrize("name", real.NAMES)
def test_a_cli_answers_through_clinvk_bare_and_by_a_spawn(name: str) -> None:
    size = first_token.Size(clis=(name,), rounds=1, idle_rounds=1, idle_s=0)
    with Progress() as progress:
        part = first_token.measure(size, progress, quick=True)
    ways = [figure.name.rpartition(", ")[2] for figure in part.figures if figure.unit == "ms"]
    late = ["bare set up late"] if name == "claude" else []
    both = ["clinvk", "bare"]
    assert ways == [*both, *late, "cold", *both, "cold", *both]
    assert [f.note for f in part.figures if f.name.endswith("token, clinvk")] == [
        "x-clinvk-turn: new",
        "x-clinvk-turn: continued",
        "x-clinvk-turn: new",
    ]


@pytest.mark.parametrize("name", real.NAMES)
def test_a_chat_goes_on_with_one_server_and_begins_anew_with_the_other(name: str) -> None:
    with Progress() as progress:
        part = chat.measure(chat.Size(clis=(name,), turns=3), progress, quick=True)
    found = by_name(part)
    assert found["turns that went on"].met
    assert found["turns that went on"].note == "of the other chat 0"
    assert found["sent up to the model API in turn 3, continued"].value > 0


def test_a_server_of_a_real_cli_is_looked_into() -> None:
    size = memory.Size(clis=("codex",), requests=8, batches=2, streams=2, real=4)
    with Progress() as progress:
        part = memory.measure(size, progress, quick=True)
    assert {figure.name.partition(":")[0] for figure in part.figures} == {"stand-in", "codex"}
