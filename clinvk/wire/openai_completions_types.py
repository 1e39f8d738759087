"""The request types of the OpenAI Completions API, the one that came before chat."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

from clinvk.wire.openai_chat_types import StopIn, StreamOptionsIn

UNION_STEPS = frozenset({"<text>", "<texts>", "<word>", "<words>"})


def _prompt_tag(value: object) -> str | None:
    if isinstance(value, str):
        return "<text>"
    return "<texts>" if isinstance(value, list) else None


PromptIn = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[str], Tag("<texts>"), Field(min_length=1)],
    Discriminator(
        _prompt_tag,
        custom_error_type="prompt_type",
        custom_error_message="it must be a string or a list of strings",
    ),
]


class CompletionRequest(BaseModel):
    """The body of `POST /completions`; fields that are not named here have no effect."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    model: str = Field(min_length=1)
    prompt: PromptIn
    suffix: str | None = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptionsIn | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    stop: StopIn | None = None
    n: int | None = Field(default=None, ge=1, le=128)
    best_of: int | None = None
    logprobs: int | None = None
    # Accepted and ignored, but a wrong type is still the caller's mistake:
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    user: str | None = None
    logit_bias: dict[str, float] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _no_tokens(cls, value: Any) -> Any:  # noqa: ANN401 - whatever was sent
        if isinstance(value, list) and any(isinstance(item, int | list) for item in value):
            raise ValueError("arrays of tokens cannot be taken; send text")
        return value


IGNORED = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "user",
    "logit_bias",
)
