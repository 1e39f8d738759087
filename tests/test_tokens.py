from hypothesis import given
from hypothesis import strategies as st

from clinvk import tokens


def test_counts_are_those_of_the_o200k_encoding() -> None:
    assert tokens.count("hello world") == 2
    assert tokens.count("") == 0


def test_what_looks_like_a_special_token_is_plain_text() -> None:
    assert tokens.count("<|endoftext|>") > 1


@given(st.text(max_size=200), st.integers(0, 30))
def test_a_cut_is_a_start_of_the_text_within_the_count(text: str, limit: int) -> None:
    kept = tokens.cut(text, limit)
    assert text.startswith(kept)
    assert tokens.count(kept) <= limit or kept == text[: len(kept)]


def test_a_text_of_any_length_is_counted_and_cut() -> None:
    assert tokens.count("x" * 1_000_000) == 125_000
    assert tokens.count("x" * 10_000_000) == 1_250_000
    many = "ab " * 300_000
    assert 300_000 <= tokens.count(many) <= 300_100
    kept = tokens.cut(many, 250_000)
    assert many.startswith(kept)
    assert abs(tokens.count(kept) - 250_000) <= 100
    assert tokens.cut(many, 10**9) == many
