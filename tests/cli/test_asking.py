"""What a failed turn is to the shell, and the line that ends one that did not fail."""

import pytest

from clinvk import errors
from clinvk.cli.asking import exit_code
from clinvk.cli.report import Report
from clinvk.events import Event, Finished, FinishReason, Started, TextDelta, Usage


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BadRequestError, 2),
        (errors.ContextTooLongError, 2),
        (errors.ModelNotFoundError, 2),
        (errors.TooLargeError, 2),
        (errors.NotInstalledError, 3),
        (errors.NotLoggedInError, 3),
        (errors.PermissionDeniedError, 1),
        (errors.RateLimitedError, 1),
        (errors.OverloadedError, 1),
        (errors.CliCrashedError, 1),
        (errors.CliProtocolError, 1),
        (errors.TurnTimeoutError, 1),
        (errors.InternalError, 1),
    ],
)
def test_every_failure_has_its_exit_code(error: type[errors.ClinvkError], code: int) -> None:
    assert exit_code(error("no")) == code


@pytest.mark.parametrize(
    ("model", "events", "line"),
    [
        (
            "claude",
            [Started("big"), TextDelta("a"), Usage(10, 5, 4, 0, 2), Finished(FinishReason.STOP)],
            "claude (big): 10 tokens in (4 cached), 5 out (2 thinking), first after 2.0 s, 4.0 s",
        ),
        (
            "claude/big",
            [Started("big"), Usage(3, 0, estimated=True), Finished(FinishReason.CONTENT_FILTER)],
            "claude/big: about 3 tokens in, 0 out, 3.0 s, refused by the model",
        ),
        (
            "echo",
            [Started(), TextDelta("a"), Usage(1, 1), Finished(FinishReason.LENGTH)],
            "echo: 1 tokens in, 1 out, first after 2.0 s, 4.0 s, cut at the model's token limit",
        ),
    ],
)
def test_line_tells_who_answered_and_what_it_took(
    model: str, events: list[Event], line: str
) -> None:
    seconds = iter(range(10))
    report = Report(model, clock=lambda: next(seconds))
    for event in events:
        report.note(event)
    assert report.line() == line


@pytest.mark.parametrize(
    ("model", "who"),
    [("best", "best by codex"), ("codex", "codex"), ("codex/gpt-5", "codex/gpt-5")],
)
def test_line_names_the_backend_where_the_model_does_not(model: str, who: str) -> None:
    report = Report(model, clock=lambda: 0.0)
    report.answered_by("codex")
    assert report.line() == f"{who}: 0 tokens in, 0 out, 0.0 s"
