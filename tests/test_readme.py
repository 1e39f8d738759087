"""The README says what the claims say."""

from tests.readme_table import README, with_table


def test_the_table_of_what_is_supported_is_that_of_the_claims() -> None:
    text = README.read_text("utf-8")
    assert text == with_table(text), "run `.venv/bin/python -m tests.readme_table`"
