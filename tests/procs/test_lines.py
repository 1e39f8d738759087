"""Lines out of bytes, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinvk.procs.lines import LineFramer, LineTooLongError

LIMIT = 64
CASES = [
    (b"", [], b""),
    (b"a", [], b"a"),
    (b"a\n", [b"a"], b""),
    (b"a\r\nb\n", [b"a", b"b"], b""),
    (b"\n\n", [b"", b""], b""),
    (b"a\nb\n\nc", [b"a", b"b", b""], b"c"),
    (b"a\rb\n", [b"a\rb"], b""),
    (b"\r\n", [b""], b""),
    ("ü\u2028\x85é\n".encode(), ["ü\u2028\x85é".encode()], b""),
]


def feed(data: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    framer = LineFramer(LIMIT)
    at = sorted({cut % (len(data) + 1) for cut in cuts})
    lines: list[bytes] = []
    for begin, end in zip([0, *at], [*at, len(data)], strict=True):
        lines += framer.push(data[begin:end])
    return lines, framer.flush()


@pytest.mark.parametrize(("data", "lines", "rest"), CASES)
def test_whole(data: bytes, lines: list[bytes], rest: bytes) -> None:
    assert feed(data, []) == (lines, rest)


@pytest.mark.parametrize(("data", "lines", "rest"), CASES)
def test_byte_by_byte(data: bytes, lines: list[bytes], rest: bytes) -> None:
    assert feed(data, list(range(len(data)))) == (lines, rest)


_CHUNKS = st.lists(
    st.one_of(st.binary(max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=8
).map(b"".join)


@given(_CHUNKS, st.lists(st.integers(0, 1000), max_size=10))
def test_how_the_bytes_are_cut_changes_nothing(data: bytes, cuts: list[int]) -> None:
    assert feed(data, cuts) == feed(data, [])


@given(_CHUNKS, st.lists(st.integers(0, 1000), max_size=10))
def test_nothing_is_lost_but_line_ends(data: bytes, cuts: list[int]) -> None:
    lines, rest = feed(data, cuts)
    whole = data.split(b"\n")
    assert [line.removesuffix(b"\r") for line in whole[:-1]] == lines
    assert whole[-1] == rest


def test_a_flush_forgets() -> None:
    framer = LineFramer(LIMIT)
    framer.push(b"rest")
    assert framer.flush() == b"rest"
    assert framer.flush() == b""
    assert framer.push(b"a\n") == [b"a"]


def test_a_line_of_the_limit_passes() -> None:
    assert feed(b"x" * LIMIT + b"\n" + b"y" * LIMIT, [10]) == ([b"x" * LIMIT], b"y" * LIMIT)


@pytest.mark.parametrize(
    "chunks",
    [
        [b"x" * (LIMIT + 1)],
        [b"x" * LIMIT, b"x"],
        [b"x" * LIMIT, b"x\n"],
        [b"x" * (LIMIT + 1) + b"\n"],
        [b"a\n" + b"x" * (LIMIT + 1) + b"\nb"],
        [b"a\n" + b"x" * (LIMIT + 1)],
    ],
)
def test_a_line_over_the_limit_is_an_error(chunks: list[bytes]) -> None:
    framer = LineFramer(LIMIT)
    *before, last = chunks
    for chunk in before:
        assert framer.push(chunk) == []
    with pytest.raises(LineTooLongError) as caught:
        framer.push(last)
    assert caught.value.limit == LIMIT
